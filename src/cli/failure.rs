//! How a command ends when it does not end well: a text for the user and an exit code for scripts.

use crate::base::error::{Error, ErrorKind};
use std::fmt;
use std::process::ExitCode;

/// The exit codes of every command; `--help` and the README show this table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// Something failed; the message says what.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The bucket or the mount point does not exist.
    NotFound = 3,
    /// Access denied, or no credentials.
    Denied = 4,
    /// Somebody else's change or use is in the way.
    Conflict = 5,
}

/// Shown at the end of `--help`.
pub const EXIT_CODES_HELP: &str = "Exit codes:
  0  done
  1  something failed; the message says what
  2  the command line is wrong
  3  not found: the bucket or the mount point does not exist, or nothing is mounted there
  4  denied: the store refuses access, or there are no credentials, or the system refuses
  5  conflict: in use, mounted already, or changed by somebody else meanwhile";

/// Why a command failed.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Failure {
    pub exit: Exit,
    pub message: String,
}

impl Failure {
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
        }
    }

    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// A failure of the system; `context` says what was done to what.
    pub fn io(error: &std::io::Error, context: impl fmt::Display) -> Self {
        let exit = match error.kind() {
            std::io::ErrorKind::NotFound => Exit::NotFound,
            std::io::ErrorKind::PermissionDenied => Exit::Denied,
            std::io::ErrorKind::ResourceBusy | std::io::ErrorKind::AddrInUse => Exit::Conflict,
            _ => Exit::Failed,
        };
        Self::new(exit, format!("{context}: {error}"))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let exit = match error.kind() {
            ErrorKind::NotFound => Exit::NotFound,
            ErrorKind::Denied
            | ErrorKind::NotPermitted
            | ErrorKind::ReadOnly
            | ErrorKind::LocalIo(libc::EACCES | libc::EPERM) => Exit::Denied,
            ErrorKind::PreconditionFailed
            | ErrorKind::Exists
            | ErrorKind::NotEmpty
            | ErrorKind::Stale
            | ErrorKind::Busy
            | ErrorKind::LocalIo(libc::EBUSY) => Exit::Conflict,
            _ => Exit::Failed,
        };
        Self::new(exit, error.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_errors_become_the_documented_codes() {
        let code = |kind| Failure::from(Error::new(kind, "x")).exit as u8;
        assert_eq!(code(ErrorKind::NotFound), 3);
        assert_eq!(code(ErrorKind::Denied), 4);
        assert_eq!(code(ErrorKind::LocalIo(libc::EPERM)), 4);
        assert_eq!(code(ErrorKind::Busy), 5);
        assert_eq!(code(ErrorKind::Network), 1);
        for code in 1..=5 {
            assert!(
                EXIT_CODES_HELP.contains(&format!("\n  {code}  ")),
                "{code} is not documented"
            );
        }
    }

    #[test]
    fn a_failure_of_the_system_keeps_its_reason() {
        let error = std::io::Error::from_raw_os_error(libc::ENOENT);
        let failure = Failure::io(&error, "mount point /x");
        assert_eq!(failure.exit, Exit::NotFound);
        assert!(
            failure.message.starts_with("mount point /x: No such file"),
            "{failure}"
        );
    }
}
