//! Reading large files in other ways than from one end to the other: in few requests, and of one version.

use crate::support::command::Tool;
use crate::support::mount::Mount;
use crate::support::store::Store;
use crate::support::{is_root, pattern};
use pailfs::embedded::{Fault, Operation, When};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};

crate::on_the_embedded_store!(
    the_kernel_reads_mapped_files_ahead,
    reading_backwards_takes_few_requests,
    reading_at_equal_distances_fetches_what_is_read,
    what_came_damaged_is_seen_by_nobody,
    a_damaged_object_is_never_read,
);
crate::on_each_store!(a_file_that_others_replace_is_read_on_where_the_bucket_keeps_versions);

const MIB: usize = 1 << 20;

fn block_at(file: &File, start: usize, len: usize) -> Vec<u8> {
    let mut block = vec![0; len];
    file.read_exact_at(&mut block, start as u64).expect("read");
    block
}

fn read_ahead_kib(mount: &Mount) -> u32 {
    let device = fs::metadata(mount.path()).expect("mounted").dev();
    let bdi = format!("/sys/class/bdi/{}:{}", libc::major(device), libc::minor(device));
    let text = fs::read_to_string(format!("{bdi}/read_ahead_kb")).expect("readable");
    text.trim().parse().expect("a number")
}

fn the_kernel_reads_mapped_files_ahead(store: &Store) {
    if !is_root() {
        // Nobody else may tell the kernel.
        return;
    }
    store.bucket.put("mapped", pattern(16 * MIB, 1));
    let mount = store.mount().start();
    assert!(read_ahead_kib(&mount) >= 1024);
    store.server().counts().reset();
    let script = "
import mmap, sys
with open(sys.argv[1], 'rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory:
    print(sum(memory[at] for at in range(0, len(memory), 4096)))
";
    let sum = Tool::new("python3")
        .arg("-c")
        .arg(script)
        .arg(mount.join("mapped"))
        .run();
    let expected: u64 = pattern(16 * MIB, 1)
        .iter()
        .step_by(4096)
        .map(|byte| u64::from(*byte))
        .sum();
    assert_eq!(sum.trim(), expected.to_string());
    let gets = store.server().counts().of(Operation::Get);
    // Page by page it would be 4096.
    assert!(gets <= 40, "{gets} requests");
}

fn reading_backwards_takes_few_requests(store: &Store) {
    let content = pattern(16 * MIB, 2);
    store.bucket.put("file", content.clone());
    let mount = store.mount().start();
    let file = File::open(mount.join("file")).expect("opened");
    store.server().counts().reset();
    for block in (0..256).rev() {
        let start = block * 64 * 1024;
        assert!(
            block_at(&file, start, 64 * 1024) == content[start..start + 64 * 1024],
            "at {start}"
        );
    }
    let gets = store.server().counts().of(Operation::Get);
    assert!(gets <= 60, "{gets} requests for 256 blocks");
}

fn reading_at_equal_distances_fetches_what_is_read(store: &Store) {
    let content = pattern(48 * MIB, 3);
    store.bucket.put("file", content.clone());
    let mount = store.mount().start();
    let file = File::open(mount.join("file")).expect("opened");
    store.server().counts().reset();
    for column in 0..40 {
        let start = MIB + column * MIB;
        assert!(
            block_at(&file, start, 16 * 1024) == content[start..start + 16 * 1024],
            "at {start}"
        );
    }
    let sent = store.server().counts().sent_bytes();
    assert!(sent <= 12 * MIB as u64, "{sent} bytes for 40 blocks of 16 KiB");
}

fn a_file_that_others_replace_is_read_on_where_the_bucket_keeps_versions(store: &Store) {
    store.bucket.keep_versions();
    let content = pattern(24 * MIB, 4);
    store.bucket.put("file", content.clone());
    let mount = store.mount().start();
    let file = File::open(mount.join("file")).expect("opened");
    assert!(block_at(&file, 0, 64 * 1024) == content[..64 * 1024]);
    store.bucket.put("file", pattern(24 * MIB, 5));
    // Nothing of this was fetched before.
    for start in [20 * MIB, 12 * MIB, 23 * MIB] {
        assert!(
            block_at(&file, start, 64 * 1024) == content[start..start + 64 * 1024],
            "at {start}"
        );
    }
    store.bucket.delete("file");
    assert!(block_at(&file, 16 * MIB, 64 * 1024) == content[16 * MIB..16 * MIB + 64 * 1024]);
}

/// Of these all bytes come with the open, and with their checksum.
const CHECKED: [(&str, usize); 3] = [("little", 100), ("small", 200 << 10), ("medium", 700 << 10)];
const DAMAGE: Fault = Fault::FlipByte { at_bytes: 10 };
const TOLD: &str = "what came is not what was stored";

fn mount_of_checked(store: &Store) -> Mount {
    for (name, len) in CHECKED {
        store.bucket.put(name, pattern(len, 6));
    }
    store.mount().expect_in_log(TOLD).start()
}

fn what_came_damaged_is_seen_by_nobody(store: &Store) {
    let mount = mount_of_checked(store);
    for (name, len) in CHECKED {
        store
            .server()
            .faults()
            .inject(When::on(Operation::Get).key(name), DAMAGE);
        for time in ["first", "second"] {
            let read = fs::read(mount.join(name)).expect("read");
            assert!(read == pattern(len, 6), "{name}, the {time} time");
        }
    }
}

fn a_damaged_object_is_never_read(store: &Store) {
    let mount = mount_of_checked(store);
    store
        .server()
        .faults()
        .inject(When::on(Operation::Get).for_ever(), DAMAGE);
    for (name, _) in CHECKED {
        for time in ["first", "second"] {
            let error = fs::read(mount.join(name)).map(drop).expect_err(name);
            assert_eq!(error.raw_os_error(), Some(libc::EIO), "{name}, the {time} time");
        }
    }
    store.server().faults().clear();
    for (name, len) in CHECKED {
        assert!(
            fs::read(mount.join(name)).expect("read") == pattern(len, 6),
            "{name}"
        );
    }
}
