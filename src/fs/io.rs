//! Reading and writing through handles.

use super::Fs;
use crate::base::error::{Error, ErrorKind, Result};
use std::sync::Arc;
use std::sync::atomic::Ordering;

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

    /// write(2); with O_APPEND the offset is ours to choose.
    ///
    /// # Errors
    /// `BadHandle`, `TooLarge`, `TimedOut` when the memory budget stays full.
    pub async fn write(self: &Arc<Self>, number: u64, offset: u64, data: &[u8]) -> Result<usize> {
        let handle = self.file_handle(number)?;
        if !handle.writable {
            return Err(Error::new(ErrorKind::BadHandle, "not open for writing"));
        }
        handle.wrote.store(true, Ordering::Relaxed);
        let file = &handle.open.file;
        if handle.append {
            let appending = file.append(data);
            self.watched(handle.ino, &handle.open, appending).await?;
        } else {
            let writing = file.write(offset, data);
            self.watched(handle.ino, &handle.open, writing).await?;
        }
        Ok(data.len())
    }
}
