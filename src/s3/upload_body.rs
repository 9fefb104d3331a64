//! Request bodies of known length made of several buffers, without a copy.

use crate::base::segments::Segments;
use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Pieces are sent in frames of at most this size, so that progress of a slow upload is noticed.
const FRAME_BYTES: usize = 256 << 10;

struct PiecesBody {
    pieces: VecDeque<Bytes>,
    left_bytes: u64,
}

impl Body for PiecesBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(front) = self.pieces.front_mut() else {
            return Poll::Ready(None);
        };
        let frame = front.split_to(front.len().min(FRAME_BYTES));
        if front.is_empty() {
            self.pieces.pop_front();
        }
        self.left_bytes -= frame.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(frame))))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left_bytes)
    }
}

/// `segments` as a body whose length the SDK knows, so that it sends Content-Length and no chunked encoding.
pub(super) fn from_segments(segments: &Segments) -> ByteStream {
    match segments.pieces() {
        [] => ByteStream::from_static(b""),
        [only] if only.len() <= FRAME_BYTES => ByteStream::from(only.clone()),
        pieces => {
            let body = PiecesBody {
                pieces: pieces.iter().cloned().collect(),
                left_bytes: segments.len_bytes(),
            };
            ByteStream::new(SdkBody::from_body_1_x(body))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_bytes_come_out_in_order_and_the_length_is_known() {
        let data: Vec<u8> = (0..FRAME_BYTES * 2 + 77).map(|n| (n % 253) as u8).collect();
        let data = Bytes::from(data);
        let segments: Segments = [
            data.slice(..5),
            data.slice(5..FRAME_BYTES + 9),
            data.slice(FRAME_BYTES + 9..),
        ]
        .into_iter()
        .collect();
        let mut stream = from_segments(&segments);
        assert_eq!(stream.size_hint(), (data.len() as u64, Some(data.len() as u64)));
        let mut out = Vec::new();
        while let Some(piece) = stream.next().await {
            let piece = piece.expect("no error in memory");
            assert!(piece.len() <= FRAME_BYTES);
            out.extend_from_slice(&piece);
        }
        assert!(out == data, "bytes differ");
    }
}
