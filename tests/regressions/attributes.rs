//! Changes of attributes that meet writes, failures and other hosts.

use super::large_copies::small_limits;
use super::{bytes_of, open, world_with};
use crate::in_process::{Mount, Options, World};
use pailfs::embedded::{Fault, Operation, Quirks, When};
use pailfs::fs::attr::Change;
use std::time::Duration;

fn mode_of(world: &World, key: &str) -> u32 {
    let stored = world.remote.get(key).expect("there");
    stored.attributes().mode.expect("a mode") & 0o7777
}

fn chmod(mount: &Mount, path: &str, mode: u32) {
    mount
        .run("chmod", mount.driver.chmod(path, mode))
        .expect("changed");
}

/// A file that is open, with a change of its mode on its way to the bucket.
fn change_under_way(world: &World, mount: &Mount, mode: u32) -> crate::in_process::driver::Descriptor {
    let file = open(mount, "f", libc::O_RDWR);
    chmod(mount, "f", mode);
    let slowly = Fault::Delay(Duration::from_secs(5));
    world.store.faults().inject(When::on(Operation::Copy), slowly);
    mount.sleep(Duration::from_secs(2));
    mount
        .run("write", mount.driver.write(&file, 0, b"two"))
        .expect("written");
    file
}

#[test]
fn a_change_of_a_written_file_outlives_a_former_one_that_is_on_its_way() {
    let (world, mount) = world_with("f", b"one");
    let file = change_under_way(&world, &mount, 0o600);
    chmod(&mount, "f", 0o640);
    mount.run("close", mount.driver.close(file)).expect("closed");
    assert_eq!(mode_of(&world, "f"), 0o640);
    assert_eq!(bytes_of(&world, "f").expect("there"), b"two");
}

#[test]
fn set_id_bits_that_a_write_drops_do_not_come_back_with_a_change_that_is_on_its_way() {
    let (world, mount) = world_with("f", b"one");
    let file = change_under_way(&world, &mount, 0o4755);
    mount.driver.drop_set_id(&file).expect("dropped");
    let stat = mount.run("stat", mount.driver.fstat(&file)).expect("attributes");
    assert_eq!(stat.mode & 0o7777, 0o755);
    mount.run("close", mount.driver.close(file)).expect("closed");
    assert_eq!(mount.unmount(), Vec::<String>::new());
    assert_eq!(mode_of(&world, "f"), 0o755);
}

#[test]
fn a_change_that_failed_for_good_is_told_by_the_next_fsync_and_once() {
    let (world, mount) = world_with("f", b"one");
    let file = open(&mount, "f", libc::O_RDWR);
    let refused = When::on(Operation::Copy).for_ever();
    world
        .store
        .faults()
        .inject(refused, Fault::Answer("AccessDenied"));
    chmod(&mount, "f", 0o600);
    mount.sleep(Duration::from_secs(3));
    world.store.faults().clear();
    let fsync = || mount.run("fsync", mount.driver.fsync(&file));
    assert_eq!(fsync(), Err(libc::EACCES));
    assert_eq!(fsync(), Ok(()));
    mount.run("close", mount.driver.close(file)).expect("closed");
}

#[test]
fn an_append_whose_reply_was_lost_is_found_under_a_change_by_another_host() {
    let (world, mount) = world_with("f", b"base ");
    let file = open(&mount, "f", libc::O_WRONLY | libc::O_APPEND);
    mount
        .run("append", mount.driver.write(&file, 5, b"ours"))
        .expect("appended");
    // It is stored, but no answer comes, nor to any look.
    let faults = world.store.faults();
    faults.inject(When::on(Operation::Put), Fault::LoseReply);
    faults.inject(
        When::on(Operation::Head).for_ever(),
        Fault::Answer("AccessDenied"),
    );
    mount
        .run("fsync", mount.driver.fsync(&file))
        .expect_err("nobody knows");
    faults.clear();
    let other = world.mount_elsewhere("other");
    chmod(&other, "f", 0o600);
    assert_eq!(other.unmount(), Vec::<String>::new());
    mount.run("close", mount.driver.close(file)).expect("closed");
    assert_eq!(bytes_of(&world, "f").expect("there"), b"base ours");
    assert_eq!(mode_of(&world, "f"), 0o600);
}

#[test]
fn what_is_made_in_a_directory_with_set_group_id_gets_its_group() {
    let (_world, mount) = world_with("other", b"");
    let driver = &mount.driver;
    mount.run("mkdir", driver.mkdir("d", 0o755)).expect("made");
    mount.run("chgrp", driver.chown("d", 7, 70)).expect("changed");
    chmod(&mount, "d", 0o2755);
    mount.run("mkdir", driver.mkdir("d/below", 0o755)).expect("made");
    mount
        .run("symlink", driver.symlink("d/link", "nowhere"))
        .expect("made");
    let written = driver.write_file("d/below/file", libc::O_CREAT, b"x");
    mount.run("write", written).expect("written");
    for (path, mode) in [("d/below", 0o2755), ("d/link", 0o777), ("d/below/file", 0o644)] {
        let stat = mount.run("stat", driver.stat(path)).expect("there");
        assert_eq!((stat.gid, stat.mode & 0o7777), (70, mode), "{path}");
    }
    assert_eq!(mount.unmount(), Vec::<String>::new());
}

