//! The commands on buckets without a mount, as scripts call them: on the embedded store, on SeaweedFS and on moto.
//!
//! `PAILFS_TEST_WEED` and `PAILFS_TEST_MOTO` name those programs (scripts/test installs them); without them their tests are
//! skipped, but with `CI` set they fail. `PAILFS_TEST_LONG=1` moves more data and lists more keys.

#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "what only tests on mounts need")]
mod support;

mod cat;
mod conflicts;
mod errors;
mod get;
mod keys;
mod large;
mod listing;
mod put;
mod readme;
mod rm;
mod schema;
mod shell;
mod terminal;
mod urls;
mod versions;
