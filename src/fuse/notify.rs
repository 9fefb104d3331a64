//! Tells the kernel what to forget, from a thread of its own.

use crate::fs::Invalidation;
use crate::rt;
use fuser::{INodeNo, Notifier};
use std::ffi::OsStr;
use tokio::sync::mpsc::UnboundedReceiver;

/// Passes invalidations on until the senders are gone.
///
/// # Errors
/// When the system refuses a thread.
pub(super) fn start(
    notifier: Notifier,
    mut invalidations: UnboundedReceiver<Invalidation>,
) -> std::io::Result<()> {
    rt::thread("pailfs-notify", move || {
        while let Some(invalidation) = invalidations.blocking_recv() {
            let told = match &invalidation {
                Invalidation::Entry { parent, name } => {
                    notifier.inval_entry(INodeNo(*parent), OsStr::new(name))
                }
                // A negative offset: attributes only, never pages (they may be waiting for an answer of ours).
                Invalidation::Attributes { ino, .. } => notifier.inval_inode(INodeNo(*ino), -1, 0),
                // This may wait for a page that a read of ours has yet to fill: nothing of ours waits for this thread.
                Invalidation::Content { ino } => notifier.inval_inode(INodeNo(*ino), 0, 0),
                Invalidation::Nothing { .. } => Ok(()),
            };
            if let Err(error) = told {
                // ENOENT: the kernel does not know the name or number, so there is nothing to forget.
                tracing::debug!(?invalidation, %error, "the kernel had nothing to forget");
            }
        }
    })
}
