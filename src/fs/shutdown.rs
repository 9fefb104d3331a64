//! The beginning and the end of a mount: what a former one left behind, and what this one must not.

use super::contents::OpenFile;
use super::unlinked::Unlinked;
use super::{Fs, lock};
use crate::base::attributes::{Attributes, MetadataFormat};
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::names::DirectoryKey;
use crate::base::object::{ETag, ObjectId};
use crate::object::file::{File, abort_leftover};
use crate::rt;
use crate::spool::manifest::Manifest;
use crate::spool::{Intent, Leftovers, RecordId, UnsentFile};
use crate::tree::moves::Move;
use crate::tree::node::{DirectoryPlace, Ino};
use futures_util::{StreamExt, stream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// How many files are sent at once when the mount ends.
const MAX_SENT_AT_ONCE: usize = 32;

/// What is left to send, for progress bars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    pub files: usize,
    pub bytes: u64,
}

impl Fs {
    /// Files with content that the bucket does not have yet.
    #[must_use]
    pub fn pending(&self) -> Pending {
        let files = self.files();
        files
            .values()
            .filter(|open| open.file.is_dirty())
            .fold(Pending::default(), |sum, open| Pending {
                files: sum.files + 1,
                bytes: sum.bytes + open.file.size_bytes(),
            })
    }

    /// After the last request: sends everything as [`Fs::send_all`], then finishes deferred deletes, as no handle needs
    /// those objects any more, without a directory going with them. Returns one line for each file that could not be sent.
    pub async fn finish(self: &Arc<Self>, progress: impl FnMut(Pending)) -> Vec<String> {
        let unsent = self.send_all(progress).await;
        let open: Vec<_> = self
            .files()
            .iter()
            .map(|(ino, open)| (*ino, open.clone()))
            .collect();
        for (ino, content) in open {
            if self.tree.node(ino).is_ok_and(|node| node.unlinked) {
                self.finish_last_delete(ino, &content).await;
            }
        }
        self.tree.remember().await;
        unsent
    }

    /// Sends everything and writes due markers, at any time. What cannot be sent is saved for the next mount; returns one
    /// line for each such file.
    pub async fn send_all(self: &Arc<Self>, mut progress: impl FnMut(Pending)) -> Vec<String> {
        let mut unsent = Vec::new();
        let dirty: Vec<_> = self
            .files()
            .iter()
            .filter(|(_, open)| open.file.is_dirty())
            .map(|(ino, open)| (*ino, open.clone()))
            .collect();
        // Together, and without waiting for each: a store that is away costs one time-out, after which all is saved here.
        let is_away = AtomicBool::new(false);
        let sending = dirty
            .into_iter()
            .map(|(ino, open)| self.send_unless(&is_away, ino, open));
        let mut sending = stream::iter(sending).buffer_unordered(MAX_SENT_AT_ONCE);
        progress(self.pending());
        while let Some(result) = sending.next().await {
            progress(self.pending());
            unsent.extend(result.err().map(|error| error.to_string()));
        }
        progress(self.pending());
        unsent.extend(self.settle_all_edits().await);
        let due: Vec<DirectoryPlace> = lock(&self.due_markers).keys().cloned().collect();
        for directory in due {
            self.keep_directory(&directory).await;
        }
        unsent
    }

    async fn send_unless(
        self: &Arc<Self>,
        is_away: &AtomicBool,
        ino: Ino,
        open: Arc<OpenFile>,
    ) -> Result<()> {
        if is_away.load(Ordering::Relaxed) {
            open.file.persist().await?;
            let message = "the store does not answer; the data is saved on this machine";
            return Err(Error::new(ErrorKind::TimedOut, message).on(&open.file.id()));
        }
        let result = self.commit(ino, &open).await;
        let is_silent = |error: &Error| {
            matches!(
                error.kind(),
                ErrorKind::TimedOut | ErrorKind::Network | ErrorKind::Ambiguous
            )
        };
        if result.as_ref().err().is_some_and(is_silent) {
            is_away.store(true, Ordering::Relaxed);
        }
        result
    }

