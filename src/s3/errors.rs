//! What a failed attempt means: one judgement, for every operation.
//!
//! Difficulties:
//! 1. An attempt ends in one of four ways: not sent, sent without a whole answer, answered by a refusal,
//!    answered with something that cannot be understood ([`Reach`]).
//! 2. Some refusals say that nothing happened (SlowDown, 409), some that nobody knows (500): [`Meaning`].
//! 3. What is to be done depends on whether the request may be repeated: [`Verdict`].
//!
//! Source of codes: S3 API Reference, "Error responses", "List of error codes".

use super::advice::{Refusal, advise};
use super::connector::{TransportError, TransportKind, sources};
use super::credentials::Doubt;
use crate::base::error::{Error, ErrorKind};
use crate::base::object::ObjectId;
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::{RequestId, RequestIdExt};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

/// How far a failed attempt got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// The request could not even be made.
    Unmade,
    /// There is nobody to sign it.
    NoCredentials,
    /// The credentials could not be had this time.
    CredentialsLater,
    /// Certainly not sent.
    NotSent(TransportKind),
    /// May have reached the server; there is no whole answer.
    Sent(TransportKind),
    /// The server's refusal is in `status` and `code`.
    Answered,
    /// There was an answer, but it makes no sense.
    Garbled,
}

/// One failed attempt.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub reach: Reach,
    pub status: Option<u16>,
    pub code: Option<String>,
    pub message: String,
    pub request_id: Option<String>,
    /// The region that the answer says the bucket is in.
    pub region: Option<String>,
}

/// What an answer says about the change that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// It did not happen, and will not.
    Final(ErrorKind),
    /// It did not happen; the same request may succeed later.
    Later(ErrorKind),
    /// The same, and the store asks for fewer requests.
    Slower,
    /// Nobody knows.
    Unknown(ErrorKind),
}

/// Whether a request may be sent again when nobody knows what the first one did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replay {
    Safe,
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    GiveUp(ErrorKind),
    /// Try again; the kind is what to report when there is no time left for it.
    Again {
        kind: ErrorKind,
        slower: bool,
    },
}

impl<E> From<SdkError<E, HttpResponse>> for Failure
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    fn from(error: SdkError<E, HttpResponse>) -> Self {
        let request_id = request_id_of(&error);
        let raw = error.raw_response();
        let status = raw.map(|response| response.status().as_u16());
        let region = raw.and_then(region_of);
        let (reach, code, message) = match &error {
            SdkError::ServiceError(service) => {
                let code = service.err().code().map(str::to_owned);
                let message = service
                    .err()
                    .message()
                    .map_or_else(|| plain_message(status), str::to_owned);
                (Reach::Answered, code, message)
            }
            SdkError::ConstructionFailure(_) => (Reach::Unmade, None, all_causes(&error)),
            SdkError::ResponseError(_) => (reach_of_broken_answer(&error), None, all_causes(&error)),
            _ => (reach_without_answer(&error), None, all_causes(&error)),
        };
        let message = match reach {
            Reach::Answered => advise(
                message,
                &Refusal {
                    code: code.as_deref(),
                    status,
                    date: raw.and_then(|response| response.headers().get("date")),
                    region: region.as_deref(),
                },
            ),
            _ => message,
        };
        Self {
            reach,
            status,
            code,
            message,
            request_id,
            region,
        }
    }
}

impl Failure {
    /// An answer that makes no sense, for the reason that `error` gives.
    pub(super) fn garbled(error: &Error) -> Self {
        let message = error.message().to_owned();
        Self {
            reach: Reach::Garbled,
            status: None,
            code: None,
            message,
            request_id: None,
            region: None,
        }
    }

    /// The meaning of `code` for one key of a batch.
    pub(super) fn of_code(code: Option<&str>, message: Option<&str>) -> Self {
        Self {
            reach: Reach::Answered,
            status: Some(200),
            code: code.map(str::to_owned),
            message: message.unwrap_or("refused").to_owned(),
            request_id: None,
            region: None,
        }
    }

    /// True for answers that callers ask for on purpose: nothing is wrong with the store.
    pub(super) fn is_ordinary(&self) -> bool {
        self.reach == Reach::Answered && matches!(self.status, Some(304 | 404 | 412))
    }

    /// `Some` when other credentials may help.
    pub(super) fn doubt_of_credentials(&self) -> Option<Doubt> {
        match (self.reach, self.code.as_deref(), self.status) {
            (Reach::NoCredentials, ..) => Some(Doubt::Certain),
            (Reach::Answered, Some(code), _) if is_of_credentials(code) => Some(Doubt::Certain),
            (Reach::Answered, None, Some(400 | 401 | 403)) => Some(Doubt::Possible),
            _ => None,
        }
    }

