//! The spool as a mount uses it: its directories and locks, the life of its files, a full disk.

use pailfs::base::error::{Error, ErrorKind};
use pailfs::spool::{
    Conflict, ConflictForm, Intent, OpenUpload, RecordId, RecordedBase, RecordedHeaders, Spool, SpoolFile,
    UnsentFile, conflicts,
};
use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const SOURCE: &str = "https://s3.example.com s3://bucket/prefix";

fn open(state_dir: &Path) -> (Arc<Spool>, pailfs::spool::Leftovers) {
    Spool::open(state_dir, SOURCE).unwrap()
}

fn refused(state_dir: &Path) -> Error {
    Spool::open(state_dir, SOURCE).err().expect("opening must fail")
}

fn unsent(file: &SpoolFile, size_bytes: u64) -> UnsentFile {
    UnsentFile {
        bucket: "bucket".to_owned(),
        key: format!("key of {}", file.file_name()),
        base: RecordedBase::Absent,
        file_name: file.file_name().to_owned(),
        size_bytes,
        headers: RecordedHeaders::default(),
        transaction: "t".to_owned(),
        changes: None,
    }
}

fn upload(n: u64) -> OpenUpload {
    OpenUpload {
        bucket: "bucket".to_owned(),
        key: "k".to_owned(),
        upload_id: n.to_string(),
    }
}

fn instance_dirs(state_dir: &Path) -> HashSet<PathBuf> {
    let entries = std::fs::read_dir(state_dir.join("instances")).unwrap();
    entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect()
}

#[test]
fn a_live_mount_is_left_alone_and_a_dead_one_is_adopted() {
    let state = tempfile::tempdir().unwrap();
    let (first, _) = open(state.path());
    let id = first.record_upload(&upload(1)).unwrap();
    let (second, leftovers) = open(state.path());
    assert!(leftovers.uploads.is_empty(), "taken from a live mount");
    assert_ne!(first.instance_dir(), second.instance_dir());
    second.record_upload(&upload(2)).unwrap();
    first.forget(id).unwrap();
    first.record_upload(&upload(3)).unwrap();

    let (_other_source, leftovers) = Spool::open(state.path(), "s3://other").unwrap();
    assert!(leftovers.uploads.is_empty());

    drop((first, second));
    let (_third, leftovers) = open(state.path());
    let mut ids: Vec<_> = leftovers
        .uploads
        .iter()
        .map(|(_, upload)| upload.upload_id.as_str())
        .collect();
    ids.sort_unstable();
    assert_eq!(ids, ["2", "3"]);
    assert_eq!(
        instance_dirs(state.path()).len(),
        2,
        "the adopted directory is gone, the other source's is not"
    );
}

#[test]
fn leftovers_are_handed_out_until_they_are_forgotten() {
    let state = tempfile::tempdir().unwrap();
    let intents = [
        Intent::Delete {
            bucket: "b".to_owned(),
            key: "k".to_owned(),
            etag: "e".to_owned(),
            modified_unix_s: 7,
            transaction: Some("t".to_owned()),
            keeps_directory: true,
        },
        Intent::Marker {
            bucket: "b".to_owned(),
            prefix: "p/".to_owned(),
        },
    ];
    let ids = open(state.path()).0.record_intents(&intents).unwrap();
    assert!(ids[0] < ids[1]);
    for _ in 0..2 {
        let leftovers = open(state.path()).1;
        let found: Vec<_> = leftovers.intents.into_iter().map(|(_, intent)| intent).collect();
        assert_eq!(found, intents);
    }
    let (spool, leftovers) = open(state.path());
    let ids: Vec<RecordId> = leftovers.intents.iter().map(|(id, _)| *id).collect();
    spool.forget_all(&ids).unwrap();
    spool.forget_all(&ids).unwrap();
    drop(spool);
    assert!(open(state.path()).1.intents.is_empty());
}

#[test]
fn a_file_lives_as_long_as_a_handle_or_a_record_needs_it() {
    let state = tempfile::tempdir().unwrap();
    let (spool, _) = open(state.path());

    let file = spool.create_file().unwrap();
    let path = file.path();
    assert!(path.exists());
    drop(file);
    assert!(!path.exists(), "neither open nor recorded");

    let file = spool.create_file().unwrap();
    let path = file.path();
    file.write_at(3, b"data").unwrap();
    let wrong = unsent(&file, 100);
    assert_eq!(
        spool.record_unsent(&wrong).unwrap_err().kind(),
        ErrorKind::Internal
    );
    let description = unsent(&file, 7);
    let first = spool.record_unsent(&description).unwrap();
    let second = spool.record_unsent(&description).unwrap();
    drop(file);
    spool.forget(first).unwrap();
    spool.forget(first).unwrap();
    assert!(path.exists(), "the second record still names it");

    let again = spool.open_file(&description.file_name).unwrap();
    let twice = spool.open_file(&description.file_name).unwrap();
    spool.forget(second).unwrap();
    drop(twice);
    assert!(path.exists(), "still open");
    let mut content = [9; 7];
    again.read_at(0, &mut content).unwrap();
    assert_eq!(&content, b"\0\0\0data");
    drop(again);
    assert!(!path.exists());

    assert!(spool.open_file(&description.file_name).is_err());
    for name in ["", "..", "../lock", "a/b"] {
        assert_eq!(
            spool.open_file(name).err().unwrap().kind(),
            ErrorKind::Invalid,
            "{name:?}"
        );
    }
}

