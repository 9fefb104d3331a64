//! Commands, options, exit codes, the daemon.
//!
//! A command line becomes an `args` structure without side effects, that becomes one validated configuration
//! (`mount_config`), and only then something happens. Every command returns `Ok` or a [`failure::Failure`], which carries
//! the text and the exit code; [`run`] is the only place that prints it.

pub mod args;
mod buckets;
pub mod conflicts;
mod conflicts_command;
mod connect;
pub mod control;
pub mod daemon;
mod demo;
pub mod environment;
pub mod failure;
mod filesystem;
mod known_stores;
mod mount;
pub mod mount_config;
mod mount_options;
mod progress;
mod serve;
mod signals;
pub mod system;
mod units;
mod unmount;
mod watcher;

use args::{Cli, Command};
use clap::Parser;
use failure::Failure;
use std::ffi::OsString;
use std::process::ExitCode;

/// Runs the command that this process was started with.
#[must_use]
pub fn run() -> ExitCode {
    let arguments = args::normalise(std::env::args_os().collect());
    // Prints and exits by itself for --help, --version and usage errors (exit code 2).
    let cli = Cli::parse_from(&arguments);
    match dispatch(cli.command, arguments.get(1..).unwrap_or_default()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("pailfs: {failure}");
            failure.exit.into()
        }
    }
}

fn dispatch(command: Command, arguments: &[OsString]) -> Result<(), Failure> {
    match command {
        Command::Mount(args) => mount::run(*args, arguments),
        Command::Unmount(args) => unmount::run(&args),
        Command::WatchMount(args) => watcher::watch(&args.mount_point, std::io::stdin()),
        Command::Demo(args) => demo::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Buckets(args) => buckets::run(&args),
        Command::Conflicts(args) => conflicts_command::run(&args),
    }
}
