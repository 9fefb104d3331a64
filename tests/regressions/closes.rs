//! What a close or an fsync says, and whose content a handle has.

use super::{bytes_of, open, world_with};
use crate::in_process::{Options, World};
use pailfs::embedded::{Fault, Operation, When};
use std::time::Duration;

#[test]
fn what_is_written_after_a_conflict_is_not_acknowledged() {
    let (world, mount) = world_with("f", b"one");
    let driver = &mount.driver;
    let file = open(&mount, "f", libc::O_RDWR);
    mount
        .run("write", driver.write(&file, 0, b"mine"))
        .expect("written");
    world.remote.put("f", b"theirs");
    assert_eq!(mount.run("fsync", driver.fsync(&file)), Err(libc::ESTALE));
    let again = mount.run("write", driver.write(&file, 4, b" again"));
    assert_eq!(again, Err(libc::ESTALE));
    assert_eq!(mount.run("close", driver.close(file)), Err(libc::ESTALE));
    assert_eq!(bytes_of(&world, "f").expect("theirs"), b"theirs");
}

#[test]
fn every_writer_hears_of_a_conflict() {
    let (world, mount) = world_with("f", b"one");
    let driver = &mount.driver;
    let first = open(&mount, "f", libc::O_RDWR);
    let second = open(&mount, "f", libc::O_RDWR);
    mount
        .run("write", driver.write(&first, 0, b"first"))
        .expect("written");
    mount
        .run("write", driver.write(&second, 5, b"second"))
        .expect("written");
    world.remote.put("f", b"theirs");
    assert_eq!(mount.run("close", driver.close(first)), Err(libc::ESTALE));
    assert_eq!(mount.run("close", driver.close(second)), Err(libc::ESTALE));
}

#[test]
fn a_read_that_a_commit_of_its_own_mount_overtakes_gets_its_bytes() {
    const SIZE_BYTES: usize = 9 << 20;
    let before: Vec<u8> = (0..SIZE_BYTES).map(|n| (n / 7) as u8).collect();
    let (world, mount) = world_with("f", &before);
    let driver = &mount.driver;
    let written = open(&mount, "f", libc::O_RDWR);
    mount
        .run("write", driver.write(&written, 7, b"edit"))
        .expect("written");
    let late = Fault::Delay(Duration::from_secs(5));
    let late = world.store.faults().inject(When::on(Operation::Get), late);
    let at = SIZE_BYTES - 100;
    let (read, synced) = mount.run("read and fsync", async {
        tokio::join!(driver.read(&written, at, 100), driver.fsync(&written))
    });
    assert_eq!(synced, Ok(()));
    assert_eq!(world.store.faults().struck(late), 1);
    assert_eq!(read.as_deref(), Ok(&before[at..]));
    // What somebody else has put is nobody's own.
    world.remote.put("f", b"theirs");
    let read = mount.run("read", driver.read(&written, 1 << 20, 100));
    assert_eq!(read, Err(libc::ESTALE));
}

#[test]
fn an_open_that_meets_the_last_close_shares_the_content_of_later_opens() {
    let (_world, mount) = world_with("f", b"one");
    let driver = &mount.driver;
    let first = open(&mount, "f", libc::O_RDONLY);
    let (second, _) = mount.run("open and close", async {
        tokio::join!(driver.open("f", libc::O_RDWR, 0), driver.close(first))
    });
    let second = second.expect("opened");
    mount
        .run("write", driver.write(&second, 0, b"new"))
        .expect("written");
    let third = open(&mount, "f", libc::O_RDONLY);
    assert_eq!(
        mount.run("read", driver.read(&third, 0, 10)).expect("read"),
        b"new"
    );
    mount.run("close", driver.close(second)).expect("closed");
}

#[test]
fn a_new_file_never_gets_the_unsent_content_of_another() {
    let world = World::new(Options::default());
    let mount = world.mount();
    let driver = &mount.driver;
    mount
        .run("write", driver.write_file("f", libc::O_CREAT, b"old"))
        .expect("written");
    mount
        .run("rename", driver.rename("f", "g", false))
        .expect("renamed");
    let file = open(&mount, "g", libc::O_WRONLY);
    mount
        .run("write", driver.write(&file, 0, b"unsent"))
        .expect("written");
    let refuse = When::on(Operation::Put).key("g").for_ever();
    world.store.faults().inject(refuse, Fault::Answer("AccessDenied"));
    assert!(mount.run("close", driver.close(file)).is_err());
    driver.forget_all();
    mount
        .run("write", driver.write_file("f", libc::O_CREAT, b"fresh"))
        .expect("written");
    assert_eq!(bytes_of(&world, "f").expect("the new file"), b"fresh");
    world.store.faults().clear();
    assert_eq!(mount.unmount(), Vec::<String>::new());
    assert_eq!(bytes_of(&world, "g").expect("the old file"), b"unsent");
}

#[test]
fn a_file_that_was_committed_early_has_its_size_and_stays_unlinked() {
    let world = World::new(Options::default());
    let mount = world.mount();
    let driver = &mount.driver;
    let file = open(&mount, "f", libc::O_RDWR | libc::O_CREAT);
    let data = vec![7; 80 << 20];
    mount
        .run("write", driver.write(&file, 0, &data))
        .expect("written");
    assert_eq!(
        mount.run("read", driver.read(&file, 20 << 20, 10)).expect("read"),
        [7; 10]
    );
    assert!(bytes_of(&world, "f").is_some(), "the test needs an early commit");
    assert_eq!(
        mount
            .run("stat", driver.fstat(&file))
            .expect("attributes")
            .size_bytes,
        80 << 20
    );
    mount.run("unlink", driver.unlink("f")).expect("unlinked");
    mount.run("close", driver.close(file)).expect("closed");
    assert_eq!(world.remote.keys(), Vec::<String>::new());
}

#[test]
fn sending_everything_leaves_unlinked_files_to_their_readers() {
    let data = vec![3; 4 << 20];
    let (world, mount) = world_with("f", &data);
    let driver = &mount.driver;
    let file = open(&mount, "f", libc::O_RDONLY);
    mount.run("unlink", driver.unlink("f")).expect("unlinked");
    assert!(mount.run("flush", mount.fs.send_all(|_| {})).is_empty());
    assert_eq!(
        mount
            .run("read", driver.read(&file, 0, data.len()))
            .expect("still there"),
        data
    );
    mount.run("close", driver.close(file)).expect("closed");
    assert_eq!(bytes_of(&world, "f"), None);
}

#[test]
fn a_file_can_be_opened_between_its_commit_and_the_news_of_it() {
    let world = World::new(Options::default());
    let mount = world.mount();
    let driver = &mount.driver;
    let file = open(&mount, "f", libc::O_RDWR | libc::O_CREAT);
    let data = vec![7; 80 << 20];
    mount
        .run("write", driver.write(&file, 0, &data))
        .expect("written");
    mount.run("read", driver.read(&file, 20 << 20, 10)).expect("read");
    assert!(bytes_of(&world, "f").is_some(), "the test needs an early commit");
    let reader = open(&mount, "f", libc::O_RDONLY);
    assert_eq!(
        mount.run("read", driver.read(&reader, 5, 10)).expect("read"),
        [7; 10]
    );
    mount.run("close", driver.close(reader)).expect("closed");
    mount.run("close", driver.close(file)).expect("closed");
}