#[test]
fn spool_files_are_sparse_files() {
    let state = tempfile::tempdir().unwrap();
    let (spool, _) = open(state.path());
    let file = spool.create_file().unwrap();
    file.write_at(1 << 40, b"far").unwrap();
    let mut buf = [1; 4];
    assert_eq!(
        file.read_at(1 << 40, &mut buf).unwrap_err().kind(),
        ErrorKind::Corrupt
    );
    file.set_len((1 << 40) + 4).unwrap();
    file.read_at(1 << 40, &mut buf).unwrap();
    assert_eq!(&buf, b"far\0");
    file.write_at(0, &[7; 8192]).unwrap();
    file.punch(0, 4096).unwrap();
    file.sync().unwrap();
    let mut byte = [1];
    file.read_at(4096, &mut byte).unwrap();
    assert_eq!(byte, [7]);
    assert_eq!(std::fs::metadata(file.path()).unwrap().len(), (1 << 40) + 4);
    assert!(spool.free_bytes().unwrap() > 0);
}

#[test]
fn only_this_user_can_look_into_the_state_directory() {
    let parent = tempfile::tempdir().unwrap();
    let state_dir = parent.path().join("new/state");
    let (spool, _) = open(&state_dir);
    let file = spool.create_file().unwrap();
    spool.record_unsent(&unsent(&file, 0)).unwrap();
    let kept = spool.create_file().unwrap();
    spool.record_conflict(&whole(&kept, 0)).unwrap();
    let mut directories = vec![state_dir];
    let mut checked = 0;
    while let Some(dir) = directories.pop() {
        assert_eq!(mode(&dir), 0o700, "{}", dir.display());
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else {
                assert_eq!(mode(&path), 0o600, "{}", path.display());
                checked += 1;
            }
        }
    }
    assert!(
        checked >= 8,
        "gate, lock, source, records, file, and of the conflict lock, description and bytes"
    );
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn whole(file: &SpoolFile, size_bytes: u64) -> Conflict {
    Conflict {
        bucket: "bucket".to_owned(),
        key: "k".to_owned(),
        found_unix_ms: 5,
        base_etag: None,
        theirs_etag: None,
        size_bytes,
        form: ConflictForm::Whole {
            file_name: file.file_name().to_owned(),
        },
    }
}

