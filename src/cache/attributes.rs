//! Attributes of objects, under what a listing shows of them, so that one HEAD serves as long as the object is the same.
//!
//! An object whose metadata was changed under the same ETag within the same second as it was recorded cannot be
//! told from the former one; such an entry is not trusted (as git treats racily clean files).

use crate::base::attributes::Attributes;
use crate::base::object::{ETag, ObjectId};
use lru::LruCache;
use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// An object modified less than this before it was looked at may change again without a trace.
const RACY: Duration = Duration::from_secs(2);

/// What a listing tells of an object, in the listing's own precision.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Fingerprint {
    id: ObjectId,
    etag: ETag,
    size_bytes: u64,
    last_modified_s: u64,
}

/// A bounded map from an object's version to its attributes.
pub struct AttributeCache {
    entries: Mutex<LruCache<Fingerprint, Attributes>>,
}

impl AttributeCache {
    #[must_use]
    pub fn new(capacity: NonZeroUsize) -> Self {
        Self {
            entries: Mutex::new(LruCache::new(capacity)),
        }
    }

    /// Remembers what a HEAD or our own upload said. `now` is the server's clock.
    pub fn insert(
        &self,
        id: &ObjectId,
        etag: &ETag,
        size_bytes: u64,
        last_modified: SystemTime,
        attributes: Attributes,
        now: SystemTime,
    ) {
        if now.duration_since(last_modified).is_ok_and(|age| age >= RACY) {
            let key = fingerprint(id, etag, size_bytes, last_modified);
            self.lock().put(key, attributes);
        }
    }

    #[must_use]
    pub fn get(
        &self,
        id: &ObjectId,
        etag: &ETag,
        size_bytes: u64,
        last_modified: SystemTime,
    ) -> Option<Attributes> {
        self.lock()
            .get(&fingerprint(id, etag, size_bytes, last_modified))
            .copied()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, LruCache<Fingerprint, Attributes>> {
        // A panic while the lock was held leaves a cache that is still a valid cache.
        self.entries
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn fingerprint(id: &ObjectId, etag: &ETag, size_bytes: u64, last_modified: SystemTime) -> Fingerprint {
    let last_modified_s = last_modified
        .duration_since(UNIX_EPOCH)
        .map_or(0, |age| age.as_secs());
    Fingerprint {
        id: id.clone(),
        etag: etag.clone(),
        size_bytes,
        last_modified_s,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_found_for_its_version_only_and_never_when_racy() {
        let cache = AttributeCache::new(NonZeroUsize::new(10).unwrap());
        let id = ObjectId::new("b", "k");
        let modified = UNIX_EPOCH + Duration::from_millis(1_000_500);
        let attributes = Attributes {
            uid: Some(7),
            ..Attributes::default()
        };
        cache.insert(
            &id,
            &ETag::new("a"),
            5,
            modified,
            attributes,
            modified + Duration::from_secs(1),
        );
        assert_eq!(cache.get(&id, &ETag::new("a"), 5, modified), None);
        cache.insert(
            &id,
            &ETag::new("a"),
            5,
            modified,
            attributes,
            modified + Duration::from_secs(3),
        );
        let listed = UNIX_EPOCH + Duration::from_secs(1_000);
        assert_eq!(cache.get(&id, &ETag::new("a"), 5, listed), Some(attributes));
        assert_eq!(cache.get(&id, &ETag::new("b"), 5, listed), None);
        assert_eq!(cache.get(&id, &ETag::new("a"), 6, listed), None);
    }
}
