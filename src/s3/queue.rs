//! The queue that brings notifications about a bucket: Amazon SQS, with the mount's own credentials.
//!
//! Difficulties, and who solves them:
//! 1. A queue has an address of its own, and its region is in it: requests go to where the address says ([`Place`]).
//! 2. Keys are replaced while a mount lives: each request is signed with those that S3's requests are signed with now.
//! 3. Whoever listens waits for messages most of the time: a long poll ends before the connection's patience does
//!    ([`Queue::wait`]).
//!
//! Source of codes: Amazon SQS API Reference, ReceiveMessage and "Common errors".

use super::client::Client;
use super::errors::{Failure, Replay, Verdict};
use crate::base::error::{Error, ErrorKind, Result};
use crate::telemetry::RequestClass;
use aws_sdk_sqs::config::retry::RetryConfig;
use aws_sdk_sqs::config::timeout::TimeoutConfig;
use aws_sdk_sqs::config::{BehaviorVersion, Region, StalledStreamProtectionConfig};
use aws_sdk_sqs::types::DeleteMessageBatchRequestEntry;
use http::Uri;
use std::time::Duration;

/// The longest that a queue lets anybody wait.
const LONGEST_WAIT: Duration = Duration::from_secs(20);
/// A queue gives, and deletes, no more messages at a time.
const BATCH: i32 = 10;

/// One queue.
pub struct Queue {
    client: Client,
    url: String,
    place: Place,
}

/// Where requests about a queue go.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    /// Scheme and authority.
    origin: String,
    /// As the address says it.
    region: Option<String>,
}

/// A message, and the right to delete it.
pub struct Message {
    pub body: String,
    receipt: String,
}

impl Place {
    /// `https://sqs.REGION.amazonaws.com/ACCOUNT/NAME`, or the same on any other host.
    fn of(url: &str) -> Option<Self> {
        let uri: Uri = url.parse().ok()?;
        let (scheme, authority) = (uri.scheme_str()?, uri.authority()?);
        if !matches!(scheme, "http" | "https") || uri.path().trim_matches('/').is_empty() {
            return None;
        }
        let host = authority.host();
        let is_aws = host.ends_with(".amazonaws.com") || host.ends_with(".amazonaws.com.cn");
        // Also `vpce-….sqs.REGION.vpce.amazonaws.com`.
        let region = host.split('.').skip_while(|label| *label != "sqs").nth(1);
        Some(Self {
            origin: format!("{scheme}://{authority}"),
            region: region.filter(|_| is_aws).map(str::to_owned),
        })
    }
}

