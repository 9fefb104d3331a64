//! What the filesystem should be, in memory: a bucket, and the machines that have it mounted.
//!
//! 1. A machine sees its own files that are not in the bucket yet, and not those it has unlinked while they are open:
//!    [`Reference::view`].
//! 2. The content of an open file is shared by its handles and outlives its name: [`Content`].
//! 3. What a commit puts into the bucket, and when: [`Reference::commit`].
//! 4. What copies from a file is committed before that file's version goes; whether a copy was one of a version, or of bytes
//!    in memory, is for the filesystem to say. So a copy that waits for its commit may be in the bucket already, as it was
//!    after any operation since: [`Early`]. The same holds for what may be larger than the memory, and for both also after
//!    they were unlinked ([`Hidden`]).
//!
//! Only operations of one machine at a time on one file are defined here; what happens when two meet is told where the
//! meeting is arranged.

use super::directories::OpenDirectory;
use super::operation::{HandleId, Operation, Value};
use crate::in_process::driver::Outcome;
use pailfs::tree::node::Kind;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

/// What is larger may be uploaded in part before it is committed, and committed when somebody needs those bytes.
const STREAMED_BYTES: usize = 16 << 20;
pub const FILE_MODE: u32 = 0o644;
pub const DIRECTORY_MODE: u32 = 0o755;
const SYMLINK_MODE: u32 = 0o777;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub bytes: Arc<Vec<u8>>,
    /// `None`: the mount's default.
    pub mode: Option<u32>,
    /// `None`: some time, nobody set it.
    pub mtime: Option<SystemTime>,
    /// Different for different commits.
    pub version: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    File(File),
    Symlink(String),
    Directory,
}

/// The content of a file that is open on a machine.
#[derive(Clone)]
struct Content {
    /// `None`: unlinked or replaced.
    path: Option<String>,
    bytes: Vec<u8>,
    mode: Option<u32>,
    mtime: Option<SystemTime>,
    is_dirty: bool,
    /// Never committed.
    is_local: bool,
    handles: usize,
    hides: Option<Hidden>,
    /// It has bytes of another file since its last commit, or many.
    early: Option<Early>,
    /// The paths of the objects that these may come from: they stay in the bucket until then, also when they are unlinked.
    copied_from: Vec<String>,
}

/// The object that is to be deleted with the last handle of an unlinked file.
#[derive(Clone)]
struct Hidden {
    path: String,
    /// `None`: the file was never committed, but the bucket may have it all the same.
    version: Option<u64>,
}

/// What the bucket may show of a file that is not committed yet: one of these contents, under one of these names.
#[derive(Clone, Default)]
struct Early {
    contents: Vec<Arc<Vec<u8>>>,
    paths: Vec<String>,
}

/// True for what a copy from front to back has made of `before` on its way to `after`.
fn is_between(before: &[u8], after: &[u8], bytes: &[u8]) -> bool {
    let equal = bytes.iter().zip(after).take_while(|(one, other)| one == other);
    let done = equal.count();
    bytes.len() <= after.len() && bytes[done..] == *before.get(done..).unwrap_or_default()
}

impl Content {
    fn place(&mut self, offset: usize, data: &[u8]) {
        self.note_early();
        let end = offset + data.len();
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[offset..end].copy_from_slice(data);
        self.mtime = None;
        self.is_dirty = true;
        self.note_early();
    }

    /// Content or name changed.
    fn note_early(&mut self) {
        if self.bytes.len() > STREAMED_BYTES && self.is_dirty {
            self.early.get_or_insert_default();
        }
        let Some(early) = &mut self.early else { return };
        if early.contents.last().is_none_or(|last| **last != self.bytes) {
            early.contents.push(Arc::new(self.bytes.clone()));
        }
        if let Some(path) = &self.path
            && !early.paths.contains(path)
        {
            early.paths.push(path.clone());
        }
    }
}

#[derive(Clone, Copy)]
struct Handle {
    content: u64,
    flags: i32,
    /// Its open has made the file.
    created: bool,
}

impl Handle {
    /// Closing it means that the file is in the bucket.
    fn commits(&self) -> bool {
        self.created || self.flags & libc::O_ACCMODE != libc::O_RDONLY
    }
}

#[derive(Clone, Default)]
struct Machine {
    contents: BTreeMap<u64, Content>,
    handles: BTreeMap<HandleId, Handle>,
    directories: BTreeMap<HandleId, OpenDirectory>,
}

