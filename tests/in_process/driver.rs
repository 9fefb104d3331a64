//! What the kernel does between a program's system calls and the filesystem's methods, as far as it matters.
//!
//! 1. Paths are walked by lookups, each of which is a reference that is forgotten later ([`Driver::keep`]).
//! 2. `ESTALE` from an operation on a path makes the kernel walk again, once (`retry_estale` in `fs/namei.c`).
//! 3. Names that exist, or do not, are refused before the filesystem is asked (`filename_create`, `may_delete`).
//! 4. Every close of a descriptor is a flush; the last one is a release.

use pailfs::base::error::Error;
use pailfs::base::read_bytes::ReadBytes;
use pailfs::fs::attr::{Attr, Change};
use pailfs::fs::readdir::DirectoryEntry;
use pailfs::fs::{Caller, Fs};
use pailfs::tree::node::{Ino, Kind, Node, ROOT};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// An open directory.
#[derive(Debug)]
pub struct DirectoryDescriptor {
    ino: Ino,
    number: u64,
    offset: u64,
}

impl DirectoryDescriptor {
    /// As rewinddir(3).
    pub fn rewind(&mut self) {
        self.offset = 0;
    }
}

/// An entry of a directory, as the kernel takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    pub name: String,
    pub kind: Kind,
    /// Its size, where the kernel is told to believe that it is there, for a while.
    pub believed_bytes: Option<usize>,
}

/// The result of a system call: an errno where it failed.
pub type Outcome<T> = Result<T, i32>;

const CALLER: Caller = Caller {
    uid: 1000,
    gid: 1000,
    thread: 1,
};
/// What one read of the kernel asks for.
const READ_BYTES: usize = 128 * 1024;
const ENTRIES_AT_ONCE: usize = 7;

/// An open descriptor.
#[derive(Debug)]
pub struct Descriptor {
    pub ino: Ino,
    number: u64,
    no_flush: bool,
}

fn shown(entry: DirectoryEntry) -> Shown {
    let believed = entry.attr.filter(|attr| !attr.ttl.is_zero());
    Shown {
        name: entry.name,
        kind: entry.kind,
        believed_bytes: believed.map(|attr| attr.size_bytes as usize),
    }
}

pub struct Driver {
    fs: Arc<Fs>,
    /// References that the kernel still has, oldest first.
    kept: RefCell<VecDeque<Ino>>,
    /// How many it keeps.
    pub memory: RefCell<usize>,
    /// The last error, for messages.
    pub last_error: RefCell<String>,
    /// Each open is another thread's.
    threads: Cell<u32>,
}

impl Driver {
    pub fn new(fs: Arc<Fs>) -> Self {
        Self {
            fs,
            kept: RefCell::default(),
            memory: RefCell::new(20),
            last_error: RefCell::default(),
            threads: Cell::new(CALLER.thread),
        }
    }

    fn failed(&self, error: &Error) -> i32 {
        *self.last_error.borrow_mut() = format!("{error:?}");
        error.errno()
    }

    fn keep(&self, ino: Ino) {
        let mut kept = self.kept.borrow_mut();
        kept.push_back(ino);
        while kept.len() > *self.memory.borrow() {
            if let Some(oldest) = kept.pop_front() {
                self.fs.tree().forget(oldest, 1);
            }
        }
    }

    pub fn forget_all(&self) {
        for ino in self.kept.borrow_mut().drain(..) {
            self.fs.tree().forget(ino, 1);
        }
    }

    async fn look(&self, parent: Ino, name: &str) -> Outcome<Option<Node>> {
        let found = self
            .fs
            .lookup(parent, name)
            .await
            .map_err(|error| self.failed(&error))?;
        if let Some(node) = &found {
            self.keep(node.ino);
        }
        Ok(found)
    }

