//! One method per kernel request.

use super::{buffers, convert, dispatch, replies};
use crate::base::error::Result;
use crate::base::read_bytes::ReadBytes;
use crate::fs::attr::Change;
use crate::fs::io::WriteHow;
use crate::fs::open::Opened;
use crate::fs::{Caller, Fs, Node};
use crate::rt::Handle;
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, INodeNo, InitFlags, IoctlFlags,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite,
    ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Largest write the kernel sends; it also bounds reads (1 MiB requests are the kernel's default limit).
const MAX_WRITE_BYTES: u32 = 1 << 20;
/// Requests the kernel keeps in flight for read-ahead and the like.
const MAX_BACKGROUND: u16 = 64;

pub(super) struct Handlers {
    pub fs: Arc<Fs>,
    pub runtime: Handle,
    pub negative_ttl: Duration,
}

impl Handlers {
    pub(super) fn run<T, F, R>(&self, name: &'static str, operation: F, reply: R)
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
        R: FnOnce(Result<T, Errno>) + Send + 'static,
    {
        dispatch::run(&self.runtime, name, operation, reply);
    }

    fn entry<F>(&self, name: &'static str, operation: F, reply: ReplyEntry)
    where
        F: Future<Output = Result<Node>> + Send + 'static,
    {
        let fs = self.fs.clone();
        self.run(
            name,
            async move { operation.await.map(|node| fs.attr(&node)) },
            |result| match result {
                Ok(attr) => replies::entry(reply, &attr),
                Err(errno) => reply.error(errno),
            },
        );
    }

    pub(super) fn empty<F>(&self, name: &'static str, operation: F, reply: ReplyEmpty)
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        self.run(name, operation, |result| match result {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        });
    }
}

fn caller(request: &Request) -> Caller {
    Caller {
        uid: request.uid(),
        gid: request.gid(),
        thread: request.pid(),
    }
}

fn owned(name: &OsStr) -> Result<String> {
    convert::name(name).map(str::to_owned)
}

/// A depth of 1 means: the files that are read past us are on a filesystem that lies on no other one, and on this one an overlay
/// may lie, but no overlay on that.
fn offers_passthrough(config: &mut KernelConfig) -> bool {
    config.set_max_stack_depth(1).is_ok() && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
}

impl Filesystem for Handlers {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let wanted = InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_ATOMIC_O_TRUNC
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_ASYNC_DIO
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            | InitFlags::FUSE_DONT_MASK
            // Else every write asks for security.capability first.
            | InitFlags::FUSE_HANDLE_KILLPRIV_V2;
        // What this kernel lacks, it lacks; each flag is an improvement of its own.
        let _ = config.add_capabilities(wanted & config.capabilities());
        let _ = config.set_max_write(MAX_WRITE_BYTES);
        let _ = config.set_max_background(MAX_BACKGROUND);
        if self.fs.wants_passthrough() && offers_passthrough(config) {
            self.fs.can_pass_through();
        }
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let fs = self.fs.clone();
        let name = owned(name);
        let negative_ttl = self.negative_ttl;
        let operation = async move {
            let found = fs.lookup(parent.0, &name?).await?;
            Ok(found.map(|node| fs.attr(&node)))
        };
        self.run("lookup", operation, move |result| match result {
            Ok(Some(attr)) => replies::entry(reply, &attr),
            Ok(None) => replies::absent(reply, negative_ttl),
            Err(errno) => reply.error(errno),
        });
    }

    fn forget(&self, _request: &Request, ino: INodeNo, count: u64) {
        let fs = self.fs.clone();
        let forgetting = async move {
            fs.forget(ino.0, count);
            Ok(())
        };
        // There is no answer to this one.
        self.run("forget", forgetting, drop);
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        let fs = self.fs.clone();
        self.run("getattr", async move { fs.attributes(ino.0).await }, |result| {
            replies::attr(reply, result);
        });
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let fs = self.fs.clone();
        let change = Change {
            mode,
            uid,
            gid,
            size_bytes: size,
            atime: atime.map(convert::time),
            mtime: mtime.map(convert::time),
            drops_set_id: size.is_some() && request.uid() != 0,
        };
        let handle = handle.map(|handle| handle.0);
        self.run(
            "setattr",
            async move { fs.set_attributes(ino.0, change, handle).await },
            |result| {
                replies::attr(reply, result);
            },
        );
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        let fs = self.fs.clone();
        self.run(
            "readlink",
            async move { fs.read_link(ino.0).await },
            |result| match result {
                Ok(target) => reply.data(&target),
                Err(errno) => reply.error(errno),
            },
        );
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let (fs, name, caller) = (self.fs.clone(), owned(name), caller(request));
        let mode = mode & !(umask & 0o777);
        self.entry(
            "mknod",
            async move { fs.make_node(caller, parent.0, &name?, mode, rdev).await },
            reply,
        );
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let (fs, name, caller) = (self.fs.clone(), owned(name), caller(request));
        let mode = mode & !umask;
        self.entry(
            "mkdir",
            async move { fs.make_directory(caller, parent.0, &name?, mode).await },
            reply,
        );
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (fs, name) = (self.fs.clone(), owned(name));
        self.empty("unlink", async move { fs.unlink(parent.0, &name?).await }, reply);
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (fs, name) = (self.fs.clone(), owned(name));
        self.empty(
            "rmdir",
            async move { fs.remove_directory(parent.0, &name?).await },
            reply,
        );
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let (fs, name, caller) = (self.fs.clone(), owned(name), caller(request));
        let target = target.as_os_str().as_bytes().to_vec();
        self.entry(
            "symlink",
            async move { fs.symlink(caller, parent.0, &name?, &target).await },
            reply,
        );
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        // RENAME_EXCHANGE and RENAME_WHITEOUT are impossible on S3.
        if !(flags - RenameFlags::RENAME_NOREPLACE).is_empty() {
            reply.error(Errno::EINVAL);
            return;
        }
        let no_replace = flags.contains(RenameFlags::RENAME_NOREPLACE);
        let (fs, name, new_name) = (self.fs.clone(), owned(name), owned(new_name));
        let operation = async move {
            fs.rename(parent.0, &name?, new_parent.0, &new_name?, no_replace)
                .await
        };
        self.empty("rename", operation, reply);
    }

    fn link(&self, _request: &Request, _ino: INodeNo, _parent: INodeNo, _name: &OsStr, reply: ReplyEntry) {
        // An object has one key: there are no hard links.
        reply.error(Errno::EPERM);
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (fs, caller) = (self.fs.clone(), caller(request));
        let drops_set_id = flags.0 & libc::O_TRUNC != 0 && request.uid() != 0;
        let operation = async move {
            let opened = fs.open(caller, ino.0, flags.0).await?;
            if drops_set_id {
                fs.drop_set_id(opened.handle)?;
            }
            Ok(opened)
        };
        let answering = self.fs.clone();
        self.run(
            "open",
            operation,
            move |result: Result<Opened, Errno>| match result {
                Ok(opened) => replies::opened(reply, &answering, &opened),
                Err(errno) => reply.error(errno),
            },
        );
    }

    fn read(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let fs = self.fs.clone();
        let mut read = ReadBytes::behind(buffers::take());
        let operation = async move {
            fs.read(handle.0, offset, size as usize, &mut read).await?;
            Ok(read)
        };
        self.run("read", operation, |result| match result {
            Ok(read) => {
                reply.data(read.as_slice());
                buffers::keep(read.into_buffer());
            }
            Err(errno) => reply.error(errno),
        });
    }

    fn write(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let how = WriteHow {
            flags: flags.0,
            is_page: write_flags.contains(WriteFlags::FUSE_WRITE_CACHE),
        };
        let drops_set_id = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        let fs = self.fs.clone();
        // From the loop's own buffer, which is the kernel's copy: no other is needed.
        let at_once = || fs.write_at_once(handle.0, offset, data, how);
        if !drops_set_id && let Some(Some(written)) = dispatch::at_once(&self.runtime, "write", at_once) {
            reply.written(written as u32);
            return;
        }
        let mut buffer = buffers::take();
        buffer.extend_from_slice(data);
        let operation = async move {
            let written = fs.write_with(handle.0, offset, &buffer, how).await?;
            if drops_set_id {
                fs.drop_set_id(handle.0)?;
            }
            Ok((written, buffer))
        };
        self.run("write", operation, |result| match result {
            Ok((written, buffer)) => {
                reply.written(written as u32);
                buffers::keep(buffer);
            }
            Err(errno) => reply.error(errno),
        });
    }

    fn copy_file_range(
        &self,
        request: &Request,
        _ino_in: INodeNo,
        from: FileHandle,
        from_offset: u64,
        _ino_out: INodeNo,
        to: FileHandle,
        to_offset: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let fs = self.fs.clone();
        let drops_set_id = request.uid() != 0;
        let operation = async move {
            let copied = fs
                .copy_range((from.0, from_offset), (to.0, to_offset), len)
                .await?;
            if drops_set_id {
                fs.drop_set_id(to.0)?;
            }
            Ok(copied)
        };
        self.run("copy_file_range", operation, |result| match result {
            Ok(copied) => reply.written(copied as u32),
            Err(errno) => reply.error(errno),
        });
    }

    fn fallocate(
        &self,
        request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let fs = self.fs.clone();
        let drops_set_id = request.uid() != 0;
        let operation = async move {
            fs.allocate(handle.0, offset, length, mode).await?;
            if drops_set_id {
                fs.drop_set_id(handle.0)?;
            }
            Ok(())
        };
        self.empty("fallocate", operation, reply);
    }

    fn lseek(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let fs = self.fs.clone();
        // The kernel asks for nothing but data and holes.
        let data = whence == libc::SEEK_DATA;
        let operation = async move { fs.seek_data_or_hole(handle.0, offset.max(0) as u64, data) };
        self.run("lseek", operation, |result| match result {
            Ok(found) => reply.offset(found as i64),
            Err(errno) => reply.error(errno),
        });
    }

    fn ioctl(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _flags: IoctlFlags,
        command: u32,
        sent: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        self.answer_ioctl(handle, command, sent, reply);
    }

    fn flush(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        let fs = self.fs.clone();
        self.empty("flush", async move { fs.flush(handle.0).await }, reply);
    }

    fn release(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let fs = self.fs.clone();
        let operation = async move {
            fs.release(handle.0).await;
            Ok(())
        };
        self.empty("release", operation, reply);
    }

    fn fsync(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let fs = self.fs.clone();
        self.empty("fsync", async move { fs.fsync(handle.0).await }, reply);
    }

    fn opendir(&self, _request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let fs = self.fs.clone();
        self.run(
            "opendir",
            async move { fs.open_directory(ino.0) },
            |result| match result {
                Ok(handle) => reply.opened(FileHandle(handle), fuser::FopenFlags::empty()),
                Err(errno) => reply.error(errno),
            },
        );
    }

    fn readdir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        self.read_directory(handle, offset, reply);
    }

    fn readdirplus(
        &self,
        _request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        self.read_directory_with_attributes(ino, handle, offset, reply);
    }

    fn releasedir(
        &self,
        _request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        let fs = self.fs.clone();
        let releasing = async move {
            fs.release_directory(ino.0, handle.0);
            Ok(())
        };
        self.empty("releasedir", releasing, reply);
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        // mkdir, rename and unlink are in the bucket when they return.
        reply.ok();
    }

    fn getxattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.get_xattr(ino, name, size, reply);
    }

    fn listxattr(&self, _request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.list_xattrs(ino, size, reply);
    }

    fn setxattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        self.set_xattr(ino, name, value, flags, reply);
    }

    fn removexattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove_xattr(ino, name, reply);
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        // A bucket has no size: as much as tools can count with without overflow.
        const BLOCKS: u64 = 1 << 40;
        const FILES: u64 = 1 << 40;
        reply.statfs(BLOCKS, BLOCKS, BLOCKS, FILES, FILES, 4096, 255, 4096);
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (fs, name, caller) = (self.fs.clone(), owned(name), caller(request));
        let mode = mode & !umask;
        let operation = async move {
            let (node, opened) = fs.create(caller, parent.0, &name?, mode, flags).await?;
            Ok((fs.attr(&node), opened))
        };
        let answering = self.fs.clone();
        self.run("create", operation, move |result| match result {
            Ok((attr, opened)) => replies::created(reply, &answering, &attr, &opened),
            Err(errno) => reply.error(errno),
        });
    }
}
