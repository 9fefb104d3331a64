//! The data of reads and writes: a buffer for each loop, used again and again, as fresh memory costs more than a copy.

use std::cell::Cell;

thread_local! {
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// This thread's buffer, empty; a new one while somebody has it.
pub(super) fn take() -> Vec<u8> {
    let mut buffer = BUFFER.take();
    buffer.clear();
    buffer
}

/// For the next one on this thread.
pub(super) fn keep(buffer: Vec<u8>) {
    let kept = BUFFER.take();
    BUFFER.set(if kept.capacity() < buffer.capacity() {
        buffer
    } else {
        kept
    });
}
