//! What needs a look inside: moves that are cut off between any two steps, and records of other versions.

mod adoption;
mod conflict;
mod record;

use super::*;
use std::path::Path;

/// A copy of all files, as a crash at this moment would leave them. Locks are not copied: their owner is gone.
fn crash_image(state_dir: &Path) -> tempfile::TempDir {
    let image = tempfile::tempdir().unwrap();
    copy_dir(state_dir, image.path());
    image
}

fn copy_dir(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&target).unwrap();
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
        }
    }
}

/// Names below the `instances` directory, without the gate.
fn instance_names(state_dir: &Path) -> Vec<String> {
    let mut names = local::names_in(&state_dir.join("instances")).unwrap();
    names.retain(|name| name != "gate");
    names
}

fn upload(n: usize) -> OpenUpload {
    OpenUpload {
        bucket: "b".to_owned(),
        key: format!("upload/{n}"),
        upload_id: format!("U{n}"),
    }
}

fn marker(n: usize) -> Intent {
    Intent::Marker {
        bucket: "b".to_owned(),
        prefix: format!("dir/{n}/"),
    }
}

/// Records a file with this content, and closes it.
fn record_file(spool: &Arc<Spool>, content: &[u8]) -> (RecordId, UnsentFile) {
    let file = spool.create_file().unwrap();
    file.write_at(0, content).unwrap();
    let unsent = unsent(&file, content.len());
    (spool.record_unsent(&unsent).unwrap(), unsent)
}

fn unsent(file: &SpoolFile, len: usize) -> UnsentFile {
    UnsentFile {
        bucket: "b".to_owned(),
        key: format!("key/of/{}", file.file_name()),
        base: RecordedBase::Matches { etag: "e".to_owned() },
        file_name: file.file_name().to_owned(),
        size_bytes: len as u64,
        headers: RecordedHeaders::default(),
        transaction: "t".to_owned(),
        changes: None,
    }
}

fn content_of(spool: &Arc<Spool>, unsent: &UnsentFile) -> Vec<u8> {
    let mut content = vec![0; usize::try_from(unsent.size_bytes).unwrap()];
    spool
        .open_file(&unsent.file_name)
        .unwrap()
        .read_at(0, &mut content)
        .unwrap();
    content
}
