//! Many appenders: every line survives, once.

use super::*;
use pailfs::base::error::ErrorKind;
use pailfs::embedded::{Fault, When};
use pailfs::spool::ConflictForm;

fn lines(text: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(text).into_owned();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn appended_bytes_go_behind_a_newer_version() {
    run(async {
        let world = World::start(64 * MIB).await;
        let file = world.existing("a", b"base\n").await;
        file.append(b"ours\n").await.expect("appended");
        world.put("a", b"theirs is longer\n").await;
        let committed = file.commit().await.expect("committed").expect("something new");
        assert!(committed.rebased.is_some(), "the bytes moved");
        assert_eq!(world.stored("a").await, b"theirs is longer\nours\n");
        assert_eq!(read(&file, 0, 100).await, b"theirs is longer\nours\n");
        file.append(b"more\n").await.expect("appended");
        let committed = file.commit().await.expect("committed").expect("something new");
        assert!(committed.rebased.is_none());
        assert_eq!(world.stored("a").await, b"theirs is longer\nours\nmore\n");
        assert!(world.conflicts().is_empty());
        drop(file);
        world.expect_all_memory_free().await;
    });
}

#[test]
fn anything_but_appending_is_a_conflict() {
    run(async {
        let world = World::start(64 * MIB).await;
        for rewrite in [0, 1, 2] {
            let file = world.existing("a", b"base").await;
            file.append(b"ours").await.expect("appended");
            match rewrite {
                0 => file.write(0, b"B").await.expect("written"),
                1 => file.truncate(6).await.expect("truncated"),
                // At the end, but by a program that chose the place.
                _ => file.write(8, b"x").await.expect("written"),
            }
            world.put("a", b"theirs").await;
            let error = file.commit().await.expect_err("a conflict");
            assert_eq!(error.kind(), ErrorKind::Stale);
            assert_eq!(world.stored("a").await, b"theirs");
        }
        assert_eq!(world.conflicts().len(), 3);
    });
}

#[test]
fn who_creates_and_appends_comes_behind_another_creator() {
    run(async {
        let world = World::start(64 * MIB).await;
        let plain = world.create("a", Creation::Plain);
        let exclusive = world.create("a", Creation::Exclusive);
        plain.append(b"plain\n").await.expect("appended");
        exclusive.append(b"exclusive\n").await.expect("appended");
        world.put("a", b"theirs\n").await;
        plain.commit().await.expect("committed");
        let error = exclusive.commit().await.expect_err("a conflict");
        assert_eq!(error.kind(), ErrorKind::Exists);
        assert_eq!(world.stored("a").await, b"theirs\nplain\n");
    });
}

#[test]
fn what_others_said_about_the_object_stays() {
    run(async {
        let world = World::start(64 * MIB).await;
        let file = world.existing("a", b"base\n").await;
        file.append(b"ours\n").await.expect("appended");
        let mut headers = ObjectHeaders {
            content_type: Some("text/x-log".to_owned()),
            ..ObjectHeaders::default()
        };
        headers.metadata.insert("colour".to_owned(), "red".to_owned());
        let request = PutRequest {
            id: ObjectId::new(BUCKET, "a"),
            body: bytes::Bytes::from_static(b"theirs\n").into(),
            checksum: Crc32c::of(b"theirs\n"),
            condition: Condition::None,
            headers,
        };
        world.context.client.put(&request).await.expect("stored");
        file.commit().await.expect("committed");
        let info = world.head("a").await;
        assert_eq!(info.headers.content_type.as_deref(), Some("text/x-log"));
        assert_eq!(
            info.headers.metadata.get("colour").map(String::as_str),
            Some("red")
        );
    });
}

#[test]
fn appending_behind_a_large_newer_version_moves_only_what_was_appended() {
    run(async {
        let world = World::start(64 * MIB).await;
        let theirs = data(2, 40 * MIB);
        let file = world.existing("a", &data(1, 30 * MIB)).await;
        file.append(b"ours").await.expect("appended");
        world.put("a", &theirs).await;
        world.server.counts().reset();
        file.commit().await.expect("committed");
        let sent = world.server.counts().received_bytes();
        assert!(sent < 2 * MIB, "{sent} bytes were sent");
        let stored = world.stored("a").await;
        assert_same(&stored[..theirs.len()], &theirs);
        assert_eq!(&stored[theirs.len()..], b"ours");
    });
}

#[test]
fn attributes_that_were_set_with_an_append_keep_what_others_appended() {
    run(async {
        let world = World::start(64 * MIB).await;
        let version = world.put("a", b"base\n").await;
        let (lost, ours) = (world.open("a", version.clone()), world.open("a", version));
        lost.append(b"lost\n").await.expect("appended");
        let faults = world.server.faults();
        faults.inject(When::on(Operation::Put), Fault::LoseReply);
        faults.inject(
            When::on(Operation::Head).for_ever(),
            Fault::Answer("AccessDenied"),
        );
        lost.commit().await.expect_err("nobody knows");
        faults.clear();
        ours.append(b"ours\n").await.expect("appended");
        ours.set_attributes(Attributes {
            uid: Some(7),
            ..ours.attributes()
        });
        ours.commit().await.expect("committed");
        lost.commit().await.expect("committed");
        assert_eq!(world.stored("a").await, b"base\nlost\nours\n");
    });
}

/// Attributes that come too late for an upload in parts are a copy of the object: it still says which write it was.
#[test]
fn late_attributes_hand_on_the_identity_of_the_upload() {
    run(async {
        let world = World::start(64 * MIB).await;
        let file = world.new_file("a");
        file.write(0, &data(1, 40 * MIB)).await.expect("written");
        file.set_attributes(Attributes {
            uid: Some(7),
            ..file.attributes()
        });
        file.commit().await.expect("committed");
        assert_eq!(world.count(Operation::Copy), 1, "the test needs late attributes");
        let before = world.head("a").await.headers.metadata;
        assert!(before.contains_key("pailfs-appends"), "{before:?}");
        file.append(b"more").await.expect("appended");
        file.commit().await.expect("committed");
        let after = world.head("a").await.headers.metadata;
        let expected = format!("{},{}", before["pailfs-txn"], before["pailfs-appends"]);
        assert_eq!(after["pailfs-appends"], expected);
    });
}

/// Appends wait in the spool while another version takes the place of the one that they were behind.
#[test]
fn appended_bytes_in_the_spool_move_too() {
    run(async {
        let world = World::start(32 * MIB).await;
        let file = world.existing("a", b"base").await;
        let ours = data(3, 20 * MIB);
        for piece in ours.chunks(MIB as usize) {
            file.append(piece).await.expect("appended");
        }
        world.put("a", &data(2, 3 * MIB + 5)).await;
        file.commit().await.expect("committed");
        let stored = world.stored("a").await;
        assert_same(&stored[3 * MIB as usize + 5..], &ours);
        assert!(world.conflicts().is_empty());
    });
}

/// The memory for moving them is what they take themselves.
#[test]
fn appended_bytes_in_the_spool_move_though_all_memory_is_taken() {
    run(async {
        let world = World::start(32 * MIB).await;
        let file = world.new_file("a");
        let refused = When::on(Operation::UploadPart).for_ever();
        let faults = world.server.faults();
        faults.inject(refused, Fault::Answer("AccessDenied"));
        let ours = data(3, 48 * MIB);
        for piece in ours.chunks(MIB as usize) {
            file.append(piece).await.expect("appended");
        }
        faults.clear();
        world.put("a", b"theirs is longer").await;
        let late = When::on(Operation::Complete);
        let is_completing = faults.inject(late, Fault::Delay(Duration::from_millis(500)));
        let taking = async {
            wait_until("all parts are sent", || faults.struck(is_completing) == 1).await;
            let budget = &world.context.budget;
            let taken: Vec<_> = std::iter::from_fn(|| budget.try_acquire(64 << 10)).collect();
            wait_until("they moved", || file.size_bytes() > ours.len() as u64).await;
            drop(taken);
        };
        let (committed, ()) = tokio::join!(file.commit(), taking);
        committed.expect("committed");
        let stored = world.stored("a").await;
        assert_same(&stored[b"theirs is longer".len()..], &ours);
    });
}

/// Most of what was appended is only in parts, which lie behind the version that is gone: nobody can move them.
#[test]
fn appended_bytes_that_are_only_in_parts_are_kept_when_a_newer_version_is_there() {
    run(async {
        for base in [&b""[..], b"base\n"] {
            let world = World::start(32 * MIB).await;
            let file = world.existing("log", base).await;
            let appended = data(1, 80 * MIB);
            for piece in appended.chunks(MIB as usize) {
                file.append(piece).await.expect("appended");
            }
            world.put("log", b"theirs\n").await;
            let error = file.commit().await.expect_err("cannot be moved");
            assert_eq!(error.kind(), ErrorKind::Stale);
            assert_eq!(world.stored("log").await, b"theirs\n");
            assert!(!file.is_dirty(), "kept elsewhere");
            let mut kept_bytes = 0;
            for conflict in world.conflicts() {
                kept_bytes += match &conflict.form {
                    ConflictForm::OpenUpload { parts, .. } => parts.iter().map(|part| part.len_bytes).sum(),
                    ConflictForm::Patch { runs, .. } => runs.iter().map(|(_, len)| len).sum::<u64>(),
                    ConflictForm::Whole { .. } => panic!("not all of it is here: {conflict:?}"),
                };
            }
            assert!(kept_bytes >= 80 * MIB, "{kept_bytes} of {}", 80 * MIB);
            assert_eq!(world.count(Operation::Abort), 0, "the parts stay");
        }
    });
}

#[test]
fn many_appenders_lose_no_line_and_double_none() {
    run(async {
        const WRITERS: usize = 6;
        const LINES: usize = 12;
        let world = World::start(64 * MIB).await;
        let version = world.put("log", b"").await;
        let writers = (0..WRITERS).map(|writer| {
            let file = world.open("log", version.clone());
            rt::spawn(async move {
                for line in 0..LINES {
                    let text = format!("{writer} {line}\n");
                    file.append(text.as_bytes()).await.expect("appended");
                    file.commit().await.expect("committed");
                }
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.expect("no panic");
        }
        let found = lines(&world.stored("log").await);
        for writer in 0..WRITERS {
            let expected: Vec<String> = (0..LINES).map(|line| format!("{writer} {line}")).collect();
            let of_writer: Vec<String> = found
                .iter()
                .filter(|line| line.starts_with(&format!("{writer} ")))
                .cloned()
                .collect();
            assert_eq!(of_writer, expected, "in order, once each");
        }
        assert_eq!(found.len(), WRITERS * LINES);
    });
}

#[test]
fn an_append_whose_reply_was_lost_is_found_under_later_ones() {
    run(async {
        let world = World::start(64 * MIB).await;
        let file = world.existing("a", b"base\n").await;
        file.append(b"ours\n").await.expect("appended");
        // The write happens, the reply does not come, and no look does either.
        let faults = world.server.faults();
        faults.inject(When::on(Operation::Put), Fault::LoseReply);
        faults.inject(
            When::on(Operation::Head).for_ever(),
            Fault::Answer("AccessDenied"),
        );
        file.commit().await.expect_err("nobody knows");
        faults.clear();
        // As an open has it.
        let info = world.head("a").await;
        let (client, budget) = (world.context.client.clone(), world.context.budget.clone());
        let reader = Reader::new(client, budget, ObjectId::new(BUCKET, "a"), info.version);
        let other = File::existing(&world.context, reader, info.headers, Attributes::default());
        other.append(b"theirs\n").await.expect("appended");
        other.commit().await.expect("committed");
        file.append(b"later\n").await.expect("appended");
        file.commit().await.expect("committed");
        assert_eq!(world.stored("a").await, b"base\nours\ntheirs\nlater\n");
    });
}
