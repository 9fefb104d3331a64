//! Between fuser's types and ours.

use crate::base::error::{Error, ErrorKind, Result};
use crate::fs::Kind;
use crate::fs::attr::Attr;
use crate::fs::open::Opened;
use crate::rt;
use fuser::{FileAttr, FileType, FopenFlags, INodeNo, TimeOrNow};
use std::ffi::OsStr;
use std::time::SystemTime;

/// The unit of `st_blocks` (POSIX, `sys/stat.h`).
const BLOCK_BYTES: u64 = 512;
/// What programs that ask are told to read and write in.
const PREFERRED_IO_BYTES: u32 = 1 << 20;

pub(super) fn name(name: &OsStr) -> Result<&str> {
    name.to_str()
        .ok_or_else(|| Error::new(ErrorKind::NameNotUtf8, "names must be UTF-8, as keys are"))
}

pub(super) fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::CharDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
    }
}

pub(super) fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino),
        size: attr.size_bytes,
        blocks: attr.size_bytes.div_ceil(BLOCK_BYTES),
        atime: attr.atime,
        mtime: attr.mtime,
        ctime: attr.ctime,
        crtime: attr.ctime,
        kind: file_type(attr.kind),
        perm: (attr.mode & 0o7777) as u16,
        nlink: attr.links,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.device,
        blksize: PREFERRED_IO_BYTES,
        flags: 0,
    }
}

pub(super) fn time(time: TimeOrNow) -> SystemTime {
    match time {
        TimeOrNow::SpecificTime(time) => time,
        TimeOrNow::Now => rt::wall_clock(),
    }
}

pub(super) fn open_flags(opened: &Opened) -> FopenFlags {
    let mut flags = FopenFlags::empty();
    flags.set(FopenFlags::FOPEN_KEEP_CACHE, opened.keep_cache);
    flags.set(FopenFlags::FOPEN_DIRECT_IO, opened.direct_io);
    flags.set(FopenFlags::FOPEN_NOFLUSH, opened.no_flush);
    flags
}