/// A change waits to be made while another host puts a newer object: that is never overwritten, and is what is changed then.
#[test]
fn a_change_of_attributes_never_overwrites_a_newer_object() {
    let (world, mount) = world_with("f", b"old");
    mount.run("look", mount.driver.stat("f")).expect("there");
    chmod(&mount, "f", 0o600);
    let slowly = Fault::Delay(Duration::from_secs(5));
    world.store.faults().inject(When::on(Operation::Copy), slowly);
    mount.sleep(Duration::from_secs(3));
    world.remote.put("f", b"newer");
    mount.sleep(Duration::from_secs(30));
    assert_eq!(bytes_of(&world, "f").expect("there"), b"newer");
    assert_eq!(mode_of(&world, "f"), 0o600);
}

/// Handles stay with their version: a change through one that is not the newest any more fails, and is told.
#[test]
fn a_change_of_an_open_file_never_overwrites_a_newer_object() {
    let (world, mount) = world_with("f", b"old");
    let file = open(&mount, "f", libc::O_RDWR);
    chmod(&mount, "f", 0o600);
    world.remote.put("f", b"newer");
    assert_eq!(mount.run("fsync", mount.driver.fsync(&file)), Err(libc::ESTALE));
    assert_eq!(bytes_of(&world, "f").expect("there"), b"newer");
    mount.run("close", mount.driver.close(file)).expect("closed");
}

#[test]
fn objects_too_large_for_one_copy_are_changed_in_parts_and_conditionally() {
    let world = small_limits();
    let large: Vec<u8> = (0..20u32 << 18).flat_map(u32::to_le_bytes).collect();
    world.remote.put("f", &large);
    let mount = world.mount();
    chmod(&mount, "f", 0o604);
    mount.sleep(Duration::from_secs(5));
    assert_eq!(mode_of(&world, "f"), 0o604);
    assert!(bytes_of(&world, "f").expect("there") == large);

    chmod(&mount, "f", 0o600);
    let slowly = Fault::Delay(Duration::from_secs(5));
    world.store.faults().inject(When::on(Operation::Complete), slowly);
    mount.sleep(Duration::from_secs(3));
    world.remote.put("f", b"newer");
    mount.sleep(Duration::from_secs(30));
    assert_eq!(bytes_of(&world, "f").expect("there"), b"newer");
    assert_eq!(mode_of(&world, "f"), 0o600);
}

/// The change was made of what had the name then; the newer object has it now, whoever found that out first.
#[test]
fn a_change_that_waits_is_made_of_what_took_the_name_meanwhile() {
    let (world, mount) = world_with("f", b"old");
    mount.run("look", mount.driver.stat("f")).expect("there");
    chmod(&mount, "f", 0o600);
    world.remote.put("f", b"newer");
    let read = mount.run("read", mount.driver.read_file("f"));
    assert_eq!(read.expect("read"), b"newer");
    mount.sleep(Duration::from_secs(30));
    assert_eq!(mode_of(&world, "f"), 0o600);
    assert_eq!(bytes_of(&world, "f").expect("there"), b"newer");
    let stat = mount.run("stat", mount.driver.stat("f")).expect("there");
    assert_eq!(stat.mode & 0o7777, 0o600);
}

/// As above, where nobody has looked at the newer object when the mount ends.
#[test]
fn a_change_that_waits_is_made_at_the_end_of_what_took_the_name() {
    let (world, mount) = world_with("f", b"old");
    chmod(&mount, "f", 0o600);
    world.remote.put("f", b"newer");
    let read = mount.run("read", mount.driver.read_file("f"));
    assert_eq!(read.expect("read"), b"newer");
    chmod(&mount, "f", 0o640);
    assert_eq!(mount.unmount(), Vec::<String>::new());
    assert_eq!(mode_of(&world, "f"), 0o640);
    assert_eq!(bytes_of(&world, "f").expect("there"), b"newer");
}

/// Copies have other ETags where objects are encrypted with keys of their own: the inodes go along.
#[test]
fn a_mode_that_is_set_after_a_directory_rename_survives_a_write() {
    let world = World::new(Options::default());
    world.store.set_quirks(Quirks {
        opaque_etags: true,
        ..Quirks::default()
    });
    let mount = world.mount();
    let driver = &mount.driver;
    mount.run("mkdir", driver.mkdir("x", 0o755)).expect("made");
    let written = driver.write_file("x/f", libc::O_CREAT, b"a");
    mount.run("write", written).expect("written");
    let before = mount.run("stat", driver.stat("x/f")).expect("there");
    mount
        .run("rename", driver.rename("x", "y", false))
        .expect("renamed");
    // The kernel, which has names cached, does not look the new one up.
    let change = Change {
        mode: Some(0o640),
        ..Change::default()
    };
    let changed = mount.run("chmod", mount.fs.set_attributes(before.ino, change, None));
    changed.expect("changed");
    let appended = driver.write_file("y/f", libc::O_APPEND, b"b");
    mount.run("append", appended).expect("appended");
    let after = mount.run("stat", driver.stat("y/f")).expect("there");
    assert_eq!((after.ino, after.mode & 0o7777), (before.ino, 0o640));
    assert_eq!(mount.unmount(), Vec::<String>::new());
    assert_eq!(mode_of(&world, "y/f"), 0o640);
    assert_eq!(bytes_of(&world, "y/f").expect("there").len(), 2);
}

#[test]
fn a_directory_that_this_mount_made_is_as_its_marker_says_now() {
    let (world, mount) = world_with("other", b"");
    mount.run("mkdir", mount.driver.mkdir("d", 0o700)).expect("made");
    let mode = || mount.run("stat", mount.driver.stat("d")).expect("there").mode & 0o7777;
    assert_eq!(mode(), 0o700);
    // Another host's, which carries nothing.
    world.remote.put("d/", b"");
    mount.sleep(Duration::from_secs(11));
    assert_eq!(mode(), 0o755);
}
