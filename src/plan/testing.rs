//! What tests of decisions share.

use super::entries::PageObject;
use crate::base::object::ETag;
use proptest::test_runner::{Config, RngSeed};
use std::time::SystemTime;

/// The same cases in every run, unless more are asked for.
pub fn repeatable() -> Config {
    let mut config = Config::default();
    if std::env::var_os("PAILFS_TEST_LONG").is_none() && matches!(config.rng_seed, RngSeed::Random) {
        config.rng_seed = RngSeed::Fixed(0x7EAD_A4EA);
    }
    config
}

/// An object as a listing shows it.
pub fn object(key: &str) -> PageObject {
    PageObject {
        key: key.to_owned(),
        size_bytes: u64::from(!key.ends_with('/')),
        etag: ETag::new("e"),
        last_modified: SystemTime::UNIX_EPOCH,
        checksum_algorithm: None,
        storage_class: None,
    }
}

/// The same number for the same one, in no order (the finalizer of SplitMix64).
pub fn mixed(n: u64) -> u64 {
    let n = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    n ^ (n >> 31)
}
