//! The one error type and the one errno table.
//!
//! A kind says what the caller should do; bucket, key, S3 code, request id and attempts say what happened.
//! Layers below `fuse` never speak of errno; only [`Error::errno`] does.

use crate::base::object::ObjectId;
use std::fmt;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    // What S3 said.
    /// No such key, bucket, upload or version.
    NotFound,
    /// 412: the condition did not hold. Nothing was changed.
    PreconditionFailed,
    /// 304: the caller's copy is current.
    NotModified,
    /// 401 or 403.
    Denied,
    /// The object is in an archive: it has to be restored before anything reads or copies it.
    Archived,
    /// 503 SlowDown and its kin, after all retries.
    Throttled,
    /// No progress within the deadline.
    TimedOut,
    /// Could not connect, or the connection broke, after all retries.
    Network,
    /// 416.
    BadRange,
    /// A checksum or length did not match, or an answer could not be understood.
    Corrupt,
    /// The endpoint does not have this operation or condition.
    Unsupported,
    /// The request is wrong and will stay wrong (400).
    Invalid,
    /// Sent, and the reply was lost: the change may or may not have happened. Look before doing anything.
    Ambiguous,
    /// 5xx other than throttling, after all retries.
    Server,

    // What the filesystem says.
    Exists,
    NotEmpty,
    IsDirectory,
    NotDirectory,
    NameTooLong,
    NameNotUtf8,
    /// Another version took the place of the one this handle is bound to.
    Stale,
    /// The path keeps changing under a conditional operation.
    Busy,
    /// Programs read the file in a way that no change of it would be seen in.
    InUse,
    ReadOnly,
    /// The operation is not possible on this filesystem for anybody (hard links, creating buckets unasked).
    NotPermitted,
    CrossDevice,
    BadHandle,
    /// lseek(2) for data, or a hole, behind the last.
    NoData,
    /// No extended attribute of that name.
    NoAttribute,
    /// An extended attribute that no object could carry.
    AttributeTooLarge,
    /// The object carries too much already.
    NoRoom,
    TooLarge,
    TooManyLinks,
    /// A local file of ours (spool, record) failed with this errno.
    LocalIo(i32),
    /// The operation was given up because the mount is ending.
    ShuttingDown,
    /// A bug of ours.
    Internal,
}

/// An error with all that is known about it. Boxed inside, so that `Result` stays small.
#[derive(Clone)]
pub struct Error(Box<Details>);

#[derive(Clone)]
struct Details {
    kind: ErrorKind,
    message: String,
    bucket: Option<String>,
    key: Option<String>,
    s3_code: Option<String>,
    http_status: Option<u16>,
    request_id: Option<String>,
    attempts: u32,
    is_after_silence: bool,
}

