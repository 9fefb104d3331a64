use super::*;

const SOURCE: &str = "s3://b";

fn whole(unsent: &UnsentFile) -> Conflict {
    conflict(
        ConflictForm::Whole {
            file_name: unsent.file_name.clone(),
        },
        unsent.size_bytes,
    )
}

fn conflict(form: ConflictForm, size_bytes: u64) -> Conflict {
    Conflict {
        bucket: "b".to_owned(),
        key: "k".to_owned(),
        found_unix_ms: 1,
        base_etag: None,
        theirs_etag: Some("theirs".to_owned()),
        size_bytes,
        form,
    }
}

fn conflicts_dir(state_dir: &Path) -> PathBuf {
    state_dir.join("conflicts")
}

/// Images from before and after an unsent file became a conflict, with the file and the conflict's id.
fn before_and_after() -> (tempfile::TempDir, tempfile::TempDir, UnsentFile, String) {
    let state = tempfile::tempdir().unwrap();
    let (spool, _) = Spool::open(state.path(), SOURCE).unwrap();
    let (_, unsent) = record_file(&spool, b"mine");
    let before = crash_image(state.path());
    let id = spool.record_conflict(&whole(&unsent)).unwrap();
    let after = crash_image(state.path());
    (before, after, unsent, conflicts::id_of(id).unwrap())
}

fn instance_file(state_dir: &Path, name: &str) -> PathBuf {
    state_dir
        .join("instances")
        .join(&instance_names(state_dir)[0])
        .join(name)
}

/// The one conflict is complete, and the unsent file is not reported as well.
fn check_kept(state_dir: &Path, context: &str) {
    let (spool, leftovers) = Spool::open(state_dir, SOURCE).unwrap();
    assert!(leftovers.unsent.is_empty(), "{context}");
    assert_eq!(spool.conflicts().unwrap().len(), 1, "{context}");
    let kept = &conflicts::list(state_dir).unwrap().conflicts[0];
    assert_eq!(
        std::fs::read(kept.bytes.as_ref().unwrap()).unwrap(),
        b"mine",
        "{context}"
    );
    assert!(
        local::names_in(spool.files.dir()).unwrap().is_empty(),
        "{context}"
    );
}

#[test]
fn keeping_a_conflict_may_be_cut_off_anywhere() {
    let (before, after, unsent, id) = before_and_after();
    check_kept(after.path(), "not cut off");
    let description = std::fs::read(conflicts_dir(after.path()).join(format!("{id}.json"))).unwrap();
    let spool_file = format!("files/{}", unsent.file_name);

    for (context, written) in [
        ("torn description", &description[..9]),
        ("description", &description[..]),
    ] {
        let state = crash_image(before.path());
        std::fs::create_dir(conflicts_dir(state.path())).unwrap();
        std::fs::write(
            conflicts_dir(state.path()).join(format!("{id}.json.new")),
            written,
        )
        .unwrap();
        let (spool, leftovers) = Spool::open(state.path(), SOURCE).unwrap();
        assert_eq!(leftovers.unsent.len(), 1, "{context}");
        assert_eq!(content_of(&spool, &leftovers.unsent[0].1), b"mine", "{context}");
        assert!(spool.conflicts().unwrap().is_empty(), "{context}");
        assert_eq!(
            local::names_in(&conflicts_dir(state.path())).unwrap(),
            ["lock"],
            "{context}"
        );
    }

    let state = crash_image(before.path());
    let dir = conflicts_dir(state.path());
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join(format!("{id}.json.new")), &description).unwrap();
    std::fs::rename(
        instance_file(state.path(), &spool_file),
        dir.join(format!("{id}.data")),
    )
    .unwrap();
    let unmounted = crash_image(state.path());
    assert_eq!(
        conflicts::list(unmounted.path()).unwrap().conflicts.len(),
        1,
        "a list finishes it as well"
    );
    check_kept(state.path(), "bytes moved, description not in place");

    let state = crash_image(before.path());
    std::fs::create_dir(conflicts_dir(state.path())).unwrap();
    copy_dir(&conflicts_dir(after.path()), &conflicts_dir(state.path()));
    std::fs::remove_file(instance_file(state.path(), &spool_file)).unwrap();
    check_kept(state.path(), "kept, record not forgotten");
}

