//! `pailfs conflicts apply`: a local version that lost takes the place of the object, after all.
//!
//! 1. What the user has seen is replaced: the version that the local one lost against, or that it was made from. Anything
//!    newer needs `--force`, and then too it is replaced by its ETag: what somebody writes at that moment stays.
//! 2. Changes of a version that is gone belong to no other one. With `--force` they are made to what is there, which keeps
//!    its length; nobody else can know what comes of that.
//! 3. Whatever is not the bytes (headers, metadata, tags) stays as the object that is replaced has it.
//! 4. The completion of an upload cannot be sent twice. Where its answer is lost, or it was the last thing that an earlier
//!    `apply` did, the object tells that it is the one: by its transaction.

use crate::base::attributes::Attributes;
use crate::base::checksum::Crc32c;
use crate::base::error::ErrorKind;
use crate::base::object::{Condition, ETag, ObjectHeaders, ObjectId, ObjectInfo, Version};
use crate::cli::failure::{Exit, Failure};
use crate::fs::open::content_type;
use crate::object::file::{File, FileContext};
use crate::object::outcome::{self, Outcome};
use crate::object::reader::Reader;
use crate::rt;
use crate::s3::Client;
use crate::s3::types::{CompleteRequest, UploadId, UploadedPart};
use crate::spool::conflicts::KeptConflict;
use crate::spool::{ConflictForm, RecordedPart};
use std::fs;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

/// Local bytes are read and written in steps of this length.
const STEP_BYTES: u64 = 1 << 20;

/// Writes the local version over the object; returns the version that it is now. The record stays, for the caller to drop.
/// `context` keeps nothing where this loses too.
///
/// # Errors
/// Conflict when what is there is not what the user has seen (without `force`), or changes just now; `NotFound` for changes
/// of an object that is not there any more, or bytes that are not.
pub async fn apply(
    context: &Arc<FileContext>,
    kept: &KeptConflict,
    force: bool,
) -> Result<(ObjectId, Version), Failure> {
    let conflict = &kept.conflict;
    let id = ObjectId::new(conflict.bucket.as_str(), conflict.key.as_str());
    let present = match context.client.head(&id).await {
        Ok(info) => Some(info),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error.into()),
    };
    if let Some(made) = present.as_ref().filter(|info| is_made_of(kept, info)) {
        return Ok((id, made.version.clone()));
    }
    if !force && !is_expected(kept, present.as_ref()) {
        return Err(unexpected(kept, &id, present.as_ref()));
    }
    let condition = present.as_ref().map_or(Condition::Absent, |info| {
        Condition::Matches(info.version.etag.clone())
    });
    let version = match &conflict.form {
        ConflictForm::Whole { .. } => put_whole(context, kept, &id, present, &condition).await,
        ConflictForm::OpenUpload {
            upload_id,
            parts,
            transaction,
        } => {
            let request = completion(kept, &id, upload_id, parts, condition)?;
            complete(&context.client, &request, transaction).await
        }
        ConflictForm::Patch { base_etag, runs, .. } => {
            let present = present.ok_or_else(|| no_object(&id))?;
            let is_base = present.version.etag.as_str() == base_etag;
            let size_bytes = is_base.then_some(conflict.size_bytes);
            change(context, kept, present, runs, size_bytes).await
        }
    };
    Ok((id, version?))
}

/// True where the object is what the kept upload becomes: an earlier `apply` did not hear of it.
fn is_made_of(kept: &KeptConflict, present: &ObjectInfo) -> bool {
    match &kept.conflict.form {
        ConflictForm::OpenUpload { transaction, .. } => {
            !transaction.is_empty() && outcome::carries(present, transaction)
        }
        ConflictForm::Whole { .. } | ConflictForm::Patch { .. } => false,
    }
}

/// True for what the user knows of.
fn is_expected(kept: &KeptConflict, present: Option<&ObjectInfo>) -> bool {
    let conflict = &kept.conflict;
    let is = |etag: &Option<String>| {
        let present = present.map(|info| info.version.etag.as_str());
        etag.as_deref() == present
    };
    match &conflict.form {
        ConflictForm::Patch { base_etag, .. } => is(&Some(base_etag.clone())),
        _ => is(&conflict.theirs_etag) || conflict.base_etag.is_some() && is(&conflict.base_etag),
    }
}

fn unexpected(kept: &KeptConflict, id: &ObjectId, present: Option<&ObjectInfo>) -> Failure {
    let there = match present {
        Some(info) => format!("the object that is there now (ETag {})", info.version.etag),
        None => "that there is no object now".to_owned(),
    };
    let why = match kept.conflict.form {
        ConflictForm::Patch { .. } => format!(
            "only changes are kept, of a version that is gone, and {there} is another one; with --force they are made to \
             that, byte by byte at their places"
        ),
        _ => format!("{there} is not what the local version lost against; --force replaces it all the same"),
    };
    Failure::new(Exit::Conflict, format!("{id}: {why}. Nothing was written"))
}

fn no_object(id: &ObjectId) -> Failure {
    let message = format!(
        "{id}: there is no object to make the changes to; `pailfs conflicts save` brings them into a file. Nothing was \
         written"
    );
    Failure::new(Exit::NotFound, message)
}

