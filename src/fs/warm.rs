//! Bringing all of a file into the disk cache, step by step, for a program that has it open (`pailfs cache warm`).
//!
//! Difficulties, and what solves each:
//! 1. Reads do not wait for a slow disk, and what they leave out stays out. So the program does not read, but asks for it with
//!    ioctl(2), which works on a read-only mount, passes the kernel's pages by, and moves no data to the program
//!    ([`COMMAND`]). It comes the way that all reads come: from memory, the disk, or the store, ahead of the next step.
//! 2. A step ends when the disk has its bytes, or says why it has not ([`Fs::warm`]). It is short, as nobody can interrupt a
//!    program while the kernel waits for our answer.
//! 3. What is there may go again for what comes after it: each answer counts evictions, and a step may only look
//!    ([`Step::only_looks`]).

use super::Fs;
use super::open::FileHandle;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::object::{ByteRange, Version};
use crate::base::read_bytes::ReadBytes;
use crate::cache::blocks::{self, BlockCache, MAX_STORE_BYTES, Warming};
use std::sync::Arc;

/// What a step and the answer take in the program's memory.
pub const EXCHANGE_BYTES: usize = 512;
/// Read and written, that many bytes (`asm-generic/ioctl.h`), of a type and number that nobody else has on a file.
pub const COMMAND: u32 = 3 << 30 | (EXCHANGE_BYTES as u32) << 16 | (b'p' as u32) << 8 | b'w' as u32;

/// What is to be brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    pub offset: u64,
    pub len: u64,
    /// Nothing is brought: the answer tells whether all of the file is there.
    pub only_looks: bool,
}

impl Step {
    #[must_use]
    pub fn encode(self) -> [u8; EXCHANGE_BYTES] {
        let mut bytes = [0; EXCHANGE_BYTES];
        bytes[..8].copy_from_slice(&self.offset.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.len.to_le_bytes());
        bytes[16] = u8::from(self.only_looks);
        bytes
    }

    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            offset: u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?),
            len: u64::from_le_bytes(bytes.get(8..16)?.try_into().ok()?),
            only_looks: *bytes.get(16)? != 0,
        })
    }
}

/// What came of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// How many versions this mount has evicted by now.
    pub evictions: u64,
    /// `None`: it is all there.
    pub why_not: Option<String>,
}

impl Told {
    /// A long reason is cut.
    #[must_use]
    pub fn encode(&self) -> [u8; EXCHANGE_BYTES] {
        let mut bytes = [0; EXCHANGE_BYTES];
        bytes[..8].copy_from_slice(&self.evictions.to_le_bytes());
        let why_not = self.why_not.as_deref().unwrap_or_default();
        let len = why_not.floor_char_boundary(EXCHANGE_BYTES - 10);
        bytes[8..10].copy_from_slice(&(len as u16).to_le_bytes());
        bytes[10..10 + len].copy_from_slice(&why_not.as_bytes()[..len]);
        bytes
    }

    #[must_use]
    pub fn decode(bytes: &[u8; EXCHANGE_BYTES]) -> Self {
        let (evictions, rest) = bytes.split_at(8);
        let (len, text) = rest.split_at(2);
        let len = usize::from(u16::from_le_bytes([len[0], len[1]])).min(text.len());
        let why_not = String::from_utf8_lossy(&text[..len]).into_owned();
        Self {
            evictions: evictions.try_into().map_or(0, u64::from_le_bytes),
            why_not: (!why_not.is_empty()).then_some(why_not),
        }
    }
}

impl Fs {
    /// Brings a part of a file into the disk cache, and waits until it is there.
    ///
    /// # Errors
    /// `BadHandle`; `Unsupported` where this mount has no disk cache. All else is told in the answer.
    pub async fn warm(&self, number: u64, step: Step) -> Result<Told> {
        let handle = self.file_handle(number)?;
        let Some(cache) = self.context.disk_cache.clone() else {
            let error = Error::new(
                ErrorKind::Unsupported,
                "this mount has no disk cache (--cache-size)",
            );
            return Err(error.on(&handle.open.file.id()));
        };
        let done = self.take_step(&handle, &cache, step).await;
        Ok(Told {
            evictions: cache.evictions(),
            why_not: done.err().map(|error| error.to_string()),
        })
    }

    async fn take_step(&self, handle: &FileHandle, cache: &Arc<BlockCache>, step: Step) -> Result<()> {
        let version = clean_version(handle)?;
        let size_bytes = version.size_bytes;
        if size_bytes == 0 {
            return Ok(());
        }
        let (id, etag) = (handle.open.file.id(), version.etag.to_string());
        if step.only_looks {
            let asked = cache.clone();
            let look = move || asked.has_all(&id.bucket, &id.key, &etag, size_bytes);
            return match cache.ask(look).await {
                Some(true) => Ok(()),
                Some(false) => Err(blocks::evicted()),
                None => Err(Error::new(ErrorKind::TimedOut, "the disk cache does not answer")),
            };
        }
        let end = step.offset.saturating_add(step.len).min(size_bytes);
        let patience = self.context.stall_timeout;
        let warming = cache
            .warm((id.bucket, id.key), etag, size_bytes, patience)
            .await?;
        let mut at = step.offset;
        while at < end {
            // Runs begin and end where blocks do.
            let run = ByteRange::new(at, (at + 1).next_multiple_of(MAX_STORE_BYTES).min(end));
            self.bring(handle, &warming, run, &version).await?;
            at = run.end;
        }
        Ok(())
    }

    async fn bring(
        &self,
        handle: &FileHandle,
        warming: &Warming,
        run: ByteRange,
        version: &Version,
    ) -> Result<()> {
        let _turn = warming.turn().await?;
        if warming.has(run).await? {
            return Ok(());
        }
        let mut data = ReadBytes::default();
        let file = &handle.open.file;
        let reading = file.read(&handle.stream, run.start, run.len() as usize, &mut data);
        self.watched(handle.ino, &handle.open, reading).await?;
        // What was read is of this version unless it was changed here meanwhile.
        if clean_version(handle)?.etag != version.etag {
            return Err(Error::new(ErrorKind::Stale, "it was changed meanwhile"));
        }
        warming.store(run.start, data).await
    }
}

/// What the bucket has of the file.
fn clean_version(handle: &FileHandle) -> Result<Version> {
    let file = &handle.open.file;
    let version = file.base_version().filter(|_| !file.is_dirty());
    version.ok_or_else(|| Error::new(ErrorKind::Busy, "it has changes that are not in the bucket yet"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_and_answers_arrive_as_they_were_sent() {
        for only_looks in [false, true] {
            let step = Step {
                offset: 1 << 40,
                len: 7,
                only_looks,
            };
            assert_eq!(Step::decode(&step.encode()), Some(step));
        }
        assert_eq!(Step::decode(&[0; 16]), None);
        for why_not in [None, Some("no room".to_owned())] {
            let told = Told {
                evictions: 3,
                why_not,
            };
            assert_eq!(Told::decode(&told.encode()), told);
        }
        let long = Told {
            evictions: 0,
            why_not: Some("ü".repeat(EXCHANGE_BYTES)),
        };
        assert_eq!(
            Told::decode(&long.encode()).why_not,
            Some("ü".repeat((EXCHANGE_BYTES - 10) / 2))
        );
    }
}
