//! Bringing what was written into the bucket.
//!
//! 1. Commits of one file run one after the other, each in a task of its own, so that a caller who goes away leaves
//!    nothing half done. Who comes while one runs shares the next; who waited for one that failed shares its error
//!    instead of waiting through the same time-out again.
//! 2. The state that is sent is sealed: writes go on meanwhile and stay dirty. If nobody can tell what came of it, it stays
//!    sealed, and is sent again with the same identity before anything newer.
//! 3. A refused condition: our own earlier write, an object that this open may replace, or a conflict ([`super::keep`]).
//! 4. An upload that the store does not know any more; attributes that were set after it was created ([`super::rewrite`]).

use super::File;
use super::copies::{gone, source_is_gone};
use super::room::runs_of;
use super::state::State;
use super::upload::{self, Link, Upload};
use super::{Committed, appends};
use crate::base::attributes::xattrs::XATTR;
use crate::base::attributes::{Attributes, MetadataFormat};
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::extents::{Backing, SourceId};
use crate::base::object::{ByteRange, Condition, ObjectInfo, Version};
use crate::object::outcome::{self, Outcome};
use crate::object::reader::Reader;
use crate::plan::copies::{PARALLEL_PART_COPIES, is_copied_at_once};
use crate::plan::parts::{PartContent, Plan, PlannedPart, Run, SourceSizes, plan_upload, plan_whole_copy};
use crate::rt;
use crate::s3::silence;
use crate::s3::types::{CompleteRequest, CopyRequest, PutRequest, UploadedPart};
use futures_util::StreamExt;
use std::sync::{Arc, Mutex, PoisonError};

/// How often one commit may find another object that it may replace.
const MAX_REPLACEMENTS: u32 = 4;
/// How often one commit may begin its upload anew because the store lost it.
const MAX_UPLOADS: u32 = 2;

impl State {
    /// The runs of what is sealed, as far as an upload cares.
    fn runs(&self) -> Vec<Run> {
        runs_of(self.sealed.as_ref().map_or(&self.map, |sealed| &sealed.map))
    }

    pub(super) fn source_sizes(&self) -> SourceSizes {
        let base = self.source.iter().map(|source| (SourceId::BASE, source));
        let copied = self.copied.iter().map(|(id, source)| (*id, source));
        base.chain(copied)
            .map(|(id, source)| (id, source.reader.version().size_bytes))
            .collect()
    }

    fn sealed_size_bytes(&self) -> u64 {
        self.sealed
            .as_ref()
            .map_or(self.map.size_bytes(), |sealed| sealed.map.size_bytes())
    }

    fn sealed_attributes(&self) -> Attributes {
        self.sealed
            .as_ref()
            .map_or(self.attributes, |sealed| sealed.attributes)
    }

    /// A write with this identity is about to be sent. `false` afterwards: what came of it is known.
    fn note_attempt(&mut self, transaction: Option<String>) {
        if let Some(sealed) = &mut self.sealed {
            if transaction.is_some() {
                sealed.last_transaction.clone_from(&transaction);
            }
            sealed.unknown_outcome_of = transaction;
        }
    }

    /// The identity for the next write: that of the one whose outcome is unknown, if there is one.
    fn transaction(&self) -> String {
        let unknown = self
            .sealed
            .as_ref()
            .and_then(|sealed| sealed.unknown_outcome_of.clone());
        unknown.unwrap_or_else(rt::random_id)
    }

    /// True when the attributes that somebody set are not those that the upload was created with.
    fn attributes_are_late(&self, link: &Link) -> bool {
        let now = self.sealed_attributes();
        let then = &link.attributes;
        let is_explicit = self
            .sealed
            .as_ref()
            .map_or(self.mtime_is_explicit, |sealed| sealed.mtime_is_explicit);
        (now.mode, now.uid, now.gid) != (then.mode, then.uid, then.gid)
            || (is_explicit && now.mtime != then.mtime)
            || self.headers.content_type != link.headers.content_type
            || self.headers.metadata.get(XATTR) != link.headers.metadata.get(XATTR)
    }
}

impl File {
    /// Commits all changes made before the call.
    pub(super) async fn commit_everything(self: &Arc<Self>) -> Result<()> {
        self.commit_all(true).await
    }

