//! S3's limits (AWS S3 User Guide, "Amazon S3 multipart upload limits"), as values: an endpoint may have others.

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;
pub const TIB: u64 = 1 << 40;

/// A key is at most this many bytes of UTF-8.
pub const MAX_KEY_BYTES: usize = 1024;
/// The kernel's and POSIX's limit of one path component (`NAME_MAX`).
pub const MAX_NAME_BYTES: usize = 255;

/// What one endpoint allows in uploads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadLimits {
    /// Every part but the last is at least this long.
    pub min_part_bytes: u64,
    /// Also the limit of one PUT, and of the range that one part copies.
    pub max_part_bytes: u64,
    /// The limit of one copy.
    pub max_copy_bytes: u64,
    pub max_parts: u32,
    pub max_object_bytes: u64,
    /// A range copy needs a source larger than this.
    pub min_copy_source_bytes: u64,
}

impl Default for UploadLimits {
    fn default() -> Self {
        Self::S3
    }
}

impl UploadLimits {
    /// AWS S3 and every compatible store known to us.
    pub const S3: Self = Self {
        min_part_bytes: 5 * MIB,
        max_part_bytes: 5 * GIB,
        max_copy_bytes: 5 * GIB,
        max_parts: 10_000,
        max_object_bytes: 5 * TIB,
        min_copy_source_bytes: 5 * MIB,
    };
}
