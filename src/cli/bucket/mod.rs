//! The bucket without a mount: `buckets`, `ls`, `cat`, `get`, `put`, `rm`, `versions`, `undelete`, `url`, one file each.
//!
//! 1. One meaning of `s3://BUCKET/KEY`, for every key: [`location`].
//! 2. Output for people, for pipes, for scripts: [`output`].
//! 3. Large objects in bounded memory, by the reader and the writer that mounts use: [`transfer`].
//! 4. Ctrl-C leaves neither half a file nor an upload: [`interrupt`].
//! 5. Nothing is written to find out what a store does with conditions: these commands are guests. Where that is not
//!    known, the object is looked at before the condition is sent.

pub mod args;
mod buckets;
mod cat;
mod destination;
pub mod encoding;
mod get;
mod interrupt;
pub mod location;
mod ls;
pub mod output;
mod put;
mod rm;
pub mod transfer;
mod undelete;
mod url;
mod versions;

pub use buckets::run as run_buckets;
pub use cat::run as run_cat;
pub use get::run as run_get;
pub use ls::run as run_ls;
pub use put::run as run_put;
pub use rm::run as run_rm;
pub use undelete::run as run_undelete;
pub use url::run as run_url;
pub use versions::run as run_versions;

use crate::cli::connect;
use crate::cli::environment::Environment;
use crate::cli::failure::Failure;
use crate::cli::foreground;
use crate::cli::mount_config;
use crate::rt;
use crate::s3::{Client, ClientOptions};
use crate::telemetry::Metrics;
use args::CommonArgs;
use std::future::Future;
use std::sync::Arc;
use transfer::Limits;

/// A client with the common options, once the log is set up.
///
/// # Errors
/// Usage for options that cannot be; Denied without credentials.
async fn connect(args: &CommonArgs, environment: &Environment, limits: &Limits) -> Result<Client, Failure> {
    foreground::start_log(&args.log, environment)?;
    let endpoint = mount_config::resolve_endpoint(&args.endpoint, environment)?;
    let options = ClientOptions {
        read_only: true,
        stall_timeout: limits.stall_timeout,
        ..connect::client_options(&endpoint)
    };
    Ok(Client::connect(options, Arc::new(Metrics::default())).await?)
}

/// The same for commands that move no objects.
///
/// # Errors
/// As [`connect`].
async fn connect_plainly(args: &CommonArgs) -> Result<Client, Failure> {
    let environment = Environment::of_process()?;
    let limits = Limits::resolve(&args::TransferArgs::default(), &environment)?;
    connect(args, &environment, &limits).await
}

/// Runs a command that awaits. When it is done nothing is waited for, such as a read of standard input.
fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = rt::build().map_err(|error| Failure::io(&error, "threads"))?;
    let result = runtime.block_on(work);
    runtime.shutdown_background();
    result
}
