//! `pailfs conflicts`: the command line's side; what the actions do is in `conflicts`.

use crate::base::object::ObjectId;
use crate::cli::args::{ConflictsAction, ConflictsArgs, EndpointArgs};
use crate::cli::conflicts;
use crate::cli::connect;
use crate::cli::environment::Environment;
use crate::cli::failure::Failure;
use crate::cli::foreground::start_log;
use crate::cli::mount_config;
use crate::cli::say::{print, read_or_gone};
use crate::s3::types::UploadId;
use crate::s3::{Client, ClientOptions};
use crate::spool::OpenUpload;
use crate::telemetry::Metrics;
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
        Some(ConflictsAction::Save { id, file, force }) => {
            print(conflicts::save(
                &state_dir,
                id,
                &environment.absolute(file),
                *force,
            )?)?;
        }
        Some(ConflictsAction::Drop { id, endpoint }) => drop_one(&state_dir, id, endpoint, &environment)?,
    }
    Ok(())
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
    endpoint: &EndpointArgs,
    environment: &Environment,
) -> Result<(), Failure> {
    if let Some(upload) = conflicts::open_upload(state_dir, id)? {
        let endpoint = mount_config::resolve_endpoint(endpoint, environment)?;
        connect::block_on(async {
            let options: ClientOptions = connect::client_options(&endpoint);
            let client = Client::connect(options, Arc::new(Metrics::default())).await?;
            abort(&client, &upload).await
        })?;
    }
    print(conflicts::drop(state_dir, id)?.message)
}

async fn abort(client: &Client, upload: &OpenUpload) -> Result<(), Failure> {
    let id = ObjectId::new(upload.bucket.as_str(), upload.key.as_str());
    client
        .abort_upload(&id, &UploadId(upload.upload_id.clone()))
        .await?;
    Ok(())
}
