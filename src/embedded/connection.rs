//! One connection: HTTP/1.1, signatures and XML by `s3s`, faults and counts around them.

use super::body::{AnswerBody, SharedIncoming};
use super::counts::Operation;
use super::faults::{Fate, Fault};
use super::store::Store;
use crate::rt;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{HttpError, S3Error, S3ErrorCode, S3Result, s3_error};
use std::pin::pin;
use tokio::io::{AsyncRead, AsyncWrite};

/// In every answer, and in what clients log.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-amz-request-id");
const READ_BUFFER_BYTES: usize = 1 << 20;

/// Sees every request that is signed correctly, before its body is read.
struct Gate(Store);

#[async_trait::async_trait]
impl S3Access for Gate {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        if cx.credentials().is_none() {
            return Err(s3_error!(AccessDenied, "a signature is required"));
        }
        let operation = Operation::by_s3_name(cx.s3_op().name());
        let key = cx.s3_path().get_object_key().unwrap_or_default();
        self.0.counts().add(operation, key);
        let faults = self.0.faults().fate_of(operation, key);
        let has_trailer = cx.headers().contains_key("x-amz-trailer");
        if let Some(fate) = cx.extensions_mut().get::<Fate>() {
            fate.set(faults.clone());
        }
        for fault in &faults {
            before_operation(fault).await?;
        }
        self.check_region(cx)?;
        if has_trailer && self.0.quirks().reject_checksum_trailers {
            return Err(s3_error!(NotImplemented, "trailers are not supported"));
        }
        Ok(())
    }
}

impl Gate {
    /// A request that is signed for another region than the bucket's is sent there, as S3 does it.
    fn check_region(&self, cx: &S3AccessContext<'_>) -> S3Result<()> {
        let Some(region) = cx
            .s3_path()
            .get_bucket_name()
            .and_then(|bucket| self.0.region_of(bucket))
        else {
            return Ok(());
        };
        let signed = cx.headers().get(header::AUTHORIZATION);
        let signed = signed.and_then(|value| value.to_str().ok()).unwrap_or_default();
        if signed.contains(&format!("/{region}/s3/aws4_request")) {
            return Ok(());
        }
        let mut error = s3_error!(PermanentRedirect, "the bucket is in another region");
        error.set_status_code(StatusCode::MOVED_PERMANENTLY);
        let headers = HeaderValue::from_str(&region)
            .map(|region| HeaderMap::from_iter([(HeaderName::from_static("x-amz-bucket-region"), region)]));
        if let Ok(headers) = headers {
            error.set_headers(headers);
        }
        Err(error)
    }
}

async fn before_operation(fault: &Fault) -> S3Result<()> {
    match fault {
        Fault::Delay(duration) => {
            rt::sleep(*duration).await;
            Ok(())
        }
        Fault::Answer(code) => Err(injected(code)),
        // The connection sees the fault too and closes instead of answering this.
        Fault::Disconnect => Err(s3_error!(InternalError, "disconnecting on purpose")),
        Fault::Stall => std::future::pending().await,
        _ => Ok(()),
    }
}

fn injected(code: &str) -> S3Error {
    let code = S3ErrorCode::from_bytes(code.as_bytes()).unwrap_or(S3ErrorCode::InternalError);
    let has_status = code.status_code().is_some();
    let mut error = S3Error::with_message(code, "on purpose");
    if !has_status {
        // As S3 answers what other services refuse: `KMS.DisabledException`.
        error.set_status_code(StatusCode::BAD_REQUEST);
    }
    error
}

impl Store {
    fn service(&self) -> S3Service {
        let options = self.options();
        let mut builder = S3ServiceBuilder::new(self.clone());
        builder.set_auth(SimpleAuth::from_single(
            options.access_key.clone(),
            options.secret_key.clone(),
        ));
        builder.set_access(Gate(self.clone()));
        builder.build()
    }

    /// Serves one connection until either side closes it. Errors of the connection end it and are not reported.
    pub async fn serve_connection(&self, io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        self.serve_until(io, std::future::pending()).await;
    }

    /// The same; once `closing` is done, the connection ends after the request it is busy with.
    pub(super) async fn serve_until(
        &self,
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        closing: impl Future<Output = ()>,
    ) {
        let service = self.service();
        let counts = self.counts().clone();
        let serve = hyper::service::service_fn(move |request| {
            let (service, counts) = (service.clone(), counts.clone());
            async move {
                counts.add_received(announced_bytes(request.headers()));
                let is_head = request.method() == Method::HEAD;
                let response = answer(service, request).await?;
                if !is_head {
                    counts.add_sent(announced_bytes(response.headers()));
                }
                Ok::<_, HttpError>(response)
            }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .max_buf_size(READ_BUFFER_BYTES)
            .serve_connection(TokioIo::new(io), serve);
        let mut connection = pin!(connection);
        let mut closing = pin!(closing);
        let ended = futures_util::future::select(connection.as_mut(), closing.as_mut()).await;
        let is_closing = matches!(ended, futures_util::future::Either::Right(_));
        drop(ended);
        if is_closing {
            connection.as_mut().graceful_shutdown();
            // A broken connection is as closed as any.
            let _ = connection.await;
        }
    }
}

fn announced_bytes(headers: &HeaderMap) -> u64 {
    let length = headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    length.unwrap_or(0)
}

/// Answers one request, or breaks the connection where a fault says so.
async fn answer(service: S3Service, request: Request<Incoming>) -> Result<Response<AnswerBody>, HttpError> {
    let fate = Fate::default();
    let (mut parts, incoming) = request.into_parts();
    parts.extensions.insert(fate.clone());
    let incoming = SharedIncoming::new(incoming, parts.headers.contains_key(header::EXPECT));
    let request = Request::from_parts(parts, s3s::Body::http_body(incoming.clone()));
    let response = service.call(request).await?;
    if fate.has(&Fault::Disconnect) || fate.has(&Fault::LoseReply) {
        return Err(HttpError::new("closed on purpose".into()));
    }
    let delay = fate.find(|fault| match fault {
        Fault::DelayReply(delay) => Some(*delay),
        _ => None,
    });
    if let Some(delay) = delay {
        rt::sleep(delay).await;
    }
    incoming.drain();
    let (mut parts, mut body) = response.into_parts();
    let request_id = HeaderValue::try_from(rt::random_id());
    parts.headers.extend(request_id.map(|id| (REQUEST_ID, id)));
    if fate.has(&Fault::MalformedXml) {
        parts.status = StatusCode::OK;
        body = s3s::Body::from(Bytes::from_static(b"<<< not XML"));
        parts.headers.remove(header::CONTENT_LENGTH);
        parts
            .headers
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    }
    let body = AnswerBody::new(body, fate.find(|fault| fault.is_of_body().then(|| fault.clone())));
    if let Some(length) = body.shortened_bytes {
        parts.headers.insert(header::CONTENT_LENGTH, length.into());
    }
    Ok(Response::from_parts(parts, body))
}
