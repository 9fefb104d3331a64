//! Small files: one request each, and what a program sees of its own writes.

use super::*;
use pailfs::base::error::ErrorKind;
use pailfs::object::special::put_special;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::UNIX_EPOCH;

#[test]
fn a_small_file_is_one_put() {
    run(async {
        let world = World::start(64 * MIB).await;
        let file = world.new_file("a");
        assert!(file.is_dirty());
        let content = data(1, 10_000);
        file.write(0, &content[..4096]).await.expect("written");
        file.write(4096, &content[4096..]).await.expect("written");
        assert_same(&read(&file, 0, 20_000).await, &content);
        let committed = file
            .commit()
            .await
            .expect("committed")
            .expect("there was something to do");
        assert_eq!(world.server.counts().total(), 1);
        assert_eq!(world.count(Operation::Put), 1);
        assert_same(&world.stored("a").await, &content);
        let head = world.head("a").await;
        assert_eq!(head.version.etag, committed.version.etag);
        assert!(!file.is_dirty());
        assert!(file.commit().await.expect("nothing to do").is_none());
        assert_same(&read(&file, 5_000, 20_000).await, &content[5_000..]);
    });
}

#[test]
fn an_empty_file_is_one_put() {
    run(async {
        let world = World::start(64 * MIB).await;
        let file = world.create("a", Creation::Exclusive);
        file.commit()
            .await
            .expect("committed")
            .expect("it was to be created");
        assert_eq!(world.server.counts().total(), 1);
        assert_eq!(world.stored("a").await, b"");
        file.write(3, b"x").await.expect("written");
        file.commit().await.expect("committed").expect("changed");
        assert_eq!(world.stored("a").await, b"\0\0\0x");
    });
}

#[test]
fn a_write_that_has_memory_needs_no_second_poll() {
    // As a thread of the kernel's loop does it: within the runtime's context, but in none of its tasks.
    let runtime = rt::build().expect("a runtime");
    let world = runtime.block_on(World::start(64 * MIB));
    let _context = runtime.enter();
    let file = world.new_file("a");
    let mut context = Context::from_waker(Waker::noop());
    for n in 0..1000 {
        let line = format!("{n:9}\n");
        let written = pin!(file.append(line.as_bytes())).poll(&mut context);
        assert!(
            matches!(written, Poll::Ready(Ok(offset)) if offset == n * 10),
            "line {n}"
        );
    }
    assert_eq!(world.server.counts().total(), 0);
    let mut out = ReadBytes::default();
    let stream = ReadStream::default();
    assert!(
        pin!(file.read(&stream, 9_990, 100, &mut out))
            .poll(&mut context)
            .is_ready()
    );
    assert_eq!(out.as_slice(), b"      999\n");
}

#[test]
fn attributes_travel_with_the_content_and_alone() {
    run(async {
        let world = World::start(64 * MIB).await;
        let file = world.new_file("a");
        file.write(0, b"hello").await.expect("written");
        let mtime = UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let attributes = Attributes {
            mode: Some(0o100_640),
            mtime: Some(mtime),
            ..file.attributes()
        };
        file.set_attributes(attributes);
        let committed = file.commit().await.expect("committed").expect("new");
        assert_eq!(committed.attributes.mtime, Some(mtime));
        let stored = Attributes::read(&world.head("a").await.headers.metadata);
        assert_eq!((stored.mode, stored.mtime), (Some(0o100_640), Some(mtime)));
        world.server.counts().reset();
        file.set_attributes(Attributes {
            mode: Some(0o100_600),
            ..attributes
        });
        assert!(file.is_dirty());
        file.commit().await.expect("committed").expect("changed");
        assert_eq!(
            (world.count(Operation::Copy), world.server.counts().total()),
            (1, 1)
        );
        let stored = Attributes::read(&world.head("a").await.headers.metadata);
        assert_eq!((stored.mode, stored.mtime), (Some(0o100_600), Some(mtime)));
        assert_eq!(world.stored("a").await, b"hello");
        file.write(5, b"!").await.expect("written");
        assert_ne!(
            file.attributes().mtime,
            Some(mtime),
            "a write sets the time again"
        );
    });
}

#[test]
fn an_existing_file_is_changed_in_place() {
    run(async {
        let world = World::start(64 * MIB).await;
        let mut content = data(1, 100_000);
        let file = world.existing("a", &content).await;
        assert!(!file.is_dirty());
        file.write(50_000, b"changed").await.expect("written");
        content[50_000..50_007].copy_from_slice(b"changed");
        assert_same(&read(&file, 0, 200_000).await, &content);
        file.truncate(60_000).await.expect("cut");
        file.truncate(70_000).await.expect("extended");
        content.truncate(60_000);
        content.resize(70_000, 0);
        assert_same(&read(&file, 0, 200_000).await, &content);
        file.commit().await.expect("committed").expect("changed");
        assert_same(&world.stored("a").await, &content);
    });
}

#[test]
fn what_is_written_while_a_commit_runs_is_in_the_next_one() {
    run(async {
        let world = World::start(64 * MIB).await;
        let file = world.new_file("a");
        file.write(0, b"first").await.expect("written");
        world.server.faults().inject(
            pailfs::embedded::When::on(Operation::Put),
            pailfs::embedded::Fault::Delay(Duration::from_millis(300)),
        );
        let commit = rt::spawn({
            let file = file.clone();
            async move { file.commit().await }
        });
        wait_until("the commit is under way", || world.count(Operation::Put) > 0).await;
        file.write(0, b"SECOND").await.expect("written");
        assert_eq!(read(&file, 0, 10).await, b"SECOND");
        commit.await.expect("no panic").expect("committed");
        assert_eq!(world.stored("a").await, b"first");
        assert!(file.is_dirty());
        file.commit().await.expect("committed");
        assert_eq!(world.stored("a").await, b"SECOND");
        assert!(!file.is_dirty());
    });
}

