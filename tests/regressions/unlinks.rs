//! What an unlink may take with it, and what not.

use super::{bytes_of, open, world_with};
use crate::in_process::driver::Descriptor;
use crate::in_process::{Mount, Options, World};
use pailfs::base::attributes::TRANSACTION;
use pailfs::embedded::{Fault, Operation, When};
use std::time::Duration;

#[test]
fn a_deferred_delete_spares_an_equal_object_that_another_host_wrote() {
    let world = World::new(Options::default());
    let mount = world.mount();
    let driver = &mount.driver;
    mount
        .run("write", driver.write_file("f", libc::O_CREAT, b"same"))
        .expect("written");
    let reader = open(&mount, "f", libc::O_RDONLY);
    mount.run("unlink", driver.unlink("f")).expect("unlinked");
    world.remote.put("f", b"same");
    mount.run("close", driver.close(reader)).expect("closed");
    assert_eq!(bytes_of(&world, "f").expect("somebody else's"), b"same");
    mount.crash();
    world.mount().crash();
    assert_eq!(bytes_of(&world, "f").expect("somebody else's"), b"same");
}

#[test]
fn an_unlink_takes_a_newer_version_that_no_handle_has_at_once() {
    let (world, mount) = world_with("f", b"old");
    let driver = &mount.driver;
    let reader = open(&mount, "f", libc::O_RDONLY);
    world.remote.put("f", b"newer");
    mount.run("unlink", driver.unlink("f")).expect("unlinked");
    assert_eq!(bytes_of(&world, "f"), None);
    assert_eq!(
        mount.run("read", driver.read(&reader, 0, 10)).expect("read"),
        b"old"
    );
    mount.run("close", driver.close(reader)).expect("closed");
}

/// A mount with a new file whose PUT was carried out, which nobody could tell; what that PUT made is returned.
fn put_of_unknown_outcome() -> (World, Mount) {
    let world = World::new(Options {
        stall_timeout: Duration::from_secs(6),
        ..Options::default()
    });
    let mount = world.mount();
    let file = open(&mount, "f", libc::O_WRONLY | libc::O_CREAT);
    mount
        .run("write", mount.driver.write(&file, 0, b"new"))
        .expect("written");
    let faults = world.store.faults();
    faults.inject(When::on(Operation::Put), Fault::LoseReply);
    faults.inject(
        When::on(Operation::Head).for_ever(),
        Fault::Answer("AccessDenied"),
    );
    assert!(
        mount.run("close", mount.driver.close(file)).is_err(),
        "nobody can tell"
    );
    (world, mount)
}

#[test]
fn an_unlinked_new_file_that_was_put_after_all_is_removed() {
    let (world, mount) = put_of_unknown_outcome();
    assert_eq!(world.remote.keys(), ["f"]);
    mount.run("unlink", mount.driver.unlink("f")).expect("unlinked");
    world.store.faults().clear();
    mount.sleep(Duration::from_secs(2));
    assert_eq!(world.remote.keys(), Vec::<String>::new());
}

#[test]
fn an_unlinked_new_file_that_appears_later_is_removed_also_by_the_next_mount() {
    for remounts in [false, true] {
        let (world, mount) = put_of_unknown_outcome();
        world.store.faults().clear();
        let late = world.remote.get("f").expect("put");
        assert!(late.info.headers.metadata.contains_key(TRANSACTION));
        world.remote.delete("f");
        let refused = When::on(Operation::Put).for_ever();
        world
            .store
            .faults()
            .inject(refused, Fault::Answer("AccessDenied"));
        mount.run("unlink", mount.driver.unlink("f")).expect("unlinked");
        let mount = if remounts {
            mount.crash();
            world.mount()
        } else {
            mount
        };
        world.store.faults().clear();
        world.remote.put_with("f", &late.bytes, late.info.headers);
        mount.sleep(Duration::from_secs(30));
        assert_eq!(world.remote.keys(), Vec::<String>::new(), "remounted: {remounts}");
        // Somebody else's is not touched.
        world.remote.put("f", &late.bytes);
        mount.sleep(Duration::from_secs(3_000));
        assert_eq!(world.remote.keys(), ["f"]);
    }
}

