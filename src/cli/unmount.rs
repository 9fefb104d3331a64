//! `pailfs unmount`: asks the daemon to put everything into the bucket and to unmount, and shows how far it is.

use crate::cli::args::UnmountArgs;
use crate::cli::control;
use crate::cli::environment::Environment;
use crate::cli::failure::{Exit, Failure};
use crate::cli::progress::ProgressView;
use crate::cli::say::say;
use crate::cli::system::mount_table::{self, Mount};
use crate::cli::system::mounts;
use crate::rt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use tokio::net::UnixStream;

/// # Errors
/// NotFound when nothing of ours is mounted there; Conflict when it is in use; Denied when it is somebody else's; what
/// the daemon could not send.
pub fn run(args: &UnmountArgs) -> Result<(), Failure> {
    let environment = Environment::of_process()?;
    let state_dir = environment.state_dir(args.state.state_dir.as_deref())?;
    let path = environment.absolute(&args.mount_point);
    let path = mounts::real_path(&path).map_err(|error| Failure::io(&error, path.display()))?;
    let table = mount_table::read().map_err(|error| Failure::io(&error, "/proc/self/mountinfo"))?;
    let Some(mount) = mount_table::topmost_at(&table, &path) else {
        return Err(Failure::new(
            Exit::NotFound,
            format!("{} is not a mount point", path.display()),
        ));
    };
    if !mount.is_fuse() {
        let message = format!(
            "{} is a mount of type {}, not one of pailfs",
            path.display(),
            mount.fs_type
        );
        return Err(Failure::new(Exit::NotFound, message));
    }
    let candidates = control::candidate_sockets(mount, &environment, &state_dir);
    let runtime = rt::build().map_err(|error| Failure::io(&error, "threads"))?;
    match runtime.block_on(control::connect(&candidates)) {
        Ok(stream) => runtime.block_on(wait_for_daemon(stream)),
        Err(failure) => without_daemon(mount, &path, &failure),
    }
}

/// A mount whose daemon does not answer: dead, somebody else's, or not of pailfs.
fn without_daemon(mount: &Mount, path: &Path, failure: &Failure) -> Result<(), Failure> {
    if mounts::is_dead(path) {
        mounts::detach_exactly(mount)?;
        say(format_args!(
            "pailfs: the daemon of {} had been killed; the dead mount is detached. What was recorded as unsent is sent \
             by the next mount of {}",
            path.display(),
            mount.source
        ));
        return Ok(());
    }
    let hint = "was it mounted by another user, or with another --state-dir?";
    Err(Failure::new(
        failure.exit,
        format!("{}: {failure} ({hint})", path.display()),
    ))
}

async fn wait_for_daemon(stream: UnixStream) -> Result<(), Failure> {
    let view = Mutex::new(ProgressView::new());
    let locked = || view.lock().unwrap_or_else(PoisonError::into_inner);
    let result = tokio::select! {
        result = control::request_unmount(stream, |progress| locked().show(progress)) => result,
        result = interrupts(|message| locked().say(message), || locked().what_is_left()) => result,
    };
    locked().finish();
    result
}

/// The first Ctrl-C tells what is left; the second one ends the waiting, not the unmount.
async fn interrupts(say: impl Fn(&str), what_is_left: impl Fn() -> String) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::io(&error, "signals");
    tokio::signal::ctrl_c().await.map_err(failed)?;
    say(&format!(
        "{}; press Ctrl-C again to stop waiting (the unmount goes on)",
        what_is_left()
    ));
    tokio::signal::ctrl_c().await.map_err(failed)?;
    Err(Failure::failed(format!(
        "{}; the unmount goes on in the background",
        what_is_left()
    )))
}
