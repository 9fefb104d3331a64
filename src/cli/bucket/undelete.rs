//! `pailfs undelete`: brings back what was deleted in a versioned bucket, by removing the delete markers above it.
//!
//! 1. Of a key all markers above its newest version go, many keys' with one request: until the last has gone the key stays
//!    deleted, and it never shows an older state.
//! 2. Whoever writes the key meanwhile is not disturbed: markers are removed by their version.
//! 3. Of any number of keys one page is in memory, and the markers of one batch.

use super::args::UndeleteArgs;
use super::location::Location;
use super::output::{self, Output, Stop};
use super::versions::check_versioning;
use super::{block_on, connect_plainly};
use crate::cli::failure::{Exit, Failure};
use crate::cli::report;
use crate::s3::Client;
use crate::s3::versions::VersionsRequest;
use serde::Serialize;
use std::collections::BTreeSet;

const PAGE_ENTRIES: u32 = 1000;

#[derive(Debug, Default, Serialize)]
struct Summary {
    undeleted: u64,
    /// Was not deleted.
    present: u64,
    /// Has nothing to be brought back.
    missing: u64,
    failed: u64,
}

/// # Errors
/// `NotFound` when a key has no version; Failed when something could not be brought back.
pub fn run(args: &UndeleteArgs) -> Result<(), Failure> {
    for location in &args.locations {
        if !args.recursive {
            location.object()?;
        }
    }
    block_on(async {
        let client = connect_plainly(&args.common).await?;
        let mut work = Work {
            client: &client,
            as_json: args.common.json,
            markers: Vec::new(),
            summary: Summary::default(),
        };
        for location in &args.locations {
            check_versioning(&client, &location.bucket).await?;
            work.undelete(location, args.recursive).await?;
        }
        if args.common.json {
            output::ended(print(&work.summary))?;
        }
        match work.summary {
            Summary { failed: 1.., .. } => Err(Failure::failed("not everything was brought back")),
            Summary { missing: 1.., .. } if !args.recursive => Err(Failure::new(
                Exit::NotFound,
                "no version is there that could be brought back: `pailfs versions` lists what there is",
            )),
            _ => Ok(()),
        }
    })
}

fn print(summary: &Summary) -> Result<(), Stop> {
    let mut output = Output::stdout();
    output.json_line(summary)?;
    output.flush()
}

/// One key while its versions are read, the newest first.
#[derive(Default)]
struct Current {
    key: String,
    markers: Vec<String>,
    is_decided: bool,
}

struct Work<'a> {
    client: &'a Client,
    as_json: bool,
    /// Keys and markers that are to go with the next request.
    markers: Vec<(String, String)>,
    summary: Summary,
}

impl Work<'_> {
    async fn undelete(&mut self, location: &Location, recursive: bool) -> Result<(), Failure> {
        let (own, below) = (
            location.key.as_str(),
            format!("{}/", location.key.trim_end_matches('/')),
        );
        let is_wanted = |key: &str| key == own || recursive && (own.is_empty() || key.starts_with(&below));
        let mut request = VersionsRequest {
            bucket: location.bucket.as_str().into(),
            prefix: location.key.clone(),
            by_directory: false,
            from: None,
            max_entries: PAGE_ENTRIES,
        };
        let mut current = Current::default();
        let mut found = false;
        loop {
            let page = self.client.list_versions(&request).await?;
            let is_behind = !recursive
                && page
                    .versions
                    .last()
                    .is_some_and(|version| version.key.as_str() > own);
            for version in page
                .versions
                .into_iter()
                .filter(|version| is_wanted(&version.key))
            {
                found = true;
                if version.key != current.key {
                    self.leave(&current);
                    current = Current {
                        key: version.key.clone(),
                        ..Current::default()
                    };
                }
                if current.is_decided {
                    continue;
                }
                if version.is_delete_marker {
                    current.markers.push(version.version_id);
                } else {
                    current.is_decided = true;
                    self.decided(&mut current);
                }
            }
            if self.markers.len() >= PAGE_ENTRIES as usize {
                self.remove_markers(&location.bucket).await?;
            }
            request.from = page.next.filter(|_| !is_behind);
            if request.from.is_none() {
                break;
            }
        }
        self.leave(&current);
        self.remove_markers(&location.bucket).await?;
        if !found && !recursive {
            self.summary.missing += 1;
        }
        Ok(())
    }

    fn leave(&mut self, current: &Current) {
        if !current.is_decided && !current.markers.is_empty() {
            self.summary.missing += 1;
        }
    }

    /// All that is above the newest version of the key is known.
    fn decided(&mut self, current: &mut Current) {
        if current.markers.is_empty() {
            self.summary.present += 1;
        }
        let markers = current.markers.drain(..).rev();
        self.markers
            .extend(markers.map(|marker| (current.key.clone(), marker)));
    }

    async fn remove_markers(&mut self, bucket: &str) -> Result<(), Failure> {
        let markers = std::mem::take(&mut self.markers);
        let keys: BTreeSet<&String> = markers.iter().map(|(key, _)| key).collect();
        let failures = self.client.remove_versions(bucket, &markers).await?;
        let mut failed = BTreeSet::new();
        for (key, error) in failures {
            if failed.insert(key) {
                report(&error.into(), self.as_json);
            }
        }
        self.summary.failed += failed.len() as u64;
        self.summary.undeleted += (keys.len() - failed.len()) as u64;
        Ok(())
    }
}
