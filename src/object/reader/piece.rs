//! A piece: a range of the object that is in memory or on its way there, and the unit in which memory is reserved,
//! given back and waited for.
//!
//! Difficulties, and who solves them:
//! 1. Readers take bytes while later ones still arrive, without a copy and without holding a lock while bytes are copied
//!    in: the fetch fills the part of the buffer that only it has, and hands over what is filled ([`Filler`]); readers cut
//!    off from that, as [`Bytes`], exactly what they read ([`Piece::read`]). So a read of one piece is one run of memory.
//! 2. What the socket delivers are slices of the HTTP library's read buffers, each of which may be many times as
//!    large as the slice: kept for long, they would pin memory that no permit covers. So bytes are copied, once,
//!    into the piece's own buffer, which its permit covers exactly; the library then reuses its buffer, and we ours
//!    ([`Grant`]), so that no fresh memory is touched. Keeping the slices would save about 0.1 CPU seconds per GB.
//! 3. Waking a reader for each chunk from the socket would cost more than the chunk: readers say how much they wait
//!    for, and are woken when it is there ([`Piece::wait`]).
//! 4. A piece that somebody is about to read must not be taken away, or two readers short of memory could take away
//!    each other's pieces for ever: see [`Held`].

use crate::base::error::{Error, ErrorKind, Result};
use crate::base::object::ByteRange;
use crate::base::read_bytes::ReadBytes;
use crate::object::budget::Permit;
use crate::rt;
use bytes::{Bytes, BytesMut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Shorter reads are copied: a run of its own for each would cost more than the copy.
const SHARED_FROM_BYTES: usize = 64 << 10;

/// Memory for one piece: the permit, and the buffer if it was used before.
pub struct Grant {
    pub permit: Permit,
    /// May still be referred to by a reader that copies from it; then a new one is allocated.
    buffer: BytesMut,
}

impl Grant {
    pub fn new(permit: Permit) -> Self {
        Self {
            permit,
            buffer: BytesMut::new(),
        }
    }
}

/// One GET on its way, as its pieces know it.
#[derive(Default)]
pub struct Fetch {
    /// Pieces that somebody may still want and that are not complete.
    wanted_pieces: AtomicUsize,
    task: OnceLock<rt::JoinHandle<()>>,
}

impl Fetch {
    /// For a fetch that will fill `pieces` pieces.
    pub fn of(pieces: usize) -> Arc<Self> {
        Arc::new(Self {
            wanted_pieces: AtomicUsize::new(pieces),
            task: OnceLock::new(),
        })
    }

    /// Makes the task known that works on this fetch.
    pub fn runs_in(&self, task: rt::JoinHandle<()>) {
        // Set only here, once per fetch.
        let _ = self.task.set(task);
        if self.is_over() {
            self.abort();
        }
    }

    fn is_over(&self) -> bool {
        self.wanted_pieces.load(Ordering::Acquire) == 0
    }

    fn one_less(&self, abort_if_last: bool) {
        if self.wanted_pieces.fetch_sub(1, Ordering::AcqRel) == 1 && abort_if_last {
            self.abort();
        }
    }

    /// Drops the request or the rest of its body: the connection is closed.
    fn abort(&self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

/// A range of the object, not empty, that is in memory or on its way.
pub struct Piece {
    pub range: ByteRange,
    fetch: Arc<Fetch>,
    fill: Mutex<Fill>,
    changed: Notify,
    holders: AtomicUsize,
}

struct Fill {
    /// What has arrived, in order, without gaps from the start of the piece: first what was cut off for readers, then what
    /// was not.
    cut: Vec<Cut>,
    uncut: BytesMut,
    arrived_bytes: u64,
    /// The least that any waiting reader waits for.
    wake_at_bytes: u64,
    outcome: Outcome,
    /// `None`: not granted yet, or given back.
    permit: Option<Permit>,
    /// The buffer while nobody fills it.
    buffer: BytesMut,
}

/// A run of bytes that was cut off, and how far behind the start of the piece it starts.
struct Cut {
    start: usize,
    bytes: Bytes,
}

impl Cut {
    fn end(&self) -> usize {
        self.start + self.bytes.len()
    }
}

impl Fill {
    fn cut_end(&self) -> usize {
        self.cut.last().map_or(0, Cut::end)
    }

    /// Cuts off what arrived before `end`, as far as it is not.
    fn cut_to(&mut self, end: usize) {
        let start = self.cut_end();
        if end > start {
            let bytes = self.uncut.split_to(end - start).freeze();
            self.cut.push(Cut { start, bytes });
        }
    }

    /// What was cut off of `[start, end)`, in order.
    fn runs(&self, start: usize, end: usize) -> impl Iterator<Item = Bytes> + '_ {
        let first = self.cut.partition_point(|cut| cut.end() <= start);
        self.cut[first..]
            .iter()
            .take_while(move |cut| cut.start < end)
            .map(move |cut| {
                let from = start.max(cut.start) - cut.start;
                cut.bytes.slice(from..end.min(cut.end()) - cut.start)
            })
    }

    fn copy_to(&self, start: usize, end: usize, out: &mut Vec<u8>) {
        for run in self.runs(start, end) {
            out.extend_from_slice(&run);
        }
        let cut_end = self.cut_end();
        if end > cut_end {
            out.extend_from_slice(&self.uncut[start.max(cut_end) - cut_end..end - cut_end]);
        }
    }
}

enum Outcome {
    Filling,
    Complete,
    Failed(Error),
    /// Given up; nobody finds it any more.
    Gone,
}

/// What a piece is to the fetch that begins with it.
pub enum Readiness {
    /// Memory covers it.
    Granted,
    /// Memory has to be waited for first.
    NotGranted,
    /// It was given up before its fetch began.
    GivenUp,
}

/// What became of waiting for bytes of a piece.
pub enum Waited {
    Arrived,
    /// The piece was given up meanwhile: look again.
    Gone,
}

impl Piece {
    pub fn new(range: ByteRange, fetch: Arc<Fetch>, grant: Option<Grant>) -> Arc<Self> {
        let (permit, buffer) = match grant {
            Some(grant) => (Some(grant.permit), grant.buffer),
            None => (None, BytesMut::new()),
        };
        let fill = Fill {
            cut: Vec::new(),
            uncut: BytesMut::new(),
            arrived_bytes: 0,
            wake_at_bytes: u64::MAX,
            outcome: Outcome::Filling,
            permit,
            buffer,
        };
        Arc::new(Self {
            range,
            fetch,
            fill: Mutex::new(fill),
            changed: Notify::new(),
            holders: AtomicUsize::new(0),
        })
    }

    /// No code that holds this lock can panic half-way through a change, so a poisoned lock is as good as any.
    fn fill(&self) -> MutexGuard<'_, Fill> {
        self.fill.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_held(&self) -> bool {
        self.holders.load(Ordering::Acquire) > 0
    }

    /// True while a permit covers this piece: giving it up frees memory.
    pub fn is_granted(&self) -> bool {
        self.fill().permit.is_some()
    }

    /// To be asked before anything has arrived.
    pub fn readiness(&self) -> Readiness {
        let fill = self.fill();
        match (&fill.outcome, &fill.permit) {
            (Outcome::Filling, Some(_)) => Readiness::Granted,
            (Outcome::Filling, None) => Readiness::NotGranted,
            (Outcome::Complete | Outcome::Failed(_) | Outcome::Gone, _) => Readiness::GivenUp,
        }
    }

    pub fn is_filling(&self) -> bool {
        matches!(self.fill().outcome, Outcome::Filling)
    }

    /// True when nobody wants anything more from the fetch that this piece is a part of.
    pub fn is_fetch_over(&self) -> bool {
        self.fetch.is_over()
    }

    /// False when the bytes up to `end` are not there and will not come: a read that comes now has to fetch again.
    pub fn can_serve(&self, end: u64) -> bool {
        let fill = self.fill();
        match fill.outcome {
            Outcome::Filling | Outcome::Complete => true,
            Outcome::Failed(_) => fill.arrived_bytes >= end - self.range.start,
            Outcome::Gone => false,
        }
    }

    /// Waits until the bytes up to `end` are here.
    ///
    /// # Errors
    /// The fetch's error if it failed before; `TimedOut` when nothing arrived for `stall`.
    pub async fn wait(&self, end: u64, stall: Duration) -> Result<Waited> {
        let needed_bytes = end - self.range.start;
        let mut seen_bytes = 0;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            {
                let mut fill = self.fill();
                if fill.arrived_bytes >= needed_bytes {
                    return Ok(Waited::Arrived);
                }
                match &fill.outcome {
                    Outcome::Failed(error) => return Err(error.clone()),
                    Outcome::Gone => return Ok(Waited::Gone),
                    // Complete with fewer bytes than needed cannot be: `end` lies within the piece.
                    Outcome::Filling | Outcome::Complete => {}
                }
                fill.wake_at_bytes = fill.wake_at_bytes.min(needed_bytes);
                seen_bytes = seen_bytes.max(fill.arrived_bytes);
                // Registered under the lock: a change from here on wakes it.
                changed.as_mut().enable();
            }
            if rt::timeout(stall, changed).await.is_err() && self.fill().arrived_bytes == seen_bytes {
                return Err(Error::new(
                    ErrorKind::TimedOut,
                    format!("no data arrived for {stall:?}"),
                ));
            }
        }
    }

    /// Gives the bytes of `range`, which have arrived, to `out`. False when the piece was given up before.
    pub fn read(&self, range: ByteRange, out: &mut ReadBytes) -> bool {
        let start = (range.start - self.range.start) as usize;
        let end = (range.end - self.range.start) as usize;
        let runs: Vec<Bytes> = {
            let mut fill = self.fill();
            if fill.arrived_bytes < end as u64 {
                return false;
            }
            if end - start < SHARED_FROM_BYTES {
                fill.copy_to(start, end, out.copied());
                return true;
            }
            fill.cut_to(start);
            fill.cut_to(end);
            fill.runs(start, end).collect()
        };
        for run in runs {
            out.push(run);
        }
        true
    }

    /// Covers the piece by a permit that had to be waited for. False when nobody wants the piece any more.
    pub fn supply(&self, permit: Permit) -> bool {
        let mut fill = self.fill();
        if !matches!(fill.outcome, Outcome::Filling) {
            drop(fill);
            drop(permit);
            return false;
        }
        fill.permit = Some(permit);
        true
    }

    /// Ends a fetch that cannot go on. What arrived before can still be read; an empty piece gives back its memory.
    pub fn fail(&self, error: &Error) {
        let mut fill = self.fill();
        if !matches!(fill.outcome, Outcome::Filling) {
            return;
        }
        fill.outcome = Outcome::Failed(error.clone());
        let freed = if fill.arrived_bytes == 0 {
            fill.permit.take()
        } else {
            None
        };
        drop(fill);
        drop(freed);
        self.fetch.one_less(false);
        self.changed.notify_waiters();
    }

    /// Gives the piece up; the caller has made sure that nobody finds it any more. Its memory is returned, for
    /// reuse or (if dropped) to the budget. A fetch of which nothing is wanted any more ends.
    pub fn give_up(&self) -> Option<Grant> {
        let mut fill = self.fill();
        let former = std::mem::replace(&mut fill.outcome, Outcome::Gone);
        let arrived = (std::mem::take(&mut fill.cut), std::mem::take(&mut fill.uncut));
        let buffer = std::mem::take(&mut fill.buffer);
        fill.arrived_bytes = 0;
        let permit = fill.permit.take();
        drop(fill);
        drop(arrived);
        if matches!(former, Outcome::Filling) {
            self.fetch.one_less(true);
        }
        self.changed.notify_waiters();
        permit.map(|permit| Grant { permit, buffer })
    }
}

/// Keeps a piece from being taken away by others while its holder waits for it and copies from it. Made under the lock
/// of the map in which the piece was found, so that nobody can be between finding and holding.
pub struct Held(Arc<Piece>);

impl Held {
    pub fn new(piece: Arc<Piece>) -> Self {
        piece.holders.fetch_add(1, Ordering::AcqRel);
        Self(piece)
    }

    pub fn piece(&self) -> &Arc<Piece> {
        &self.0
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.holders.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The side of a piece that the fetch fills.
pub struct Filler {
    piece: Arc<Piece>,
    buffer: BytesMut,
    missing_bytes: usize,
    wanted: bool,
    /// What the piece had when it became complete, for whoever asked to keep it.
    whole: Option<Vec<Bytes>>,
}

impl Filler {
    pub fn new(piece: Arc<Piece>) -> Self {
        let missing_bytes = piece.range.len() as usize;
        let mut buffer = std::mem::take(&mut piece.fill().buffer);
        // Allocated only now, when data is here: pieces that wait for the server cost nothing.
        if !buffer.try_reclaim(missing_bytes) {
            buffer = BytesMut::with_capacity(missing_bytes);
        }
        Self {
            piece,
            buffer,
            missing_bytes,
            wanted: true,
            whole: None,
        }
    }

    /// The complete piece is also for [`Filler::take_whole`].
    pub fn keep_whole(&mut self) {
        self.whole = Some(Vec::new());
    }

    /// The bytes of the piece once it is complete, if they were to be kept and the piece was still wanted. Taken at that
    /// very moment: its reader may be done with it, and close the file, before this is called.
    pub fn take_whole(&mut self) -> Option<Vec<Bytes>> {
        self.whole.take().filter(|whole| !whole.is_empty())
    }

    pub fn missing_bytes(&self) -> usize {
        self.missing_bytes
    }

    pub fn start(&self) -> u64 {
        self.piece.range.start
    }

    /// Takes from the front of `chunk` what belongs into this piece.
    pub fn take_from(&mut self, chunk: &mut Bytes) {
        self.hold_from(chunk);
        self.publish();
    }

    /// The same, without handing it out: that is for [`Filler::publish`] to do.
    pub fn hold_from(&mut self, chunk: &mut Bytes) {
        let taken = chunk.split_to(chunk.len().min(self.missing_bytes));
        self.missing_bytes -= taken.len();
        if self.wanted && !self.piece.is_filling() {
            self.wanted = false;
            self.buffer = BytesMut::new();
        }
        if self.wanted {
            self.buffer.extend_from_slice(&taken);
        }
    }

    /// Memory for the whole piece, for [`Filler::fill_with`]; zeroes or older data.
    pub fn take_buffer(&mut self) -> BytesMut {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(self.missing_bytes, 0);
        buffer
    }

    /// Leaves the memory to whoever fills the piece.
    pub fn give_back(self, mut buffer: BytesMut) {
        buffer.clear();
        self.piece.fill().buffer = buffer;
    }

    /// Fills the whole piece at once.
    pub fn fill_with(mut self, whole: BytesMut) {
        debug_assert_eq!(whole.len(), self.missing_bytes, "the piece is filled whole");
        self.buffer = whole;
        self.missing_bytes = 0;
        self.publish();
    }

    /// Hands out what was taken.
    pub fn publish(&mut self) {
        if !self.wanted {
            return;
        }
        let published = self.buffer.split();
        let mut fill = self.piece.fill();
        if !matches!(fill.outcome, Outcome::Filling) {
            drop(fill);
            self.wanted = false;
            self.buffer = BytesMut::new();
            return;
        }
        fill.arrived_bytes += published.len() as u64;
        // Next to what is there, in the same memory: nothing is copied.
        fill.uncut.unsplit(published);
        let is_complete = self.missing_bytes == 0;
        if is_complete {
            fill.outcome = Outcome::Complete;
            if let Some(whole) = &mut self.whole {
                fill.cut_to(self.piece.range.len() as usize);
                whole.extend(fill.cut.iter().map(|cut| cut.bytes.clone()));
            }
            fill.buffer = std::mem::take(&mut self.buffer);
        }
        let wakes = fill.arrived_bytes >= fill.wake_at_bytes;
        if wakes {
            fill.wake_at_bytes = u64::MAX;
        }
        drop(fill);
        if is_complete {
            self.piece.fetch.one_less(false);
        }
        if wakes {
            self.piece.changed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::budget::Budget;
    use proptest::prelude::*;

    const SHORT: Duration = Duration::from_millis(10);
    const LONG: Duration = Duration::from_mins(1);

    fn granted(start: u64, len: u64) -> (Arc<Fetch>, Arc<Piece>) {
        let permit = Budget::new(1 << 20, LONG)
            .try_acquire(len)
            .expect("the budget is large enough");
        let fetch = Fetch::of(1);
        let range = ByteRange::new(start, start + len);
        (fetch.clone(), Piece::new(range, fetch, Some(Grant::new(permit))))
    }

    fn copied(piece: &Piece, start: u64, end: u64) -> Option<Vec<u8>> {
        let mut out = ReadBytes::default();
        piece
            .read(ByteRange::new(start, end), &mut out)
            .then(|| out.into_vec())
    }

    #[tokio::test]
    async fn a_reader_is_served_before_the_piece_is_complete() {
        let (_fetch, piece) = granted(100, 10);
        let waiting = rt::spawn({
            let piece = piece.clone();
            async move { piece.wait(106, LONG).await.map(|_| copied(&piece, 103, 106)) }
        });
        let mut filler = Filler::new(piece.clone());
        filler.take_from(&mut Bytes::from_static(b"0123"));
        assert!(copied(&piece, 103, 106).is_none());
        filler.take_from(&mut Bytes::from_static(b"45"));
        let served = waiting
            .await
            .expect("the reader does not panic")
            .expect("the bytes arrive");
        assert_eq!(served.as_deref(), Some(&b"345"[..]));
        assert!(piece.is_filling());
    }

    fn shared(piece: &Piece, start: u64, end: u64) -> ReadBytes {
        let mut out = ReadBytes::behind(Vec::new());
        assert!(
            piece.read(ByteRange::new(start, end), &mut out),
            "{start}..{end} is there"
        );
        out
    }

    #[test]
    fn long_reads_are_one_run_of_the_pieces_own_memory_also_while_more_arrives() {
        const RUN: u64 = SHARED_FROM_BYTES as u64;
        let data: Vec<u8> = (0..4 * RUN).map(|n| (n % 251) as u8).collect();
        let (_fetch, piece) = granted(0, 4 * RUN);
        let mut filler = Filler::new(piece.clone());
        // Where the pieces of the body end has nothing to do with where reads do.
        let mut at = 0;
        let mut feed = |filler: &mut Filler, to: u64| {
            filler.take_from(&mut Bytes::copy_from_slice(&data[at..to as usize]));
            at = to as usize;
        };
        feed(&mut filler, RUN / 3);
        feed(&mut filler, RUN + 10);
        let first = shared(&piece, 0, RUN);
        feed(&mut filler, 3 * RUN - 1);
        feed(&mut filler, 4 * RUN);
        let second = shared(&piece, RUN, 3 * RUN);
        let third = shared(&piece, 3 * RUN, 4 * RUN);
        let follows = |before: &ReadBytes, after: &ReadBytes| {
            std::ptr::eq(before.as_slice().as_ptr_range().end, after.as_slice().as_ptr())
        };
        assert!(follows(&first, &second) && follows(&second, &third));
        assert_eq!(
            [first.as_slice(), second.as_slice(), third.as_slice()].concat(),
            data
        );
        // Across what was cut, and shorter than what is shared.
        for (start, end) in [(0, 4 * RUN), (RUN - 5, RUN + 5), (2 * RUN, 3 * RUN + 7), (1, 2)] {
            assert_eq!(
                shared(&piece, start, end).as_slice(),
                &data[start as usize..end as usize]
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_ends_when_nothing_arrives_but_not_while_something_does() {
        let (_fetch, piece) = granted(0, 10);
        let mut filler = Filler::new(piece.clone());
        let waiting = rt::spawn({
            let piece = piece.clone();
            async move { piece.wait(10, SHORT).await }
        });
        for _ in 0..5 {
            rt::sleep(SHORT / 2).await;
            filler.take_from(&mut Bytes::from_static(b"x"));
        }
        assert!(!waiting.is_finished());
        let outcome = waiting.await.expect("the reader does not panic");
        assert_eq!(outcome.err().map(|error| error.kind()), Some(ErrorKind::TimedOut));
    }

    #[tokio::test]
    async fn an_error_reaches_who_waits_and_leaves_what_arrived() {
        let (_fetch, piece) = granted(0, 10);
        Filler::new(piece.clone()).take_from(&mut Bytes::from_static(b"0123"));
        piece.fail(&Error::new(ErrorKind::Network, "broken"));
        assert!(piece.can_serve(4) && !piece.can_serve(5));
        assert!(matches!(piece.wait(4, LONG).await, Ok(Waited::Arrived)));
        assert_eq!(
            piece.wait(5, LONG).await.err().map(|error| error.kind()),
            Some(ErrorKind::Network)
        );
    }

    #[tokio::test]
    async fn giving_up_the_last_piece_ends_the_fetch() {
        let budget = Budget::new(100, LONG);
        let fetch = Fetch::of(2);
        let piece = |start| {
            let grant = budget.try_acquire(10).map(Grant::new);
            Piece::new(ByteRange::new(start, start + 10), fetch.clone(), grant)
        };
        let pieces = [piece(0), piece(10)];
        let (ended, mut has_ended) = tokio::sync::mpsc::channel::<()>(1);
        fetch.runs_in(rt::spawn(async move {
            let _ended = ended;
            std::future::pending::<()>().await;
        }));
        drop(pieces[0].give_up());
        assert!(matches!(
            has_ended.try_recv(),
            Err(tokio::sync::mpsc::error::TryRecvError::Empty)
        ));
        drop(pieces[1].give_up());
        assert!(
            rt::timeout(LONG, has_ended.recv())
                .await
                .expect("the task is dropped")
                .is_none()
        );
    }

    #[test]
    fn memory_that_was_given_up_is_used_again() {
        let (_fetch, piece) = granted(0, 5000);
        Filler::new(piece.clone()).take_from(&mut Bytes::from(vec![1; 5000]));
        let address = piece.fill().uncut.as_ptr();
        let grant = piece.give_up();
        assert!(grant.is_some());
        let next = Piece::new(ByteRange::new(5000, 10_000), Fetch::of(1), grant);
        Filler::new(next.clone()).take_from(&mut Bytes::from(vec![2; 5000]));
        assert_eq!(next.fill().uncut.as_ptr(), address);
        assert_eq!(copied(&next, 5000, 10_000), Some(vec![2; 5000]));
    }

    proptest! {
        #[test]
        fn what_arrives_in_chunks_is_copied_from_anywhere(
            chunk_lengths in prop::collection::vec(1..100usize, 1..40),
            from in 0..1000u64,
            len in 0..1000u64,
        ) {
            let data: Vec<u8> = (0..chunk_lengths.iter().sum::<usize>()).map(|n| n as u8).collect();
            let size = data.len() as u64;
            let (_fetch, piece) = granted(1000, size);
            let mut filler = Filler::new(piece.clone());
            let mut rest = Bytes::from(data.clone());
            for chunk_length in chunk_lengths {
                filler.take_from(&mut rest.split_to(chunk_length));
            }
            let start = from % size;
            let end = (start + len).min(size);
            prop_assert_eq!(
                copied(&piece, 1000 + start, 1000 + end),
                Some(data[start as usize..end as usize].to_vec())
            );
            prop_assert!(!piece.is_filling());
        }
    }
}
