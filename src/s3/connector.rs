//! The HTTP connector under the SDK: hyper-util's client, HTTP/1.1 only, with large buffers.
//!
//! Difficulties:
//! 1. "Was it sent?" An error says whether the request may have reached the server: only a request for which
//!    no connection was made certainly has not ([`TransportError::sent`]).
//! 2. Silence. Each phase is watched: connecting, sending (each 256 KiB frame is progress), waiting for the
//!    head of the answer, and its body. A slow consumer of a body is not silence of the server.
//! 3. Headers that are not UTF-8 make the SDK fail: they are read as Latin-1 here.

use super::clock::ServerClock;
use super::dial::{BoxError, Connect, Proxies};
use crate::rt;
use crate::telemetry::Metrics;
use aws_sdk_s3::primitives::SdkBody;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use http_body::{Body, Frame, SizeHint};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::capture_connection;
use hyper_util::rt::TokioTimer;
use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

const READ_BUFFER_BYTES: usize = 1 << 20;
const IDLE_CONNECTION: Duration = Duration::from_secs(20);

/// How long each phase may be silent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    pub connect: Duration,
    /// GET and HEAD: they are sent again after a silence, so they need not wait for long.
    pub read: Duration,
    /// Everything that changes something: its reply may take long to make (a large copy) and must not be
    /// lost.
    pub write: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TransportKind {
    Connect,
    /// The server's certificate is not trusted: no retry will help.
    Certificate,
    Broken,
    Silent,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) struct TransportError {
    pub kind: TransportKind,
    /// True when the request may have reached the server.
    pub sent: bool,
    message: String,
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for TransportError {}

impl TransportError {
    fn of(error: &legacy::Error) -> Self {
        let certificate = sources(error).any(|source| {
            matches!(
                source.downcast_ref::<rustls::Error>(),
                Some(rustls::Error::InvalidCertificate(_))
            ) || source.to_string().contains("invalid peer certificate")
        });
        let kind = match (certificate, error.is_connect()) {
            (true, _) => TransportKind::Certificate,
            (false, true) => TransportKind::Connect,
            (false, false) => TransportKind::Broken,
        };
        let sent = kind == TransportKind::Broken;
        let mut message = sources(error)
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(": ");
        if certificate {
            message.push_str(" (--ca-bundle names certificates to trust)");
        }
        Self { kind, sent, message }
    }

    fn silent(sent: bool, doing: &str, limit: Duration) -> Self {
        let message = format!("no progress for {limit:?} while {doing}");
        Self {
            kind: TransportKind::Silent,
            sent,
            message,
        }
    }
}

/// An error and all its causes.
pub(super) fn sources<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let current = next?;
        next = current.source();
        Some(current)
    })
}

/// True when this cause (not its sources) says that the server fell silent.
pub(super) fn is_silence(cause: &(dyn std::error::Error + 'static)) -> bool {
    cause
        .downcast_ref::<TransportError>()
        .is_some_and(|transport| transport.kind == TransportKind::Silent)
}

/// When something last moved.
struct Progress {
    origin: rt::Instant,
    moved_ms: AtomicU64,
}

impl Progress {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            origin: rt::now(),
            moved_ms: AtomicU64::new(0),
        })
    }

    fn mark(&self) {
        self.moved_ms
            .store(self.origin.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    fn idle(&self) -> Duration {
        self.origin
            .elapsed()
            .saturating_sub(Duration::from_millis(self.moved_ms.load(Ordering::Relaxed)))
    }
}

/// Returns once nothing has moved for `limit`.
async fn until_silent(progress: Arc<Progress>, limit: Duration) {
    loop {
        let idle = progress.idle();
        if idle >= limit {
            return;
        }
        rt::sleep(limit.saturating_sub(idle) + Duration::from_millis(1)).await;
    }
}

#[derive(Clone)]
struct Spawner;

impl<F> hyper::rt::Executor<F> for Spawner
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        drop(rt::spawn(future));
    }
}

#[derive(Clone)]
pub(super) struct Connector(Arc<Shared>);

struct Shared {
    http: legacy::Client<HttpsConnector<Connect>, SentBody>,
    proxies: Arc<Proxies>,
    patience: Patience,
    metrics: Arc<Metrics>,
    clock: Arc<ServerClock>,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("patience", &self.0.patience)
            .finish_non_exhaustive()
    }
}

impl Connector {
    pub(super) fn new(
        connect: Connect,
        tls: Arc<rustls::ClientConfig>,
        proxies: Arc<Proxies>,
        patience: Patience,
        max_idle: usize,
        metrics: Arc<Metrics>,
        clock: Arc<ServerClock>,
    ) -> Self {
        let http = legacy::Client::builder(Spawner)
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_CONNECTION)
            .pool_max_idle_per_host(max_idle)
            .http1_max_buf_size(READ_BUFFER_BYTES)
            .build(HttpsConnector::from((connect, tls)));
        Self(Arc::new(Shared {
            http,
            proxies,
            patience,
            metrics,
            clock,
        }))
    }

    async fn exchange(self, request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
        let shared = &*self.0;
        let request = request
            .try_into_http1x()
            .map_err(|error| ConnectorError::user(error.into()))?;
        let idempotent = matches!(*request.method(), Method::GET | Method::HEAD);
        let limit = if idempotent {
            shared.patience.read
        } else {
            shared.patience.write
        };
        let response = shared
            .send(request, limit)
            .await
            .map_err(|error| match error.kind {
                TransportKind::Silent => ConnectorError::timeout(error.into()),
                _ => ConnectorError::io(error.into()),
            })?;
        let (mut parts, incoming) = response.into_parts();
        if let Some(date) = parts
            .headers
            .get(header::DATE)
            .and_then(|value| value.to_str().ok())
        {
            shared.clock.observe(date);
        }
        make_readable(&mut parts.headers);
        let body = ReceivedBody::new(incoming, shared.patience.read, shared.metrics.clone());
        HttpResponse::try_from(Response::from_parts(parts, SdkBody::from_body_1_x(body)))
            .map_err(|error| ConnectorError::other(error.into(), None))
    }
}

