//! Commands, options, exit codes, the daemon.
//!
//! A command line becomes an `args` structure without side effects, that becomes one validated configuration
//! (`mount_config`), and only then something happens. Every command returns `Ok` or a [`failure::Failure`], which carries
//! the text and the exit code; [`run`] is the only place that prints it.

mod advice;
pub mod args;
pub mod bucket;
mod cache;
pub mod conflicts;
mod conflicts_apply;
mod conflicts_command;
mod connect;
pub mod control;
mod costs;
pub mod daemon;
mod demo;
pub mod environment;
pub mod failure;
mod filesystem;
mod foreground;
mod known_stores;
mod mount;
pub mod mount_config;
mod mount_options;
mod progress;
mod refresh;
pub mod request_args;
mod say;
mod serve;
mod signals;
pub mod system;
mod units;
mod unmount;
mod watcher;

use args::{Cli, Command};
use clap::Parser;
use failure::Failure;
use say::say;
use std::ffi::OsString;
use std::process::ExitCode;

/// Runs the command that this process was started with.
#[must_use]
pub fn run() -> ExitCode {
    let arguments = args::normalise(std::env::args_os().collect());
    let wants_json = arguments.iter().any(|word| word == "--json");
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => {
            if wants_json && error.use_stderr() {
                let text = error.to_string();
                let failure = Failure::usage(text.trim_start_matches("error: ").trim_end());
                report(&failure, true);
                return failure.exit.into();
            }
            // Prints and exits for --help, --version and usage errors (exit code 2).
            error.exit()
        }
    };
    match dispatch(cli.command, arguments.get(1..).unwrap_or_default()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            report(&failure, wants_json);
            failure.exit.into()
        }
    }
}

/// Tells people, and then scripts, what went wrong.
pub(crate) fn report(failure: &Failure, as_json: bool) {
    say(format_args!("pailfs: {failure}"));
    if as_json {
        say(failure.to_json());
    }
}

fn dispatch(command: Command, arguments: &[OsString]) -> Result<(), Failure> {
    match command {
        Command::Mount(args) => mount::run(*args, arguments),
        Command::Unmount(args) => unmount::run(&args),
        Command::WatchMount(args) => watcher::watch(&args.mount_point, std::io::stdin()),
        Command::Cache(args) => cache::run(&args),
        Command::Refresh(args) => refresh::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Buckets(args) => bucket::run_buckets(&args),
        Command::Ls(args) => bucket::run_ls(&args),
        Command::Cat(args) => bucket::run_cat(&args),
        Command::Get(args) => bucket::run_get(&args),
        Command::Put(args) => bucket::run_put(&args),
        Command::Rm(args) => bucket::run_rm(&args),
        Command::Versions(args) => bucket::run_versions(&args),
        Command::Undelete(args) => bucket::run_undelete(&args),
        Command::Url(args) => bucket::run_url(&args),
        Command::Conflicts(args) => conflicts_command::run(&args),
    }
}
