//! `pailfs rm`: deletes objects.
//!
//! 1. S3 says of a key that is not there that it was deleted; here that is a failure, so each is looked for first, unless
//!    `--missing-ok`.
//! 2. `--recursive` means KEY and what lies below `KEY/`: `s3://b/photos` does not touch `photos-2026.zip`. A person is
//!    asked; a script says `--yes`.
//! 3. A failure is told and the rest goes on, so that one key that is locked does not keep a million. What no other key
//!    would fare better with (no such bucket, no permission to list) ends it.

use super::args::RmArgs;
use super::location::Location;
use super::output::{self, Output, Stop, printable};
use super::{block_on, connect_plainly};
use crate::base::error::{Error, ErrorKind};
use crate::base::object::ObjectId;
use crate::cli::failure::{Exit, Failure};
use crate::cli::report;
use crate::s3::Client;
use crate::s3::types::ListRequest;
use futures_util::StreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::io::{BufRead, IsTerminal, Write};

/// How many keys are looked at and deleted at a time.
const LANES: usize = 16;
/// S3's limit of a page, and of a batch of deletes.
const BATCH: usize = 1000;

#[derive(Debug, Default, Serialize)]
struct Summary {
    deleted: u64,
    missing: u64,
    failed: u64,
}

/// # Errors
/// `NotFound` when a key was missing; what the failures have in common, or Failed.
pub fn run(args: &RmArgs) -> Result<(), Failure> {
    for location in &args.locations {
        if !args.recursive {
            location.object()?;
        }
    }
    if args.recursive && !args.yes && !may_delete(&args.locations)? {
        return Err(Failure::failed("nothing was deleted"));
    }
    block_on(async {
        let client = connect_plainly(&args.common).await?;
        let mut removal = Removal::new(args);
        let ended_early = removal.run(&client).await;
        removal.bar.finish_and_clear();
        if args.common.json {
            output::ended(print(&removal.summary))?;
        }
        ended_early?;
        removal.result()
    })
}

/// Asks on the terminal.
fn may_delete(locations: &[Location]) -> Result<bool, Failure> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(Failure::usage(
            "--recursive deletes without asking only with --yes, as this is not a terminal",
        ));
    }
    for location in locations {
        let what = match &*location.key {
            "" => format!("everything in s3://{}", location.bucket),
            key if key.ends_with('/') => format!("everything below {location}"),
            _ => format!("{location} and everything below {location}/"),
        };
        let mut answer = String::new();
        let mut terminal = std::io::stderr();
        write!(terminal, "delete {}? [y/N] ", printable(&what))
            .and_then(|()| terminal.flush())
            .and_then(|()| stdin.lock().read_line(&mut answer))
            .map_err(|error| Failure::io(&error, "the terminal"))?;
        if !matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
            return Ok(false);
        }
    }
    Ok(true)
}

fn print(summary: &Summary) -> Result<(), Stop> {
    let mut output = Output::stdout();
    output.json_line(summary)?;
    output.flush()
}

struct Removal<'a> {
    args: &'a RmArgs,
    summary: Summary,
    /// That of all failures so far, where they have one.
    exit: Option<Exit>,
    bar: ProgressBar,
}

