//! Somebody else's versions, met by operations on a path while handles are bound to older ones.

use super::{bytes_of, open, world_with};
use crate::in_process::driver::Outcome;
use crate::in_process::{Mount, World};
use pailfs::base::read_bytes::ReadBytes;
use pailfs::embedded::{Fault, Operation, When};
use pailfs::fs::Caller;
use pailfs::fs::attr::Change;
use pailfs::fs::open::Opened;
use pailfs::tree::node::{Ino, ROOT};
use std::pin::pin;
use std::time::Duration;

/// Longer than anything is believed.
const LONG: Duration = Duration::from_secs(120);

/// A program that opens files one after the other.
const PROGRAM: Caller = Caller {
    uid: 1000,
    gid: 1000,
    thread: 77,
};

/// As the kernel does it, which looks a path up and then opens what that led to.
fn open_inode(mount: &Mount, ino: Ino, flags: i32) -> Outcome<Opened> {
    let opened = mount.run("open", mount.fs.open(PROGRAM, ino, flags));
    opened.map_err(|error| error.errno())
}

/// What `f` leads to.
fn look(mount: &Mount) -> Ino {
    let found = mount.run("lookup", mount.fs.lookup(ROOT, "f"));
    found.expect("found").expect("there").ino
}

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
        let opened = open_inode(&mount, node.ino, libc::O_RDONLY);
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
    let first = look(&mount);
    world.remote.put("f", b"two");
    let flags = libc::O_WRONLY | libc::O_APPEND;
    assert_eq!(
        open_inode(&mount, first, flags).map(drop),
        Err(libc::ESTALE),
        "the kernel is to look again"
    );
    let second = look(&mount);
    assert_ne!(first, second, "an open handle keeps its inode");
    world.remote.put("f", b"three");
    let opened = open_inode(&mount, second, flags).expect("no second time");
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

/// What copied from a file is committed when that file's version goes: nobody has asked for that commit, and what has the
/// copy open goes on with it.
#[test]
fn a_copy_that_its_source_has_committed_is_still_what_its_name_leads_to() {
    let (world, mount) = world_with("source", b"one");
    world.remote.put("copy", b"former");
    let driver = &mount.driver;
    let source = open(&mount, "source", libc::O_RDWR);
    let copy = open(&mount, "copy", libc::O_RDWR | libc::O_TRUNC);
    let copied = driver.copy_range((&source, 0), (&copy, 0), 3);
    assert_eq!(mount.run("copy", copied), Ok(3));
    mount
        .run("write", driver.write(&source, 0, b"X"))
        .expect("written");
    mount.run("fsync", driver.fsync(&source)).expect("synced");
    assert_eq!(bytes_of(&world, "copy").expect("committed"), b"one");
    // What was listed before has no effect any more.
    mount.sleep(LONG);
    mount.run("list", driver.list("", true)).expect("listed");
    mount
        .run("write", driver.write(&copy, 1, b"-mine"))
        .expect("written");
    assert_eq!(
        mount.run("read", driver.read_file("copy")).expect("read"),
        b"o-mine"
    );
    mount.run("close", driver.close(copy)).expect("closed");
    assert_eq!(bytes_of(&world, "copy").expect("there"), b"o-mine");
}

/// The store has the new version before its writer hears of that: whoever lists the directory then sees no stranger.
#[test]
fn a_commit_whose_answer_is_on_its_way_is_no_surprise() {
    let (world, mount) = world_with("f", b"one");
    let driver = &mount.driver;
    let file = open(&mount, "f", libc::O_RDWR);
    mount
        .run("write", driver.write(&file, 0, b"two"))
        .expect("written");
    // The answer is lost, and the look at what came of the request takes its time.
    let faults = world.store.faults();
    let lost = faults.inject(When::on(Operation::Put).key("f"), Fault::LoseReply);
    let slow = Fault::Delay(Duration::from_secs(10));
    faults.inject(When::on(Operation::Head).key("f"), slow);
    let looking = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(faults.struck(lost), 1, "the bucket has the new version");
        driver.list("", true).await
    };
    let (synced, listed) = mount.run("fsync", async { tokio::join!(driver.fsync(&file), looking) });
    synced.expect("synced");
    listed.expect("listed");
    mount
        .run("write", driver.write(&file, 0, b"mine"))
        .expect("written");
    assert_eq!(mount.run("read", driver.read_file("f")).expect("read"), b"mine");
    mount.run("close", driver.close(file)).expect("closed");
    assert_eq!(bytes_of(&world, "f").expect("there"), b"mine");
}

