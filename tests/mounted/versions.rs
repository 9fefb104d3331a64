//! Versioned buckets: as they were, and with all versions.

use crate::support::command::bash;
use crate::support::store::Store;
use std::time::{Duration, SystemTime};

crate::on_the_embedded_store!(
    versions_are_files_of_hidden_directories,
    a_bucket_is_mounted_as_it_was,
    where_nothing_is_kept_nothing_is_shown,
);

fn versions_are_files_of_hidden_directories(store: &Store) {
    store.bucket.keep_versions();
    for content in ["one", "two", "three"] {
        store.bucket.put("dir/file", content);
    }
    store.bucket.put("dir/file2", "other");
    store.bucket.put("dir/sub/deep", "deep");
    store.bucket.put("gone", "gone");
    store.bucket.delete("gone");
    let mount = store
        .mount()
        .options("--versions")
        .expect_in_log("versions cannot be changed")
        .start();
    let said = bash(
        &mount.path(),
        "set +e; ls -A . dir; ls .versions dir/.versions dir/sub/.versions
         for v in dir/.versions/file/*; do cat $v; echo; done | sort
         cat .versions/gone/*; echo
         find dir/.versions -type f | wc -l
         for change in 'touch dir/.versions/file/new' 'rm dir/.versions/file/*' 'mkdir dir/.versions/x'; do
             $change 2>&1 | grep -c 'not permitted'
         done
         old=$(grep -l one dir/.versions/file/*); [ $(stat -c %s $old) = 3 ] && cp $old dir/file && cat dir/file; echo
         ls dir/.versions/nothing 2>&1 | grep -c 'No such file'
         rm -r dir; ls; ls dir/.versions 2>&1 | grep -c 'No such file'; true",
    );
    assert_eq!(
        said,
        ".:\ndir\n\ndir:\nfile\nfile2\nsub\n.versions:\ngone\n\ndir/.versions:\nfile\nfile2\n\ndir/sub/.versions:\ndeep\n\
         one\nthree\ntwo\ngone\n4\n1\n3\n1\none\n1\n1\n"
    );
    mount.unmount();
}

fn a_bucket_is_mounted_as_it_was(store: &Store) {
    store.bucket.keep_versions();
    let many = || (0..700).map(|i| format!("many/{i:04}"));
    store.bucket.put_all(many(), b"first");
    store.bucket.put_all(many(), b"second");
    for (key, content) in [("a", "old"), ("dir/x", "x"), ("gone", "gone"), ("again", "1")] {
        store.bucket.put(key, content);
    }
    store.bucket.delete("again");
    // Versions have whole seconds.
    std::thread::sleep(Duration::from_millis(1_100));
    let then = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    std::thread::sleep(Duration::from_millis(1_100));
    store.bucket.put_all(many(), b"third");
    store.bucket.put("a", "newer");
    store.bucket.put("again", "2");
    store.bucket.put("later/y", "y");
    store.bucket.delete("dir/x");
    store.bucket.delete("gone");

    let mount = store.mount().options(&format!("--at {then}")).start();
    let said = bash(
        &mount.path(),
        "set +e; ls; cat a dir/x gone; echo; ls many | wc -l; cat many/* | md5sum; cat again later/y 2>&1 | grep -c 'No such file'
         touch b 2>&1 | grep -c 'Read-only'; rm a 2>&1 | grep -c 'Read-only'; true",
    );
    let sum = bash(
        &mount.work(),
        "for i in $(seq 700); do printf second; done | md5sum",
    );
    assert_eq!(said, format!("a\ndir\ngone\nmany\noldxgone\n700\n{sum}2\n1\n1\n"));
    mount.unmount();
}

fn where_nothing_is_kept_nothing_is_shown(store: &Store) {
    for options in ["--versions", "--at 2026-01-01T00:00:00Z"] {
        let refused = store.mount().options(options).fail_to_start();
        refused.fails(1, "has no versioning");
    }
    let both = store
        .mount()
        .options("--versions --at 2026-01-01")
        .fail_to_start();
    both.fails(2, "");
}
