//! Random operations: mostly such that succeed, on few names, so that they meet.

use super::operation::{HandleId, Operation};
use super::reference::{Reference, is_below};
use crate::in_process::random::Random;
use pailfs::tree::node::Kind;
use std::time::{Duration, UNIX_EPOCH};

const NAMES: [&str; 5] = ["a", "b", "c", "d.txt", "e é"];
const MAX_DEPTH: usize = 3;
const MAX_HANDLES: usize = 6;
const MAX_DIRECTORIES: usize = 2;
/// Modes of fallocate(2).
const ALLOCATIONS: [i32; 5] = [
    0,
    libc::FALLOC_FL_KEEP_SIZE,
    libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
    libc::FALLOC_FL_ZERO_RANGE,
    libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE,
];
/// More than what an open fetches whole.
const LARGE: usize = (1 << 20) + 70_000;

pub struct Generator {
    last_handle: HandleId,
    /// One file in so many is uploaded in parts.
    pub huge_one_in: usize,
    /// Without: no operation that changes attributes only. Under one ETag, within one second of the store's clock, other
    /// machines cannot notice them; and a crash within a second loses them.
    pub with_attributes: bool,
    /// Copies between open files, which may be in the bucket before they are closed.
    pub with_copies: bool,
    /// Open directories are read often.
    pub with_directories: bool,
}

impl Generator {
    pub fn new(huge_one_in: usize, with_attributes: bool) -> Self {
        Self {
            last_handle: 1 << 32,
            huge_one_in,
            with_attributes,
            with_copies: false,
            with_directories: false,
        }
    }

    /// A path, existing or not; `""` never.
    pub fn path(random: &mut Random, reference: &Reference, machine: usize) -> String {
        let paths = reference.paths(machine);
        if !random.one_in(4)
            && let Some(path) = random.pick(&paths)
        {
            return path.clone();
        }
        let directories: Vec<&String> = paths
            .iter()
            .filter(|path| reference.kind(machine, path) == Some(Kind::Directory))
            .filter(|path| path.matches('/').count() + 1 < MAX_DEPTH)
            .collect();
        let name = NAMES[random.below(NAMES.len())];
        match random.pick(&directories) {
            Some(directory) if !random.one_in(3) => format!("{directory}/{name}"),
            _ if random.one_in(40) => format!("nowhere/{name}"),
            _ => name.to_owned(),
        }
    }

    pub fn path_of_kind(
        random: &mut Random,
        reference: &Reference,
        machine: usize,
        kind: Kind,
    ) -> Option<String> {
        let paths = reference.paths(machine);
        let fitting: Vec<&String> = paths
            .iter()
            .filter(|path| reference.kind(machine, path) == Some(kind))
            .collect();
        random.pick(&fitting).map(|path| (*path).clone())
    }

    fn data(&self, random: &mut Random) -> Vec<u8> {
        let len = match random.below(20) {
            0 => 0,
            1..=12 => random.within(1..5_000),
            13..=17 => random.within(100_000..300_000),
            18 => random.within(LARGE..LARGE + 100_000),
            _ if random.one_in(self.huge_one_in) => random.within((9 << 20)..(13 << 20)),
            _ => random.within(1..100),
        };
        random.bytes(len)
    }

    fn offset(random: &mut Random, size: usize) -> usize {
        match random.below(8) {
            0 => 0,
            1 => size,
            2 => size + random.below(200_000),
            3 => size.saturating_sub(random.below(300)),
            _ => random.below(size + 1),
        }
    }

    pub fn next(&mut self, random: &mut Random, reference: &Reference, machine: usize) -> Operation {
        let directories = reference.directories(machine);
        if let Some(handle) = random.pick(&directories.keys().copied().collect::<Vec<_>>())
            && random.one_in(if self.with_directories { 3 } else { 8 })
        {
            return Self::on_directory(random, *handle);
        }
        if directories.len() < MAX_DIRECTORIES && random.one_in(if self.with_directories { 4 } else { 40 }) {
            self.last_handle += 1;
            let path = Self::path_of_kind(random, reference, machine, Kind::Directory);
            return Operation::OpenDirectory {
                handle: self.last_handle,
                path: path.filter(|_| !random.one_in(3)).unwrap_or_default(),
            };
        }
        let handles = reference.handles(machine);
        if !handles.is_empty() && random.one_in(2) {
            let (handle, flags, size) = handles[random.below(handles.len())];
            if self.with_copies
                && random.one_in(4)
                && let Some(copy) = Self::copy(random, reference, machine)
            {
                return copy;
            }
            return self.on_handle(random, handle, flags, size, handles.len());
        }
        if handles.len() < MAX_HANDLES && random.one_in(6) {
            self.last_handle += 1;
            let path = Self::file_or_any(random, reference, machine);
            let flags = Self::flags(random);
            return Operation::Open {
                handle: self.last_handle,
                path,
                flags,
            };
        }
        self.by_path(random, reference, machine)
    }

