//! How a command ends when it does not end well: a text for the user, an exit code and (`--json`) an object for scripts.

use crate::base::error::{Error, ErrorKind};
use crate::base::object::ObjectId;
use crate::cli::advice;
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
    /// The bucket, the key, the file or the mount point does not exist.
    NotFound = 3,
    /// Access denied, or no credentials.
    Denied = 4,
    /// Somebody else's change or use is in the way, or a condition does not hold.
    Conflict = 5,
}

/// Shown at the end of `--help`.
pub const EXIT_CODES_HELP: &str = "Exit codes:
  0  done
  1  something failed; the message says what
  2  the command line is wrong
  3  not found: the bucket, the key, the file or the mount point does not exist, or nothing is mounted there
  4  denied: the store refuses access, or there are no credentials, or the system refuses
  5  conflict: in use, mounted already, changed by somebody else meanwhile, or a condition does not hold";

/// Why a command failed.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Failure {
    pub exit: Exit,
    pub message: String,
    /// What the store said, where it was the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of_store: Option<Box<OfStore>>,
}

/// What is known about a failure of the store.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct OfStore {
    pub bucket: Option<String>,
    pub key: Option<String>,
    pub code: Option<String>,
    pub status: Option<u16>,
    pub request_id: Option<String>,
    /// What to do.
    pub advice: Option<String>,
}

/// A failure as scripts get it. What is not known is an empty string, or the status 0.
#[derive(serde::Serialize)]
struct Shown<'a> {
    error: ShownError<'a>,
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownError<'a> {
    message: &'a str,
    advice: &'a str,
    exit_code: u8,
    bucket: &'a str,
    key: &'a str,
    code: &'a str,
    status: u16,
    request_id: &'a str,
}

impl Failure {
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            of_store: None,
        }
    }

    /// The same failure; `context` says what was being done, before what happened.
    #[must_use]
    pub fn within(mut self, context: impl fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }

    /// What to do, instead of what is done about most failures of this kind.
    #[must_use]
    pub fn advising(mut self, advice: &str) -> Self {
        self.of_store.get_or_insert_default().advice = Some(advice.to_owned());
        self
    }

    /// One line of JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        let nothing = OfStore::default();
        let known = self.of_store.as_deref().unwrap_or(&nothing);
        let shown = Shown {
            error: ShownError {
                message: &self.message,
                advice: known.advice.as_deref().unwrap_or_default(),
                exit_code: self.exit as u8,
                bucket: known.bucket.as_deref().unwrap_or_default(),
                key: known.key.as_deref().unwrap_or_default(),
                code: known.code.as_deref().unwrap_or_default(),
                status: known.status.unwrap_or(0),
                request_id: known.request_id.as_deref().unwrap_or_default(),
            },
        };
        serde_json::to_string(&shown).unwrap_or_default()
    }

    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// A failure that is about one object, found here rather than by the store.
    pub fn of_object(id: &ObjectId, message: impl Into<String>, advice: &str) -> Self {
        let of_store = OfStore {
            bucket: Some(id.bucket.to_string()),
            key: Some(id.key.to_string()),
            advice: Some(advice.to_owned()),
            ..OfStore::default()
        };
        Self {
            of_store: Some(Box::new(of_store)),
            ..Self::failed(message)
        }
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
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let of_store = OfStore {
            bucket: owned(error.bucket()),
            key: owned(error.key()),
            code: owned(error.s3_code()),
            status: error.http_status(),
            request_id: owned(error.request_id()),
            advice: owned(advice::for_error(&error)),
        };
        Self {
            of_store: Some(Box::new(of_store)),
            ..Self::new(exit, error.to_string())
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        let advice = self.of_store.as_ref().and_then(|known| known.advice.as_deref());
        match advice {
            Some(advice) => write!(f, "\n  {advice}"),
            None => Ok(()),
        }
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
    fn scripts_get_what_people_are_told() {
        let error = Error::new(ErrorKind::NotFound, "GetObject: no such key")
            .on(&ObjectId::new("b", "a\nb"))
            .with_s3(Some("NoSuchKey".into()), Some(404), Some("R1".into()));
        let failure = Failure::from(error);
        let json: serde_json::Value = serde_json::from_str(&failure.to_json()).expect("JSON");
        let error = &json["error"];
        assert_eq!((&error["exitCode"], &error["status"]), (&3.into(), &404.into()));
        assert_eq!((&error["bucket"], &error["key"]), (&"b".into(), &"a\nb".into()));
        assert_eq!(
            (&error["code"], &error["requestId"]),
            (&"NoSuchKey".into(), &"R1".into())
        );
        let shown = failure.to_string();
        for part in ["message", "advice"].map(|name| error[name].as_str().expect("text")) {
            assert!(!part.is_empty() && shown.contains(part), "{shown}");
        }
        assert!(!failure.to_json().contains('\n'));
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
