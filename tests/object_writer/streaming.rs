//! Files larger than the memory budget, parts sent while the program writes, parts that change or are needed again.

use super::*;
use pailfs::embedded::{Fault, When};
use std::time::UNIX_EPOCH;

async fn write_all(file: &File, content: &[u8], offset: u64, step: usize) {
    for (n, piece) in content.chunks(step).enumerate() {
        file.write(offset + (n * step) as u64, piece)
            .await
            .expect("written");
    }
}

#[test]
fn a_stream_larger_than_the_budget_goes_up_while_it_is_written() {
    run(async {
        let world = World::start(40 * MIB).await;
        let file = world.new_file("a");
        let content = data(1, 100 * MIB + 123);
        write_all(&file, &content, 0, 128 << 10).await;
        assert!(
            world.count(Operation::UploadPart) > 4,
            "parts were sent before the commit"
        );
        assert_eq!(world.count(Operation::Complete), 0);
        file.commit().await.expect("committed").expect("new");
        assert_same(&world.stored("a").await, &content);
        let part_count = content.len().div_ceil(8 * MIB as usize) as u64;
        assert_eq!(
            world.count(Operation::UploadPart),
            part_count,
            "each byte went up once"
        );
        assert_eq!(world.count(Operation::CreateUpload), 1);
        assert_eq!(world.count(Operation::Put), 0);
        assert!(!file.is_dirty());
        world.expect_all_memory_free().await;
        drop(file);
        let (leftovers, ..) = world.leftovers().await;
        assert!(leftovers.uploads.is_empty());
    });
}

#[test]
fn several_streams_share_a_small_budget() {
    run(async {
        let world = World::start(48 * MIB).await;
        let streams = (0..4u64).map(|number| {
            let file = world.new_file(&format!("f{number}"));
            rt::spawn(async move {
                let content = data(number, 30 * MIB + number);
                write_all(&file, &content, 0, 100_000).await;
                file.commit().await.expect("committed");
            })
        });
        for stream in streams.collect::<Vec<_>>() {
            stream.await.expect("no panic");
        }
        for number in 0..4 {
            assert_same(
                &world.stored(&format!("f{number}")).await,
                &data(number, 30 * MIB + number),
            );
        }
        world.expect_all_memory_free().await;
    });
}

#[test]
fn a_part_that_changes_before_the_commit_is_sent_again() {
    run(async {
        let world = World::start(256 * MIB).await;
        let file = world.new_file("a");
        let mut content = data(1, 40 * MIB);
        write_all(&file, &content, 0, MIB as usize).await;
        wait_until("parts were sent", || world.count(Operation::UploadPart) >= 2).await;
        file.write(12 * MIB + 5, b"changed").await.expect("written");
        content[(12 * MIB + 5) as usize..][..7].copy_from_slice(b"changed");
        file.write(17 * MIB, &data(9, 3 * MIB)).await.expect("written");
        content[(17 * MIB) as usize..(20 * MIB) as usize].copy_from_slice(&data(9, 3 * MIB));
        assert_same(&read(&file, 0, 50 * MIB).await, &content);
        file.commit().await.expect("committed");
        assert_same(&world.stored("a").await, &content);
        assert_eq!(world.count(Operation::Complete), 1);
    });
}

#[test]
fn reading_what_is_only_in_parts_commits_early_once() {
    run(async {
        let world = World::start(32 * MIB).await;
        let file = world.new_file("a");
        let mut content = data(1, 80 * MIB);
        write_all(&file, &content, 0, MIB as usize).await;
        assert_same(
            &read(&file, 16 * MIB, 4 * MIB).await,
            &content[16 * MIB as usize..20 * MIB as usize],
        );
        assert_eq!(
            world.count(Operation::Complete),
            1,
            "what was there is an object now"
        );
        let more = data(2, 60 * MIB);
        write_all(&file, &more, 80 * MIB, MIB as usize).await;
        content.extend_from_slice(&more);
        file.write(100 * MIB, b"changed").await.expect("written");
        content[100 * MIB as usize..][..7].copy_from_slice(b"changed");
        for start in [0, 90 * MIB, 139 * MIB] {
            let end = (start + MIB) as usize;
            assert_same(&read(&file, start, MIB).await, &content[start as usize..end]);
        }
        assert_eq!(
            world.count(Operation::Complete),
            1,
            "later parts stay here as well"
        );
        let committed = file.commit().await.expect("committed").expect("changed");
        assert_eq!(committed.version.size_bytes, 140 * MIB);
        assert_same(&world.stored("a").await, &content);
        assert!(world.count(Operation::UploadPartCopy) > 0);
    });
}

#[test]
fn one_byte_of_a_large_object_moves_few_megabytes() {
    run(async {
        let world = World::start(64 * MIB).await;
        let mut content = data(1, 60 * MIB);
        let file = world.existing("a", &content).await;
        let metrics = world.context.client.metrics().clone();
        let sent = || metrics.sent_bytes.load(std::sync::atomic::Ordering::Relaxed);
        let before = sent();
        file.write(30 * MIB, b"!").await.expect("written");
        content[30 * MIB as usize] = b'!';
        file.commit().await.expect("committed");
        assert!(sent() - before < 6 * MIB, "{} bytes sent", sent() - before);
        assert_same(&world.stored("a").await, &content);
        file.append(b"tail").await.expect("appended");
        content.extend_from_slice(b"tail");
        let before = sent();
        file.commit().await.expect("committed");
        assert!(sent() - before < MIB, "{} bytes sent", sent() - before);
        assert_same(&world.stored("a").await, &content);
        assert!(!world.head("a").await.version.etag.is_one_part());
    });
}