#[test]
fn a_directory_known_by_an_old_tools_marker_can_be_removed_and_renamed() {
    let (world, mount) = world_with("x_$folder$", b"");
    world.remote.put("y_$folder$", b"");
    world.remote.put("y/file", b"bytes");
    let driver = &mount.driver;
    let listed = mount.run("list", driver.list("", false)).expect("listed");
    assert_eq!(listed.keys().collect::<Vec<_>>(), ["x", "y"]);
    mount.run("rmdir", driver.rmdir("x")).expect("removed");
    mount
        .run("rename", driver.rename("y", "z", false))
        .expect("renamed");
    assert_eq!(world.remote.keys(), ["z/file"]);
    mount.sleep(Duration::from_secs(60));
    let listed = mount.run("list", driver.list("", false)).expect("listed");
    assert_eq!(listed.keys().collect::<Vec<_>>(), ["z"]);
}

#[test]
fn the_name_of_an_unlinked_file_that_is_open_can_be_renamed_to_without_replacing() {
    let (world, mount) = world_with("f", b"old");
    world.remote.put("g", b"new");
    let driver = &mount.driver;
    let reading = open(&mount, "f", libc::O_RDONLY);
    mount.run("unlink", driver.unlink("f")).expect("unlinked");
    mount
        .run("rename", driver.rename("g", "f", true))
        .expect("nobody sees what was there");
    assert_eq!(bytes_of(&world, "f").expect("there"), b"new");
    assert_eq!(
        mount.run("read", driver.read(&reading, 0, 10)).expect("read"),
        b"old"
    );
    mount.run("close", driver.close(reading)).expect("closed");
    assert_eq!(bytes_of(&world, "f").expect("still there"), b"new");
}

/// A mount that keeps nothing for handles, with `f` unlinked while it is open, unread.
fn unlinked_beyond_the_limit() -> (World, Mount, Descriptor) {
    let world = World::new(Options {
        keep_open_limit_bytes: 1 << 20,
        ..Options::default()
    });
    world.remote.put("f", &vec![b'o'; 2 << 20]);
    let mount = world.mount();
    let reading = open(&mount, "f", libc::O_RDONLY);
    mount.run("unlink", mount.driver.unlink("f")).expect("unlinked");
    (world, mount, reading)
}

#[test]
fn what_takes_the_name_of_an_unlinked_file_does_not_wait_for_what_is_too_large_to_keep() {
    for way in ["write", "rename", "symlink", "rename a directory"] {
        let (world, mount, reading) = unlinked_beyond_the_limit();
        let driver = &mount.driver;
        // It is still there, behind its handle.
        assert_eq!(
            mount.run("read", driver.read(&reading, 0, 3)).expect("read"),
            b"ooo"
        );
        match way {
            "write" => mount
                .run("write", driver.write_file("f", libc::O_CREAT, b"new"))
                .expect("written"),
            "rename" => {
                world.remote.put("g", b"new");
                mount
                    .run("rename", driver.rename("g", "f", false))
                    .expect("renamed");
            }
            "symlink" => mount.run("link", driver.symlink("f", "new")).expect("made"),
            _ => {
                // Before anything is believed about the root.
                world.remote.put("e/f", &vec![b'o'; 2 << 20]);
                world.remote.put("g", b"new");
                mount.run("mkdir", driver.mkdir("d", 0o755)).expect("made");
                mount
                    .run("rename", driver.rename("g", "d/f", false))
                    .expect("renamed");
                let inside = open(&mount, "e/f", libc::O_RDONLY);
                mount.run("unlink", driver.unlink("e/f")).expect("unlinked");
                mount
                    .run("rename", driver.rename("d", "e", false))
                    .expect("renamed");
                assert!(bytes_of(&world, "e/f").expect("renamed") == b"new");
                let read = mount.run("read", driver.read(&inside, 2_000_000, 3));
                assert_eq!(read, Err(libc::ESTALE), "{way}");
                mount.run("close", driver.close(inside)).expect("closed");
                assert!(bytes_of(&world, "e/f").expect("still there") == b"new");
                continue;
            }
        }
        assert!(bytes_of(&world, "f").expect("there") == b"new", "{way}");
        let read = mount.run("read", driver.read(&reading, 2_000_000, 3));
        assert_eq!(read, Err(libc::ESTALE), "{way}");
        mount.run("close", driver.close(reading)).expect("closed");
        assert!(bytes_of(&world, "f").expect("still there") == b"new", "{way}");
    }
}

