//! Uploads that are open: whoever begins one records it, so that the next mount aborts it if this process is killed.

use super::{OpenUpload, RecordId, Spool};
use crate::base::error::{ErrorKind, Result};
use crate::rt;
use std::sync::Arc;

impl Spool {
    /// Records an upload that was just begun. `None` where the disk is full: what is sent or copied needs none, and is worth
    /// more than the record.
    ///
    /// # Errors
    /// `LocalIo`: then the upload is to be aborted.
    pub async fn note_upload(self: &Arc<Self>, upload: OpenUpload) -> Result<Option<RecordId>> {
        let spool = self.clone();
        let (upload, recorded) = rt::blocking(move || {
            let recorded = spool.record_upload(&upload);
            (upload, recorded)
        })
        .await;
        match recorded {
            Ok(record) => Ok(Some(record)),
            Err(error) if matches!(error.kind(), ErrorKind::LocalIo(libc::ENOSPC | libc::EDQUOT)) => {
                tracing::warn!(
                    %error, bucket = upload.bucket, key = upload.key,
                    "an upload is not recorded on this machine: if the mount is killed, nobody aborts it"
                );
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Removes a record whose work is finished. A failure costs the next mount a request, no more.
    pub async fn finished(self: &Arc<Self>, record: RecordId) {
        let spool = self.clone();
        if let Err(error) = rt::blocking(move || spool.forget(record)).await {
            tracing::warn!(%error, "a record of finished work could not be removed");
        }
    }
}
