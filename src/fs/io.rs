//! Reading and writing through handles.

use super::open::FileHandle;
use super::{Fs, lock};
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::limits::{GIB, MIB};
use crate::base::object::ByteRange;
use crate::base::read_bytes::ReadBytes;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// One copy_file_range copies no more: its answer has 32 bits, and programs ask for more than that.
const MAX_COPY_BYTES: u64 = 2 * GIB;
/// What has to go through memory goes in steps of this length.
const COPY_STEP_BYTES: u64 = MIB;

/// What the kernel says about one write.
#[derive(Clone, Copy, Debug)]
pub struct WriteHow {
    /// Those of open(2), as they are now: fcntl(2) may change O_APPEND, and single writes may be synchronous.
    pub flags: i32,
    /// A page of a mapped file instead of a program's write.
    pub is_page: bool,
}

impl WriteHow {
    /// Where bytes go that the kernel says are for `offset`; `None`: to the end of the file. A page that was changed through
    /// a mapping has its place, whatever the flags of the handle.
    fn place(self, offset: u64) -> Option<u64> {
        let appends = self.flags & libc::O_APPEND != 0 && !self.is_page;
        (!appends).then_some(offset)
    }
}

impl Fs {
    /// Gives what read(2) returns to `out`: less than asked for at the end of the file only.
    ///
    /// # Errors
    /// `BadHandle`, `Stale` when the version is gone from the bucket, and what S3 says.
    pub async fn read(&self, number: u64, offset: u64, len: usize, out: &mut ReadBytes) -> Result<()> {
        let handle = self.file_handle(number)?;
        let file = &handle.open.file;
        let reading = file.read(&handle.stream, offset, len, out);
        let read = self.watched(handle.ino, &handle.open, reading).await;
        if let Err(error) = &read
            && error.kind() == ErrorKind::Corrupt
        {
            // The next open is to get all of it, with its checksum, and not to look whether it is still the same.
            self.tree.content_moved(handle.ino);
        }
        read?;
        if !handle.direct_io && offset + len as u64 >= file.size_bytes() {
            self.tree.read_to_the_end(handle.ino);
        }
        Ok(())
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
        if let Some(written) = self.write_at_once(number, offset, data, how) {
            return Ok(written);
        }
        let handle = self.file_handle(number)?;
        handle.begin_change()?;
        let file = &handle.open.file;
        match how.place(offset) {
            None => {
                let appending = file.append(data);
                self.watched(handle.ino, &handle.open, appending).await?;
            }
            Some(offset) => {
                let writing = file.write(offset, data);
                self.watched(handle.ino, &handle.open, writing).await?;
            }
        }
        // Behind writes through its page cache the kernel sends an fsync by itself.
        if handle.direct_io && how.flags & libc::O_DSYNC != 0 && !how.is_page {
            self.fsync(number).await?;
        }
        Ok(data.len())
    }

    /// What [`Fs::write_with`] does where nothing has to be waited for and nothing goes wrong; `None` elsewhere: nothing was
    /// written then. Costs a small write nothing but this.
    pub fn write_at_once(
        self: &Arc<Self>,
        number: u64,
        offset: u64,
        data: &[u8],
        how: WriteHow,
    ) -> Option<usize> {
        let handle = self.file_handle(number).ok()?;
        handle.begin_change().ok()?;
        if handle.direct_io && how.flags & libc::O_DSYNC != 0 && !how.is_page {
            return None;
        }
        handle
            .open
            .file
            .write_at_once(how.place(offset), data)
            .map(|_| data.len())
    }

    /// copy_file_range(2): what is in objects is copied by the store, when the copy is committed. Returns how much was
    /// copied, which may be less than asked for.
    ///
    /// # Errors
    /// `BadHandle`, `TooLarge`, and those of [`Fs::read`] and [`Fs::write_with`].
    pub async fn copy_range(
        self: &Arc<Self>,
        (from, from_offset): (u64, u64),
        (to, to_offset): (u64, u64),
        len: u64,
    ) -> Result<u64> {
        let (from, to) = (self.file_handle(from)?, self.file_handle(to)?);
        if !from.readable {
            return Err(Error::new(ErrorKind::BadHandle, "not open for reading"));
        }
        to.begin_change()?;
        let size_bytes = from.open.file.size_bytes();
        let end = from_offset
            .saturating_add(len.min(MAX_COPY_BYTES))
            .min(size_bytes);
        if from_offset >= end {
            return Ok(0);
        }
        let range = ByteRange::new(from_offset, end);
        let taken = {
            // Its object stays what it is.
            let _change = from.open.change.lock().await;
            let hold = self.hold(from.ino);
            let taking = to.open.file.take_copy(to_offset, &from.open.file, range, hold);
            self.watched(to.ino, &to.open, taking).await?
        };
        if taken > 0 {
            return Ok(taken);
        }
        let len = (end - from_offset).min(COPY_STEP_BYTES) as usize;
        let mut data = ReadBytes::default();
        let reading = from.open.file.read(&from.stream, from_offset, len, &mut data);
        self.watched(from.ino, &from.open, reading).await?;
        let writing = to.open.file.write(to_offset, data.as_slice());
        self.watched(to.ino, &to.open, writing).await?;
        Ok(data.len() as u64)
    }

    /// fallocate(2) with the modes that mean something here; space is never reserved, as a bucket is never full.
    ///
    /// # Errors
    /// `Unsupported` for other modes; as [`Fs::write_with`].
    pub async fn allocate(self: &Arc<Self>, number: u64, offset: u64, len: u64, mode: i32) -> Result<()> {
        let handle = self.file_handle(number)?;
        handle.begin_change()?;
        let keep_size = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
        let end = offset.checked_add(len);
        let end = end.ok_or_else(|| Error::new(ErrorKind::TooLarge, "beyond the largest file"))?;
        let file = &handle.open.file;
        match mode & !libc::FALLOC_FL_KEEP_SIZE {
            0 if keep_size || end <= file.size_bytes() => Ok(()),
            0 => self.watched(handle.ino, &handle.open, file.truncate(end)).await,
            libc::FALLOC_FL_PUNCH_HOLE if !keep_size => {
                Err(Error::new(ErrorKind::Unsupported, "a hole cannot extend a file"))
            }
            libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE => {
                let zeroing = file.zero(ByteRange::new(offset, end), keep_size);
                self.watched(handle.ino, &handle.open, zeroing).await
            }
            _ => Err(Error::new(
                ErrorKind::Unsupported,
                "objects have no ranges to collapse, insert or share",
            )),
        }
    }

    /// lseek(2) with SEEK_DATA (`data`) or SEEK_HOLE. What is in an object counts as data.
    ///
    /// # Errors
    /// `NoData` behind the last data, or behind the end.
    pub fn seek_data_or_hole(&self, number: u64, offset: u64, data: bool) -> Result<u64> {
        let handle = self.file_handle(number)?;
        let found = handle.open.file.seek(offset, data);
        found.ok_or_else(|| Error::new(ErrorKind::NoData, "no data there"))
    }
}

impl FileHandle {
    /// For whatever is about to change the content through this handle.
    fn begin_change(&self) -> Result<()> {
        if !self.writable {
            return Err(Error::new(ErrorKind::BadHandle, "not open for writing"));
        }
        if let Some(lost) = lock(&self.open.lost).clone() {
            // The shell ignores what close says, but not that it cannot write.
            return Err(lost);
        }
        self.wrote.store(true, Ordering::Relaxed);
        Ok(())
    }
}