impl<'a> Removal<'a> {
    fn new(args: &'a RmArgs) -> Self {
        let bar = if args.recursive && std::io::stderr().is_terminal() {
            let bar = ProgressBar::no_length();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {pos} deleted, {per_sec}") {
                bar.set_style(style);
            }
            bar
        } else {
            ProgressBar::hidden()
        };
        Self {
            args,
            summary: Summary::default(),
            exit: None,
            bar,
        }
    }

    async fn run(&mut self, client: &Client) -> Result<(), Failure> {
        if self.args.recursive {
            for location in &self.args.locations {
                self.delete_below(client, location).await?;
            }
            return Ok(());
        }
        let delete = |location: &'a Location| delete_one(client, location, self.args.missing_ok);
        let mut all = futures_util::stream::iter(&self.args.locations)
            .map(delete)
            .buffered(LANES);
        let mut results = Vec::new();
        while let Some(result) = all.next().await {
            results.push(result);
        }
        drop(all);
        for result in results {
            match result {
                Ok(()) => self.summary.deleted += 1,
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    self.summary.missing += 1;
                    self.failed(error);
                }
                Err(error) => {
                    self.summary.failed += 1;
                    self.failed(error);
                }
            }
        }
        Ok(())
    }

    async fn delete_below(&mut self, client: &Client, location: &Location) -> Result<(), Failure> {
        let mut found = self.delete_itself(client, location).await;
        let mut prefix = location.key.clone();
        if !prefix.is_empty() && !prefix.ends_with('/') {
            prefix.push('/');
        }
        let mut request = ListRequest {
            bucket: location.bucket.as_str().into(),
            prefix,
            by_directory: false,
            start_after: None,
            continuation: None,
            max_keys: BATCH as u32,
        };
        loop {
            let mut page = client.list(&request).await?;
            let keys: Vec<String> = page.objects.drain(..).map(|object| object.key).collect();
            found |= !keys.is_empty();
            self.delete_batch(client, &location.bucket, keys).await;
            request.continuation = page.continuation;
            if request.continuation.is_none() {
                break;
            }
        }
        if !found && !self.args.missing_ok && !location.key.is_empty() {
            self.summary.missing += 1;
            let id = ObjectId::new(location.bucket.as_str(), location.key.as_str());
            self.failed(Error::new(ErrorKind::NotFound, "there is no such key, and none below it").on(&id));
        }
        Ok(())
    }

    /// The object whose key is that of the directory, without its `/`.
    async fn delete_itself(&mut self, client: &Client, location: &Location) -> bool {
        if location.key.is_empty() || location.key.ends_with('/') {
            return false;
        }
        match delete_one(client, location, false).await {
            Ok(()) => self.deleted(1),
            // If it is the bucket that is missing, the listing says so.
            Err(error) if error.kind() == ErrorKind::NotFound => return false,
            Err(error) => {
                self.summary.failed += 1;
                self.failed(error);
            }
        }
        true
    }

    async fn delete_batch(&mut self, client: &Client, bucket: &str, keys: Vec<String>) {
        match client.delete_many(bucket, &keys).await {
            Ok(failures) => {
                self.deleted(keys.len() as u64 - failures.len() as u64);
                for (_, error) in failures {
                    self.summary.failed += 1;
                    self.failed(error);
                }
            }
            Err(error) => {
                self.summary.failed += keys.len() as u64;
                let failure = Failure::from(error);
                let first = keys.first().map(String::as_str).unwrap_or_default();
                self.tell(failure.within(format_args!(
                    "{} keys from s3://{bucket}/{} on",
                    keys.len(),
                    first.escape_debug()
                )));
            }
        }
    }

    fn deleted(&mut self, count: u64) {
        self.summary.deleted += count;
        self.bar.set_position(self.summary.deleted);
    }

    fn failed(&mut self, error: Error) {
        self.tell(error.into());
    }

    fn tell(&mut self, failure: Failure) {
        self.exit = match self.exit {
            None => Some(failure.exit),
            Some(exit) if exit == failure.exit => Some(exit),
            Some(_) => Some(Exit::Failed),
        };
        let as_json = self.args.common.json;
        self.bar.suspend(|| report(&failure, as_json));
    }

    fn result(self) -> Result<(), Failure> {
        let Some(exit) = self.exit else { return Ok(()) };
        let Summary {
            deleted,
            missing,
            failed,
        } = self.summary;
        let message = format!("{deleted} deleted, {missing} not found, {failed} not deleted");
        Err(Failure::new(exit, message))
    }
}

/// # Errors
/// `NotFound` when it is not there, unless `missing_ok`.
async fn delete_one(client: &Client, location: &Location, missing_ok: bool) -> Result<(), Error> {
    let id = ObjectId::new(location.bucket.as_str(), location.key.as_str());
    if !missing_ok {
        client.head(&id).await?;
    }
    client.delete(&id, None).await
}
