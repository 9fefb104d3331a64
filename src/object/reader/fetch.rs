//! One GET: from the request to the last byte in its pieces.
//!
//! Difficulties, and who solves them:
//! 1. Bytes of another version must never get in, also from an endpoint that ignores `If-Match` on GET: the
//!    answer's own ETag and size are compared ([`check`]).
//! 2. A fetch holds its memory before its request is sent, and waits for nothing but the store afterwards: so no fetch
//!    keeps a connection, or a permit, while it waits for another's permit ([`run`]).
//! 3. What is handed out stays in the kernel's pages, and what is kept on disk is served for as long as it is there: of a body
//!    whose checksum is known at its end only, nothing is before ([`fill`]). Where the object itself seems to be damaged
//!    nothing is read in ways that would not show it ([`Source::wrong`]).
//! 4. Somebody waits for each piece that is still wanted: whatever happens to its fetch, it is filled or it fails. Pieces
//!    may be given up at any time, also the first ones and also before the fetch begins ([`wanted`]), and a task may end
//!    where nobody thought of it ([`Unfilled`]).

use super::disk::{self, Disk};
use super::piece::{Filler, Piece, Readiness};
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::limits::MIB;
use crate::base::object::{ByteRange, ObjectId, Version};
use crate::object::budget::Budget;
use crate::plan::readahead::link::GetSeen;
use crate::rt;
use crate::s3::types::GetRequest;
use crate::s3::{BodyReader, Client};
use bytes::Bytes;
use std::sync::{Arc, OnceLock};

/// Bodies of more are not used where they are to be checked as a whole.
pub const MAX_HELD_BYTES: u64 = 8 * MIB;

/// Where the pieces of a reader come from.
pub struct Source {
    pub client: Client,
    pub budget: Arc<Budget>,
    pub disk: Option<Disk>,
    pub id: ObjectId,
    pub version: Version,
    /// All of it came several times, and never was what its checksum says. Parts of it come without a checksum.
    pub wrong: OnceLock<Error>,
}

/// Fills `pieces` (in order, without gaps between them); those it cannot fill get the error.
pub async fn run(source: Arc<Source>, pieces: Vec<Arc<Piece>>) {
    let pieces = Unfilled(pieces);
    if let Err(error) = fetch(&source, &pieces.0).await {
        fail(&source, &pieces.0, &error);
    }
}

/// The same, from a body that is already arriving and begins at the first piece. `is_whole`: it also ends with the
/// last.
pub async fn run_from_body(
    source: Arc<Source>,
    mut body: BodyReader,
    pieces: Vec<Arc<Piece>>,
    is_whole: bool,
) {
    let pieces = Unfilled(pieces);
    let filled = loop {
        match fill(&source, &mut body, &pieces.0, is_whole).await {
            // Nothing of it was handed out.
            Err(_) if body.begin_again() => {}
            other => break other,
        }
    };
    if let Err(error) = filled {
        if body.is_always_wrong() {
            source.wrong.get_or_init(|| error.clone());
        }
        fail(&source, &pieces.0, &error);
    }
}

/// The pieces of a fetch while it runs: those that it leaves unfilled fail when it ends.
struct Unfilled(Vec<Arc<Piece>>);

impl Drop for Unfilled {
    fn drop(&mut self) {
        for piece in self.0.iter().filter(|piece| piece.is_filling()) {
            piece.fail(&Error::new(
                ErrorKind::Internal,
                "the request ended without what was asked for",
            ));
        }
    }
}

fn fail(source: &Source, pieces: &[Arc<Piece>], error: &Error) {
    let error = as_stale(source, error.clone());
    for piece in pieces {
        piece.fail(&error);
    }
}

async fn fetch(source: &Source, pieces: &[Arc<Piece>]) -> Result<()> {
    if let Some(error) = source.wrong.get() {
        return Err(error.clone());
    }
    let pieces = wanted(source, pieces).await?;
    let pieces = disk::serve(source, pieces).await;
    let (Some(first), Some(last)) = (pieces.first(), pieces.last()) else {
        return Ok(());
    };
    let range = ByteRange::new(first.range.start, last.range.end);
    let request = GetRequest {
        id: source.id.clone(),
        range: Some(range),
        if_match: Some(source.version.etag.clone()),
        version_id: source.version.version_id.clone(),
    };
    let begun = rt::now();
    let mut reply = source.client.get(&request).await?;
    check(&source.version, range, &reply.info.version, reply.range)?;
    let answered = rt::now();
    if fill(source, &mut reply.body, pieces, true).await? {
        source.budget.sharing().note_get(&GetSeen {
            first_byte: answered - begun,
            body: rt::now() - answered,
            bytes: range.len(),
        });
    }
    Ok(())
}

/// The pieces from the first one on that was not given up; memory covers it then.
async fn wanted<'a>(source: &Source, pieces: &'a [Arc<Piece>]) -> Result<&'a [Arc<Piece>]> {
    let mut rest = pieces;
    while let Some((first, others)) = rest.split_first() {
        let is_ready = match first.readiness() {
            Readiness::Granted => true,
            Readiness::NotGranted => first.supply(source.budget.acquire(first.range.len()).await?),
            Readiness::GivenUp => false,
        };
        if is_ready {
            break;
        }
        rest = others;
    }
    Ok(rest)
}

