//! `pailfs cache`: what the mounts of this machine keep of file contents.

use crate::cache::attributes::disk;
use crate::cache::blocks::{self, Usage};
use crate::cli::args::{CacheAction, CacheArgs};
use crate::cli::environment::Environment;
use crate::cli::failure::Failure;
use crate::cli::progress::Bar;
use crate::cli::say::print;
use crate::cli::system::{mount_table, mounts};
use crate::fs::warm::{self, Step, Told};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// The kernel waits for the end of each step, and so does whoever wants to interrupt it.
const STEP_BYTES: u64 = 8 << 20;
const LOOK: Step = Step {
    offset: 0,
    len: 0,
    only_looks: true,
};

/// Where in the cache directory contents are.
#[must_use]
pub fn blocks_directory(cache_dir: &Path) -> PathBuf {
    cache_dir.join("blocks")
}

/// Where in the cache directory attributes are.
#[must_use]
pub fn attributes_directory(cache_dir: &Path) -> PathBuf {
    cache_dir.join("attributes")
}

/// # Errors
/// When the directory, or a file that is to be read, cannot be read.
pub fn run(args: &CacheArgs) -> Result<(), Failure> {
    let environment = Environment::of_process()?;
    let directory = blocks_directory(&environment.cache_dir(args.cache_dir.as_deref())?);
    let named = |error: std::io::Error| Failure::io(&error, format_args!("cache {}", directory.display()));
    match &args.action {
        CacheAction::Status => {
            let usage = blocks::usage(&directory).map_err(named)?;
            print(format_args!("{}: {}", directory.display(), describe(&usage)))?;
        }
        CacheAction::Clear => {
            let usage = blocks::clear(&directory).map_err(named)?;
            disk::clear(&directory.with_file_name("attributes")).map_err(named)?;
            print(format_args!(
                "{}: removed {}",
                directory.display(),
                describe(&usage)
            ))?;
        }
        CacheAction::Warm { paths, parallel } => {
            let paths: Vec<PathBuf> = paths.iter().map(|path| environment.absolute(path)).collect();
            let table = mount_table::read().map_err(|error| Failure::io(&error, "/proc/self/mountinfo"))?;
            for path in &paths {
                mounts::of_path(&table, path)?;
            }
            let warmed = warm(&paths, *parallel)?;
            print(format_args!(
                "{} files, {} bytes in the cache",
                warmed.files, warmed.bytes
            ))?;
        }
    }
    Ok(())
}

fn describe(usage: &Usage) -> String {
    format!(
        "{} files, {} bytes on disk, {} of them used more than once",
        usage.files, usage.bytes, usage.kept_bytes
    )
}

#[derive(Debug, PartialEq, Eq)]
struct Warmed {
    files: u64,
    bytes: u64,
}

/// The files that are to be brought into the cache, and what became of them.
#[derive(Default)]
struct Work {
    paths: Vec<PathBuf>,
    /// The sizes of all of them, when they were found.
    total_bytes: u64,
    /// How many were begun.
    begun: AtomicUsize,
    files: AtomicU64,
    bytes: AtomicU64,
    /// What the first and the latest answer counted.
    evictions: Mutex<Option<(u64, u64)>>,
    failures: Mutex<BTreeMap<PathBuf, Failure>>,
    bar: Option<Bar>,
}

impl Work {
    fn add(&mut self, path: PathBuf, size_bytes: u64) {
        self.paths.push(path);
        self.total_bytes += size_bytes;
    }
}

/// So many failures are told in full.
const MOST_TOLD: usize = 10;

/// Brings all files at and below `paths` into the cache of the mount that they are in, until they are there as a whole. What
/// fails is told at the end; the others are still brought.
fn warm(paths: &[PathBuf], parallel: u16) -> Result<Warmed, Failure> {
    let mut work = Work::default();
    for path in paths {
        collect(path, &mut work)?;
    }
    work.bar = Some(Bar::new("", Some(work.total_bytes)));
    show(&work);
    each(&work, parallel, bring);
    if lock(&work.evictions).is_some_and(|(first, latest)| first != latest) {
        // Later ones may have taken the room of earlier ones.
        work.begun = AtomicUsize::new(0);
        each(&work, parallel, look_again);
    }
    work.bar = None;
    let failures = std::mem::take(&mut *lock(&work.failures));
    let untold = failures.len().saturating_sub(MOST_TOLD);
    match failures.into_values().take(MOST_TOLD).reduce(and_also) {
        Some(failure) if untold > 0 => Err(and_also(failure, Failure::failed(format!("and {untold} more")))),
        Some(failure) => Err(failure),
        None => Ok(Warmed {
            files: work.files.into_inner(),
            bytes: work.bytes.into_inner(),
        }),
    }
}

/// One message for several.
fn and_also(one: Failure, other: Failure) -> Failure {
    let message = format!("{}\n{}", one.message, other.message);
    Failure { message, ..one }
}

