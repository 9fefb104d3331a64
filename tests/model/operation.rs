//! The operations that a program can ask for, as values: carried out on a mount here, and on the reference elsewhere.

pub use crate::in_process::driver::Shown;
use crate::in_process::driver::{Descriptor, DirectoryDescriptor, Driver, Outcome};
use pailfs::tree::node::Kind;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::SystemTime;

/// A handle's number in the test.
pub type HandleId = u64;

#[derive(Clone)]
pub enum Operation {
    Open {
        handle: HandleId,
        path: String,
        flags: i32,
    },
    Read {
        handle: HandleId,
        offset: usize,
        len: usize,
    },
    Write {
        handle: HandleId,
        offset: usize,
        data: Vec<u8>,
    },
    TruncateHandle {
        handle: HandleId,
        size: usize,
    },
    /// fallocate(2) with its modes.
    Allocate {
        handle: HandleId,
        offset: usize,
        len: usize,
        mode: i32,
    },
    /// lseek(2): for data, or for a hole.
    Seek {
        handle: HandleId,
        offset: usize,
        data: bool,
    },
    Copy {
        from: HandleId,
        from_offset: usize,
        to: HandleId,
        to_offset: usize,
        len: usize,
    },
    Flush {
        handle: HandleId,
    },
    Sync {
        handle: HandleId,
    },
    StatHandle {
        handle: HandleId,
    },
    Close {
        handle: HandleId,
    },
    ReadFile {
        path: String,
    },
    /// Open for writing with `flags`, write at the beginning, close.
    WriteFile {
        path: String,
        flags: i32,
        data: Vec<u8>,
    },
    Truncate {
        path: String,
        size: usize,
    },
    Chmod {
        path: String,
        mode: u32,
    },
    SetTime {
        path: String,
        mtime: SystemTime,
    },
    Stat {
        path: String,
    },
    List {
        path: String,
        with_attributes: bool,
    },
    OpenDirectory {
        handle: HandleId,
        path: String,
    },
    /// A few names of an open directory.
    ReadEntries {
        handle: HandleId,
        from_the_beginning: bool,
        at_once: usize,
        with_attributes: bool,
    },
    CloseDirectory {
        handle: HandleId,
    },
    Unlink {
        path: String,
    },
    Mkdir {
        path: String,
    },
    Rmdir {
        path: String,
    },
    Rename {
        from: String,
        to: String,
        no_replace: bool,
    },
    Symlink {
        path: String,
        target: String,
    },
    Readlink {
        path: String,
    },
}

/// What an operation answers.
#[derive(Clone, PartialEq, Eq)]
pub enum Value {
    Nothing,
    Bytes(Vec<u8>),
    Names(BTreeMap<String, Kind>),
    /// Of an open directory, in the order in which they were shown.
    Entries(Vec<Shown>),
    Text(String),
    /// How many bytes were copied.
    Count(usize),
    /// What lseek found; `None` for ENXIO.
    Place(Option<usize>),
    /// For the reference: what lseek may find are places in these bytes, which are the whole file.
    PlaceIn {
        bytes: Vec<u8>,
        offset: usize,
        data: bool,
    },
    /// `mtime`: `None` where it is not determined.
    Stat {
        kind: Kind,
        size: usize,
        mode: u32,
        mtime: Option<SystemTime>,
    },
}

impl Value {
    /// True when `self`, the mount's, is what the reference expects.
    pub fn is_as_expected(&self, expected: &Self) -> bool {
        match (self, expected) {
            (
                Self::Stat { kind, size, mode, .. },
                Self::Stat {
                    kind: k,
                    size: s,
                    mode: m,
                    mtime: None,
                },
            ) => (kind, size, mode) == (k, s, m),
            (Self::Place(found), Self::PlaceIn { bytes, offset, data }) => {
                is_place(*found, bytes, *offset, *data)
            }
            _ => self == expected,
        }
    }
}