/// The kernel drops old pages when it hears of an open that says so. One that is answered meanwhile must not say that they are
/// right: its program would read the beginning of one version and the end of another.
#[test]
fn pages_are_kept_once_the_kernel_has_dropped_older_ones() {
    let (world, mount) = world_with("f", b"old");
    let keeps = |what: &str| {
        let ino = mount.run("stat", mount.driver.stat("f")).expect("there").ino;
        let opened = open_inode(&mount, ino, libc::O_RDONLY).expect(what);
        (opened.keep_cache, opened.handle)
    };
    let (keeps_any, first) = keeps("first");
    assert!(!keeps_any);
    assert!(!keeps("before the first was heard of").0);
    let mut out = ReadBytes::default();
    let read = mount.run("read", mount.fs.read(first, 0, 3, &mut out));
    read.expect("read");
    assert_eq!(out.as_slice(), b"old");
    assert!(keeps("after that").0);
    assert_eq!(mount.unmount(), Vec::<String>::new());
    drop(world);
}

/// An open that finds its file replaced, whose kernel looks again, and finds it replaced once more.
fn replaced_twice_within_an_open(replace: impl Fn(&World, &Mount, &[u8])) {
    let (world, mount) = world_with("f", b"one");
    let first = look(&mount);
    replace(&world, &mount, b"the second");
    assert_eq!(
        open_inode(&mount, first, libc::O_RDONLY).map(drop),
        Err(libc::ESTALE)
    );
    let second = look(&mount);
    replace(&world, &mount, b"the third, which is longer");
    let opened = open_inode(&mount, second, libc::O_RDONLY).expect("the kernel comes no third time");
    assert!(
        opened.direct_io && !opened.keep_cache,
        "the kernel's size and pages are not those of what was opened: {opened:?}"
    );
    let mut out = ReadBytes::default();
    let read = mount.run("read", mount.fs.read(opened.handle, 0, 100, &mut out));
    read.expect("read");
    assert_eq!(out.as_slice(), b"the third, which is longer");
    let attributes = mount.run("fstat", mount.fs.attributes(second)).expect("there");
    assert_eq!((attributes.ino, attributes.size_bytes), (second, 26));
    // What comes after that is not this handle's.
    replace(&world, &mount, b"the fourth");
    let mut out = ReadBytes::default();
    let read = mount.run("read", mount.fs.read(opened.handle, 0, 9, &mut out));
    read.expect("read");
    assert_eq!(out.as_slice(), b"the third");
    mount.run("release", mount.fs.release(opened.handle));
    let read = mount.run("read", mount.driver.read_file("f"));
    assert_eq!(read.expect("read"), b"the fourth");
    assert_eq!(mount.unmount(), Vec::<String>::new());
}

#[test]
fn an_open_succeeds_though_another_mount_replaces_the_file_twice_meanwhile() {
    replaced_twice_within_an_open(|world, _, bytes| world.remote.put("f", bytes));
}

#[test]
fn an_open_succeeds_though_its_name_is_renamed_over_twice_meanwhile() {
    replaced_twice_within_an_open(|_, mount, bytes| {
        let writing = mount.driver.write_file("new", libc::O_CREAT, bytes);
        mount.run("write", writing).expect("written");
        let renaming = mount.driver.rename("new", "f", false);
        mount.run("rename", renaming).expect("renamed");
    });
}

