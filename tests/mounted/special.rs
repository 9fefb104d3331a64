//! Fifos, sockets and device nodes: the kernel serves them, the bucket keeps what they are.

use crate::support::command::{Tool, bash};
use crate::support::files;
use crate::support::is_root;
use crate::support::store::Store;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;

crate::on_each_store!(special_files_survive_a_remount, devices_keep_their_numbers);
crate::on_the_embedded_store!(
    types_are_told_without_metadata_of_regular_files,
    a_link_is_read_once,
    a_link_that_looks_like_a_file_is_a_link,
);

fn special_files_survive_a_remount(store: &Store) {
    let mount = store.mount().start();
    let through = mount.place.work().join("through");
    let script = format!(
        "mkfifo -m 640 pipe; ln -s pipe link; (cat pipe > {} &) ; echo hello > pipe; mv pipe other; mkdir d; mv other d/pipe",
        through.display()
    );
    bash(&mount.path(), &script);
    drop(UnixListener::bind(mount.join("socket")).expect("bound"));
    crate::support::wait_until("the fifo carried its data", || {
        fs::read_to_string(&through).is_ok_and(|text| text == "hello\n")
    });
    assert_eq!(
        files::errno(fs::hard_link(mount.join("socket"), mount.join("hard"))),
        libc::EPERM
    );
    bash(&mount.path(), "chmod 600 d/pipe");
    mount.unmount();

    let again = store.mount().start();
    let pipe = fs::symlink_metadata(again.join("d/pipe")).expect("there");
    assert!(pipe.file_type().is_fifo());
    assert_eq!(pipe.mode() & 0o7777, 0o600);
    assert!(
        fs::symlink_metadata(again.join("socket"))
            .expect("there")
            .file_type()
            .is_socket()
    );
    assert_eq!(
        bash(&again.path(), "find . -type p; find . -type s; find . -type l"),
        "./d/pipe\n./socket\n./link\n"
    );
    bash(&again.path(), "rm d/pipe socket link; test -z \"$(ls -A d)\"");
}

fn devices_keep_their_numbers(store: &Store) {
    if !is_root() {
        return;
    }
    let mount = store.mount().options("-o dev").start();
    bash(
        &mount.path(),
        "mknod null c 1 3; mknod -m 600 disk b 259 70000; echo gone > null; test -z \"$(cat null)\"",
    );
    mount.unmount();
    let again = store.mount().start();
    let disk = fs::symlink_metadata(again.join("disk")).expect("there");
    assert!(disk.file_type().is_block_device());
    assert_eq!(disk.rdev(), libc::makedev(259, 70_000));
    let null = fs::symlink_metadata(again.join("null")).expect("there");
    assert_eq!(
        (null.file_type().is_char_device(), null.rdev()),
        (true, libc::makedev(1, 3))
    );
    // Without `-o dev` nobody makes a device appear by putting an object.
    let opened = Tool::new("cat").arg(again.join("null")).output();
    assert!(!opened.status.success(), "{opened:?}");
}

fn types_are_told_without_metadata_of_regular_files(store: &Store) {
    let mount = store.mount().start();
    bash(
        &mount.path(),
        "for i in $(seq 40); do echo $i > f$i; done; ln -s f1 l1; ln -s nowhere l2; mkfifo p",
    );
    mount.unmount();
    let again = store.mount().start();
    let counts = store.server().counts().clone();
    counts.reset();
    assert_eq!(bash(&again.path(), "find . -type l | sort"), "./l1\n./l2\n");
    let heads = counts.of(pailfs::embedded::Operation::Head);
    // The three special ones; and the directory itself.
    assert!(heads <= 4, "{:?}", counts.all());
}

fn a_link_is_read_once(store: &Store) {
    let mount = store.mount().start();
    bash(
        &mount.path(),
        "echo x > f; ln -s f link; readlink link | grep -qx f",
    );
    let gets = || store.server().counts().of(pailfs::embedded::Operation::Get);
    assert_eq!(gets(), 0, "the mount made it");
    mount.unmount();
    let again = store.mount().start();
    bash(
        &again.path(),
        "for i in 1 2 3; do readlink link; ls -l; done | grep -c 'f$' | grep -qx 9",
    );
    assert_eq!(gets(), 1, "{:?}", store.server().counts().all());
}

/// As a tool leaves them that copies objects with their metadata and in its own way: nothing in a listing tells.
fn a_link_that_looks_like_a_file_is_a_link(store: &Store) {
    store.bucket.put("file", b"content");
    for name in ["one", "two", "three"] {
        store
            .bucket
            .put_marked(name, b"file", &[("file-permissions", "0120777")]);
    }
    let mount = store.mount().start();
    bash(&mount.path(), "ls > /dev/null");
    assert_eq!(bash(&mount.path(), "cat one"), "content");
    assert_eq!(bash(&mount.path(), "readlink two"), "file\n");
    assert_eq!(
        bash(&mount.path(), "stat -c %F three; cat three"),
        "symbolic link\ncontent"
    );
}