    /// The directory that a path's last component is in, and that component.
    async fn parent<'a>(&self, path: &'a str) -> Outcome<(Ino, &'a str)> {
        let (directories, name) = match path.rsplit_once('/') {
            Some((directories, name)) => (directories, name),
            None => ("", path),
        };
        let mut ino = ROOT;
        for component in directories.split('/').filter(|component| !component.is_empty()) {
            let node = self.look(ino, component).await?.ok_or(libc::ENOENT)?;
            if node.kind != Kind::Directory {
                return Err(libc::ENOTDIR);
            }
            ino = node.ino;
        }
        Ok((ino, name))
    }

    async fn walk(&self, path: &str) -> Outcome<Option<Node>> {
        if path.is_empty() {
            return self
                .fs
                .tree()
                .node(ROOT)
                .map(Some)
                .map_err(|error| self.failed(&error));
        }
        let (parent, name) = self.parent(path).await?;
        self.look(parent, name).await
    }

    async fn find(&self, path: &str) -> Outcome<Node> {
        self.walk(path).await?.ok_or(libc::ENOENT)
    }

    async fn retrying<T>(&self, call: impl AsyncFn() -> Outcome<T>) -> Outcome<T> {
        match call().await {
            Err(libc::ESTALE) => call().await,
            other => other,
        }
    }

    pub async fn open(&self, path: &str, flags: i32, mode: u32) -> Outcome<Descriptor> {
        self.threads.set(self.threads.get() + 1);
        let caller = Caller {
            thread: self.threads.get(),
            ..CALLER
        };
        self.retrying(async || self.open_once(caller, path, flags, mode).await)
            .await
    }

    async fn open_once(&self, caller: Caller, path: &str, flags: i32, mode: u32) -> Outcome<Descriptor> {
        let (parent, name) = self.parent(path).await?;
        let (ino, opened) = match self.look(parent, name).await? {
            Some(_) if flags & (libc::O_CREAT | libc::O_EXCL) == libc::O_CREAT | libc::O_EXCL => {
                return Err(libc::EEXIST);
            }
            Some(node) if node.kind == Kind::Directory => return Err(libc::EISDIR),
            Some(node) if node.kind == Kind::Symlink => return Err(libc::ELOOP),
            Some(node) => {
                let flags = flags & !(libc::O_CREAT | libc::O_EXCL);
                let opened = self
                    .fs
                    .open(caller, node.ino, flags)
                    .await
                    .map_err(|error| self.failed(&error))?;
                self.fs.tree().count_lookup(node.ino);
                (node.ino, opened)
            }
            None if flags & libc::O_CREAT != 0 => {
                let created = self.fs.create(caller, parent, name, mode, flags).await;
                let (node, opened) = created.map_err(|error| self.failed(&error))?;
                (node.ino, opened)
            }
            None => return Err(libc::ENOENT),
        };
        Ok(Descriptor {
            ino,
            number: opened.handle,
            no_flush: opened.no_flush,
        })
    }

    /// At most `len` bytes, in the pieces in which the kernel reads.
    pub async fn read(&self, descriptor: &Descriptor, offset: usize, len: usize) -> Outcome<Vec<u8>> {
        let mut all = Vec::new();
        while all.len() < len {
            let wanted = READ_BYTES.min(len - all.len());
            let before = all.len();
            let at = (offset + before) as u64;
            let mut read = ReadBytes::behind(all);
            self.fs
                .read(descriptor.number, at, wanted, &mut read)
                .await
                .map_err(|error| self.failed(&error))?;
            all = read.into_vec();
            if all.len() < before + wanted {
                break;
            }
        }
        Ok(all)
    }

    pub async fn write(&self, descriptor: &Descriptor, offset: usize, data: &[u8]) -> Outcome<()> {
        let mut at = offset as u64;
        for piece in data.chunks(READ_BYTES) {
            let written = self.fs.write(descriptor.number, at, piece).await;
            let written = written.map_err(|error| self.failed(&error))?;
            assert_eq!(written, piece.len(), "a short write");
            at += written as u64;
        }
        Ok(())
    }

    pub async fn flush(&self, descriptor: &Descriptor) -> Outcome<()> {
        if descriptor.no_flush {
            return Ok(());
        }
        self.fs
            .flush(descriptor.number)
            .await
            .map_err(|error| self.failed(&error))
    }

    pub async fn fsync(&self, descriptor: &Descriptor) -> Outcome<()> {
        self.fs
            .fsync(descriptor.number)
            .await
            .map_err(|error| self.failed(&error))
    }

    pub async fn close(&self, descriptor: Descriptor) -> Outcome<()> {
        let flushed = self.flush(&descriptor).await;
        self.fs.release(descriptor.number).await;
        self.fs.tree().forget(descriptor.ino, 1);
        flushed
    }

    /// copy_file_range(2) until nothing is left, as programs do; how much that was.
    pub async fn copy_range(
        &self,
        (from, from_offset): (&Descriptor, usize),
        (to, to_offset): (&Descriptor, usize),
        len: usize,
    ) -> Outcome<usize> {
        let mut done = 0;
        while done < len {
            let from_here = (from.number, (from_offset + done) as u64);
            let to_there = (to.number, (to_offset + done) as u64);
            let copied = self.fs.copy_range(from_here, to_there, (len - done) as u64).await;
            match copied.map_err(|error| self.failed(&error))? {
                0 => break,
                copied => done += copied as usize,
            }
        }
        Ok(done)
    }

    pub async fn allocate(
        &self,
        descriptor: &Descriptor,
        offset: usize,
        len: usize,
        mode: i32,
    ) -> Outcome<()> {
        let allocated = self
            .fs
            .allocate(descriptor.number, offset as u64, len as u64, mode)
            .await;
        allocated.map_err(|error| self.failed(&error))
    }

    /// lseek(2) with SEEK_DATA or SEEK_HOLE; `None` for ENXIO.
    pub fn seek(&self, descriptor: &Descriptor, offset: usize, data: bool) -> Outcome<Option<usize>> {
        match self.fs.seek_data_or_hole(descriptor.number, offset as u64, data) {
            Ok(found) => Ok(Some(found as usize)),
            Err(error) if error.errno() == libc::ENXIO => Ok(None),
            Err(error) => Err(self.failed(&error)),
        }
    }

    async fn change(&self, path: &str, change: Change) -> Outcome<Attr> {
        self.retrying(async || {
            let node = self.find(path).await?;
            if change.size_bytes.is_some() && node.kind != Kind::File {
                return Err(if node.kind == Kind::Directory {
                    libc::EISDIR
                } else {
                    libc::EINVAL
                });
            }
            let changed = self.fs.set_attributes(node.ino, change, None).await;
            changed.map_err(|error| self.failed(&error))
        })
        .await
    }

    pub async fn truncate(&self, path: &str, size: usize) -> Outcome<()> {
        let change = Change {
            size_bytes: Some(size as u64),
            ..Change::default()
        };
        self.change(path, change).await.map(drop)
    }

    pub async fn ftruncate(&self, descriptor: &Descriptor, size: usize) -> Outcome<()> {
        let change = Change {
            size_bytes: Some(size as u64),
            ..Change::default()
        };
        let changed = self
            .fs
            .set_attributes(descriptor.ino, change, Some(descriptor.number))
            .await;
        changed.map(drop).map_err(|error| self.failed(&error))
    }

    pub async fn chmod(&self, path: &str, mode: u32) -> Outcome<()> {
        let change = Change {
            mode: Some(mode),
            ..Change::default()
        };
        self.change(path, change).await.map(drop)
    }

    pub async fn chown(&self, path: &str, uid: u32, gid: u32) -> Outcome<()> {
        let change = Change {
            uid: Some(uid),
            gid: Some(gid),
            ..Change::default()
        };
        self.change(path, change).await.map(drop)
    }

    /// What comes with a write by somebody without privileges.
    pub fn drop_set_id(&self, descriptor: &Descriptor) -> Outcome<()> {
        let dropped = self.fs.drop_set_id(descriptor.number);
        dropped.map_err(|error| self.failed(&error))
    }

    pub async fn set_mtime(&self, path: &str, mtime: std::time::SystemTime) -> Outcome<()> {
        let change = Change {
            mtime: Some(mtime),
            atime: Some(mtime),
            ..Change::default()
        };
        self.change(path, change).await.map(drop)
    }

    pub async fn stat(&self, path: &str) -> Outcome<Attr> {
        self.retrying(async || {
            let node = self.find(path).await?;
            self.fs
                .attributes(node.ino)
                .await
                .map_err(|error| self.failed(&error))
        })
        .await
    }

    pub async fn fstat(&self, descriptor: &Descriptor) -> Outcome<Attr> {
        self.fs
            .attributes(descriptor.ino)
            .await
            .map_err(|error| self.failed(&error))
    }

    pub async fn mkdir(&self, path: &str, mode: u32) -> Outcome<()> {
        self.retrying(async || {
            let (parent, name) = self.parent(path).await?;
            if self.look(parent, name).await?.is_some() {
                return Err(libc::EEXIST);
            }
            let made = self.fs.make_directory(CALLER, parent, name, mode).await;
            self.keep(made.map_err(|error| self.failed(&error))?.ino);
            Ok(())
        })
        .await
    }

    pub async fn symlink(&self, path: &str, target: &str) -> Outcome<()> {
        self.retrying(async || {
            let (parent, name) = self.parent(path).await?;
            if self.look(parent, name).await?.is_some() {
                return Err(libc::EEXIST);
            }
            let made = self.fs.symlink(CALLER, parent, name, target.as_bytes()).await;
            self.keep(made.map_err(|error| self.failed(&error))?.ino);
            Ok(())
        })
        .await
    }

    pub async fn readlink(&self, path: &str) -> Outcome<String> {
        self.retrying(async || {
            let node = self.find(path).await?;
            if node.kind != Kind::Symlink {
                return Err(libc::EINVAL);
            }
            let target = self
                .fs
                .read_link(node.ino)
                .await
                .map_err(|error| self.failed(&error))?;
            Ok(String::from_utf8_lossy(&target).into_owned())
        })
        .await
    }

    pub async fn rmdir(&self, path: &str) -> Outcome<()> {
        self.retrying(async || {
            let (parent, name) = self.parent(path).await?;
            match self.look(parent, name).await? {
                None => Err(libc::ENOENT),
                Some(node) if node.kind != Kind::Directory => Err(libc::ENOTDIR),
                Some(_) => {
                    let removed = self.fs.remove_directory(parent, name).await;
                    removed.map_err(|error| self.failed(&error))
                }
            }
        })
        .await
    }

    pub async fn unlink(&self, path: &str) -> Outcome<()> {
        self.retrying(async || {
            let (parent, name) = self.parent(path).await?;
            match self.look(parent, name).await? {
                None => Err(libc::ENOENT),
                Some(node) if node.kind == Kind::Directory => Err(libc::EISDIR),
                Some(_) => self
                    .fs
                    .unlink(parent, name)
                    .await
                    .map_err(|error| self.failed(&error)),
            }
        })
        .await
    }

    pub async fn rename(&self, from: &str, to: &str, no_replace: bool) -> Outcome<()> {
        self.retrying(async || {
            let (parent, name) = self.parent(from).await?;
            let (new_parent, new_name) = self.parent(to).await?;
            let node = self.look(parent, name).await?.ok_or(libc::ENOENT)?;
            match self.look(new_parent, new_name).await? {
                Some(_) if no_replace => return Err(libc::EEXIST),
                Some(target) if target.ino == node.ino => return Ok(()),
                Some(target) if target.kind == Kind::Directory && node.kind != Kind::Directory => {
                    return Err(libc::EISDIR);
                }
                Some(target) if target.kind != Kind::Directory && node.kind == Kind::Directory => {
                    return Err(libc::ENOTDIR);
                }
                _ => {}
            }
            let renamed = self
                .fs
                .rename(parent, name, new_parent, new_name, no_replace)
                .await;
            renamed.map_err(|error| self.failed(&error))
        })
        .await
    }

    /// Names and kinds, without `.` and `..`.
    pub async fn list(&self, path: &str, with_attributes: bool) -> Outcome<BTreeMap<String, Kind>> {
        self.retrying(async || {
            let mut directory = self.open_directory_once(path).await?;
            let listed = self.list_all(&mut directory, with_attributes).await;
            self.close_directory(directory);
            listed
        })
        .await
    }

    pub async fn open_directory(&self, path: &str) -> Outcome<DirectoryDescriptor> {
        self.retrying(async || self.open_directory_once(path).await).await
    }

    async fn open_directory_once(&self, path: &str) -> Outcome<DirectoryDescriptor> {
        let node = self.find(path).await?;
        if node.kind != Kind::Directory {
            return Err(libc::ENOTDIR);
        }
        let opened = self.fs.open_directory(node.ino);
        let number = opened.map_err(|error| self.failed(&error))?;
        self.fs.tree().count_lookup(node.ino);
        Ok(DirectoryDescriptor {
            ino: node.ino,
            number,
            offset: 0,
        })
    }

    pub fn close_directory(&self, directory: DirectoryDescriptor) {
        self.fs.release_directory(directory.ino, directory.number);
        self.fs.tree().forget(directory.ino, 1);
    }

    /// The next names and kinds, without `.` and `..`; none at the end.
    pub async fn read_entries(
        &self,
        directory: &mut DirectoryDescriptor,
        at_once: usize,
        with_attributes: bool,
    ) -> Outcome<Vec<Shown>> {
        let number = directory.number;
        loop {
            let entries = self
                .fs
                .read_directory(number, directory.offset, with_attributes)
                .await;
            let mut entries = entries.map_err(|error| self.failed(&error))?;
            let sent = entries.len().min(at_once);
            self.fs.sent_entries(number, &entries, sent);
            entries.truncate(sent);
            let Some(last) = entries.last() else {
                return Ok(Vec::new());
            };
            directory.offset = last.next_offset;
            for entry in entries.iter().filter(|entry| entry.attr.is_some()) {
                self.keep(entry.ino);
            }
            entries.retain(|entry| entry.name != "." && entry.name != "..");
            if !entries.is_empty() {
                return Ok(entries.into_iter().map(shown).collect());
            }
        }
    }

    async fn list_all(
        &self,
        directory: &mut DirectoryDescriptor,
        with_attributes: bool,
    ) -> Outcome<BTreeMap<String, Kind>> {
        let mut names = BTreeMap::new();
        loop {
            let entries = self
                .read_entries(directory, ENTRIES_AT_ONCE, with_attributes)
                .await?;
            if entries.is_empty() {
                return Ok(names);
            }
            for Shown { name, kind, .. } in entries {
                let twice = names.insert(name.clone(), kind);
                assert!(twice.is_none(), "{name:?} is listed twice");
            }
        }
    }

    /// Opens, reads all, closes.
    pub async fn read_file(&self, path: &str) -> Outcome<Vec<u8>> {
        let descriptor = self.open(path, libc::O_RDONLY, 0).await?;
        let read = self.read(&descriptor, 0, usize::MAX).await;
        self.close(descriptor).await?;
        read
    }

    /// Opens (with what `flags` say beside O_WRONLY), writes, closes.
    pub async fn write_file(&self, path: &str, flags: i32, data: &[u8]) -> Outcome<()> {
        let descriptor = self.open(path, libc::O_WRONLY | flags, 0o644).await?;
        let written = self.write(&descriptor, 0, data).await;
        let closed = self.close(descriptor).await;
        written.and(closed)
    }
}