#[test]
fn what_takes_the_name_of_an_open_file_does_not_wait_for_what_is_too_large_or_gone() {
    for somebody_else_was_faster in [false, true] {
        let world = World::new(Options {
            keep_open_limit_bytes: if somebody_else_was_faster {
                1 << 30
            } else {
                1 << 20
            },
            ..Options::default()
        });
        world.remote.put("f", &vec![b'o'; 2 << 20]);
        let mount = world.mount();
        let driver = &mount.driver;
        let reading = open(&mount, "f", libc::O_RDONLY);
        mount
            .run("write", driver.write_file("g", libc::O_CREAT, b"new"))
            .expect("written");
        if somebody_else_was_faster {
            world.remote.put("f", b"theirs");
        }
        mount
            .run("rename", driver.rename("g", "f", false))
            .expect("renamed");
        assert!(bytes_of(&world, "f").expect("there") == b"new");
        let read = mount.run("read", driver.read(&reading, 2_000_000, 3));
        assert_eq!(read, Err(libc::ESTALE));
        mount.run("close", driver.close(reading)).expect("closed");
        assert!(bytes_of(&world, "f").expect("still there") == b"new");
    }
}

#[test]
fn a_new_file_is_stored_where_somebody_else_replaced_the_unlinked_one_that_handles_read() {
    let (world, mount) = world_with("f", &vec![b'o'; 2 << 20]);
    let driver = &mount.driver;
    let reading = open(&mount, "f", libc::O_RDONLY);
    mount.run("unlink", driver.unlink("f")).expect("unlinked");
    world.remote.delete("f");
    mount
        .run("write", driver.write_file("f", libc::O_CREAT, b"new"))
        .expect("written");
    assert!(bytes_of(&world, "f").expect("there") == b"new");
    mount.run("close", driver.close(reading)).expect("closed");
    assert!(bytes_of(&world, "f").expect("still there") == b"new");
}

#[test]
fn a_file_takes_the_name_of_a_removed_directory_in_which_an_unlinked_file_is_open() {
    let world = World::new(Options::default());
    world.remote.put("d/f", b"old");
    world.remote.put("keep", b"");
    let mount = world.mount();
    let driver = &mount.driver;
    let reading = open(&mount, "d/f", libc::O_RDONLY);
    mount.run("unlink", driver.unlink("d/f")).expect("unlinked");
    mount.run("rmdir", driver.rmdir("d")).expect("removed");
    mount
        .run("write", driver.write_file("d", libc::O_CREAT, b"new"))
        .expect("written");
    for pause in [0, 60] {
        mount.sleep(Duration::from_secs(pause));
        let listed = mount.run("list", driver.list("", false)).expect("listed");
        assert_eq!(
            listed.keys().collect::<Vec<_>>(),
            ["d", "keep"],
            "after {pause} s"
        );
        assert!(mount.run("read", driver.read_file("d")).expect("read") == b"new");
    }
    assert!(mount.run("read", driver.read(&reading, 0, 10)).expect("read") == b"old");
    mount.run("close", driver.close(reading)).expect("closed");
    assert_eq!(world.remote.keys(), ["d", "keep"]);
}

