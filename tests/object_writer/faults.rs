//! Lost replies, failing requests, and what the next mount finds.

use super::*;
use pailfs::base::error::ErrorKind;
use pailfs::embedded::{Fault, When};

#[test]
fn a_lost_reply_is_resolved_by_looking() {
    run(async {
        let world = World::start(64 * MIB).await;
        world
            .server
            .faults()
            .inject(When::on(Operation::Put), Fault::LoseReply);
        let file = world.create("a", Creation::Exclusive);
        file.write(0, b"once").await.expect("written");
        let committed = file.commit().await.expect("committed").expect("new");
        assert_eq!(world.count(Operation::Put), 1, "it was not sent again");
        assert_eq!(world.head("a").await.version.etag, committed.version.etag);
        world
            .server
            .faults()
            .inject(When::on(Operation::Put), Fault::LoseReply);
        file.write(0, b"twice").await.expect("written");
        file.commit().await.expect("committed").expect("changed");
        assert_eq!(world.stored("a").await, b"twice");
        assert!(world.conflicts().is_empty());
    });
}

#[test]
fn a_request_that_was_lost_itself_is_sent_again() {
    run(async {
        let world = World::start(64 * MIB).await;
        world
            .server
            .faults()
            .inject(When::on(Operation::Put), Fault::Disconnect);
        let file = world.new_file("a");
        file.write(0, b"content").await.expect("written");
        file.commit().await.expect("committed").expect("new");
        assert_eq!(world.stored("a").await, b"content");
        assert!(world.conflicts().is_empty());
    });
}

#[test]
fn a_lost_completion_is_resolved_by_looking() {
    run(async {
        let world = World::start(64 * MIB).await;
        world
            .server
            .faults()
            .inject(When::on(Operation::Complete), Fault::LoseReply);
        let file = world.new_file("a");
        let content = data(1, 30 * MIB);
        for (n, piece) in content.chunks(MIB as usize).enumerate() {
            file.write(n as u64 * MIB, piece).await.expect("written");
        }
        file.commit().await.expect("committed").expect("new");
        assert_eq!(world.count(Operation::Complete), 1);
        assert_same(&world.stored("a").await, &content);
        assert!(world.conflicts().is_empty());
    });
}

#[test]
fn a_commit_whose_outcome_stays_unknown_is_found_to_have_happened_later() {
    run(async {
        let world = World::start(64 * MIB).await;
        let faults = world.server.faults();
        faults.inject(When::on(Operation::Put), Fault::LoseReply);
        faults.inject(
            When::on(Operation::Head).for_ever(),
            Fault::Answer("AccessDenied"),
        );
        let file = world.new_file("a");
        file.write(0, b"first").await.expect("written");
        let error = file.commit().await.expect_err("nobody can tell");
        assert_eq!(error.kind(), ErrorKind::Ambiguous);
        assert!(file.is_dirty());
        file.write(0, b"FIRST and more").await.expect("written");
        assert_eq!(read(&file, 0, 100).await, b"FIRST and more");
        faults.clear();
        file.commit().await.expect("committed").expect("changed");
        assert_eq!(world.stored("a").await, b"FIRST and more");
        assert!(world.conflicts().is_empty());
        assert!(!file.is_dirty());
    });
}

#[test]
fn a_failed_commit_leaves_the_file_dirty_and_readable() {
    run(async {
        let world = World::start(64 * MIB).await;
        let denied = world
            .server
            .faults()
            .inject(When::on(Operation::Put).for_ever(), Fault::Answer("AccessDenied"));
        let file = world.new_file("a");
        file.write(0, b"content").await.expect("written");
        assert_eq!(file.commit().await.expect_err("denied").kind(), ErrorKind::Denied);
        assert!(file.is_dirty());
        assert_eq!(read(&file, 0, 10).await, b"content");
        world.server.faults().remove(denied);
        file.append(b", more").await.expect("appended");
        file.commit().await.expect("committed").expect("new");
        assert_eq!(world.stored("a").await, b"content, more");
    });
}

#[test]
fn parts_that_fail_while_streaming_are_sent_by_the_commit() {
    run(async {
        let world = World::start(256 * MIB).await;
        let faults = world.server.faults();
        faults.inject(
            When::on(Operation::UploadPart).nth(2).times(2),
            Fault::Answer("AccessDenied"),
        );
        let file = world.new_file("a");
        let content = data(1, 60 * MIB);
        for (n, piece) in content.chunks(MIB as usize).enumerate() {
            file.write(n as u64 * MIB, piece).await.expect("written");
        }
        wait_until("a part was refused", || world.count(Operation::UploadPart) >= 2).await;
        faults.clear();
        file.commit().await.expect("committed").expect("new");
        assert_same(&world.stored("a").await, &content);
    });
}