#[derive(Clone)]
pub struct Reference {
    pub bucket: BTreeMap<String, Entry>,
    machines: Vec<Machine>,
    last: u64,
}

/// What a machine sees at a path.
enum Seen<'a> {
    Open(u64),
    Entry(&'a Entry),
}

pub fn parent_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

pub fn is_below(path: &str, directory: &str) -> bool {
    directory.is_empty()
        || path
            .strip_prefix(directory)
            .is_some_and(|rest| rest.starts_with('/'))
}

impl Reference {
    pub fn new(machines: usize) -> Self {
        Self {
            bucket: BTreeMap::new(),
            machines: vec![Machine::default(); machines],
            last: 0,
        }
    }

    fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    // What is there.

    fn content_at(&self, machine: usize, path: &str) -> Option<u64> {
        let contents = &self.machines[machine].contents;
        contents
            .iter()
            .find(|(_, content)| content.path.as_deref() == Some(path))
            .map(|(number, _)| *number)
    }

    fn is_hidden(&self, machine: usize, path: &str) -> bool {
        let Some(Entry::File(file)) = self.bucket.get(path) else {
            return false;
        };
        let hides = |content: &Content| {
            let hidden = content.hides.as_ref();
            hidden.is_some_and(|hidden| hidden.path == path && hidden.version == Some(file.version))
        };
        self.machines[machine].contents.values().any(hides)
    }

