//! Going to the background: the mount runs in a child that is this program again, started afresh in its own session.
//!
//! Difficulties, and who solves each:
//! 1. A process with threads must not fork without exec: [`start`] runs `/proc/self/exe` with the same arguments and
//!    `--daemon`.
//! 2. Start-up errors belong in the foreground, with their exit code: the child's standard output is a pipe, on which
//!    it reports once ([`Reporter`]); its end without a report means that the child died.
//! 3. Whoever waits for the end of our output (a script with `$(…)`) must not wait for the daemon: the child has no other
//!    descriptor of ours; standard error is its log file.
//! 4. The caller may be interrupted while the child starts: the report then fails, and the child unmounts again
//!    ([`Reporter::live`]).

use crate::cli::failure::Failure;
use crate::telemetry::log;
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// This very program, also after its file was replaced.
pub const OWN_PROGRAM: &str = "/proc/self/exe";

/// The name that `ps` and `top` show: the kernel takes it from [`OWN_PROGRAM`]'s last component, which says nothing.
pub fn show_as_pailfs() {
    // SAFETY: PR_SET_NAME reads a NUL-terminated string of at most 16 bytes (prctl(2)), and cannot fail otherwise.
    unsafe {
        libc::prctl(libc::PR_SET_NAME, c"pailfs".as_ptr());
    }
}

#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum Report {
    Live,
    Failed(Failure),
}

/// Starts the daemon with `arguments` (of this process, without the program's name) and waits until its mount is live.
///
/// # Errors
/// What the daemon reports; Failed when it dies first.
pub fn start(arguments: &[OsString], log_file: &Path) -> Result<(), Failure> {
    let log = log::open_log_file(log_file).map_err(|error| Failure::io(&error, "log"))?;
    let mut command = Command::new(OWN_PROGRAM);
    command.arg0("pailfs").args(arguments).arg("--daemon");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    let mut child = command
        .spawn()
        .map_err(|error| Failure::io(&error, "start of the daemon"))?;
    let mut line = String::new();
    if let Some(output) = child.stdout.take() {
        BufReader::new(output)
            .read_line(&mut line)
            .map_err(|error| Failure::io(&error, "the daemon's report"))?;
    }
    match serde_json::from_str(&line) {
        Ok(Report::Live) => Ok(()),
        report => {
            let status = child
                .wait()
                .map_err(|error| Failure::io(&error, "end of the daemon"))?;
            Err(match report {
                Ok(Report::Failed(failure)) => failure,
                _ => Failure::failed(format!(
                    "the daemon ended before the mount was live ({status}); see {}",
                    log_file.display()
                )),
            })
        }
    }
}

/// The child's side of the pipe.
#[derive(Debug)]
pub struct Reporter {
    pipe: File,
}

impl Reporter {
    /// Makes this process a daemon: a session of its own, `/` as directory, standard output given up for the pipe.
    /// To be called once, before threads start, and after relative paths were resolved.
    ///
    /// # Errors
    /// What the system says.
    pub fn become_daemon() -> std::io::Result<Self> {
        let null = File::options().write(true).open("/dev/null")?;
        // SAFETY: plain system calls on descriptors that are open; `setsid` may fail only for a group's leader, which
        // has a session of its own already if it was started by something else than `start`.
        let pipe = unsafe {
            libc::setsid();
            let pipe = libc::fcntl(libc::STDOUT_FILENO, libc::F_DUPFD_CLOEXEC, 3);
            if pipe < 0 || libc::dup2(null.as_raw_fd(), libc::STDOUT_FILENO) < 0 {
                return Err(std::io::Error::last_os_error());
            }
            File::from_raw_fd(pipe)
        };
        std::env::set_current_dir("/")?;
        show_as_pailfs();
        Ok(Self { pipe })
    }

    /// Tells the caller that the mount is live. False when the caller is gone: nobody knows of the mount.
    #[must_use]
    pub fn live(self) -> bool {
        self.report(&Report::Live)
    }

    /// Tells the caller why there is no mount.
    pub fn failed(self, failure: &Failure) {
        if !self.report(&Report::Failed(failure.clone())) {
            tracing::warn!("nobody waits for this failure any more");
        }
    }

    fn report(mut self, report: &Report) -> bool {
        let line = serde_json::to_string(report).map(|text| format!("{text}\n"));
        line.is_ok_and(|line| self.pipe.write_all(line.as_bytes()).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_one_line_and_survives_the_pipe() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("pipe");
        let reporter = Reporter {
            pipe: File::create(&path).expect("made"),
        };
        let failure = Failure::new(crate::cli::failure::Exit::Denied, "no\ncredentials");
        reporter.failed(&failure);
        let text = std::fs::read_to_string(&path).expect("read");
        assert_eq!(text.matches('\n').count(), 1);
        let Ok(Report::Failed(arrived)) = serde_json::from_str(&text) else {
            panic!("{text}")
        };
        assert_eq!(arrived, failure);
        assert!(
            Reporter {
                pipe: File::create(&path).expect("made")
            }
            .live()
        );
    }

    #[test]
    fn a_caller_that_is_gone_is_noticed() {
        let (read, write) = std::io::pipe().expect("a pipe");
        drop(read);
        assert!(
            !Reporter {
                pipe: File::from(std::os::fd::OwnedFd::from(write))
            }
            .live()
        );
    }
}