    /// Finishes what a former mount of the same source was cut off in. Must be done before the first request.
    ///
    /// # Errors
    /// Only when the local record cannot be read; what the bucket refuses is logged and stays recorded.
    pub async fn recover(self: &Arc<Self>, leftovers: Leftovers) -> Result<()> {
        for (record, upload) in leftovers.uploads {
            abort_leftover(&self.context.client, &self.spool, record, &upload).await;
        }
        for (record, intent) in leftovers.intents {
            if let Intent::Withdraw {
                bucket,
                key,
                transaction,
                until_unix_s,
            } = intent
            {
                let id = ObjectId::new(bucket, key);
                self.withdraw_again(record, id, transaction, until_unix_s);
                continue;
            }
            match self.redo(&intent).await {
                Ok(()) => self.forget_record(record).await,
                Err(error) => {
                    tracing::warn!(%error, ?intent, "unfinished work of a former mount could not be finished");
                }
            }
        }
        for (record, unsent) in leftovers.unsent {
            self.restore(record, &unsent);
        }
        Ok(())
    }

    async fn redo(self: &Arc<Self>, intent: &Intent) -> Result<()> {
        match intent {
            Intent::Delete {
                bucket,
                key,
                etag,
                modified_unix_s,
                transaction,
                keeps_directory,
            } => {
                let id = ObjectId::new(bucket.as_str(), key.as_str());
                let unlinked = Unlinked {
                    etag: ETag::new(etag),
                    modified_unix_s: Some(*modified_unix_s),
                    transaction: transaction.clone(),
                };
                if *keeps_directory {
                    self.keep_directory_around(&id, &unlinked).await?;
                }
                self.delete_unlinked(&id, &unlinked).await
            }
            Intent::RenameDirectory {
                bucket,
                from_prefix,
                to_bucket,
                to_prefix,
                list_file,
                only_deletes,
            } => {
                tracing::info!(from = %from_prefix, to = %to_prefix, "finishing an interrupted rename");
                let way = Move {
                    from: place(bucket, from_prefix),
                    to: place(to_bucket, to_prefix),
                };
                let (spool, name) = (self.spool.clone(), list_file.clone());
                let list = rt::blocking(move || Manifest::open(&spool, &name)).await?;
                self.tree.resume_move(&Arc::new(list), &way, *only_deletes).await
            }
            // Goes on in the background.
            Intent::Withdraw { .. } => Ok(()),
            Intent::Marker { bucket, prefix } => {
                let place = place(bucket, prefix);
                if self.tree.is_empty(&place).await? {
                    self.restore_marker(&place, self.settings.metadata_format).await?;
                }
                Ok(())
            }
        }
    }

    pub(crate) async fn restore_marker(&self, place: &DirectoryPlace, format: MetadataFormat) -> Result<()> {
        let put = self
            .tree
            .put_marker(
                place,
                Attributes::default(),
                format,
                crate::base::object::Condition::Absent,
            )
            .await;
        match put {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::Exists => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// A file that a former mount could not send is dirty again, and tried until it is in the bucket.
    fn restore(self: &Arc<Self>, record: RecordId, unsent: &UnsentFile) {
        let file = match File::restore(&self.context, record, unsent) {
            Ok(file) => file,
            Err(error) => {
                tracing::error!(%error, key = %unsent.key, "an unsent file of a former mount cannot be read");
                return;
            }
        };
        tracing::info!(key = %unsent.key, size_bytes = unsent.size_bytes, "sending a file that a former mount could not");
        match self.tree.adopt_local(&file.id(), file.attributes()) {
            // Dirty and unused: tried until it is sent.
            Some(ino) if self.share(ino, None, file).is_ok() => {}
            _ => {
                tracing::error!(key = %unsent.key, "an unsent file is outside of what is mounted; it stays recorded");
            }
        }
    }
}

fn place(bucket: &str, prefix: &str) -> DirectoryPlace {
    DirectoryPlace {
        bucket: bucket.into(),
        key: DirectoryKey::root(prefix),
    }
}
