//! An S3 server over a local directory: for the demo, for `pailfs serve`, and for tests.
//!
//! 1. Strict where pailfs relies on S3: conditions, ETags, part sizes, order of listings, checksums. The rules are in
//!    [`conditions`], [`checksums`], [`listing`]; the operations only bring them together.
//! 2. What was acknowledged survives the death of the process at any point: [`store`], on [`log`] and [`blobs`].
//! 3. Bodies of any size in bounded memory: [`blobs`] (in), [`body`] (out).
//! 4. Tests want things to go wrong at a chosen request, to count requests, and to run without real time:
//!    [`faults`], [`counts`], and [`Store::serve_connection`] on a store in memory; and large buckets at once: [`fill`].
//!
//! The HTTP protocol of S3 (signatures, chunked uploads, XML) is the `s3s` crate's.

mod blobs;
mod body;
mod checksums;
mod conditions;
mod connection;
mod counts;
mod faults;
mod fill;
mod listing;
mod log;
mod operations;
mod server;
mod state;
mod store;

pub use counts::{Counts, Operation};
pub use faults::{Fault, FaultId, Faults, Quirks, When};
pub use server::{Server, ServerOptions};
pub use store::{Store, StoreOptions};
