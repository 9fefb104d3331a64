//! Moving objects: the memory for it, and the reader.
//!
//! 1. A small object is one request, and its body is passed on as it comes; a larger one is read by the reader of mounts,
//!    in parallel and ahead ([`Download`]).
//! 2. Nobody knows how long an object is before the first answer, and an empty one has no range that could be asked for.

use super::args::TransferArgs;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::limits::MIB;
use crate::base::object::{ByteRange, ETag, ObjectId, ObjectInfo};
use crate::cli::environment::Environment;
use crate::cli::failure::Failure;
use crate::cli::mount_config;
use crate::object::budget::Budget;
use crate::object::reader::{ReadStream, Reader};
use crate::s3::types::GetRequest;
use crate::s3::{BodyReader, Client};
use std::sync::Arc;
use std::time::Duration;

/// Bytes are handed on in pieces of about this size.
pub const STEP_BYTES: usize = 1 << 20;
/// The first request asks for this much; most objects are whole then.
const FIRST_BYTES: u64 = 8 * MIB;
/// Half of what a mount takes: one command moves one object.
const DEFAULT_MEMORY_BYTES: u64 = 128 * MIB;

/// How much memory and patience a transfer has.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub memory_bytes: u64,
    pub stall_timeout: Duration,
}

impl Limits {
    /// # Errors
    /// Usage for values that cannot be.
    pub fn resolve(args: &TransferArgs, environment: &Environment) -> Result<Self, Failure> {
        let memory_bytes = mount_config::memory_budget(args.memory, environment)?;
        let stall_timeout = args.stall_timeout.unwrap_or(mount_config::DEFAULT_STALL_TIMEOUT);
        if stall_timeout.is_zero() {
            return Err(Failure::usage("--stall-timeout must be longer than nothing"));
        }
        Ok(Self {
            memory_bytes: match args.memory {
                Some(_) => memory_bytes,
                None => memory_bytes.min(DEFAULT_MEMORY_BYTES),
            },
            stall_timeout,
        })
    }

    pub fn budget(&self) -> Arc<Budget> {
        Budget::new(self.memory_bytes, self.stall_timeout)
    }
}

/// The part of an object that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    From(u64),
    /// Both ends included, as HTTP has it.
    Between(u64, u64),
    Last(u64),
}

impl Wanted {
    /// `A-B`, `A-`, `-N`.
    ///
    /// # Errors
    /// The text that says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let number = |text: &str| {
            let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            is_number.then(|| text.parse::<u64>().ok()).flatten()
        };
        let parsed = match text.split_once('-') {
            Some(("", last)) => number(last).map(Self::Last),
            Some((first, "")) => number(first).map(Self::From),
            Some((first, last)) => number(first)
                .zip(number(last))
                .filter(|(first, last)| first <= last)
                .map(|(first, last)| Self::Between(first, last)),
            None => None,
        };
        parsed.ok_or_else(|| {
            "expected A-B (bytes A to B, both included, from 0), A- (from A on) or -N (the last N)".into()
        })
    }

    /// The range in an object of that size.
    fn within(self, size_bytes: u64) -> ByteRange {
        let (start, end) = match self {
            Self::From(start) => (start, size_bytes),
            Self::Between(start, last) => (start, last.saturating_add(1).min(size_bytes)),
            Self::Last(count) => (size_bytes.saturating_sub(count), size_bytes),
        };
        ByteRange::new(start.min(end), end)
    }
}

enum Source {
    Body(Box<BodyReader>),
    Parallel {
        reader: Arc<Reader>,
        stream: Box<ReadStream>,
    },
}

/// One version of an object, or a part of it, from its first byte to its last.
pub struct Download {
    pub info: ObjectInfo,
    pub range: ByteRange,
    position: u64,
    source: Source,
}

