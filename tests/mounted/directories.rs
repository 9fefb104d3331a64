//! Directories with many entries, and directories that come and go by what is in them.

use crate::support::command::bash;
use crate::support::files;
use crate::support::store::Store;
use std::collections::BTreeSet;
use std::fs;

crate::on_each_store!(
    a_directory_of_many_pages_is_listed_whole,
    a_directory_is_removed_only_when_the_bucket_says_it_is_empty,
    everything_can_be_removed,
);
// SeaweedFS takes a marker for existing as long as there are keys below it, and then removes both.
crate::on_the_embedded_store!(a_directory_stays_when_it_becomes_empty);

fn a_directory_of_many_pages_is_listed_whole(store: &Store) {
    let count = if store.is_embedded() { 5_000 } else { 2_300 };
    let name = |i: usize| format!("f{i:05}");
    store
        .bucket
        .put_all((0..count).map(|i| format!("big/{}", name(i))), b"x");
    store
        .bucket
        .put_all((0..40).map(|i| format!("big/sub{i}/x")), b"x");
    let mount = store.mount().start();
    let listed: Vec<String> = bash(&mount.path(), "ls -f big")
        .lines()
        .map(str::to_owned)
        .collect();
    let unique: BTreeSet<&String> = listed.iter().collect();
    assert_eq!((listed.len(), unique.len()), (count + 40 + 2, count + 40 + 2));
    assert!((0..count).all(|i| unique.contains(&name(i))));
    assert_eq!(
        bash(&mount.path(), "find . -type f | wc -l").trim(),
        (count + 40).to_string()
    );
    assert_eq!(
        bash(&mount.path(), "ls -l big | grep -c ^-").trim(),
        count.to_string()
    );
    // A walk that removes what it has seen must not skip what it has not.
    bash(
        &mount.path(),
        "find big -name 'f*' -delete; test \"$(ls big | wc -l)\" = 40",
    );
    assert_eq!(store.bucket.keys("big/f"), [""; 0]);
}

fn a_directory_stays_when_it_becomes_empty(store: &Store) {
    store.bucket.put("implicit/only", "x");
    let mount = store.mount().start();
    bash(
        &mount.path(),
        "rm implicit/only; test -d implicit; test -z \"$(ls -A implicit)\"",
    );
    mount.unmount();
    assert_eq!(store.bucket.keys(""), ["implicit/"]);
    let mount = store.mount().start();
    bash(
        &mount.path(),
        "test -d implicit; rmdir implicit; test ! -e implicit",
    );
    mount.unmount();
    assert_eq!(store.bucket.keys(""), [""; 0]);
}

fn a_directory_is_removed_only_when_the_bucket_says_it_is_empty(store: &Store) {
    let mount = store.mount().start();
    fs::create_dir(mount.join("dir")).expect("made");
    assert_eq!(fs::read_dir(mount.join("dir")).expect("listed").count(), 0);
    // This mount does not know of it.
    store.bucket.put("dir/foreign", "x");
    assert_eq!(files::errno(fs::remove_dir(mount.join("dir"))), libc::ENOTEMPTY);
    store.bucket.delete("dir/foreign");
    fs::remove_dir(mount.join("dir")).expect("it is empty now");
    assert_eq!(files::errno(fs::remove_dir(mount.join("dir"))), libc::ENOENT);
    files::write(&mount.join("file"), b"x").expect("written");
    assert_eq!(files::errno(fs::remove_dir(mount.join("file"))), libc::ENOTDIR);
    assert_eq!(files::errno(fs::create_dir(mount.join("file"))), libc::EEXIST);
}

fn everything_can_be_removed(store: &Store) {
    store
        .bucket
        .put_all((0..120).map(|i| format!("tree/d{}/e{}/f{i}", i % 4, i % 3)), b"x");
    let mount = store.mount().start();
    bash(
        &mount.path(),
        "mkdir -p tree/made/empty; echo x > tree/made/file; rm -rf tree; test -z \"$(ls -A)\"",
    );
    mount.unmount();
    assert_eq!(store.bucket.keys(""), [""; 0]);
}
