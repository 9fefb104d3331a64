//! What reading directories leaves behind, and opens that meet answers which cannot be.

use super::{bytes_of, world_with};
use crate::in_process::{Options, World};
use pailfs::embedded::{Fault, Operation, When};
use pailfs::tree::node::{Kind, ROOT};

#[test]
fn entries_that_were_prepared_and_not_sent_leave_no_inodes() {
    const FILES: usize = 300;
    // What the kernel's first buffer takes.
    const TAKEN: usize = 25;
    let world = World::new(Options::default());
    for n in 0..FILES {
        world.remote.put(&format!("{n:03}"), b"");
    }
    let mount = world.mount();
    let (fs, tree) = (&mount.fs, mount.fs.tree());
    let before = tree.inode_count();
    let handle = fs.open_directory(ROOT).expect("opened");
    let (mut offset, mut names) = (0, Vec::new());
    for round in 0.. {
        let entries = mount.run("readdirplus", fs.read_directory(handle, offset, true));
        let entries = entries.expect("read");
        let sent = entries.len().min(TAKEN);
        let most = if round == 0 { 32 } else { TAKEN * 9 / 8 + 1 };
        assert!(entries.len() <= most, "{} prepared for {sent}", entries.len());
        fs.sent_entries(handle, &entries, sent);
        let Some(last) = entries[..sent].last() else { break };
        offset = last.next_offset;
        names.extend(entries[..sent].iter().map(|entry| entry.name.clone()));
        let known = entries[..sent].iter().filter(|entry| entry.attr.is_some());
        assert_eq!(
            tree.inode_count(),
            before + known.clone().count(),
            "round {round}"
        );
        // The kernel forgets them at once.
        known.for_each(|entry| tree.forget(entry.ino, 1));
    }
    fs.release_directory(ROOT, handle);
    assert_eq!(names.len(), FILES + 2);
    assert_eq!(tree.inode_count(), before);
}

#[test]
fn a_reader_that_takes_everything_gets_more_the_next_time() {
    let world = World::new(Options::default());
    for n in 0..900 {
        world.remote.put(&format!("{n:03}"), b"");
    }
    let mount = world.mount();
    let handle = mount.fs.open_directory(ROOT).expect("opened");
    let (mut offset, mut answers) = (0, 0);
    loop {
        let entries = mount.run("readdir", mount.fs.read_directory(handle, offset, false));
        let entries = entries.expect("read");
        mount.fs.sent_entries(handle, &entries, entries.len());
        let Some(last) = entries.last() else { break };
        offset = last.next_offset;
        answers += 1;
    }
    assert!(answers <= 5, "{answers}");
}

#[test]
fn an_answer_of_another_length_is_asked_for_again() {
    let (world, mount) = world_with("f", b"all of the bytes");
    mount.run("list", mount.driver.list("", true)).expect("listed");
    let shortened = Fault::ShortenBody { to_bytes: 5 };
    world
        .store
        .faults()
        .inject(When::on(Operation::Get), shortened.clone());
    let read = mount.run("read", mount.driver.read_file("f"));
    assert_eq!(read.as_deref(), Ok(&b"all of the bytes"[..]));
    mount.sleep(std::time::Duration::from_secs(60));
    world
        .store
        .faults()
        .inject(When::on(Operation::Get).for_ever(), shortened);
    let read = mount.run("read", mount.driver.read_file("f"));
    assert_eq!(read, Err(libc::EIO), "{}", mount.driver.last_error.borrow());
    world.store.faults().clear();
    assert_eq!(bytes_of(&world, "f").expect("there"), b"all of the bytes");
    let read = mount.run("read", mount.driver.read_file("f"));
    assert_eq!(read.as_deref(), Ok(&b"all of the bytes"[..]));
}

/// What may be a symlink is looked at. Where that is refused it is shown as what the listing says, and all others are too.
#[test]
fn an_object_that_may_not_be_looked_at_is_listed_as_a_file() {
    let world = World::new(Options::default());
    for key in ["d/a", "d/refused", "d/z"] {
        world.remote.put_in_parts(key, &[b"small"]);
    }
    for refusal in ["AccessDenied", "InvalidRequest"] {
        let refused = When::on(Operation::Head).key("d/refused").for_ever();
        let fault = world.store.faults().inject(refused, Fault::Answer(refusal));
        for with_attributes in [false, true] {
            let mount = world.mount();
            let driver = &mount.driver;
            let listed = mount.run("list", driver.list("d", with_attributes));
            let listed = listed.expect("listed");
            assert_eq!(listed.keys().collect::<Vec<_>>(), ["a", "refused", "z"]);
            assert!(listed.values().all(|kind| *kind == Kind::File));
            let stat = mount
                .run("stat", driver.stat("d/refused"))
                .expect("as it is listed");
            assert_eq!((stat.kind, stat.size_bytes), (Kind::File, 5));
            let read = mount.run("read", driver.read_file("d/a"));
            assert_eq!(read.as_deref(), Ok(&b"small"[..]));
            // What the bucket refuses it refuses.
            let changed = mount.run("truncate", driver.truncate("d/refused", 1));
            assert!(changed.is_err());
            mount.crash();
        }
        world.store.faults().remove(fault);
    }
    // A store that does not answer is no refusal.
    let broken = When::on(Operation::Head).key("d/refused").for_ever();
    world
        .store
        .faults()
        .inject(broken, Fault::Answer("InternalError"));
    let mount = world.mount();
    let listed = mount.run("list", mount.driver.list("d", false));
    assert_eq!(listed.expect_err("nobody knows what it is"), libc::EIO);
}
