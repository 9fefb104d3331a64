//! A multipart upload of one file: which parts it has, and who is sending one.
//!
//! 1. Two senders of one part number could leave the older bytes behind: a number that is being sent is never sent again
//!    before that ended ([`Upload::is_sending`]).
//! 2. The store must not be told to abort while parts arrive, or they stay: whoever aborts takes all lanes first.
//! 3. An upload that this process cannot finish must be found again: its id is recorded before the first part is sent.

use crate::base::attributes::Attributes;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::object::{ByteRange, ObjectHeaders, ObjectId};
use crate::plan::copies::PARALLEL_PART_COPIES;
use crate::plan::parts::SentPart;
use crate::s3::Client;
use crate::s3::types::{UploadId, UploadedPart};
use crate::spool::{OpenUpload, RecordId, Spool};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{OnceCell, Semaphore};

/// How many parts of one file are sent at a time, at most.
const MAX_LANES: u64 = 6;

/// How many parts of `part_bytes` are sent at a time with a budget of `limit_bytes`: what is being sent cannot be moved to
/// the spool, so it is at most half.
pub fn lanes_for(limit_bytes: u64, part_bytes: u64) -> u32 {
    (limit_bytes / 2 / part_bytes).clamp(1, MAX_LANES) as u32
}

/// What everybody who works on one upload shares.
pub struct Link {
    pub target: ObjectId,
    /// The object whose tags the new version keeps.
    tags_of: ObjectId,
    pub transaction: String,
    /// With the attributes and the transaction in their metadata.
    pub headers: ObjectHeaders,
    pub attributes: Attributes,
    pub lanes: Semaphore,
    pub max_lanes: u32,
    /// Parts that the store copies need no memory, and have turns of their own.
    pub copy_lanes: Semaphore,
    opened: OnceCell<Opened>,
}

#[derive(Clone)]
pub struct Opened {
    pub upload: UploadId,
    /// `None` where the disk was full.
    record: Option<RecordId>,
}

impl Opened {
    /// The upload is completed, aborted, or a conflict's.
    pub async fn forget(&self, spool: &Arc<Spool>) {
        if let Some(record) = self.record {
            forget(spool, record).await;
        }
    }
}

/// The parts, as the file's state knows them.
pub struct Upload {
    pub link: Arc<Link>,
    parts: BTreeMap<u32, Part>,
    evicted: usize,
}

struct Part {
    range: ByteRange,
    state: PartState,
    /// A cell of the grid, sent from memory: it may be kept when other parts are planned anew.
    is_cell: bool,
    is_evicted: bool,
}

enum PartState {
    /// `is_started`: it has its turn, and its bytes are in use.
    Sending {
        is_stale: bool,
        is_started: bool,
    },
    Sent(UploadedPart),
}

impl Part {
    fn is_being_sent(&self) -> bool {
        matches!(
            self.state,
            PartState::Sending {
                is_stale: false,
                is_started: true
            }
        )
    }
}

impl Link {
    /// `lanes`: how many parts are sent at a time.
    pub fn new(
        target: ObjectId,
        tags_of: ObjectId,
        transaction: String,
        headers: ObjectHeaders,
        attributes: Attributes,
        lanes: u32,
    ) -> Arc<Self> {
        Arc::new(Self {
            target,
            tags_of,
            transaction,
            headers,
            attributes,
            max_lanes: lanes,
            lanes: Semaphore::new(lanes as usize),
            copy_lanes: Semaphore::new(PARALLEL_PART_COPIES),
            opened: OnceCell::new(),
        })
    }

    /// The upload's id; creates and records the upload at the first call.
    pub async fn opened(&self, client: &Client, spool: &Arc<Spool>) -> Result<Opened> {
        self.opened
            .get_or_try_init(|| self.open(client, spool))
            .await
            .cloned()
    }

