//! The one retry loop around every request.
//!
//! A permit (one of the connections) is held while an attempt runs and never while backing off. What an
//! attempt's failure means is decided in `errors`; here it is acted upon.

use super::capabilities::KnownCapabilities;
use super::clock::ServerClock;
use super::connector::Connector;
use super::credentials::Identity;
pub(super) use super::errors::Replay;
use super::errors::{Failure, Verdict};
use super::pace::{LARGEST_GAP, Pace};
use super::regions::{Regions, Way};
use super::silence;
use super::view::View;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::limits::UploadLimits;
use crate::base::object::ObjectId;
use crate::base::requests::RequestOptions;
use crate::rt;
use crate::telemetry::{Metrics, RequestClass};
use aws_sdk_s3::Client as SdkClient;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LARGEST_BACKOFF: Duration = Duration::from_secs(10);
/// A request that the store answers slowly with an error is still tried this often, however late it is. Not one that it
/// does not answer: no operation waits for much more than the stall time-out.
const LEAST_ATTEMPTS: u32 = 3;
/// A bucket moves at most once; more hops are a loop.
const MAX_REDIRECTS: u32 = 3;

/// Which connections a request competes for: small requests never wait behind bodies that nobody reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    Metadata,
    Data,
}

/// What the loop must know about a request.
pub(super) struct Call<'a> {
    /// The S3 operation's name, for messages.
    pub operation: &'static str,
    pub class: RequestClass,
    pub lane: Lane,
    pub replay: Replay,
    /// Empty for requests about no bucket.
    pub bucket: &'a str,
    pub key: Option<&'a str>,
    /// When the work that this request is part of last got ahead; `None`: now.
    pub since: Option<rt::Instant>,
    /// Somebody waits for the first answer of all: an endpoint that cannot be reached is given up after this time.
    pub patience: Option<Duration>,
}

impl<'a> Call<'a> {
    pub(super) fn on_object(operation: &'static str, class: RequestClass, id: &'a ObjectId) -> Self {
        Self {
            key: Some(&id.key),
            ..Self::on_bucket(operation, class, &id.bucket)
        }
    }

    pub(super) fn on_bucket(operation: &'static str, class: RequestClass, bucket: &'a str) -> Self {
        Self {
            operation,
            class,
            lane: Lane::Metadata,
            replay: Replay::Safe,
            bucket,
            key: None,
            since: None,
            patience: None,
        }
    }

    pub(super) fn data(self) -> Self {
        Self {
            lane: Lane::Data,
            ..self
        }
    }

    pub(super) fn replay(self, replay: Replay) -> Self {
        Self { replay, ..self }
    }

    fn complete(&self, error: Error) -> Error {
        match self.key {
            Some(key) => error.on(&ObjectId::new(self.bucket, key)),
            None if self.bucket.is_empty() => error,
            None => error.on_bucket(self.bucket),
        }
    }
}

/// Delays that double, with jitter.
pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self { next: FIRST_BACKOFF }
    }

    /// The next delay: between half and all of 100 ms, 200 ms, … 10 s.
    pub(super) fn next_delay(&mut self) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(LARGEST_BACKOFF);
        let half_ms = whole.as_millis() as u64 / 2;
        Duration::from_millis(half_ms + rt::random_below(half_ms + 1))
    }
}

/// One attempt without its type: the SDK's futures are so deep that the compiler gives up on those around
/// them.
fn attempt<T>(
    sending: impl Future<Output = Result<T, Failure>> + Send + 'static,
) -> Pin<Box<dyn Future<Output = Result<T, Failure>> + Send>> {
    Box::pin(sending)
}

/// What one call has tried against refusals.
#[derive(Default)]
struct Remedies {
    redirects: u32,
    has_renewed: bool,
}

/// What all clones of a client share.
pub(super) struct Inner {
    pub regions: Regions,
    pub identity: Identity,
    /// For requests to others than S3.
    pub connector: Connector,
    pub metrics: Arc<Metrics>,
    pub clock: Arc<ServerClock>,
    pub pace: Pace,
    pub metadata_lane: Arc<Semaphore>,
    pub data_lane: Arc<Semaphore>,
    pub stall_timeout: Duration,
    pub limits: UploadLimits,
    pub requests: RequestOptions,
    pub view: View,
    /// What killed probes left was looked for.
    pub old_probes_are_gone: AtomicBool,
    /// An answer told of a storage class, or of an encryption, that copies do not have by themselves.
    pub has_seen_other_storage: AtomicBool,
    pub capabilities: KnownCapabilities,
    pub endpoint: String,
    pub is_aws: bool,
}

impl Inner {
    /// Sends until there is an answer; see [`Self::run_holding`].
    pub(super) async fn run<T, F, Fut>(&self, call: &Call<'_>, send: F) -> Result<T>
    where
        F: Fn(&SdkClient) -> Fut,
        Fut: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        self.run_holding(call, send).await.map(|(answer, _permit)| answer)
    }

