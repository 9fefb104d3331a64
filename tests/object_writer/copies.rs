//! Copies that move no data, holes, and zeroes.

use super::*;
use pailfs::base::object::ByteRange;
use pailfs::embedded::{Fault, When};

/// Nothing needs to be held: these tests unlink nothing.
fn free() -> pailfs::object::file::Hold {
    Arc::new(())
}

async fn copy(to: &Arc<File>, offset: u64, from: &Arc<File>, range: std::ops::Range<u64>) -> u64 {
    let range = ByteRange::new(range.start, range.end);
    to.take_copy(offset, from, range, free()).await.expect("copied")
}

#[test]
fn a_whole_copy_is_one_request_and_no_data() {
    run(async {
        let world = World::start(64 * MIB).await;
        for size_bytes in [10, 12 * MIB] {
            let content = data(1, size_bytes);
            let from = world.existing("from", &content).await;
            let to = world.create(&format!("to{size_bytes}"), Creation::Exclusive);
            world.server.counts().reset();
            assert_eq!(copy(&to, 0, &from, 0..size_bytes).await, size_bytes);
            to.commit().await.expect("committed");
            assert_eq!(world.count(Operation::Copy), 1);
            assert_eq!(
                world.server.counts().total(),
                1,
                "{:?}",
                world.server.counts().all()
            );
            assert_same(&world.stored(&format!("to{size_bytes}")).await, &content);
            assert_same(&read(&to, 0, size_bytes).await, &content);
        }
    });
}

#[test]
fn parts_of_several_objects_become_one() {
    run(async {
        let world = World::start(64 * MIB).await;
        let (first, second) = (data(1, 20 * MIB), data(2, 30 * MIB));
        let from_first = world.existing("first", &first).await;
        let from_second = world.existing("second", &second).await;
        let to = world.new_file("to");
        copy(&to, 0, &from_first, 0..20 * MIB).await;
        copy(&to, 20 * MIB, &from_second, 10 * MIB..30 * MIB).await;
        to.write(20 * MIB - 3, b"bridge").await.expect("written");
        copy(&to, 40 * MIB, &from_first, 5 * MIB..12 * MIB).await;
        let mut expected = [
            &first[..],
            &second[10 * MIB as usize..],
            &first[5 * MIB as usize..12 * MIB as usize],
        ]
        .concat();
        expected[20 * MIB as usize - 3..20 * MIB as usize + 3].copy_from_slice(b"bridge");
        assert_same(
            &read(&to, 19 * MIB, 3 * MIB).await,
            &expected[19 * MIB as usize..22 * MIB as usize],
        );
        world.server.counts().reset();
        to.commit().await.expect("committed");
        let sent = world.server.counts().received_bytes();
        assert!(sent < 7 * MIB, "{sent} bytes were sent");
        assert_same(&world.stored("to").await, &expected);
    });
}

#[test]
fn what_is_not_in_an_object_cannot_be_shared() {
    run(async {
        let world = World::start(64 * MIB).await;
        let from = world.existing("from", &data(1, 100)).await;
        from.write(50, b"local").await.expect("written");
        let to = world.new_file("to");
        assert_eq!(copy(&to, 0, &from, 0..100).await, 50);
        assert_eq!(
            copy(&to, 50, &from, 50..100).await,
            0,
            "the caller has to carry it"
        );
        assert_eq!(copy(&from, 0, &from, 60..100).await, 0);
    });
}

#[test]
fn a_version_that_is_about_to_change_is_copied_before() {
    run(async {
        let world = World::start(64 * MIB).await;
        let content = data(1, 12 * MIB);
        let from = world.existing("from", &content).await;
        let to = world.new_file("to");
        copy(&to, 0, &from, 0..12 * MIB).await;
        to.write(0, b"own").await.expect("written");
        from.write(0, b"changed").await.expect("written");
        from.commit().await.expect("committed");
        let mut expected = content.clone();
        expected[..3].copy_from_slice(b"own");
        assert_same(&world.stored("to").await, &expected);
        assert!(to.take_committed().is_some(), "somebody has to be told");
        to.commit().await.expect("nothing more to do");
        assert_same(&read(&to, 0, 12 * MIB).await, &expected);
        assert!(world.conflicts().is_empty());
    });
}

/// What is copied while the source has earlier copies committed is not in that commit.
#[test]
fn what_is_copied_while_earlier_copies_are_settled_is_settled_too() {
    run(async {
        let world = World::start(64 * MIB).await;
        let content = data(1, 12 * MIB);
        let from = world.existing("from", &content).await;
        let to = world.new_file("to");
        copy(&to, 0, &from, 0..6 * MIB).await;
        let slow = Fault::Delay(Duration::from_millis(500));
        let is_sending = world.server.faults().inject(When::on(Operation::Complete), slow);
        let settling = async {
            from.settle_copies().await.expect("settled");
            // As after a rename, or a new file under the name.
            world.put("from", b"theirs").await;
        };
        let copying = async {
            wait_until("the first copy is sent", || {
                world.server.faults().struck(is_sending) == 1
            })
            .await;
            copy(&to, 6 * MIB, &from, 6 * MIB..12 * MIB).await;
        };
        tokio::join!(settling, copying);
        to.commit().await.expect("committed");
        assert_same(&world.stored("to").await, &content);
    });
}

