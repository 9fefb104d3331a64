//! Pure vocabulary: names, versions, errors, limits. No I/O, no clock, nothing of ours imported.
pub mod attributes;
pub mod checksum;
pub mod error;
pub mod extents;
pub mod limits;
pub mod mount_config;
pub mod names;
pub mod object;
pub mod prices;
pub mod read_bytes;
pub mod requests;
pub mod segments;
