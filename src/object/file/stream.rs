//! Sending full parts while the program still writes, from memory.
//!
//! 1. What is sent ahead may change before the commit: the part is then forgotten and its number sent again.
//! 2. A failure here is nobody's error yet: the commit sends what is missing and reports.

use super::body::Body;
use super::state::State;
use super::upload::{self, Link, Upload};
use super::{File, appends};
use crate::base::attributes::{Attributes, MetadataFormat, TRANSACTION};
use crate::base::error::Result;
use crate::base::object::{ByteRange, ObjectHeaders};
use crate::rt;
use crate::s3::types::UploadedPart;
use std::sync::Arc;

impl File {
    /// Begins to send the cells that a write of `range` completed.
    pub(super) fn send_ahead(&self, range: ByteRange) {
        let mut state = self.state();
        let cells = state.cells_to_send(range);
        if cells.is_empty() {
            return;
        }
        let Ok(file) = self.shared() else { return };
        let link = self.link(&mut state);
        for (number, cell) in cells {
            if let Some(upload) = &mut state.upload {
                upload.begin(number, cell, true);
            }
            rt::spawn(file.clone().send_cell(link.clone(), number, cell));
        }
    }

    /// The upload of this file; a new one (not yet known to the store) where there is none.
    pub(super) fn link(&self, state: &mut State) -> Arc<Link> {
        if let Some(upload) = &state.upload {
            return upload.link.clone();
        }
        let transaction = rt::random_id();
        let attributes = state
            .sealed
            .as_ref()
            .map_or(state.attributes, |sealed| sealed.attributes);
        let headers = self.headers(state, &attributes, &transaction);
        let lanes = upload::lanes_for(self.context.budget.limit_bytes(), self.policy.part_bytes);
        let tags_of = state.tags_of();
        let link = Link::new(state.id.clone(), tags_of, transaction, headers, attributes, lanes);
        state.upload = Some(Upload::new(link.clone()));
        link
    }

    /// What the next version of this file's object carries.
    pub(super) fn headers(&self, state: &State, attributes: &Attributes, transaction: &str) -> ObjectHeaders {
        let mut headers = state.headers.clone();
        appends::hand_on(&mut headers, state.only_appended());
        headers_in(self.context.metadata_format, &headers, attributes, transaction)
    }

    async fn send_cell(self: Arc<Self>, link: Arc<Link>, number: u32, cell: ByteRange) {
        let result = self.try_send_cell(&link, number, cell).await;
        {
            let mut state = self.state();
            let is_current = state.upload.as_ref().is_some_and(|upload| upload.is(&link));
            if let Some(upload) = state.upload.as_mut().filter(|_| is_current) {
                match &result {
                    Ok(Some(part)) => upload.arrived(part.clone()),
                    Ok(None) | Err(_) => upload.failed(number),
                }
            }
            if let Err(error) = &result
                && is_current
            {
                state.streaming_failed = true;
                tracing::info!(%error, number, "a part could not be sent ahead; the commit will send it");
            }
        }
        self.parts_changed.notify_waiters();
        self.context.budget.nudge();
    }

    /// `None` when the cell is not as it was when it was to be sent.
    async fn try_send_cell(
        &self,
        link: &Arc<Link>,
        number: u32,
        cell: ByteRange,
    ) -> Result<Option<UploadedPart>> {
        // Closed once the upload was given up.
        let Ok(_lane) = link.lanes.acquire().await else {
            return Ok(None);
        };
        let opened = link.opened(&self.context.client, &self.context.spool).await?;
        let Some(body) = self.body_of_cell(link, number, cell) else {
            return Ok(None);
        };
        let Body {
            segments, checksum, ..
        } = body;
        let client = &self.context.client;
        client
            .upload_part(&link.target, &opened.upload, number, segments, checksum)
            .await
            .map(Some)
    }

    fn body_of_cell(&self, link: &Arc<Link>, number: u32, cell: ByteRange) -> Option<Body> {
        let pieces = {
            let mut state = self.state();
            let upload = state.upload.as_ref().filter(|upload| upload.is(link))?;
            if upload.is_stale(number) {
                return None;
            }
            let pieces = state.memory_of(cell)?;
            if let Some(upload) = &mut state.upload {
                upload.start(number);
            }
            pieces
        };
        Some(Body::of_memory(pieces))
    }

    /// Gives up the upload, if there is one; it is aborted in the background.
    pub(super) fn abandon_upload(&self, state: &mut State) {
        if let Some(upload) = state.upload.take() {
            let context = self.context.clone();
            rt::spawn(async move { upload.link.abort(&context.client, &context.spool).await });
        }
        self.parts_changed.notify_waiters();
    }

    /// Returns when nobody sends part `number` of the current upload.
    pub(super) async fn wait_until_not_sending(&self, number: u32) {
        loop {
            let changed = self.parts_changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            if !self
                .state()
                .upload
                .as_ref()
                .is_some_and(|upload| upload.is_sending(number))
            {
                return;
            }
            changed.await;
        }
    }
}

/// `headers` with the attributes and the identity of one write in their metadata.
pub(super) fn headers_in(
    format: MetadataFormat,
    headers: &ObjectHeaders,
    attributes: &Attributes,
    transaction: &str,
) -> ObjectHeaders {
    let mut headers = headers.clone();
    attributes.write(format, &mut headers.metadata);
    headers
        .metadata
        .insert(TRANSACTION.to_owned(), transaction.to_owned());
    headers
}
