//! The body of a GET: read as it comes from the socket, resumed after a broken or silent connection.
//!
//! Difficulties:
//! 1. The rest must come from the same version: `If-Match` (and the version id), and the answer's ETag is
//!    compared as well, because some stores ignore the condition.
//! 2. A short body is not an end: what Content-Range promised is counted.
//! 3. A server that answers and never gets ahead: resuming ends when nothing came for the stall time-out.

use super::client::Client;
use super::retry::Backoff;
use super::types::GetRequest;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::object::{ByteRange, ETag, ObjectId, ObjectInfo};
use crate::rt;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

/// A GET's answer: the head is here, the body is still on its way.
pub struct GetReply {
    pub info: ObjectInfo,
    /// The range that the body covers; `info.version.size_bytes` is the whole object's size.
    pub range: ByteRange,
    pub body: BodyReader,
}

/// The body of a GET; resumes with `Range` and `If-Match` after a broken connection.
pub struct BodyReader {
    client: Client,
    id: ObjectId,
    etag: ETag,
    version_id: Option<Arc<str>>,
    /// The next byte to be returned.
    position: u64,
    end: u64,
    source: Option<Source>,
    trouble: Option<Trouble>,
}

/// A body in flight, and the connection's permit.
pub(super) struct Source {
    stream: ByteStream,
    /// Given back together with the connection.
    _permit: OwnedSemaphorePermit,
}

impl Source {
    pub(super) fn new(stream: ByteStream, permit: OwnedSemaphorePermit) -> Self {
        Self {
            stream,
            _permit: permit,
        }
    }
}

/// Nothing has come since.
struct Trouble {
    since: rt::Instant,
    backoff: Backoff,
    times: u32,
    last: Error,
}

impl BodyReader {
    pub(super) fn new(
        client: Client,
        id: ObjectId,
        etag: ETag,
        version_id: Option<Arc<str>>,
        range: ByteRange,
        source: Source,
    ) -> Self {
        let source = (!range.is_empty()).then_some(source);
        Self {
            client,
            id,
            etag,
            version_id,
            position: range.start,
            end: range.end,
            source,
            trouble: None,
        }
    }

    /// The next piece as it came from the socket, `None` at the end.
    ///
    /// # Errors
    /// `Stale` when the version is gone upon resuming; `TimedOut`, `Network` or `Corrupt` (bodies that end
    /// early) when nothing came for the stall time-out.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        while self.position < self.end {
            let Some(source) = &mut self.source else {
                self.resume().await?;
                continue;
            };
            match source.stream.next().await {
                Some(Ok(piece)) if piece.is_empty() => {}
                Some(Ok(piece)) => return Ok(Some(self.accept(piece))),
                Some(Err(error)) => {
                    let kind = if is_silence(&error) {
                        ErrorKind::TimedOut
                    } else {
                        ErrorKind::Network
                    };
                    self.interrupted(Error::new(kind, format!("body broken: {error}")))?;
                }
                None => self.interrupted(Error::new(ErrorKind::Corrupt, "the body ended early"))?,
            }
        }
        Ok(None)
    }

    fn accept(&mut self, mut piece: Bytes) -> Bytes {
        let left = self.end - self.position;
        piece.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        self.position += piece.len() as u64;
        self.trouble = None;
        if self.position == self.end {
            self.source = None;
        }
        piece
    }

    /// Gives the connection back and takes note; fails when nothing has come for too long.
    fn interrupted(&mut self, error: Error) -> Result<()> {
        self.source = None;
        let trouble = self.trouble.get_or_insert_with(|| Trouble {
            since: rt::now(),
            backoff: Backoff::new(),
            times: 0,
            last: error.clone(),
        });
        trouble.times += 1;
        trouble.last = error;
        if trouble.since.elapsed() >= self.client.inner.stall_timeout {
            return Err(trouble.last.clone().on(&self.id).with_attempts(trouble.times));
        }
        tracing::debug!(object = %self.id, position = self.position, times = trouble.times, "{}", trouble.last);
        Ok(())
    }

    async fn resume(&mut self) -> Result<()> {
        let since = match &mut self.trouble {
            Some(trouble) => {
                rt::sleep(trouble.backoff.next_delay()).await;
                trouble.since
            }
            None => rt::now(),
        };
        let request = GetRequest {
            id: self.id.clone(),
            range: Some(ByteRange::new(self.position, self.end)),
            if_match: Some(self.etag.clone()),
            version_id: self.version_id.clone(),
        };
        let opened = match self.client.open(&request, Some(since)).await {
            Err(error) if is_gone(error.kind()) => return Err(error.as_kind(ErrorKind::Stale)),
            other => other?,
        };
        if opened.range.start != self.position || opened.range.end < self.end {
            let message = format!(
                "asked for bytes {}..{}, got {:?}",
                self.position, self.end, opened.range
            );
            return Err(Error::new(ErrorKind::Corrupt, message).on(&self.id));
        }
        self.source = Some(opened.source);
        Ok(())
    }
}

fn is_gone(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::NotFound | ErrorKind::PreconditionFailed | ErrorKind::BadRange
    )
}

fn is_silence(error: &(dyn std::error::Error + 'static)) -> bool {
    super::connector::sources(error).any(super::connector::is_silence)
}
