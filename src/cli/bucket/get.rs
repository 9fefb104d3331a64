//! `pailfs get`: an object becomes a file, whole or not at all.

use super::args::GetArgs;
use super::destination::Destination;
use super::interrupt::Interrupts;
use super::output::{self, Output, Stop};
use super::transfer::{Download, Limits};
use super::{block_on, connect};
use crate::base::attributes::Attributes;
use crate::base::object::Version;
use crate::cli::environment::Environment;
use crate::cli::failure::Failure;
use crate::cli::progress::Bar;
use serde::Serialize;
use std::path::Path;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Got<'a> {
    name: &'a str,
    file: String,
    size: u64,
    last_modified: String,
    etag: &'a str,
}

/// # Errors
/// `NotFound`, `Denied`; Conflict when the object was replaced meanwhile. Then there is no file, or the one from before.
pub fn run(args: &GetArgs) -> Result<(), Failure> {
    let destination = Destination::find(args.destination.as_deref(), &args.location)?;
    let path = destination.path().to_owned();
    let version = block_on(async {
        let mut interrupts = Interrupts::listen()?;
        interrupts
            .unless_one_comes(Box::pin(get(args, destination)))
            .await
    })?;
    if args.common.json {
        output::ended(print(args, &path, &version))?;
    }
    Ok(())
}

async fn get(args: &GetArgs, destination: Destination) -> Result<Version, Failure> {
    let id = args.location.object()?;
    let environment = Environment::of_process()?;
    let limits = Limits::resolve(&args.transfer, &environment)?;
    let client = connect(&args.common, &environment, &limits).await?;
    let mut download = Download::open(&client, limits.budget(), &id, None).await?;
    let version = download.info.version.clone();
    let attributes = Attributes::read(&download.info.headers.metadata);
    let mut file = destination.begin(&attributes, version.last_modified)?;
    let bar = Bar::new(args.location.file_name(), Some(version.size_bytes));
    let mut piece = Vec::new();
    while download.next(&mut piece).await? {
        file.write(&piece)?;
        bar.set(download.done_bytes());
    }
    file.finish()?;
    Ok(version)
}

fn print(args: &GetArgs, path: &Path, version: &Version) -> Result<(), Stop> {
    let mut output = Output::stdout();
    output.json_line(&Got {
        name: &args.location.key,
        file: path.to_string_lossy().into_owned(),
        size: version.size_bytes,
        last_modified: output::rfc3339(version.last_modified),
        etag: version.etag.as_str(),
    })?;
    output.flush()
}