impl Error {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Details {
            kind,
            message: message.into(),
            bucket: None,
            key: None,
            s3_code: None,
            http_status: None,
            request_id: None,
            attempts: 0,
            is_after_silence: false,
        }))
    }

    /// A failure of a local file; `context` says which file and what was done to it.
    pub fn local_io(error: &std::io::Error, context: impl fmt::Display) -> Self {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        Self::new(ErrorKind::LocalIo(errno), format!("{context}: {error}"))
    }

    #[must_use]
    pub fn on(mut self, id: &ObjectId) -> Self {
        self.0.bucket = Some(id.bucket.to_string());
        self.0.key = Some(id.key.to_string());
        self
    }

    #[must_use]
    pub fn on_bucket(mut self, bucket: &str) -> Self {
        self.0.bucket = Some(bucket.to_owned());
        self
    }

    #[must_use]
    pub fn with_s3(mut self, code: Option<String>, status: Option<u16>, request_id: Option<String>) -> Self {
        self.0.s3_code = code;
        self.0.http_status = status;
        self.0.request_id = request_id;
        self
    }

    #[must_use]
    pub fn with_attempts(mut self, attempts: u32) -> Self {
        self.0.attempts = attempts;
        self
    }

    /// The store fell silent. What happened meanwhile may be unknown; that nothing came for so long is known.
    #[must_use]
    pub fn after_silence(mut self) -> Self {
        self.0.is_after_silence = true;
        self
    }

    /// The same facts under another kind: when a layer knows better what they mean.
    #[must_use]
    pub fn as_kind(mut self, kind: ErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }
    #[must_use]
    pub fn bucket(&self) -> Option<&str> {
        self.0.bucket.as_deref()
    }
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        self.0.key.as_deref()
    }
    #[must_use]
    pub fn s3_code(&self) -> Option<&str> {
        self.0.s3_code.as_deref()
    }
    #[must_use]
    pub fn http_status(&self) -> Option<u16> {
        self.0.http_status
    }
    #[must_use]
    pub fn request_id(&self) -> Option<&str> {
        self.0.request_id.as_deref()
    }
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.0.attempts
    }

    /// True when the same request may succeed later without anybody changing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self.0.kind,
            ErrorKind::Throttled
                | ErrorKind::TimedOut
                | ErrorKind::Network
                | ErrorKind::Server
                | ErrorKind::Ambiguous
        )
    }

    /// What the kernel, and so the program, is told. `docs/SEMANTICS.md` shows this table to users.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self.0.kind {
            ErrorKind::NotFound => libc::ENOENT,
            ErrorKind::PreconditionFailed | ErrorKind::Stale => libc::ESTALE,
            ErrorKind::Denied => libc::EACCES,
            ErrorKind::Throttled | ErrorKind::Busy => libc::EBUSY,
            ErrorKind::InUse => libc::ETXTBSY,
            ErrorKind::TimedOut => libc::ETIMEDOUT,
            // What the caller must do is look; what the program is told is why.
            ErrorKind::Ambiguous if self.0.is_after_silence => libc::ETIMEDOUT,
            ErrorKind::Unsupported => libc::EOPNOTSUPP,
            ErrorKind::Invalid => libc::EINVAL,
            ErrorKind::Exists => libc::EEXIST,
            ErrorKind::NotEmpty => libc::ENOTEMPTY,
            ErrorKind::IsDirectory => libc::EISDIR,
            ErrorKind::NotDirectory => libc::ENOTDIR,
            ErrorKind::NameTooLong => libc::ENAMETOOLONG,
            ErrorKind::NameNotUtf8 => libc::EILSEQ,
            ErrorKind::ReadOnly => libc::EROFS,
            ErrorKind::NotPermitted => libc::EPERM,
            ErrorKind::CrossDevice => libc::EXDEV,
            ErrorKind::BadHandle => libc::EBADF,
            ErrorKind::NoData => libc::ENXIO,
            ErrorKind::NoAttribute => libc::ENODATA,
            ErrorKind::AttributeTooLarge => libc::E2BIG,
            ErrorKind::NoRoom => libc::ENOSPC,
            ErrorKind::TooLarge => libc::EFBIG,
            ErrorKind::TooManyLinks => libc::EMLINK,
            ErrorKind::LocalIo(errno) => errno,
            ErrorKind::NotModified
            | ErrorKind::Archived
            | ErrorKind::Network
            | ErrorKind::BadRange
            | ErrorKind::Corrupt
            | ErrorKind::Ambiguous
            | ErrorKind::Server
            | ErrorKind::ShuttingDown
            | ErrorKind::Internal => libc::EIO,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let d = &*self.0;
        f.write_str(&d.message)?;
        match (&d.bucket, &d.key) {
            (Some(bucket), Some(key)) => write!(f, " [s3://{bucket}/{}]", key.escape_debug())?,
            (Some(bucket), None) => write!(f, " [s3://{bucket}]")?,
            _ => {}
        }
        if let Some(code) = &d.s3_code {
            write!(f, " code={code}")?;
        }
        if let Some(status) = d.http_status {
            write!(f, " status={status}")?;
        }
        if let Some(id) = &d.request_id {
            write!(f, " request_id={id}")?;
        }
        if d.attempts > 1 {
            write!(f, " attempts={}", d.attempts)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_everything_it_knows() {
        let error = Error::new(ErrorKind::Denied, "access denied")
            .on(&ObjectId::new("b", "k"))
            .with_s3(Some("AccessDenied".into()), Some(403), Some("R1".into()))
            .with_attempts(3);
        assert_eq!(
            error.to_string(),
            "access denied [s3://b/k] code=AccessDenied status=403 request_id=R1 attempts=3"
        );
        assert_eq!(error.errno(), libc::EACCES);
    }

    #[test]
    fn an_unknown_outcome_after_silence_is_told_as_a_time_out() {
        let unknown = || Error::new(ErrorKind::Ambiguous, "sent");
        assert_eq!(unknown().errno(), libc::EIO);
        assert_eq!(unknown().after_silence().errno(), libc::ETIMEDOUT);
        let known = Error::new(ErrorKind::Denied, "refused").after_silence();
        assert_eq!(known.errno(), libc::EACCES);
    }
}
