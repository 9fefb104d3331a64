//! The embedded store as clients see it: through the real SDK, over a socket unless a test says otherwise.
//!
//! The topics follow a list of checks that can be run against any S3 endpoint; faults, durability and memory are
//! promises of this store alone.

mod checksums;
mod conditions;
mod copies;
mod durability;
mod faults;
mod keys;
mod listings;
mod multipart;
mod objects;
mod support;
mod versions;
