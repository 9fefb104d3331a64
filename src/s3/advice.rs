//! What to do about a refusal, where S3's own message does not say it.

use super::clock::parse_http_date;
use crate::rt;
use std::time::{Duration, SystemTime};

/// S3 refuses requests whose time is further away ("RequestTimeTooSkewed", S3 API Reference).
const LARGEST_SKEW: Duration = Duration::from_mins(15);

/// What is known of a refusal.
pub(super) struct Refusal<'a> {
    pub code: Option<&'a str>,
    pub status: Option<u16>,
    /// The answer's `Date` header.
    pub date: Option<&'a str>,
    /// The region that the answer names.
    pub region: Option<&'a str>,
}

/// `message`, and what to do.
pub(super) fn advise(message: String, refusal: &Refusal<'_>) -> String {
    let advice = match refusal.code {
        Some("RequestTimeTooSkewed") => return clock_message(refusal.date),
        // The answer to a HEAD does not say why.
        None if matches!(refusal.status, Some(400 | 403)) && is_skewed(refusal.date) => {
            return clock_message(refusal.date);
        }
        Some("AuthorizationHeaderMalformed") => match refusal.region {
            Some(region) => format!("the store's region is {region:?}: give --region {region}"),
            None => "mostly the region is wrong: give the store's own by --region".to_owned(),
        },
        Some("SignatureDoesNotMatch") => {
            "the secret key does not belong to the access key id (look at AWS_SECRET_ACCESS_KEY or the profile), or \
             something between here and the store changes requests"
                .to_owned()
        }
        Some("InvalidAccessKeyId") => {
            "this store does not know the access key id: look at AWS_ACCESS_KEY_ID or the profile, and whether this is the \
             store that was meant (--endpoint-url)"
                .to_owned()
        }
        Some("ExpiredToken" | "ExpiredTokenException" | "InvalidToken" | "TokenRefreshRequired") => {
            "log in again, or replace the keys where they come from: a file's new ones are picked up without a remount"
                .to_owned()
        }
        Some("InvalidObjectState" | "ObjectNotInActiveTierError") => {
            "the object is archived: in a mount, setfattr -n user.s3.restore -v DAYS FILE has it restored, which takes minutes \
             to hours"
                .to_owned()
        }
        Some(code) if code.starts_with("KMS.") => {
            "the key that the object, or the bucket, is encrypted with cannot be used: it is disabled, deleted, or not for \
             these credentials"
                .to_owned()
        }
        _ => return message,
    };
    format!("{message} ({advice})")
}

fn is_skewed(date: Option<&str>) -> bool {
    let ours = rt::wall_clock();
    let distance = |theirs: SystemTime| {
        let ahead = theirs.duration_since(ours);
        ahead.unwrap_or_else(|behind| behind.duration())
    };
    date.and_then(parse_http_date)
        .is_some_and(|theirs| distance(theirs) > LARGEST_SKEW)
}

fn clock_message(date: Option<&str>) -> String {
    let ours = humantime::format_rfc3339_seconds(rt::wall_clock());
    let wrong = match date.and_then(parse_http_date) {
        Some(theirs) => format!(
            "this machine's clock is wrong: it says {ours}, the server's says {}",
            humantime::format_rfc3339_seconds(theirs)
        ),
        None => format!("this machine's clock ({ours}) is too far from the server's"),
    };
    format!("{wrong}; requests are refused until it is set")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advised(code: Option<&str>, date: Option<&str>, region: Option<&str>) -> String {
        let refusal = Refusal {
            code,
            status: Some(403),
            date,
            region,
        };
        advise("no".to_owned(), &refusal)
    }

    #[test]
    fn what_a_user_can_mend_is_told_with_what_to_do() {
        for (code, part) in [
            ("SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"),
            ("InvalidAccessKeyId", "--endpoint-url"),
            ("ExpiredToken", "without a remount"),
            ("AuthorizationHeaderMalformed", "--region"),
            ("KMS.DisabledException", "disabled, deleted"),
            ("InvalidObjectState", "user.s3.restore"),
        ] {
            let message = advised(Some(code), None, None);
            assert!(message.starts_with("no (") && message.contains(part), "{message}");
        }
        let region = advised(Some("AuthorizationHeaderMalformed"), None, Some("garage"));
        assert!(region.contains("--region garage"), "{region}");
        assert_eq!(advised(Some("AccessDenied"), None, None), "no");
    }

    #[test]
    fn a_wrong_clock_is_told_with_both_times() {
        let far = Some("Tue, 01 Jan 2030 00:00:00 GMT");
        for code in [Some("RequestTimeTooSkewed"), None] {
            let message = advised(code, far, None);
            assert!(
                message.contains("2030-01-01T00:00:00Z; requests are refused"),
                "{message}"
            );
        }
        assert_eq!(advised(None, None, None), "no");
        assert_eq!(advised(Some("AccessDenied"), far, None), "no");
    }
}
