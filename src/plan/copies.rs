//! How the store copies a whole object version: by one request, or in parts beside each other.
//!
//! 1. One request copies up to a limit (5 GiB on S3). Long before that it is slow: it runs at the speed of one stream, and says
//!    nothing until it is done, so that nobody can tell whether it still works. Parts run beside each other, and each says
//!    when it is done.
//! 2. Parts cost requests, and give the copy another ETag. So what one request copies in moments is copied by one.

use crate::base::limits::{GIB, MIB, UploadLimits};
use crate::base::object::ByteRange;

/// Up to this size one request copies soon enough.
const COPIED_AT_ONCE_BYTES: u64 = GIB;
/// The usual length of a copied part.
pub const COPY_PART_BYTES: u64 = 256 * MIB;
/// How many parts of one object are copied at a time: the store moves the data, so this needs no memory here.
pub const PARALLEL_PART_COPIES: usize = 16;

/// Whether a version of `size_bytes` is copied by one request.
#[must_use]
pub fn is_copied_at_once(size_bytes: u64, limits: &UploadLimits) -> bool {
    size_bytes <= limits.max_copy_bytes.min(COPIED_AT_ONCE_BYTES)
}

/// The parts in which a version of `size_bytes` is copied, in order. They are as many as the limits allow, at most, for
/// every object that they allow.
#[must_use]
pub fn ranges_of_copy(size_bytes: u64, limits: &UploadLimits) -> Vec<ByteRange> {
    let mut part_bytes = COPY_PART_BYTES.min(limits.max_part_bytes);
    while part_bytes < limits.max_part_bytes && size_bytes.div_ceil(part_bytes) > u64::from(limits.max_parts)
    {
        part_bytes = (part_bytes * 2).min(limits.max_part_bytes);
    }
    (0..size_bytes.div_ceil(part_bytes))
        .map(|part| part * part_bytes)
        .map(|start| ByteRange::new(start, (start + part_bytes).min(size_bytes)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::limits::TIB;

    const S3: UploadLimits = UploadLimits::S3;

    #[test]
    fn what_is_large_is_copied_in_parts_of_moments() {
        assert!(is_copied_at_once(GIB, &S3));
        assert!(!is_copied_at_once(GIB + 1, &S3));
        let small = UploadLimits {
            max_copy_bytes: 6 * MIB,
            ..S3
        };
        assert!(is_copied_at_once(6 * MIB, &small) && !is_copied_at_once(6 * MIB + 1, &small));
    }

    #[test]
    fn the_parts_are_all_of_the_object_and_lawful() {
        let small = UploadLimits {
            max_part_bytes: 6 * MIB,
            ..S3
        };
        for limits in [S3, small] {
            for size_bytes in [1, GIB + 1, 10 * GIB, 58 * GIB, 3 * TIB, 5 * TIB] {
                if size_bytes > limits.max_part_bytes * u64::from(limits.max_parts) {
                    continue;
                }
                let ranges = ranges_of_copy(size_bytes, &limits);
                assert!(ranges.len() <= limits.max_parts as usize);
                let mut end = 0;
                for range in &ranges {
                    assert_eq!(range.start, end);
                    assert!((1..=limits.max_part_bytes).contains(&range.len()));
                    assert!(range.end == size_bytes || range.len() >= limits.min_part_bytes);
                    end = range.end;
                }
                assert_eq!(end, size_bytes);
            }
        }
        assert_eq!(ranges_of_copy(10 * GIB, &S3).len(), 40);
    }
}
