//! A small process beside the daemon that detaches its mount when the daemon dies without a clean end.
//!
//! Difficulties, and who solves each:
//! 1. kill -9 leaves a mount that answers ENOTCONN to everything. No code of the daemon runs then, so another process
//!    must act: it reads from a pipe whose other end only the daemon has, and which the kernel closes ([`watch`]).
//! 2. It must not keep the dead mount alive itself by an inherited `/dev/fuse`: [`Watcher::start`] is called before the
//!    mount is made.
//! 3. It must hit that very mount: the daemon sends the mount's numbers once it is made ([`Watcher::mounted`]). Before
//!    that, only a mount that is certainly dead is detached.
//! 4. It must never outlive a clean end: the daemon says so ([`Watcher::dismiss`]), and waits for it.
//! 5. What stops the daemon must not stop the watcher first (Ctrl-C to the process group, SIGTERM to a service's
//!    control group): it has a session of its own and ignores both.

use crate::cli::daemon::{self, OWN_PROGRAM};
use crate::cli::failure::Failure;
use crate::cli::system::mount_table::Mount;
use crate::cli::system::mounts;
use crate::rt;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const CLEAN_END: &str = "clean";
/// How long a mount may take to be seen dead after its daemon died while mounting.
const DEATH_POLLS: u32 = 50;
const DEATH_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The daemon's end. Dropped without [`Watcher::dismiss`], it counts as the daemon's death.
#[derive(Debug)]
pub struct Watcher {
    child: Child,
}

impl Watcher {
    /// Starts the process for the mount that is going to be made at `mount_point` (absolute, without symlinks).
    ///
    /// # Errors
    /// When no process can be started.
    pub fn start(mount_point: &Path) -> Result<Self, Failure> {
        let mut command = Command::new(OWN_PROGRAM);
        command
            .arg0("pailfs")
            .arg("watch-mount")
            .arg("--")
            .arg(mount_point);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .current_dir("/");
        let child = command
            .spawn()
            .map_err(|error| Failure::io(&error, "start of the watcher"))?;
        Ok(Self { child })
    }

    /// The mount is made, and is this one.
    pub fn mounted(&mut self, mount: &Mount) {
        self.send(&format!("{} {} {}", mount.mount_id, mount.major, mount.minor));
    }

    /// The mount is gone or was never made. Blocking, for as long as a process takes to end.
    pub fn dismiss(mut self) {
        self.send(CLEAN_END);
        drop(self.child.stdin.take());
        if let Err(error) = self.child.wait() {
            tracing::warn!(%error, "end of the watcher");
        }
    }

    fn send(&mut self, line: &str) {
        let sent = self
            .child
            .stdin
            .as_mut()
            .map(|pipe| pipe.write_all(format!("{line}\n").as_bytes()));
        if !matches!(sent, Some(Ok(()))) {
            tracing::warn!(
                "the watcher is gone: if this process is killed, its mount has to be detached by hand"
            );
        }
    }
}

/// The watching process: returns when the daemon has ended, and after detaching its mount if that was no clean end.
///
/// # Errors
/// When the mount cannot be detached.
pub fn watch(mount_point: &Path, mut pipe: impl Read) -> Result<(), Failure> {
    // SAFETY: plain system calls; failure (a group's leader has a session already) changes nothing.
    unsafe {
        libc::setsid();
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            libc::signal(signal, libc::SIG_IGN);
        }
    }
    daemon::show_as_pailfs();
    let mut said = String::new();
    pipe.read_to_string(&mut said)
        .map_err(|error| Failure::io(&error, "the daemon's pipe"))?;
    match parse(&said, mount_point) {
        Said::CleanEnd => Ok(()),
        Said::Mounted(mount) => mounts::detach_exactly(&mount).map(drop),
        Said::Nothing => detach_when_dead(mount_point),
    }
}

fn detach_when_dead(mount_point: &Path) -> Result<(), Failure> {
    for _ in 0..DEATH_POLLS {
        if mounts::is_dead(mount_point) {
            return mounts::detach(mount_point);
        }
        rt::sleep_blocking(DEATH_POLL_INTERVAL);
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
enum Said {
    CleanEnd,
    Mounted(Mount),
    Nothing,
}

/// What the daemon had said when the pipe was closed.
fn parse(said: &str, mount_point: &Path) -> Said {
    let mut result = Said::Nothing;
    // A torn last line has no newline and does not count.
    for line in said
        .split_inclusive('\n')
        .filter_map(|line| line.strip_suffix('\n'))
    {
        if line == CLEAN_END {
            return Said::CleanEnd;
        }
        let numbers: Vec<u64> = line.split(' ').filter_map(|number| number.parse().ok()).collect();
        if let [mount_id, major, minor] = numbers[..] {
            result = Said::Mounted(Mount {
                mount_id,
                major: major as u32,
                minor: minor as u32,
                mount_point: mount_point.to_owned(),
                fs_type: String::new(),
                source: String::new(),
                user_id: None,
            });
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_of_a_daemon_are_understood() {
        let path = Path::new("/m");
        assert_eq!(parse("", path), Said::Nothing);
        assert_eq!(parse("40 0 52", path), Said::Nothing);
        assert_eq!(parse("40 0 52\nclean\n", path), Said::CleanEnd);
        assert_eq!(parse("clean\n", path), Said::CleanEnd);
        let Said::Mounted(mount) = parse("40 0 52\ncle", path) else {
            panic!("not mounted")
        };
        assert_eq!((mount.mount_id, mount.major, mount.minor), (40, 0, 52));
        assert_eq!(mount.mount_point, path);
    }
}
