//! Directory renames that fail, are cut off, or are large.

use super::{bytes_of, open, world_with};
use crate::in_process::{Mount, Options, World};
use pailfs::base::object::ObjectHeaders;
use pailfs::embedded::{Fault, Operation, Quirks, When};
use std::time::Duration;

fn rename(mount: &Mount) -> Result<(), i32> {
    mount.run("rename", mount.driver.rename("d", "e", false))
}

fn write(mount: &Mount, path: &str, bytes: &[u8]) {
    let flags = libc::O_CREAT | libc::O_TRUNC;
    let written = mount.run("write", mount.driver.write_file(path, flags, bytes));
    written.unwrap_or_else(|errno| panic!("{path}: {errno}"));
}

/// A mount of a bucket in which the directory `d` has these files.
fn world_of(names: &[&str]) -> (World, Mount) {
    let (world, mount) = world_with(&format!("d/{}", names[0]), names[0].as_bytes());
    for name in &names[1..] {
        world.remote.put(&format!("d/{name}"), name.as_bytes());
    }
    (world, mount)
}

#[test]
fn a_directory_rename_that_failed_is_not_finished_by_the_next_mount() {
    let (world, mount) = world_of(&["a", "b", "c"]);
    let refused = When::on(Operation::Copy).nth(2).for_ever();
    world
        .store
        .faults()
        .inject(refused, Fault::Answer("AccessDenied"));
    assert_eq!(rename(&mount), Err(libc::EACCES));
    assert_eq!(
        world.remote.keys(),
        ["d/a", "d/b", "d/c"],
        "copies are taken back"
    );
    write(&mount, "d/new", b"made since");
    world.store.faults().clear();
    mount.crash();
    let next = world.mount();
    next.sleep(Duration::from_secs(60));
    assert_eq!(world.remote.keys(), ["d/a", "d/b", "d/c", "d/new"]);
}

/// What is not in the bucket yet is committed before anything else is done, and that may fail.
#[test]
fn a_rename_that_cannot_begin_leaves_the_empty_directory_that_it_was_to_replace() {
    let (world, mount) = world_of(&["a"]);
    mount.run("mkdir", mount.driver.mkdir("e", 0o755)).expect("made");
    let unsent = open(&mount, "d/a", libc::O_RDWR);
    let written = mount.run("write", mount.driver.write(&unsent, 0, b"unsent"));
    written.expect("written");
    let refused = When::on(Operation::Put).key("d/a").for_ever();
    world
        .store
        .faults()
        .inject(refused, Fault::Answer("AccessDenied"));
    assert_eq!(rename(&mount), Err(libc::EACCES));
    assert_eq!(world.remote.keys(), ["d/a", "e/"]);
    world.store.faults().clear();
    assert_eq!(rename(&mount), Ok(()));
    assert_eq!(world.remote.keys(), ["e/a"]);
}

#[test]
fn a_rename_that_failed_over_an_empty_directory_leaves_that() {
    let (world, mount) = world_of(&["a", "b"]);
    mount.run("mkdir", mount.driver.mkdir("e", 0o755)).expect("made");
    let refused = When::on(Operation::Copy).for_ever();
    world
        .store
        .faults()
        .inject(refused, Fault::Answer("AccessDenied"));
    assert_eq!(rename(&mount), Err(libc::EACCES));
    assert_eq!(world.remote.keys(), ["d/a", "d/b", "e/"]);
}

/// What is in `d` before the rename over the empty `e`; all of it is in one of the two afterwards.
fn cut_off_at(nth: u64, kind: &str) {
    let world = World::new(Options::default());
    match kind {
        "a marker" => world.remote.put("d/", b""),
        "files" => world.remote.put("d/b", b"b"),
        _ => {}
    }
    world.remote.put("d/a", b"a");
    world.remote.put("e/", b"");
    let mount = world.mount();
    let mut inside = Vec::new();
    if kind == "files" {
        inside.extend(["a".to_owned(), "b".to_owned()]);
    } else {
        mount.run("unlink", mount.driver.unlink("d/a")).expect("unlinked");
    }
    let faults = world.store.faults();
    faults.inject(When::any().nth(nth).for_ever(), Fault::Stall);
    let renaming = mount.driver.rename("d", "e", false);
    let renamed = mount.run_for("rename", Duration::from_secs(2), renaming);
    mount.crash();
    faults.clear();
    let mount = world.mount();
    mount.sleep(Duration::from_secs(60));
    let names = |path: &str| {
        let listed = mount.run("list", mount.driver.list(path, false));
        let listed = listed.unwrap_or_else(|errno| panic!("{path}: {errno}"));
        listed.into_keys().collect::<Vec<_>>()
    };
    let what = format!("{kind}, request {nth}: {renamed:?}, {:?}", world.remote.keys());
    let (moved, left) = match names("").as_slice() {
        [e] if e == "e" => (names("e"), None),
        [d, e] if d == "d" && e == "e" => (names("d"), Some(names("e"))),
        other => panic!("{what}: {other:?}"),
    };
    assert!(left.unwrap_or_default().is_empty(), "{what}");
    assert_eq!(moved, inside, "{what}");
}