impl Download {
    /// Returns when the first answer has begun.
    ///
    /// # Errors
    /// `NotFound`, `Denied`; `BadRange` when the object does not reach to where the range begins.
    pub async fn open(
        client: &Client,
        budget: Arc<Budget>,
        id: &ObjectId,
        wanted: Option<Wanted>,
    ) -> Result<Self> {
        let (start, end, if_match) = match wanted {
            None => (0, u64::MAX, None),
            Some(Wanted::From(start)) => (start, u64::MAX, None),
            Some(Wanted::Between(start, last)) => (start, last.saturating_add(1), None),
            Some(Wanted::Last(count)) => {
                let version = client.head(id).await?.version;
                let start = version.size_bytes.saturating_sub(count);
                (start, version.size_bytes, Some(version.etag))
            }
        };
        let range = ByteRange::new(start, end.min(start.saturating_add(FIRST_BYTES)));
        let reply = match get(
            client,
            id,
            Some(range).filter(|range| !range.is_empty()),
            if_match,
        )
        .await
        {
            Err(error) if error.kind() == ErrorKind::BadRange => {
                return Self::past_the_end(client, id, start, error).await;
            }
            other => other?,
        };
        let size_bytes = reply.info.version.size_bytes;
        let range = wanted.unwrap_or(Wanted::From(0)).within(size_bytes);
        let info = reply.info.clone();
        let source = if reply.range.end >= range.end || range.is_empty() {
            Source::Body(Box::new(reply.body))
        } else {
            Source::Parallel {
                reader: Reader::from_reply(client.clone(), budget, None, id.clone(), reply),
                stream: Box::default(),
            }
        };
        Ok(Self {
            info,
            range,
            position: range.start,
            source,
        })
    }

    /// An empty object, or a range that begins behind the object's end.
    async fn past_the_end(client: &Client, id: &ObjectId, start: u64, error: Error) -> Result<Self> {
        let info = client.head(id).await?;
        let size_bytes = info.version.size_bytes;
        if size_bytes > 0 || start > 0 {
            let message = format!("the range begins at byte {start}, and the object has {size_bytes}");
            let told = Error::new(ErrorKind::BadRange, message).on(id);
            let (code, request_id) = (error.s3_code(), error.request_id());
            return Err(told.with_s3(
                code.map(str::to_owned),
                error.http_status(),
                request_id.map(str::to_owned),
            ));
        }
        let reply = get(client, id, None, Some(info.version.etag)).await?;
        Ok(Self {
            info: reply.info,
            range: reply.range,
            position: 0,
            source: Source::Body(Box::new(reply.body)),
        })
    }

    /// Replaces `piece` by the next bytes; `false` at the end.
    ///
    /// # Errors
    /// `Stale` when the object was replaced meanwhile; what the requests say after all retries.
    pub async fn next(&mut self, piece: &mut Vec<u8>) -> Result<bool> {
        piece.clear();
        let left = self.range.end - self.position;
        if left == 0 {
            return Ok(false);
        }
        match &mut self.source {
            Source::Body(body) => {
                let Some(bytes) = body.next().await? else {
                    return Err(Error::new(ErrorKind::Corrupt, "the body ended early"));
                };
                let len = left.min(bytes.len() as u64) as usize;
                piece.extend_from_slice(&bytes[..len]);
            }
            Source::Parallel { reader, stream } => {
                let len = left.min(STEP_BYTES as u64) as usize;
                reader.read(stream, self.position, len, piece).await?;
                if piece.len() != len {
                    let message = "the object is shorter than its version says";
                    return Err(Error::new(ErrorKind::Corrupt, message).on(reader.id()));
                }
            }
        }
        self.position += piece.len() as u64;
        Ok(true)
    }

    /// How many bytes have been handed out.
    pub fn done_bytes(&self) -> u64 {
        self.position - self.range.start
    }
}

async fn get(
    client: &Client,
    id: &ObjectId,
    range: Option<ByteRange>,
    if_match: Option<ETag>,
) -> Result<crate::s3::GetReply> {
    let request = GetRequest {
        id: id.clone(),
        range,
        if_match,
        version_id: None,
    };
    client.get(&request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_http() {
        for (text, wanted, range) in [
            ("0-0", Wanted::Between(0, 0), (0, 1)),
            ("10-19", Wanted::Between(10, 19), (10, 20)),
            ("10-900", Wanted::Between(10, 900), (10, 100)),
            ("90-", Wanted::From(90), (90, 100)),
            ("-7", Wanted::Last(7), (93, 100)),
            ("-700", Wanted::Last(700), (0, 100)),
            ("5-18446744073709551615", Wanted::Between(5, u64::MAX), (5, 100)),
        ] {
            assert_eq!(Wanted::parse(text), Ok(wanted), "{text}");
            assert_eq!(wanted.within(100), ByteRange::new(range.0, range.1), "{text}");
        }
        for text in ["", "-", "5", "9-3", "a-b", "1-2-3", "+1-2", "1--2"] {
            assert!(Wanted::parse(text).expect_err(text).contains("A-B"), "{text}");
        }
    }
}