/// Whatever is zero may be a hole or not; whatever is not zero is none.
fn is_place(found: Option<usize>, bytes: &[u8], offset: usize, data: bool) -> bool {
    let is_zero = |from: usize, to: usize| bytes[from..to].iter().all(|byte| *byte == 0);
    match found {
        None if data => offset >= bytes.len() || is_zero(offset, bytes.len()),
        None => offset >= bytes.len(),
        Some(at) if data => offset <= at && at < bytes.len() && is_zero(offset, at),
        Some(at) => offset <= at && (at == bytes.len() || at < bytes.len() && bytes[at] == 0),
    }
}

/// What a machine has open.
#[derive(Default)]
pub struct Descriptors {
    files: RefCell<HashMap<HandleId, Descriptor>>,
    directories: RefCell<HashMap<HandleId, DirectoryDescriptor>>,
}

impl Descriptors {
    /// They are gone with their mount.
    pub fn clear(&self) {
        self.files.borrow_mut().clear();
        self.directories.borrow_mut().clear();
    }
}

/// Carries out an operation on a mount.
pub async fn execute(driver: &Driver, descriptors: &Descriptors, operation: &Operation) -> Outcome<Value> {
    // Taken out while it is in use, so that no borrow lasts across a wait.
    let take = |handle: &HandleId| {
        descriptors
            .files
            .borrow_mut()
            .remove(handle)
            .expect("the reference has the handle too")
    };
    let put = |handle: &HandleId, descriptor: Descriptor| {
        descriptors.files.borrow_mut().insert(*handle, descriptor);
    };
    let nothing = |outcome: Outcome<()>| outcome.map(|()| Value::Nothing);
    match operation {
        Operation::Open { handle, path, flags } => {
            let descriptor = driver.open(path, *flags, 0o644).await?;
            put(handle, descriptor);
            Ok(Value::Nothing)
        }
        Operation::Read { handle, offset, len } => {
            let descriptor = take(handle);
            let read = driver.read(&descriptor, *offset, *len).await;
            put(handle, descriptor);
            read.map(Value::Bytes)
        }
        Operation::Write { handle, offset, data } => {
            let descriptor = take(handle);
            let written = driver.write(&descriptor, *offset, data).await;
            put(handle, descriptor);
            nothing(written)
        }
        Operation::TruncateHandle { handle, size } => {
            let descriptor = take(handle);
            let truncated = driver.ftruncate(&descriptor, *size).await;
            put(handle, descriptor);
            nothing(truncated)
        }
        Operation::Allocate {
            handle,
            offset,
            len,
            mode,
        } => {
            let descriptor = take(handle);
            let allocated = driver.allocate(&descriptor, *offset, *len, *mode).await;
            put(handle, descriptor);
            nothing(allocated)
        }
        Operation::Seek { handle, offset, data } => {
            let descriptor = take(handle);
            let found = driver.seek(&descriptor, *offset, *data);
            put(handle, descriptor);
            found.map(Value::Place)
        }
        Operation::Copy {
            from,
            from_offset,
            to,
            to_offset,
            len,
        } => {
            let source = take(from);
            let target = (from != to).then(|| take(to));
            let into = (target.as_ref().unwrap_or(&source), *to_offset);
            let copied = driver.copy_range((&source, *from_offset), into, *len).await;
            if let Some(target) = target {
                put(to, target);
            }
            put(from, source);
            copied.map(Value::Count)
        }
        Operation::Flush { handle } => {
            let descriptor = take(handle);
            let flushed = driver.flush(&descriptor).await;
            put(handle, descriptor);
            nothing(flushed)
        }
        Operation::Sync { handle } => {
            let descriptor = take(handle);
            let synced = driver.fsync(&descriptor).await;
            put(handle, descriptor);
            nothing(synced)
        }
        Operation::StatHandle { handle } => {
            let descriptor = take(handle);
            let attr = driver.fstat(&descriptor).await;
            put(handle, descriptor);
            attr.map(stat)
        }
        Operation::Close { handle } => {
            let descriptor = take(handle);
            nothing(driver.close(descriptor).await)
        }
        Operation::OpenDirectory { .. }
        | Operation::ReadEntries { .. }
        | Operation::CloseDirectory { .. } => execute_on_directory(driver, descriptors, operation).await,
        by_path => execute_by_path(driver, by_path).await,
    }
}