    fn on_directory(random: &mut Random, handle: HandleId) -> Operation {
        if random.one_in(10) {
            return Operation::CloseDirectory { handle };
        }
        Operation::ReadEntries {
            handle,
            from_the_beginning: random.one_in(10),
            at_once: random.within(1..4),
            with_attributes: random.one_in(2),
        }
    }

    fn on_handle(
        &self,
        random: &mut Random,
        handle: HandleId,
        flags: i32,
        size: usize,
        open: usize,
    ) -> Operation {
        let access = flags & libc::O_ACCMODE;
        let (reads, writes) = (access != libc::O_WRONLY, access != libc::O_RDONLY);
        match random.below(16) {
            0..=3 if writes => {
                let offset = Self::offset(random, size);
                Operation::Write {
                    handle,
                    offset,
                    data: self.data(random),
                }
            }
            4..=7 if reads => {
                let offset = Self::offset(random, size);
                Operation::Read {
                    handle,
                    offset,
                    len: random.within(1..400_000),
                }
            }
            8 if writes => {
                // To the same size: whether that is a change is for the filesystem to say.
                let new = Self::offset(random, size);
                Operation::TruncateHandle {
                    handle,
                    size: if new == size { size + 1 } else { new },
                }
            }
            14 if writes => Operation::Allocate {
                handle,
                offset: Self::offset(random, size),
                len: random.within(1..400_000),
                mode: ALLOCATIONS[random.below(ALLOCATIONS.len())],
            },
            15 => Operation::Seek {
                handle,
                offset: Self::offset(random, size),
                data: random.one_in(2),
            },
            9 => Operation::Flush { handle },
            10 if random.one_in(2) => Operation::Sync { handle },
            11 => Operation::StatHandle { handle },
            _ if open > 2 || random.one_in(3) => Operation::Close { handle },
            _ => Operation::StatHandle { handle },
        }
    }

    /// copy_file_range(2) as the kernel lets it through: not onto itself, and not through handles that append.
    fn copy(random: &mut Random, reference: &Reference, machine: usize) -> Option<Operation> {
        let handles = reference.handles(machine);
        let access = |flags: i32| flags & libc::O_ACCMODE;
        let reading: Vec<_> = handles
            .iter()
            .filter(|(_, flags, _)| access(*flags) != libc::O_WRONLY)
            .collect();
        let writing: Vec<_> = handles
            .iter()
            .filter(|(_, flags, _)| access(*flags) != libc::O_RDONLY && flags & libc::O_APPEND == 0)
            .collect();
        let (from, _, from_size) = **random.pick(&reading)?;
        let (to, _, to_size) = **random.pick(&writing)?;
        let from_offset = if random.one_in(2) {
            0
        } else {
            random.below(from_size + 1)
        };
        let to_offset = if random.one_in(3) {
            0
        } else {
            Self::offset(random, to_size)
        };
        let mut len = if random.one_in(2) {
            usize::MAX >> 1
        } else {
            random.within(1..400_000)
        };
        if reference.has_same_content(machine, from, to) {
            // What it appends to itself is not copied again.
            len = len
                .min(from_offset.abs_diff(to_offset))
                .min(from_size - from_offset);
        }
        (len > 0).then_some(Operation::Copy {
            from,
            from_offset,
            to,
            to_offset,
            len,
        })
    }

    fn flags(random: &mut Random) -> i32 {
        let access = [libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR, libc::O_RDWR][random.below(4)];
        let mut flags = access;
        if random.one_in(2) {
            flags |= libc::O_CREAT;
            if random.one_in(6) {
                flags |= libc::O_EXCL;
            }
        }
        if access != libc::O_RDONLY {
            match random.below(6) {
                0 => flags |= libc::O_TRUNC,
                1 => flags |= libc::O_APPEND,
                _ => {}
            }
        }
        flags
    }

