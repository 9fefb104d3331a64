//! A small write to an open file costs its way through the kernel, and here a copy: no request, no disk, no allocation.

#[path = "in_process/mod.rs"]
mod in_process;

use in_process::{Options, World};
use pailfs::fs::io::WriteHow;
use pailfs::fs::{Caller, Fs};
use pailfs::tree::node::ROOT;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

/// The system's allocator, and a count of what this thread asks it for.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // A thread that ends has no count any more.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: all is the system allocator's doing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count();
        // SAFETY: as the caller promises.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const CALLER: Caller = Caller {
    uid: 0,
    gid: 0,
    thread: 1,
};
/// So much is written before anything is counted: buffers have their full length by then.
const WARM_BYTES: u64 = 4 << 20;
/// Less than what would begin to be sent.
const COUNTED_BYTES: u64 = 3 << 20;
/// A buffer holds so much, and costs a few allocations.
const BUFFER_BYTES: u64 = 1 << 20;
const OF_A_BUFFER: u64 = 8;

/// Allocations of writes of `write_bytes` each, where `place` says at which offset the one is that follows `done` bytes.
fn allocations(fs: &Arc<Fs>, handle: u64, write_bytes: usize, flags: i32, place: impl Fn(u64) -> u64) -> u64 {
    let data = vec![7; write_bytes];
    let how = WriteHow {
        flags,
        is_page: false,
    };
    let write = |done| {
        let written = fs.write_at_once(handle, place(done), &data, how);
        assert_eq!(written, Some(write_bytes), "something is in the way");
    };
    let before = ALLOCATIONS.get();
    for done in (0..COUNTED_BYTES).step_by(write_bytes) {
        write(done);
    }
    ALLOCATIONS.get() - before
}

fn of_small_writes(write_bytes: usize, flags: i32, place: impl Fn(u64) -> u64) -> u64 {
    let world = World::new(Options {
        memory_bytes: 256 << 20,
        ..Options::default()
    });
    let mount = world.mount();
    mount.run("writing", async {
        let created = mount
            .fs
            .create(CALLER, ROOT, "f", 0o644, libc::O_WRONLY | flags)
            .await;
        let (_, opened) = created.expect("made");
        let warm = vec![1; 1 << 20];
        for offset in (0..WARM_BYTES).step_by(warm.len()) {
            let written = mount.fs.write(opened.handle, offset, &warm).await;
            written.expect("written");
        }
        let counted = allocations(&mount.fs, opened.handle, write_bytes, flags, place);
        mount.fs.flush(opened.handle).await.expect("in the bucket");
        mount.fs.release(opened.handle).await;
        counted
    })
}

#[test]
fn small_writes_allocate_nothing_but_buffers() {
    let of_buffers = COUNTED_BYTES / BUFFER_BYTES * OF_A_BUFFER;
    for write_bytes in [512, 4096] {
        let behind = of_small_writes(write_bytes, 0, |done| WARM_BYTES + done);
        assert!(
            behind <= of_buffers,
            "{behind} in writes of {write_bytes} at the end"
        );
        let appended = of_small_writes(write_bytes, libc::O_APPEND, |_| 0);
        assert!(appended <= of_buffers, "{appended} in appends of {write_bytes}");
    }
}

/// What is written again before it is sent is written in place. A file may be looked at once in thousands of writes.
#[test]
fn small_writes_over_what_was_written_allocate_nothing() {
    for write_bytes in [512, 4096] {
        let again = of_small_writes(write_bytes, 0, |done| done * 7 % (WARM_BYTES - 4096));
        let writes = COUNTED_BYTES / write_bytes as u64;
        assert!(again * 100 <= writes, "{again} in {writes} writes over others");
    }
}