    /// `may_wait`: see [`super::Owner::make_way`].
    pub(super) async fn commit_all(self: &Arc<Self>, may_wait: bool) -> Result<()> {
        let (wanted, noted_attempt) = {
            let state = self.state();
            if !state.is_dirty() {
                return Ok(());
            }
            (state.last_change, state.attempts)
        };
        let turn = self.turn_to_commit(may_wait).await?;
        let settled = self.settled_meanwhile(wanted, noted_attempt);
        let file = self.clone();
        let task = rt::spawn(silence::as_part_of_it(async move {
            let result = match settled {
                Some(result) => result,
                None => file.commit_up_to(wanted).await,
            };
            turn.end().await;
            result
        }));
        let gone = |error| {
            Error::new(
                ErrorKind::Internal,
                format!("a commit ended without a result: {error}"),
            )
        };
        task.await.unwrap_or_else(|error| Err(gone(error).on(&self.id())))
    }

    /// What came of it where others have tried since.
    fn settled_meanwhile(&self, wanted: u64, noted_attempt: u64) -> Option<Result<()>> {
        let state = self.state();
        match &state.last_failure {
            Some((attempt, error)) if *attempt > noted_attempt => Some(Err(error.clone())),
            _ => (wanted <= state.settled).then_some(Ok(())),
        }
    }

    /// By the holder of `committing`.
    pub(super) async fn commit_up_to(self: &Arc<Self>, wanted: u64) -> Result<()> {
        let attempt = {
            let mut state = self.state();
            state.attempts += 1;
            state.attempts
        };
        let under_way = self.note_under_way();
        let mut result = Ok(());
        while result.is_ok() && self.state().settled < wanted {
            result = self.commit_once().await;
        }
        if let Err(error) = &result {
            self.state().last_failure = Some((attempt, error.clone()));
        }
        drop(under_way);
        // What could not be given up while something was sealed can be now.
        self.context.budget.nudge();
        result
    }

    async fn commit_once(self: &Arc<Self>) -> Result<()> {
        // Who copies from the version that this replaces is committed before.
        self.settle_copies().await?;
        {
            let mut state = self.state();
            if state.sealed.is_none() {
                state.seal();
            }
        }
        let result = self.send_sealed().await;
        if result.is_err() {
            let mut state = self.state();
            if state
                .sealed
                .as_ref()
                .is_some_and(|sealed| sealed.unknown_outcome_of.is_none())
            {
                state.unseal();
            }
        }
        result
    }

    /// True when what `reader` had for `position` is elsewhere now: a commit of ours has replaced the version that it
    /// reads, perhaps without learning what came of that.
    pub(super) async fn has_replaced(&self, reader: &Arc<Reader>, position: u64) -> Result<bool> {
        let _guard = self.committing.lock().await;
        self.find_unknown_outcome_locked().await?;
        let state = self.state();
        let source = match state.map.at(position).map(|extent| extent.backing) {
            Some(Backing::Source(at)) => state.source_of(at.source),
            _ => None,
        };
        Ok(source.is_none_or(|source| !Arc::ptr_eq(&source.reader, reader)))
    }

    /// Looks whether a write happened of which nobody could tell, by the holder of `committing`. True when it did: it is the
    /// base version now.
    pub(super) async fn find_unknown_outcome_locked(&self) -> Result<bool> {
        let unknown = {
            let state = self.state();
            let sealed = state.sealed.as_ref();
            sealed
                .and_then(|sealed| sealed.unknown_outcome_of.clone())
                .map(|unknown| (state.id.clone(), unknown))
        };
        let Some((id, transaction)) = unknown else {
            return Ok(false);
        };
        let found = outcome::look(&self.context.client, &id).await?;
        match found.filter(|info| outcome::carries(info, &transaction)) {
            Some(info) => self.finish(info.version).await.map(|()| true),
            None => Ok(false),
        }
    }

    async fn send_sealed(self: &Arc<Self>) -> Result<()> {
        let mut condition = self.state().base.condition();
        let (mut replacements, mut appends) = (0, 0);
        let begun_at = rt::now();
        // However long the first upload took, a few more are tried.
        let is_in_time =
            |appends| appends < MAX_REPLACEMENTS || rt::now() - begun_at < self.context.stall_timeout;
        while replacements < MAX_REPLACEMENTS && is_in_time(appends) {
            let found = match self.send(&condition).await? {
                Outcome::Stored(version) => return self.finish(version).await,
                Outcome::Lost(found) => found,
            };
            // The same once more would end the same: it is not the object that is in the way.
            let next = self.next_condition(found.as_deref());
            if let Some(next) = next.filter(|next| *next != condition) {
                replacements += 1;
                condition = next;
                continue;
            }
            let is_rebased = match &found {
                Some(info) => self.rebase_appends(info).await?,
                None => false,
            };
            if !is_rebased {
                let overwriting = self.overwriting(found.as_deref());
                if let Some(next) = overwriting.filter(|next| *next != condition) {
                    tracing::warn!(object = %self.id(), "somebody else's newer object is overwritten");
                    replacements += 1;
                    condition = next;
                    continue;
                }
                return Err(self.keep_conflict(found.map(|info| *info)).await);
            }
            if self.state().sealed.is_none() {
                // It was stored before.
                return self.finish_appended().await;
            }
            appends += 1;
            rt::sleep(appends::pause(appends)).await;
            condition = self.state().base.condition();
        }
        Err(Error::new(ErrorKind::Busy, "the object keeps changing").on(&self.id()))
    }