#[test]
fn a_rename_over_an_empty_directory_that_was_cut_off_anywhere_loses_neither() {
    for kind in ["files", "a marker", "nothing any more"] {
        for nth in 1..=14 {
            cut_off_at(nth, kind);
        }
    }
}

#[test]
fn what_a_rename_left_under_the_old_name_goes_at_the_next_mount_and_nothing_else() {
    let (world, mount) = world_of(&["a", "b", "c"]);
    let refused = When::on(Operation::Delete).for_ever();
    world
        .store
        .faults()
        .inject(refused, Fault::Answer("AccessDenied"));
    assert_eq!(rename(&mount), Err(libc::EACCES));
    // Programs were told that it failed, and go on.
    write(&mount, "d/new", b"made since");
    write(&mount, "d/a", b"changed since");
    world.store.faults().clear();
    world.remote.delete("e/c");
    mount.crash();
    world.mount().crash();
    assert_eq!(world.remote.keys(), ["d/a", "d/c", "d/new", "e/a", "e/b"]);
    assert_eq!(bytes_of(&world, "d/a").expect("there"), b"changed since");
    assert_eq!(bytes_of(&world, "e/a").expect("there"), b"a");
}

#[test]
fn the_same_rename_again_finishes_what_could_not_be_deleted() {
    let (world, mount) = world_of(&["a", "b"]);
    let refused = When::on(Operation::Delete).key("d/b").for_ever();
    world
        .store
        .faults()
        .inject(refused, Fault::Answer("AccessDenied"));
    assert_eq!(rename(&mount), Err(libc::EACCES));
    world.store.faults().clear();
    rename(&mount).expect("renamed");
    assert_eq!(world.remote.keys(), ["e/a", "e/b"]);
    write(&mount, "d", b"a file in its place");
    mount.crash();
    world.mount().crash();
    assert_eq!(world.remote.keys(), ["d", "e/a", "e/b"]);
}

/// A directory with an object whose copy has another ETag, as another tool put it.
fn world_of_parts() -> (World, Mount) {
    let (world, mount) = world_of(&["a"]);
    world
        .remote
        .put_in_parts("d/large", &[&vec![7; 5 << 20], b"the last part"]);
    let info = world.remote.get("d/large").expect("there").info;
    assert!(info.version.etag.is_of_parts() && info.headers.metadata.is_empty());
    (world, mount)
}

#[test]
fn copies_with_other_tags_are_recognised_when_a_rename_is_asked_for_again() {
    let (world, mount) = world_of_parts();
    let refused = When::on(Operation::Delete).for_ever();
    world
        .store
        .faults()
        .inject(refused, Fault::Answer("AccessDenied"));
    assert_eq!(rename(&mount), Err(libc::EACCES));
    world.store.faults().clear();
    rename(&mount).expect("renamed");
    assert_eq!(world.remote.keys(), ["e/a", "e/large"]);
}

#[test]
fn copies_with_other_tags_are_recognised_by_the_next_mount() {
    for is_encrypted in [false, true] {
        let (world, mount) = world_of_parts();
        world.store.set_quirks(Quirks {
            opaque_etags: is_encrypted,
            ..Quirks::default()
        });
        let silent = When::on(Operation::Delete).key("d/large").for_ever();
        world.store.faults().inject(silent, Fault::Stall);
        let patience = Duration::from_secs(3);
        let cut_off = mount.run_for("rename", patience, mount.driver.rename("d", "e", false));
        assert_eq!(cut_off, None);
        mount.crash();
        world.store.faults().clear();
        world.mount().crash();
        assert_eq!(world.remote.keys(), ["e/a", "e/large"], "{is_encrypted}");
    }
}

#[test]
fn a_lost_reply_to_the_copy_of_such_an_object_is_resolved() {
    let (world, mount) = world_of_parts();
    world
        .store
        .faults()
        .inject(When::on(Operation::Copy).key("large"), Fault::LoseReply);
    let moved = mount.driver.rename("d/large", "large", true);
    mount.run("rename", moved).expect("renamed");
    rename(&mount).expect("renamed");
    assert_eq!(world.remote.keys(), ["e/a", "large"]);
}