    pub(super) fn verdict(&self, replay: Replay) -> Verdict {
        match (self.meaning(), replay) {
            (Meaning::Final(kind), _) => Verdict::GiveUp(kind),
            (Meaning::Later(kind), _) | (Meaning::Unknown(kind), Replay::Safe) => {
                Verdict::Again { kind, slower: false }
            }
            (Meaning::Slower, _) => Verdict::Again {
                kind: ErrorKind::Throttled,
                slower: true,
            },
            (Meaning::Unknown(_), Replay::Never) => Verdict::GiveUp(ErrorKind::Ambiguous),
        }
    }

    fn meaning(&self) -> Meaning {
        match self.reach {
            Reach::Unmade => Meaning::Final(ErrorKind::Invalid),
            Reach::NoCredentials => Meaning::Final(ErrorKind::Denied),
            Reach::CredentialsLater => Meaning::Later(ErrorKind::Denied),
            Reach::NotSent(TransportKind::Certificate) => Meaning::Final(ErrorKind::Network),
            Reach::NotSent(kind) => Meaning::Later(kind_of_transport(kind)),
            Reach::Sent(kind) => Meaning::Unknown(kind_of_transport(kind)),
            Reach::Garbled => Meaning::Unknown(ErrorKind::Corrupt),
            // A HEAD has no body to say which conflict it was; those that reads meet pass.
            Reach::Answered if self.code.is_none() && self.status == Some(409) => {
                Meaning::Later(ErrorKind::Busy)
            }
            Reach::Answered => {
                let by_code = self.code.as_deref().and_then(meaning_of_code);
                by_code.unwrap_or_else(|| meaning_of_status(self.status.unwrap_or(0)))
            }
        }
    }

    pub(super) fn into_error(self, kind: ErrorKind, doing: &str, attempts: u32) -> Error {
        let message = match kind {
            ErrorKind::Ambiguous => format!("{doing}: sent, and the outcome is not known: {}", self.message),
            _ => format!("{doing}: {}", self.message),
        };
        let error = Error::new(kind, message)
            .with_s3(self.code, self.status, self.request_id)
            .with_attempts(attempts);
        match self.reach {
            Reach::Sent(TransportKind::Silent) => error.after_silence(),
            _ => error,
        }
    }

    /// The error of one key, when its request is not tried again.
    pub(super) fn into_final_error(self, doing: &str, id: &ObjectId) -> Error {
        let kind = match self.meaning() {
            Meaning::Final(kind) | Meaning::Later(kind) | Meaning::Unknown(kind) => kind,
            Meaning::Slower => ErrorKind::Throttled,
        };
        self.into_error(kind, doing, 1).on(id)
    }
}

fn kind_of_transport(kind: TransportKind) -> ErrorKind {
    match kind {
        TransportKind::Silent => ErrorKind::TimedOut,
        TransportKind::Connect | TransportKind::Certificate | TransportKind::Broken => ErrorKind::Network,
    }
}

fn meaning_of_code(code: &str) -> Option<Meaning> {
    use Meaning::{Final, Later, Slower, Unknown};
    Some(match code {
        "SlowDown"
        | "SlowDownRead"
        | "SlowDownWrite"
        | "ServiceUnavailable"
        | "Throttling"
        | "ThrottlingException"
        | "ThrottledException"
        | "RequestThrottled"
        | "RequestThrottledException"
        | "RequestLimitExceeded"
        | "TooManyRequests"
        | "TooManyRequestsException"
        | "BandwidthLimitExceeded"
        | "KMS.ThrottlingException" => Slower,
        // The key that the object or the bucket is encrypted with cannot be used.
        code if code.starts_with("KMS.") => Final(ErrorKind::Denied),
        "RequestTimeout" | "RequestTimeoutException" => Later(ErrorKind::TimedOut),
        // Two conditional writes met: neither condition was decided, S3 says to try again.
        "ConditionalRequestConflict" | "OperationAborted" => Later(ErrorKind::Busy),
        // The bytes were damaged on the way, and refused.
        "BadDigest" | "XAmzContentSHA256Mismatch" | "XAmzContentChecksumMismatch" | "IncompleteBody" => {
            Later(ErrorKind::Corrupt)
        }
        "TemporaryRedirect" => Later(ErrorKind::Network),
        "InternalError" | "InternalServerError" | "InternalFailure" => Unknown(ErrorKind::Server),
        "NoSuchKey" | "NoSuchBucket" | "NoSuchUpload" | "NoSuchVersion" | "NotFound" | "NoSuchTagSet" => {
            Final(ErrorKind::NotFound)
        }
        "PreconditionFailed" => Final(ErrorKind::PreconditionFailed),
        "NotModified" => Final(ErrorKind::NotModified),
        "InvalidRange" => Final(ErrorKind::BadRange),
        code if is_of_credentials(code) => Final(ErrorKind::Denied),
        "AccessDenied" | "AccountProblem" | "AllAccessDisabled" => Final(ErrorKind::Denied),
        "InvalidObjectState" | "ObjectNotInActiveTierError" => Final(ErrorKind::Archived),
        "RestoreAlreadyInProgress" => Final(ErrorKind::Busy),
        "NotImplemented" | "MethodNotAllowed" => Final(ErrorKind::Unsupported),
        "EntityTooLarge" => Final(ErrorKind::TooLarge),
        "KeyTooLongError" | "KeyTooLong" => Final(ErrorKind::NameTooLong),
        "BucketAlreadyExists" | "BucketAlreadyOwnedByYou" => Final(ErrorKind::Exists),
        "BucketNotEmpty" => Final(ErrorKind::NotEmpty),
        "RequestTimeTooSkewed" | "PermanentRedirect" | "AuthorizationHeaderMalformed" => {
            Final(ErrorKind::Invalid)
        }
        _ => return None,
    })
}

