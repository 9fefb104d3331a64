//! A mount without a source: every bucket is a directory.

use crate::support::command::bash;
use crate::support::files::errno;
use crate::support::store::Store;
use crate::support::wait_until;
use pailfs::embedded::{Fault, Operation, When};
use std::fs;

crate::on_the_embedded_store!(
    buckets_are_directories,
    buckets_are_made_and_deleted_only_when_allowed,
    a_bucket_that_may_not_be_listed_is_reached_by_name,
    a_bucket_of_another_region_is_used_in_its_own
);

fn buckets_are_directories(store: &Store) {
    let second = store.another_bucket("second");
    store.bucket.put("dir/file", "first");
    let mount = store.mount_all_buckets().options("--metadata-ttl 1s").start();
    assert_eq!(bash(&mount.path(), "ls"), "second\ntest\n");
    bash(
        &mount.path(),
        r#"
        test "$(cat test/dir/file)" = first
        cp -r test/dir second/
        mv second/dir/file test/moved
        echo x > second/own
        test ! -e missing
        "#,
    );
    assert_eq!(store.bucket.text("moved"), "first");
    assert_eq!(second.text("own"), "x\n");
    assert_eq!(
        errno(fs::write(mount.join("file-beside-buckets"), "x")),
        libc::EPERM
    );
    assert_eq!(errno(fs::create_dir(mount.join("new-bucket"))), libc::EPERM);
    assert_eq!(errno(fs::remove_dir(mount.join("second"))), libc::EPERM);
    store.another_bucket("third");
    wait_until("a new bucket is seen", || {
        bash(&mount.path(), "ls").contains("third")
    });
}

fn buckets_are_made_and_deleted_only_when_allowed(store: &Store) {
    let mount = store
        .mount_all_buckets()
        .options("--allow-bucket-changes")
        .start();
    bash(&mount.path(), "mkdir new-bucket; echo x > new-bucket/file; ls");
    assert_eq!(errno(fs::remove_dir(mount.join("new-bucket"))), libc::ENOTEMPTY);
    bash(
        &mount.path(),
        "rm new-bucket/file; rmdir new-bucket; test \"$(ls)\" = test",
    );
    mount.unmount();
}

fn a_bucket_that_may_not_be_listed_is_reached_by_name(store: &Store) {
    store.bucket.put("file", "in the bucket");
    store.bucket.put("some/dir/file", "deep");
    let faults = store.server().store().faults();
    let denied = Fault::Answer("AccessDenied");
    for operation in [Operation::ListBuckets, Operation::List] {
        faults.inject(When::on(operation).for_ever(), denied.clone());
    }
    // Who may not list is answered 403 for what is not there.
    let missing = When::on(Operation::Head).key_where(|key| !["file", "some/dir/file"].contains(&key));
    faults.inject(missing.for_ever(), denied);
    let mount = store.mount_all_buckets().expect_in_log("").start();
    bash(
        &mount.path(),
        r#"
        test "$(cat test/file)" = "in the bucket"
        test "$(cat test/some/dir/file)" = deep
        test "$(stat -c %s test/some/dir/file)" = 4
        test ! -e no-such-bucket
        ! cat test/missing
        ! ls test
        ! ls
        "#,
    );
    assert_eq!(
        errno(fs::read_dir(mount.join("test")).and_then(|mut entries| entries.next().transpose())),
        libc::EACCES
    );
}

fn a_bucket_of_another_region_is_used_in_its_own(store: &Store) {
    let second = store.another_bucket("second");
    second.put("dir/file", "from afar");
    store.server().store().set_bucket_region("second", "eu-north-1");
    let mount = store.mount_all_buckets().start();
    bash(
        &mount.path(),
        r#"
        test "$(cat second/dir/file)" = "from afar"
        test "$(ls second/dir)" = file
        echo new > second/dir/new
        mkdir second/made
        mv second/dir/file second/made/
        cp second/made/file test/copy
        mv second/dir/new test/
        rm -r second/made
        "#,
    );
    mount.unmount();
    assert_eq!(store.bucket.text("copy"), "from afar");
    assert_eq!(store.bucket.text("new"), "new\n");
}
