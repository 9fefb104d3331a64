//! Archived objects. Restores last until the store ends, and none is finished before a test says so.

use super::super::state::Object;
use super::super::store::Store;
use super::Answer;
use super::dto::find;
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};

pub fn is_archived(object: &Object) -> bool {
    let class = object.headers.storage_class.as_deref();
    matches!(class, Some("GLACIER" | "DEEP_ARCHIVE"))
}

/// # Errors
/// `InvalidObjectState` for an archived object that is not restored.
pub fn check_readable(store: &Store, object: &Object) -> S3Result<()> {
    if is_archived(object) && store.restored(&object.etag) != Some(true) {
        return Err(s3_error!(
            InvalidObjectState,
            "The operation is not valid for the object's storage class"
        ));
    }
    Ok(())
}

/// As HEAD tells it.
pub fn shown(store: &Store, object: &Object) -> Option<String> {
    let is_done = store.restored(&object.etag).filter(|_| is_archived(object))?;
    Some(if is_done {
        "ongoing-request=\"false\", expiry-date=\"Fri, 21 Dec 2029 00:00:00 GMT\"".to_owned()
    } else {
        "ongoing-request=\"true\"".to_owned()
    })
}

pub async fn begin(store: &Store, request: S3Request<RestoreObjectInput>) -> Answer<RestoreObjectOutput> {
    let input = request.input;
    let object = store.read(&input.bucket, |bucket| {
        Ok(find(bucket, &input.key, input.version_id.as_deref())?.1.clone())
    })?;
    if !is_archived(&object) {
        return Err(s3_error!(
            InvalidObjectState,
            "Restore is not allowed for the object's current storage class"
        ));
    }
    if input.restore_request.and_then(|request| request.days).is_none() {
        return Err(s3_error!(MalformedXML));
    }
    if !store.begin_restore(&object.etag) {
        return Err(s3_error!(RestoreAlreadyInProgress));
    }
    Ok(S3Response::with_status(
        RestoreObjectOutput::default(),
        http::StatusCode::ACCEPTED,
    ))
}
