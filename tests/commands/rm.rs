//! `pailfs rm`.

use crate::keys;
use crate::on_all_stores;
use crate::on_the_embedded_store;
use crate::schema;
use crate::shell::Shell;
use crate::support::store::Store;
use pailfs::embedded::{Fault, Operation, When};

on_all_stores!(
    every_key_can_be_deleted,
    a_missing_key_is_a_failure_unless_it_may_be_missing,
    what_lies_below_is_deleted_and_nothing_beside,
);
on_the_embedded_store!(
    many_keys_are_deleted_in_batches,
    a_failure_is_told_and_the_rest_goes_on,
    nothing_is_deleted_below_without_a_yes,
);

fn every_key_can_be_deleted(store: &Store) {
    let shell = Shell::new(store);
    let keys = keys::odd(store);
    for key in &keys {
        store.bucket.put(key, "data");
    }
    let addresses: Vec<String> = keys.iter().map(|key| shell.at_key(key)).collect();
    let mut arguments = vec!["rm", "--json"];
    arguments.extend(addresses.iter().map(String::as_str));
    let summary = shell.json(&arguments);
    schema::check("rm", &summary);
    assert_eq!(summary["deleted"], keys.len());
    // As it decodes nothing by itself, this listing only says whether there is anything.
    assert_eq!(store.bucket.keys("").len(), 0);
    for key in &keys {
        store.bucket.put(key, "data");
    }
    assert_eq!(shell.run(&["rm", "--recursive", "--yes", &shell.at_key("")]), "");
    assert_eq!(shell.run(&["ls", "--recursive", &shell.at_key("")]), "");
}

fn a_missing_key_is_a_failure_unless_it_may_be_missing(store: &Store) {
    let shell = Shell::new(store);
    store.bucket.put("there", "data");
    let (there, missing) = (shell.at_key("there"), shell.at_key("mis\nsing"));
    let done = shell.output(&["rm", "--json", &missing, &there]);
    done.fails(3, "mis\\nsing");
    assert!(
        done.stderr.contains("1 deleted, 1 not found, 0 not deleted"),
        "{done:?}"
    );
    let last = done.stderr.lines().last().expect("a line");
    schema::check("error", &serde_json::from_str(last).expect("JSON"));
    assert_eq!(store.bucket.find("there"), None);
    assert_eq!(shell.run(&["rm", "--missing-ok", &there]), "");
    shell
        .output(&["rm", "--recursive", "--yes", &shell.at_key("nothing/")])
        .fails(3, "none below it");
    shell.run(&[
        "rm",
        "--recursive",
        "--yes",
        "--missing-ok",
        &shell.at_key("nothing/"),
    ]);
    for arguments in [
        &["rm", "s3://no-such-bucket-here/key"][..],
        &["rm", "--missing-ok", "s3://no-such-bucket-here/key"],
        &["rm", "--recursive", "--yes", "s3://no-such-bucket-here"],
    ] {
        shell.output(arguments).fails(3, "no-such-bucket-here");
    }
}

fn what_lies_below_is_deleted_and_nothing_beside(store: &Store) {
    let shell = Shell::new(store);
    let fill = || {
        for key in ["photos/1", "photos/2/3", "photos-2026.zip", "photo", "z"] {
            store.bucket.put(key, "data");
        }
    };
    let beside = ["photo", "photos-2026.zip", "z"];
    for key in ["photos", "photos/"] {
        fill();
        let summary = shell.json(&["rm", "--json", "--recursive", "--yes", &shell.at_key(key)]);
        assert_eq!(summary["deleted"], 2);
        assert_eq!(store.bucket.keys(""), beside);
    }
    // The object of that name, too.
    shell.run(&["rm", "--recursive", "--yes", &shell.at_key("photo")]);
    assert_eq!(store.bucket.keys(""), ["photos-2026.zip", "z"]);
}

fn many_keys_are_deleted_in_batches(store: &Store) {
    let shell = Shell::new(store);
    store
        .bucket
        .put_all((0..2100).map(|number| format!("many/{number}")), b"x");
    store.server().counts().reset();
    let summary = shell.json(&["rm", "--json", "--recursive", "--yes", &shell.at_key("many/")]);
    assert_eq!(summary["deleted"], 2100);
    let counts = store.server().counts().all();
    assert_eq!(counts.get(&Operation::DeleteMany), Some(&3), "{counts:?}");
    assert_eq!(counts.get(&Operation::List), Some(&3), "{counts:?}");
    assert_eq!(store.bucket.keys(""), Vec::<String>::new());
}

fn a_failure_is_told_and_the_rest_goes_on(store: &Store) {
    let shell = Shell::new(store);
    // Alone in its request, as XML cannot carry it.
    store.bucket.put("locked\u{1}", "data");
    store
        .bucket
        .put_all((0..1500).map(|number| format!("{number:04}")), b"x");
    let when = When::on(Operation::Delete).key("locked\u{1}").for_ever();
    store
        .server()
        .faults()
        .inject(when, Fault::Answer("AccessDenied"));
    let done = shell.output(&["rm", "--recursive", "--yes", "--json", &shell.at_key("")]);
    done.fails(4, "locked\\u{1}");
    assert!(
        done.stderr.contains("1500 deleted, 0 not found, 1 not deleted"),
        "{done:?}"
    );
    let told: Vec<serde_json::Value> = done
        .stderr
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    for document in &told {
        schema::check("error", document);
    }
    assert_eq!(told[0]["error"]["key"], "locked\u{1}");
    assert_eq!(told.len(), 2, "{done:?}");
    schema::check("rm", &serde_json::from_str(&done.stdout).expect("JSON"));
    // A whole batch.
    store.server().faults().clear();
    store
        .bucket
        .put_all((0..1500).map(|number| format!("{number:04}")), b"x");
    let when = When::on(Operation::DeleteMany).times(1);
    store
        .server()
        .faults()
        .inject(when, Fault::Answer("AccessDenied"));
    let done = shell.output(&["rm", "--recursive", "--yes", &shell.at_key("")]);
    done.fails(4, "1000 keys from s3://test/0000 on");
    assert_eq!(store.bucket.keys("").len(), 1000);
}

fn nothing_is_deleted_below_without_a_yes(store: &Store) {
    let shell = Shell::new(store);
    store.bucket.put("a/b", "data");
    shell
        .output(&["rm", "--recursive", &shell.at_key("a/")])
        .fails(2, "--yes");
    shell
        .output(&["rm", "--yes", &shell.at_key("a/b")])
        .fails(2, "--recursive");
    shell.output(&["rm", &shell.at_key("")]).fails(2, "is a bucket");
    assert_eq!(store.bucket.keys(""), ["a/b"]);
}
