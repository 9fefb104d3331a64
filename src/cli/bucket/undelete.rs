//! `pailfs undelete`: brings back what was deleted in a versioned bucket, by removing the delete markers above it.
//!
//! 1. The markers of a key go from the oldest on: until the last has gone the key stays deleted, and it does not show an older
//!    state in between.
//! 2. Whoever writes the key meanwhile is not disturbed: markers are removed by their version.
//! 3. Of any number of keys one page is in memory.

use super::args::UndeleteArgs;
use super::location::Location;
use super::output::{self, Output, Stop};
use super::versions::check_versioning;
use super::{block_on, connect_plainly};
use crate::base::object::ObjectId;
use crate::cli::failure::{Exit, Failure};
use crate::cli::report;
use crate::s3::Client;
use crate::s3::versions::VersionsRequest;
use serde::Serialize;

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
                    self.remove_markers(&location.bucket, &current).await;
                }
            }
            request.from = page.next.filter(|_| !is_behind);
            if request.from.is_none() {
                break;
            }
        }
        self.leave(&current);
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

    async fn remove_markers(&mut self, bucket: &str, current: &Current) {
        if current.markers.is_empty() {
            self.summary.present += 1;
            return;
        }
        let id = ObjectId::new(bucket, current.key.as_str());
        for marker in current.markers.iter().rev() {
            if let Err(error) = self.client.delete_version(&id, marker).await {
                self.summary.failed += 1;
                report(&error.into(), self.as_json);
                return;
            }
        }
        self.summary.undeleted += 1;
    }
}
