//! `pailfs conflicts`: the command line's side; what the actions do is in `conflicts`.

use crate::base::attributes::MetadataFormat;
use crate::base::mount_config::OnConflict;
use crate::base::object::ObjectId;
use crate::cli::args::{ConflictsAction, ConflictsArgs, EndpointArgs};
use crate::cli::conflicts;
use crate::cli::conflicts_apply;
use crate::cli::connect;
use crate::cli::environment::Environment;
use crate::cli::failure::Failure;
use crate::cli::foreground::start_log;
use crate::cli::mount_config;
use crate::cli::say::{print, read_or_gone};
use crate::object::budget::Budget;
use crate::object::file::{FileContext, KeepOpen, abort_leftover};
use crate::rt;
use crate::s3::types::UploadId;
use crate::s3::{Client, ClientOptions};
use crate::spool::{self, OpenUpload, Spool};
use crate::telemetry::Metrics;
use serde_json::{Value, json};
use std::io::{Write, stdout};
use std::path::Path;
use std::sync::Arc;

/// # Errors
/// Those of the actions.
pub fn run(args: &ConflictsArgs) -> Result<(), Failure> {
    let environment = Environment::of_process()?;
    start_log(&args.log, &environment)?;
    let state_dir = environment.state_dir(args.state.state_dir.as_deref())?;
    match &args.action {
        None => list(&state_dir, false)?,
        Some(ConflictsAction::List { json }) => list(&state_dir, *json)?,
        Some(ConflictsAction::Show { id, json }) => print(conflicts::show(&state_dir, id, *json)?)?,
        Some(ConflictsAction::Save {
            id,
            file,
            force,
            json,
        }) => {
            let file = environment.absolute(file);
            let saved = conflicts::save(&state_dir, id, &file, *force)?;
            tell(&state_dir, id, *json, saved, &json!({ "file": file }))?;
        }
        Some(ConflictsAction::Apply {
            id,
            force,
            json,
            endpoint,
        }) => apply_one(&state_dir, id, (*force, *json), endpoint, &environment)?,
        Some(ConflictsAction::Drop { id, json, endpoint }) => {
            drop_one(&state_dir, id, *json, endpoint, &environment)?;
        }
    }
    Ok(())
}

/// What was done to a conflict that is still there: as a line, or as what the conflict is with `more` in it.
fn tell(state_dir: &Path, id: &str, json: bool, line: String, more: &Value) -> Result<(), Failure> {
    if !json {
        return print(line);
    }
    let mut value = conflicts::described(state_dir, id)?;
    if let (Some(value), Some(more)) = (value.as_object_mut(), more.as_object()) {
        value.extend(more.clone());
    }
    print(value)
}

/// The record goes when the object is there.
fn apply_one(
    state_dir: &Path,
    id: &str,
    (force, json): (bool, bool),
    endpoint: &EndpointArgs,
    environment: &Environment,
) -> Result<(), Failure> {
    let kept = spool::conflicts::open(state_dir, id)?;
    let endpoint = mount_config::resolve_endpoint(endpoint, environment)?;
    let (object, version) = connect::block_on(async {
        let options = ClientOptions {
            read_only: true,
            ..connect::client_options(&endpoint)
        };
        let client = Client::connect(options, Arc::new(Metrics::default())).await?;
        let source = format!("conflicts apply at {}", client.endpoint());
        let dir = state_dir.to_owned();
        let (spool, leftovers) = rt::blocking(move || Spool::open(&dir, &source)).await?;
        // Those of one that was killed.
        for (record, upload) in leftovers.uploads {
            abort_leftover(&client, &spool, record, &upload).await;
        }
        let memory_bytes = mount_config::memory_budget(None, environment)?;
        let context = Arc::new(FileContext {
            client,
            spool,
            budget: Budget::new(memory_bytes, mount_config::DEFAULT_STALL_TIMEOUT),
            disk_cache: None,
            metadata_format: MetadataFormat::default(),
            stall_timeout: mount_config::DEFAULT_STALL_TIMEOUT,
            // It is kept already.
            on_conflict: OnConflict::Fail,
            keep_open: KeepOpen::new(0),
        });
        conflicts_apply::apply(&context, &kept, force).await
    })?;
    let line = format!(
        "wrote the local version of {object} ({} bytes, ETag {})",
        version.size_bytes, version.etag
    );
    let more = json!({ "etag": version.etag.as_str(), "object_size_bytes": version.size_bytes });
    let told = tell(state_dir, id, json, line, &more);
    spool::conflicts::drop(state_dir, &kept.id)?;
    told
}

fn list(state_dir: &Path, json: bool) -> Result<(), Failure> {
    let mut text = Vec::new();
    let listed = conflicts::list(state_dir, json, &mut text);
    read_or_gone(stdout().write_all(&text))?;
    Ok(listed?)
}

/// An upload that nobody would finish costs money for ever: it is aborted first, so that a failure loses nothing.
fn drop_one(
    state_dir: &Path,
    id: &str,
    json: bool,
    endpoint: &EndpointArgs,
    environment: &Environment,
) -> Result<(), Failure> {
    let described = conflicts::described(state_dir, id)?;
    if let Some(upload) = conflicts::open_upload(state_dir, id)? {
        let endpoint = mount_config::resolve_endpoint(endpoint, environment)?;
        connect::block_on(async {
            let options: ClientOptions = connect::client_options(&endpoint);
            let client = Client::connect(options, Arc::new(Metrics::default())).await?;
            abort(&client, &upload).await
        })?;
    }
    let message = conflicts::drop(state_dir, id)?.message;
    if json { print(described) } else { print(message) }
}

async fn abort(client: &Client, upload: &OpenUpload) -> Result<(), Failure> {
    let id = ObjectId::new(upload.bucket.as_str(), upload.key.as_str());
    client
        .abort_upload(&id, &UploadId(upload.upload_id.clone()))
        .await?;
    Ok(())
}