    async fn open(&self, client: &Client, spool: &Arc<Spool>) -> Result<Opened> {
        let headers = client
            .with_tags(&self.headers.for_new_bytes(), &self.tags_of)
            .await?;
        let upload = client.create_upload(&self.target, &headers).await?;
        let record = OpenUpload {
            bucket: self.target.bucket.to_string(),
            key: self.target.key.to_string(),
            upload_id: upload.0.clone(),
        };
        match spool.note_upload(record).await {
            Ok(record) => Ok(Opened { upload, record }),
            Err(error) => {
                if let Err(aborting) = client.abort_upload(&self.target, &upload).await {
                    tracing::warn!(error = %aborting, upload = %upload.0, "an unused upload stays in the store");
                }
                Err(error)
            }
        }
    }

    /// Aborts the upload once nobody sends parts to it any more. If the store cannot be reached the record stays, and
    /// the next mount aborts it.
    pub async fn abort(&self, client: &Client, spool: &Arc<Spool>) {
        let _all = self.lanes.acquire_many(self.max_lanes).await;
        let _copies = self.copy_lanes.acquire_many(PARALLEL_PART_COPIES as u32).await;
        // Who still waits for a turn must not open the upload anew: nobody would abort that one.
        self.lanes.close();
        self.copy_lanes.close();
        let Some(opened) = self.opened.get().cloned() else {
            return;
        };
        match client.abort_upload(&self.target, &opened.upload).await {
            Ok(()) => opened.forget(spool).await,
            Err(error) => {
                tracing::warn!(%error, upload = %opened.upload.0, "an upload could not be aborted; the next mount will");
            }
        }
    }
}

/// Aborts an upload that a process which is gone has left open. When the store cannot be reached its record stays, for
/// the next time.
pub async fn abort_leftover(client: &Client, spool: &Arc<Spool>, record: RecordId, upload: &OpenUpload) {
    let id = ObjectId::new(upload.bucket.as_str(), upload.key.as_str());
    let upload = UploadId(upload.upload_id.clone());
    match client.abort_upload(&id, &upload).await {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            tracing::warn!(%error, "an unfinished upload of an earlier process could not be aborted");
        }
        _ => forget(spool, record).await,
    }
}

/// Removes a record whose work is finished. A failure costs the next mount a request, no more.
pub async fn forget(spool: &Arc<Spool>, record: RecordId) {
    spool.finished(record).await;
}

impl Upload {
    pub fn new(link: Arc<Link>) -> Self {
        Self {
            link,
            parts: BTreeMap::new(),
            evicted: 0,
        }
    }

    pub fn is(&self, link: &Arc<Link>) -> bool {
        Arc::ptr_eq(&self.link, link)
    }

    pub fn has(&self, number: u32) -> bool {
        self.parts.contains_key(&number)
    }

    /// True when parts were sent from memory that others are planned around, or are on their way.
    pub fn has_cells(&self) -> bool {
        self.parts.values().any(|part| part.is_cell)
    }

    pub fn is_sending(&self, number: u32) -> bool {
        matches!(
            self.parts.get(&number),
            Some(Part {
                state: PartState::Sending { .. },
                ..
            })
        )
    }

    /// True when the part's bytes changed since it was to be sent, or when it was given up.
    pub fn is_stale(&self, number: u32) -> bool {
        !matches!(
            self.parts.get(&number),
            Some(Part {
                state: PartState::Sending { is_stale: false, .. },
                ..
            })
        )
    }

    /// The bytes that are being sent now and are still the file's.
    pub fn sending_bytes(&self) -> u64 {
        let sending = self.parts.values().filter(|part| part.is_being_sent());
        sending.map(|part| part.range.len()).sum()
    }

    /// True when a part that is being sent now holds bytes of `range`.
    pub fn is_sending_within(&self, range: ByteRange) -> bool {
        let mut sending = self.parts.values().filter(|part| part.is_being_sent());
        sending.any(|part| part.range.start < range.end && range.start < part.range.end)
    }

