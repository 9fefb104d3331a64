//! The body of a GET: read as it comes from the socket, resumed after a broken or silent connection.
//!
//! Difficulties:
//! 1. The rest must come from the same version: `If-Match` (and the version id), and the answer's ETag is
//!    compared as well, because some stores ignore the condition.
//! 2. A short body is not an end: what Content-Range promised is counted.
//! 3. The checksum of a whole object is checked by the SDK when its last byte is there: small bodies are not handed out
//!    before, and asked for again if it is wrong; of larger ones the last piece is held back, and who has not used the others
//!    yet may have it asked for again, too ([`BodyReader::begin_again`]).
//! 4. A server that answers and never gets ahead: resuming ends when nothing came for the stall time-out.

use super::client::Client;
use super::retry::Backoff;
use super::types::GetRequest;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::object::{ByteRange, ETag, ObjectId, ObjectInfo};
use crate::rt;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use std::collections::VecDeque;
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
    /// The whole object was asked for, and its checksum comes with it. False after an interruption.
    is_checked: bool,
    /// Pieces of a small body whose checksum is not known to be right yet.
    held: VecDeque<Bytes>,
    mismatches: u32,
    /// Its end has just said so.
    is_wrong: bool,
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

    /// To be asked when all bytes have come: what the SDK says of their checksum.
    async fn checked_end(mut self) -> Result<()> {
        loop {
            match self.stream.next().await {
                Some(Ok(piece)) if piece.is_empty() => {}
                Some(Ok(_)) | None => return Ok(()),
                Some(Err(error)) => {
                    let is_transport = |cause: &(dyn std::error::Error + 'static)| {
                        cause.downcast_ref::<hyper::Error>().is_some()
                            || cause.downcast_ref::<std::io::Error>().is_some()
                    };
                    if is_silence(&error) || super::connector::sources(&error).any(is_transport) {
                        return Ok(());
                    }
                    let text = format!("what came is not what was stored: {error}");
                    return Err(Error::new(ErrorKind::Corrupt, text));
                }
            }
        }
    }
}

/// Whole bodies up to this size are checked before anything of them is handed out.
const MAX_HELD_BYTES: u64 = 128 * 1024;
/// So many wrong bodies in a row are not the network's fault.
const MAX_MISMATCHES: u32 = 3;

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
            is_checked: false,
            held: VecDeque::new(),
            mismatches: 0,
            is_wrong: false,
        }
    }

    pub(super) fn checked(self, is_checked: bool) -> Self {
        Self { is_checked, ..self }
    }

    /// True while the end of the body may still say that what came before it was wrong.
    #[must_use]
    pub fn is_to_be_checked(&self) -> bool {
        self.is_checked
    }

    /// True upon an error that says that what came was wrong, if it may be right the next time: then it comes again, from its
    /// beginning.
    pub fn begin_again(&mut self) -> bool {
        let begins = std::mem::take(&mut self.is_wrong) && self.mismatches < MAX_MISMATCHES;
        if begins {
            self.position = 0;
        }
        begins
    }

    /// True when it was asked for again and again, and was wrong each time.
    #[must_use]
    pub fn is_always_wrong(&self) -> bool {
        self.mismatches >= MAX_MISMATCHES
    }

    /// The next piece as it came from the socket, `None` at the end.
    ///
    /// # Errors
    /// `Stale` when the version is gone upon resuming; `TimedOut`, `Network` or `Corrupt` (bodies that end
    /// early) when nothing came for the stall time-out.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if !self.is_checked
                && let Some(piece) = self.held.pop_front()
            {
                return Ok(Some(piece));
            }
            if self.position == self.end {
                return Ok(None);
            }
            let Some(source) = &mut self.source else {
                self.resume().await?;
                continue;
            };
            match source.stream.next().await {
                Some(Ok(piece)) if piece.is_empty() => {}
                Some(Ok(piece)) => {
                    let piece = self.accept(piece);
                    if !self.is_checked {
                        return Ok(Some(piece));
                    }
                    if let Some(piece) = self.check(piece).await? {
                        return Ok(Some(piece));
                    }
                }
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
    }

    fn accept(&mut self, mut piece: Bytes) -> Bytes {
        let left = self.end - self.position;
        piece.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        self.position += piece.len() as u64;
        self.trouble = None;
        if self.position == self.end && !self.is_checked {
            self.source = None;
        }
        piece
    }

    /// What of a whole object may be handed out now.
    async fn check(&mut self, piece: Bytes) -> Result<Option<Bytes>> {
        let is_held = self.end <= MAX_HELD_BYTES;
        if self.position < self.end {
            if is_held {
                self.held.push_back(piece);
                return Ok(None);
            }
            return Ok(Some(piece));
        }
        let verdict = match self.source.take() {
            Some(source) => source.checked_end().await,
            None => Ok(()),
        };
        let Err(error) = verdict else {
            self.is_checked = false;
            self.held.push_back(piece);
            return Ok(self.held.pop_front());
        };
        self.mismatches += 1;
        tracing::warn!(object = %self.id, times = self.mismatches, "{error}");
        if !is_held || self.mismatches == MAX_MISMATCHES {
            self.held.clear();
            self.is_wrong = true;
            return Err(error.on(&self.id).with_attempts(self.mismatches));
        }
        self.held.clear();
        self.position = 0;
        Ok(None)
    }

    /// Gives the connection back and takes note; fails when nothing has come for too long.
    fn interrupted(&mut self, error: Error) -> Result<()> {
        self.source = None;
        // What is missing comes as a range, without a checksum.
        self.is_checked &= self.position == 0;
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
            range: (!self.is_checked).then(|| ByteRange::new(self.position, self.end)),
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
