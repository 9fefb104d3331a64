//! `pailfs conflicts`: lists, explains, saves and drops the local versions that lost against a newer object.
//! Works on the state directory alone, also while a mount is live. Bringing one into the bucket: [`super::conflicts_apply`].

use crate::base::error::{Error, Result};
use crate::spool::conflicts::{self, KeptConflict, Saved};
use crate::spool::{ConflictForm, OpenUpload};
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// So many ranges of a patch are shown.
const MAX_RANGES: usize = 20;

/// What `drop` did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// For the user.
    pub message: String,
    /// The upload that held the bytes. It is still open, costs money, and is nobody's now: abort it.
    pub open_upload: Option<OpenUpload>,
}

/// Writes one line per conflict, or with `json` one JSON object per line.
///
/// # Errors
/// The first description that could not be read, after all others were written; `LocalIo`.
pub fn list(state_dir: &Path, json: bool, out: &mut impl Write) -> Result<()> {
    let listing = conflicts::list(state_dir)?;
    let written = if json {
        listing
            .conflicts
            .iter()
            .try_for_each(|kept| writeln!(out, "{}", as_json(kept)))
    } else {
        write_table(&listing.conflicts, out)
    };
    written.map_err(|error| Error::local_io(&error, "cannot write the list"))?;
    match listing.unreadable.into_iter().next() {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// One conflict in words, or with `json` as an object.
///
/// # Errors
/// Those of [`conflicts::open`].
pub fn show(state_dir: &Path, id: &str, json: bool) -> Result<String> {
    let kept = conflicts::open(state_dir, id)?;
    if json {
        return Ok(as_json(&kept).to_string());
    }
    let KeptConflict { id, conflict, .. } = &kept;
    let mut lines = vec![
        format!("conflict {id}: {}", location(&kept)),
        format!("  found    {}, by a mount of {}", found(&kept), kept.source),
        format!("  why      {}", reason(&kept)),
        format!("  local    {}", whereabouts(&kept)),
    ];
    if let ConflictForm::Patch { runs, .. } = &conflict.form {
        let shown = runs.iter().take(MAX_RANGES);
        lines.extend(shown.map(|(offset, len)| format!("           {len} bytes at {offset}")));
        if runs.len() > MAX_RANGES {
            let more = runs.len() - MAX_RANGES;
            lines.push(format!("           and {more} more ranges (--json has them all)"));
        }
    }
    let mut what = vec![
        format!("pailfs conflicts apply {id}"),
        format!("pailfs conflicts drop {id}"),
    ];
    if conflict.form.file_name().is_some() {
        what.insert(0, format!("pailfs conflicts save {id} FILE"));
    }
    lines.push(format!("  what now {}", what.join("\n           ")));
    Ok(lines.join("\n"))
}

/// One conflict, as `list --json` has it.
///
/// # Errors
/// Those of [`conflicts::open`].
pub fn described(state_dir: &Path, id: &str) -> Result<Value> {
    Ok(as_json(&conflicts::open(state_dir, id)?))
}

fn reason(kept: &KeptConflict) -> String {
    let conflict = &kept.conflict;
    let from = match &conflict.base_etag {
        Some(base) => format!("the version that it was made from (ETag {base})"),
        None => "nothing, where it was to be a new object,".to_owned(),
    };
    match &conflict.theirs_etag {
        Some(theirs) => format!("another version (ETag {theirs}) had taken the place of {from}"),
        None => format!("{from} was gone, or the store could not be reached before the mount ended"),
    }
}

fn whereabouts(kept: &KeptConflict) -> String {
    let size_bytes = kept.conflict.size_bytes;
    let file = kept.bytes.as_ref().map_or(String::new(), |path| {
        let missing = if path.exists() { "" } else { ", which is MISSING" };
        format!(", in {}{missing}", path.display())
    });
    match &kept.conflict.form {
        ConflictForm::Whole { .. } => format!("all {size_bytes} bytes{file}"),
        ConflictForm::OpenUpload { upload_id, parts, .. } => {
            let in_parts: u64 = parts.iter().map(|part| part.len_bytes).sum();
            format!(
                "{in_parts} of {size_bytes} bytes, in {} parts of an upload that was left open in the bucket (upload id \
                 {upload_id})",
                parts.len()
            )
        }
        ConflictForm::Patch { base_etag, runs, .. } => {
            let changed: u64 = runs.iter().map(|(_, len)| len).sum();
            format!(
                "only what was changed, {changed} of {size_bytes} bytes{file}; the others were those of the version with \
                 ETag {base_etag}"
            )
        }
    }
}

/// Saves the bytes of a conflict as the file `destination`; with `force` in place of what is there. Returns what to tell the
/// user.
///
/// # Errors
/// Those of [`conflicts::open`] and [`conflicts::save`]; above all `Unsupported` for an upload that was left open, with
/// what to do in the message.
pub fn save(state_dir: &Path, id: &str, destination: &Path, force: bool) -> Result<String> {
    let kept = conflicts::open(state_dir, id)?;
    let what = format!("{} ({} bytes)", location(&kept), kept.conflict.size_bytes);
    match conflicts::save(&kept, destination, force)? {
        Saved::Whole => Ok(format!(
            "saved the local version of {what} as {}",
            destination.display()
        )),
        Saved::Patch { description } => Ok(format!(
            "saved what was changed in {what} as {}: ONLY the changed ranges, each at its place, with holes between \
             them, because the version that they were changes of is not in the bucket any more. {} says which ranges",
            destination.display(),
            description.display()
        )),
    }
}

/// The upload that dropping this conflict would leave without an owner; to be aborted before [`drop`].
///
/// # Errors
/// Those of [`conflicts::open`].
pub fn open_upload(state_dir: &Path, id: &str) -> Result<Option<OpenUpload>> {
    Ok(conflicts::open(state_dir, id)?.open_upload())
}

/// Gives a conflict and its bytes up. An upload that was left open is the caller's to abort.
///
/// # Errors
/// Those of [`conflicts::drop`].
pub fn drop(state_dir: &Path, id: &str) -> Result<Dropped> {
    let kept = conflicts::drop(state_dir, id)?;
    let message = format!("dropped the local version of {}", location(&kept));
    Ok(Dropped {
        message,
        open_upload: kept.open_upload(),
    })
}

fn location(kept: &KeptConflict) -> String {
    format!(
        "s3://{}/{}",
        kept.conflict.bucket,
        kept.conflict.key.escape_debug()
    )
}

fn found(kept: &KeptConflict) -> String {
    let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(kept.conflict.found_unix_ms));
    // humantime cannot say years beyond 9999, which only a damaged description has.
    let printable = time.filter(|_| kept.conflict.found_unix_ms < 253_402_300_800_000);
    printable.map_or_else(
        || "?".to_owned(),
        |time| humantime::format_rfc3339_seconds(time).to_string(),
    )
}

fn bytes_are_missing(kept: &KeptConflict) -> bool {
    kept.bytes.as_ref().is_some_and(|path| !path.exists())
}

fn form(kept: &KeptConflict) -> &'static str {
    match kept.conflict.form {
        _ if bytes_are_missing(kept) => "missing",
        ConflictForm::Whole { .. } => "whole",
        ConflictForm::OpenUpload { .. } => "upload",
        ConflictForm::Patch { .. } => "patch",
    }
}

