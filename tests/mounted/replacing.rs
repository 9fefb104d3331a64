//! Files that are replaced all the time while programs open them: these see one version each, and no error.

use crate::support::files;
use crate::support::store::Store;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

crate::on_each_store!(a_file_can_be_opened_while_programs_rename_over_it);
// On SeaweedFS a read once showed bytes of two versions while objects were replaced; whose they were was not found out.
crate::on_the_embedded_store!(a_file_can_be_opened_while_another_mount_replaces_it);

const WRITERS: usize = 2;
const READERS: usize = 4;
/// How often each writer replaces the file.
const ROUNDS: usize = 40;
/// How often each reader reads it, at least.
const READS: usize = 40;

/// Tells its number, and that all of it is there, by its beginning, its bytes and its length.
fn version(number: usize) -> Vec<u8> {
    let mut bytes = vec![number as u8; 8 + number * 7_919 % 60_000];
    bytes[..8].copy_from_slice(&(number as u64).to_le_bytes());
    bytes
}

fn read_once(path: &Path) -> Result<(), String> {
    let mut file = File::open(path).map_err(|error| format!("open: {error}"))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)
        .map_err(|error| format!("read: {error}"))?;
    let number = bytes.first_chunk().map(|number| u64::from_le_bytes(*number));
    let number = number.ok_or_else(|| format!("only {} bytes", bytes.len()))?;
    if number as usize <= WRITERS * ROUNDS && bytes == version(number as usize) {
        Ok(())
    } else {
        let expected = version(number as usize % 1_000);
        let same = bytes
            .iter()
            .zip(&expected)
            .take_while(|(found, expected)| found == expected);
        let same = same.count();
        let rest = &bytes[same..bytes.len().min(same + 40)];
        Err(format!(
            "no version: {} bytes, the first {same} are those of version {number}, which has {}; then {rest:?}",
            bytes.len(),
            expected.len()
        ))
    }
}

/// The version that was opened is gone, and not all of it was read before: nothing else is read instead.
fn is_stale_read(failure: &str) -> bool {
    failure.starts_with("read: ") && failure.contains("os error 116")
}

/// What went wrong for readers of `of_readers` while writers replace the file by renames at `of_writers`.
fn replace_and_read(of_writers: &Path, of_readers: &Path) -> Vec<String> {
    let path = of_readers.join("file");
    files::write(&of_writers.join("file"), &version(0)).expect("written");
    let (begin, last) = (Barrier::new(WRITERS + READERS), AtomicUsize::new(0));
    let (begin, last, path) = (&begin, &last, &path);
    let write = move |writer: usize| {
        begin.wait();
        let new = of_writers.join(format!("new-{writer}"));
        for _ in 0..ROUNDS {
            let number = last.fetch_add(1, Ordering::SeqCst) + 1;
            files::write(&new, &version(number)).expect("written");
            fs::rename(&new, of_writers.join("file")).expect("renamed");
        }
    };
    let read = move || {
        begin.wait();
        let mut failures = Vec::new();
        let mut reads = 0;
        while reads < READS || last.load(Ordering::SeqCst) < WRITERS * ROUNDS {
            failures.extend(read_once(path).err());
            reads += 1;
        }
        failures
    };
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| scope.spawn(move || write(writer)))
            .collect();
        let readers: Vec<_> = (0..READERS).map(|_| scope.spawn(read)).collect();
        for writer in writers {
            writer.join().expect("no panic");
        }
        let failures = readers
            .into_iter()
            .flat_map(|reader| reader.join().expect("no panic"));
        failures.collect()
    })
}

fn a_file_can_be_opened_while_programs_rename_over_it(store: &Store) {
    let mount = store.mount().start();
    assert_eq!(replace_and_read(&mount.path(), &mount.path()), [""; 0]);
}

fn a_file_can_be_opened_while_another_mount_replaces_it(store: &Store) {
    let writing = store.mount().start();
    // Reads of a version that is gone.
    let reading = store.mount().expect_in_log("[s3://test/file]").start();
    let mut failures = replace_and_read(&writing.path(), &reading.path());
    failures.retain(|failure| !is_stale_read(failure));
    assert_eq!(failures, [""; 0]);
}