    /// The condition under which what was found instead may be replaced.
    fn next_condition(&self, found: Option<&ObjectInfo>) -> Option<Condition> {
        let state = self.state();
        let former = state.former_transaction.as_deref();
        if let (Some(info), Some(former)) = (found, former)
            && outcome::carries(info, former)
        {
            return Some(Condition::Matches(info.version.etag.clone()));
        }
        state.replaceable(found)
    }

    /// Plans and sends what is sealed.
    async fn send(self: &Arc<Self>, condition: &Condition) -> Result<Outcome> {
        for is_last in (1..=MAX_UPLOADS).map(|upload| upload == MAX_UPLOADS) {
            let result = match self.plan()? {
                Plan::Copy(source) => self.send_copy(source, condition).await,
                Plan::Put => self.send_put(condition).await,
                Plan::Multipart(parts) => self.send_parts(parts, condition).await,
            };
            match result {
                Err(error) if upload::is_no_such_upload(&error) && !is_last => {
                    let mut state = self.state();
                    if state.upload.as_ref().is_none_or(Upload::has_evicted) {
                        // Its parts were the only copy of their bytes.
                        return Err(error);
                    }
                    tracing::info!(%error, "the store lost the upload; all parts are sent again");
                    state.note_attempt(None);
                    self.abandon_upload(&mut state);
                }
                Err(error) if error.kind() == ErrorKind::Stale => return self.lost_source(error).await,
                other => return other,
            }
        }
        Err(Error::new(ErrorKind::Busy, "the store keeps losing the upload").on(&self.id()))
    }

    /// Unchanged bytes come from a version that is gone: somebody replaced it, or an earlier try of this commit did.
    async fn lost_source(&self, error: Error) -> Result<Outcome> {
        let (id, condition, unknown) = {
            let state = self.state();
            let sealed = state.sealed.as_ref();
            let unknown = sealed.and_then(|sealed| sealed.unknown_outcome_of.clone());
            (state.id.clone(), state.base.condition(), unknown)
        };
        let found = outcome::look(&self.context.client, &id).await?;
        if let (Some(info), Some(transaction)) = (&found, &unknown)
            && outcome::carries(info, transaction)
        {
            return Ok(Outcome::Stored(info.version.clone()));
        }
        tracing::debug!(%error, ?condition, "the source version is gone");
        Ok(Outcome::Lost(found.map(Box::new)))
    }

    fn plan(&self) -> Result<Plan> {
        let mut state = self.state();
        let runs = state.runs();
        let sizes = state.source_sizes();
        let kept = state.upload.as_ref().map(Upload::kept).unwrap_or_default();
        let mut plan = plan_upload(&runs, &sizes, &kept, &self.policy);
        let is_free = state.upload.as_ref().is_none_or(|upload| !upload.has_evicted());
        if plan.is_err() && !kept.is_empty() && is_free {
            self.abandon_upload(&mut state);
            plan = plan_upload(&runs, &sizes, &[], &self.policy);
        }
        let mut plan = plan.map_err(|error| error.on(&state.id))?;
        if let Plan::Copy(source) = plan
            && let Some(bytes) = sizes.get(&source)
            && !is_copied_at_once(*bytes, &self.policy.limits)
        {
            plan = Plan::Multipart(plan_whole_copy(source, *bytes, &self.policy.limits));
        }
        if !matches!(plan, Plan::Multipart(_)) {
            self.abandon_upload(&mut state);
        }
        Ok(plan)
    }