#[test]
fn random_writes_beyond_the_budget_go_through_the_spool() {
    run(async {
        let world = World::start(24 * MIB).await;
        let file = world.new_file("a");
        let size = 60 * MIB as usize;
        let mut content = vec![0; size];
        // Every other 64 KiB, from the end: nothing that could be sent ahead.
        for (n, start) in (0..size).step_by(64 << 10).rev().enumerate() {
            let piece = data(n as u64, 48 << 10);
            file.write(start as u64, &piece).await.expect("written");
            content[start..start + piece.len()].copy_from_slice(&piece);
        }
        content.truncate(file.size_bytes() as usize);
        assert_same(&read(&file, 0, 64 * MIB).await, &content);
        file.write(MIB, &data(7, MIB)).await.expect("written");
        content[MIB as usize..2 * MIB as usize].copy_from_slice(&data(7, MIB));
        file.commit().await.expect("committed");
        assert_same(&world.stored("a").await, &content);
        world.expect_all_memory_free().await;
    });
}

/// Both parts of the file wait for memory that only their own chunks hold, most of which were overwritten.
#[test]
fn parts_that_have_to_load_bytes_wait_for_no_memory_of_their_own() {
    run(async {
        for others_bytes in [0, 2 * MIB, 7 * MIB / 2] {
            let world = World::start(32 * MIB).await;
            let mut content = data(1, 16 * MIB);
            let file = world.existing("a", &content).await;
            let refused = When::on(Operation::CreateUpload).nth(1);
            let faults = world.server.store().faults();
            faults.inject(refused, Fault::Answer("InvalidRequest"));
            for (round, len) in [(2, MIB), (3, 3 * MIB / 4)] {
                // All but two, one in each part, which stay as they are in the object.
                for slot in (0..16).filter(|slot| ![5, 10].contains(slot)) {
                    let piece = data(round, len);
                    let start = slot * MIB;
                    file.write(start, &piece).await.expect("written");
                    content[start as usize..(start + len) as usize].copy_from_slice(&piece);
                }
                if round == 2 {
                    // What was tried is sealed: from now on what is written needs new memory.
                    file.commit().await.expect_err("refused");
                }
            }
            let others = world.context.budget.acquire(others_bytes).await.expect("free");
            file.commit().await.expect("committed");
            drop(others);
            assert_same(&world.stored("a").await, &content);
            world.expect_all_memory_free().await;
        }
    });
}

#[test]
fn truncation_below_sent_parts_is_planned_anew() {
    run(async {
        for (cut, budget) in [(3, 256), (20, 256), (44, 256), (20, 32), (24, 32), (0, 32)] {
            let world = World::start(budget * MIB).await;
            let file = world.new_file("a");
            let mut content = data(1, 60 * MIB);
            write_all(&file, &content, 0, MIB as usize).await;
            file.truncate(cut * MIB).await.expect("cut");
            content.truncate((cut * MIB) as usize);
            assert_eq!(file.size_bytes(), cut * MIB);
            file.append(b"end").await.expect("appended");
            content.extend_from_slice(b"end");
            file.commit().await.expect("committed");
            assert_same(&world.stored("a").await, &content);
            world.expect_no_uploads().await;
            world.expect_all_memory_free().await;
        }
    });
}

#[test]
fn attributes_set_late_are_stored_with_a_streamed_file() {
    run(async {
        let world = World::start(64 * MIB).await;
        let file = world.new_file("a");
        let content = data(1, 30 * MIB);
        write_all(&file, &content, 0, MIB as usize).await;
        wait_until("the upload began", || world.count(Operation::CreateUpload) == 1).await;
        let mtime = UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        file.set_attributes(Attributes {
            mtime: Some(mtime),
            mode: Some(0o100_600),
            ..file.attributes()
        });
        let committed = file.commit().await.expect("committed").expect("new");
        let head = world.head("a").await;
        assert_eq!(committed.version.etag, head.version.etag);
        assert_eq!(committed.attributes.mtime, Some(mtime));
        assert_eq!(Attributes::read(&head.headers.metadata).mtime, Some(mtime));
        assert_eq!(world.count(Operation::Copy), 1);
        assert!(!file.is_dirty());
        assert_same(
            &read(&file, MIB, MIB).await,
            &content[MIB as usize..2 * MIB as usize],
        );
    });
}

#[test]
fn a_streamed_file_renamed_before_its_commit_leaves_nothing_under_its_old_name() {
    run(async {
        for budget in [32, 256] {
            let world = World::start(budget * MIB).await;
            let file = world.new_file("old");
            let content = data(1, 60 * MIB);
            write_all(&file, &content, 0, MIB as usize).await;
            file.rename(ObjectId::new(BUCKET, "new"), None)
                .await
                .expect("renamed");
            file.commit().await.expect("committed").expect("new");
            assert_same(&world.stored("new").await, &content);
            assert!(!world.exists("old").await);
            world.expect_no_uploads().await;
        }
    });
}

#[test]
fn discarding_a_streamed_file_aborts_its_upload() {
    run(async {
        let world = World::start(64 * MIB).await;
        let file = world.new_file("a");
        write_all(&file, &data(1, 40 * MIB), 0, MIB as usize).await;
        file.discard().await;
        assert_eq!(world.count(Operation::Abort), 1);
        assert!(!file.is_dirty());
        assert!(file.commit().await.expect("nothing to do").is_none());
        assert!(!world.exists("a").await);
        world.expect_all_memory_free().await;
        drop(file);
        let (leftovers, ..) = world.leftovers().await;
        assert!(leftovers.uploads.is_empty());
    });
}
