//! `pailfs conflicts show` and `apply`.

use crate::on_the_embedded_store;
use crate::schema;
use crate::shell::Shell;
use crate::support::pattern;
use crate::support::store::Store;
use pailfs::base::object::ETag;
use pailfs::embedded::{Fault, Operation, When};
use pailfs::spool::conflicts::id_of;
use pailfs::spool::{Conflict, ConflictForm, RecordedPart, Spool};
use std::collections::BTreeSet;

on_the_embedded_store!(
    a_whole_version_replaces_what_it_lost_against_and_nothing_newer,
    changes_are_made_to_the_version_that_they_are_of,
    changes_of_a_version_that_is_gone_need_force,
    what_was_deleted_comes_back,
    an_upload_that_was_left_open_is_completed,
    a_completion_whose_answer_is_lost_is_found_to_be_done,
    a_completion_of_which_nobody_heard_is_found_by_the_next_try,
    an_upload_that_does_not_hold_everything_stays,
    what_is_printed_is_what_the_schema_says,
);

/// Of the uploads that are left open here.
const TRANSACTION: &str = "0123456789abcdef";

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

/// An upload to the object that a mount left open, with these bytes in parts of 5 MiB.
fn upload<'a>(store: &Store, theirs: Option<&'a str>, content: &[u8], size_bytes: u64) -> Kept<'a> {
    let pieces: Vec<&[u8]> = content.chunks(5 << 20).collect();
    let (upload_id, etags) = store
        .bucket
        .begin_upload("dir/file.txt", &pieces, ("pailfs-txn", TRANSACTION));
    let parts = (1..)
        .zip(pieces.iter().zip(etags))
        .map(|(number, (piece, etag))| RecordedPart {
            number,
            etag,
            checksum_base64: None,
            len_bytes: piece.len() as u64,
        });
    let parts = parts.collect();
    Kept {
        base: Some("old"),
        theirs,
        size_bytes,
        form: Box::new(|_| ConflictForm::OpenUpload {
            upload_id,
            parts,
            transaction: TRANSACTION.to_owned(),
        }),
    }
}

fn an_upload_that_was_left_open_is_completed(store: &Store) {
    let shell = Shell::new(store);
    let key = "dir/file.txt";
    store.bucket.put(key, "theirs");
    let theirs = etag(store, key);
    let ours = pattern(12 << 20, 6);
    let kept = upload(store, Some(&theirs), &ours, ours.len() as u64);
    let id = keep(&shell, store, b"", kept);

    store.bucket.put(key, "newer");
    let refused = shell.output(&["conflicts", "apply", &id]);
    assert_eq!(refused.status.code(), Some(5), "{refused:?}");
    assert_eq!(store.bucket.text(key), "newer");
    assert_eq!(store.bucket.open_uploads(), [key], "it is still kept");

    store.bucket.put(key, "theirs");
    let applied = shell.json(&["conflicts", "apply", "--json", &id]);
    schema::check("conflictApplied", &applied);
    assert!(store.bucket.get(key) == ours);
    assert_eq!(applied["etag"], etag(store, key).as_str());
    assert_eq!(applied["object_size_bytes"], ours.len() as u64);
    assert_eq!(store.bucket.open_uploads(), [""; 0]);
    assert_eq!(shell.run(&["conflicts"]), "no conflicts\n");
}

fn a_completion_whose_answer_is_lost_is_found_to_be_done(store: &Store) {
    let shell = Shell::new(store);
    let ours = pattern(6 << 20, 9);
    let kept = upload(store, None, &ours, ours.len() as u64);
    let id = keep(&shell, store, b"", kept);
    let faults = store.server().faults();
    let lost = faults.inject(When::on(Operation::Complete), Fault::LoseReply);
    let applied = shell.json(&["conflicts", "apply", "--json", &id]);
    assert_eq!(faults.struck(lost), 1);
    assert_eq!(applied["etag"], etag(store, "dir/file.txt").as_str());
    assert!(store.bucket.get("dir/file.txt") == ours);
    assert_eq!(shell.run(&["conflicts"]), "no conflicts\n");
}

fn a_completion_of_which_nobody_heard_is_found_by_the_next_try(store: &Store) {
    let shell = Shell::new(store);
    let key = "dir/file.txt";
    store.bucket.put(key, "theirs");
    let theirs = etag(store, key);
    let ours = pattern(6 << 20, 10);
    let kept = upload(store, Some(&theirs), &ours, ours.len() as u64);
    let id = keep(&shell, store, b"", kept);
    let faults = store.server().faults();
    faults.inject(When::on(Operation::Complete), Fault::LoseReply);
    // The two looks before are answered, that for what came of it is not.
    let when = When::on(Operation::Head).key(key).nth(3).for_ever();
    faults.inject(when, Fault::Answer("AccessDenied"));
    let failed = shell.output(&["conflicts", "apply", &id]);
    assert!(!failed.status.success(), "{failed:?}");
    faults.clear();
    assert!(store.bucket.get(key) == ours, "it was done");
    assert!(shell.run(&["conflicts"]).contains(&id), "and is still kept");
    shell.run(&["conflicts", "apply", &id]);
    assert!(store.bucket.get(key) == ours);
    assert_eq!(store.server().counts().of(Operation::Complete), 1);
    assert_eq!(shell.run(&["conflicts"]), "no conflicts\n");
}

fn an_upload_that_does_not_hold_everything_stays(store: &Store) {
    let shell = Shell::new(store);
    let key = "dir/file.txt";
    let half = pattern(6 << 20, 7);
    let kept = upload(store, None, &half, 9 << 20);
    let id = keep(&shell, store, b"", kept);
    let refused = shell.output(&["conflicts", "apply", "--force", &id]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(refused.stderr.contains("of 9437184 bytes"), "{}", refused.stderr);
    assert_eq!(store.bucket.find(key), None);
    assert_eq!(store.bucket.open_uploads(), [key]);
    // Given up, it is aborted.
    shell.run(&["conflicts", "drop", &id]);
    assert_eq!(store.bucket.open_uploads(), [""; 0]);
    assert_eq!(shell.run(&["conflicts"]), "no conflicts\n");
}

fn what_is_printed_is_what_the_schema_says(store: &Store) {
    let shell = Shell::new(store);
    let ours = pattern(6 << 20, 8);
    let of_upload = upload(store, Some("theirs"), &ours, ours.len() as u64);
    let ids = [
        keep(&shell, store, b"ours", whole(None, b"ours")),
        keep(&shell, store, b"abcde", patch("gone", 11 << 20)),
        keep(&shell, store, b"", of_upload),
    ];
    let listed = shell.run(&["conflicts", "list", "--json"]);
    let listed: Vec<serde_json::Value> = listed
        .lines()
        .map(|line| serde_json::from_str(line).expect("a document a line"))
        .collect();
    let forms: BTreeSet<&str> = listed
        .iter()
        .filter_map(|conflict| conflict["form"].as_str())
        .collect();
    assert_eq!(forms, BTreeSet::from(["patch", "upload", "whole"]));
    for conflict in &listed {
        schema::check("conflict", conflict);
    }
    for id in &ids {
        schema::check("conflict", &shell.json(&["conflicts", "show", "--json", id]));
    }
    let saved = shell.json(&["conflicts", "save", "--json", &ids[0], "saved"]);
    schema::check("conflictSaved", &saved);
    assert_eq!(shell.read("saved"), b"ours");
    for id in &ids {
        schema::check("conflict", &shell.json(&["conflicts", "drop", "--json", id]));
    }
}
