//! CRC32C (Castagnoli), computed once as data is written and joined for the whole object.
//! Source: S3 User Guide, "Checking object integrity" (`x-amz-checksum-crc32c`: base64 of the big-endian value).
//!
//! Joining is done for every piece of what is written. The library derives its operator anew each time, which takes
//! 75 µs for a piece of 1 MiB: as much as summing it. So the operators are derived once ([`Shift`]).

use base64::Engine;
use crc_fast::{CrcAlgorithm, checksum, checksum_combine};
use std::sync::LazyLock;

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
        Self {
            value: shifted(self.value, next.len_bytes) ^ next.value,
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

/// What appending a fixed number of zero bytes does to a checksum: linear over its bits, so given by what it does to each
/// of them. Joining is this, and the exclusive or with the checksum of what is appended.
#[derive(Clone, Copy)]
struct Shift([u32; 32]);

impl Shift {
    fn by_one_byte() -> Self {
        Self(std::array::from_fn(|bit| {
            checksum_combine(CrcAlgorithm::Crc32Iscsi, 1 << bit, 0, 1) as u32
        }))
    }

    fn apply(&self, value: u32) -> u32 {
        let of_bit = |bit: usize| self.0[bit] & 0u32.wrapping_sub(value >> bit & 1);
        (0..32).fold(0, |sum, bit| sum ^ of_bit(bit))
    }

    fn twice(&self) -> Self {
        Self(self.0.map(|column| self.apply(column)))
    }
}

/// The checksum `value` with `len_bytes` zero bytes appended, but for what the zero bytes have for a checksum themselves.
fn shifted(value: u32, len_bytes: u64) -> u32 {
    /// By 1, 2, 4, … bytes.
    static SHIFTS: LazyLock<[Shift; 64]> = LazyLock::new(|| {
        let mut shifts = [Shift::by_one_byte(); 64];
        for exponent in 1..shifts.len() {
            shifts[exponent] = shifts[exponent - 1].twice();
        }
        shifts
    });
    SHIFTS
        .iter()
        .enumerate()
        .filter(|(exponent, _)| len_bytes >> exponent & 1 == 1)
        .fold(value, |value, (_, shift)| shift.apply(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_joined_as_the_library_does() {
        let next = Crc32c::of(b"next").value;
        for len_bytes in [1, 2, 3, 4096, 65_535, 1 << 20, (5 << 40) + 12_345, u64::MAX] {
            for value in [0, 1, 0x8000_0000, 0xE306_9283, u32::MAX] {
                let joined = checksum_combine(
                    CrcAlgorithm::Crc32Iscsi,
                    u64::from(value),
                    u64::from(next),
                    len_bytes,
                );
                assert_eq!(
                    shifted(value, len_bytes) ^ next,
                    joined as u32,
                    "{value:x} {len_bytes}"
                );
            }
        }
    }

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
