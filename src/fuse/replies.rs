//! Answers that several requests have in common.

use super::convert;
use crate::fs::attr::Attr;
use crate::fs::open::Opened;
use crate::fs::{Fs, Kind};
use fuser::{Errno, FileHandle, Generation, ReplyAttr, ReplyCreate, ReplyEntry, ReplyOpen};
use std::time::{Duration, SystemTime};

pub(super) fn entry(reply: ReplyEntry, attr: &Attr) {
    reply.entry(&attr.ttl, &convert::file_attr(attr), Generation(0));
}

pub(super) fn attr(reply: ReplyAttr, result: Result<Attr, Errno>) {
    match result {
        Ok(attr) => reply.attr(&attr.ttl, &convert::file_attr(&attr)),
        Err(errno) => reply.error(errno),
    }
}

pub(super) fn opened(reply: ReplyOpen, fs: &Fs, opened: &Opened) {
    let (handle, flags) = (FileHandle(opened.handle), convert::open_flags(opened));
    match fs.kernel_backing(opened, |file| reply.open_backing(file)) {
        Some(backing) => reply.opened_passthrough(handle, flags, backing),
        None => reply.opened(handle, flags),
    }
}

pub(super) fn created(reply: ReplyCreate, fs: &Fs, attr: &Attr, opened: &Opened) {
    let (ttl, attr, generation) = (&attr.ttl, &convert::file_attr(attr), Generation(0));
    let (handle, flags) = (FileHandle(opened.handle), convert::open_flags(opened));
    match fs.kernel_backing(opened, |file| reply.open_backing(file)) {
        Some(backing) => reply.created_passthrough(ttl, attr, generation, handle, flags, backing),
        None => reply.created(ttl, attr, generation, handle, flags),
    }
}

/// Inode number 0 with a time to live: the kernel remembers that the name is not there (`fuse_lowlevel.h`,
/// `fuse_entry_param`).
pub(super) fn absent(reply: ReplyEntry, ttl: Duration) {
    if ttl.is_zero() {
        reply.error(Errno::ENOENT);
        return;
    }
    let absent = Attr {
        ino: 0,
        kind: Kind::File,
        size_bytes: 0,
        mode: 0,
        uid: 0,
        gid: 0,
        links: 0,
        device: 0,
        atime: SystemTime::UNIX_EPOCH,
        mtime: SystemTime::UNIX_EPOCH,
        ctime: SystemTime::UNIX_EPOCH,
        ttl,
    };
    entry(reply, &absent);
}
