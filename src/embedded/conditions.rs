//! When a conditional request may go on. Pure: the current object in, yes or an error out.
//!
//! Source: S3 User Guide, "Conditional requests" (writes, deletes, copies), and RFC 9110 section 13 (reads).

use s3s::dto::{ETag, ETagCondition, Timestamp};
use s3s::{S3Error, S3Result, s3_error};

/// The conditions on the object that a write replaces.
#[derive(Clone, Debug, Default)]
pub struct WriteConditions {
    pub if_match: Option<ETagCondition>,
    pub if_none_match: Option<ETagCondition>,
}

impl WriteConditions {
    /// # Errors
    /// `PreconditionFailed` when the condition does not hold, `NoSuchKey` when an ETag must match and there is
    /// nothing, `NotImplemented` for an If-None-Match other than `*` (S3 knows no other on writes).
    pub fn check(&self, current_etag: Option<&str>) -> S3Result<()> {
        match &self.if_none_match {
            Some(ETagCondition::ETag(_)) => {
                return Err(s3_error!(
                    NotImplemented,
                    "If-None-Match of a write can only be *"
                ));
            }
            Some(ETagCondition::Any) if current_etag.is_some() => return Err(failed("If-None-Match")),
            _ => {}
        }
        match (&self.if_match, current_etag) {
            (Some(ETagCondition::ETag(_)), None) => Err(s3_error!(NoSuchKey)),
            (Some(ETagCondition::Any), None) => Err(failed("If-Match")),
            (Some(ETagCondition::ETag(wanted)), Some(etag)) if !is_same(wanted, etag) => {
                Err(failed("If-Match"))
            }
            _ => Ok(()),
        }
    }
}

/// The conditions on an object that is read, or copied from.
// The fields are called what the headers are called.
#[allow(clippy::struct_field_names)]
#[derive(Clone, Debug, Default)]
pub struct ReadConditions {
    pub if_match: Option<ETagCondition>,
    pub if_none_match: Option<ETagCondition>,
    pub if_modified_since: Option<Timestamp>,
    pub if_unmodified_since: Option<Timestamp>,
}

impl ReadConditions {
    /// # Errors
    /// `PreconditionFailed`, or `NotModified` when the caller's copy is current.
    pub fn check(&self, etag: &str, modified: &Timestamp) -> S3Result<()> {
        let matches = |condition: &ETagCondition| match condition {
            ETagCondition::Any => true,
            ETagCondition::ETag(wanted) => is_same(wanted, etag),
        };
        match (&self.if_match, &self.if_unmodified_since) {
            (Some(condition), _) if !matches(condition) => return Err(failed("If-Match")),
            (None, Some(time)) if modified > time => return Err(failed("If-Unmodified-Since")),
            _ => {}
        }
        match (&self.if_none_match, &self.if_modified_since) {
            (Some(condition), _) if matches(condition) => Err(s3_error!(NotModified)),
            (None, Some(time)) if modified <= time => Err(s3_error!(NotModified)),
            _ => Ok(()),
        }
    }

    /// The same for the source of a copy, where "not modified" is a failed condition too.
    ///
    /// # Errors
    /// `PreconditionFailed`.
    pub fn check_source(&self, etag: &str, modified: &Timestamp) -> S3Result<()> {
        self.check(etag, modified)
            .map_err(|_| failed("x-amz-copy-source condition"))
    }
}

fn is_same(wanted: &ETag, etag: &str) -> bool {
    wanted.value() == etag
}

fn failed(which: &str) -> S3Error {
    s3_error!(
        PreconditionFailed,
        "At least one of the pre-conditions you specified did not hold: {which}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use s3s::S3ErrorCode;

    fn tag(value: &str) -> ETagCondition {
        ETagCondition::ETag(ETag::Strong(value.to_owned()))
    }

    const ANY: Option<ETagCondition> = Some(ETagCondition::Any);

    #[test]
    fn writes() {
        let cases = [
            (None, None, None, None),
            (None, None, Some("e"), None),
            (None, ANY, None, None),
            (None, ANY, Some("e"), Some(S3ErrorCode::PreconditionFailed)),
            (None, Some(tag("e")), None, Some(S3ErrorCode::NotImplemented)),
            (Some(tag("e")), None, Some("e"), None),
            (
                Some(tag("e")),
                None,
                Some("f"),
                Some(S3ErrorCode::PreconditionFailed),
            ),
            (Some(tag("e")), None, None, Some(S3ErrorCode::NoSuchKey)),
            (ANY, None, Some("e"), None),
            (ANY, None, None, Some(S3ErrorCode::PreconditionFailed)),
        ];
        for (if_match, if_none_match, current, expected) in cases {
            let conditions = WriteConditions {
                if_match,
                if_none_match,
            };
            let found = conditions.check(current).err().map(|error| error.code().clone());
            assert_eq!(found, expected, "{conditions:?} on {current:?}");
        }
    }

    #[test]
    fn reads_prefer_tags_to_times() {
        let at = |seconds: i64| {
            Timestamp::from(std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds as u64))
        };
        let check =
            |conditions: ReadConditions| conditions.check("e", &at(100)).err().map(|e| e.code().clone());
        let none = ReadConditions::default;
        assert_eq!(check(none()), None);
        assert_eq!(
            check(ReadConditions {
                if_match: Some(tag("e")),
                ..none()
            }),
            None
        );
        assert_eq!(
            check(ReadConditions {
                if_match: Some(tag("x")),
                ..none()
            }),
            Some(S3ErrorCode::PreconditionFailed)
        );
        assert_eq!(
            check(ReadConditions {
                if_none_match: Some(tag("e")),
                ..none()
            }),
            Some(S3ErrorCode::NotModified)
        );
        assert_eq!(
            check(ReadConditions {
                if_none_match: Some(tag("x")),
                ..none()
            }),
            None
        );
        let unmodified = Some(at(99));
        assert_eq!(
            check(ReadConditions {
                if_unmodified_since: unmodified.clone(),
                ..none()
            }),
            Some(S3ErrorCode::PreconditionFailed)
        );
        assert_eq!(
            check(ReadConditions {
                if_match: Some(tag("e")),
                if_unmodified_since: unmodified,
                ..none()
            }),
            None
        );
        let modified = Some(at(100));
        assert_eq!(
            check(ReadConditions {
                if_modified_since: modified.clone(),
                ..none()
            }),
            Some(S3ErrorCode::NotModified)
        );
        assert_eq!(
            check(ReadConditions {
                if_none_match: Some(tag("x")),
                if_modified_since: modified,
                ..none()
            }),
            None
        );
    }
}
