//! `pailfs put`: a file, or standard input, becomes an object: all of it, or nothing.
//!
//! The writer of mounts does it. As it records an upload before it begins one, what a killed `put` has left open is aborted
//! by the next one to that bucket.

use super::args::PutArgs;
use super::encoding::Base64Decoder;
use super::interrupt::Interrupts;
use super::location::Location;
use super::output::{self, Output, Stop};
use super::transfer::{Limits, STEP_BYTES};
use super::{block_on, connect};
use crate::base::attributes::Attributes;
use crate::base::mount_config::OnConflict;
use crate::base::object::{Condition, ETag, ObjectHeaders, ObjectId, Version};
use crate::cli::environment::Environment;
use crate::cli::failure::{Exit, Failure};
use crate::cli::progress::Bar;
use crate::fs::open::content_type;
use crate::object::file::{File, FileContext, KeepOpen, abort_leftover};
use crate::rt;
use crate::s3::Client;
use crate::spool::Spool;
use serde::Serialize;
use std::fs;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long an interrupted command tries to take back what it began.
const CLEAN_UP_LIMIT: Duration = Duration::from_secs(10);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Put<'a> {
    name: &'a str,
    size: u64,
    content_type: &'a str,
    etag: &'a str,
}

/// # Errors
/// Conflict when the condition does not hold, or the file changes while it is read; then nothing was written.
pub fn run(args: &PutArgs) -> Result<(), Failure> {
    let mut input = Input::open(&args.file)?;
    let id = target(args)?;
    let headers = ObjectHeaders {
        content_type: Some(content_type_of(args, &id)),
        ..ObjectHeaders::default()
    };
    let version = block_on(put(args, &mut input, &id, headers.clone()))?;
    if args.common.json {
        output::ended(print(&id, &headers, &version))?;
    }
    Ok(())
}

/// A location that ends in `/` is a directory for a file that has a name.
fn target(args: &PutArgs) -> Result<ObjectId, Failure> {
    let Location { bucket, key } = &args.location;
    let is_directory = key.is_empty() || key.ends_with('/');
    if !is_directory || is_stdin(&args.file) {
        return args.location.object();
    }
    let name = args.file.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| {
        Failure::usage(format!(
            "{}: the end of this path cannot be a key's; say which key to write",
            args.file.display()
        ))
    })?;
    let full = Location::parse(&format!("s3://{bucket}/{key}{name}")).map_err(Failure::usage)?;
    full.object()
}

fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

/// By the key's extension, or else the file's.
fn content_type_of(args: &PutArgs, id: &ObjectId) -> String {
    if let Some(given) = &args.content_type {
        return given.clone();
    }
    let unknown = content_type("");
    let by_key = content_type(&id.key);
    let by_file = || content_type(&args.file.to_string_lossy());
    if by_key == unknown { by_file() } else { by_key }
}

fn condition(args: &PutArgs) -> Condition {
    match &args.if_match {
        Some(etag) => Condition::Matches(ETag::new(etag)),
        None if args.if_none_match => Condition::Absent,
        None => Condition::None,
    }
}

async fn put(
    args: &PutArgs,
    input: &mut Input,
    id: &ObjectId,
    headers: ObjectHeaders,
) -> Result<Version, Failure> {
    let mut interrupts = Interrupts::listen()?;
    let environment = Environment::of_process()?;
    let limits = Limits::resolve(&args.transfer, &environment)?;
    let client = connect(&args.common, &environment, &limits).await?;
    let context = Arc::new(FileContext {
        spool: open_spool(args, &environment, &client, id).await?,
        client,
        budget: limits.budget(),
        disk_cache: None,
        metadata_format: args.metadata_format.map(Into::into).unwrap_or_default(),
        stall_timeout: limits.stall_timeout,
        // What another put there stays: the input is still where it was.
        on_conflict: OnConflict::Keep,
        keep_open: KeepOpen::new(0),
    });
    let file = File::one_shot(&context, id.clone(), &condition(args), headers, input.attributes);
    let sent = interrupts
        .unless_one_comes(send(args, input, &context, &file))
        .await;
    if sent.is_err() {
        // The record of the upload is there for the next one if this takes too long.
        let clean_up = async { Ok(rt::timeout(CLEAN_UP_LIMIT, file.discard()).await) };
        let _cleaned_up = interrupts.unless_one_comes(clean_up).await;
        // The last request was on its way already, and was heard of meanwhile.
        if let Some(version) = file.base_version() {
            return Ok(version);
        }
    }
    sent
}

