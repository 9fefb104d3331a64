//! What commands that stay in the foreground share.

use crate::cli::args::LogArgs;
use crate::cli::environment::Environment;
use crate::cli::failure::Failure;
use crate::telemetry::log::{self, Destination};

/// Logs of commands in the foreground: warnings on standard error unless more is asked for.
///
/// # Errors
/// When the level does not parse, or the file cannot be opened.
pub fn start_log(args: &LogArgs, environment: &Environment) -> Result<(), Failure> {
    let destination = match &args.log_file {
        Some(path) => {
            let path = environment.absolute(path);
            Destination::File(log::open_log_file(&path).map_err(|error| Failure::io(&error, "log"))?)
        }
        None => Destination::Stderr,
    };
    log::start(args.log_level.as_deref().unwrap_or("warn"), destination).map_err(Failure::usage)
}
