//! Tests on real mounts, with real programs: the embedded store and SeaweedFS, as root and as an ordinary user.
//!
//! Needs `/dev/fuse` and fusermount3. `PAILFS_TEST_WEED` names SeaweedFS (scripts/test installs it); without it its
//! tests are skipped, but with `CI` set they fail. The same holds for `PAILFS_TEST_FSX`, and for fio. `PAILFS_TEST_LONG=1` moves more data, `PAILFS_TEST_LOG` sets the
//! daemons' log level.

#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "what only the tests of commands need")]
mod support;

mod appends;
mod archived;
mod attributes;
mod buckets;
mod contract;
mod copies;
mod counts;
mod direct;
mod directories;
mod disk_cache;
mod ending;
mod everyday;
mod exercisers;
mod foreign;
mod full_disk;
mod handles;
mod heads;
mod interop;
mod keys;
mod killed;
mod large;
mod log;
mod notifications;
mod passthrough;
mod persistence;
mod pjdfstest;
mod posix;
mod programs;
mod reaching;
mod read_only;
mod reading;
mod refreshing;
mod replacing;
mod soak;
mod special;
mod starting;
mod storing;
mod two_mounts;
mod users;
mod versions;
mod walks;
mod xattrs;
