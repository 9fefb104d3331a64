//! What programs' calls cost in requests, and whom an error reaches.

use super::{bytes_of, open, world_with};
use crate::in_process::World;
use pailfs::embedded::{Fault, Operation, When};
use std::time::Duration;

/// Uploads and copies since the counts began.
fn uploads_and_copies(world: &World) -> (u64, u64) {
    let all = world.store.counts().all();
    let of = |operations: &[Operation]| {
        let counts = operations
            .iter()
            .map(|operation| all.get(operation).copied().unwrap_or(0));
        counts.sum()
    };
    let uploads = of(&[Operation::Put, Operation::CreateUpload, Operation::Complete]);
    (uploads, of(&[Operation::Copy, Operation::UploadPartCopy]))
}

#[test]
fn a_new_file_that_is_renamed_over_another_before_its_close_is_one_upload() {
    let (world, mount) = world_with("f", b"old");
    let driver = &mount.driver;
    mount.run("stat", driver.stat("f")).expect("there");
    world.store.counts().reset();
    let file = open(&mount, "f.new", libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL);
    mount
        .run("write", driver.write(&file, 0, b"new"))
        .expect("written");
    mount
        .run("rename", driver.rename("f.new", "f", false))
        .expect("renamed");
    mount.run("close", driver.close(file)).expect("closed");
    assert_eq!(uploads_and_copies(&world), (1, 0));
    assert_eq!(bytes_of(&world, "f").expect("there"), b"new");
    assert_eq!(world.remote.keys(), ["f"]);
}

#[test]
fn a_flush_without_a_change_sends_nothing() {
    let (world, mount) = world_with("f", b"old");
    let driver = &mount.driver;
    let file = open(&mount, "f", libc::O_RDWR);
    mount
        .run("write", driver.write(&file, 0, b"new"))
        .expect("written");
    mount.run("flush", driver.flush(&file)).expect("sent");
    world.store.counts().reset();
    for _ in 0..3 {
        mount.run("flush", driver.flush(&file)).expect("nothing to do");
        mount.run("fsync", driver.fsync(&file)).expect("nothing to do");
    }
    assert_eq!(
        world.store.counts().total(),
        0,
        "{:?}",
        world.store.counts().all()
    );
    mount.run("close", driver.close(file)).expect("closed");
    assert_eq!(
        world.store.counts().total(),
        0,
        "{:?}",
        world.store.counts().all()
    );
}

#[test]
fn flushes_that_wait_behind_a_commit_share_the_next() {
    let (world, mount) = world_with("other", b"");
    let driver = &mount.driver;
    let file = open(&mount, "f", libc::O_RDWR | libc::O_CREAT);
    mount
        .run("write", driver.write(&file, 0, b"first"))
        .expect("written");
    let slow = Fault::Delay(Duration::from_secs(3));
    world
        .store
        .faults()
        .inject(When::on(Operation::Put).key("f"), slow);
    world.store.counts().reset();
    let later = async |offset: usize| {
        tokio::time::sleep(Duration::from_secs(1)).await;
        driver.write(&file, offset, b"later").await?;
        driver.flush(&file).await
    };
    mount.run("flushes", async {
        let (first, second, third, fourth) =
            tokio::join!(driver.flush(&file), later(5), later(10), later(15));
        first.and(second).and(third).and(fourth).expect("all sent");
    });
    assert_eq!(uploads_and_copies(&world), (2, 0));
    assert_eq!(bytes_of(&world, "f").expect("there"), b"firstlaterlaterlater");
    mount.run("close", driver.close(file)).expect("closed");
}

#[test]
fn an_error_is_told_once_and_what_was_written_is_sent_in_the_background() {
    let (world, mount) = world_with("other", b"");
    let driver = &mount.driver;
    let file = open(&mount, "f", libc::O_RDWR | libc::O_CREAT);
    mount
        .run("write", driver.write(&file, 0, b"data"))
        .expect("written");
    let refused = When::on(Operation::Put).key("f").times(2);
    world
        .store
        .faults()
        .inject(refused, Fault::Answer("AccessDenied"));
    assert_eq!(mount.run("fsync", driver.fsync(&file)), Err(libc::EACCES));
    let read = mount.run("read", driver.read(&file, 0, 10));
    assert_eq!(read.expect("readable"), b"data");
    mount
        .run("write", driver.write(&file, 4, b" more"))
        .expect("still writable");
    assert_eq!(mount.run("close", driver.close(file)), Err(libc::EACCES));
    // Nobody asks for it any more.
    mount.sleep(Duration::from_secs(5));
    assert_eq!(
        bytes_of(&world, "f").expect("sent in the background"),
        b"data more"
    );
    let file = open(&mount, "f", libc::O_RDWR);
    mount.run("fsync", driver.fsync(&file)).expect("that was told");
    mount.run("close", driver.close(file)).expect("that was told");
}
