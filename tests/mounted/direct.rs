//! O_DIRECT, which fsx does not know: random operations through a handle that goes around the page cache, and through one that
//! does not, each compared with a file in this test's memory.

use crate::support::files;
use crate::support::is_nightly;
use crate::support::store::Store;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

crate::on_each_store!(handles_around_the_page_cache_agree_with_those_that_use_it);

const MAX_FILE_BYTES: u64 = 12 << 20;
const MAX_OPERATION_BYTES: u64 = 256 << 10;
const BLOCK_BYTES: u64 = 512;

/// The same numbers in every run (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// A range of whole blocks.
    fn blocks(&mut self) -> (u64, usize) {
        let offset = self.below((MAX_FILE_BYTES - MAX_OPERATION_BYTES) / BLOCK_BYTES) * BLOCK_BYTES;
        let len = (1 + self.below(MAX_OPERATION_BYTES / BLOCK_BYTES)) * BLOCK_BYTES;
        (offset, len as usize)
    }
}

fn open(path: &Path, flags: i32) -> File {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).custom_flags(flags);
    options.open(path).expect("opened")
}

fn read(file: &File, offset: u64, len: usize) -> Vec<u8> {
    let mut seen = vec![0; len];
    let mut done = 0;
    while done < len {
        match file
            .read_at(&mut seen[done..], offset + done as u64)
            .expect("read")
        {
            0 => break,
            read => done += read,
        }
    }
    seen.truncate(done);
    seen
}

fn handles_around_the_page_cache_agree_with_those_that_use_it(store: &Store) {
    let operations = if is_nightly() { 6_000 } else { 400 };
    let mount = store.mount().options("--memory 32MiB").start();
    let path = mount.join("file");
    let mut numbers = Numbers(42);
    let mut expected: Vec<u8> = Vec::new();
    let mut handles = [open(&path, libc::O_DIRECT), open(&path, 0)];
    for operation in 0..operations {
        let which = numbers.below(2) as usize;
        let (offset, len) = numbers.blocks();
        let end = offset as usize + len;
        let handle = &handles[which];
        let what = format!("operation {operation}, handle {which}: {len} at {offset}");
        match numbers.below(20) {
            0..9 => {
                let seen = read(handle, offset, len);
                let there = expected.get(offset as usize..).unwrap_or_default();
                assert!(seen == there[..len.min(there.len())], "read, {what}");
            }
            9..17 => {
                let data: Vec<u8> = (0..len).map(|at| (at as u64 ^ numbers.0) as u8).collect();
                handle.write_all_at(&data, offset).expect("written");
                expected.resize(expected.len().max(end), 0);
                expected[offset as usize..end].copy_from_slice(&data);
            }
            17 => {
                handle.set_len(end as u64).expect("truncated");
                expected.resize(end, 0);
            }
            18 => handle.sync_all().expect("in the bucket"),
            _ => {
                for handle in handles {
                    files::close(handle).expect("in the bucket");
                }
                handles = [open(&path, libc::O_DIRECT), open(&path, 0)];
            }
        }
    }
    for handle in handles {
        assert!(read(&handle, 0, expected.len() + 1) == expected);
        files::close(handle).expect("in the bucket");
    }
    assert!(store.bucket.get("file") == expected);
    mount.unmount();
    assert_eq!(store.bucket.open_uploads(), [""; 0]);
}