/// The unlinked object goes with its last handle, and with it what the new file was to replace.
#[test]
fn a_new_file_has_the_name_that_an_unlinked_one_left_meanwhile() {
    let (world, mount) = world_with("f", b"old");
    let driver = &mount.driver;
    let old = open(&mount, "f", libc::O_RDONLY);
    mount.run("unlink", driver.unlink("f")).expect("unlinked");
    let new = open(&mount, "g", libc::O_RDWR | libc::O_CREAT);
    mount
        .run("write", driver.write(&new, 0, b"new"))
        .expect("written");
    mount
        .run("rename", driver.rename("g", "f", false))
        .expect("renamed");
    mount.run("close", driver.close(old)).expect("closed");
    mount.sleep(Duration::from_secs(10));
    mount
        .run("write", driver.write_file("f", 0, b"NEW"))
        .expect("nobody else was there");
    mount.run("close", driver.close(new)).expect("closed");
    assert_eq!(bytes_of(&world, "f").expect("there"), b"NEW");
}

#[test]
fn a_new_file_passes_through_the_names_of_unlinked_ones_without_a_trace() {
    let (world, mount) = world_with("f", b"old f");
    world.remote.put("g", b"old g");
    let driver = &mount.driver;
    let old = ["f", "g"].map(|name| {
        let file = open(&mount, name, libc::O_RDONLY);
        mount.run("unlink", driver.unlink(name)).expect("unlinked");
        file
    });
    let new = open(&mount, "f", libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL);
    mount
        .run("write", driver.write(&new, 0, b"new"))
        .expect("written");
    world.store.counts().reset();
    for (from, to) in [("f", "g"), ("g", "h")] {
        mount
            .run("rename", driver.rename(from, to, false))
            .expect("renamed");
    }
    mount.run("close", driver.close(new)).expect("closed");
    let counts = world.store.counts();
    assert_eq!(
        counts.all().into_iter().collect::<Vec<_>>(),
        [(Operation::Put, 1)]
    );
    mount.sleep(Duration::from_secs(30));
    assert_eq!(
        world.remote.keys(),
        ["f", "g", "h"],
        "the old ones are still open"
    );
    for (file, content) in old.into_iter().zip([b"old f", b"old g"]) {
        let read = mount.run("read", driver.read(&file, 0, 10));
        assert_eq!(read.as_deref(), Ok(&content[..]));
        mount.run("close", driver.close(file)).expect("closed");
    }
    assert_eq!(world.remote.keys(), ["h"]);
    assert_eq!(bytes_of(&world, "h").expect("there"), b"new");
}

/// A mount in which `d/f` is open and unlinked, the last that others left of `d`, which has no marker.
fn directory_left_to_an_unlinked_file() -> (World, Mount, Descriptor) {
    let (world, mount) = world_with("d/f", b"open");
    world.remote.put("d/e", b"without a marker");
    mount.run("list", mount.driver.list("d", true)).expect("listed");
    let reading = open(&mount, "d/f", libc::O_RDONLY);
    mount.run("unlink", mount.driver.unlink("d/f")).expect("unlinked");
    // Longer than a directory waits for its marker, shorter than what was listed is believed.
    mount.sleep(Duration::from_secs(5));
    world.remote.delete("d/e");
    assert_eq!(world.remote.keys(), ["d/f"]);
    (world, mount, reading)
}

#[test]
fn a_directory_that_was_left_to_an_unlinked_file_stays_when_the_mount_ends() {
    let (world, mount, _) = directory_left_to_an_unlinked_file();
    assert_eq!(mount.unmount(), Vec::<String>::new());
    assert_eq!(world.remote.keys(), ["d/"]);
}

#[test]
fn a_directory_that_was_left_to_an_unlinked_file_stays_after_a_crash() {
    let (world, mount, _) = directory_left_to_an_unlinked_file();
    mount.crash();
    world.mount().crash();
    assert_eq!(world.remote.keys(), ["d/"]);
}

#[test]
fn a_directory_that_was_removed_around_an_unlinked_file_does_not_come_back_after_a_crash() {
    for way in ["removed", "renamed", "removed by others"] {
        let (world, mount, _) = directory_left_to_an_unlinked_file();
        let driver = &mount.driver;
        match way {
            "removed" => mount
                .run("rmdir", driver.rmdir("d"))
                .expect("nothing is seen in it"),
            "renamed" => mount
                .run("rename", driver.rename("d", "g", false))
                .expect("renamed"),
            _ => world.remote.delete("d/f"),
        }
        mount.crash();
        world.mount().crash();
        let left: &[&str] = if way == "renamed" { &["g/"] } else { &[] };
        assert_eq!(world.remote.keys(), left, "{way}");
    }
}