#[test]
fn conflicts_are_visible_from_outside_while_the_mount_lives_and_survive_it() {
    let state = tempfile::tempdir().unwrap();
    assert!(
        conflicts::list(&state.path().join("absent"))
            .unwrap()
            .conflicts
            .is_empty()
    );
    let (spool, _) = open(state.path());
    let mut ids = Vec::new();
    for content in [b"one", b"two"] {
        let file = spool.create_file().unwrap();
        file.write_at(0, content).unwrap();
        ids.push(spool.record_conflict(&whole(&file, 3)).unwrap());
    }
    let (other, _) = Spool::open(state.path(), "s3://other").unwrap();
    assert!(other.conflicts().unwrap().is_empty(), "of another source");
    assert_eq!(spool.conflicts().unwrap().len(), 2);
    assert_eq!(conflicts::list(state.path()).unwrap().conflicts.len(), 2);

    let id = conflicts::id_of(ids[0]).unwrap();
    conflicts::drop(state.path(), &id).unwrap();
    let left: Vec<RecordId> = spool.conflicts().unwrap().into_iter().map(|(id, _)| id).collect();
    assert_eq!(left, ids[1..]);
    drop(spool);
    let (spool, _) = open(state.path());
    assert_eq!(spool.conflicts().unwrap().len(), 1);
    assert_eq!(
        conflicts::open(state.path(), &id).unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(
        conflicts::open(state.path(), "").unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

#[test]
fn a_state_directory_that_cannot_be_used_is_named_with_advice() {
    let parent = tempfile::tempdir().unwrap();
    let file = parent.path().join("file");
    std::fs::write(&file, "").unwrap();
    let below_a_file = file.join("state");
    let error = refused(&below_a_file);
    assert_eq!(error.kind(), ErrorKind::LocalIo(libc::ENOTDIR));
    assert!(
        error.message().contains(&below_a_file.display().to_string()),
        "{error}"
    );
    assert!(error.message().contains("--state-dir"), "{error}");

    let locked = parent.path().join("locked");
    std::fs::create_dir(&locked).unwrap();
    std::fs::set_permissions(&locked, std::fs::Permissions::from_mode(0o500)).unwrap();
    if std::fs::write(locked.join("probe"), "").is_ok() {
        println!("skipped the part without permission: this user may write everywhere");
        return;
    }
    let error = refused(&locked);
    assert_eq!(error.kind(), ErrorKind::LocalIo(libc::EACCES));
    assert!(error.message().contains("--state-dir"), "{error}");
}

/// A file system of 1 MiB, unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None`, with the reason printed, where this user may not mount.
    fn new() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let target = std::ffi::CString::new(dir.path().to_str().unwrap()).unwrap();
        // SAFETY: all strings are NUL-terminated and live through the call.
        let done = unsafe {
            libc::mount(
                c"tmpfs".as_ptr(),
                target.as_ptr(),
                c"tmpfs".as_ptr(),
                libc::MS_NOSUID,
                c"size=1m".as_ptr().cast(),
            )
        };
        if done != 0 {
            println!(
                "skipped: cannot mount a small tmpfs ({})",
                std::io::Error::last_os_error()
            );
            return None;
        }
        Some(Self(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let target = std::ffi::CString::new(self.0.path().to_str().unwrap()).unwrap();
        // SAFETY: the string is NUL-terminated and lives through the call.
        unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
    }
}

/// Writes until nothing fits any more.
fn fill(file: &SpoolFile) -> Error {
    let mut offset = 0;
    loop {
        // Page by page, so that not even one is left.
        match file.write_at(offset, &[1; 4096]) {
            Ok(()) => offset += 4096,
            Err(error) => return error,
        }
        assert!(offset < 1 << 30, "this disk is not small");
    }
}

#[test]
fn a_full_disk_is_an_honest_error_and_ends_when_there_is_space_again() {
    let Some(disk) = SmallDisk::new() else { return };
    let (spool, _) = open(disk.0.path());
    let mut recorded = HashSet::new();
    let mut next_upload = 0;
    let mut record = |recorded: &mut HashSet<String>| {
        next_upload += 1;
        // Large, so that the store has to grow soon.
        let big = OpenUpload {
            key: "k".repeat(3000),
            ..upload(next_upload)
        };
        spool.record_upload(&big).inspect(|_| {
            recorded.insert(big.upload_id);
        })
    };
    let kept = spool.create_file().unwrap();
    kept.write_at(0, b"kept").unwrap();
    spool.record_unsent(&unsent(&kept, 4)).unwrap();
    record(&mut recorded).unwrap();

    for round in 0..3 {
        let ballast = spool.create_file().unwrap();
        let error = fill(&ballast);
        assert_eq!(error.kind(), ErrorKind::LocalIo(libc::ENOSPC));
        assert_eq!(error.errno(), libc::ENOSPC);
        assert!(
            error.message().contains(&ballast.path().display().to_string()),
            "{error}"
        );
        assert!(error.message().contains("--state-dir"), "{error}");
        assert_eq!(spool.free_bytes().unwrap(), 0);
        let error = (0..500)
            .find_map(|_| record(&mut recorded).err())
            .expect("the store grew on a full disk");
        assert_eq!(error.kind(), ErrorKind::LocalIo(libc::ENOSPC), "{error}");
        assert!(error.message().contains("--state-dir"), "{error}");
        let conflict = spool.record_conflict(&whole(&kept, 4)).unwrap_err();
        assert_eq!(conflict.kind(), ErrorKind::LocalIo(libc::ENOSPC), "{conflict}");
        let error = Spool::open(disk.0.path(), "s3://other")
            .err()
            .expect("no space for another instance");
        assert_eq!(error.kind(), ErrorKind::LocalIo(libc::ENOSPC), "{error}");

        drop(ballast);
        record(&mut recorded).unwrap_or_else(|error| panic!("round {round}, with space again: {error}"));
    }
    drop(kept);
    drop(spool);
    let (spool, leftovers) = open(disk.0.path());
    let found: HashSet<String> = leftovers
        .uploads
        .into_iter()
        .map(|(_, upload)| upload.upload_id)
        .collect();
    // A record whose commit failed may be there all the same; none that was acknowledged may be missing.
    assert!(
        found.is_superset(&recorded),
        "lost: {:?}",
        recorded.difference(&found)
    );
    let mut content = [0; 4];
    spool
        .open_file(&leftovers.unsent[0].1.file_name)
        .unwrap()
        .read_at(0, &mut content)
        .unwrap();
    assert_eq!(&content, b"kept");
}