#[test]
fn an_upload_that_the_store_lost_is_begun_anew() {
    run(async {
        let world = World::start(256 * MIB).await;
        let file = world.new_file("a");
        let content = data(1, 40 * MIB);
        for (n, piece) in content.chunks(MIB as usize).enumerate() {
            file.write(n as u64 * MIB, piece).await.expect("written");
        }
        wait_until("parts were sent", || world.count(Operation::UploadPart) >= 3).await;
        world
            .server
            .faults()
            .inject(When::on(Operation::Complete), Fault::Answer("NoSuchUpload"));
        file.commit().await.expect("committed").expect("new");
        assert_eq!(world.count(Operation::CreateUpload), 2);
        assert_same(&world.stored("a").await, &content);
    });
}

#[test]
fn waiting_commits_share_a_failure_and_a_later_one_tries_again() {
    run(async {
        let world = World::start(64 * MIB).await;
        world
            .server
            .faults()
            .inject(When::on(Operation::Put), Fault::Answer("AccessDenied"));
        world
            .server
            .faults()
            .inject(When::on(Operation::Put), Fault::Delay(Duration::from_millis(200)));
        let file = world.new_file("a");
        file.write(0, b"x").await.expect("written");
        file.commit().await.expect_err("denied");
        file.commit().await.expect("committed").expect("new");
        assert_eq!(world.stored("a").await, b"x");
    });
}

#[test]
fn what_could_not_be_sent_is_sent_by_the_next_mount() {
    run(async {
        let world = World::start(64 * MIB).await;
        let mut content = data(1, 300_000);
        let file = world.existing("a", &content).await;
        file.write(1000, b"unsent").await.expect("written");
        content[1000..1006].copy_from_slice(b"unsent");
        file.set_attributes(Attributes {
            mode: Some(0o100_640),
            ..file.attributes()
        });
        file.persist().await.expect("saved");
        file.persist().await.expect("saved already");
        drop(file);
        let (leftovers, server, _dir, context) = world.leftovers().await;
        assert_eq!(leftovers.unsent.len(), 1);
        let (record, unsent) = &leftovers.unsent[0];
        let file = File::restore(&context, *record, unsent).expect("restored");
        assert!(file.is_dirty());
        assert_eq!(file.attributes().mode, Some(0o100_640));
        assert_same(&read(&file, 0, 400_000).await, &content);
        file.commit().await.expect("committed").expect("new");
        let info = context.client.head(&file.id()).await.expect("there");
        assert_eq!(info.version.size_bytes, 300_000);
        assert_same(&read(&file, 0, 400_000).await, &content);
        drop(file);
        drop(server);
    });
}

#[test]
fn a_lost_reply_of_a_former_mount_is_no_conflict() {
    run(async {
        let world = World::start(64 * MIB).await;
        let faults = world.server.faults();
        faults.inject(When::on(Operation::Put), Fault::LoseReply);
        faults.inject(
            When::on(Operation::Head).for_ever(),
            Fault::Answer("AccessDenied"),
        );
        let file = world.new_file("a");
        file.write(0, b"sent").await.expect("written");
        file.commit().await.expect_err("nobody can tell");
        file.append(b" and more").await.expect("appended");
        file.persist().await.expect("saved");
        faults.clear();
        drop(file);
        let (leftovers, server, _dir, context) = world.leftovers().await;
        let (record, unsent) = &leftovers.unsent[0];
        let file = File::restore(&context, *record, unsent).expect("restored");
        file.commit().await.expect("committed").expect("new");
        assert_eq!(read(&file, 0, 100).await, b"sent and more");
        assert!(context.spool.conflicts().expect("listed").is_empty());
        drop(server);
    });
}

/// The next try needs unchanged bytes of the version that the first one has replaced.
#[test]
fn a_change_whose_reply_was_lost_is_found_though_its_source_is_gone() {
    run(async {
        for size_bytes in [4_000_000, 5 * MIB, 10 * MIB] {
            let world = World::start(64 * MIB).await;
            let mut content = data(1, size_bytes);
            let file = world.existing("a", &content).await;
            file.write(100, b"12345").await.expect("written");
            content[100..105].copy_from_slice(b"12345");
            let faults = world.server.faults();
            faults.inject(
                When::on_each(&[Operation::Put, Operation::Complete]),
                Fault::LoseReply,
            );
            faults.inject(
                When::on(Operation::Head).for_ever(),
                Fault::Answer("AccessDenied"),
            );
            file.commit().await.expect_err("nobody can tell");
            faults.clear();
            // What was read of the source is not in memory any more.
            let budget = &world.context.budget;
            drop(budget.acquire(budget.limit_bytes() - 2 * MIB).await);
            file.commit().await.expect("it was stored");
            assert_same(&world.stored("a").await, &content);
            assert!(world.conflicts().is_empty());
            assert_same(&read(&file, 0, size_bytes).await, &content);
        }
    });
}

#[test]
fn an_upload_that_was_given_up_is_not_opened_by_parts_that_wait() {
    run(async {
        let world = World::start(32 * MIB).await;
        let slow = Fault::Delay(Duration::from_millis(300));
        world
            .server
            .faults()
            .inject(When::on(Operation::CreateUpload), slow);
        let file = world.new_file("a");
        let piece = data(1, MIB);
        for n in 0..26 {
            file.write(n * MIB, &piece).await.expect("written");
        }
        file.discard().await;
        drop(file);
        world.expect_all_memory_free().await;
        world.expect_no_uploads().await;
    });
}
