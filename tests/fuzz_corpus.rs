//! The fuzz targets' properties on their committed corpus, without a fuzzer.

#[path = "../fuzz/checks.rs"]
mod checks;

use std::path::Path;

/// Runs `check` on each file of one target's corpus.
fn run_corpus(target: &str, check: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let mut inputs = 0;
    for entry in std::fs::read_dir(&corpus).expect("each target has a corpus") {
        let path = entry.expect("the corpus can be listed").path();
        let data = std::fs::read(&path).expect("a corpus file can be read");
        // Shown when the check panics.
        println!("{}", path.display());
        check(&data);
        inputs += 1;
    }
    assert!(inputs > 0, "{} is empty", corpus.display());
}

#[test]
fn names_map_both_ways() {
    run_corpus("names", checks::names);
}

#[test]
fn stored_metadata_is_read_and_kept() {
    run_corpus("metadata", checks::metadata);
}