#[test]
fn many_appenders_leave_whole_lines() {
    run(async {
        let world = World::start(64 * MIB).await;
        let file = world.new_file("a");
        let writers = (0..8u8).map(|writer| {
            let file = file.clone();
            rt::spawn(async move {
                for _ in 0..50 {
                    file.append(&[writer; 999]).await.expect("appended");
                }
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.expect("no panic");
        }
        file.commit().await.expect("committed");
        let content = world.stored("a").await;
        assert_eq!(content.len(), 8 * 50 * 999);
        assert!(
            content
                .chunks(999)
                .all(|line| line.iter().all(|byte| *byte == line[0]))
        );
    });
}

#[test]
fn a_file_renamed_before_its_commit_appears_under_its_new_name_only() {
    run(async {
        let world = World::start(64 * MIB).await;
        let replaced = world.put("new", b"to be replaced").await;
        let file = world.new_file("old");
        file.write(0, b"content").await.expect("written");
        file.rename(ObjectId::new(BUCKET, "new"), Some(replaced))
            .await
            .expect("renamed");
        file.commit().await.expect("committed");
        assert_eq!(world.stored("new").await, b"content");
        assert!(!world.exists("old").await);
    });
}

#[test]
fn an_object_that_moved_is_read_and_changed_under_its_new_name() {
    run(async {
        let world = World::start(64 * MIB).await;
        let file = world.existing("old", b"the same bytes").await;
        let moved = world.put("new", b"the same bytes").await;
        file.rename(ObjectId::new(BUCKET, "new"), Some(moved))
            .await
            .expect("renamed");
        assert_eq!(read(&file, 4, 4).await, b"same");
        assert!(!file.is_dirty());
        file.write(0, b"THE").await.expect("written");
        file.commit().await.expect("committed");
        assert_eq!(world.stored("new").await, b"THE same bytes");
        assert_eq!(world.stored("old").await, b"the same bytes");
    });
}

#[test]
fn what_a_file_needs_of_its_object_can_be_kept_before_the_object_goes() {
    run(async {
        let world = World::start(64 * MIB).await;
        let mut content = data(3, 3 * MIB + 5);
        let file = world.existing("a", &content).await;
        file.write(MIB, b"changed").await.expect("written");
        content[MIB as usize..MIB as usize + 7].copy_from_slice(b"changed");
        file.keep_local().await.expect("fetched");
        world.put("a", b"somebody else's").await;
        assert_same(&read(&file, 0, 4 * MIB).await, &content);
        file.discard().await;
        assert!(!file.is_dirty());
        assert_eq!(world.stored("a").await, b"somebody else's");
        world.expect_all_memory_free().await;
    });
}

#[test]
fn special_files_are_marked_by_their_etag() {
    run(async {
        let world = World::start(64 * MIB).await;
        let id = ObjectId::new(BUCKET, "link");
        let headers = ObjectHeaders::default();
        let version = put_special(&world.context, &id, b"target", &headers, Condition::Absent)
            .await
            .expect("made");
        assert!(version.etag.is_one_part());
        assert_eq!(world.stored("link").await, b"target");
        let second = put_special(&world.context, &id, b"other", &headers, Condition::Absent).await;
        assert_eq!(
            second.err().map(|error| error.kind()),
            Some(ErrorKind::PreconditionFailed)
        );
        assert_eq!(world.stored("link").await, b"target");
        world.expect_no_uploads().await;
    });
}

#[test]
fn nothing_is_written_beyond_the_largest_object() {
    run(async {
        let world = World::start(64 * MIB).await;
        let file = world.new_file("a");
        let error = file.write(5 << 40, b"x").await.expect_err("too far");
        assert_eq!(error.kind(), ErrorKind::TooLarge);
        let error = file.truncate((5 << 40) + 1).await.expect_err("too far");
        assert_eq!(error.kind(), ErrorKind::TooLarge);
        let error = file.write(u64::MAX, b"x").await.expect_err("too far");
        assert_eq!(error.kind(), ErrorKind::TooLarge);
        assert_eq!(file.size_bytes(), 0);
    });
}

#[test]
fn truncating_at_open_is_a_change_now() {
    run(async {
        let world = World::start(64 * MIB).await;
        let long_ago = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let old = Attributes {
            mtime: Some(long_ago),
            ..Attributes::default()
        };
        let version = world.put("a", b"old").await;
        let id = ObjectId::new(BUCKET, "a");
        let file = File::truncating(&world.context, id, version, ObjectHeaders::default(), old);
        file.commit().await.expect("committed");
        let stored = || async { Attributes::read(&world.head("a").await.headers.metadata).mtime };
        assert!(stored().await.expect("a time") > long_ago + Duration::from_secs(1_000_000));
        // Again, with nothing to cut off.
        file.set_attributes(old);
        file.commit().await.expect("committed");
        assert_eq!(stored().await, Some(long_ago));
        file.empty().await.expect("emptied");
        assert!(file.is_dirty());
        file.commit().await.expect("committed");
        assert!(stored().await.expect("a time") > long_ago);
    });
}
