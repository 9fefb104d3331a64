//! The requests that read directories.

use super::convert;
use super::handlers::Handlers;
use crate::fs::attr::Attr;
use crate::fs::readdir::DirectoryEntry;
use fuser::{Errno, FileHandle, Generation, INodeNo, ReplyDirectory, ReplyDirectoryPlus};
use std::time::Duration;

impl Handlers {
    pub(super) fn read_directory(&self, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let fs = self.fs.clone();
        let sender = self.fs.clone();
        let operation = async move { fs.read_directory(handle.0, offset, false).await };
        self.run(
            "readdir",
            operation,
            move |result: Result<Vec<DirectoryEntry>, Errno>| match result {
                Ok(entries) => {
                    let is_full = |entry: &DirectoryEntry| {
                        let kind = convert::file_type(entry.kind);
                        reply.add(INodeNo(entry.ino), entry.next_offset, kind, &entry.name)
                    };
                    let sent = entries.iter().position(is_full).unwrap_or(entries.len());
                    sender.sent_entries(handle.0, &entries, sent);
                    reply.ok();
                }
                Err(errno) => reply.error(errno),
            },
        );
    }

    pub(super) fn read_directory_with_attributes(
        &self,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let fs = self.fs.clone();
        let sender = self.fs.clone();
        let operation = async move {
            let own = fs.attributes(ino.0).await?;
            let entries = fs.read_directory(handle.0, offset, true).await?;
            Ok((entries, own))
        };
        self.run("readdirplus", operation, move |result| match result {
            Ok((entries, own)) => {
                let is_full = |entry: &DirectoryEntry| {
                    // The kernel makes no inode for `.` and `..`, so any attributes will do for them.
                    let attr = entry.attr.unwrap_or(Attr {
                        ino: entry.ino,
                        ttl: Duration::ZERO,
                        ..own
                    });
                    reply.add(
                        INodeNo(entry.ino),
                        entry.next_offset,
                        &entry.name,
                        &attr.ttl,
                        &convert::file_attr(&attr),
                        Generation(0),
                    )
                };
                let sent = entries.iter().position(is_full).unwrap_or(entries.len());
                sender.sent_entries(handle.0, &entries, sent);
                reply.ok();
            }
            Err(errno) => reply.error(errno),
        });
    }
}
