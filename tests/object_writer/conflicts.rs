//! Other writers: who wins, and that nothing is lost.

use super::*;
use pailfs::base::error::ErrorKind;
use pailfs::spool::ConflictForm;

/// The bytes of a conflict that was kept whole.
fn kept(world: &World, conflict: &Conflict) -> Vec<u8> {
    let ConflictForm::Whole { file_name } = &conflict.form else {
        panic!("not whole: {conflict:?}")
    };
    file_named(world.state_dir.path(), file_name)
}

fn file_named(dir: &Path, name: &str) -> Vec<u8> {
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).expect("a directory").flatten() {
            let path = entry.path();
            if path.is_dir() {
                dirs.push(path);
            } else if path
                .file_name()
                .is_some_and(|found| found.to_string_lossy().contains(name))
            {
                return std::fs::read(path).expect("a readable file");
            }
        }
    }
    panic!("no file {name}");
}

#[test]
fn somebody_elses_newer_object_is_never_overwritten() {
    run(async {
        let world = World::start(64 * MIB).await;
        let file = world.existing("a", b"the base version").await;
        file.write(0, b"our").await.expect("written");
        // Read before it goes: the rest comes from the base.
        assert_eq!(read(&file, 0, 20).await, b"our base version");
        world.put("a", b"theirs").await;
        let error = file.commit().await.expect_err("a conflict");
        assert_eq!(error.kind(), ErrorKind::Stale);
        assert_eq!(world.stored("a").await, b"theirs");
        assert!(!file.is_dirty());
        let conflicts = world.conflicts();
        assert_eq!(conflicts.len(), 1);
        assert_eq!(kept(&world, &conflicts[0]), b"our base version");
        assert_eq!(
            read(&file, 0, 20).await,
            b"our base version",
            "the handle still reads its own"
        );
        assert!(file.commit().await.expect("nothing to do").is_none());
    });
}

#[test]
fn changes_over_a_version_that_is_gone_are_kept_as_a_patch() {
    run(async {
        let world = World::start(64 * MIB).await;
        let file = world.existing("a", &data(1, 20 * MIB)).await;
        file.write(3, b"one").await.expect("written");
        file.write(MIB, b"two").await.expect("written");
        world.put("a", b"theirs").await;
        let error = file.commit().await.expect_err("a conflict");
        assert_eq!(error.kind(), ErrorKind::Stale);
        let conflicts = world.conflicts();
        let ConflictForm::Patch { file_name, runs, .. } = &conflicts[0].form else {
            panic!("not a patch: {conflicts:?}")
        };
        assert_eq!(runs, &[(3, 3), (MIB, 3)]);
        assert_eq!(file_named(world.state_dir.path(), file_name), b"onetwo");
        world.expect_no_uploads().await;
    });
}

#[test]
fn bytes_that_are_only_in_parts_are_kept_as_an_open_upload() {
    run(async {
        let world = World::start(32 * MIB).await;
        let file = world.new_file("a");
        let content = data(1, 80 * MIB);
        for (n, piece) in content.chunks(MIB as usize).enumerate() {
            file.write(n as u64 * MIB, piece).await.expect("written");
        }
        world.put("a", b"theirs").await;
        let error = file.commit().await.expect_err("a conflict");
        assert_eq!(error.kind(), ErrorKind::Stale);
        assert_eq!(world.stored("a").await, b"theirs");
        let conflicts = world.conflicts();
        let ConflictForm::OpenUpload { parts, .. } = &conflicts[0].form else {
            panic!("not an open upload: {conflicts:?}")
        };
        assert_eq!(parts.iter().map(|part| part.len_bytes).sum::<u64>(), 80 * MIB);
        assert_eq!(world.count(Operation::Abort), 0);
        drop(file);
        let (leftovers, ..) = world.leftovers().await;
        assert!(leftovers.uploads.is_empty(), "the next mount must not abort it");
    });
}

#[test]
fn exactly_one_exclusive_creator_wins() {
    run(async {
        let world = World::start(64 * MIB).await;
        let files: Vec<_> = (0..8).map(|_| world.create("a", Creation::Exclusive)).collect();
        let commits = files.iter().enumerate().map(|(n, file)| {
            let file = file.clone();
            rt::spawn(async move {
                file.write(0, &[n as u8]).await.expect("written");
                file.commit().await.map(|_| n)
            })
        });
        let mut winners = Vec::new();
        for commit in commits.collect::<Vec<_>>() {
            match commit.await.expect("no panic") {
                Ok(winner) => winners.push(winner),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Exists),
            }
        }
        assert_eq!(winners.len(), 1);
        assert_eq!(world.stored("a").await, [winners[0] as u8]);
        assert_eq!(
            world.conflicts().len(),
            0,
            "lock files that were not got are not kept"
        );
    });
}

#[test]
fn the_loser_of_an_exclusive_creation_is_kept_where_it_is_more_than_a_lock() {
    run(async {
        let world = World::start(64 * MIB).await;
        let file = world.create("a", Creation::Exclusive);
        let text = data(1, 4097);
        file.write(0, &text).await.expect("written");
        world.put("a", b"theirs").await;
        let error = file.commit().await.expect_err("lost");
        assert_eq!(error.kind(), ErrorKind::Exists);
        assert!(!file.is_dirty());
        assert_eq!(world.conflicts().len(), 1);
    });
}

