//! What is remembered of the bucket: listings of directories and attributes of objects in memory, blocks of objects on disk.
//! All are bounded, and all may be thrown away at any moment without harm.

pub mod attributes;
pub mod blocks;
pub mod listings;