#[test]
fn a_rename_that_was_cut_off_moves_what_was_there_when_it_began() {
    for operation in [Operation::Copy, Operation::Delete] {
        let (world, mount) = world_of(&["a", "b", "c"]);
        let silent = When::on(operation).key_where(|key| key.ends_with('b')).for_ever();
        world.store.faults().inject(silent, Fault::Stall);
        let cut_off = mount.run_for(
            "rename",
            Duration::from_secs(3),
            mount.driver.rename("d", "e", false),
        );
        assert_eq!(cut_off, None);
        mount.crash();
        world.store.faults().clear();
        world.remote.put("d/late", b"somebody else's");
        world.mount().crash();
        assert_eq!(
            world.remote.keys(),
            ["d/late", "e/a", "e/b", "e/c"],
            "{operation:?}"
        );
    }
}

#[test]
fn thousands_of_objects_are_renamed_in_pieces() {
    const FILES: usize = 2_500;
    let world = World::new(Options::default());
    let bodies: Vec<String> = (0..FILES).map(|n| format!("d/{:02}/{n:05}", n % 40)).collect();
    for key in &bodies {
        world.remote.put(key, key.as_bytes());
    }
    world.remote.put("d/", b"");
    world.remote.put("d/07/", b"");
    let mount = world.mount();
    let sent = world.store.counts();
    sent.reset();
    rename(&mount).expect("renamed");
    let all = sent.all();
    let of = |operation| all.get(&operation).copied().unwrap_or(0);
    assert_eq!(of(Operation::Copy), FILES as u64 + 2);
    assert!(of(Operation::DeleteMany) <= 4, "deletes are batched: {all:?}");
    assert!(of(Operation::Delete) <= 2, "but those of few markers: {all:?}");
    assert!(of(Operation::List) <= 11, "{all:?}");
    let mut expected: Vec<String> = bodies.iter().map(|key| key.replacen('d', "e", 1)).collect();
    expected.extend(["e/".to_owned(), "e/07/".to_owned()]);
    expected.sort();
    assert_eq!(world.remote.keys(), expected);
    assert_eq!(bytes_of(&world, "e/07/00007").expect("there"), b"d/07/00007");
}

/// Renames `d` to `e`; after `a` was copied, and before anything is deleted, somebody else does something.
fn rename_while(world: &World, mount: &Mount, meanwhile: impl FnOnce()) {
    let late = When::on(Operation::Copy).key("e/b");
    let pause = Fault::Delay(Duration::from_secs(20));
    world.store.faults().inject(late, pause);
    let mut renaming = Box::pin(mount.driver.rename("d", "e", false));
    let soon = Duration::from_secs(5);
    assert_eq!(mount.run_for("rename", soon, &mut renaming), None);
    meanwhile();
    mount.run("rename", renaming).expect("renamed");
}

fn with_metadata(value: &str) -> ObjectHeaders {
    ObjectHeaders {
        metadata: [("colour".to_owned(), value.to_owned())].into(),
        ..ObjectHeaders::default()
    }
}

#[test]
fn what_got_other_metadata_while_its_directory_was_renamed_is_not_deleted() {
    for conditional in [true, false] {
        let world = World::new(Options {
            probing: !conditional,
            ..Options::default()
        });
        world.store.set_quirks(Quirks {
            ignore_delete_conditions: !conditional,
            ..Quirks::default()
        });
        for name in ["a", "b"] {
            world.remote.put(&format!("d/{name}"), name.as_bytes());
        }
        let mount = world.mount();
        rename_while(&world, &mount, || {
            world.remote.put_with("d/a", b"a", with_metadata("green"));
        });
        assert_eq!(world.remote.keys(), ["d/a", "e/a", "e/b"]);
        let kept = world.remote.get("d/a").expect("there").info;
        assert_eq!(kept.headers.metadata, with_metadata("green").metadata);
    }
}

#[test]
fn what_came_back_while_its_directory_was_renamed_is_moved_and_not_lost() {
    let (world, mount) = world_of(&["a", "b", "c"]);
    // It is gone when it is to be copied, and is there again when it is to be deleted.
    let vanished = When::on(Operation::Copy).key("e/c").times(1);
    world
        .store
        .faults()
        .inject(vanished, Fault::Delay(Duration::from_secs(4)));
    let late = When::on(Operation::Copy).key("e/b");
    world
        .store
        .faults()
        .inject(late, Fault::Delay(Duration::from_secs(20)));
    let mut renaming = Box::pin(mount.driver.rename("d", "e", false));
    assert_eq!(
        mount.run_for("rename", Duration::from_secs(2), &mut renaming),
        None
    );
    world.remote.delete("d/c");
    assert_eq!(
        mount.run_for("rename", Duration::from_secs(5), &mut renaming),
        None
    );
    world.remote.put("d/c", b"c");
    mount.run("rename", renaming).expect("renamed");
    assert_eq!(world.remote.keys(), ["e/a", "e/b", "e/c"]);
    assert_eq!(bytes_of(&world, "e/c").expect("there"), b"c");
}