fn write_table(conflicts: &[KeptConflict], out: &mut impl Write) -> std::io::Result<()> {
    if conflicts.is_empty() {
        return writeln!(out, "no conflicts");
    }
    writeln!(
        out,
        "{:8}  {:20}  {:>14}  {:7}  OBJECT",
        "ID", "FOUND", "BYTES", "FORM"
    )?;
    for kept in conflicts {
        let (id, bytes) = (&kept.id, kept.conflict.size_bytes);
        writeln!(
            out,
            "{id:8}  {:20}  {bytes:>14}  {:7}  {}",
            found(kept),
            form(kept),
            location(kept)
        )?;
    }
    Ok(())
}

fn as_json(kept: &KeptConflict) -> Value {
    let conflict = &kept.conflict;
    let mut value = json!({
        "id": kept.id,
        "source": kept.source,
        "bucket": conflict.bucket,
        "key": conflict.key,
        "found": found(kept),
        "found_unix_ms": conflict.found_unix_ms,
        "base_etag": conflict.base_etag,
        "theirs_etag": conflict.theirs_etag,
        "size_bytes": conflict.size_bytes,
        "form": form(kept),
        "file": kept.bytes,
    });
    match &conflict.form {
        ConflictForm::Whole { .. } => {}
        ConflictForm::OpenUpload { upload_id, parts, .. } => {
            value["upload_id"] = json!(upload_id);
            // As `aws s3api complete-multipart-upload --multipart-upload` takes it.
            let parts = parts.iter().map(|part| {
                let mut entry = json!({ "PartNumber": part.number, "ETag": part.etag });
                if let Some(checksum) = &part.checksum_base64 {
                    entry["ChecksumCRC32C"] = json!(checksum);
                }
                entry
            });
            value["multipart_upload"] = json!({ "Parts": parts.collect::<Vec<_>>() });
        }
        ConflictForm::Patch { base_etag, runs, .. } => {
            value["patch_of_etag"] = json!(base_etag);
            value["changed_ranges"] = json!(runs);
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::ErrorKind;
    use crate::spool::{Conflict, RecordedPart, Spool};

    fn conflict(form: ConflictForm, size_bytes: u64) -> Conflict {
        Conflict {
            bucket: "b".to_owned(),
            key: "dir/it's\n.txt".to_owned(),
            found_unix_ms: 1_700_000_000_123,
            base_etag: Some("old".to_owned()),
            theirs_etag: Some("new".to_owned()),
            size_bytes,
            form,
        }
    }

    fn state_with(content: &[u8], form: impl FnOnce(String) -> ConflictForm) -> (tempfile::TempDir, String) {
        let state = tempfile::tempdir().unwrap();
        let (spool, _) = Spool::open(state.path(), "s3://b").unwrap();
        let file = spool.create_file().unwrap();
        file.write_at(0, content).unwrap();
        let size_bytes = if content.is_empty() {
            99
        } else {
            content.len() as u64
        };
        let id = spool
            .record_conflict(&conflict(form(file.file_name().to_owned()), size_bytes))
            .unwrap();
        (state, conflicts::id_of(id).unwrap())
    }

    fn listed(state_dir: &Path, json: bool) -> String {
        let mut out = Vec::new();
        list(state_dir, json, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_whole_version_is_listed_saved_and_dropped() {
        let (state, id) = state_with(b"hello", |file_name| ConflictForm::Whole { file_name });
        let table = listed(state.path(), false);
        let expected =
            format!("{id}  2023-11-14T22:13:20Z               5  whole    s3://b/dir/it\\'s\\n.txt\n");
        assert!(table.ends_with(&expected), "{table}");

        let destination = state.path().join("saved");
        let message = save(state.path(), &id[..4], &destination, false).unwrap();
        assert!(message.contains("5 bytes"), "{message}");
        assert_eq!(std::fs::read(&destination).unwrap(), b"hello");

        let dropped = drop(state.path(), &id).unwrap();
        assert_eq!(dropped.open_upload, None);
        assert_eq!(listed(state.path(), false), "no conflicts\n");
        assert_eq!(listed(state.path(), true), "");
        assert_eq!(drop(state.path(), &id).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn an_open_upload_is_explained_and_handed_over_on_drop() {
        let part = RecordedPart {
            number: 1,
            etag: "e1".to_owned(),
            checksum_base64: Some("AAAAAA==".to_owned()),
            len_bytes: 99,
        };
        let (state, id) = state_with(b"", |_| ConflictForm::OpenUpload {
            upload_id: "U1".to_owned(),
            parts: vec![part],
            transaction: "t".to_owned(),
        });
        let destination = state.path().join("saved");
        let error = save(state.path(), &id, &destination, true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        for part in [
            "--upload-id 'U1'",
            "--bucket 'b'",
            r"'dir/it'\''s",
            "complete-multipart-upload",
            &id,
        ] {
            assert!(error.message().contains(part), "{part} is not in: {error}");
        }
        assert!(!destination.exists());

        let value: Value = serde_json::from_str(&listed(state.path(), true)).unwrap();
        assert_eq!(
            value["multipart_upload"],
            json!({ "Parts": [{ "PartNumber": 1, "ETag": "e1", "ChecksumCRC32C": "AAAAAA==" }] })
        );
        let upload = open_upload(state.path(), &id).unwrap();
        assert_eq!(
            upload.as_ref().map(|upload| upload.upload_id.as_str()),
            Some("U1")
        );
        assert_eq!(drop(state.path(), &id).unwrap().open_upload, upload);
    }

    #[test]
    fn a_patch_is_saved_with_a_description_that_says_what_it_is() {
        let (state, id) = state_with(b"abcd", |file_name| ConflictForm::Patch {
            file_name,
            base_etag: "old".to_owned(),
            runs: vec![(0, 1), (1, 3)],
        });
        let destination = state.path().join("saved");
        let message = save(state.path(), &id, &destination, false).unwrap();
        assert!(message.contains("ONLY the changed ranges"), "{message}");
        let description: Value =
            serde_json::from_slice(&std::fs::read(state.path().join("saved.json")).unwrap()).unwrap();
        assert_eq!(description["base_etag"], "old");
        assert_eq!(
            description["changed_ranges"],
            json!([{ "offset": 0, "len_bytes": 1 }, { "offset": 1, "len_bytes": 3 }])
        );
    }

    #[test]
    fn a_conflict_is_explained() {
        let (state, id) = state_with(b"abcd", |file_name| ConflictForm::Patch {
            file_name,
            base_etag: "old".to_owned(),
            runs: (0..30).map(|n| (n * 100, 4)).collect(),
        });
        let text = show(state.path(), &id, false).unwrap();
        for part in [
            "s3://b/dir/it\\'s\\n.txt",
            "2023-11-14T22:13:20Z",
            "another version (ETag new) had taken the place of the version that it was made from (ETag old)",
            "only what was changed, 120 of 4 bytes",
            "4 bytes at 1900\n           and 10 more ranges",
            &format!("pailfs conflicts apply {id}"),
        ] {
            assert!(text.contains(part), "{part} is not in: {text}");
        }
        let value: Value = serde_json::from_str(&show(state.path(), &id, true).unwrap()).unwrap();
        assert_eq!(value["changed_ranges"].as_array().unwrap().len(), 30);
        assert_eq!(value, described(state.path(), &id).unwrap());
    }

    #[test]
    fn missing_bytes_are_shown() {
        let (state, id) = state_with(b"x", |file_name| ConflictForm::Whole { file_name });
        std::fs::remove_file(state.path().join(format!("conflicts/{id}.data"))).unwrap();
        assert!(listed(state.path(), false).contains(" missing "));
        let destination = state.path().join("saved");
        assert_eq!(
            save(state.path(), &id, &destination, false).unwrap_err().kind(),
            ErrorKind::NotFound
        );
    }

    #[test]
    fn what_cannot_be_read_is_an_error_after_the_rest_of_the_list() {
        let (state, id) = state_with(b"x", |file_name| ConflictForm::Whole { file_name });
        std::fs::write(state.path().join("conflicts/00000000.json"), br#"{"version":2}"#).unwrap();
        let mut out = Vec::new();
        let error = list(state.path(), false, &mut out).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.message().contains("00000000.json"), "{error}");
        assert!(String::from_utf8(out).unwrap().contains(&id));
    }
}
