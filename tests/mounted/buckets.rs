//! A mount without a source: every bucket is a directory.

use crate::support::command::bash;
use crate::support::files::errno;
use crate::support::store::Store;
use crate::support::wait_until;
use std::fs;

crate::on_the_embedded_store!(
    buckets_are_directories,
    buckets_are_made_and_deleted_only_when_allowed
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
