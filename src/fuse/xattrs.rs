//! The requests about extended attributes.

use super::convert;
use super::handlers::Handlers;
use crate::base::error::{Error, ErrorKind, Result};
use crate::fs::xattr::SetMode;
use fuser::{Errno, INodeNo, ReplyEmpty, ReplyXattr};
use std::ffi::OsStr;
use std::future::Future;

impl Handlers {
    pub(super) fn get_xattr(&self, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let (fs, name) = (self.fs.clone(), owned(name));
        self.xattr(
            "getxattr",
            async move { fs.xattr(ino.0, &name?).await },
            size,
            reply,
        );
    }

    pub(super) fn list_xattrs(&self, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let fs = self.fs.clone();
        self.xattr(
            "listxattr",
            async move { fs.xattr_names(ino.0).await },
            size,
            reply,
        );
    }

    pub(super) fn set_xattr(&self, ino: INodeNo, name: &OsStr, value: &[u8], flags: i32, reply: ReplyEmpty) {
        let (fs, name, value) = (self.fs.clone(), owned(name), value.to_vec());
        let mode = match flags {
            0 => Ok(SetMode::Any),
            libc::XATTR_CREATE => Ok(SetMode::Create),
            libc::XATTR_REPLACE => Ok(SetMode::Replace),
            _ => Err(Error::new(ErrorKind::Invalid, "unknown flags of setxattr")),
        };
        let operation = async move { fs.set_xattr(ino.0, &name?, &value, mode?).await };
        self.empty("setxattr", operation, reply);
    }

    pub(super) fn remove_xattr(&self, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (fs, name) = (self.fs.clone(), owned(name));
        let operation = async move { fs.remove_xattr(ino.0, &name?).await };
        self.empty("removexattr", operation, reply);
    }

    /// With a size of 0 the caller asks how large the answer is; otherwise it has to fit.
    fn xattr<F>(&self, name: &'static str, operation: F, size: u32, reply: ReplyXattr)
    where
        F: Future<Output = Result<Vec<u8>>> + Send + 'static,
    {
        self.run(name, operation, move |result| match result {
            Ok(value) if size == 0 => reply.size(value.len() as u32),
            Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
            Ok(value) => reply.data(&value),
            Err(errno) => reply.error(errno),
        });
    }
}

fn owned(name: &OsStr) -> Result<String> {
    convert::name(name).map(str::to_owned)
}
