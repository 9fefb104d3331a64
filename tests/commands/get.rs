//! `pailfs get`.

use crate::keys;
use crate::on_all_stores;
use crate::on_the_embedded_store;
use crate::schema;
use crate::shell::Shell;
use crate::support::pattern;
use crate::support::store::Store;
use pailfs::embedded::{Fault, Operation, When};
use std::os::unix::fs::MetadataExt;

on_all_stores!(
    every_object_becomes_a_file,
    a_large_object_is_read_in_parallel,
    the_file_has_the_time_and_the_permissions_of_the_object,
);
on_the_embedded_store!(
    a_broken_download_goes_on_where_it_was,
    a_download_that_fails_leaves_what_was_there,
    an_object_that_is_replaced_meanwhile_is_not_mixed,
    what_is_no_file_is_not_replaced,
);

fn every_object_becomes_a_file(store: &Store) {
    let shell = Shell::new(store);
    for key in keys::odd(store) {
        store.bucket.put(key, key);
        assert_eq!(shell.run(&["get", &shell.at_key(key), "file"]), "");
        assert_eq!(shell.read("file"), key.as_bytes(), "{key:?}");
    }
    store.bucket.put("dir/a b.txt", "");
    shell.run(&["get", &shell.at_key("dir/a b.txt")]);
    assert_eq!(shell.read("a b.txt"), b"");
    std::fs::create_dir(shell.work().join("sub")).expect("made");
    let got = shell.json(&["get", "--json", &shell.at_key("dir/a b.txt"), "sub"]);
    schema::check("get", &got);
    assert_eq!(got["file"], "sub/a b.txt");
    assert_eq!(got["size"], 0);
    assert_eq!(shell.files(), ["a b.txt", "file", "sub"]);
}

fn a_large_object_is_read_in_parallel(store: &Store) {
    let shell = Shell::new(store);
    let bytes = pattern(40 << 20, 3);
    store.bucket.put("large", bytes.clone());
    shell.run(&["get", "--memory", "32M", &shell.at_key("large")]);
    assert!(shell.read("large") == bytes);
    if store.is_embedded() {
        assert!(store.server().counts().of(Operation::Get) > 2);
    }
}

fn the_file_has_the_time_and_the_permissions_of_the_object(store: &Store) {
    let shell = Shell::new(store);
    store.bucket.put_with_metadata(
        "tagged",
        "data",
        &[
            ("file-permissions", "0104640"),
            ("file-mtime", "1700000000123456789ns"),
        ],
    );
    shell.run(&["get", &shell.at_key("tagged")]);
    let found = std::fs::metadata(shell.work().join("tagged")).expect("a file");
    assert_eq!((found.mtime(), found.mtime_nsec()), (1_700_000_000, 123_456_789));
    assert_eq!(found.mode() & 0o7777, 0o640, "without the set-user-id bit");
    // Another tool's object: the time at which it was written, and what the umask allows.
    store.bucket.put("plain", "data");
    shell.script("umask 027; pailfs get s3://$BUCKET/plain").success();
    let found = std::fs::metadata(shell.work().join("plain")).expect("a file");
    let written = store.bucket.head("plain").last_modified.expect("a time").secs();
    assert_eq!((found.mtime(), found.mode() & 0o7777), (written, 0o640));
}

fn a_broken_download_goes_on_where_it_was(store: &Store) {
    let shell = Shell::new(store);
    let (small, large) = (pattern(3 << 20, 4), pattern(30 << 20, 5));
    store.bucket.put("small", small.clone());
    store.bucket.put("large", large.clone());
    for fault in [Fault::CutBody { after_bytes: 700_000 }, Fault::Disconnect] {
        let when = || When::on(Operation::Get).times(3);
        store.server().faults().inject(when().key("small"), fault.clone());
        store.server().faults().inject(when().key("large"), fault);
        shell.run(&["get", &shell.at_key("small")]);
        shell.run(&["get", &shell.at_key("large")]);
        assert!(shell.read("small") == small);
        assert!(shell.read("large") == large);
        store.server().faults().clear();
    }
}

fn a_download_that_fails_leaves_what_was_there(store: &Store) {
    let shell = Shell::new(store);
    store.bucket.put("key", pattern(12 << 20, 6));
    shell.write("key", b"from before");
    let cut = Fault::CutBody { after_bytes: 100_000 };
    store
        .server()
        .faults()
        .inject(When::on(Operation::Get).nth(1).times(1), cut);
    let denied = Fault::Answer("AccessDenied");
    store
        .server()
        .faults()
        .inject(When::on(Operation::Get).nth(2).for_ever(), denied);
    let done = shell.output(&["get", &shell.at_key("key")]);
    done.fails(4, "AccessDenied");
    assert_eq!(shell.read("key"), b"from before");
    assert_eq!(shell.files(), ["key"]);
}

fn an_object_that_is_replaced_meanwhile_is_not_mixed(store: &Store) {
    let shell = Shell::new(store);
    store.bucket.put("key", pattern(12 << 20, 7));
    let stall = Fault::StallBody { after_bytes: 1 << 20 };
    let stalled = store
        .server()
        .faults()
        .inject(When::on(Operation::Get).times(1), stall);
    let address = shell.at_key("key");
    let arguments = ["get", "--stall-timeout", "6s", &address];
    let running = shell.tool(env!("CARGO_BIN_EXE_pailfs")).args(arguments).start();
    crate::support::wait_until("a stalled body", || store.server().faults().struck(stalled) > 0);
    store.bucket.put("key", pattern(12 << 20, 8));
    let done = running.wait();
    done.fails(5, "somebody else changed the object");
    assert_eq!(shell.files(), Vec::<String>::new());
}

fn what_is_no_file_is_not_replaced(store: &Store) {
    let shell = Shell::new(store);
    store.bucket.put("key", "data");
    let key = shell.at_key("key");
    shell
        .output(&["get", &key, "/dev/null"])
        .fails(2, "not a regular file");
    shell.output(&["get", &key, "-"]).fails(2, "pailfs cat");
    shell.output(&["get", &key, "missing/"]).fails(3, "missing");
    shell.output(&["get", &key, "missing/file"]).fails(3, "missing");
    shell
        .output(&["get", &shell.at_key("dir/"), "."])
        .fails(2, "say which file");
    std::os::unix::fs::symlink("key", shell.work().join("dangling")).expect("linked");
    shell.run(&["get", &key, "dangling"]);
    assert_eq!(shell.read("dangling"), b"data");
}
