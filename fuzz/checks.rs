//! What must hold for any input: run on random bytes by the fuzz targets, and on the committed corpus by
//! `tests/fuzz_corpus.rs`. A broken property panics.
// Each target uses one of the functions.
#![allow(dead_code)]

use pailfs::base::attributes::{Attributes, MetadataFormat};
use pailfs::base::limits::{MAX_KEY_BYTES, MAX_NAME_BYTES};
use pailfs::base::names::{
    DirectoryKey, FileRule, Named, name_of_directory, name_of_file, path_of_file, resolve,
};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// Byte 255, which is in no UTF-8 text, separates a mount's prefix and then texts, each taken both for a key below the
/// prefix and for a name in its directory.
pub fn names(data: &[u8]) {
    let mut texts = data.split(|byte| *byte == 0xff);
    let Some(prefix) = texts.next().and_then(|prefix| std::str::from_utf8(prefix).ok()) else {
        return;
    };
    let root = DirectoryKey::root(prefix);
    let texts: Vec<&[u8]> = texts.collect();
    let keys: BTreeSet<String> = texts
        .iter()
        .filter_map(|text| Some(format!("{}{}", root.prefix(), std::str::from_utf8(text).ok()?)))
        .filter(|key| (1..=MAX_KEY_BYTES).contains(&key.len()))
        .collect();

    // Names have no `/`, so joined paths are as different as the paths.
    let mut files = BTreeSet::new();
    for key in &keys {
        let directory = format!("{key}/");
        let beside = keys
            .range(directory.clone()..)
            .next()
            .is_some_and(|next| next.starts_with(&directory));
        let path = path_of_file(&root, key, beside).expect("every key has a path");
        assert!(path.iter().all(|name| is_file_name(name)), "{path:?}");
        assert_eq!(&walk(&root, &path), key);
        assert!(files.insert(path.join("/")), "two keys under one path: {path:?}");
    }
    for path in &files {
        for (slash, _) in path.match_indices('/') {
            assert!(
                !files.contains(&path[..slash]),
                "a file where a directory is, above {path:?}"
            );
        }
    }
    for name in texts {
        name_round_trip(&root, OsStr::from_bytes(name));
    }
}

fn is_file_name(name: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len())
        && !matches!(name, "." | "..")
        && !name.contains(['/', '\0'])
        && (!name.starts_with("~%") || name.bytes().all(|byte| (b' '..=b'~').contains(&byte)))
}

fn walk(root: &DirectoryKey, path: &[String]) -> String {
    let (last, above) = path.split_last().expect("a path has a name");
    let directory = above.iter().fold(root.clone(), |directory, name| {
        let resolved = resolve(&directory, OsStr::new(name)).expect("a name of a path resolves");
        resolved.directory.expect("what is above a file is a directory")
    });
    resolve(&directory, OsStr::new(last))
        .expect("a file's name resolves")
        .file
        .expect("it is a file")
        .key
}

/// A name that may stand for something is what that thing is called.
fn name_round_trip(root: &DirectoryKey, name: &OsStr) {
    let Ok(resolved) = resolve(root, name) else { return };
    assert!(resolved.file.is_some() || resolved.directory.is_some());
    if let Some(file) = resolved.file {
        assert!((1..=MAX_KEY_BYTES).contains(&file.key.len()));
        let called = name_of_file(root, &file.key, file.rule == FileRule::BesideDirectory);
        assert!(matches!(called, Some(Named::Here(called)) if *called == *name));
    }
    if let Some(directory) = resolved.directory.filter(|directory| !directory.is_partial()) {
        let called = name_of_directory(root, directory.prefix());
        assert!(matches!(called, Some(Named::Here(called)) if *called == *name));
    }
}

/// Lines of `name:value`.
pub fn metadata(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let stored: BTreeMap<String, String> = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let attributes = Attributes::read(&stored);

    let mut aws = stored.clone();
    attributes.write(MetadataFormat::Aws, &mut aws);
    assert_eq!(Attributes::read(&aws), attributes);

    let mut s3fs = aws.clone();
    attributes.write(MetadataFormat::S3fs, &mut s3fs);
    let mut back = Attributes::read(&s3fs);
    // Pipes and symlinks with unusual permissions are not certain in the decimal form.
    if attributes
        .mode
        .is_some_and(|mode| matches!(mode >> 12, 0o1 | 0o12))
    {
        back.mode = attributes.mode;
    }
    assert_eq!(back, attributes);

    attributes.write(MetadataFormat::Aws, &mut s3fs);
    assert_eq!(
        s3fs, aws,
        "what one format writes the other removes, and the rest stays"
    );
}
