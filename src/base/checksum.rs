//! CRC32C (Castagnoli), computed once as data is written and joined for the whole object.
//! Source: S3 User Guide, "Checking object integrity" (`x-amz-checksum-crc32c`: base64 of the big-endian value).

use base64::Engine;
use crc_fast::{CrcAlgorithm, checksum, checksum_combine};

/// The CRC32C of a run of bytes, with the run's length, so that runs can be joined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Crc32c {
    value: u32,
    len_bytes: u64,
}

impl Crc32c {
    #[must_use]
    pub fn of(data: &[u8]) -> Self {
        let value = if data.is_empty() {
            0
        } else {
            checksum(CrcAlgorithm::Crc32Iscsi, data) as u32
        };
        Self {
            value,
            len_bytes: data.len() as u64,
        }
    }

    #[must_use]
    pub fn value(self) -> u32 {
        self.value
    }

    #[must_use]
    pub fn of_segments(segments: &crate::base::segments::Segments) -> Self {
        segments
            .pieces()
            .iter()
            .fold(Self::default(), |whole, piece| whole.then(Self::of(piece)))
    }

    /// The checksum of this run followed by `next`.
    #[must_use]
    pub fn then(self, next: Self) -> Self {
        if self.len_bytes == 0 {
            return next;
        }
        if next.len_bytes == 0 {
            return self;
        }
        let joined = checksum_combine(
            CrcAlgorithm::Crc32Iscsi,
            u64::from(self.value),
            u64::from(next.value),
            next.len_bytes,
        );
        let value = joined as u32;
        Self {
            value,
            len_bytes: self.len_bytes + next.len_bytes,
        }
    }

    /// Reads the form in which S3's headers carry it; `None` when `text` is not the base64 of four bytes.
    #[must_use]
    pub fn from_base64(text: &str, len_bytes: u64) -> Option<Self> {
        let raw = base64::engine::general_purpose::STANDARD.decode(text).ok()?;
        let value = u32::from_be_bytes(raw.try_into().ok()?);
        Some(Self { value, len_bytes })
    }

    #[must_use]
    pub fn len_bytes(self) -> u64 {
        self.len_bytes
    }

    /// The form in which S3's headers carry it.
    #[must_use]
    pub fn to_base64(self) -> String {
        base64::engine::general_purpose::STANDARD.encode(self.value.to_be_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_the_catalogue_comes_out() {
        assert_eq!(Crc32c::of(b"123456789").value, 0xE306_9283);
        assert_eq!(Crc32c::of(b"").to_base64(), "AAAAAA==");
    }

    #[test]
    fn the_header_form_is_read_back() {
        let sum = Crc32c::of(b"123456789");
        assert_eq!(Crc32c::from_base64(&sum.to_base64(), 9), Some(sum));
        assert_eq!(Crc32c::from_base64("AAAA", 9), None);
        assert_eq!(Crc32c::from_base64("?", 9), None);
    }

    #[test]
    fn joined_runs_equal_the_whole() {
        let data: Vec<u8> = (0..10_000u32).map(|n| (n % 251) as u8).collect();
        for cut in [0, 1, 4096, 9_999, 10_000] {
            assert_eq!(
                Crc32c::of(&data[..cut]).then(Crc32c::of(&data[cut..])),
                Crc32c::of(&data)
            );
        }
    }
}