/// Symlinks are not followed: what they lead to may be anywhere.
fn collect(path: &Path, work: &mut Work) -> Result<(), Failure> {
    let named = |error: std::io::Error| Failure::io(&error, path.display());
    let mut directories = Vec::new();
    let metadata = std::fs::symlink_metadata(path).map_err(named)?;
    if metadata.is_dir() {
        directories.push(path.to_owned());
    } else if metadata.is_file() {
        work.add(path.to_owned(), metadata.len());
    }
    while let Some(directory) = directories.pop() {
        let named = |error: std::io::Error| Failure::io(&error, directory.display());
        for entry in std::fs::read_dir(&directory).map_err(named)? {
            let entry = entry.map_err(named)?;
            let kind = entry.file_type().map_err(named)?;
            if kind.is_dir() {
                directories.push(entry.path());
            } else if kind.is_file() {
                work.add(entry.path(), entry.metadata().map_err(named)?.len());
            }
        }
    }
    Ok(())
}

/// Does something with each file, several at a time.
fn each(work: &Work, parallel: u16, action: impl Fn(&Path, &Work) -> Result<(), Failure> + Sync) {
    let one_after_the_other = || {
        while let Some(path) = work.paths.get(work.begun.fetch_add(1, Ordering::Relaxed)) {
            if let Err(failure) = action(path, work) {
                lock(&work.failures).entry(path.clone()).or_insert(failure);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..parallel {
            scope.spawn(one_after_the_other);
        }
    });
}

fn bring(path: &Path, work: &Work) -> Result<(), Failure> {
    let named = |error: std::io::Error| Failure::io(&error, path.display());
    let file = File::open(path).map_err(named)?;
    let size_bytes = file.metadata().map_err(named)?.len();
    for offset in (0..size_bytes).step_by(STEP_BYTES as usize) {
        let step = Step {
            offset,
            len: STEP_BYTES,
            only_looks: false,
        };
        take(step, &file, path, work)?;
        let bytes = STEP_BYTES.min(size_bytes - offset);
        work.bytes.fetch_add(bytes, Ordering::Relaxed);
        show(work);
    }
    take(LOOK, &file, path, work)?;
    work.files.fetch_add(1, Ordering::Relaxed);
    show(work);
    Ok(())
}

fn look_again(path: &Path, work: &Work) -> Result<(), Failure> {
    let file = File::open(path).map_err(|error| Failure::io(&error, path.display()))?;
    take(LOOK, &file, path, work)
}

/// Has the mount take a step.
fn take(step: Step, file: &File, path: &Path, work: &Work) -> Result<(), Failure> {
    let mut exchange = step.encode();
    // SAFETY: the descriptor is open, and the command says how long the memory is that is read and written.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), warm::COMMAND.into(), exchange.as_mut_ptr()) };
    if done < 0 {
        let error = std::io::Error::last_os_error();
        let why = match error.raw_os_error() {
            Some(libc::ENOTTY | libc::ENOSYS) => "it is not in a mount of pailfs",
            Some(libc::EOPNOTSUPP) => "its mount has no disk cache (--cache-size)",
            _ => return Err(Failure::io(&error, path.display())),
        };
        return Err(Failure::failed(format!("{}: {why}", path.display())));
    }
    let told = Told::decode(&exchange);
    let mut evictions = lock(&work.evictions);
    let (_, latest) = evictions.get_or_insert((told.evictions, told.evictions));
    *latest = (*latest).max(told.evictions);
    drop(evictions);
    told.why_not.map_or(Ok(()), |why_not| {
        let message = format!("{} is not whole in the cache: {why_not}", path.display());
        Err(Failure::failed(message))
    })
}

fn show(work: &Work) {
    if let Some(bar) = &work.bar {
        let (files, total) = (work.files.load(Ordering::Relaxed), work.paths.len());
        bar.name(&format!("{files} of {total} files"));
        bar.set(work.bytes.load(Ordering::Relaxed));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // What these locks guard is consistent between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_files_below_are_found_and_links_are_not_followed() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        std::fs::create_dir_all(at("a/b")).expect("made");
        for name in ["a/1", "a/b/2", "a/b/3"] {
            std::fs::write(at(name), name).expect("written");
        }
        std::os::unix::fs::symlink("/", at("a/root")).expect("linked");
        let collected = |name: &str| {
            let mut work = Work::default();
            collect(&at(name), &mut work).map(|()| {
                work.paths.sort();
                (work.paths, work.total_bytes)
            })
        };
        assert_eq!(
            collected("a"),
            Ok((vec![at("a/1"), at("a/b/2"), at("a/b/3")], 13))
        );
        assert_eq!(collected("a/1"), Ok((vec![at("a/1")], 3)));
        assert!(collected("absent").is_err());
    }

    #[test]
    fn what_is_in_no_mount_is_told_of_each_file() {
        let directory = tempfile::tempdir().expect("a directory");
        for name in ["1", "2"] {
            std::fs::write(directory.path().join(name), name).expect("written");
        }
        let failure = warm(&[directory.path().to_owned()], 3).expect_err("told");
        for name in ["/1: it is not in a mount", "/2: it is not in a mount"] {
            assert!(failure.message.contains(name), "{failure}");
        }
    }
}
