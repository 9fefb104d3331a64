//! `pailfs conflicts show` and `apply`.

use crate::on_the_embedded_store;
use crate::shell::Shell;
use crate::support::pattern;
use crate::support::store::Store;
use pailfs::base::object::ETag;
use pailfs::spool::conflicts::id_of;
use pailfs::spool::{Conflict, ConflictForm, Spool};

on_the_embedded_store!(
    a_whole_version_replaces_what_it_lost_against_and_nothing_newer,
    changes_are_made_to_the_version_that_they_are_of,
    changes_of_a_version_that_is_gone_need_force,
    what_was_deleted_comes_back,
);

fn etag(store: &Store, key: &str) -> String {
    let head = store.bucket.head(key);
    ETag::new(head.e_tag().unwrap_or_default()).as_str().to_owned()
}

struct Kept<'a> {
    base: Option<&'a str>,
    theirs: Option<&'a str>,
    size_bytes: u64,
    form: Box<dyn FnOnce(String) -> ConflictForm>,
}

/// As a mount keeps it; returns its id.
fn keep(shell: &Shell, store: &Store, content: &[u8], kept: Kept) -> String {
    let (spool, _) = Spool::open(&shell.state(), "s3://test").expect("a state directory");
    let file = spool.create_file().expect("a file");
    file.write_at(0, content).expect("written");
    let conflict = Conflict {
        bucket: store.bucket.name.clone(),
        key: "dir/file.txt".to_owned(),
        found_unix_ms: 1_700_000_000_000,
        base_etag: kept.base.map(str::to_owned),
        theirs_etag: kept.theirs.map(str::to_owned),
        size_bytes: kept.size_bytes,
        form: (kept.form)(file.file_name().to_owned()),
    };
    let record = spool.record_conflict(&conflict).expect("kept");
    id_of(record).expect("a conflict's")
}

fn whole<'a>(theirs: Option<&'a str>, content: &[u8]) -> Kept<'a> {
    Kept {
        base: Some("old"),
        theirs,
        size_bytes: content.len() as u64,
        form: Box::new(|file_name| ConflictForm::Whole { file_name }),
    }
}

fn a_whole_version_replaces_what_it_lost_against_and_nothing_newer(store: &Store) {
    let shell = Shell::new(store);
    let key = "dir/file.txt";
    store
        .bucket
        .put_with_metadata(key, "theirs", &[("colour", "red")]);
    store.bucket.tag(key, "team", "blue");
    let theirs = etag(store, key);
    let ours = pattern(9 << 20, 3);
    let id = keep(&shell, store, &ours, whole(Some(&theirs), &ours));
    let shown = shell.run(&["conflicts", "show", &id]);
    for part in [
        &theirs,
        &format!("s3://{}/{key}", store.bucket.name),
        &format!("pailfs conflicts apply {id}"),
    ] {
        assert!(shown.contains(part.as_str()), "{part} is not in {shown}");
    }
    assert_eq!(
        shell.json(&["conflicts", "show", &id, "--json"])["theirs_etag"],
        theirs.as_str()
    );

    store.bucket.put_with_metadata(key, "newer", &[("colour", "red")]);
    store.bucket.tag(key, "team", "blue");
    let refused = shell.output(&["conflicts", "apply", &id]);
    assert_eq!(refused.status.code(), Some(5), "{refused:?}");
    assert!(refused.stderr.contains("--force"), "{}", refused.stderr);
    assert_eq!(store.bucket.text(key), "newer");

    let applied = shell.json(&["conflicts", "apply", "--force", "--json", &id]);
    assert!(store.bucket.get(key) == ours);
    assert_eq!(applied["etag"], etag(store, key).as_str());
    assert_eq!(store.bucket.metadata(key)["colour"], "red");
    assert_eq!(store.bucket.tags(key), [("team".to_owned(), "blue".to_owned())]);
    assert_eq!(shell.run(&["conflicts"]), "no conflicts\n");
    assert_eq!(store.bucket.open_uploads(), [""; 0]);
}

fn what_was_deleted_comes_back(store: &Store) {
    let shell = Shell::new(store);
    let id = keep(&shell, store, b"ours", whole(None, b"ours"));
    shell.run(&["conflicts", "apply", &id]);
    assert_eq!(store.bucket.text("dir/file.txt"), "ours");
    let content_type = store.bucket.head("dir/file.txt").content_type;
    assert_eq!(content_type.as_deref(), Some("text/plain"));
}

fn patch(base: &str, size_bytes: u64) -> Kept<'_> {
    let base_etag = base.to_owned();
    Kept {
        base: Some(base),
        theirs: Some("theirs"),
        size_bytes,
        form: Box::new(|file_name| ConflictForm::Patch {
            file_name,
            base_etag,
            runs: vec![(2, 3), (10 << 20, 2)],
        }),
    }
}

fn changes_are_made_to_the_version_that_they_are_of(store: &Store) {
    let shell = Shell::new(store);
    let mut content = pattern(12 << 20, 4);
    store.bucket.put("dir/file.txt", content.clone());
    let size_bytes = 11 << 20;
    let base = etag(store, "dir/file.txt");
    let id = keep(&shell, store, b"abcde", patch(&base, size_bytes));
    shell.run(&["conflicts", "apply", &id]);
    content.truncate(size_bytes as usize);
    content[2..5].copy_from_slice(b"abc");
    content[10 << 20..(10 << 20) + 2].copy_from_slice(b"de");
    assert!(store.bucket.get("dir/file.txt") == content);
}

fn changes_of_a_version_that_is_gone_need_force(store: &Store) {
    let shell = Shell::new(store);
    let id = keep(&shell, store, b"abcde", patch("gone", 11 << 20));
    let refused = shell.output(&["conflicts", "apply", "--force", &id]);
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    let mut content = pattern(12 << 20, 5);
    store.bucket.put("dir/file.txt", content.clone());
    let refused = shell.output(&["conflicts", "apply", &id]);
    assert_eq!(refused.status.code(), Some(5), "{refused:?}");
    assert!(store.bucket.get("dir/file.txt") == content);
    shell.run(&["conflicts", "apply", "--force", &id]);
    content[2..5].copy_from_slice(b"abc");
    content[10 << 20..(10 << 20) + 2].copy_from_slice(b"de");
    assert!(store.bucket.get("dir/file.txt") == content);
}
