//! Somebody else's versions, met by operations on a path while handles are bound to older ones.

use super::{bytes_of, open, world_with};
use crate::in_process::Mount;
use crate::in_process::driver::Outcome;
use pailfs::tree::node::ROOT;

/// `operation` on a path whose object was replaced, while a handle has the former version.
fn newer_version_survives(from: &str, to: &str, operation: impl AsyncFn(&Mount) -> Outcome<()>) {
    let (world, mount) = world_with(from, b"one");
    let driver = &mount.driver;
    let file = open(&mount, from, libc::O_RDWR);
    assert_eq!(mount.run("read", driver.read(&file, 0, 3)).expect("read"), b"one");
    // What is believed for a while: lookups do not ask.
    mount.run("list", driver.list("", true)).expect("listed");
    world.remote.put(from, b"two");
    mount
        .run("the operation", operation(&mount))
        .expect("acts on what is there");
    assert_eq!(mount.run("read", driver.read(&file, 0, 3)).expect("read"), b"one");
    mount.run("write", driver.write(&file, 0, b"X")).expect("written");
    assert_eq!(mount.run("close", driver.close(file)), Err(libc::ESTALE));
    assert_eq!(bytes_of(&world, to).expect("theirs"), b"two");
    assert_eq!(mount.run("read", driver.read_file(to)).expect("read"), b"two");
}

#[test]
fn a_rename_does_not_give_a_newer_version_to_an_older_handle() {
    newer_version_survives("f", "g", async |mount| mount.driver.rename("f", "g", false).await);
}

#[test]
fn a_chmod_does_not_give_a_newer_version_to_an_older_handle() {
    newer_version_survives("f", "f", async |mount| mount.driver.chmod("f", 0o600).await);
}

#[test]
fn a_renamed_directory_does_not_give_a_newer_version_to_an_older_handle() {
    newer_version_survives("d/f", "e/f", async |mount| {
        mount.driver.rename("d", "e", false).await
    });
}

/// `operation` on a path whose object was replaced, while the kernel has pages of the former version.
fn old_pages_are_dropped(to: &str, operation: impl AsyncFn(&Mount) -> Outcome<()>) {
    let (world, mount) = world_with("f", b"one");
    let driver = &mount.driver;
    // The inode must live: the kernel has it.
    let node = mount
        .run("lookup", mount.fs.lookup(ROOT, "f"))
        .expect("found")
        .expect("there");
    assert_eq!(mount.run("read", driver.read_file("f")).expect("read"), b"one");
    mount.run("list", driver.list("", true)).expect("listed");
    world.remote.put("f", b"two");
    mount
        .run("the operation", operation(&mount))
        .expect("acts on what is there");
    let found = mount
        .run("lookup", mount.fs.lookup(ROOT, to))
        .expect("found")
        .expect("there");
    if found.ino == node.ino {
        let opened = mount.run("open", mount.fs.open(node.ino, libc::O_RDONLY));
        let keeps = opened.is_ok_and(|opened| opened.keep_cache && !opened.direct_io);
        assert!(
            !keeps,
            "the kernel was told that its pages of the old version are right"
        );
    }
}

#[test]
fn a_rename_of_a_newer_version_drops_the_pages_of_the_older() {
    old_pages_are_dropped("g", async |mount| mount.driver.rename("f", "g", false).await);
}

#[test]
fn a_chmod_of_a_newer_version_drops_the_pages_of_the_older() {
    old_pages_are_dropped("f", async |mount| mount.driver.chmod("f", 0o600).await);
}

#[test]
fn a_truncation_by_path_acts_on_what_is_there_though_a_handle_has_an_older_version() {
    let (world, mount) = world_with("f", b"one");
    let driver = &mount.driver;
    let file = open(&mount, "f", libc::O_RDONLY);
    world.remote.put("f", b"two and more");
    mount.run("truncate", driver.truncate("f", 5)).expect("truncated");
    assert_eq!(bytes_of(&world, "f").expect("there"), b"two a");
    assert_eq!(
        mount.run("read", driver.read(&file, 0, 10)).expect("read"),
        b"one"
    );
}

#[test]
fn an_open_with_o_trunc_replaces_what_is_there_though_a_handle_has_an_older_version() {
    let (world, mount) = world_with("f", b"one");
    let driver = &mount.driver;
    let reader = open(&mount, "f", libc::O_RDONLY);
    mount.run("list", driver.list("", true)).expect("listed");
    world.remote.put("f", b"two");
    mount
        .run("write", driver.write_file("f", libc::O_TRUNC, b"three"))
        .expect("written");
    assert_eq!(bytes_of(&world, "f").expect("there"), b"three");
    assert_eq!(
        mount.run("read", driver.read(&reader, 0, 10)).expect("read"),
        b"one"
    );
}

/// The kernel comes back once when it is told to look again, and then to another inode where the first one is in use.
#[test]
fn an_open_that_was_sent_back_once_succeeds_though_the_object_is_replaced_again() {
    let (world, mount) = world_with("f", b"one");
    let held = open(&mount, "f", libc::O_RDWR);
    let look = || {
        let found = mount.run("lookup", mount.fs.lookup(ROOT, "f"));
        found.expect("found").expect("there").ino
    };
    let first = look();
    world.remote.put("f", b"two");
    let flags = libc::O_WRONLY | libc::O_APPEND;
    let sent_back = mount.run("open", mount.fs.open(first, flags)).map(|_| ());
    assert_eq!(
        sent_back.map_err(|error| error.errno()),
        Err(libc::ESTALE),
        "the kernel is to look again"
    );
    let second = look();
    assert_ne!(first, second, "an open handle keeps its inode");
    world.remote.put("f", b"three");
    let opened = mount
        .run("open", mount.fs.open(second, flags))
        .expect("no second time");
    mount
        .run("write", mount.fs.write(opened.handle, 0, b"!"))
        .expect("written");
    mount
        .run("fsync", mount.fs.fsync(opened.handle))
        .expect("in the bucket");
    assert_eq!(bytes_of(&world, "f").expect("there"), b"three!");
    let old = mount.run("read", mount.driver.read(&held, 0, 9));
    assert_eq!(old.expect("read"), b"one");
}