    /// It is the turn of part `number`: its bytes are in use from now on.
    pub fn start(&mut self, number: u32) {
        if let Some(Part {
            state: PartState::Sending { is_started, .. },
            ..
        }) = self.parts.get_mut(&number)
        {
            *is_started = true;
        }
    }

    pub fn begin(&mut self, number: u32, range: ByteRange, is_cell: bool) {
        let state = PartState::Sending {
            is_stale: false,
            is_started: false,
        };
        self.parts.insert(
            number,
            Part {
                range,
                state,
                is_cell,
                is_evicted: false,
            },
        );
    }

    /// The part arrived; if its bytes changed meanwhile it is forgotten.
    pub fn arrived(&mut self, uploaded: UploadedPart) {
        let number = uploaded.number;
        match self.parts.get_mut(&number) {
            Some(part) if matches!(part.state, PartState::Sending { is_stale: false, .. }) => {
                part.state = PartState::Sent(uploaded);
            }
            _ => {
                self.parts.remove(&number);
            }
        }
    }

    pub fn failed(&mut self, number: u32) {
        self.parts.remove(&number);
    }

    /// The sent part `number`, if it holds exactly `range`.
    pub fn sent(&self, number: u32, range: ByteRange) -> Option<&UploadedPart> {
        match self.parts.get(&number) {
            Some(Part {
                range: held,
                state: PartState::Sent(part),
                ..
            }) if *held == range => Some(part),
            _ => None,
        }
    }

    /// Parts to plan around, those on their way included.
    pub fn kept(&self) -> Vec<SentPart> {
        self.parts
            .iter()
            .filter(|(_, part)| !matches!(part.state, PartState::Sending { is_stale: true, .. }))
            .map(|(number, part)| SentPart {
                number: *number,
                range: part.range,
            })
            .collect()
    }

    /// All sent parts, in order.
    pub fn all_sent(&self) -> Vec<UploadedPart> {
        self.parts
            .values()
            .filter_map(|part| match &part.state {
                PartState::Sent(uploaded) => Some(uploaded.clone()),
                PartState::Sending { .. } => None,
            })
            .collect()
    }

    /// Bytes of `range` changed.
    pub fn forget(&mut self, range: ByteRange) {
        self.forget_unless(|part| part.range.end <= range.start || part.range.start >= range.end);
    }

    /// After a failed commit: keeps the cells that `is_current`; everything else is planned anew.
    pub fn keep_only(&mut self, is_current: impl Fn(ByteRange) -> bool) {
        self.forget_unless(|part| part.is_cell && is_current(part.range));
    }

    fn forget_unless(&mut self, stays: impl Fn(&Part) -> bool) {
        self.parts.retain(|_, part| {
            if stays(part) {
                return true;
            }
            match &mut part.state {
                PartState::Sending { is_stale, .. } => {
                    *is_stale = true;
                    true
                }
                PartState::Sent(_) => false,
            }
        });
        self.evicted = self.parts.values().filter(|part| part.is_evicted).count();
    }

    /// Sent parts whose bytes may still be in memory, lowest first.
    pub fn evictable(&self) -> Vec<(u32, ByteRange)> {
        self.parts
            .iter()
            .filter(|(_, part)| part.is_cell && !part.is_evicted && matches!(part.state, PartState::Sent(_)))
            .map(|(number, part)| (*number, part.range))
            .collect()
    }

    pub fn note_evicted(&mut self, number: u32) {
        if let Some(part) = self.parts.get_mut(&number) {
            part.is_evicted = true;
            self.evicted += 1;
        }
    }

    pub fn has_evicted(&self) -> bool {
        self.evicted > 0
    }
}

/// What a store says about an upload that it does not have (any more).
pub fn is_no_such_upload(error: &Error) -> bool {
    error.s3_code() == Some("NoSuchUpload")
}