#[test]
fn an_unlinked_object_stays_where_a_new_file_of_its_name_was_not_stored_and_got_another_name() {
    let old: Vec<u8> = (0..1 << 20).flat_map(u32::to_le_bytes).collect();
    let (world, mount) = world_with("f", &old);
    let driver = &mount.driver;
    let reading = open(&mount, "f", libc::O_RDONLY);
    mount.run("unlink", driver.unlink("f")).expect("unlinked");
    let new = open(&mount, "f", libc::O_WRONLY | libc::O_CREAT);
    mount
        .run("write", driver.write(&new, 0, b"new"))
        .expect("written");
    let refused = When::on(Operation::Put).key("f").for_ever();
    world
        .store
        .faults()
        .inject(refused, Fault::Answer("AccessDenied"));
    assert!(mount.run("fsync", driver.fsync(&new)).is_err(), "refused");
    mount
        .run("rename", driver.rename("f", "g", false))
        .expect("renamed");
    mount.run("close", driver.close(new)).expect("stored");
    mount.sleep(Duration::from_secs(10));
    assert_eq!(world.remote.keys(), ["f", "g"]);
    let read = mount.run("read", driver.read(&reading, 3 << 20, 1 << 20));
    assert!(read.expect("of the unlinked file") == old[3 << 20..]);
    mount.run("close", driver.close(reading)).expect("closed");
    assert_eq!(world.remote.keys(), ["g"]);
}

#[test]
fn what_a_file_was_renamed_over_before_it_was_stored_goes_also_when_it_is_renamed_again() {
    for is_read in [false, true] {
        let old: Vec<u8> = (0..1 << 20).flat_map(u32::to_le_bytes).collect();
        let (world, mount) = world_with("f", &old);
        let driver = &mount.driver;
        let reading = is_read.then(|| open(&mount, "f", libc::O_RDONLY));
        let new = open(&mount, "new", libc::O_WRONLY | libc::O_CREAT);
        mount
            .run("write", driver.write(&new, 0, b"new"))
            .expect("written");
        for (from, to) in [("new", "f"), ("f", "g")] {
            mount
                .run("rename", driver.rename(from, to, false))
                .expect("renamed");
        }
        mount.run("close", driver.close(new)).expect("stored");
        if let Some(reading) = reading {
            let read = mount.run("read", driver.read(&reading, 3 << 20, 1 << 20));
            assert!(read.expect("of the replaced file") == old[3 << 20..]);
            mount.run("close", driver.close(reading)).expect("closed");
        }
        mount.sleep(Duration::from_secs(10));
        assert_eq!(world.remote.keys(), ["g"], "read: {is_read}");
    }
}

/// Its last object goes, and what is made in it next is not stored for a long time, or never.
#[test]
fn an_emptied_directory_is_kept_though_it_has_a_file_that_is_not_stored() {
    let world = World::new(Options::default());
    world.remote.put("d/last", b"content");
    let mount = world.mount();
    let driver = &mount.driver;
    let listed = |what: &str| {
        let names = mount.run(what, driver.list("", false)).expect("listed");
        names.into_keys().collect::<Vec<_>>()
    };
    let _open = mount.run("a file for another", async {
        driver.stat("d/last").await.expect("there");
        driver.unlink("d/last").await.expect("unlinked");
        let flags = libc::O_RDWR | libc::O_CREAT;
        driver.open("d/new", flags, 0o644).await.expect("made")
    });
    assert_eq!(listed("at once"), ["d"]);
    mount.sleep(Duration::from_secs(60));
    assert_eq!(listed("later"), ["d"]);
    mount.crash();
    let mount = world.mount();
    let names = mount.run("after a crash", mount.driver.list("", false));
    assert_eq!(names.expect("listed").into_keys().collect::<Vec<_>>(), ["d"]);
}