#[test]
fn an_open_that_truncates_replaces_what_is_older_than_itself() {
    run(async {
        let world = World::start(64 * MIB).await;
        world.put("a", b"older").await;
        // Stores tell whole seconds: the object must be of an earlier one.
        let written = world.head("a").await.version.last_modified;
        wait_until("the next second", || world.context.client.server_time() > written).await;
        let file = world.create("a", Creation::Truncating);
        let plain = world.create("a", Creation::Plain);
        file.write(0, b"new").await.expect("written");
        file.commit().await.expect("committed").expect("new");
        assert_eq!(world.stored("a").await, b"new");
        plain.write(0, b"other").await.expect("written");
        assert_eq!(
            plain.commit().await.expect_err("a conflict").kind(),
            ErrorKind::Stale
        );
    });
}

#[test]
fn an_open_that_truncates_does_not_replace_what_is_newer() {
    run(async {
        let world = World::start(64 * MIB).await;
        let base = world.put("a", b"base").await;
        let id = ObjectId::new(BUCKET, "a");
        let (headers, attributes) = (ObjectHeaders::default(), Attributes::default());
        let file = File::truncating(&world.context, id, base, headers, attributes);
        assert_eq!(file.size_bytes(), 0);
        file.write(0, b"ours").await.expect("written");
        world.put("a", b"newer").await;
        assert_eq!(
            file.commit().await.expect_err("a conflict").kind(),
            ErrorKind::Stale
        );
        assert_eq!(world.stored("a").await, b"newer");
        assert_eq!(kept(&world, &world.conflicts()[0]), b"ours");
    });
}

#[test]
fn an_object_deleted_by_somebody_is_not_recreated_by_an_edit() {
    run(async {
        let world = World::start(64 * MIB).await;
        let file = world.existing("a", b"base").await;
        file.write(0, b"ours").await.expect("written");
        world
            .context
            .client
            .delete(&ObjectId::new(BUCKET, "a"), None)
            .await
            .expect("deleted");
        assert_eq!(
            file.commit().await.expect_err("a conflict").kind(),
            ErrorKind::Stale
        );
        assert!(!world.exists("a").await);
        assert_eq!(kept(&world, &world.conflicts()[0]), b"ours");
    });
}

#[test]
fn a_conflict_ends_as_the_user_wants_it() {
    run(async {
        let mut world = World::start(64 * MIB).await;
        for (on_conflict, conflicts) in [
            (OnConflict::Fail, 0),
            (OnConflict::Copy, 1),
            (OnConflict::Overwrite, 1),
        ] {
            world.on_conflict(on_conflict);
            let key = format!("{on_conflict:?}.txt");
            let file = world.existing(&key, b"base").await;
            file.truncate(0).await.expect("truncated");
            file.write(0, b"ours").await.expect("written");
            world.put(&key, b"theirs").await;
            let committed = file.commit().await;
            if on_conflict == OnConflict::Overwrite {
                committed.expect("committed");
                assert_eq!(world.stored(&key).await, b"ours");
            } else {
                assert_eq!(committed.expect_err("a conflict").kind(), ErrorKind::Stale);
                assert_eq!(world.stored(&key).await, b"theirs");
                assert!(!file.is_dirty());
            }
            assert_eq!(world.conflicts().len(), conflicts, "{on_conflict:?}");
        }
        let request = pailfs::s3::types::ListRequest {
            bucket: BUCKET.into(),
            prefix: "Copy.conflict-".to_owned(),
            by_directory: false,
            start_after: None,
            continuation: None,
            max_keys: 10,
        };
        let listed = world.context.client.list(&request).await.expect("listed");
        let [copy] = &listed.objects[..] else {
            panic!("not one copy: {listed:?}")
        };
        assert_eq!(world.stored(&copy.key).await, b"ours");
        world.expect_no_uploads().await;
    });
}

#[test]
fn overwriting_does_not_mix_versions_nor_creations() {
    run(async {
        let mut world = World::start(64 * MIB).await;
        world.on_conflict(OnConflict::Overwrite);
        // Unchanged bytes of the base are gone: nothing to overwrite with.
        let file = world.existing("a", &data(1, 20 * MIB)).await;
        file.write(3, b"one").await.expect("written");
        world.put("a", b"theirs").await;
        assert_eq!(
            file.commit().await.expect_err("a conflict").kind(),
            ErrorKind::Stale
        );
        assert_eq!(world.stored("a").await, b"theirs");
        assert_eq!(world.conflicts().len(), 1);
        let exclusive = world.create("a", Creation::Exclusive);
        exclusive.write(0, b"mine").await.expect("written");
        assert_eq!(
            exclusive.commit().await.expect_err("taken").kind(),
            ErrorKind::Exists
        );
        assert_eq!(world.stored("a").await, b"theirs");
    });
}