#[test]
fn two_files_can_copy_from_each_other() {
    run(async {
        let world = World::start(64 * MIB).await;
        let (first, second) = (data(1, 8 * MIB), data(2, 8 * MIB));
        let one = world.existing("one", &first).await;
        let other = world.existing("other", &second).await;
        assert_eq!(copy(&one, 8 * MIB, &other, 0..8 * MIB).await, 8 * MIB);
        // The copy is committed first, as what it copies is about to be written to.
        assert_eq!(copy(&other, 0, &one, 0..6 * MIB).await, 6 * MIB);
        let (committed_one, committed_other) = tokio::join!(one.commit(), other.commit());
        committed_one.expect("committed");
        committed_other.expect("committed");
        assert_same(&world.stored("one").await, &[&first[..], &second[..]].concat());
        let expected = [&first[..6 * MIB as usize], &second[6 * MIB as usize..]].concat();
        assert_same(&world.stored("other").await, &expected);
    });
}

#[test]
fn a_copy_has_its_own_metadata() {
    run(async {
        let world = World::start(64 * MIB).await;
        let request = PutRequest {
            id: ObjectId::new(BUCKET, "from"),
            body: bytes::Bytes::from_static(b"content").into(),
            checksum: Crc32c::of(b"content"),
            condition: Condition::None,
            headers: ObjectHeaders {
                content_type: Some("text/x-theirs".to_owned()),
                tagging: Some("theirs=1".to_owned()),
                ..ObjectHeaders::default()
            },
        };
        let version = world.context.client.put(&request).await.expect("stored");
        let from = world.open("from", version);
        let to = world.new_file("to");
        copy(&to, 0, &from, 0..7).await;
        to.commit().await.expect("committed");
        let info = world.head("to").await;
        assert_eq!(info.headers.unread_tags, 0);
        assert_ne!(info.headers.content_type.as_deref(), Some("text/x-theirs"));
        assert_eq!(world.stored("to").await, b"content");
    });
}

#[test]
fn a_copy_of_what_is_gone_is_an_error_and_keeps_what_was_written() {
    run(async {
        let world = World::start(64 * MIB).await;
        let from = world.existing("from", &data(1, 12 * MIB)).await;
        let to = world.new_file("to");
        copy(&to, 0, &from, 0..12 * MIB).await;
        to.append(b"own").await.expect("written");
        world.put("from", b"theirs").await;
        let error = to.commit().await.expect_err("the source is gone");
        assert_eq!(error.kind(), pailfs::base::error::ErrorKind::Stale);
        assert!(!world.exists("to").await);
        assert_eq!(world.conflicts().len(), 1);
    });
}

#[test]
fn copies_of_unsent_files_survive_a_restart() {
    run(async {
        let world = World::start(64 * MIB).await;
        let content = data(1, 12 * MIB);
        let from = world.existing("from", &content).await;
        let to = world.new_file("to");
        copy(&to, 0, &from, 0..12 * MIB).await;
        to.append(b"own").await.expect("written");
        to.persist().await.expect("saved");
        drop((to, from));
        let (leftovers, _server, _dir, context) = world.leftovers().await;
        let (record, unsent) = leftovers.unsent.first().expect("recorded").clone();
        let file = File::restore(&context, record, &unsent).expect("restored");
        assert_same(&read(&file, 0, 13 * MIB).await, &[&content[..], b"own"].concat());
    });
}

#[test]
fn ranges_become_zeroes_and_are_found_as_holes() {
    run(async {
        let world = World::start(64 * MIB).await;
        let mut content = data(1, 30 * MIB);
        let file = world.existing("a", &content).await;
        let (start, end) = (10 * MIB, 10 * MIB + 5);
        file.zero(ByteRange::new(start, end), true)
            .await
            .expect("punched");
        content[start as usize..end as usize].fill(0);
        assert_eq!(file.seek(0, true), Some(0));
        assert_eq!(file.seek(0, false), Some(start));
        assert_eq!(file.seek(start, true), Some(end));
        assert_eq!(file.seek(end, false), Some(30 * MIB));
        assert_eq!(file.seek(30 * MIB, false), None);
        file.zero(ByteRange::new(30 * MIB, 31 * MIB), true)
            .await
            .expect("nothing to do");
        assert_eq!(file.size_bytes(), 30 * MIB);
        file.zero(ByteRange::new(30 * MIB - 1, 31 * MIB), false)
            .await
            .expect("extended");
        content[30 * MIB as usize - 1] = 0;
        content.resize(31 * MIB as usize, 0);
        assert_eq!(file.seek(30 * MIB, true), None, "no data follow");
        file.commit().await.expect("committed");
        assert_same(&world.stored("a").await, &content);
    });
}

/// One changed, appended or cut byte of a large object.
#[test]
fn edits_move_what_they_change() {
    run(async {
        let world = World::start(128 * MIB).await;
        let mut content = data(1, 200 * MIB);
        let mut file = world.existing("a", &content).await;
        for edit in 0..4 {
            world.server.counts().reset();
            match edit {
                0 => {
                    file.write(100 * MIB + 7, b"x").await.expect("written");
                    content[100 * MIB as usize + 7] = b'x';
                }
                1 => {
                    file.append(b"y").await.expect("appended");
                    content.push(b'y');
                }
                2 => {
                    file.truncate(150 * MIB + 1).await.expect("truncated");
                    content.truncate(150 * MIB as usize + 1);
                }
                _ => {
                    file.truncate(151 * MIB).await.expect("extended");
                    content.resize(151 * MIB as usize, 0);
                }
            }
            file.commit().await.expect("committed");
            let counts = world.server.counts();
            let (up, down) = (counts.received_bytes(), counts.sent_bytes());
            assert!(
                up < 20 * MIB && down < 20 * MIB,
                "edit {edit}: {up} bytes up, {down} down"
            );
            assert!(counts.total() <= 20, "edit {edit}: {:?}", counts.all());
        }
        assert_same(&world.stored("a").await, &content);
        file = world.new_file("b");
        file.truncate(40 * MIB).await.expect("extended");
        file.commit().await.expect("committed");
        assert_same(&world.stored("b").await, &vec![0; 40 * MIB as usize]);
    });
}