async fn execute_on_directory(
    driver: &Driver,
    descriptors: &Descriptors,
    operation: &Operation,
) -> Outcome<Value> {
    let directories = &descriptors.directories;
    let take = |handle: &HandleId| {
        let taken = directories.borrow_mut().remove(handle);
        taken.expect("the reference has the handle too")
    };
    match operation {
        Operation::OpenDirectory { handle, path } => {
            let opened = driver.open_directory(path).await?;
            directories.borrow_mut().insert(*handle, opened);
        }
        Operation::ReadEntries {
            handle,
            from_the_beginning,
            at_once,
            with_attributes,
        } => {
            let mut directory = take(handle);
            if *from_the_beginning {
                directory.rewind();
            }
            let read = driver
                .read_entries(&mut directory, *at_once, *with_attributes)
                .await;
            directories.borrow_mut().insert(*handle, directory);
            return read.map(Value::Entries);
        }
        Operation::CloseDirectory { handle } => driver.close_directory(take(handle)),
        _ => unreachable!("only operations on open directories come here"),
    }
    Ok(Value::Nothing)
}

async fn execute_by_path(driver: &Driver, operation: &Operation) -> Outcome<Value> {
    let nothing = |outcome: Outcome<()>| outcome.map(|()| Value::Nothing);
    match operation {
        Operation::ReadFile { path } => driver.read_file(path).await.map(Value::Bytes),
        Operation::WriteFile { path, flags, data } => nothing(driver.write_file(path, *flags, data).await),
        Operation::Truncate { path, size } => nothing(driver.truncate(path, *size).await),
        Operation::Chmod { path, mode } => nothing(driver.chmod(path, *mode).await),
        Operation::SetTime { path, mtime } => nothing(driver.set_mtime(path, *mtime).await),
        Operation::Stat { path } => driver.stat(path).await.map(stat),
        Operation::List {
            path,
            with_attributes,
        } => driver.list(path, *with_attributes).await.map(Value::Names),
        Operation::Unlink { path } => nothing(driver.unlink(path).await),
        Operation::Mkdir { path } => nothing(driver.mkdir(path, 0o755).await),
        Operation::Rmdir { path } => nothing(driver.rmdir(path).await),
        Operation::Rename { from, to, no_replace } => nothing(driver.rename(from, to, *no_replace).await),
        Operation::Symlink { path, target } => nothing(driver.symlink(path, target).await),
        Operation::Readlink { path } => driver.readlink(path).await.map(Value::Text),
        _ => unreachable!("operations on handles are carried out above"),
    }
}

fn stat(attr: pailfs::fs::attr::Attr) -> Value {
    // What sizes directories and symlinks have is nobody's business here.
    let size = if attr.kind == Kind::File {
        attr.size_bytes as usize
    } else {
        0
    };
    Value::Stat {
        kind: attr.kind,
        size,
        mode: attr.mode & 0o7777,
        mtime: Some(attr.mtime),
    }
}

impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open { handle, path, flags } => write!(f, "open #{handle} {path:?} {}", flag_names(*flags)),
            Self::Read { handle, offset, len } => write!(f, "read #{handle} {offset}+{len}"),
            Self::Write { handle, offset, data } => write!(f, "write #{handle} {offset}+{}", data.len()),
            Self::TruncateHandle { handle, size } => write!(f, "ftruncate #{handle} {size}"),
            Self::Allocate {
                handle,
                offset,
                len,
                mode,
            } => write!(f, "fallocate #{handle} {offset}+{len} mode {mode:#x}"),
            Self::Seek { handle, offset, data } => write!(f, "lseek #{handle} {offset} data={data}"),
            Self::Copy {
                from,
                from_offset,
                to,
                to_offset,
                len,
            } => write!(f, "copy #{from} {from_offset}+{len} to #{to} {to_offset}"),
            Self::Flush { handle } => write!(f, "flush #{handle}"),
            Self::Sync { handle } => write!(f, "fsync #{handle}"),
            Self::StatHandle { handle } => write!(f, "fstat #{handle}"),
            Self::Close { handle } => write!(f, "close #{handle}"),
            Self::ReadFile { path } => write!(f, "read file {path:?}"),
            Self::WriteFile { path, flags, data } => {
                write!(
                    f,
                    "write file {path:?} {} {} bytes",
                    flag_names(*flags),
                    data.len()
                )
            }
            Self::Truncate { path, size } => write!(f, "truncate {path:?} {size}"),
            Self::Chmod { path, mode } => write!(f, "chmod {path:?} {mode:o}"),
            Self::SetTime { path, .. } => write!(f, "utimens {path:?}"),
            Self::Stat { path } => write!(f, "stat {path:?}"),
            Self::List {
                path,
                with_attributes,
            } => write!(f, "list {path:?} plus={with_attributes}"),
            Self::OpenDirectory { handle, path } => write!(f, "opendir #{handle} {path:?}"),
            Self::ReadEntries {
                handle,
                from_the_beginning,
                at_once,
                with_attributes,
            } => {
                let rewind = if *from_the_beginning {
                    " from the beginning"
                } else {
                    ""
                };
                write!(
                    f,
                    "readdir #{handle} {at_once} names plus={with_attributes}{rewind}"
                )
            }
            Self::CloseDirectory { handle } => write!(f, "closedir #{handle}"),
            Self::Unlink { path } => write!(f, "unlink {path:?}"),
            Self::Mkdir { path } => write!(f, "mkdir {path:?}"),
            Self::Rmdir { path } => write!(f, "rmdir {path:?}"),
            Self::Rename { from, to, no_replace } => {
                write!(f, "rename {from:?} {to:?} noreplace={no_replace}")
            }
            Self::Symlink { path, target } => write!(f, "symlink {path:?} -> {target:?}"),
            Self::Readlink { path } => write!(f, "readlink {path:?}"),
        }
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("ok"),
            Self::Bytes(bytes) => {
                let sum = pailfs::base::checksum::Crc32c::of(bytes);
                write!(f, "{} bytes ({sum:?})", bytes.len())
            }
            Self::Names(names) => write!(f, "{names:?}"),
            Self::Entries(entries) => write!(f, "{entries:?}"),
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Count(count) => write!(f, "{count} bytes"),
            Self::Place(place) => write!(f, "{place:?}"),
            Self::PlaceIn { bytes, offset, data } => {
                write!(
                    f,
                    "a place (data={data}) from {offset} on in {} bytes",
                    bytes.len()
                )
            }
            Self::Stat {
                kind,
                size,
                mode,
                mtime,
            } => write!(f, "{kind:?} {size} bytes {mode:o} {mtime:?}"),
        }
    }
}

fn flag_names(flags: i32) -> String {
    let access = match flags & libc::O_ACCMODE {
        libc::O_RDONLY => "RDONLY",
        libc::O_WRONLY => "WRONLY",
        _ => "RDWR",
    };
    let mut text = access.to_owned();
    for (flag, name) in [
        (libc::O_CREAT, "CREAT"),
        (libc::O_EXCL, "EXCL"),
        (libc::O_TRUNC, "TRUNC"),
        (libc::O_APPEND, "APPEND"),
    ] {
        if flags & flag != 0 {
            text = format!("{text}|{name}");
        }
    }
    text
}
