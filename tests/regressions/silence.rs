//! A store that does not answer: how long a program waits, and what is left. On the mount's own clock.

use super::{bytes_of, open, world_with};
use crate::in_process::{Mount, Options, World};
use pailfs::embedded::{Fault, When};
use pailfs::spool::ConflictForm;
use pailfs::spool::conflicts::KeptConflict;
use std::time::Duration;

/// Besides the stall time-out: pauses between attempts.
const PAUSES: Duration = Duration::from_secs(5);

fn seconds_of(mount: &Mount, what: &str, operation: impl Future<Output = Result<(), i32>>) -> Duration {
    mount.run(what, async {
        let before = tokio::time::Instant::now();
        operation.await.expect_err("the store is away");
        before.elapsed()
    })
}

fn fall_silent(world: &World) {
    world.store.faults().inject(When::any().for_ever(), Fault::Stall);
}

#[test]
fn the_close_of_a_new_file_waits_one_time_out_and_loses_nothing() {
    let (world, mount) = world_with("other", b"");
    let limit = Options::default().stall_timeout + PAUSES;
    let file = open(&mount, "f", libc::O_WRONLY | libc::O_CREAT);
    mount
        .run("write", mount.driver.write(&file, 0, b"new"))
        .expect("written");
    fall_silent(&world);
    let waited = seconds_of(&mount, "close", mount.driver.close(file));
    assert!(waited <= limit, "{waited:?}");
    world.store.faults().clear();
    assert_eq!(mount.unmount(), [""; 0]);
    assert_eq!(bytes_of(&world, "f").expect("sent at the end"), b"new");
}

#[test]
fn the_close_of_an_edited_file_waits_one_time_out_and_loses_nothing() {
    let mut expected = vec![1; 9 << 20];
    let (world, mount) = world_with("f", &expected);
    let limit = Options::default().stall_timeout + PAUSES;
    let file = open(&mount, "f", libc::O_RDWR);
    mount
        .run("write", mount.driver.write(&file, 7, b"edit"))
        .expect("written");
    expected[7..11].copy_from_slice(b"edit");
    fall_silent(&world);
    let waited = seconds_of(&mount, "fsync", mount.driver.fsync(&file));
    assert!(waited <= limit, "{waited:?}");
    world.store.faults().clear();
    mount.run("close", mount.driver.close(file)).expect("sent");
    assert!(bytes_of(&world, "f").expect("there") == expected, "other bytes");
}

#[test]
fn ending_a_mount_waits_one_time_out_for_all_files_together() {
    let (world, mount) = world_with("other", b"");
    let limit = Options::default().stall_timeout + PAUSES;
    let files: Vec<_> = (0..40)
        .map(|i| open(&mount, &format!("f{i}"), libc::O_WRONLY | libc::O_CREAT))
        .collect();
    for file in &files {
        mount
            .run("write", mount.driver.write(file, 0, b"unsent"))
            .expect("written");
    }
    fall_silent(&world);
    let (waited, unsent) = mount.run("end", async {
        let before = tokio::time::Instant::now();
        let unsent = mount.fs.send_all(|_| {}).await;
        (before.elapsed(), unsent)
    });
    assert_eq!(unsent.len(), files.len());
    assert!(waited <= limit, "{waited:?}");
    world.store.faults().clear();
    mount.crash();
    let next = world.mount();
    assert_eq!(next.unmount(), [""; 0]);
    for i in 0..files.len() {
        assert_eq!(
            bytes_of(&world, &format!("f{i}")).expect("sent by the next mount"),
            b"unsent"
        );
    }
}

/// A mount with an edit that a silent store did not take.
fn unsent_edit(size_bytes: usize) -> (World, Mount, Vec<u8>) {
    let mut expected: Vec<u8> = (0..size_bytes).map(|n| n as u8).collect();
    let (world, mount) = world_with("f", &expected);
    let file = open(&mount, "f", libc::O_RDWR);
    for at in [7, size_bytes - 100, size_bytes + 50] {
        mount
            .run("write", mount.driver.write(&file, at, b"edit"))
            .expect("written");
        expected.resize(expected.len().max(at + 4), 0);
        expected[at..at + 4].copy_from_slice(b"edit");
    }
    fall_silent(&world);
    mount
        .run("close", mount.driver.close(file))
        .expect_err("the store is away");
    (world, mount, expected)
}

#[test]
fn an_edit_that_a_silent_store_did_not_take_is_sent_by_the_next_mount() {
    for size_bytes in [300, 9 << 20] {
        let (world, mount, expected) = unsent_edit(size_bytes);
        mount.crash();
        world.store.faults().clear();
        let next = world.mount();
        let read = next.run("read", next.driver.read_file("f")).expect("read");
        assert!(read == expected, "what was written is seen before it is sent");
        assert_eq!(next.unmount(), [""; 0]);
        assert!(bytes_of(&world, "f").expect("there") == expected, "other bytes");
        assert!(conflicts(&world).is_empty());
        // It is sent once.
        world.remote.put("f", b"theirs");
        world.mount().crash();
        assert_eq!(bytes_of(&world, "f").expect("there"), b"theirs");
    }
}

#[test]
fn an_edit_of_what_was_replaced_meanwhile_is_a_conflict_of_the_next_mount() {
    let (world, mount, _) = unsent_edit(9 << 20);
    mount.crash();
    world.store.faults().clear();
    world.remote.put("f", b"theirs");
    let next = world.mount();
    next.sleep(Duration::from_secs(10));
    assert_eq!(next.unmount(), [""; 0]);
    assert_eq!(bytes_of(&world, "f").expect("there"), b"theirs");
    let kept = conflicts(&world);
    let [kept] = &kept[..] else {
        panic!("{} conflicts", kept.len())
    };
    let ConflictForm::Patch { runs, .. } = &kept.conflict.form else {
        panic!("not the changes: {:?}", kept.conflict.form)
    };
    assert_eq!(runs[..2], [(7, 4), ((9 << 20) - 100, 4)]);
}

fn conflicts(world: &World) -> Vec<KeptConflict> {
    pailfs::spool::conflicts::list(world.state_dir())
        .expect("a list")
        .conflicts
}