    /// Sends until there is an answer, and returns it with the connection's permit, for answers whose body is
    /// still to come.
    ///
    /// # Errors
    /// What the last failure means; `Ambiguous` at once when the outcome is unknown and `call` must not be
    /// repeated; `TimedOut` when no connection became free in time; `Throttled` when the store wants so few requests that
    /// this one's turn does not come in time.
    pub(super) async fn run_holding<T, F, Fut>(
        &self,
        call: &Call<'_>,
        send: F,
    ) -> Result<(T, OwnedSemaphorePermit)>
    where
        F: Fn(&SdkClient) -> Fut,
        Fut: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        self.check_silence(call)?;
        let since = call.since.or_else(silence::since).unwrap_or_else(rt::now);
        let mut backoff = Backoff::new();
        let mut remedies = Remedies::default();
        let mut attempts = 0;
        loop {
            let permit = self.turn(call, since).await?;
            let way = self.regions.way_to(call.bucket);
            attempts += 1;
            self.metrics.count_request(call.class);
            let failure = match attempt(send(&way.sdk)).await {
                Ok(answer) => {
                    self.pace.succeeded(call.bucket);
                    silence::ended();
                    return Ok((answer, permit));
                }
                Err(failure) => failure,
            };
            drop(permit);
            if self.is_remedied(call, &failure, &way, &mut remedies).await {
                continue;
            }
            self.note_failure(call, &failure, since);
            let kind = match failure.verdict(call.replay) {
                Verdict::GiveUp(kind) => {
                    return Err(call.complete(failure.into_error(kind, call.operation, attempts)));
                }
                Verdict::Again { kind, slower } => {
                    if slower {
                        self.pace.slow_down(call.bucket);
                    }
                    kind
                }
            };
            let delay = backoff.next_delay();
            let is_enough = attempts >= LEAST_ATTEMPTS || failure.status.is_none();
            let limit = call
                .patience
                .filter(|_| matches!(kind, ErrorKind::Network | ErrorKind::TimedOut))
                .unwrap_or(self.stall_timeout);
            if is_enough && since.elapsed() + delay >= limit {
                return Err(call.complete(failure.into_error(kind, call.operation, attempts)));
            }
            tracing::debug!(
                operation = call.operation,
                bucket = call.bucket,
                key = call.key,
                attempts,
                ?delay,
                code = failure.code,
                status = failure.status,
                request_id = failure.request_id,
                "trying again: {}",
                failure.message
            );
            rt::sleep(delay).await;
        }
    }

    /// # Errors
    /// `TimedOut` when the operation that this request is part of has waited for the store long enough.
    fn check_silence(&self, call: &Call<'_>) -> Result<()> {
        if !silence::is_over(self.stall_timeout) {
            return Ok(());
        }
        let message = format!(
            "{}: the store has not answered for {:?}",
            call.operation, self.stall_timeout
        );
        Err(call.complete(Error::new(ErrorKind::TimedOut, message)))
    }

    fn note_failure(&self, call: &Call<'_>, failure: &Failure, since: rt::Instant) {
        match failure.status {
            Some(..500) => silence::ended(),
            _ => silence::failed(since),
        }
        if !failure.is_ordinary() {
            self.metrics.count_failure(call.class);
        }
    }

    /// True when the request is to be sent again at once: to another region, or with other credentials.
    async fn is_remedied(&self, call: &Call<'_>, failure: &Failure, way: &Way, tried: &mut Remedies) -> bool {
        if self.follows_redirect(call, failure, &way.region, &mut tried.redirects) {
            return true;
        }
        let Some(doubt) = failure.doubt_of_credentials().filter(|_| !tried.has_renewed) else {
            return false;
        };
        tried.has_renewed = true;
        // Rare and deep: kept out of the futures of all requests.
        let renewing = Box::pin(self.identity.renew(&self.regions, way.generation, doubt));
        rt::timeout(self.stall_timeout, renewing).await.unwrap_or(false)
    }

    fn follows_redirect(&self, call: &Call<'_>, failure: &Failure, asked: &str, redirects: &mut u32) -> bool {
        let Some(named) = &failure.region else {
            return false;
        };
        if !matches!(failure.status, Some(301 | 307 | 400 | 403)) || *redirects == MAX_REDIRECTS {
            return false;
        }
        *redirects += 1;
        let moved = self.regions.learn(call.bucket, asked, named);
        if moved {
            tracing::debug!(
                bucket = call.bucket,
                region = named,
                "the bucket is in another region"
            );
        }
        moved
    }

    /// Waits for a connection, at the pace that the bucket allows.
    async fn turn(&self, call: &Call<'_>, since: rt::Instant) -> Result<OwnedSemaphorePermit> {
        // One gap is never too long to wait.
        let left = self
            .stall_timeout
            .saturating_sub(since.elapsed())
            .max(LARGEST_GAP);
        if self.pace.wait(call.bucket, left).await {
            return self.permit(call).await;
        }
        let message = format!(
            "{}: the store asks for fewer requests, and this one's turn did not come within {:?}",
            call.operation, self.stall_timeout
        );
        Err(call.complete(Error::new(ErrorKind::Throttled, message)))
    }

    async fn permit(&self, call: &Call<'_>) -> Result<OwnedSemaphorePermit> {
        let lane = match call.lane {
            Lane::Metadata => &self.metadata_lane,
            Lane::Data => &self.data_lane,
        };
        let waiting = lane.clone().acquire_owned();
        let got = rt::timeout(self.stall_timeout, waiting)
            .await
            .ok()
            .and_then(std::result::Result::ok);
        got.ok_or_else(|| {
            let message = format!(
                "{}: no connection became free for {:?}",
                call.operation, self.stall_timeout
            );
            call.complete(Error::new(ErrorKind::TimedOut, message))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_up_to_ten_seconds_with_jitter() {
        let mut backoff = Backoff::new();
        let mut whole = FIRST_BACKOFF;
        for _ in 0..20 {
            let delay = backoff.next_delay();
            assert!(delay >= whole / 2 && delay <= whole, "{delay:?} of {whole:?}");
            whole = (whole * 2).min(LARGEST_BACKOFF);
        }
        assert_eq!(whole, LARGEST_BACKOFF);
    }
}
