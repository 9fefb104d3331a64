//! Attributes that were set after an upload was created, with the former ones in it: the object is copied onto itself.
//!
//! 1. What is not copied at once is copied in parts, by an upload that is recorded as any other.
//! 2. The content is in the bucket already. If the copy fails, only the attributes are unsent.

use super::File;
use super::commit::written;
use super::state::{Base, Source};
use super::stream::headers_in;
use super::upload::Link;
use super::{Committed, appends};
use crate::base::attributes::{Attributes, MetadataFormat};
use crate::base::error::{ErrorKind, Result};
use crate::base::object::{Condition, ObjectHeaders, ObjectId, Version};
use crate::object::outcome::{self, Outcome};
use crate::object::reader::Reader;
use crate::plan::copies::{PARALLEL_PART_COPIES, is_copied_at_once, ranges_of_copy};
use crate::rt;
use crate::s3::types::{CompleteRequest, CopyPartsRequest, CopyRequest, UploadedPart};
use std::sync::Arc;

impl File {
    /// Brings these attributes to the object that was just committed.
    pub(super) async fn rewrite_attributes(&self, attributes: Attributes) -> Result<()> {
        let transaction = rt::random_id();
        let (id, version, headers) = {
            let state = self.state();
            let Base::Known(version) = &state.base else {
                return Ok(());
            };
            let mut headers = state.headers.clone();
            appends::hand_on(&mut headers, true);
            let headers = headers_in(self.context.metadata_format, &headers, &attributes, &transaction);
            (state.id.clone(), version.clone(), headers)
        };
        if self.context.metadata_format == MetadataFormat::None {
            return Ok(());
        }
        let copied = if is_copied_at_once(version.size_bytes, &self.policy.limits) {
            self.rewrite_at_once(&id, &version, &transaction, &headers).await
        } else {
            let link = Link::new(id.clone(), id, transaction, headers.clone(), attributes, 1);
            self.rewrite_in_parts(&link, &version).await
        };
        match copied {
            Ok(Outcome::Stored(version)) => {
                self.rebase(version, attributes, &headers);
                Ok(())
            }
            // Somebody replaced the object already: the content was committed, and these attributes are nobody's now.
            Ok(Outcome::Lost(_)) => Ok(()),
            Err(error) => {
                // The next commit finds nothing to send but the attributes.
                self.state().note_change();
                Err(error)
            }
        }
    }

    async fn rewrite_at_once(
        &self,
        id: &ObjectId,
        version: &Version,
        transaction: &str,
        headers: &ObjectHeaders,
    ) -> Result<Outcome> {
        let request = CopyRequest {
            from: id.clone(),
            from_etag: version.etag.clone(),
            size_bytes: version.size_bytes,
            to: id.clone(),
            condition: Condition::Matches(version.etag.clone()),
            headers: Some(headers.clone()),
        };
        let client = &self.context.client;
        outcome::settle(client, id, transaction, &request.condition, || {
            client.copy(&request)
        })
        .await
    }

    async fn rewrite_in_parts(&self, link: &Arc<Link>, version: &Version) -> Result<Outcome> {
        let (client, spool) = (&self.context.client, &self.context.spool);
        let copied = self.copy_whole(link, version).await;
        match &copied {
            Ok(Outcome::Stored(_)) => link.opened(client, spool).await?.forget(spool).await,
            // A replaced source or object, too.
            _ => link.abort(client, spool).await,
        }
        match copied {
            Err(error) if error.kind() == ErrorKind::PreconditionFailed => Ok(Outcome::Lost(None)),
            other => other,
        }
    }

    async fn copy_whole(&self, link: &Arc<Link>, version: &Version) -> Result<Outcome> {
        let (client, id) = (&self.context.client, &link.target);
        let opened = link.opened(client, &self.context.spool).await?;
        let copies = CopyPartsRequest {
            to: id.clone(),
            upload: opened.upload.clone(),
            from: id.clone(),
            from_etag: version.etag.clone(),
            ranges: ranges_of_copy(version.size_bytes, &self.policy.limits),
        };
        let parts = client
            .copy_parts(&copies, PARALLEL_PART_COPIES, &link.copy_lanes)
            .await?;
        let request = CompleteRequest {
            id: id.clone(),
            upload: opened.upload,
            checksum: UploadedPart::whole_checksum(&parts),
            parts,
            size_bytes: version.size_bytes,
            condition: Condition::Matches(version.etag.clone()),
        };
        outcome::settle(client, id, &link.transaction, &request.condition, || {
            client.complete_upload(&request)
        })
        .await
    }

    /// The same bytes are another version now, with these attributes.
    fn rebase(&self, version: Version, attributes: Attributes, headers: &ObjectHeaders) {
        let mut state = self.state();
        appends::copy_identities(headers, &mut state.headers);
        let (client, budget) = (self.context.client.clone(), self.context.budget.clone());
        let reader = Reader::new(client, budget, state.id.clone(), version.clone());
        state.source = Some(Source::of(state.id.clone(), reader));
        state.base = Base::Known(version.clone());
        let attributes = written(self.context.metadata_format, attributes);
        state.unreported = Some(Committed::new(version, attributes));
        drop(state);
        self.tell();
    }
}