/// `Stale` when the answer is of another version than the `wanted` one, `Corrupt` when it is another range.
fn check(wanted: &Version, asked: ByteRange, got: &Version, answered: ByteRange) -> Result<()> {
    if got.etag != wanted.etag || got.size_bytes != wanted.size_bytes {
        return Err(Error::new(ErrorKind::Stale, "the object was replaced"));
    }
    if answered != asked {
        let message = format!(
            "asked for bytes {}..{}, got {}..{}",
            asked.start, asked.end, answered.start, answered.end
        );
        return Err(Error::new(ErrorKind::Corrupt, message));
    }
    Ok(())
}

/// Fills the pieces from the beginning of `body`; with `to_its_end` the body must end where the last piece does. False when
/// nobody wanted the rest any more.
async fn fill(
    source: &Source,
    body: &mut BodyReader,
    pieces: &[Arc<Piece>],
    to_its_end: bool,
) -> Result<bool> {
    let mut chunk = Bytes::new();
    // Such bodies are small ones ([`MAX_HELD_BYTES`]), and all of their memory was granted.
    let mut unverified: Vec<Filler> = Vec::new();
    for (index, piece) in pieces.iter().enumerate() {
        if chunk.is_empty() {
            chunk = next(body).await?;
        }
        // Made, and so its memory touched, only when its first byte is here.
        let mut filler = Filler::new(piece.clone());
        if source.disk.is_some() {
            filler.keep_whole();
        }
        loop {
            let is_last = index + 1 == pieces.len() && chunk.len() >= filler.missing_bytes();
            if is_last && to_its_end {
                // Before the last bytes are given out: a client that checks the body's checksum says so at its end.
                expect_end(body, chunk.len() - filler.missing_bytes()).await?;
            }
            if to_its_end && body.is_to_be_checked() {
                filler.hold_from(&mut chunk);
            } else {
                unverified.iter_mut().for_each(Filler::publish);
                filler.take_from(&mut chunk);
            }
            if filler.missing_bytes() == 0 {
                break;
            }
            chunk = next(body).await?;
        }
        unverified.push(filler);
        if !body.is_to_be_checked() {
            for mut filler in unverified.drain(..) {
                if let Some(whole) = filler.take_whole() {
                    disk::keep(source, filler.start(), whole).await;
                }
            }
        }
        if piece.is_fetch_over() {
            // The rest, if there is any, was given up: it is not worth reading.
            return Ok(index + 1 == pieces.len());
        }
    }
    Ok(true)
}

async fn next(body: &mut BodyReader) -> Result<Bytes> {
    loop {
        match body.next().await? {
            Some(chunk) if chunk.is_empty() => {}
            Some(chunk) => return Ok(chunk),
            None => {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    "the body ended before its range did",
                ));
            }
        }
    }
}

async fn expect_end(body: &mut BodyReader, extra_bytes: usize) -> Result<()> {
    let mut is_longer = extra_bytes > 0;
    while let Some(chunk) = body.next().await? {
        is_longer |= !chunk.is_empty();
        if is_longer {
            break;
        }
    }
    if is_longer {
        return Err(Error::new(
            ErrorKind::Corrupt,
            "the body is longer than its range",
        ));
    }
    Ok(())
}

/// What S3 says when the version is gone is, to a reader of that version, `Stale`. All ranges lie within the
/// version, so a range that cannot be satisfied is one more sign of another version.
fn as_stale(source: &Source, error: Error) -> Error {
    let error = error.on(&source.id);
    match error.kind() {
        ErrorKind::PreconditionFailed | ErrorKind::NotFound | ErrorKind::BadRange => {
            error.as_kind(ErrorKind::Stale)
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::object::ETag;
    use crate::object::reader::piece::Fetch;
    use std::time::{Duration, SystemTime};

    #[tokio::test]
    async fn a_fetch_that_ends_anywhere_leaves_nobody_waiting() {
        let fetch = Fetch::of(2);
        let piece = |start| Piece::new(ByteRange::new(start, start + 4), fetch.clone(), None);
        let (filled, unfilled) = (piece(0), piece(4));
        Filler::new(filled.clone()).take_from(&mut Bytes::from_static(b"0123"));
        drop(Unfilled(vec![filled.clone(), unfilled.clone()]));
        assert!(filled.wait(4, Duration::from_mins(1)).await.is_ok());
        let error = unfilled.wait(8, Duration::from_mins(1)).await.err();
        assert_eq!(error.map(|error| error.kind()), Some(ErrorKind::Internal));
    }

    #[test]
    fn an_answer_is_taken_only_from_the_same_version_and_range() {
        let version = |etag: &str, size_bytes| Version {
            etag: ETag::new(etag),
            size_bytes,
            version_id: None,
            last_modified: SystemTime::UNIX_EPOCH,
        };
        let (wanted, asked) = (version("a", 100), ByteRange::new(10, 20));
        let kind = |got: Version, answered| {
            check(&wanted, asked, &got, answered)
                .err()
                .map(|error| error.kind())
        };
        assert_eq!(kind(version("a", 100), asked), None);
        assert_eq!(kind(version("b", 100), asked), Some(ErrorKind::Stale));
        assert_eq!(kind(version("a", 101), asked), Some(ErrorKind::Stale));
        assert_eq!(
            kind(version("a", 100), ByteRange::new(0, 100)),
            Some(ErrorKind::Corrupt)
        );
    }
}