    fn view(&self, machine: usize, path: &str) -> Option<Seen<'_>> {
        if path.is_empty() {
            return Some(Seen::Entry(&Entry::Directory));
        }
        if let Some(content) = self.content_at(machine, path) {
            return Some(Seen::Open(content));
        }
        let entry = self.bucket.get(path).filter(|_| !self.is_hidden(machine, path));
        match entry {
            Some(entry) => Some(Seen::Entry(entry)),
            None if self.has_visible_below(machine, path) => Some(Seen::Entry(&Entry::Directory)),
            None => None,
        }
    }

    fn has_visible_below(&self, machine: usize, path: &str) -> bool {
        let prefix = format!("{path}/");
        let from = self.bucket.range(prefix.clone()..);
        let mut below = from.take_while(|(path, _)| path.starts_with(&prefix));
        below.any(|(path, _)| !self.is_hidden(machine, path))
    }

    /// True for a directory that another machine has removed or renamed, and that is still seen here, because of a file in it
    /// that was unlinked there and is still open.
    pub fn is_implied(&self, machine: usize, path: &str) -> bool {
        let is_made = matches!(self.bucket.get(path), Some(Entry::Directory));
        !path.is_empty() && !is_made && self.kind(machine, path) == Some(Kind::Directory)
    }

    pub fn kind(&self, machine: usize, path: &str) -> Option<Kind> {
        self.view(machine, path).map(|seen| match seen {
            Seen::Open(_) | Seen::Entry(Entry::File(_)) => Kind::File,
            Seen::Entry(Entry::Symlink(_)) => Kind::Symlink,
            Seen::Entry(Entry::Directory) => Kind::Directory,
        })
    }

    /// Walks to a path's parent.
    fn walk(&self, machine: usize, path: &str) -> Outcome<Option<Kind>> {
        for (at, _) in path.match_indices('/') {
            match self.kind(machine, &path[..at]) {
                None => return Err(libc::ENOENT),
                Some(Kind::Directory) => {}
                Some(_) => return Err(libc::ENOTDIR),
            }
        }
        Ok(self.kind(machine, path))
    }

    pub fn find(&self, machine: usize, path: &str) -> Outcome<Kind> {
        self.walk(machine, path)?.ok_or(libc::ENOENT)
    }

    /// Every path that a machine sees.
    pub fn paths(&self, machine: usize) -> Vec<String> {
        let open = self.machines[machine]
            .contents
            .values()
            .filter_map(|content| content.path.clone());
        let mut paths: Vec<String> = self
            .bucket
            .keys()
            .filter(|path| !self.is_hidden(machine, path))
            .cloned()
            .chain(open)
            .collect();
        let ways: Vec<String> = paths
            .iter()
            .flat_map(|path| path.match_indices('/').map(|(at, _)| path[..at].to_owned()))
            .collect();
        paths.extend(ways);
        paths.sort();
        paths.dedup();
        paths
    }

    pub fn children(&self, machine: usize, directory: &str) -> BTreeMap<String, Kind> {
        let paths = self.paths(machine);
        let here = paths.iter().filter(|path| parent_of(path) == directory);
        here.filter_map(|path| {
            let name = path.rsplit('/').next().unwrap_or(path);
            Some((name.to_owned(), self.kind(machine, path)?))
        })
        .collect()
    }

    pub fn bytes(&self, machine: usize, path: &str) -> Option<Vec<u8>> {
        match self.view(machine, path)? {
            Seen::Open(content) => Some(self.machines[machine].contents[&content].bytes.clone()),
            Seen::Entry(Entry::File(file)) => Some(file.bytes.to_vec()),
            Seen::Entry(_) => None,
        }
    }

    pub fn handles(&self, machine: usize) -> Vec<(HandleId, i32, usize)> {
        let machine = &self.machines[machine];
        let of = |(id, handle): (&HandleId, &Handle)| {
            (*id, handle.flags, machine.contents[&handle.content].bytes.len())
        };
        machine.handles.iter().map(of).collect()
    }

    pub fn machines(&self) -> usize {
        self.machines.len()
    }

    pub fn directories(&self, machine: usize) -> &BTreeMap<HandleId, OpenDirectory> {
        &self.machines[machine].directories
    }

    pub fn directories_mut(&mut self, machine: usize) -> &mut BTreeMap<HandleId, OpenDirectory> {
        &mut self.machines[machine].directories
    }

    /// True when a machine has something at or below a path that the bucket does not show.
    pub fn is_in_use(&self, machine: usize, path: &str) -> bool {
        self.machines[machine].contents.values().any(|content| {
            let names = content
                .path
                .iter()
                .chain(content.hides.iter().map(|hidden| &hidden.path));
            names.into_iter().any(|name| name == path || is_below(name, path))
        })
    }

    /// The paths of what a machine has open or has unlinked while it was open.
    pub fn paths_in_use(&self, machine: usize) -> Vec<String> {
        let contents = self.machines[machine].contents.values();
        contents
            .flat_map(|content| {
                content
                    .path
                    .iter()
                    .chain(content.hides.iter().map(|hidden| &hidden.path))
            })
            .cloned()
            .collect()
    }

    pub fn has_same_content(&self, machine: usize, one: HandleId, other: HandleId) -> bool {
        self.content_of(machine, one) == self.content_of(machine, other)
    }

    /// True while something that is not committed may have been copied from the object at a path.
    pub fn is_copied_from(&self, path: &str) -> bool {
        let mut contents = self.machines.iter().flat_map(|machine| machine.contents.values());
        contents.any(|content| content.copied_from.iter().any(|from| from == path))
    }

    /// True when a machine has unlinked the object at a path, and waits for its last handle.
    pub fn is_hidden_anywhere(&self, path: &str) -> bool {
        (0..self.machines.len()).any(|machine| self.is_hidden(machine, path))
            || self.may_be_put_unlinked(path)
    }

    /// True for a write that makes a file so large that it may be seen before it is committed.
    pub fn may_stream(&self, machine: usize, operation: &Operation) -> bool {
        match operation {
            Operation::Write { handle, offset, data } => {
                let size = self.content_bytes(machine, *handle).len();
                size.max(*offset) + data.len() > STREAMED_BYTES
            }
            Operation::WriteFile { path, data, .. } => {
                let size = self.bytes(machine, path).map_or(0, |bytes| bytes.len());
                size + data.len() > STREAMED_BYTES
            }
            _ => false,
        }
    }

    /// True when these bytes may be at a path though nobody has committed them.
    pub fn may_be_early(&self, path: &str, bytes: &[u8]) -> bool {
        let contents = self.machines.iter().flat_map(|machine| machine.contents.values());
        let mut early = contents.filter_map(|content| content.early.as_ref());
        early.any(|early| {
            let on_the_way = || {
                let mut steps = early.contents.windows(2);
                steps.any(|step| is_between(&step[0], &step[1], bytes))
            };
            early.paths.iter().any(|known| known == path)
                && (early.contents.iter().any(|content| content[..] == *bytes) || on_the_way())
        })
    }

    /// True when an unlinked file may have been put where it was, for its own handles or before it was unlinked.
    pub fn may_be_put_unlinked(&self, path: &str) -> bool {
        let version = match self.bucket.get(path) {
            Some(Entry::File(file)) => Some(file.version),
            _ => None,
        };
        let contents = self.machines.iter().flat_map(|machine| machine.contents.values());
        let mut early = contents.filter(|content| content.early.is_some());
        early.any(|content| {
            let hidden = content.hides.as_ref();
            hidden.is_some_and(|hidden| hidden.path == path && hidden.version == version)
        })
    }

    /// What is at a path is right.
    pub fn adopt(&mut self, path: &str, bytes: &[u8], mode: Option<u32>) {
        let file = File {
            bytes: Arc::new(bytes.to_vec()),
            mode,
            mtime: None,
            version: self.number(),
        };
        self.bucket.insert(path.to_owned(), Entry::File(file));
    }

    /// True for the name of a removed directory while something in it that was unlinked is still open: the bucket has both
    /// then, and what takes the name is shown under an escaped one.
    pub fn is_haunted(&self, machine: usize, path: &str) -> bool {
        let contents = self.machines[machine].contents.values();
        let mut hidden = contents.filter_map(|content| content.hides.as_ref());
        self.kind(machine, path) != Some(Kind::Directory) && hidden.any(|hidden| is_below(&hidden.path, path))
    }

    /// True when something at or below a path was unlinked while it was open.
    pub fn hides_below(&self, machine: usize, path: &str) -> bool {
        self.machines[machine].contents.values().any(|content| {
            let hidden = content.hides.as_ref();
            hidden.is_some_and(|hidden| hidden.path == path || is_below(&hidden.path, path))
        })
    }

    // What changes it.

    /// Carries out an operation on `machine`.
    pub fn apply(&mut self, machine: usize, operation: &Operation) -> Outcome<Value> {
        let outcome = self.carry_out(machine, operation);
        if let (Operation::Rename { from, to, .. }, Ok(_)) = (operation, &outcome) {
            self.leave_directories(from, to);
        }
        self.follow_directories();
        outcome
    }

    fn carry_out(&mut self, machine: usize, operation: &Operation) -> Outcome<Value> {
        match operation {
            Operation::Open { handle, path, flags } => self.open(machine, *handle, path, *flags)?,
            Operation::Read { handle, offset, len } => return Ok(self.read(machine, *handle, *offset, *len)),
            Operation::Write { handle, offset, data } => self.write(machine, *handle, *offset, data),
            Operation::TruncateHandle { handle, size } => {
                let content = self.content_of(machine, *handle);
                self.resize(machine, content, *size);
            }
            Operation::Allocate {
                handle,
                offset,
                len,
                mode,
            } => self.allocate(machine, *handle, (*offset, *len), *mode),
            Operation::Seek { handle, offset, data } => {
                let bytes = self.content_bytes(machine, *handle).to_vec();
                let (offset, data) = (*offset, *data);
                return Ok(Value::PlaceIn { bytes, offset, data });
            }
            Operation::Copy {
                from,
                from_offset,
                to,
                to_offset,
                len,
            } => {
                let copied = self.copy(machine, (*from, *from_offset), (*to, *to_offset), *len);
                return Ok(Value::Count(copied));
            }
            Operation::Flush { handle } => {
                if self.machines[machine].handles[handle].commits() {
                    self.commit(machine, self.content_of(machine, *handle));
                }
            }
            Operation::Sync { handle } => self.commit(machine, self.content_of(machine, *handle)),
            Operation::StatHandle { handle } => {
                let content = self.content_of(machine, *handle);
                return Ok(self.stat_content(machine, content));
            }
            Operation::Close { handle } => self.close(machine, *handle),
            Operation::ReadFile { path } => {
                let handle = self.number();
                self.open(machine, handle, path, libc::O_RDONLY)?;
                let read = self.read(machine, handle, 0, usize::MAX);
                self.close(machine, handle);
                return Ok(read);
            }
            Operation::WriteFile { path, flags, data } => {
                let handle = self.number();
                self.open(machine, handle, path, libc::O_WRONLY | flags)?;
                self.write(machine, handle, 0, data);
                self.close(machine, handle);
            }
            Operation::Truncate { path, size } => self.truncate(machine, path, *size)?,
            Operation::Chmod { path, mode } => self.set(machine, path, Some(*mode), None)?,
            Operation::SetTime { path, mtime } => self.set(machine, path, None, Some(*mtime))?,
            Operation::Stat { path } => return self.stat(machine, path),
            Operation::List { path, .. } => {
                return match self.find(machine, path)? {
                    Kind::Directory => Ok(Value::Names(self.children(machine, path))),
                    _ => Err(libc::ENOTDIR),
                };
            }
            Operation::OpenDirectory { handle, path } => self.open_directory(machine, *handle, path)?,
            Operation::CloseDirectory { handle } => {
                self.directories_mut(machine).remove(handle);
            }
            Operation::ReadEntries { .. } => unreachable!("what they may be depends on what was read before"),
            Operation::Unlink { path } => self.unlink(machine, path)?,
            Operation::Mkdir { path } => self.make(machine, path, Entry::Directory)?,
            Operation::Symlink { path, target } => {
                self.make(machine, path, Entry::Symlink(target.clone()))?
            }
            Operation::Rmdir { path } => self.rmdir(machine, path)?,
            Operation::Rename { from, to, no_replace } => self.rename(machine, from, to, *no_replace)?,
            Operation::Readlink { path } => {
                return match (self.find(machine, path)?, self.bucket.get(path)) {
                    (Kind::Symlink, Some(Entry::Symlink(target))) => Ok(Value::Text(target.clone())),
                    _ => Err(libc::EINVAL),
                };
            }
        }
        Ok(Value::Nothing)
    }

    fn content_of(&self, machine: usize, handle: HandleId) -> u64 {
        self.machines[machine].handles[&handle].content
    }

    fn content(&mut self, machine: usize, number: u64) -> &mut Content {
        self.machines[machine]
            .contents
            .get_mut(&number)
            .expect("a content with handles")
    }

    fn open(&mut self, machine: usize, handle: HandleId, path: &str, flags: i32) -> Outcome<()> {
        let creates = flags & libc::O_CREAT != 0;
        let there = self.walk(machine, path)?;
        let number = match there {
            Some(_) if creates && flags & libc::O_EXCL != 0 => return Err(libc::EEXIST),
            Some(Kind::Directory) => return Err(libc::EISDIR),
            Some(Kind::Symlink) => return Err(libc::ELOOP),
            // No operation makes special files.
            Some(_) => {
                let number = self.share(machine, path);
                if flags & libc::O_TRUNC != 0 {
                    self.resize(machine, number, 0);
                }
                number
            }
            None if creates => self.create(machine, path),
            None => return Err(libc::ENOENT),
        };
        self.content(machine, number).handles += 1;
        self.machines[machine].handles.insert(
            handle,
            Handle {
                content: number,
                flags,
                created: there.is_none(),
            },
        );
        Ok(())
    }

    fn create(&mut self, machine: usize, path: &str) -> u64 {
        let number = self.number();
        let content = Content {
            path: Some(path.to_owned()),
            bytes: Vec::new(),
            mode: Some(FILE_MODE),
            mtime: None,
            is_dirty: true,
            is_local: true,
            handles: 0,
            hides: None,
            early: None,
            copied_from: Vec::new(),
        };
        self.machines[machine].contents.insert(number, content);
        number
    }

    /// The shared content of a file that exists.
    fn share(&mut self, machine: usize, path: &str) -> u64 {
        if let Some(number) = self.content_at(machine, path) {
            return number;
        }
        let Some(Entry::File(file)) = self.bucket.get(path).cloned() else {
            unreachable!("{path} is a file")
        };
        let number = self.number();
        let content = Content {
            path: Some(path.to_owned()),
            bytes: file.bytes.to_vec(),
            mode: file.mode,
            mtime: file.mtime,
            is_dirty: false,
            is_local: false,
            handles: 0,
            hides: None,
            early: None,
            copied_from: Vec::new(),
        };
        self.machines[machine].contents.insert(number, content);
        number
    }

    fn content_bytes(&self, machine: usize, handle: HandleId) -> &[u8] {
        &self.machines[machine].contents[&self.content_of(machine, handle)].bytes
    }

    fn read(&self, machine: usize, handle: HandleId, offset: usize, len: usize) -> Value {
        let bytes = self.content_bytes(machine, handle);
        let start = offset.min(bytes.len());
        let end = start.saturating_add(len).min(bytes.len());
        Value::Bytes(bytes[start..end].to_vec())
    }

    fn write(&mut self, machine: usize, handle: HandleId, offset: usize, data: &[u8]) {
        let flags = self.machines[machine].handles[&handle].flags;
        let number = self.content_of(machine, handle);
        let content = self.content(machine, number);
        if data.is_empty() {
            // write(2) of nothing does nothing; the kernel does not even ask.
            return;
        }
        let offset = if flags & libc::O_APPEND != 0 {
            content.bytes.len()
        } else {
            offset
        };
        content.place(offset, data);
    }

    fn copy(
        &mut self,
        machine: usize,
        (from, from_offset): (HandleId, usize),
        (to, to_offset): (HandleId, usize),
        len: usize,
    ) -> usize {
        let Value::Bytes(data) = self.read(machine, from, from_offset, len) else {
            unreachable!("a read returns bytes")
        };
        let is_same = self.has_same_content(machine, from, to);
        let source = self.content_of(machine, from);
        let source = self.content(machine, source);
        let hidden = source.hides.iter().map(|hidden| &hidden.path);
        let mut from: Vec<String> = source.path.iter().chain(hidden).cloned().collect();
        from.extend(source.copied_from.iter().cloned());
        let number = self.content_of(machine, to);
        let target = self.content(machine, number);
        if !data.is_empty() {
            if !is_same {
                target.early.get_or_insert_default();
                target.copied_from.extend(from);
            }
            target.place(to_offset, &data);
        }
        data.len()
    }

    fn allocate(&mut self, machine: usize, handle: HandleId, (offset, len): (usize, usize), mode: i32) {
        let number = self.content_of(machine, handle);
        let end = offset + len;
        let size = self.content(machine, number).bytes.len();
        if mode & libc::FALLOC_FL_KEEP_SIZE == 0 && end > size {
            self.resize(machine, number, end);
        }
        let content = self.content(machine, number);
        let end = end.min(content.bytes.len());
        if mode & !libc::FALLOC_FL_KEEP_SIZE != 0 && offset < end {
            content.place(offset, &vec![0; end - offset]);
        }
    }

    fn resize(&mut self, machine: usize, number: u64, size: usize) {
        let content = self.content(machine, number);
        content.is_dirty = true;
        content.bytes.resize(size, 0);
        content.mtime = None;
        content.note_early();
    }

    fn commit(&mut self, machine: usize, number: u64) {
        let version = self.number();
        let content = self.content(machine, number);
        let Some(path) = content.path.clone().filter(|_| content.is_dirty) else {
            return;
        };
        content.is_dirty = false;
        content.is_local = false;
        content.early = None;
        content.copied_from.clear();
        let file = File {
            bytes: Arc::new(content.bytes.clone()),
            mode: content.mode,
            mtime: content.mtime,
            version,
        };
        self.bucket.insert(path, Entry::File(file));
    }

    /// Commits what is at or below a path.
    pub fn commit_below(&mut self, machine: usize, path: &str) {
        let contents = self.machines[machine].contents.iter();
        let below = |name: &str| name == path || is_below(name, path);
        let numbers: Vec<u64> = contents
            .filter(|(_, content)| content.path.as_deref().is_some_and(below))
            .map(|(number, _)| *number)
            .collect();
        for number in numbers {
            self.commit(machine, number);
        }
    }

    fn close(&mut self, machine: usize, handle: HandleId) {
        let number = self.content_of(machine, handle);
        if self.machines[machine].handles[&handle].commits() {
            self.commit(machine, number);
        }
        self.machines[machine].handles.remove(&handle);
        let content = self.content(machine, number);
        content.handles -= 1;
        self.drop_if_closed(machine, number);
    }

    fn drop_if_closed(&mut self, machine: usize, number: u64) {
        let content = self.content(machine, number);
        if content.handles > 0 || (content.is_dirty && content.path.is_some()) {
            return;
        }
        let hides = content.hides.take();
        self.machines[machine].contents.remove(&number);
        if let Some(hidden) = hides {
            self.delete_hidden(&hidden);
        }
    }

    fn delete_hidden(&mut self, Hidden { path, version }: &Hidden) {
        if matches!(self.bucket.get(path), Some(Entry::File(file)) if Some(file.version) == *version) {
            self.bucket.remove(path);
        }
    }

    fn truncate(&mut self, machine: usize, path: &str, size: usize) -> Outcome<()> {
        match self.find(machine, path)? {
            Kind::Directory => return Err(libc::EISDIR),
            Kind::Symlink => return Err(libc::EINVAL),
            _ => {}
        }
        let number = self.share(machine, path);
        self.resize(machine, number, size);
        let content = self.content(machine, number);
        if !(content.is_local && content.handles > 0) {
            self.commit(machine, number);
        }
        self.drop_if_closed(machine, number);
        Ok(())
    }

    fn set(
        &mut self,
        machine: usize,
        path: &str,
        mode: Option<u32>,
        mtime: Option<SystemTime>,
    ) -> Outcome<()> {
        self.find(machine, path)?;
        let open = self.content_at(machine, path);
        if let Some(number) = open {
            let content = self.content(machine, number);
            content.mode = mode.or(content.mode);
            content.mtime = mtime.or(content.mtime);
            if content.is_dirty {
                return Ok(());
            }
        }
        if let Some(Entry::File(file)) = self.bucket.get_mut(path) {
            file.mode = mode.or(file.mode);
            file.mtime = mtime.or(file.mtime);
        }
        Ok(())
    }

    fn stat_content(&self, machine: usize, number: u64) -> Value {
        let content = &self.machines[machine].contents[&number];
        Value::Stat {
            kind: Kind::File,
            size: content.bytes.len(),
            mode: content.mode.unwrap_or(FILE_MODE),
            mtime: content.mtime,
        }
    }

    fn stat(&self, machine: usize, path: &str) -> Outcome<Value> {
        self.find(machine, path)?;
        let fixed = |kind, mode| Value::Stat {
            kind,
            size: 0,
            mode,
            mtime: None,
        };
        Ok(match self.view(machine, path) {
            None => return Err(libc::ENOENT),
            Some(Seen::Open(number)) => self.stat_content(machine, number),
            Some(Seen::Entry(Entry::Directory)) => fixed(Kind::Directory, DIRECTORY_MODE),
            Some(Seen::Entry(Entry::Symlink(_))) => fixed(Kind::Symlink, SYMLINK_MODE),
            Some(Seen::Entry(Entry::File(file))) => Value::Stat {
                kind: Kind::File,
                size: file.bytes.len(),
                mode: file.mode.unwrap_or(FILE_MODE),
                mtime: file.mtime,
            },
        })
    }

    fn make(&mut self, machine: usize, path: &str, entry: Entry) -> Outcome<()> {
        if self.walk(machine, path)?.is_some() {
            return Err(libc::EEXIST);
        }
        self.bucket.insert(path.to_owned(), entry);
        Ok(())
    }

    fn unlink(&mut self, machine: usize, path: &str) -> Outcome<()> {
        if self.find(machine, path)? == Kind::Directory {
            return Err(libc::EISDIR);
        }
        let open = self.content_at(machine, path);
        match open {
            None => {
                self.bucket.remove(path);
            }
            Some(number) => {
                // A file that is not committed may have taken the name of an object (by a rename) that must go too.
                let version = match self.bucket.get(path) {
                    Some(Entry::File(file)) if !self.is_hidden(machine, path) => Some(file.version),
                    _ => None,
                };
                if matches!(self.bucket.get(path), Some(Entry::Symlink(_))) {
                    self.bucket.remove(path);
                }
                let content = self.content(machine, number);
                content.path = None;
                let is_hidden = version.is_some() || content.early.is_some();
                content.hides = is_hidden.then(|| Hidden {
                    path: path.to_owned(),
                    version,
                });
                if let Some(early) = &mut content.early {
                    early.paths.retain(|early| early != path);
                }
                self.drop_if_closed(machine, number);
            }
        }
        Ok(())
    }

    fn rmdir(&mut self, machine: usize, path: &str) -> Outcome<()> {
        if self.find(machine, path)? != Kind::Directory {
            return Err(libc::ENOTDIR);
        }
        if !self.children(machine, path).is_empty() {
            return Err(libc::ENOTEMPTY);
        }
        self.bucket.remove(path);
        Ok(())
    }

    fn rename(&mut self, machine: usize, from: &str, to: &str, no_replace: bool) -> Outcome<()> {
        self.walk(machine, from)?;
        let target = self.walk(machine, to)?;
        let kind = self.kind(machine, from).ok_or(libc::ENOENT)?;
        if target.is_some() && no_replace {
            return Err(libc::EEXIST);
        }
        if from == to {
            return Ok(());
        }
        match (kind, target) {
            (Kind::Directory, Some(Kind::Directory)) => {}
            (Kind::Directory, Some(_)) => return Err(libc::ENOTDIR),
            (_, Some(Kind::Directory)) => return Err(libc::EISDIR),
            _ => {}
        }
        if kind != Kind::Directory {
            self.move_file(machine, from, to, no_replace);
            return Ok(());
        }
        if is_below(to, from) {
            return Err(libc::EINVAL);
        }
        if !self.children(machine, to).is_empty() {
            return Err(libc::ENOTEMPTY);
        }
        self.move_directory(machine, from, to);
        Ok(())
    }

    fn move_file(&mut self, machine: usize, from: &str, to: &str, no_replace: bool) {
        let replaced = self.content_at(machine, to);
        let moved = self.content_at(machine, from);
        let is_local = moved.is_some_and(|number| self.content(machine, number).is_local);
        if let (Some(number), false) = (moved, is_local) {
            self.commit(machine, number);
        }
        let mut early = None;
        if let Some(number) = replaced {
            let content = self.content(machine, number);
            content.path = None;
            early = content.early.is_some().then(|| Arc::new(content.bytes.clone()));
            self.drop_if_closed(machine, number);
        }
        if let Some(number) = moved {
            let content = self.content(machine, number);
            content.path = Some(to.to_owned());
            if let Some(bytes) = early.filter(|_| is_local) {
                // What it replaces was put there for the handles that have it open.
                content.early.get_or_insert_default().contents.push(bytes);
            }
            content.note_early();
            if is_local && no_replace {
                self.commit(machine, number);
            }
        }
        if is_local {
            // An object whose name it had taken, by a rename, is gone with that.
            if !self.is_hidden(machine, from) {
                self.bucket.remove(from);
            }
        } else if let Some(entry) = self.bucket.remove(from) {
            let entry = self.with_new_version(entry);
            self.bucket.insert(to.to_owned(), entry);
        }
    }

    fn with_new_version(&mut self, entry: Entry) -> Entry {
        match entry {
            Entry::File(file) => Entry::File(File {
                version: self.number(),
                ..file
            }),
            other => other,
        }
    }

    fn move_directory(&mut self, machine: usize, from: &str, to: &str) {
        let below: Vec<u64> = self.machines[machine]
            .contents
            .iter()
            .filter(|(_, content)| content.path.as_deref().is_some_and(|path| is_below(path, from)))
            .map(|(number, _)| *number)
            .collect();
        for number in below {
            self.commit(machine, number);
            let content = self.content(machine, number);
            content.path = content
                .path
                .take()
                .map(|path| format!("{to}{}", &path[from.len()..]));
        }
        let moved: Vec<String> = self
            .bucket
            .keys()
            .filter(|path| *path == from || is_below(path, from))
            // What was unlinked here while it was open stays where it is, until the last handle is closed.
            .filter(|path| !self.is_hidden(machine, path))
            .cloned()
            .collect();
        for path in moved {
            if let Some(entry) = self.bucket.remove(&path) {
                let entry = self.with_new_version(entry);
                self.bucket.insert(format!("{to}{}", &path[from.len()..]), entry);
            }
        }
    }

    /// Another machine or tool puts an object.
    pub fn put(&mut self, path: &str, bytes: &[u8]) {
        for (at, _) in path.match_indices('/') {
            self.bucket
                .entry(path[..at].to_owned())
                .or_insert(Entry::Directory);
        }
        let file = File {
            bytes: Arc::new(bytes.to_vec()),
            mode: None,
            mtime: None,
            version: self.number(),
        };
        self.bucket.insert(path.to_owned(), Entry::File(file));
        self.follow_directories();
    }

    /// Another machine or tool changes the attributes of an object.
    pub fn set_mode(&mut self, path: &str, mode: u32) {
        if let Some(Entry::File(file)) = self.bucket.get_mut(path) {
            file.mode = Some(mode);
        }
    }

    /// The machine is gone with all that was not committed; its next mount has deleted what was unlinked.
    pub fn crash(&mut self, machine: usize) {
        let contents = std::mem::take(&mut self.machines[machine]).contents;
        for content in contents.into_values() {
            if let Some(hidden) = content.hides {
                self.delete_hidden(&hidden);
            }
        }
        self.follow_directories();
    }
}