/// The record of open uploads; those of commands that were killed are aborted.
async fn open_spool(
    args: &PutArgs,
    environment: &Environment,
    client: &Client,
    id: &ObjectId,
) -> Result<Arc<Spool>, Failure> {
    let state_dir = environment.state_dir(args.state.state_dir.as_deref())?;
    let source = format!("put to s3://{} at {}", id.bucket, client.endpoint());
    let (spool, leftovers) = rt::blocking(move || Spool::open(&state_dir, &source)).await?;
    for (record, upload) in leftovers.uploads {
        abort_leftover(client, &spool, record, &upload).await;
    }
    Ok(spool)
}

async fn send(
    args: &PutArgs,
    input: &mut Input,
    context: &FileContext,
    file: &Arc<File>,
) -> Result<Version, Failure> {
    let total_bytes = input.size_bytes.filter(|_| !args.base64);
    let bar = Bar::new(args.location.file_name(), total_bytes);
    let sent_bytes = || context.client.metrics().sent_bytes.load(Ordering::Relaxed);
    let work = async {
        let mut decoder = args.base64.then(Base64Decoder::default);
        loop {
            let piece = input.next().await?;
            if piece.is_empty() {
                break;
            }
            let piece = match &mut decoder {
                Some(decoder) => decoder.piece(&piece).map_err(|bad| input.bad(&bad))?,
                None => piece,
            };
            file.append(&piece).await?;
        }
        if let Some(decoder) = &decoder {
            decoder.end().map_err(|bad| input.bad(&bad))?;
        }
        input.check_unchanged()?;
        file.commit().await?;
        file.base_version()
            .ok_or_else(|| Failure::failed("the upload ended without an object"))
    };
    bar.watch(sent_bytes, work).await
}

fn print(id: &ObjectId, headers: &ObjectHeaders, version: &Version) -> Result<(), Stop> {
    let mut output = Output::stdout();
    output.json_line(&Put {
        name: &id.key,
        size: version.size_bytes,
        content_type: headers.content_type.as_deref().unwrap_or_default(),
        etag: version.etag.as_str(),
    })?;
    output.flush()
}

/// What is uploaded.
struct Input {
    name: String,
    file: Option<fs::File>,
    /// As it was at first; regular files only.
    metadata: Option<fs::Metadata>,
    size_bytes: Option<u64>,
    attributes: Attributes,
}

impl Input {
    fn open(path: &Path) -> Result<Self, Failure> {
        let (name, opened) = if is_stdin(path) {
            let stdin = io::stdin().as_fd().try_clone_to_owned();
            ("standard input".to_owned(), stdin.map(fs::File::from))
        } else {
            (path.display().to_string(), fs::File::open(path))
        };
        let failed = |error: io::Error| Failure::io(&error, &name);
        let file = opened.map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if metadata.is_dir() {
            return Err(Failure::usage(format!("{name}: is a directory")));
        }
        let metadata = Some(metadata).filter(|metadata| metadata.is_file() && !is_stdin(path));
        Ok(Self {
            name,
            file: Some(file),
            size_bytes: metadata.as_ref().map(fs::Metadata::len),
            attributes: metadata.as_ref().map(attributes_of).unwrap_or_default(),
            metadata,
        })
    }

    /// Up to [`STEP_BYTES`] bytes; none at the end.
    async fn next(&mut self) -> Result<Vec<u8>, Failure> {
        let Some(mut file) = self.file.take() else {
            return Ok(Vec::new());
        };
        let (file, read) = rt::blocking(move || {
            let mut piece = Vec::with_capacity(STEP_BYTES);
            let read = (&mut file).take(STEP_BYTES as u64).read_to_end(&mut piece);
            (file, read.map(|_| piece))
        })
        .await;
        self.file = Some(file);
        read.map_err(|error| Failure::io(&error, &self.name))
    }

    /// A file that changes while it is read would become an object that never was a file.
    fn check_unchanged(&self) -> Result<(), Failure> {
        let (Some(before), Some(file)) = (&self.metadata, &self.file) else {
            return Ok(());
        };
        let after = file.metadata().map_err(|error| Failure::io(&error, &self.name))?;
        let seen = |metadata: &fs::Metadata| (metadata.len(), metadata.mtime(), metadata.mtime_nsec());
        if seen(before) == seen(&after) {
            return Ok(());
        }
        let message = format!(
            "{}: changed while it was read; nothing was uploaded (a file that always grows: pailfs put - < FILE)",
            self.name
        );
        Err(Failure::new(Exit::Conflict, message))
    }

    fn bad(&self, bad: &super::encoding::BadInput) -> Failure {
        Failure::failed(format!("{}: {bad}; nothing was uploaded", self.name))
    }
}

fn attributes_of(metadata: &fs::Metadata) -> Attributes {
    Attributes {
        mode: Some(metadata.mode()),
        uid: Some(metadata.uid()),
        gid: Some(metadata.gid()),
        mtime: metadata.modified().ok(),
        ..Attributes::default()
    }
}