    fn file_or_any(random: &mut Random, reference: &Reference, machine: usize) -> String {
        let file = Self::path_of_kind(random, reference, machine, Kind::File);
        match file {
            Some(path) if !random.one_in(3) => path,
            _ => Self::path(random, reference, machine),
        }
    }

    fn by_path(&self, random: &mut Random, reference: &Reference, machine: usize) -> Operation {
        let path = Self::path(random, reference, machine);
        match random.below(32) {
            0..=5 => {
                let flags = [
                    libc::O_CREAT | libc::O_TRUNC,
                    libc::O_CREAT | libc::O_TRUNC,
                    libc::O_CREAT | libc::O_TRUNC,
                    libc::O_CREAT | libc::O_EXCL,
                    libc::O_CREAT | libc::O_APPEND,
                    libc::O_CREAT,
                    libc::O_APPEND,
                    libc::O_TRUNC,
                    0,
                ];
                let flags = flags[random.below(flags.len())];
                Operation::WriteFile {
                    path,
                    flags,
                    data: self.data(random),
                }
            }
            6..=8 => Operation::ReadFile {
                path: Self::file_or_any(random, reference, machine),
            },
            9..=10 => {
                let path = Self::file_or_any(random, reference, machine);
                let size = reference.bytes(machine, &path).map_or(0, |bytes| bytes.len());
                Operation::Truncate {
                    path,
                    size: Self::offset(random, size),
                }
            }
            11..=12 if self.with_attributes => {
                match Self::path_of_kind(random, reference, machine, Kind::File) {
                    Some(path) => Operation::Chmod {
                        path,
                        mode: [0o600, 0o644, 0o755, 0o444][random.below(4)],
                    },
                    None => Operation::Stat { path },
                }
            }
            13 if self.with_attributes => match Self::path_of_kind(random, reference, machine, Kind::File) {
                Some(path) => {
                    let mtime = UNIX_EPOCH + Duration::from_nanos(random.next() >> 3);
                    Operation::SetTime { path, mtime }
                }
                None => Operation::Stat { path },
            },
            11..=15 => Operation::Stat { path },
            16..=17 => Operation::List {
                path,
                with_attributes: random.one_in(2),
            },
            18..=19 => Operation::Unlink { path },
            20..=22 => Operation::Mkdir { path },
            23..=24 => {
                let directory = Self::path_of_kind(random, reference, machine, Kind::Directory);
                Operation::Rmdir {
                    path: directory.unwrap_or(path),
                }
            }
            25 => {
                let target = format!("target {}", random.below(1_000));
                Operation::Symlink { path, target }
            }
            26 => Operation::Readlink { path },
            _ => {
                let from = Self::path(random, reference, machine);
                let directory = Self::path_of_kind(random, reference, machine, Kind::Directory);
                let from = directory.filter(|_| random.one_in(4)).unwrap_or(from);
                Operation::Rename {
                    from,
                    to: path,
                    no_replace: random.one_in(5),
                }
            }
        }
    }

    /// Paths that an operation is about.
    pub fn paths_of(operation: &Operation) -> Vec<&str> {
        match operation {
            Operation::Rename { from, to, .. } => vec![from, to],
            Operation::Open { path, .. }
            | Operation::ReadFile { path }
            | Operation::WriteFile { path, .. }
            | Operation::Truncate { path, .. }
            | Operation::Chmod { path, .. }
            | Operation::SetTime { path, .. }
            | Operation::Stat { path }
            | Operation::OpenDirectory { path, .. }
            | Operation::List { path, .. }
            | Operation::Unlink { path }
            | Operation::Mkdir { path }
            | Operation::Rmdir { path }
            | Operation::Symlink { path, .. }
            | Operation::Readlink { path } => vec![path],
            _ => Vec::new(),
        }
    }

    /// True when the operation would touch what another machine has open: that is the business of `races`.
    pub fn meets_others(
        reference: &Reference,
        machines: usize,
        machine: usize,
        operation: &Operation,
    ) -> bool {
        let others = (0..machines).filter(|other| *other != machine);
        let paths = Self::paths_of(operation);
        others.into_iter().any(|other| {
            paths.iter().any(|path| {
                reference.is_in_use(other, path)
                    || reference
                        .paths_in_use(other)
                        .iter()
                        .any(|used| is_below(path, used))
            })
        })
    }
}