/// What a program does through such a handle, it does to the file that has the name.
#[test]
fn what_was_opened_in_place_of_a_replaced_file_is_the_file_that_has_its_name() {
    let (world, mount) = world_with("f", b"one");
    let first = look(&mount);
    world.remote.put("f", b"two");
    assert_eq!(
        open_inode(&mount, first, libc::O_RDWR).map(drop),
        Err(libc::ESTALE)
    );
    let second = look(&mount);
    let replacing = async {
        mount.driver.write_file("new", libc::O_CREAT, b"three").await?;
        mount.driver.rename("new", "f", false).await
    };
    mount.run("replace", replacing).expect("replaced");
    let opened = open_inode(&mount, second, libc::O_RDWR).expect("opened");
    let writing = mount.fs.write(opened.handle, 0, b"T");
    mount.run("write", writing).expect("written");
    let change = Change {
        size_bytes: Some(4),
        ..Change::default()
    };
    let cut = mount.fs.set_attributes(second, change, Some(opened.handle));
    let attributes = mount.run("ftruncate", cut).expect("cut");
    assert_eq!((attributes.ino, attributes.size_bytes), (second, 4));
    // All handles of a file share its content.
    let read = mount.run("read", mount.driver.read_file("f"));
    assert_eq!(read.expect("read"), b"Thre");
    mount
        .run("flush", mount.fs.flush(opened.handle))
        .expect("no conflict");
    mount.run("release", mount.fs.release(opened.handle));
    assert_eq!(bytes_of(&world, "f").expect("there"), b"Thre");
}

#[test]
fn an_open_of_what_was_removed_while_the_kernel_looked_again_finds_nothing() {
    let (world, mount) = world_with("f", b"one");
    let first = look(&mount);
    world.remote.put("f", b"two");
    assert_eq!(
        open_inode(&mount, first, libc::O_RDONLY).map(drop),
        Err(libc::ESTALE)
    );
    let second = look(&mount);
    mount.run("unlink", mount.driver.unlink("f")).expect("removed");
    assert_eq!(
        open_inode(&mount, second, libc::O_RDONLY).map(drop),
        Err(libc::ENOENT)
    );
}

/// The answer to a look says what was there when it was asked. What has been opened since is newer.
#[test]
fn a_look_that_is_answered_late_does_not_bring_an_older_version_back() {
    let (world, mount) = world_with("f", b"one");
    let driver = &mount.driver;
    mount.run("stat", driver.stat("f")).expect("known");
    let late = Fault::DelayReply(Duration::from_secs(5));
    world
        .store
        .faults()
        .inject(When::on(Operation::Head).key("f"), late);
    let mut truncating = pin!(driver.truncate("f", 2));
    let early = mount.run_for("truncate", Duration::from_secs(1), &mut truncating);
    assert_eq!(early, None, "its look has seen the first version");
    world.remote.put("f", b"TWO");
    assert_eq!(mount.run("read", driver.read_file("f")).expect("read"), b"TWO");
    mount.run("truncate", truncating).expect("truncated");
    assert_eq!(bytes_of(&world, "f").expect("there"), b"TW");
    let kept = pailfs::spool::conflicts::list(mount.state_dir()).expect("a list");
    assert!(
        kept.conflicts.is_empty(),
        "nobody else changed it meanwhile: {kept:?}"
    );
}

/// Two opens at the same time: the one that reads has the content first.
#[test]
fn an_open_with_o_trunc_empties_the_file_though_another_open_is_faster() {
    let (world, mount) = world_with("f", b"one");
    let driver = &mount.driver;
    // Its attributes are known, but not what else it carries.
    mount.run("stat", driver.stat("f")).expect("known");
    driver.forget_all();
    mount.run("list", driver.list("", false)).expect("listed");
    let slow = Fault::Delay(Duration::from_secs(5));
    let look = world
        .store
        .faults()
        .inject(When::on(Operation::Head).key("f"), slow);
    let flags = libc::O_WRONLY | libc::O_TRUNC;
    let opening = async { tokio::join!(driver.open("f", flags, 0), driver.open("f", libc::O_RDONLY, 0)) };
    let (writer, reader) = mount.run("open", opening);
    let (writer, reader) = (writer.expect("opened"), reader.expect("opened"));
    assert_eq!(world.store.faults().struck(look), 1, "the other one was faster");
    mount
        .run("write", driver.write(&writer, 0, b"X"))
        .expect("written");
    mount.run("close", driver.close(writer)).expect("closed");
    assert_eq!(bytes_of(&world, "f").expect("there"), b"X");
    mount.run("close", driver.close(reader)).expect("closed");
}
