//! What to do about a failure of the store, in a line: one table.

use crate::base::error::{Error, ErrorKind};

/// `None` where the message says it all.
#[must_use]
pub fn for_error(error: &Error) -> Option<&'static str> {
    let by_code = error.s3_code().and_then(for_code);
    by_code.or_else(|| for_kind(error.kind(), error.key().is_some()))
}

fn for_code(code: &str) -> Option<&'static str> {
    Some(match code {
        "NoSuchBucket" => {
            "check the bucket's name and --endpoint-url; `pailfs buckets` lists the buckets of these credentials"
        }
        "NoSuchKey" => {
            "check the key: it is taken as it is, nothing in it is decoded; `pailfs ls` lists keys"
        }
        "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "ExpiredToken" | "InvalidToken" => {
            "check the credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or --profile"
        }
        "RequestTimeTooSkewed" => "set this machine's clock",
        "EntityTooLarge" => "the store takes no object as large as this",
        "QuotaExceeded" | "XMinioStorageFull" => "the store is full",
        _ => return None,
    })
}

fn for_kind(kind: ErrorKind, of_object: bool) -> Option<&'static str> {
    Some(match kind {
        ErrorKind::NotFound if of_object => "check the bucket's name and the key; `pailfs ls` lists keys",
        ErrorKind::NotFound => {
            "check the bucket's name and --endpoint-url; `pailfs buckets` lists the buckets of these credentials"
        }
        ErrorKind::Archived => "have the object restored, then try again",
        ErrorKind::Denied => {
            "check the credentials (--profile) and what they allow; a bucket that anybody may read: --no-sign-request"
        }
        ErrorKind::PreconditionFailed | ErrorKind::Exists | ErrorKind::Stale | ErrorKind::Busy => {
            "somebody else changed the object: look at it (`pailfs ls --long`), then decide"
        }
        ErrorKind::Throttled => "the store asks for fewer requests: try again later",
        ErrorKind::TimedOut | ErrorKind::Network => {
            "check --endpoint-url, the network and the proxy (HTTPS_PROXY, NO_PROXY), then try again"
        }
        ErrorKind::Server => "the store has failed: try again later",
        ErrorKind::Ambiguous => "it may or may not have happened: look at the object, then try again",
        ErrorKind::Corrupt => "the answer was damaged or is not S3's: check --endpoint-url",
        ErrorKind::Unsupported => "this store does not have that operation or condition",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::object::ObjectId;

    #[test]
    fn the_code_knows_better_than_the_kind() {
        let missing = Error::new(ErrorKind::NotFound, "x").on(&ObjectId::new("b", "k"));
        assert!(for_error(&missing).expect("advice").contains("pailfs ls"));
        let no_bucket = missing.with_s3(Some("NoSuchBucket".into()), Some(404), None);
        assert!(for_error(&no_bucket).expect("advice").contains("pailfs buckets"));
        assert_eq!(for_error(&Error::new(ErrorKind::Internal, "x")), None);
    }
}