#[test]
fn dropping_a_conflict_may_be_cut_off_anywhere() {
    let (_, after, _, id) = before_and_after();
    for bytes_removed in [false, true] {
        let state = crash_image(after.path());
        let dir = conflicts_dir(state.path());
        std::fs::rename(dir.join(format!("{id}.json")), dir.join(format!("{id}.dropped"))).unwrap();
        if bytes_removed {
            std::fs::remove_file(dir.join(format!("{id}.data"))).unwrap();
        }
        assert!(conflicts::list(state.path()).unwrap().conflicts.is_empty());
        assert_eq!(local::names_in(&dir).unwrap(), ["lock"]);
    }
}

#[test]
fn an_upload_that_a_conflict_keeps_open_is_never_handed_out_for_aborting() {
    let state = tempfile::tempdir().unwrap();
    let (spool, _) = Spool::open(state.path(), SOURCE).unwrap();
    let mut kept = upload(7);
    kept.key = "k".to_owned();
    spool.record_upload(&kept).unwrap();
    spool.record_upload(&upload(8)).unwrap();
    let before = crash_image(state.path());
    let form = ConflictForm::OpenUpload {
        upload_id: kept.upload_id.clone(),
        parts: Vec::new(),
        transaction: "t".to_owned(),
    };
    spool.record_conflict(&conflict(form, 5)).unwrap();

    // The crash came between the conflict and the forgetting.
    let cut_off = crash_image(before.path());
    std::fs::create_dir(conflicts_dir(cut_off.path())).unwrap();
    copy_dir(&conflicts_dir(state.path()), &conflicts_dir(cut_off.path()));
    for image in [cut_off, crash_image(state.path())] {
        let (_spool, leftovers) = Spool::open(image.path(), SOURCE).unwrap();
        let uploads: Vec<_> = leftovers.uploads.into_iter().map(|(_, upload)| upload).collect();
        assert_eq!(uploads, [upload(8)]);
    }

    // While a conflict cannot be read, any upload could be its own; they are handed out once it can be again.
    let unreadable = conflicts_dir(before.path()).join("0000abcd.json");
    std::fs::create_dir(conflicts_dir(before.path())).unwrap();
    std::fs::write(&unreadable, br#"{"version":9,"record":{}}"#).unwrap();
    assert!(Spool::open(before.path(), SOURCE).unwrap().1.uploads.is_empty());
    assert!(unreadable.exists());
    std::fs::remove_file(&unreadable).unwrap();
    assert_eq!(Spool::open(before.path(), SOURCE).unwrap().1.uploads.len(), 2);
}

#[test]
fn an_unfinished_conflict_of_a_newer_version_is_left_alone() {
    let state = tempfile::tempdir().unwrap();
    let dir = conflicts_dir(state.path());
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("0000abcd.json.new"), br#"{"version":9,"record":{}}"#).unwrap();
    assert!(conflicts::list(state.path()).unwrap().conflicts.is_empty());
    assert_eq!(local::names_in(&dir).unwrap(), ["0000abcd.json.new", "lock"]);
}

#[test]
fn a_kept_version_is_not_changed_through_handles_that_are_still_open() {
    let state = tempfile::tempdir().unwrap();
    let (spool, _) = Spool::open(state.path(), SOURCE).unwrap();
    let file = spool.create_file().unwrap();
    file.write_at(0, b"mine").unwrap();
    let id = spool.record_conflict(&whole(&unsent(&file, 4))).unwrap();

    assert_eq!(file.write_at(0, b"more").unwrap_err().kind(), ErrorKind::Stale);
    assert_eq!(file.set_len(0).unwrap_err().kind(), ErrorKind::Stale);
    assert_eq!(file.punch(0, 1).unwrap_err().kind(), ErrorKind::Stale);
    let mut buf = [0; 4];
    file.read_at(0, &mut buf).unwrap();
    assert_eq!(&buf, b"mine");
    drop(file);
    let kept = conflicts::open(state.path(), &conflicts::id_of(id).unwrap()).unwrap();
    assert_eq!(std::fs::read(kept.bytes.unwrap()).unwrap(), b"mine");

    spool.forget(id).unwrap();
    spool.forget(id).unwrap();
    assert!(spool.conflicts().unwrap().is_empty());
}

#[test]
fn a_conflict_that_cannot_be_kept_leaves_its_file_as_it_was() {
    let state = tempfile::tempdir().unwrap();
    let (spool, _) = Spool::open(state.path(), SOURCE).unwrap();
    let file = spool.create_file().unwrap();
    file.write_at(0, b"mine").unwrap();
    std::fs::write(conflicts_dir(state.path()), b"in the way").unwrap();
    spool.record_conflict(&whole(&unsent(&file, 4))).unwrap_err();
    file.write_at(4, b"!").unwrap();
    assert_eq!(std::fs::read(file.path()).unwrap(), b"mine!");
}

#[test]
fn saving_never_overwrites_unasked_and_leaves_nothing_half_written() {
    let (_, after, ..) = before_and_after();
    let kept = conflicts::list(after.path()).unwrap().conflicts.remove(0);
    let target = tempfile::tempdir().unwrap();
    let destination = target.path().join("out");
    std::fs::write(&destination, b"precious").unwrap();
    assert_eq!(
        conflicts::save(&kept, &destination, false).unwrap_err().kind(),
        ErrorKind::Exists
    );
    assert_eq!(std::fs::read(&destination).unwrap(), b"precious");
    conflicts::save(&kept, &destination, true).unwrap();
    assert_eq!(std::fs::read(&destination).unwrap(), b"mine");

    let error = conflicts::save(&kept, target.path(), true).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::IsDirectory);
    let short = conflicts::KeptConflict {
        conflict: Conflict {
            size_bytes: 9,
            ..kept.conflict.clone()
        },
        ..kept
    };
    conflicts::save(&short, &target.path().join("short"), false).unwrap_err();
    assert_eq!(local::names_in(target.path()).unwrap(), ["out"]);
}

