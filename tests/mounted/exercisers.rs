//! Programs that were written to find what a filesystem does wrong: fsx and fio.
//!
//! 1. Both compare what they read with what they wrote. What they leave is in the bucket: fsx does the same with the same
//!    seed on the local disk, and the object must equal that file; fio reads its own patterns again through another mount.
//! 2. A failure must be repeatable: the seeds are fixed, and each is in the messages.

use crate::support::command::{Tool, has_program};
use crate::support::mount::Mount;
use crate::support::server::find_tool;
use crate::support::store::Store;
use crate::support::{is_nightly, pattern};
use std::fs;
use std::path::Path;
use std::time::Duration;

crate::on_each_store!(
    fsx_reads_writes_and_maps,
    fsx_does_everything,
    fsx_on_a_file_of_many_parts,
    fsx_with_a_cache_on_disk,
    fio_verifies_what_it_wrote,
);

/// What fsx does how often; everything that it knows.
const EVERYTHING: &str = "
[weights]
close_open = 1
read = 10
write = 10
mapread = 10
mapwrite = 10
invalidate = 1
truncate = 4
fsync = 0.5
fdatasync = 0.5
posix_fallocate = 2
punch_hole = 4
sendfile = 6
posix_fadvise = 2
copy_file_range = 5
";

const READS_WRITES_AND_MAPS: &str = "
[weights]
close_open = 0.5
read = 10
write = 10
mapread = 10
mapwrite = 10
invalidate = 1
truncate = 2
";

/// Sizes in bytes.
struct Fsx {
    file: usize,
    operation: usize,
    weights: &'static str,
    /// Every night it does twenty times as many.
    operations: u64,
}

impl Fsx {
    fn configuration(&self) -> String {
        let Self {
            file,
            operation,
            weights,
            ..
        } = self;
        format!("flen = {file}\n[opsize]\nmax = {operation}\n{weights}")
    }

    /// Runs it on the mount and on the local disk, for each seed.
    fn run(&self, store: &Store, mount_options: &str, seeds: &[u64]) {
        let Some(program) = find_tool("PAILFS_TEST_FSX", "fsx") else {
            return;
        };
        let (operations, limit) = if is_nightly() {
            (self.operations * 20, Duration::from_hours(1))
        } else {
            (self.operations, Duration::from_mins(4))
        };
        let mount = store.mount().options(mount_options).limit(limit).start();
        let work = mount.work();
        fs::write(work.join("fsx.toml"), self.configuration()).expect("written");
        let exercise = |file: &Path, seed: u64| {
            Tool::new(&program)
                .arg("-f")
                .arg(work.join("fsx.toml"))
                .arg("-P")
                .arg(&work)
                .args(["-S", &seed.to_string(), "-N", &operations.to_string()])
                .arg(file)
                .limit(limit)
                .run()
        };
        for seed in seeds {
            let (name, local) = (format!("seed-{seed}"), work.join("local"));
            exercise(&mount.join(&name), *seed);
            exercise(&local, *seed);
            let expected = fs::read(&local).expect("read");
            let stored = store.bucket.get(&name);
            let first = stored.iter().zip(&expected).position(|(a, b)| a != b);
            assert!(
                stored == expected,
                "seed {seed}: {} bytes instead of {}, the first other one at {first:?}",
                stored.len(),
                expected.len()
            );
        }
        mount.unmount();
        assert_eq!(store.bucket.open_uploads(), [""; 0]);
    }
}

fn fsx_reads_writes_and_maps(store: &Store) {
    let fsx = Fsx {
        file: 256 << 10,
        operation: 64 << 10,
        weights: READS_WRITES_AND_MAPS,
        operations: 1_000,
    };
    fsx.run(store, "--memory 32MiB", &[1, 2]);
}

fn fsx_does_everything(store: &Store) {
    let fsx = Fsx {
        file: 1 << 20,
        operation: 128 << 10,
        weights: EVERYTHING,
        operations: 800,
    };
    fsx.run(store, "--memory 32MiB", &[3, 4]);
}

fn fsx_on_a_file_of_many_parts(store: &Store) {
    let fsx = Fsx {
        file: 48 << 20,
        operation: 6 << 20,
        weights: EVERYTHING,
        operations: 60,
    };
    fsx.run(store, "--memory 32MiB", &[5, 6]);
}

fn fsx_with_a_cache_on_disk(store: &Store) {
    let fsx = Fsx {
        file: 6 << 20,
        operation: 1 << 20,
        weights: EVERYTHING,
        operations: 200,
    };
    // Less than what the file takes after a few commits: blocks come and go.
    fsx.run(store, "--memory 32MiB --cache-size 16MiB", &[7]);
}

/// fio with what all jobs have in common, on one file of a mount.
fn fio(mount: &Mount, job: &str, options: &str) -> Tool {
    let tool = Tool::new("fio").args(["--name=job", "--thread=1", "--verify=crc32c", "--verify_fatal=1"]);
    tool.arg(format!("--filename={}", mount.join(job).display()))
        .args(options.split(' '))
        .current_dir(mount.work())
        .limit(Duration::from_mins(20))
}

fn fio_verifies_what_it_wrote(store: &Store) {
    if !has_program("fio") {
        return;
    }
    let times = if is_nightly() { 16 } else { 1 };
    let kib = |kib: u32| format!("--size={}k", kib * times);
    let jobs = [
        ("sequential", format!("--rw=write --bs=64k {}", kib(20 << 10))),
        (
            "random",
            format!(
                "--rw=randwrite --bsrange=512-64k --bs_unaligned=1 {}",
                kib(4 << 10)
            ),
        ),
        ("mixed", format!("--rw=randrw --bs=4k {}", kib(2 << 10))),
        (
            "synced",
            format!("--rw=randwrite --bs=16k --fsync=16 {}", kib(1 << 10)),
        ),
        (
            "direct",
            format!("--rw=randwrite --bs=16k --direct=1 {}", kib(2 << 10)),
        ),
        (
            "direct-mixed",
            format!("--rw=randrw --bs=8k --direct=1 {}", kib(1 << 10)),
        ),
        (
            "o-sync",
            format!("--rw=randwrite --bs=32k --sync=sync {}", kib(512)),
        ),
        (
            "o-dsync",
            format!("--rw=write --bs=32k --sync=dsync {}", kib(512)),
        ),
        (
            "mapped",
            format!("--rw=randwrite --bs=4k --ioengine=mmap {}", kib(1 << 10)),
        ),
    ];
    // Over objects too, which are copied where nothing is written.
    store.bucket.put("direct", pattern((2 << 20) * times as usize, 1));
    let start = || {
        let mount = store.mount().options("--memory 32MiB");
        mount.limit(Duration::from_mins(30)).start()
    };
    let mount = start();
    for (job, options) in &jobs {
        fio(&mount, job, options).arg("--do_verify=1").run();
    }
    mount.unmount();
    let mount = start();
    for (job, options) in &jobs {
        fio(&mount, job, options).arg("--verify_only").run();
    }
}
