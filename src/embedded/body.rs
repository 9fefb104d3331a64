//! Bodies on their way in and out.
//!
//! 1. A body of any size goes out in bounded memory: [`SpanBody`] reads one chunk ahead of the connection, into
//!    buffers that come back when the chunk was sent (fresh pages cost more than copying into them).
//! 2. An answer may be sent before the request's body was read (an early 412). If the rest were not read, the
//!    kernel would reset the connection and the client might never see the answer: [`SharedIncoming`] lets the
//!    connection drain what the operation left.
//! 3. Faults in the middle of a body: [`AnswerBody`].

use super::blobs::{Source, Span};
use super::faults::Fault;
use crate::rt;
use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

const CHUNK_BYTES: usize = 512 << 10;
/// Below this a thread's hand-off costs more than a read from the page cache.
const INLINE_BYTES: u64 = 64 << 10;
const MAX_IDLE_BUFFERS: usize = 32;

/// Buffers of [`CHUNK_BYTES`] that are used again.
#[derive(Clone, Debug, Default)]
pub struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

impl Buffers {
    fn take(&self) -> Vec<u8> {
        self.idle().pop().unwrap_or_else(|| vec![0; CHUNK_BYTES])
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The filled part of a buffer, which goes back when nobody looks at it any more.
struct Filled {
    buffer: Vec<u8>,
    len_bytes: usize,
    home: Buffers,
}

impl AsRef<[u8]> for Filled {
    fn as_ref(&self) -> &[u8] {
        &self.buffer[..self.len_bytes]
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        let mut idle = self.home.idle();
        if idle.len() < MAX_IDLE_BUFFERS {
            idle.push(std::mem::take(&mut self.buffer));
        }
    }
}

type Reading = Pin<Box<dyn Future<Output = io::Result<Bytes>> + Send>>;

/// What spans hold, as a body.
pub struct SpanBody {
    spans: VecDeque<Span>,
    /// The file of the first span, once it is open.
    file: Option<Arc<File>>,
    buffers: Buffers,
    reading: Option<Reading>,
    left_bytes: u64,
}

impl SpanBody {
    pub fn new(spans: Vec<Span>, buffers: Buffers) -> Self {
        let left_bytes = spans.iter().map(|span| span.len_bytes).sum();
        Self {
            spans: spans.into(),
            file: None,
            buffers,
            reading: None,
            left_bytes,
        }
    }

    /// The next chunk to read: straight from memory, or a future that has yet to be polled.
    fn next_read(&mut self) -> Option<io::Result<Next>> {
        while self.spans.front().is_some_and(|span| span.len_bytes == 0) {
            self.spans.pop_front();
            self.file = None;
        }
        let span = self.spans.front_mut()?;
        let file = match (&self.file, span.blob.open_unless(self.file.is_some())) {
            (Some(file), _) => Arc::clone(file),
            (None, Err(error)) => return Some(Err(error)),
            (None, Ok(Some(Source::Memory(bytes)))) => {
                let start = span.offset_bytes as usize;
                let chunk = bytes.slice(start..start + span.len_bytes as usize);
                self.spans.pop_front();
                return Some(Ok(Next::Chunk(chunk)));
            }
            (None, Ok(Some(Source::File(file)))) => Arc::clone(self.file.insert(Arc::new(file))),
            (None, Ok(None)) => return None,
        };
        let offset_bytes = span.offset_bytes;
        let len_bytes = span.len_bytes.min(CHUNK_BYTES as u64);
        span.offset_bytes += len_bytes;
        span.len_bytes -= len_bytes;
        if len_bytes <= INLINE_BYTES {
            let mut chunk = BytesMut::zeroed(len_bytes as usize);
            return Some(
                file.read_exact_at(&mut chunk, offset_bytes)
                    .map(|()| Next::Chunk(chunk.freeze())),
            );
        }
        let home = self.buffers.clone();
        Some(Ok(Next::Reading(Box::pin(rt::blocking(move || {
            let mut filled = Filled {
                buffer: home.take(),
                len_bytes: len_bytes as usize,
                home,
            };
            let Filled {
                buffer, len_bytes, ..
            } = &mut filled;
            file.read_exact_at(&mut buffer[..*len_bytes], offset_bytes)?;
            Ok(Bytes::from_owner(filled))
        })))))
    }

    /// Starts reading ahead, unless that is under way.
    fn start_reading(&mut self, cx: &mut Context<'_>) {
        if self.reading.is_some() {
            return;
        }
        self.reading = match self.next_read() {
            None => None,
            Some(Err(error)) => Some(Box::pin(std::future::ready(Err(error)))),
            Some(Ok(Next::Chunk(chunk))) => Some(Box::pin(std::future::ready(Ok(chunk)))),
            // A future does nothing until it is polled: this starts the thread.
            Some(Ok(Next::Reading(mut reading))) => Some(match reading.as_mut().poll(cx) {
                Poll::Ready(outcome) => Box::pin(std::future::ready(outcome)),
                Poll::Pending => reading,
            }),
        };
    }
}

enum Next {
    Chunk(Bytes),
    Reading(Reading),
}

impl Body for SpanBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.start_reading(cx);
        let Some(reading) = self.reading.as_mut() else {
            return Poll::Ready(None);
        };
        let outcome = ready!(reading.as_mut().poll(cx));
        self.reading = None;
        let outcome = outcome.inspect(|chunk| {
            self.left_bytes -= chunk.len() as u64;
            self.start_reading(cx);
        });
        Poll::Ready(Some(outcome.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.left_bytes == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left_bytes)
    }
}

/// A request's body, of which the connection keeps a handle.
#[derive(Clone)]
pub struct SharedIncoming {
    body: Arc<Mutex<Incoming>>,
    /// The client sends nothing before the first read asks for it (`Expect: 100-continue`).
    waits_for_read: Arc<AtomicBool>,
}

impl SharedIncoming {
    pub fn new(body: Incoming, waits_for_read: bool) -> Self {
        Self {
            body: Arc::new(Mutex::new(body)),
            waits_for_read: Arc::new(AtomicBool::new(waits_for_read)),
        }
    }