/// What the new version carries beside its bytes.
fn carried(kept: &KeptConflict, id: &ObjectId, present: Option<ObjectInfo>) -> (ObjectHeaders, Attributes) {
    let headers = present.map_or_else(
        || ObjectHeaders {
            content_type: Some(content_type(&id.key)),
            ..ObjectHeaders::default()
        },
        |info| info.headers,
    );
    let mut attributes = Attributes::read(&headers.metadata);
    attributes.mtime = UNIX_EPOCH.checked_add(Duration::from_millis(kept.conflict.found_unix_ms));
    (headers, attributes)
}

async fn put_whole(
    context: &Arc<FileContext>,
    kept: &KeptConflict,
    id: &ObjectId,
    present: Option<ObjectInfo>,
    condition: &Condition,
) -> Result<Version, Failure> {
    let bytes = open_bytes(kept)?;
    let (headers, attributes) = carried(kept, id, present);
    let file = File::one_shot(context, id.clone(), condition, headers, attributes);
    let sent = async {
        let mut position = 0;
        while position < kept.conflict.size_bytes {
            let len = STEP_BYTES.min(kept.conflict.size_bytes - position);
            file.append(&read(&bytes, position, len).await?).await?;
            position += len;
        }
        committed(&file).await
    };
    let result = sent.await;
    if result.is_err() {
        file.discard().await;
    }
    result
}

async fn change(
    context: &Arc<FileContext>,
    kept: &KeptConflict,
    present: ObjectInfo,
    runs: &[(u64, u64)],
    size_bytes: Option<u64>,
) -> Result<Version, Failure> {
    let bytes = open_bytes(kept)?;
    let conflict = &kept.conflict;
    let id = ObjectId::new(conflict.bucket.as_str(), conflict.key.as_str());
    let (client, budget) = (context.client.clone(), context.budget.clone());
    let reader = Reader::new(client, budget, id.clone(), present.version.clone());
    let (headers, attributes) = carried(kept, &id, Some(present));
    let file = File::existing(context, reader, headers, attributes);
    if let Some(size_bytes) = size_bytes {
        file.truncate(size_bytes).await?;
    }
    let mut stored_at = 0;
    for (offset, len) in runs {
        let mut done = 0;
        while done < *len {
            let step = STEP_BYTES.min(len - done);
            let data = read(&bytes, stored_at + done, step).await?;
            file.write(offset + done, &data).await?;
            done += step;
        }
        stored_at += len;
    }
    let result = committed(&file).await;
    if result.is_err() {
        file.discard().await;
    }
    result
}

fn completion(
    kept: &KeptConflict,
    id: &ObjectId,
    upload_id: &str,
    parts: &[RecordedPart],
    condition: Condition,
) -> Result<CompleteRequest, Failure> {
    let size_bytes = kept.conflict.size_bytes;
    let in_parts: u64 = parts.iter().map(|part| part.len_bytes).sum();
    if in_parts != size_bytes {
        return Err(Failure::failed(format!(
            "{id}: only {in_parts} of {size_bytes} bytes are in the upload; the others are kept as a conflict of their own \
             (a patch of the same object), and no object can be made of the one without the other. Nothing was written"
        )));
    }
    let parts = parts.iter().map(|part| UploadedPart {
        number: part.number,
        etag: ETag::new(&part.etag),
        checksum: part
            .checksum_base64
            .as_deref()
            .and_then(|text| Crc32c::from_base64(text, part.len_bytes)),
        len_bytes: part.len_bytes,
    });
    Ok(CompleteRequest {
        id: id.clone(),
        upload: UploadId(upload_id.to_owned()),
        parts: parts.collect(),
        checksum: None,
        size_bytes,
        condition,
    })
}

async fn complete(client: &Client, request: &CompleteRequest, transaction: &str) -> Result<Version, Failure> {
    let send = || client.complete_upload(request);
    if transaction.is_empty() {
        return Ok(send().await?);
    }
    match outcome::settle(client, &request.id, transaction, &request.condition, send).await? {
        Outcome::Stored(version) => Ok(version),
        Outcome::Lost(_) => Err(changed_just_now(&request.id)),
    }
}

async fn committed(file: &Arc<File>) -> Result<Version, Failure> {
    file.commit().await.map_err(|error| match error.kind() {
        ErrorKind::Stale | ErrorKind::Exists | ErrorKind::PreconditionFailed => changed_just_now(&file.id()),
        _ => error.into(),
    })?;
    file.base_version()
        .ok_or_else(|| Failure::failed("the upload ended without an object"))
}

fn changed_just_now(id: &ObjectId) -> Failure {
    let message = format!(
        "{id}: somebody changed the object just now. Nothing was written, and the local version is still kept"
    );
    Failure::new(Exit::Conflict, message)
}

fn open_bytes(kept: &KeptConflict) -> Result<Arc<fs::File>, Failure> {
    let path = kept.bytes.as_deref().unwrap_or(std::path::Path::new(""));
    let opened = fs::File::open(path);
    opened
        .map(Arc::new)
        .map_err(|error| Failure::io(&error, path.display()))
}

async fn read(bytes: &Arc<fs::File>, position: u64, len: u64) -> Result<Vec<u8>, Failure> {
    let bytes = bytes.clone();
    let read = rt::blocking(move || {
        let mut data = vec![0; len as usize];
        bytes.read_exact_at(&mut data, position).map(|()| data)
    });
    read.await
        .map_err(|error| Failure::io(&error, "the kept bytes are shorter than their description says"))
}