#[test]
fn holes_stay_holes_and_patches_land_at_their_offsets() {
    use std::os::unix::fs::MetadataExt;
    const FAR: u64 = 1 << 32;
    let state = tempfile::tempdir().unwrap();
    let (spool, _) = Spool::open(state.path(), SOURCE).unwrap();
    let sparse = spool.create_file().unwrap();
    sparse.write_at(0, b"begin").unwrap();
    sparse.write_at(FAR, b"end").unwrap();
    sparse.set_len(FAR + 10).unwrap();
    let runs = spool.create_file().unwrap();
    runs.write_at(0, b"abcde").unwrap();
    let name = |file: &SpoolFile| file.file_name().to_owned();
    let forms = [
        ConflictForm::Whole {
            file_name: name(&sparse),
        },
        ConflictForm::Patch {
            file_name: name(&runs),
            base_etag: "e".to_owned(),
            runs: vec![(2, 2), (FAR, 3)],
        },
    ];
    let expected: [&[(u64, &[u8])]; 2] = [
        &[(0, b"begin\0"), (FAR, b"end\0\0\0\0\0\0\0")],
        &[(0, b"\0\0ab\0"), (FAR, b"cde\0\0\0\0\0\0\0")],
    ];
    for (form, expected) in forms.into_iter().zip(expected) {
        let id = spool.record_conflict(&conflict(form, FAR + 10)).unwrap();
        let kept = conflicts::open(state.path(), &conflicts::id_of(id).unwrap()).unwrap();
        let destination = state.path().join(&kept.id);
        conflicts::save(&kept, &destination, false).unwrap();
        let saved = File::open(&destination).unwrap();
        assert_eq!(saved.metadata().unwrap().len(), FAR + 10);
        assert!(
            saved.metadata().unwrap().blocks() * 512 < 1 << 20,
            "holes were filled"
        );
        for (offset, bytes) in expected {
            let mut found = vec![1; bytes.len()];
            std::os::unix::fs::FileExt::read_exact_at(&saved, &mut found, *offset).unwrap();
            assert_eq!(found, *bytes);
        }
    }
}
