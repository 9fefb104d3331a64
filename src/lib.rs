//! pailfs mounts S3 buckets as directories: one object is one file, byte for byte.
//!
//! Imports point down only; siblings never import each other (`tests/tidy.rs` checks it):
//!
//! ```text
//!   cli  main                     commands, options, exit codes, daemon
//!    │
//!   fuse                          the kernel's requests, answered by fs
//!    │
//!   fs                            what POSIX means here
//!    │
//!   tree        object            the namespace      the bytes of one file
//!    │            │
//!   cache  s3  spool  plan        memory   requests   disk   decisions
//!    │
//!   rt  telemetry                 clocks, tasks, counters
//!    │
//!   base                          names, versions, errors, limits
//!
//!   embedded                      an S3 server of our own, for the demo and the tests (on base, rt, telemetry)
//! ```

pub mod base;
pub mod cache;
pub mod cli;
pub mod embedded;
pub mod fs;
pub mod fuse;
pub mod object;
pub mod plan;
pub mod rt;
pub mod s3;
pub mod spool;
pub mod telemetry;
pub mod tree;