impl Queue {
    /// Sends no request.
    ///
    /// # Errors
    /// `Invalid` for what is no address of a queue, and where requests are not signed.
    pub fn new(client: &Client, url: &str) -> Result<Self> {
        let invalid = |message: String| Error::new(ErrorKind::Invalid, message);
        let place = Place::of(url).ok_or_else(|| {
            invalid(format!(
                "{url} is no address of a queue, such as https://sqs.eu-west-1.amazonaws.com/123456789012/name"
            ))
        })?;
        if client.inner.regions.signer().is_none() {
            return Err(invalid(format!(
                "{url} is read with credentials, and requests are not signed: leave out --no-sign-request, or do without \
                     notifications"
            )));
        }
        Ok(Self {
            client: client.clone(),
            url: url.to_owned(),
            place,
        })
    }

    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What to do about a failure of any queue.
    #[must_use]
    pub fn advice(error: &Error) -> &'static str {
        match error.kind() {
            ErrorKind::NotFound => {
                "there is no such queue: check its name, account and region in the address"
            }
            ErrorKind::Denied => {
                "these keys may not read the queue: they need sqs:ReceiveMessage and sqs:DeleteMessage on it, and the \
                 queue's own region in its address (or by --region, where the address has none)"
            }
            ErrorKind::Throttled => "the queue asks for fewer requests: each mount needs one of its own",
            _ => "check the address and the network",
        }
    }

    /// How long [`Self::receive`] may wait: the connection is given up when there is no answer for longer.
    #[must_use]
    pub fn wait(&self) -> Duration {
        (self.client.inner.stall_timeout / 3).min(LONGEST_WAIT)
    }

    /// Some of the messages that are there, at once if there are any, else none after `wait` (whole seconds).
    ///
    /// # Errors
    /// `NotFound` when there is no such queue, `Denied`, and why there is no answer. Nothing is tried again.
    pub async fn receive(&self, wait: Duration) -> Result<Vec<Message>> {
        let wait_s = i32::try_from(wait.as_secs()).unwrap_or(0);
        let asking = self
            .sdk()
            .receive_message()
            .queue_url(&self.url)
            .max_number_of_messages(BATCH)
            .wait_time_seconds(wait_s)
            .send();
        self.client.inner.metrics.count_request(RequestClass::Other);
        let received = Box::pin(asking).await;
        let received = received.map_err(|error| self.meaning(error.into(), "ReceiveMessage"))?;
        let messages = received.messages.unwrap_or_default().into_iter();
        Ok(messages
            .filter_map(|message| {
                Some(Message {
                    receipt: message.receipt_handle?,
                    body: message.body.unwrap_or_default(),
                })
            })
            .collect())
    }

    /// At most as many as [`Self::receive`] gives.
    ///
    /// # Errors
    /// As [`Self::receive`]; also when some of them could not be deleted: they will come again.
    pub async fn delete(&self, messages: &[Message]) -> Result<()> {
        let mut request = self.sdk().delete_message_batch().queue_url(&self.url);
        for (number, message) in messages.iter().enumerate() {
            let entry = DeleteMessageBatchRequestEntry::builder()
                .id(number.to_string())
                .receipt_handle(&message.receipt)
                .build();
            let entry = entry.map_err(|error| Error::new(ErrorKind::Internal, error.to_string()))?;
            request = request.entries(entry);
        }
        self.client.inner.metrics.count_request(RequestClass::Other);
        let deleted = Box::pin(request.send()).await;
        let deleted = deleted.map_err(|error| self.meaning(error.into(), "DeleteMessageBatch"))?;
        match deleted.failed.first() {
            None => Ok(()),
            Some(failed) => {
                let failure = Failure::of_code(Some(failed.code()), failed.message());
                Err(self.meaning(failure, "DeleteMessageBatch"))
            }
        }
    }

    fn sdk(&self) -> aws_sdk_sqs::Client {
        let inner = &self.client.inner;
        let region = self.place.region.as_deref().unwrap_or(self.client.region());
        let mut config = aws_sdk_sqs::Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .http_client(inner.connector.clone())
            .region(Region::new(region.to_owned()))
            .endpoint_url(&self.place.origin)
            .retry_config(RetryConfig::disabled())
            .timeout_config(TimeoutConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        config.set_credentials_provider(inner.regions.signer());
        aws_sdk_sqs::Client::from_conf(config.build())
    }

    fn meaning(&self, failure: Failure, doing: &str) -> Error {
        self.client.inner.metrics.count_failure(RequestClass::Other);
        let by_code = failure.code.as_deref().and_then(kind_of_code);
        let kind = by_code.unwrap_or_else(|| match failure.verdict(Replay::Safe) {
            Verdict::GiveUp(kind) | Verdict::Again { kind, .. } => kind,
        });
        failure.into_error(kind, &format!("{doing} of {}", self.url), 1)
    }
}

/// Codes that SQS has and S3 has not.
fn kind_of_code(code: &str) -> Option<ErrorKind> {
    Some(match code {
        "QueueDoesNotExist" | "AWS.SimpleQueueService.NonExistentQueue" | "InvalidAddress" => {
            ErrorKind::NotFound
        }
        "AccessDeniedException"
        | "UnrecognizedClientException"
        | "InvalidClientTokenId"
        | "InvalidSignatureException"
        | "IncompleteSignature"
        | "MissingAuthenticationToken"
        | "OptInRequired"
        | "InvalidSecurity" => ErrorKind::Denied,
        code if code.starts_with("Kms") => ErrorKind::Denied,
        "OverLimit" => ErrorKind::Throttled,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(origin: &str, region: Option<&str>) -> Place {
        Place {
            origin: origin.into(),
            region: region.map(str::to_owned),
        }
    }

    #[test]
    fn requests_go_to_where_the_queues_address_says() {
        for (url, expected) in [
            (
                "https://sqs.eu-west-1.amazonaws.com/123456789012/name",
                Some(place("https://sqs.eu-west-1.amazonaws.com", Some("eu-west-1"))),
            ),
            (
                "https://vpce-1-2.sqs.us-east-2.vpce.amazonaws.com/1/name",
                Some(place(
                    "https://vpce-1-2.sqs.us-east-2.vpce.amazonaws.com",
                    Some("us-east-2"),
                )),
            ),
            (
                "https://sqs.cn-north-1.amazonaws.com.cn/1/name",
                Some(place(
                    "https://sqs.cn-north-1.amazonaws.com.cn",
                    Some("cn-north-1"),
                )),
            ),
            (
                "http://127.0.0.1:5000/1/name",
                Some(place("http://127.0.0.1:5000", None)),
            ),
            (
                "http://sqs.example.com/1/name",
                Some(place("http://sqs.example.com", None)),
            ),
            ("https://sqs.eu-west-1.amazonaws.com/", None),
            ("arn:aws:sqs:eu-west-1:123456789012:name", None),
            ("ftp://host/name", None),
            ("name", None),
        ] {
            assert_eq!(Place::of(url), expected, "{url}");
        }
    }
}
