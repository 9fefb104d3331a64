//! `pailfs versions` and `pailfs undelete`.

use crate::errors::error_of;
use crate::on_the_embedded_store;
use crate::schema;
use crate::shell::Shell;
use crate::support::store::Store;
use pailfs::embedded::{Fault, Operation, When};

on_the_embedded_store!(
    all_versions_are_listed,
    what_was_deleted_comes_back,
    many_are_brought_back_with_few_requests,
    what_cannot_be_brought_back_is_told,
    a_bucket_without_versions_is_told,
);

fn all_versions_are_listed(store: &Store) {
    store.bucket.keep_versions();
    store.bucket.put("file", "one");
    store.bucket.put("file", "second");
    store.bucket.put("file2", "other");
    store.bucket.delete("file");
    let many = (0..600).flat_map(|i| [format!("many/{i}"), format!("many/{i}")]);
    store.bucket.put_all(many, b"x");
    let shell = Shell::new(store);
    let document = shell.json(&["versions", "--json", &shell.at_key("file")]);
    schema::check("versions", &document);
    let told = document.as_array().expect("an array").iter().map(|version| {
        let flag = |name: &str| version[name].as_bool().expect("a flag");
        let name = version["name"].as_str().expect("a name").to_owned();
        (
            name,
            flag("isLatest"),
            flag("isDeleted"),
            version["size"].as_u64().expect("a size"),
        )
    });
    let mut told: Vec<_> = told.collect();
    assert_eq!(told.remove(0), ("file".to_owned(), true, true, 0));
    told.sort();
    let expected = [
        ("file", false, false, 3),
        ("file", false, false, 6),
        ("file2", true, false, 5),
    ];
    assert_eq!(
        told,
        expected.map(|(name, latest, deleted, size)| (name.to_owned(), latest, deleted, size))
    );
    let lines = shell.run(&["versions", &shell.at_key("many/")]);
    assert_eq!(lines.lines().count(), 1_200);
    assert_eq!(
        shell
            .run(&["versions", "--limit", "7", &shell.at_key("")])
            .lines()
            .count(),
        7
    );
}

fn what_was_deleted_comes_back(store: &Store) {
    store.bucket.keep_versions();
    for key in ["file", "file-2", "dir/a", "dir/b", "kept"] {
        store.bucket.put(key, key.as_bytes());
    }
    for key in ["file", "file", "file-2", "dir/a", "dir/b", "never"] {
        store.bucket.delete(key);
    }
    let shell = Shell::new(store);
    let summary = shell.json(&["undelete", "--json", &shell.at_key("file"), &shell.at_key("kept")]);
    schema::check("undelete", &summary);
    assert_eq!(
        (&summary["undeleted"], &summary["present"]),
        (&1.into(), &1.into())
    );
    assert_eq!(store.bucket.keys(""), ["file", "kept"]);
    shell.run(&["undelete", "--recursive", &shell.at_key("dir")]);
    assert_eq!(store.bucket.keys(""), ["dir/a", "dir/b", "file", "kept"]);
    assert_eq!(store.bucket.text("dir/a"), "dir/a");
    for key in ["never", "nothing"] {
        let done = shell.output(&["undelete", "--json", &shell.at_key(key)]);
        assert_eq!(done.status.code(), Some(3), "{done:#?}");
        assert!(
            error_of(&done)["message"]
                .as_str()
                .expect("text")
                .contains("pailfs versions")
        );
    }
}

fn many_are_brought_back_with_few_requests(store: &Store) {
    const KEYS: usize = 1_200;
    store.bucket.keep_versions();
    let keys: Vec<String> = (0..KEYS).map(|n| format!("d/{n:04}")).collect();
    store.bucket.put_all(keys.clone(), b"x");
    // Deleted twice: both markers are above.
    for _ in 0..2 {
        store.bucket.delete_all(&keys);
    }
    let shell = Shell::new(store);
    let counts = store.server().counts().clone();
    counts.reset();
    let summary = shell.json(&["undelete", "--json", "--recursive", &shell.at_key("d")]);
    assert_eq!(summary["undeleted"], KEYS);
    assert_eq!(store.bucket.keys("").len(), KEYS);
    assert_eq!(counts.of(Operation::Delete), 0, "{:?}", counts.all());
    // A request takes a thousand.
    assert!(counts.of(Operation::DeleteMany) <= 4, "{:?}", counts.all());
}

fn what_cannot_be_brought_back_is_told(store: &Store) {
    store.bucket.keep_versions();
    for key in ["a", "b"] {
        store.bucket.put(key, "x");
        store.bucket.delete(key);
    }
    let shell = Shell::new(store);
    let refused = When::on(Operation::DeleteMany);
    store
        .server()
        .faults()
        .inject(refused, Fault::Answer("AccessDenied"));
    let done = shell.output(&["undelete", "--json", "--recursive", &shell.at_key("")]);
    assert!(!done.status.success(), "{done:#?}");
    assert_eq!(error_of(&done)["code"], "AccessDenied", "{done:#?}");
    assert_eq!(store.bucket.keys(""), [""; 0]);
    shell.run(&["undelete", "--recursive", &shell.at_key("")]);
    assert_eq!(store.bucket.keys(""), ["a", "b"]);
}

fn a_bucket_without_versions_is_told(store: &Store) {
    store.bucket.put("file", "x");
    let shell = Shell::new(store);
    for command in ["versions", "undelete"] {
        let done = shell.output(&[command, &shell.at_key("file")]);
        done.fails(1, "has no versioning");
    }
}
