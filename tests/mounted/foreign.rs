//! Keys and objects that other programs made.

use crate::support::command::bash;
use crate::support::files;
use crate::support::store::Store;
use pailfs::embedded::{Fault, Operation, When};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

crate::on_each_store!(
    ordinary_names_of_all_kinds,
    what_others_change_is_seen,
    tags_survive_edits_and_renames,
    content_types_follow_the_name
);
crate::on_the_embedded_store!(
    every_key_is_a_file,
    markers_of_others_are_directories,
    what_may_not_be_looked_at_is_listed_as_a_file,
);

/// Every file below a directory, by its path, with its content.
pub fn walk(directory: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![directory.to_owned()];
    while let Some(next) = waiting.pop() {
        for entry in fs::read_dir(&next).expect("listed") {
            let entry = entry.expect("an entry");
            if entry.file_type().expect("a type").is_dir() {
                waiting.push(entry.path());
            } else {
                let path = entry.path();
                let name = path
                    .strip_prefix(directory)
                    .expect("below")
                    .to_str()
                    .expect("UTF-8")
                    .to_owned();
                found.insert(
                    name,
                    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())),
                );
            }
        }
    }
    found
}

fn ordinary_names_of_all_kinds(store: &Store) {
    let names = [
        "plain",
        "with space",
        "ünïcödé/日本語",
        "a+b=c&d?e#f",
        "quote'\"",
        "percent%41",
        "star*[x]",
        "tilde~",
        ".hidden",
        "deep/er/and/deeper",
        "comma,semi;colon:",
        "UPPER/lower",
        "-dash",
        "$dollar",
    ];
    for name in names {
        store.bucket.put(name, name);
    }
    let mount = store.mount().start();
    let expected: BTreeMap<String, String> = names
        .iter()
        .map(|name| ((*name).into(), (*name).into()))
        .collect();
    assert_eq!(walk(&mount.path()), expected);
    // Found by name too, without a listing before.
    let mount_again = store.mount().start();
    for name in names {
        assert_eq!(fs::read_to_string(mount_again.join(name)).expect(name), name);
    }
}

/// Key and path. What cannot be a name is `~%` and percent-encoded bytes.
const ODD_KEYS: &[(&str, &str)] = &[
    ("a//b", "a/~%%2F/b"),
    ("/leading", "~%%2F/leading"),
    ("dir/", "dir/~%"),
    ("both", "~%both"),
    ("both/inside", "both/inside"),
    ("./x", "~%.%2F/x"),
    ("up/..", "up/~%.."),
    ("~%escaped", "~%%7E%25escaped"),
    ("new\nline", "new\nline"),
    ("tab\tand\u{1}bell\u{7}", "tab\tand\u{1}bell\u{7}"),
    ("\u{7f}", "\u{7f}"),
    ("end ", "end "),
    ("back\\slash", "back\\slash"),
];

fn every_key_is_a_file(store: &Store) {
    let long = "x".repeat(300);
    let mut expected = BTreeMap::new();
    for (key, path) in ODD_KEYS {
        store.bucket.put(key, *key);
        expected.insert((*path).to_owned(), (*key).to_owned());
    }
    store.bucket.put(&long, "long");
    let mount = store.mount().start();
    let mut found = walk(&mount.path());
    let is_long = |path: &String| path.len() > 255;
    let long_path = found
        .keys()
        .find(|path| is_long(path))
        .cloned()
        .expect("the long one");
    assert_eq!(found.remove(&long_path).as_deref(), Some("long"));
    assert!(
        long_path
            .split('/')
            .all(|part| part.starts_with("~%") && part.len() <= 255),
        "{long_path}"
    );
    assert_eq!(found, expected);
    let again = store.mount().start();
    for (key, path) in ODD_KEYS {
        assert_eq!(fs::read_to_string(again.join(path)).expect(path), *key);
    }
    assert_eq!(
        fs::read_to_string(again.join(&long_path)).expect("the long one"),
        "long"
    );
}

