use super::*;
use crate::spool::instance::Step;

const SOURCE: &str = "http://endpoint/ s3://b/prefix";
const MOUNTS: usize = 3;

/// What three mounts that were killed have left: two files, an upload and an intent each.
fn three_dead() -> (tempfile::TempDir, Vec<Vec<u8>>) {
    let state = tempfile::tempdir().unwrap();
    let spools: Vec<_> = (0..MOUNTS)
        .map(|_| Spool::open(state.path(), SOURCE).unwrap().0)
        .collect();
    let mut contents = Vec::new();
    for (n, spool) in spools.iter().enumerate() {
        spool.record_upload(&upload(n)).unwrap();
        for half in ["first", "second"] {
            let content = format!("{half} file of mount {n}").into_bytes();
            record_file(spool, &content);
            contents.push(content);
        }
        spool.record_intent(&marker(n)).unwrap();
        // Never recorded: to be swept.
        std::mem::forget(spool.create_file().unwrap());
    }
    let image = crash_image(state.path());
    assert_eq!(instance_names(image.path()).len(), MOUNTS);
    (image, contents)
}

/// Opens and stops after `steps` steps; true when there were not so many.
fn open_and_stop(state_dir: &Path, steps: usize, seen: &mut Vec<Step>) -> bool {
    let mut left = steps;
    let result = Spool::open_in_steps(state_dir, SOURCE, &mut |step| {
        seen.push(step);
        if left == 0 {
            return Err(Error::new(ErrorKind::ShuttingDown, "stopped by the test"));
        }
        left -= 1;
        Ok(())
    });
    match result {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::ShuttingDown, "{error}");
            false
        }
    }
}

/// Everything is there once, and nothing else.
fn check_all_adopted(state_dir: &Path, expected: &[Vec<u8>], context: &str) {
    let (spool, leftovers) = Spool::open(state_dir, SOURCE).unwrap();
    let mut found: Vec<Vec<u8>> = leftovers
        .unsent
        .iter()
        .map(|(_, unsent)| content_of(&spool, unsent))
        .collect();
    found.sort();
    let mut expected = expected.to_vec();
    expected.sort();
    assert_eq!(found, expected, "{context}");

    let mut uploads: Vec<_> = leftovers
        .uploads
        .iter()
        .map(|(_, upload)| upload.clone())
        .collect();
    uploads.sort_by(|a, b| a.upload_id.cmp(&b.upload_id));
    assert_eq!(uploads, (0..MOUNTS).map(upload).collect::<Vec<_>>(), "{context}");
    for n in 0..MOUNTS {
        let found = leftovers
            .intents
            .iter()
            .filter(|(_, intent)| *intent == marker(n))
            .count();
        assert_eq!(found, 1, "{context}: intent {n}");
    }

    let ids: std::collections::HashSet<_> = leftovers
        .uploads
        .iter()
        .map(|(id, _)| *id)
        .chain(leftovers.unsent.iter().map(|(id, _)| *id))
        .chain(leftovers.intents.iter().map(|(id, _)| *id))
        .collect();
    assert_eq!(ids.len(), 4 * MOUNTS, "{context}: numbers are not unique");

    assert_eq!(instance_names(state_dir).len(), 1, "{context}");
    assert_eq!(
        local::names_in(spool.files.dir()).unwrap().len(),
        expected.len(),
        "{context}"
    );
}

#[test]
fn an_adoption_that_is_cut_off_after_any_step_loses_and_doubles_nothing() {
    let (dead, contents) = three_dead();
    let mut seen = Vec::new();
    for steps in 0.. {
        let state = crash_image(dead.path());
        let done = open_and_stop(state.path(), steps, &mut seen);
        check_all_adopted(state.path(), &contents, &format!("cut off after {steps} steps"));
        if done {
            break;
        }
    }
    for step in [
        Step::FileMoved,
        Step::FilesMoved,
        Step::RecordsMoved,
        Step::Renamed,
        Step::Removed,
    ] {
        assert!(seen.contains(&step), "{step:?} was never reached");
    }
}

#[test]
fn an_adoption_may_be_cut_off_again_and_again() {
    let (dead, contents) = three_dead();
    let mut step_counts = 0..;
    loop {
        let first = step_counts.next().unwrap();
        let after_first = crash_image(dead.path());
        let done = open_and_stop(after_first.path(), first, &mut Vec::new());
        // A third of the second stops, other ones each time: the test above has each of them alone.
        for second in (first % 3..).step_by(3) {
            let state = crash_image(after_first.path());
            let second_done = open_and_stop(state.path(), second, &mut Vec::new());
            let third_done = open_and_stop(state.path(), 3, &mut Vec::new());
            check_all_adopted(
                state.path(),
                &contents,
                &format!("cut off after {first}, {second}, 3 steps"),
            );
            if second_done || third_done {
                break;
            }
        }
        if done {
            break;
        }
    }
}

#[test]
fn unfinished_directories_of_a_killed_process_are_removed() {
    let state = tempfile::tempdir().unwrap();
    for name in ["new-1", "removed-1"] {
        std::fs::create_dir_all(state.path().join("instances").join(name).join("files")).unwrap();
    }
    let (_spool, leftovers) = Spool::open(state.path(), SOURCE).unwrap();
    assert!(leftovers.uploads.is_empty() && leftovers.unsent.is_empty() && leftovers.intents.is_empty());
    assert_eq!(instance_names(state.path()).len(), 1);
}

#[test]
fn a_directory_of_another_source_with_the_same_hash_is_left_alone() {
    let state = tempfile::tempdir().unwrap();
    let (spool, _) = Spool::open(state.path(), SOURCE).unwrap();
    spool.record_upload(&upload(1)).unwrap();
    let other = spool.instance_dir().to_owned();
    drop(spool);
    std::fs::write(other.join("source"), "s3://something-else").unwrap();

    let (spool, leftovers) = Spool::open(state.path(), SOURCE).unwrap();
    assert!(leftovers.uploads.is_empty());
    assert_ne!(spool.instance_dir(), other);
    assert_eq!(instance_names(state.path()).len(), 2);
}

#[test]
fn numbers_are_not_used_again_after_a_remount() {
    let state = tempfile::tempdir().unwrap();
    let mut highest = RecordId(0);
    for n in 0..4 {
        let (spool, leftovers) = Spool::open(state.path(), SOURCE).unwrap();
        assert!(leftovers.uploads.is_empty());
        let id = spool.record_upload(&upload(n)).unwrap();
        assert!(id > highest, "{id:?} after {highest:?}");
        highest = id;
        spool.forget(id).unwrap();
    }
}

#[test]
fn a_file_of_the_same_name_on_both_sides_stops_the_adoption_and_loses_nothing() {
    let state = tempfile::tempdir().unwrap();
    let (first, _) = Spool::open(state.path(), SOURCE).unwrap();
    let (second, _) = Spool::open(state.path(), SOURCE).unwrap();
    let (_, unsent) = record_file(&first, b"one");
    let twin = second.files.path(&unsent.file_name).unwrap();
    std::fs::write(&twin, b"two").unwrap();
    let first_path = first.files.path(&unsent.file_name).unwrap();
    drop((first, second));

    let error = Spool::open(state.path(), SOURCE).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::LocalIo(libc::EEXIST));
    assert_eq!(std::fs::read(&first_path).unwrap(), b"one");
    assert_eq!(std::fs::read(&twin).unwrap(), b"two");
}
