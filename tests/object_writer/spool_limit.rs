//! A local disk that is full, or may not be used: what needs it waits, what does not goes on.

use super::*;
use pailfs::base::error::ErrorKind;

impl World {
    /// The disk may not be used, and nobody waits long for memory.
    fn without_disk(&mut self, budget_bytes: u64) {
        self.context.spool.set_limit_bytes(0);
        let context = &self.context;
        self.context = Arc::new(FileContext {
            client: context.client.clone(),
            budget: Budget::new(budget_bytes, Duration::from_secs(6)),
            disk_cache: None,
            spool: context.spool.clone(),
            metadata_format: MetadataFormat::Aws,
            stall_timeout: STALL,
            on_conflict: OnConflict::Keep,
            keep_open: context.keep_open.clone(),
        });
    }
}

#[test]
fn a_stream_needs_no_disk() {
    run(async {
        let mut world = World::start(32 * MIB).await;
        world.without_disk(32 * MIB);
        let file = world.new_file("a");
        let content = data(1, 150 * MIB);
        for (piece, offset) in content.chunks(MIB as usize).zip((0..).step_by(MIB as usize)) {
            file.write(offset, piece).await.expect("written");
        }
        file.commit().await.expect("committed");
        assert_same(&world.stored("a").await, &content);
    });
}

#[test]
fn what_needs_the_disk_is_told_of_its_limit_and_loses_nothing() {
    run(async {
        let mut world = World::start(32 * MIB).await;
        world.without_disk(32 * MIB);
        let file = world.new_file("a");
        file.truncate(64 * MIB).await.expect("a sparse file");
        let mut content = vec![0; 64 * MIB as usize];
        let mut refused = None;
        // Backwards, so that nothing can be sent ahead.
        for block in (0..64).rev() {
            let offset = block * MIB;
            let piece = data(block, MIB);
            match file.write(offset, &piece).await {
                Ok(()) => content[offset as usize..offset as usize + piece.len()].copy_from_slice(&piece),
                Err(error) => {
                    refused = Some(error);
                    break;
                }
            }
        }
        let refused = refused.expect("32 MiB hold less");
        assert_eq!(refused.kind(), ErrorKind::LocalIo(libc::EDQUOT));
        assert_eq!(refused.errno(), libc::EDQUOT);
        assert!(refused.to_string().contains("--spool-size"), "{refused}");
        assert_same(&read(&file, 0, 64 * MIB).await, &content);
        file.commit().await.expect("committed");
        assert_same(&world.stored("a").await, &content);
        // It has memory again.
        file.write(0, b"more").await.expect("written");
        file.commit().await.expect("committed");
    });
}

#[test]
fn what_is_sent_makes_room_again() {
    run(async {
        let world = World::start(32 * MIB).await;
        let spool = &world.context.spool;
        spool.set_limit_bytes(20 * MIB);
        for round in 0..3 {
            let file = world.new_file(&format!("a{round}"));
            file.truncate(64 * MIB).await.expect("a sparse file");
            for block in (0..40).rev() {
                file.write(block * MIB, &data(block, MIB)).await.expect("written");
            }
            assert!(spool.check_room(20 * MIB).is_err(), "the test needs the disk");
            file.commit().await.expect("committed");
            drop(file);
            wait_until("the disk is free", || spool.check_room(20 * MIB).is_ok()).await;
        }
    });
}

/// Half of each MiB is changed, so that every part needs what lies between, and there is nowhere to put what was written.
#[test]
fn what_was_written_is_sent_though_the_disk_takes_nothing_and_memory_is_full() {
    run(async {
        let mut world = World::start(32 * MIB).await;
        world.without_disk(32 * MIB);
        let mut content = data(1, 96 * MIB);
        let file = world.existing("a", &content).await;
        // No spool file can be made.
        std::fs::remove_dir_all(world.state_dir.path()).expect("removed");
        let mut refused = None;
        for block in (0..96).rev() {
            let offset = block * MIB;
            let piece = data(block, MIB / 2);
            match file.write(offset, &piece).await {
                Ok(()) => content[offset as usize..offset as usize + piece.len()].copy_from_slice(&piece),
                Err(error) => {
                    refused = Some(error);
                    break;
                }
            }
        }
        let refused = refused.expect("32 MiB hold less");
        assert!(matches!(refused.kind(), ErrorKind::LocalIo(_)), "{refused}");
        file.commit().await.expect("committed");
        assert_same(&world.stored("a").await, &content);
    });
}

/// As above, with several that need memory to be sent at the same time, each for what it has to load and to read it.
#[test]
fn what_several_files_hold_is_sent_at_once_though_memory_is_full() {
    run(async {
        let mut world = World::start(32 * MIB).await;
        world.without_disk(32 * MIB);
        let mut files = Vec::new();
        for name in ["a", "b", "c"] {
            let content = data(1, 96 * MIB);
            files.push((name, world.existing(name, &content).await, content));
        }
        std::fs::remove_dir_all(world.state_dir.path()).expect("removed");
        'full: for block in (0..96).rev() {
            for (_, file, content) in &mut files {
                let offset = block * MIB;
                let piece = data(block, MIB / 2);
                if file.write(offset, &piece).await.is_err() {
                    break 'full;
                }
                content[offset as usize..offset as usize + piece.len()].copy_from_slice(&piece);
            }
        }
        let commits = files.iter().map(|(_, file, _)| {
            let file = file.clone();
            rt::spawn(async move { file.commit().await.map(drop) })
        });
        let commits: Vec<_> = commits.collect();
        for commit in commits {
            commit.await.expect("no panic").expect("committed");
        }
        for (name, _, content) in &files {
            assert_same(&world.stored(name).await, content);
        }
    });
}
