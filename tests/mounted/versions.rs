//! Versioned buckets: as they were, and with all versions.

use crate::support::command::bash;
use crate::support::mount::Place;
use crate::support::store::Store;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

crate::on_the_embedded_store!(
    versions_are_files_of_hidden_directories,
    a_bucket_is_mounted_as_it_was,
    where_nothing_is_kept_nothing_is_shown,
    the_version_of_a_file_is_told,
    what_is_kept_on_disk_is_of_the_version_that_is_shown,
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

fn the_version_of_a_file_is_told(store: &Store) {
    store.bucket.keep_versions();
    let newest = || store.bucket.head("file").version_id.expect("an ID");
    let ask = "python3 -c 'import os; print(os.getxattr(\"file\", \"user.s3.version-id\").decode())'";
    let mount = store.mount().start();
    let mut told = Vec::new();
    for change in [
        "echo one > file",
        "echo two >> file",
        "chmod 600 file; sync file",
        "mv file f; mv f file",
    ] {
        told.push(bash(&mount.path(), &format!("{change}; {ask}")));
        assert_eq!(told.last(), Some(&format!("{}\n", newest())), "{change}");
    }
    told.dedup();
    assert_eq!(told.len(), 4);
    mount.unmount();
    let again = store.mount().start();
    assert_eq!(bash(&again.path(), ask), format!("{}\n", newest()));
}

/// One second later: versions have whole seconds.
fn a_second_later() -> String {
    std::thread::sleep(Duration::from_millis(1_100));
    let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    std::thread::sleep(Duration::from_millis(1_100));
    now
}

/// Contents and attributes are kept for all mounts of a machine, whatever each shows of the bucket. The first version has the
/// bytes, and so the ETag, of the last.
fn what_is_kept_on_disk_is_of_the_version_that_is_shown(store: &Store) {
    store.bucket.keep_versions();
    let states = [("one", "0100600"), ("two", "0100640"), ("one", "0100604")];
    let mut times = Vec::new();
    for (content, mode) in states {
        store
            .bucket
            .put_with_metadata("dir/file", content.repeat(50_000), &[("file-permissions", mode)]);
        times.push(a_second_later());
    }
    let place = Place::new();
    let start = |options: &str| {
        let mount = store
            .mount()
            .at(&place)
            .options("--cache-size 64M --attributes full");
        mount.options(options).start()
    };
    let look = |path: &Path| {
        let stat = fs::metadata(path).expect("there");
        let content = fs::read_to_string(path).expect("read");
        (stat.mtime(), format!("0{:o}", stat.mode()), content)
    };
    let expected = |(content, mode): (&str, &str)| (mode.to_owned(), content.repeat(50_000));
    let check = |path: &Path, state| {
        let (_, mode, content) = look(path);
        assert!((mode, content) == expected(state), "{} {state:?}", path.display());
    };
    // What the first round found is there in the second.
    for _ in 0..2 {
        for at in [2, 0, 1] {
            let mount = start(&format!("--at {}", times[at]));
            check(&mount.join("dir/file"), states[at]);
            mount.unmount();
        }
        let mount = start("--versions");
        check(&mount.join("dir/file"), states[2]);
        let versions = fs::read_dir(mount.join("dir/.versions/file")).expect("listed");
        let mut versions: Vec<_> = versions
            .map(|entry| look(&entry.expect("an entry").path()))
            .collect();
        versions.sort();
        let versions = versions.into_iter().map(|(_, mode, content)| (mode, content));
        assert!(versions.eq(states.map(expected)));
        mount.unmount();
    }
}
