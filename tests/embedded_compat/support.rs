//! A server of its own for each test, and short ways to say what a test is about.

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use pailfs::embedded::{Server, ServerOptions};
use std::collections::VecDeque;
use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

pub const MIB: usize = 1 << 20;
/// An ETag that no object has.
pub const NO_ETAG: &str = "\"00000000000000000000000000000000\"";
const DEADLINE: Duration = Duration::from_mins(1);

/// A client of a server on a directory of its own; ends with the test.
pub struct Fixture {
    pub client: Client,
    pub server: Server,
    pub dir: tempfile::TempDir,
}

impl Deref for Fixture {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Fixture {
    /// With one empty bucket.
    pub async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(ServerOptions::new(dir.path())).await.unwrap();
        let client = client(&server);
        client.create_bucket().bucket(BUCKET).send().await.unwrap();
        Self { client, server, dir }
    }
}

pub const BUCKET: &str = "bkt";

/// Runs a test with a deadline, on two threads.
pub fn run(test: impl Future<Output = ()>) {
    let runtime = pailfs::rt::build().unwrap();
    runtime.block_on(async {
        tokio::time::timeout(DEADLINE, test)
            .await
            .expect("the test took too long");
    });
}

pub fn config(endpoint: &str) -> aws_sdk_s3::config::Builder {
    aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .endpoint_url(endpoint)
        .force_path_style(true)
        .credentials_provider(Credentials::new("pailfs", "pailfs-secret", None, None, "test"))
        .retry_config(RetryConfig::disabled())
}

pub fn client(server: &Server) -> Client {
    Client::from_conf(config(&server.endpoint_url()).build())
}

pub async fn put(client: &Client, key: &str, body: impl Into<Vec<u8>>) -> String {
    let body = ByteStream::from(body.into());
    let answer = client
        .put_object()
        .bucket(BUCKET)
        .key(key)
        .body(body)
        .send()
        .await;
    answer
        .unwrap_or_else(|error| panic!("put {key:?}: {error:?}"))
        .e_tag
        .expect("an ETag")
}

pub async fn get(client: &Client, key: &str) -> Bytes {
    let answer = client.get_object().bucket(BUCKET).key(key).send().await;
    let body = answer
        .unwrap_or_else(|error| panic!("get {key:?}: {error:?}"))
        .body;
    body.collect()
        .await
        .unwrap_or_else(|error| panic!("body of {key:?}: {error:?}"))
        .into_bytes()
}

pub fn status<T: std::fmt::Debug, E>(answer: &Result<T, SdkError<E>>) -> Option<u16> {
    match answer {
        Ok(_) => None,
        Err(error) => error.raw_response().map(|response| response.status().as_u16()),
    }
}

/// The answer must be an error of this status.
// Callers hand over what they have just got.
#[allow(clippy::needless_pass_by_value)]
#[track_caller]
pub fn refused<T, E>(answer: Result<T, SdkError<E>>, expected: u16)
where
    T: std::fmt::Debug,
    E: std::fmt::Debug,
{
    assert_eq!(status(&answer), Some(expected), "{answer:?}");
}

/// The answer must be an error of this S3 code.
#[track_caller]
pub fn refused_as<T, E>(answer: Result<T, SdkError<E>>, code: &str)
where
    T: std::fmt::Debug,
    E: ProvideErrorMetadata + std::fmt::Debug,
{
    let error = answer.expect_err("an error");
    assert_eq!(error.code(), Some(code), "{error:?}");
}

/// Pieces as a body of known length, which the SDK streams.
struct Pieces {
    pieces: VecDeque<Bytes>,
    left_bytes: u64,
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, std::io::Error>>> {
        let piece = self.pieces.pop_front();
        self.left_bytes -= piece.as_ref().map_or(0, |piece| piece.len() as u64);
        Poll::Ready(piece.map(|piece| Ok(http_body::Frame::data(piece))))
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.left_bytes)
    }
}

fn body_of(pieces: VecDeque<Bytes>) -> ByteStream {
    let left_bytes = pieces.iter().map(|piece| piece.len() as u64).sum();
    ByteStream::new(aws_smithy_types::body::SdkBody::from_body_1_x(Pieces {
        pieces,
        left_bytes,
    }))
}

/// A body that arrives in pieces.
pub fn streamed(data: &Bytes) -> ByteStream {
    body_of(
        (0..data.len())
            .step_by(70_000)
            .map(|at| data.slice(at..data.len().min(at + 70_000)))
            .collect(),
    )
}

/// A body that takes the memory of one block.
pub fn repeated(block: &Bytes, times: usize) -> ByteStream {
    body_of(vec![block.clone(); times].into())
}

/// Data in which every place looks different.
pub fn pattern(len_bytes: usize, seed: u64) -> Bytes {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut data = vec![0; len_bytes];
    random.fill(&mut data);
    data.into()
}