#[test]
fn objects_that_rest_are_deleted_without_a_look_at_each() {
    const FILES: usize = 1_200;
    let world = World::new(Options::default());
    for n in 0..FILES {
        world.remote.put(&format!("d/{n:05}"), b"x");
    }
    // Times are whole seconds, and the server's clock is known to about one.
    std::thread::sleep(Duration::from_secs(3));
    world.remote.put("d/new", b"x");
    let mount = world.mount();
    let sent = world.store.counts();
    sent.reset();
    rename(&mount).expect("renamed");
    let all = sent.all();
    // A few tell how all are stored, and what is new may have been written again.
    assert!(all.get(&Operation::Head).copied().unwrap_or(0) <= 7, "{all:?}");
    assert_eq!(world.remote.keys().len(), FILES + 1);
    assert!(world.remote.keys().iter().all(|key| key.starts_with("e/")));
}

#[test]
fn a_directory_is_empty_though_an_unlinked_file_of_it_is_open() {
    for is_committed in [true, false] {
        let (world, mount) = world_of(&["a", "b"]);
        mount.run("mkdir", mount.driver.mkdir("e", 0o755)).expect("made");
        if is_committed {
            write(&mount, "e/a", b"old a");
        }
        let file = open(&mount, "e/a", libc::O_RDWR | libc::O_CREAT);
        if !is_committed {
            let written = mount.driver.write(&file, 0, b"old a");
            mount.run("write", written).expect("written");
        }
        mount.run("unlink", mount.driver.unlink("e/a")).expect("unlinked");
        let renamed = rename(&mount);
        assert_eq!(
            renamed,
            Ok(()),
            "{is_committed}: {}",
            mount.driver.last_error.borrow()
        );
        let read = mount.run("read", mount.driver.read(&file, 0, 10));
        assert_eq!(read.expect("still readable"), b"old a");
        mount.run("close", mount.driver.close(file)).expect("closed");
        assert_eq!(world.remote.keys(), ["e/a", "e/b"]);
        assert_eq!(bytes_of(&world, "e/a").expect("there"), b"a");
        assert_eq!(
            mount.run("read", mount.driver.read_file("e/a")).expect("read"),
            b"a"
        );
        mount.crash();
        world.mount().crash();
        assert_eq!(world.remote.keys(), ["e/a", "e/b"], "no late DELETE");
    }
}

/// Symlinks are copied as uploads, which do not take tags along by themselves.
#[test]
fn tags_go_along_with_what_is_copied_in_parts() {
    let (world, mount) = world_of(&["a"]);
    let made = mount.driver.symlink("d/link", "a");
    mount.run("symlink", made).expect("made");
    world.remote.tag("d/link", "team", "blue");
    world.remote.tag("d/a", "team", "red");
    rename(&mount).expect("renamed");
    assert_eq!(world.remote.tags("e/link").as_deref(), Some("team=blue"));
    assert_eq!(world.remote.tags("e/a").as_deref(), Some("team=red"));
    let moved = mount.driver.rename("e/link", "link", true);
    mount.run("rename", moved).expect("renamed");
    assert_eq!(world.remote.tags("link").as_deref(), Some("team=blue"));
}

/// A marker has no bytes: mode, owner and what others keep there is all that it has.
#[test]
fn a_marker_that_changed_while_its_directory_was_renamed_is_not_lost() {
    let (world, mount) = world_of(&["a", "b"]);
    world.remote.put_with("d/sub/", b"", with_metadata("red"));
    world.remote.put("d/rests/", b"");
    rename_while(&world, &mount, || {
        world.remote.put_with("d/sub/", b"", with_metadata("green"));
    });
    assert_eq!(
        world.remote.keys(),
        ["d/sub/", "e/a", "e/b", "e/rests/", "e/sub/"]
    );
    let kept = world.remote.get("d/sub/").expect("there").info;
    assert_eq!(kept.headers.metadata, with_metadata("green").metadata);
}

/// Who removes a directory's markers asks nothing about those that a listing shows as they were.
#[test]
fn markers_that_rest_are_deleted_without_a_look_at_each() {
    const DIRECTORIES: usize = 100;
    let (world, mount) = world_of(&["a"]);
    for n in 0..DIRECTORIES {
        world.remote.put(&format!("d/{n:03}/"), b"");
    }
    // Times are whole seconds, and the server's clock is known to about one.
    std::thread::sleep(Duration::from_secs(3));
    let sent = world.store.counts();
    sent.reset();
    rename(&mount).expect("renamed");
    let all = sent.all();
    assert!(all.get(&Operation::Head).copied().unwrap_or(0) <= 7, "{all:?}");
    assert!(world.remote.keys().iter().all(|key| key.starts_with("e/")));
    assert_eq!(world.remote.keys().len(), DIRECTORIES + 1);
}