/// The store does not accept who is asking, whatever is asked.
fn is_of_credentials(code: &str) -> bool {
    matches!(
        code,
        "InvalidAccessKeyId"
            | "SignatureDoesNotMatch"
            | "ExpiredToken"
            | "ExpiredTokenException"
            | "InvalidToken"
            | "TokenRefreshRequired"
    )
}

fn meaning_of_status(status: u16) -> Meaning {
    match status {
        503 | 429 => Meaning::Slower,
        307 => Meaning::Later(ErrorKind::Network),
        304 => Meaning::Final(ErrorKind::NotModified),
        401 | 403 => Meaning::Final(ErrorKind::Denied),
        404 => Meaning::Final(ErrorKind::NotFound),
        405 | 501 => Meaning::Final(ErrorKind::Unsupported),
        408 => Meaning::Later(ErrorKind::TimedOut),
        409 => Meaning::Final(ErrorKind::Busy),
        412 => Meaning::Final(ErrorKind::PreconditionFailed),
        413 => Meaning::Final(ErrorKind::TooLarge),
        416 => Meaning::Final(ErrorKind::BadRange),
        // A 200 that carries an error (complete, copy): the work had begun.
        200..=299 | 500..=599 => Meaning::Unknown(ErrorKind::Server),
        _ => Meaning::Final(ErrorKind::Invalid),
    }
}

fn reach_without_answer<E>(error: &SdkError<E, HttpResponse>) -> Reach
where
    E: std::error::Error + Send + Sync + 'static,
{
    for cause in sources(error) {
        if let Some(transport) = cause.downcast_ref::<TransportError>() {
            return if transport.sent {
                Reach::Sent(transport.kind)
            } else {
                Reach::NotSent(transport.kind)
            };
        }
        if let Some(credentials) = cause.downcast_ref::<CredentialsError>() {
            return match credentials {
                CredentialsError::ProviderTimedOut(_) | CredentialsError::ProviderError(_) => {
                    Reach::CredentialsLater
                }
                _ => Reach::NoCredentials,
            };
        }
    }
    match error {
        // Our connector always says more; without it, the worst is assumed.
        SdkError::DispatchFailure(dispatch) if dispatch.is_io() || dispatch.is_timeout() => {
            Reach::Sent(TransportKind::Broken)
        }
        SdkError::DispatchFailure(_) => Reach::Unmade,
        _ => Reach::Sent(TransportKind::Silent),
    }
}

fn reach_of_broken_answer<E>(error: &SdkError<E, HttpResponse>) -> Reach
where
    E: std::error::Error + Send + Sync + 'static,
{
    for cause in sources(error) {
        if let Some(transport) = cause.downcast_ref::<TransportError>() {
            return Reach::Sent(transport.kind);
        }
        if cause.downcast_ref::<hyper::Error>().is_some() || cause.downcast_ref::<std::io::Error>().is_some()
        {
            return Reach::Sent(TransportKind::Broken);
        }
    }
    Reach::Garbled
}