    /// Reads and forgets the rest in the background, if there is any.
    pub fn drain(self) {
        if self.is_end_stream() || self.waits_for_read.load(Ordering::Relaxed) {
            return;
        }
        rt::spawn(async move {
            let mut body = self;
            while let Some(Ok(_)) = http_body_util::BodyExt::frame(&mut body).await {}
        });
    }

    fn lock(&self) -> MutexGuard<'_, Incoming> {
        self.body.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Body for SharedIncoming {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.waits_for_read.store(false, Ordering::Relaxed);
        Pin::new(&mut *self.lock()).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.lock().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.lock().size_hint()
    }
}

/// An answer's body with what befalls it.
pub struct AnswerBody {
    inner: s3s::Body,
    fault: Option<Fault>,
    sent_bytes: u64,
    /// The length that a body which ends early pretends to have.
    pub shortened_bytes: Option<u64>,
}

impl AnswerBody {
    pub fn new(inner: s3s::Body, fault: Option<Fault>) -> Self {
        let shortened_bytes = match fault {
            Some(Fault::ShortenBody { to_bytes }) => Some(
                inner
                    .size_hint()
                    .exact()
                    .map_or(to_bytes, |length| length.min(to_bytes)),
            ),
            _ => None,
        };
        Self {
            inner,
            fault,
            sent_bytes: 0,
            shortened_bytes,
        }
    }

    /// How many bytes may still be sent before the fault strikes.
    fn allowed_bytes(&self) -> u64 {
        match self.fault {
            Some(
                Fault::CutBody { after_bytes }
                | Fault::StallBody { after_bytes }
                | Fault::ShortenBody {
                    to_bytes: after_bytes,
                },
            ) => after_bytes.saturating_sub(self.sent_bytes),
            _ => u64::MAX,
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let allowed_bytes = self.allowed_bytes();
        match self.fault {
            Some(Fault::CutBody { .. }) if allowed_bytes == 0 => {
                return Poll::Ready(Some(Err("the body was cut on purpose".into())));
            }
            Some(Fault::ShortenBody { .. }) if allowed_bytes == 0 => return Poll::Ready(None),
            // Whoever waits for ever needs no waker.
            Some(Fault::StallBody { .. }) if allowed_bytes == 0 => return Poll::Pending,
            _ => {}
        }
        let Some(frame) = ready!(Pin::new(&mut self.inner).poll_frame(cx)) else {
            return Poll::Ready(None);
        };
        let mut data = match frame.map(Frame::into_data) {
            Ok(Ok(data)) => data,
            Ok(Err(other)) => return Poll::Ready(Some(Ok(other))),
            Err(error) => return Poll::Ready(Some(Err(error))),
        };
        data.truncate(usize::try_from(allowed_bytes).unwrap_or(usize::MAX));
        if let Some(Fault::FlipByte { at_bytes }) = self.fault
            && let Some(byte) = at_bytes
                .checked_sub(self.sent_bytes)
                .filter(|at| *at < data.len() as u64)
        {
            let mut changed = BytesMut::from(&data[..]);
            changed[byte as usize] ^= 0xFF;
            data = changed.freeze();
        }
        self.sent_bytes += data.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.fault.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.shortened_bytes {
            Some(length) => SizeHint::with_exact(length.saturating_sub(self.sent_bytes)),
            None => self.inner.size_hint(),
        }
    }
}
