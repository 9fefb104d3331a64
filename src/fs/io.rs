//! Reading and writing through handles.

use super::{Fs, lock};
use crate::base::error::{Error, ErrorKind, Result};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What the kernel says about one write.
#[derive(Clone, Copy, Debug)]
pub struct WriteHow {
    /// Those of open(2), as they are now: fcntl(2) may change O_APPEND, and single writes may be synchronous.
    pub flags: i32,
    /// A page of a mapped file instead of a program's write.
    pub is_page: bool,
}

impl Fs {
    /// Appends what read(2) returns to `out`: less than asked for at the end of the file only.
    ///
    /// # Errors
    /// `BadHandle`, `Stale` when the version is gone from the bucket, and what S3 says.
    pub async fn read(&self, number: u64, offset: u64, len: usize, out: &mut Vec<u8>) -> Result<()> {
        let handle = self.file_handle(number)?;
        let reading = handle.open.file.read(&handle.stream, offset, len, out);
        self.watched(handle.ino, &handle.open, reading).await
    }

    /// write(2) with the flags that the handle was opened with.
    ///
    /// # Errors
    /// As [`Fs::write_with`].
    pub async fn write(self: &Arc<Self>, number: u64, offset: u64, data: &[u8]) -> Result<usize> {
        let how = WriteHow {
            flags: self.file_handle(number)?.flags,
            is_page: false,
        };
        self.write_with(number, offset, data, how).await
    }

    /// write(2); with O_APPEND the offset is ours to choose.
    ///
    /// # Errors
    /// `BadHandle`, `TooLarge`, `Stale` or `Exists` once the file lost against another's, `TimedOut` when the memory budget stays full; with O_SYNC or O_DSYNC also those of
    /// [`Fs::fsync`].
    pub async fn write_with(
        self: &Arc<Self>,
        number: u64,
        offset: u64,
        data: &[u8],
        how: WriteHow,
    ) -> Result<usize> {
        let handle = self.file_handle(number)?;
        if !handle.writable {
            return Err(Error::new(ErrorKind::BadHandle, "not open for writing"));
        }
        if let Some(lost) = lock(&handle.open.lost).clone() {
            // The shell ignores what close says, but not that it cannot write.
            return Err(lost);
        }
        handle.wrote.store(true, Ordering::Relaxed);
        let file = &handle.open.file;
        // A page that was changed through a mapping has its place, whatever the flags of the handle.
        if how.flags & libc::O_APPEND != 0 && !how.is_page {
            let appending = file.append(data);
            self.watched(handle.ino, &handle.open, appending).await?;
        } else {
            let writing = file.write(offset, data);
            self.watched(handle.ino, &handle.open, writing).await?;
        }
        // Behind writes through its page cache the kernel sends an fsync by itself.
        if handle.direct_io && how.flags & libc::O_DSYNC != 0 && !how.is_page {
            self.fsync(number).await?;
        }
        Ok(data.len())
    }
}
