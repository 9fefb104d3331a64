//! Hours of reading, in a few seconds, or half an hour at night: files that others replace all the time are read in every
//! way; each reader gets one version or ESTALE, memory stays flat, and nothing stays taken.

use crate::support::mount::Mount;
use crate::support::store::Store;
use crate::support::{PATIENCE, is_nightly, pattern, poll, processes};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

crate::on_the_embedded_store!(reading_what_others_replace_leaves_nothing_behind);

const KIB: usize = 1 << 10;
/// The shortest comes with the first request, the longest is more than all the memory.
const LENGTHS: [usize; 5] = [100, 300 * KIB, 3000 * KIB, 12_000 * KIB + 7, 40_000 * KIB];
const NIGHT: Duration = Duration::from_mins(30);
const ROUNDS_BY_DAY: u64 = 4;
const WAYS: u64 = 4;
/// What may be there more after many rounds than after some.
const FLAT_KIB: u64 = 48 << 10;

/// The version that it is, and what this version has.
fn content(file: usize, version: u64) -> Vec<u8> {
    let mut content = pattern(LENGTHS[file], version * 100 + file as u64);
    content[..8].copy_from_slice(&version.to_le_bytes());
    content
}

fn name(file: usize) -> String {
    format!("f{file}")
}

/// Reads a file whole, in one of several ways.
fn read(path: &Path, way: u64) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let len = file.metadata()?.len() as usize;
    let mut read = vec![0; len];
    let step = [64 * KIB, 1000 * KIB, 24 * KIB, 100 * KIB][(way % WAYS) as usize];
    let blocks: Vec<usize> = (0..len.div_ceil(step)).collect();
    let blocks: Vec<usize> = match way % WAYS {
        0 | 1 => blocks,
        // From its end to its beginning.
        2 => blocks.into_iter().rev().collect(),
        // Each seventh, then the ones after those, and so on.
        _ => (0..7)
            .flat_map(|first| blocks.iter().copied().skip(first).step_by(7))
            .collect(),
    };
    for block in blocks {
        let start = block * step;
        let end = (start + step).min(len);
        file.read_exact_at(&mut read[start..end], start as u64)?;
    }
    Ok(read)
}

/// One reader's round: every file, in its way.
fn read_all(paths: &[PathBuf], way: u64) {
    for (file, path) in paths.iter().enumerate() {
        match read(path, way + file as u64) {
            Ok(read) => {
                let version = u64::from_le_bytes(read[..8].try_into().expect("8 bytes"));
                assert!(
                    read == content(file, version),
                    "file {file}, version {version}: wrong bytes"
                );
            }
            // Its version is gone, or it became shorter (never, here).
            Err(error) if error.raw_os_error() == Some(libc::ESTALE) => {}
            Err(error) => panic!("file {file}: {error}"),
        }
    }
}

fn resident_kib(mount: &Mount) -> u64 {
    processes::resident_memory_kib(mount.process_id)
}

fn reading_what_others_replace_leaves_nothing_behind(store: &Store) {
    for file in 0..LENGTHS.len() {
        store.bucket.put(&name(file), content(file, 1));
    }
    let mount = store
        .mount()
        .options("--memory 32M --cache-size 64M")
        .limit(NIGHT + Duration::from_mins(5))
        .expect_in_log("PreconditionFailed")
        .start();
    let paths: Vec<PathBuf> = (0..LENGTHS.len()).map(|file| mount.join(name(file))).collect();
    let (rounds, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    let begun = Instant::now();
    let goes_on = |rounds: u64| {
        if is_nightly() {
            begun.elapsed() < NIGHT
        } else {
            rounds < ROUNDS_BY_DAY
        }
    };
    let (mut early_kib, mut late_kib) = (0, 0);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|reader| {
                let (paths, rounds, goes_on) = (&paths, &rounds, &goes_on);
                scope.spawn(move || {
                    let mut own = 0;
                    while goes_on(own) {
                        read_all(paths, reader + own);
                        own += 1;
                        rounds.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            let mut version = 2;
            while !is_over.load(Ordering::Relaxed) {
                let file = version as usize % LENGTHS.len();
                store.bucket.put(&name(file), content(file, version));
                version += 1;
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        // The first rounds fill what is kept.
        let is_warm = |rounds: u64| {
            if is_nightly() {
                begun.elapsed() > NIGHT / 6
            } else {
                rounds >= ROUNDS_BY_DAY
            }
        };
        while readers.iter().any(|reader| !reader.is_finished()) {
            let now_kib = resident_kib(&mount);
            if is_warm(rounds.load(Ordering::Relaxed)) {
                late_kib = late_kib.max(now_kib);
            } else {
                early_kib = early_kib.max(now_kib);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        is_over.store(true, Ordering::Relaxed);
    });
    println!("{early_kib} KiB at first, {late_kib} KiB later");
    // A few rounds are too few to tell.
    assert!(
        !is_nightly() || late_kib <= early_kib + FLAT_KIB,
        "{early_kib} KiB at first, {late_kib} KiB later"
    );
    // Closed files hold no memory.
    poll(PATIENCE, || {
        mount.signal(libc::SIGUSR1);
        mount
            .log()
            .says("data buffers of this mount: used_bytes=0 ")
            .then_some(())
    })
    .unwrap_or_else(|| panic!("{}", mount.log().tail()));
    let read = fs::read(&paths[0]).expect("read");
    assert_eq!(read.len(), LENGTHS[0]);
}
