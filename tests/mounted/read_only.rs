//! A read-only mount writes nothing: neither for its user, nor for itself.

use crate::support::command::{Tool, bash};
use crate::support::files::{self, errno};
use crate::support::mount::Place;
use crate::support::store::Store;
use pailfs::embedded::{Fault, Operation, When};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::PermissionsExt;

crate::on_each_store!(every_change_is_refused);
crate::on_the_embedded_store!(
    nothing_is_written_to_the_store,
    what_is_unsent_waits_for_a_mount_that_may_write,
    the_kernel_refuses_writing_after_a_remount,
);

fn every_change_is_refused(store: &Store) {
    store.bucket.put("dir/file", "content");
    for options in ["--read-only", "-o ro"] {
        let mount = store.mount().options(options).start();
        let path = |name: &str| mount.join(name);
        assert_eq!(
            bash(&mount.path(), "ls -lR; cat dir/file").lines().last(),
            Some("content")
        );
        assert_eq!(errno(files::write(&path("new"), b"x")), libc::EROFS);
        assert_eq!(
            errno(OpenOptions::new().append(true).open(path("dir/file"))),
            libc::EROFS
        );
        assert_eq!(errno(fs::create_dir(path("new"))), libc::EROFS);
        assert_eq!(errno(fs::remove_file(path("dir/file"))), libc::EROFS);
        assert_eq!(errno(fs::remove_dir(path("dir"))), libc::EROFS);
        assert_eq!(errno(fs::rename(path("dir/file"), path("moved"))), libc::EROFS);
        assert_eq!(errno(fs::rename(path("dir"), path("moved"))), libc::EROFS);
        assert_eq!(errno(std::os::unix::fs::symlink("x", path("link"))), libc::EROFS);
        let mode = fs::Permissions::from_mode(0o600);
        assert_eq!(errno(fs::set_permissions(path("dir/file"), mode)), libc::EROFS);
        mount.unmount();
    }
    assert_eq!(store.bucket.keys(""), ["dir/file"]);
}

fn the_kernel_refuses_writing_after_a_remount(store: &Store) {
    if !crate::support::is_root() {
        return;
    }
    let mount = store.mount().start();
    let remount = |as_what: &str| {
        let options = format!("remount,{as_what}");
        Tool::new("mount")
            .args(["-i", "-o", &options])
            .arg(mount.path())
            .run()
    };
    files::write(&mount.join("file"), b"before").expect("written");
    remount("ro");
    assert_eq!(errno(files::write(&mount.join("file"), b"x")), libc::EROFS);
    assert_eq!(errno(fs::remove_file(mount.join("file"))), libc::EROFS);
    assert_eq!(fs::read(mount.join("file")).expect("read"), b"before");
    remount("rw");
    files::write(&mount.join("file"), b"after").expect("written");
    assert_eq!(store.bucket.text("file"), "after");
    // The program itself says what can be done.
    let place = Place::new();
    let refused = store
        .mount()
        .at(&place)
        .options("-o rw,nosuid,nodev,relatime,user_id=0,group_id=0,remount,ro")
        .fail_to_start();
    refused.fails(2, "mount -i -o remount,ro");
}

fn nothing_is_written_to_the_store(store: &Store) {
    store
        .bucket
        .put_all((0..30).map(|i| format!("d{}/f{i}", i % 3)), b"x");
    let counts = store.server().counts().clone();
    counts.reset();
    let mount = store.mount().options("--read-only").start();
    bash(
        &mount.path(),
        "ls -lR > /dev/null; find . -type f | xargs cat > /dev/null; ! touch d0/f0 2> /dev/null; test ! -e nothing",
    );
    mount.unmount();
    let allowed = [
        Operation::Get,
        Operation::Head,
        Operation::List,
        Operation::HeadBucket,
        Operation::ListBuckets,
    ];
    let others: Vec<Operation> = counts
        .all()
        .into_keys()
        .filter(|operation| !allowed.contains(operation))
        .collect();
    assert_eq!(others, [], "{:?}", counts.all());
}

fn what_is_unsent_waits_for_a_mount_that_may_write(store: &Store) {
    let place = Place::new();
    let mut mount = store.mount().at(&place).expect_in_log("").start();
    store.server().faults().inject(
        When::on(Operation::Put).key("file").for_ever(),
        Fault::Answer("AccessDenied"),
    );
    files::write(&mount.join("file"), b"unsent").expect_err("refused");
    mount.kill();
    crate::support::wait_until("the dead mount is gone", || !mount.is_mounted());
    store.server().faults().clear();
    let reader = store
        .mount()
        .at(&place)
        .options("--read-only")
        .expect_in_log("")
        .start();
    assert_eq!(bash(&reader.path(), "ls"), "");
    reader.unmount();
    store.mount().at(&place).expect_in_log("").start().unmount();
    assert_eq!(store.bucket.text("file"), "unsent");
}
