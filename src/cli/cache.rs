//! `pailfs cache`: what the mounts of this machine keep of file contents.

use crate::cache::attributes::disk;
use crate::cache::blocks::{self, Usage};
use crate::cli::args::{CacheAction, CacheArgs};
use crate::cli::environment::Environment;
use crate::cli::failure::Failure;
use crate::cli::say::{print, say};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// As much as the kernel asks a mount for at once.
const READ_BYTES: usize = 1 << 20;

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
            let read = warm(paths.iter().map(|path| environment.absolute(path)), *parallel)?;
            print(format_args!("{} files, {} bytes read", read.files, read.bytes))?;
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

/// What is left to read, and what became of the rest.
#[derive(Default)]
struct Work {
    waiting: Mutex<VecDeque<PathBuf>>,
    files: AtomicU64,
    bytes: AtomicU64,
    failure: Mutex<Option<Failure>>,
}

/// Reads all files at and below `paths`. The first failure is told at the end; the others are still read.
fn warm(paths: impl Iterator<Item = PathBuf>, parallel: u16) -> Result<Warmed, Failure> {
    let work = Work::default();
    for path in paths {
        collect(&path, &work)?;
    }
    let total = lock(&work.waiting).len();
    std::thread::scope(|scope| {
        for _ in 0..parallel {
            scope.spawn(|| read_all(&work, total));
        }
    });
    if std::io::stderr().is_terminal() {
        say("");
    }
    if let Some(failure) = lock(&work.failure).take() {
        return Err(failure);
    }
    Ok(Warmed {
        files: work.files.into_inner(),
        bytes: work.bytes.into_inner(),
    })
}

/// Symlinks are not followed: what they lead to may be anywhere.
fn collect(path: &Path, work: &Work) -> Result<(), Failure> {
    let named = |error: std::io::Error| Failure::io(&error, path.display());
    let mut directories = Vec::new();
    let kind = std::fs::symlink_metadata(path).map_err(named)?.file_type();
    if kind.is_dir() {
        directories.push(path.to_owned());
    } else if kind.is_file() {
        lock(&work.waiting).push_back(path.to_owned());
    }
    while let Some(directory) = directories.pop() {
        let named = |error: std::io::Error| Failure::io(&error, directory.display());
        for entry in std::fs::read_dir(&directory).map_err(named)? {
            let entry = entry.map_err(named)?;
            let kind = entry.file_type().map_err(named)?;
            if kind.is_dir() {
                directories.push(entry.path());
            } else if kind.is_file() {
                lock(&work.waiting).push_back(entry.path());
            }
        }
    }
    Ok(())
}

fn read_all(work: &Work, total: usize) {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let Some(path) = lock(&work.waiting).pop_front() else {
            return;
        };
        match read(&path, &mut buffer) {
            Ok(bytes) => {
                let files = work.files.fetch_add(1, Ordering::Relaxed) + 1;
                let bytes = work.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
                show(files, total, bytes);
            }
            Err(error) => {
                let failure = Failure::io(&error, path.display());
                lock(&work.failure).get_or_insert(failure);
            }
        }
    }
}

fn read(path: &Path, buffer: &mut [u8]) -> std::io::Result<u64> {
    let mut file = File::open(path)?;
    let mut total = 0;
    loop {
        match file.read(buffer)? {
            0 => return Ok(total),
            read => total += read as u64,
        }
    }
}

fn show(files: u64, total: usize, bytes: u64) {
    let mut output = std::io::stderr();
    if output.is_terminal() {
        // Who does not read it misses nothing.
        let _unread = write!(output, "\r{files} of {total} files, {} MiB", bytes >> 20);
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
    fn all_files_below_are_read_and_links_are_not_followed() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        std::fs::create_dir_all(at("a/b")).expect("made");
        for (name, len) in [("a/1", 10), ("a/b/2", 3 << 20), ("a/b/3", 0)] {
            std::fs::write(at(name), vec![1; len]).expect("written");
        }
        std::os::unix::fs::symlink("/", at("a/root")).expect("linked");
        let warmed = warm([at("a")].into_iter(), 3).expect("read");
        let bytes = 10 + (3 << 20);
        assert_eq!(warmed, Warmed { files: 3, bytes });
        let warmed = warm([at("a/1")].into_iter(), 1).expect("read");
        assert_eq!(warmed, Warmed { files: 1, bytes: 10 });
        assert!(warm([at("absent")].into_iter(), 1).is_err());
    }
}