    /// The content is the source's: only names and headers change.
    async fn send_copy(&self, source_id: SourceId, condition: &Condition) -> Result<Outcome> {
        let (source, mut headers, transaction, tags_of) = {
            let state = self.state();
            let transaction = state.transaction();
            let headers = self.headers(&state, &state.sealed_attributes(), &transaction);
            let source = state.source_of(source_id).cloned();
            (source.ok_or_else(gone)?, headers, transaction, state.tags_of())
        };
        let client = &self.context.client;
        if source_id != SourceId::BASE {
            // Else the store takes those of the source.
            headers = client.with_tags(&headers, &tags_of).await?;
            headers.tagging.get_or_insert_default();
        }
        let request = {
            let state = self.state();
            let version = source.reader.version();
            CopyRequest {
                from: source.id.clone(),
                from_etag: version.etag.clone(),
                size_bytes: version.size_bytes,
                to: state.id.clone(),
                condition: condition.clone(),
                headers: Some(headers),
            }
        };
        self.settle(&transaction, condition, || client.copy(&request))
            .await
            .map_err(source_is_gone)
    }

    async fn send_put(&self, condition: &Condition) -> Result<Outcome> {
        let (id, tags_of, headers, transaction, size_bytes) = {
            let state = self.state();
            let transaction = state.transaction();
            let headers = self.headers(&state, &state.sealed_attributes(), &transaction);
            let tags_of = state.tags_of();
            (
                state.id.clone(),
                tags_of,
                headers,
                transaction,
                state.sealed_size_bytes(),
            )
        };
        let headers = self
            .context
            .client
            .with_tags(&headers.for_new_bytes(), &tags_of)
            .await?;
        let body = self.body(ByteRange::new(0, size_bytes), None).await?;
        let request = PutRequest {
            id,
            body: body.segments.clone(),
            checksum: body.checksum,
            condition: condition.clone(),
            headers,
        };
        let client = &self.context.client;
        self.settle(&transaction, condition, || client.put(&request))
            .await
    }

    async fn send_parts(self: &Arc<Self>, parts: Vec<PlannedPart>, condition: &Condition) -> Result<Outcome> {
        let (link, size_bytes) = {
            let mut state = self.state();
            (self.link(&mut state), state.sealed_size_bytes())
        };
        let opened = link.opened(&self.context.client, &self.context.spool).await?;
        let parts = self.ensure_parts(&link, parts).await?;
        let request = CompleteRequest {
            id: link.target.clone(),
            upload: opened.upload,
            checksum: UploadedPart::whole_checksum(&parts),
            parts,
            size_bytes,
            condition: condition.clone(),
        };
        let client = &self.context.client;
        self.settle(&link.transaction, condition, || client.complete_upload(&request))
            .await
    }

    /// Sends one conditional write, and remembers as long as its outcome is unknown.
    async fn settle<F, Sent>(&self, transaction: &str, condition: &Condition, send: F) -> Result<Outcome>
    where
        F: Fn() -> Sent,
        Sent: Future<Output = Result<Version>>,
    {
        let (id, was_unknown) = {
            let mut state = self.state();
            let sealed = state.sealed.as_ref();
            let was_unknown = sealed.is_some_and(|sealed| sealed.unknown_outcome_of.is_some());
            state.note_attempt(Some(transaction.to_owned()));
            (state.id.clone(), was_unknown)
        };
        let outcome = outcome::settle(&self.context.client, &id, transaction, condition, send).await;
        let is_unknown = outcome
            .as_ref()
            .is_err_and(|error| error.kind() == ErrorKind::Ambiguous);
        // That this attempt certainly failed says nothing of the former one.
        if outcome.is_ok() || !(is_unknown || was_unknown) {
            self.state().note_attempt(None);
        }
        outcome
    }

    /// Returns when all parts are in the upload, in order.
    async fn ensure_parts(
        self: &Arc<Self>,
        link: &Arc<Link>,
        parts: Vec<PlannedPart>,
    ) -> Result<Vec<UploadedPart>> {
        let first_error: Mutex<Option<Error>> = Mutex::new(None);
        let error = || first_error.lock().unwrap_or_else(PoisonError::into_inner);
        // Each part runs to its end, so that none is left in the state "being sent".
        let uploaded: Vec<Option<UploadedPart>> = futures_util::stream::iter(parts)
            .map(|part| async move {
                if error().is_some() {
                    return None;
                }
                let result = self.ensure_part(link, part).await;
                result
                    .map_err(|failure| error().get_or_insert(failure).kind())
                    .ok()
            })
            .buffered(link.max_lanes as usize + PARALLEL_PART_COPIES)
            .collect()
            .await;
        let failure = error().take();
        match failure {
            Some(error) => Err(error),
            None => Ok(uploaded.into_iter().flatten().collect()),
        }
    }