fn request_id_of<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> Option<String> {
    let id = match error {
        SdkError::ServiceError(service) => service.err().meta().request_id(),
        _ => None,
    };
    let id = id.or_else(|| error.raw_response().and_then(RequestId::request_id))?;
    match error.extended_request_id() {
        Some(extended) if extended != id => Some(format!("{id}/{extended}")),
        _ => Some(id.to_owned()),
    }
}

/// From the header (every redirect, and most refusals), else from the body (`AuthorizationHeaderMalformed`).
fn region_of(response: &HttpResponse) -> Option<String> {
    if let Some(region) = response.headers().get("x-amz-bucket-region") {
        return Some(region.to_owned());
    }
    let body = std::str::from_utf8(response.body().bytes()?).ok()?;
    let (_, after) = body.split_once("<Region>")?;
    let (region, _) = after.split_once("</Region>")?;
    Some(region.trim().to_owned()).filter(|region| !region.is_empty())
}

fn plain_message(status: Option<u16>) -> String {
    status.map_or_else(
        || "refused".to_owned(),
        |status| format!("HTTP status {status} without an explanation"),
    )
}

fn all_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut causes: Vec<String> = Vec::new();
    for cause in sources(error).map(ToString::to_string) {
        if causes.last() != Some(&cause) {
            causes.push(cause);
        }
    }
    causes.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16, code: Option<&str>) -> Failure {
        Failure {
            status: Some(status),
            ..Failure::of_code(code, None)
        }
    }

    fn unanswered(reach: Reach) -> Failure {
        Failure {
            reach,
            status: None,
            ..Failure::of_code(None, None)
        }
    }

    #[test]
    fn an_unknown_outcome_is_ambiguous_for_what_must_not_be_repeated() {
        let unknown = [
            unanswered(Reach::Sent(TransportKind::Broken)),
            unanswered(Reach::Sent(TransportKind::Silent)),
            unanswered(Reach::Garbled),
            answered(500, Some("InternalError")),
            answered(502, None),
            answered(504, None),
            answered(200, Some("InternalError")),
            answered(200, None),
        ];
        for failure in unknown {
            assert_eq!(
                failure.verdict(Replay::Never),
                Verdict::GiveUp(ErrorKind::Ambiguous),
                "{failure:?}"
            );
            assert!(
                matches!(failure.verdict(Replay::Safe), Verdict::Again { .. }),
                "{failure:?}"
            );
        }
    }

    #[test]
    fn what_certainly_did_not_happen_is_tried_again() {
        let not_applied = [
            (
                unanswered(Reach::NotSent(TransportKind::Connect)),
                ErrorKind::Network,
            ),
            (
                unanswered(Reach::NotSent(TransportKind::Silent)),
                ErrorKind::TimedOut,
            ),
            (answered(503, Some("SlowDown")), ErrorKind::Throttled),
            (answered(503, None), ErrorKind::Throttled),
            (answered(429, None), ErrorKind::Throttled),
            (answered(200, Some("SlowDown")), ErrorKind::Throttled),
            (answered(400, Some("RequestTimeout")), ErrorKind::TimedOut),
            (answered(409, Some("ConditionalRequestConflict")), ErrorKind::Busy),
            (answered(409, Some("OperationAborted")), ErrorKind::Busy),
        ];
        for (failure, expected) in not_applied {
            for replay in [Replay::Safe, Replay::Never] {
                assert!(
                    matches!(failure.verdict(replay), Verdict::Again { kind, .. } if kind == expected),
                    "{failure:?}"
                );
            }
        }
    }

    #[test]
    fn final_answers_are_final() {
        let table = [
            (404, Some("NoSuchKey"), ErrorKind::NotFound),
            (404, None, ErrorKind::NotFound),
            (412, None, ErrorKind::PreconditionFailed),
            (304, None, ErrorKind::NotModified),
            (403, Some("AccessDenied"), ErrorKind::Denied),
            (403, Some("RequestTimeTooSkewed"), ErrorKind::Invalid),
            (416, Some("InvalidRange"), ErrorKind::BadRange),
            (501, Some("NotImplemented"), ErrorKind::Unsupported),
            (400, Some("InvalidArgument"), ErrorKind::Invalid),
            (409, Some("BucketNotEmpty"), ErrorKind::NotEmpty),
        ];
        for (status, code, kind) in table {
            assert_eq!(
                answered(status, code).verdict(Replay::Safe),
                Verdict::GiveUp(kind),
                "{status} {code:?}"
            );
        }
        let untrusted = unanswered(Reach::NotSent(TransportKind::Certificate));
        assert_eq!(
            untrusted.verdict(Replay::Safe),
            Verdict::GiveUp(ErrorKind::Network)
        );
    }
}