impl Shared {
    async fn send(
        &self,
        request: Request<SdkBody>,
        limit: Duration,
    ) -> Result<Response<hyper::body::Incoming>, TransportError> {
        let progress = Progress::new();
        let mut request = request.map(|body| SentBody {
            body,
            progress: progress.clone(),
            metrics: self.metrics.clone(),
        });
        if let Some(authorization) = self.proxies.authorization(request.uri()) {
            request
                .headers_mut()
                .insert(header::PROXY_AUTHORIZATION, authorization);
        }
        let mut connection = capture_connection(&mut request);
        let mut answer = pin!(self.http.request(request));
        let connected = async { drop(connection.wait_for_connection_metadata().await) };
        // TLS and the proxy's answer come on top of the TCP time-out, so this one is a little longer.
        let connect_limit = self.patience.connect + self.patience.connect / 2;
        tokio::select! {
            biased;
            done = &mut answer => return done.map_err(|error| TransportError::of(&error)),
            waited = rt::timeout(connect_limit, connected) => if waited.is_err() {
                return Err(TransportError::silent(false, "connecting", connect_limit));
            },
        }
        progress.mark();
        tokio::select! {
            biased;
            done = &mut answer => done.map_err(|error| TransportError::of(&error)),
            () = until_silent(progress.clone(), limit) => {
                Err(TransportError::silent(true, "waiting for the answer", limit))
            }
        }
    }
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        HttpConnectorFuture::new(self.clone().exchange(request))
    }
}

impl HttpClient for Connector {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

/// S3 sends user metadata as it was given; a value that is not UTF-8 is taken for Latin-1.
fn make_readable(headers: &mut HeaderMap) {
    for value in headers.values_mut() {
        if std::str::from_utf8(value.as_bytes()).is_err() {
            let text: String = value.as_bytes().iter().map(|&byte| char::from(byte)).collect();
            if let Ok(readable) = HeaderValue::from_bytes(text.as_bytes()) {
                *value = readable;
            }
        }
    }
}

/// A request body that tells when it moves.
struct SentBody {
    body: SdkBody,
    progress: Arc<Progress>,
    metrics: Arc<Metrics>,
}

impl Body for SentBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            self.progress.mark();
            let len_bytes = frame.data_ref().map_or(0, Bytes::len);
            self.metrics
                .sent_bytes
                .fetch_add(len_bytes as u64, Ordering::Relaxed);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        Body::size_hint(&self.body)
    }
}

/// An answer's body that fails when the server falls silent.
struct ReceivedBody {
    incoming: hyper::body::Incoming,
    limit: Duration,
    progress: Arc<Progress>,
    /// Armed while we wait for the server.
    watch: Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>>,
    waiting: bool,
    metrics: Arc<Metrics>,
}

impl ReceivedBody {
    fn new(incoming: hyper::body::Incoming, limit: Duration, metrics: Arc<Metrics>) -> Self {
        Self {
            incoming,
            limit,
            progress: Progress::new(),
            watch: None,
            waiting: false,
            metrics,
        }
    }

    /// Ready with the error once the server was silent for too long, counted from the first poll that found
    /// nothing.
    fn poll_silence(&mut self, context: &mut Context<'_>) -> Poll<TransportError> {
        if !self.waiting {
            self.waiting = true;
            self.progress.mark();
        }
        let (progress, limit) = (&self.progress, self.limit);
        let watch = self
            .watch
            .get_or_insert_with(|| Box::pin(until_silent(progress.clone(), limit)));
        watch
            .as_mut()
            .poll(context)
            .map(|()| TransportError::silent(true, "receiving the body", limit))
    }
}

impl Body for ReceivedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match Pin::new(&mut self.incoming).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                self.waiting = false;
                let len_bytes = frame.data_ref().map_or(0, Bytes::len);
                self.metrics
                    .received_bytes
                    .fetch_add(len_bytes as u64, Ordering::Relaxed);
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(other) => Poll::Ready(other.map(|result| result.map_err(Into::into))),
            Poll::Pending => self.poll_silence(context).map(|error| Some(Err(error.into()))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        Body::size_hint(&self.incoming)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_values_that_are_not_utf8_become_readable() {
        let mut headers = HeaderMap::new();
        headers.insert(
            "x-amz-meta-a",
            HeaderValue::from_bytes(b"caf\xe9").expect("obs-text is allowed"),
        );
        headers.insert(
            "x-amz-meta-b",
            HeaderValue::from_bytes("café".as_bytes()).expect("obs-text is allowed"),
        );
        make_readable(&mut headers);
        assert_eq!(headers["x-amz-meta-a"].as_bytes(), "café".as_bytes());
        assert_eq!(headers["x-amz-meta-b"].as_bytes(), "café".as_bytes());
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_counted_from_the_last_movement() {
        let progress = Progress::new();
        let started = rt::now();
        let watch = rt::spawn(until_silent(progress.clone(), Duration::from_secs(10)));
        rt::sleep(Duration::from_secs(7)).await;
        progress.mark();
        watch.await.expect("the watch ends");
        assert!(
            started.elapsed() >= Duration::from_secs(17),
            "{:?}",
            started.elapsed()
        );
    }
}
