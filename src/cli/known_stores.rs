//! What earlier mounts found out about a store, so that a mount does not probe again.
//!
//! Difficulties, and who solves each:
//! 1. A wrong memory is worse than none: a condition that is believed to be honoured and is not loses updates. The same
//!    address may serve another store tomorrow (a port of this machine above all), so a memory is for one source at one
//!    endpoint, and for [`BELIEVED_FOR`] since its oldest finding.
//! 2. What the user says must not outlive the option: it is left out ([`KnownStores::remember`]).
//! 3. Two mounts write at the same time, or one is killed: a file is replaced as a whole by rename.

use crate::base::error::{Error, Result};
use crate::base::mount_config::MountConfig;
use crate::cli::connect;
use crate::rt;
use crate::s3::{Capabilities, Client};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const BELIEVED_FOR: Duration = Duration::from_hours(24);
const DIRECTORY: &str = "stores";
/// NAME_MAX, less what a temporary name adds.
const MAX_FILE_NAME_BYTES: usize = 200;

/// The memory of one source at one endpoint.
pub struct KnownStores {
    /// `None`: its name is too long for a file's; nothing is remembered.
    file: Option<PathBuf>,
    /// What the user said.
    overrides: Capabilities,
}

#[derive(Serialize, Deserialize)]
struct Memory {
    /// The endpoint and the source, for a person who looks.
    store: String,
    /// When the oldest of the findings was made, in seconds since 1970.
    found_out_at: u64,
    capabilities: Capabilities,
}

impl KnownStores {
    #[must_use]
    pub fn new(config: &MountConfig, client: &Client) -> Self {
        let store = format!("{} at {}", config.source, client.endpoint());
        let name = utf8_percent_encode(&store, NON_ALPHANUMERIC).to_string();
        Self {
            file: (name.len() <= MAX_FILE_NAME_BYTES).then(|| config.cache_dir.join(DIRECTORY).join(name)),
            overrides: connect::overrides(&config.endpoint),
        }
    }

    /// Tells the client what is remembered. A memory that cannot be read is none.
    pub async fn recall(&self, client: &Client) {
        let Some(file) = self.file.clone() else { return };
        if let Some(memory) = rt::blocking(move || read(&file, rt::wall_clock())).await {
            client.recall(&memory.capabilities);
            let known = client.capabilities().to_string();
            tracing::info!(
                endpoint = client.endpoint(),
                "remembered of this store: {}",
                known.trim().replace('\n', " ")
            );
        }
    }

    /// Keeps what the client has found out meanwhile. A failure is logged: the next mount probes again.
    pub async fn remember(&self, client: &Client) {
        let found = client.capabilities();
        tracing::info!(
            endpoint = client.endpoint(),
            "this store: {}",
            found.to_string().trim().replace('\n', " ")
        );
        let Some(file) = self.file.clone() else { return };
        let found = found.without(&self.overrides);
        if client.is_aws() || found.is_empty() {
            return;
        }
        let now = rt::wall_clock();
        let written = rt::blocking(move || write(&file, &found, now)).await;
        if let Err(error) = written {
            tracing::warn!(%error, "what was found out about the store is not remembered");
        }
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn read(file: &Path, now: SystemTime) -> Option<Memory> {
    let memory: Memory = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
    // A clock that was turned back makes a memory look like one of the future: not believed either.
    let age = seconds(now).checked_sub(memory.found_out_at)?;
    (age <= BELIEVED_FOR.as_secs()).then_some(memory)
}

fn write(file: &Path, found: &Capabilities, now: SystemTime) -> Result<()> {
    let directory = file.parent().unwrap_or(Path::new("/"));
    let failed = |error: std::io::Error| Error::local_io(&error, file.display());
    fs::create_dir_all(directory).map_err(failed)?;
    // What is used does not become younger by that. What the user overrides this time stays remembered.
    let mut memory = read(file, now).unwrap_or_else(|| Memory {
        store: file
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
        found_out_at: seconds(now),
        capabilities: Capabilities::default(),
    });
    memory.capabilities.merge(found);
    let text = serde_json::to_vec_pretty(&memory).map_err(|error| failed(error.into()))?;
    let temporary = file.with_extension(rt::random_id());
    fs::write(&temporary, text).map_err(failed)?;
    fs::rename(&temporary, file).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn later(hours: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_hours(500_000 + hours)
    }

    fn some() -> Capabilities {
        "put-if-match=honoured,delete-if-match=ignored"
            .parse()
            .expect("settings")
    }

    #[test]
    fn what_was_found_out_is_believed_for_a_day_and_not_longer() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("stores/a");
        assert!(read(&file, later(0)).is_none());
        write(&file, &some(), later(0)).expect("written");
        assert_eq!(read(&file, later(24)).expect("believed").capabilities, some());
        // Used and written again, it is as old as before.
        write(&file, &some(), later(20)).expect("written");
        assert!(read(&file, later(25)).is_none());
        write(&file, &some(), later(25)).expect("written");
        assert!(read(&file, later(26)).is_some());
        assert!(read(&file, later(1)).is_none(), "made in the future");
        assert_eq!(
            fs::read_dir(directory.path().join("stores"))
                .expect("there")
                .count(),
            1
        );
    }

    #[test]
    fn a_damaged_memory_is_none() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("a");
        for text in [
            "",
            "{",
            r#"{"store":"","found_out_at":1800000000,"capabilities":{"put-if-match":"perhaps"}}"#,
        ] {
            fs::write(&file, text).expect("written");
            assert!(read(&file, later(0)).is_none(), "{text}");
        }
    }
}
