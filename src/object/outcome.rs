//! What became of a conditional write whose reply was lost, or that a condition refused.
//!
//! 1. A lost reply is never answered by sending again blindly: the object is looked at first. Every write of ours carries
//!    an identity of its own in the metadata ([`TRANSACTION`]); where the object carries it, the write happened.
//! 2. A refused condition may have been refused because of our own success: the same look decides.
//! 3. Only when the object is still what the condition names is the write sent again, a few times.

use crate::base::attributes::TRANSACTION;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::object::{Condition, ObjectId, ObjectInfo, Version};
use crate::rt;
use crate::s3::Client;
use std::future::Future;
use std::time::Duration;

/// How often one write is sent at most.
const MAX_TRIES: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// What a conditional write came to.
#[derive(Debug)]
pub enum Outcome {
    Stored(Version),
    /// Something else is there (`None`: nothing at all). Nothing was written.
    Lost(Option<Box<ObjectInfo>>),
}

/// Sends a write of the object at `id` by `send` until it is certain what came of it. `transaction` is in the metadata that
/// it writes.
///
/// # Errors
/// What `send` said, where it certainly wrote nothing; `Ambiguous` when even looking did not help: then the same write may
/// be given to this function again later.
pub async fn settle<F, Sent>(
    client: &Client,
    id: &ObjectId,
    transaction: &str,
    condition: &Condition,
    send: F,
) -> Result<Outcome>
where
    F: Fn() -> Sent,
    Sent: Future<Output = Result<Version>>,
{
    let mut pause = FIRST_PAUSE;
    for is_last in (1..=MAX_TRIES).map(|tried| tried == MAX_TRIES) {
        let error = match send().await {
            Ok(version) => return Ok(Outcome::Stored(version)),
            Err(error) => error,
        };
        if !matches!(
            error.kind(),
            ErrorKind::Ambiguous | ErrorKind::PreconditionFailed | ErrorKind::NotFound
        ) {
            return Err(error);
        }
        let found = match look(client, id).await {
            Ok(found) => found,
            Err(looking) => {
                tracing::debug!(%error, %looking, "the outcome of a write is unknown");
                let error = error.as_kind(ErrorKind::Ambiguous);
                let is_silence = looking.errno() == libc::ETIMEDOUT;
                return Err(if is_silence { error.after_silence() } else { error });
            }
        };
        if let Some(info) = found.as_ref().filter(|info| carries(info, transaction)) {
            return Ok(Outcome::Stored(info.version.clone()));
        }
        if !holds(condition, found.as_ref()) {
            return Ok(Outcome::Lost(found.map(Box::new)));
        }
        // The condition holds, so it was something else that is missing: the upload, the source, the bucket.
        if error.kind() == ErrorKind::NotFound || is_last {
            return Err(error);
        }
        rt::sleep(pause).await;
        pause *= 2;
    }
    Err(Error::new(ErrorKind::Internal, "a write was tried without an end").on(id))
}

/// The object at `id`; `None` where there is none.
pub async fn look(client: &Client, id: &ObjectId) -> Result<Option<ObjectInfo>> {
    match client.head(id).await {
        Ok(info) => Ok(Some(info)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// True when the write with that identity made this object.
pub fn carries(info: &ObjectInfo, transaction: &str) -> bool {
    info.headers
        .metadata
        .get(TRANSACTION)
        .is_some_and(|written| written == transaction)
}

fn holds(condition: &Condition, found: Option<&ObjectInfo>) -> bool {
    match (condition, found) {
        (Condition::None, _) | (Condition::Absent, None) => true,
        (Condition::Matches(etag), Some(info)) => info.version.etag == *etag,
        (Condition::Absent, Some(_)) | (Condition::Matches(_), None) => false,
    }
}