    async fn ensure_part(&self, link: &Arc<Link>, part: PlannedPart) -> Result<UploadedPart> {
        self.wait_until_not_sending(part.number).await;
        let lanes = match part.content {
            PartContent::Copy(..) => &link.copy_lanes,
            PartContent::Send | PartContent::Sent => &link.lanes,
        };
        let lane = lanes.acquire().await;
        let _lane = lane.map_err(|_| Error::new(ErrorKind::ShuttingDown, "the upload is closed"))?;
        {
            let mut state = self.state();
            let cell = state.grid_in_use().and_then(|grid| grid.cell(part.number));
            let is_cell = cell == Some(part.range);
            let Some(upload) = state.upload.as_mut().filter(|upload| upload.is(link)) else {
                return Err(Error::new(
                    ErrorKind::Internal,
                    "the upload was given up during its commit",
                ));
            };
            if let Some(sent) = upload.sent(part.number, part.range) {
                return Ok(sent.clone());
            }
            let is_sent_from_here = !matches!(part.content, PartContent::Copy(..));
            upload.begin(part.number, part.range, is_cell && is_sent_from_here);
        }
        let result = self.send_part(link, part).await;
        let mut state = self.state();
        if let Some(upload) = state.upload.as_mut().filter(|upload| upload.is(link)) {
            match &result {
                Ok(uploaded) => upload.arrived(uploaded.clone()),
                Err(_) => upload.failed(part.number),
            }
        }
        drop(state);
        self.parts_changed.notify_waiters();
        result
    }

    async fn send_part(&self, link: &Arc<Link>, part: PlannedPart) -> Result<UploadedPart> {
        let client = &self.context.client;
        let opened = link.opened(client, &self.context.spool).await?;
        let PartContent::Copy(source, range) = part.content else {
            let body = self.body(part.range, Some(part.number)).await?;
            let (segments, checksum) = (body.segments.clone(), body.checksum);
            return client
                .upload_part(&link.target, &opened.upload, part.number, segments, checksum)
                .await;
        };
        let source = self.state().source_of(source).cloned().ok_or_else(gone)?;
        let etag = &source.reader.version().etag;
        let copied = client
            .upload_part_copy(&link.target, &opened.upload, part.number, &source.id, etag, range)
            .await;
        copied.map_err(source_is_gone)
    }

    /// The object is what was sealed.
    async fn finish(&self, version: Version) -> Result<()> {
        let context = &self.context;
        let (upload, records, left_behind, late) = {
            let mut state = self.state();
            let version = Version {
                // Known better than by an answer to a HEAD, whose length says nothing of the object where something
                // on the way answers with a text of its own.
                size_bytes: state.sealed_size_bytes(),
                ..version
            };
            let reader = Reader::new(
                context.client.clone(),
                context.budget.clone(),
                state.id.clone(),
                version.clone(),
            );
            let upload = state.upload.take();
            let stored = upload
                .as_ref()
                .map_or(state.sealed_attributes(), |upload| upload.link.attributes);
            let late = upload
                .as_ref()
                .is_some_and(|upload| !state.is_unlinked && state.attributes_are_late(&upload.link));
            let late = late.then(|| state.sealed_attributes());
            state.committed_as(version.clone(), reader);
            state.unreported = Some(Committed::new(version, written(context.metadata_format, stored)));
            if !state.is_dirty() && late.is_none() {
                state.attributes.mtime = stored.mtime;
            }
            let records = state
                .persisted
                .take()
                .map(|persisted| persisted.records)
                .unwrap_or_default();
            (upload, records, state.left_behind.take(), late)
        };
        self.tell();
        self.parts_changed.notify_waiters();
        if let Some(upload) = upload
            && let Ok(opened) = upload.link.opened(&context.client, &context.spool).await
        {
            opened.forget(&context.spool).await;
        }
        for record in records {
            upload::forget(&context.spool, record).await;
        }
        if let Some((id, etag)) = left_behind
            && let Err(error) = context.client.delete(&id, Some(&etag)).await
        {
            tracing::warn!(%error, "an object under a former name could not be deleted");
        }
        match late {
            Some(attributes) => self.rewrite_attributes(attributes).await,
            None => Ok(()),
        }
    }
}

/// What of `attributes` is in the object's metadata.
pub(super) fn written(format: MetadataFormat, attributes: Attributes) -> Attributes {
    if format == MetadataFormat::None {
        Attributes::default()
    } else {
        attributes
    }
}