fn markers_of_others_are_directories(store: &Store) {
    store.bucket.put("made/", "");
    store.bucket.put("old_$folder$", "");
    let mount = store.mount().start();
    assert_eq!(bash(&mount.path(), "ls -p"), "made/\nold/\n");
    bash(&mount.path(), "rmdir made; touch old/x; rm old/x");
    assert_eq!(bash(&mount.path(), "ls -A"), "old\n");
    mount.unmount();
    assert!(!store.bucket.keys("").contains(&"made/".to_owned()));
}

fn what_others_change_is_seen(store: &Store) {
    store.bucket.put("file", "old");
    let mount = store.mount().options("--metadata-ttl 1s").start();
    assert_eq!(fs::read_to_string(mount.join("file")).expect("read"), "old");
    for content in ["longer than before", "short", ""] {
        store.bucket.put("file", content);
        assert_eq!(fs::read_to_string(mount.join("file")).expect("read"), content);
    }
    store.bucket.put("other", "x");
    crate::support::wait_until("a new object is listed", || {
        bash(&mount.path(), "ls") == "file\nother\n"
    });
    store.bucket.delete("file");
    let gone = fs::File::open(mount.join("file"));
    assert_eq!(files::errno(gone), libc::ENOENT);
    crate::support::wait_until("a deleted object is not listed", || {
        bash(&mount.path(), "ls") == "other\n"
    });
}

fn what_may_not_be_looked_at_is_listed_as_a_file(store: &Store) {
    store.bucket.put("d/a", "mine");
    // By its ETag it may be a symlink.
    store.bucket.repeat("d/a", 1, "d/refused");
    let of_it = || When::on_each(&[Operation::Head, Operation::Get]).key("d/refused");
    let faults = store.server().faults();
    faults.inject(of_it().for_ever(), Fault::Answer("AccessDenied"));
    let mount = store.mount().expect_in_log("AccessDenied").start();
    let shown = bash(
        &mount.path(),
        "ls d; ls -l d | grep -c ^-rw; find d -type f | wc -l; stat -c '%F %s' d/refused; cat d/a",
    );
    assert_eq!(shown, "a\nrefused\n2\n2\nregular file 4\nmine");
    // Also where only its name is known.
    let again = store.mount().expect_in_log("AccessDenied").start();
    assert_eq!(bash(&again.path(), "stat -c %s d/refused"), "4\n");
    assert_eq!(files::errno(fs::read(again.join("d/refused"))), libc::EACCES);
}

fn content_types_follow_the_name(store: &Store) {
    let mount = store.mount().start();
    bash(
        &mount.path(),
        "echo '<html>' > page.html; echo '{}' > data.json; echo x > unknown",
    );
    let kind = |key: &str| store.bucket.head(key).content_type;
    assert_eq!(kind("page.html").as_deref(), Some("text/html"));
    assert_eq!(kind("data.json").as_deref(), Some("application/json"));
    bash(&mount.path(), "echo more >> page.html");
    assert_eq!(kind("page.html").as_deref(), Some("text/html"));
}

fn tags_survive_edits_and_renames(store: &Store) {
    store.bucket.put("file", "content\n");
    store.bucket.put("large", crate::support::pattern(12 << 20, 3));
    for key in ["file", "large"] {
        store.bucket.tag(key, "project", "a b=c+d");
    }
    let expected = [("project".to_owned(), "a b=c+d".to_owned())];
    let mount = store.mount().start();
    for edit in [
        "echo more >> F",
        "printf X | dd of=F conv=notrunc status=none",
        "truncate -s +10 F",
        "chmod 600 F",
        "touch -d 2001-02-03 F",
        "mv F moved && mv moved F",
        "echo new > F",
    ] {
        for key in ["file", "large"] {
            bash(&mount.path(), &edit.replace('F', key));
            assert_eq!(store.bucket.tags(key), expected, "{key} after {edit}");
        }
    }
}
