//! Attributes of objects, under what a listing shows of them, so that one HEAD serves as long as the object is the same.
//!
//! An object whose metadata was changed under the same ETag within the same second as it was recorded cannot be
//! told from the former one; such an entry is not trusted (as git treats racily clean files).
//!
//! What does not fit into memory, and what earlier mounts and other mounts of this machine know, is on disk ([`disk`]), and
//! comes from there a directory at a time, when the first of its objects would have to be asked for.

pub mod disk;

use crate::base::attributes::Attributes;
use crate::base::object::{ETag, ObjectId};
use crate::rt;
use disk::{DiskAttributes, Facts, Place, Record};
use lru::LruCache;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// An object modified less than this before it was looked at may change again without a trace.
const RACY: Duration = Duration::from_secs(2);
/// How long what was learned waits for more before it is written to the disk.
const FLUSH_DELAY: Duration = Duration::from_secs(3);
/// So many directories are known to have been read from the disk.
// unwrap: the number is not zero, which the compiler checks.
const LOADED_DIRECTORIES: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();

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
    disk: Option<Arc<DiskAttributes>>,
    /// Directories' markers of which something is remembered.
    markers: Mutex<LruCache<ObjectId, ()>>,
    /// Locked while a directory is read, so that nobody asks the bucket for what is about to come.
    loaded: tokio::sync::Mutex<LruCache<Place, ()>>,
}

impl AttributeCache {
    #[must_use]
    pub fn new(capacity: NonZeroUsize, disk: Option<Arc<DiskAttributes>>) -> Self {
        Self {
            entries: Mutex::new(LruCache::new(capacity)),
            disk,
            markers: Mutex::new(LruCache::new(LOADED_DIRECTORIES)),
            loaded: tokio::sync::Mutex::new(LruCache::new(LOADED_DIRECTORIES)),
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
            self.note_on_disk(&key, &attributes);
            if id.key.ends_with('/') {
                self.markers().put(id.clone(), ());
            }
            self.lock().put(key, attributes);
        }
    }

    fn note_on_disk(&self, key: &Fingerprint, attributes: &Attributes) {
        let Some(disk) = &self.disk else { return };
        if self.lock().peek(key) == Some(attributes) {
            return;
        }
        let (place, name) = place_of(&key.id);
        let record = Record::new(
            name,
            key.etag.as_str(),
            key.size_bytes,
            key.last_modified_s,
            attributes,
        );
        if disk.note(place, record) {
            let disk = disk.clone();
            rt::spawn(async move {
                rt::sleep(FLUSH_DELAY).await;
                rt::blocking(move || disk.flush()).await;
            });
        }
    }

    /// Brings what is on disk about the directory that the object is in. False when there is nothing on disk at all.
    pub async fn load(&self, id: &ObjectId) -> bool {
        let Some(disk) = self.disk.clone() else {
            return false;
        };
        let (place, _) = place_of(id);
        let mut loaded = self.loaded.lock().await;
        if loaded.put(place.clone(), ()).is_some() {
            return true;
        }
        let wanted = place.clone();
        let records = match rt::blocking(move || disk.read(&wanted)).await {
            Ok(records) => records,
            Err(error) => {
                tracing::debug!(%error, "what is remembered of attributes cannot be read");
                Vec::new()
            }
        };
        let mut entries = self.lock();
        let mut markers = self.markers();
        for record in records {
            let attributes = record.attributes();
            let key = Fingerprint {
                id: ObjectId::new(
                    place.bucket.clone(),
                    format!("{}{}", place.prefix, record.name).as_str(),
                ),
                etag: ETag::new(&record.etag),
                size_bytes: record.size_bytes,
                last_modified_s: record.last_modified_s,
            };
            if record.name.ends_with('/') {
                markers.put(key.id.clone(), ());
            }
            entries.put(key, attributes);
        }
        true
    }

    /// True when some version of a directory's marker is remembered.
    #[must_use]
    pub fn remembers_marker(&self, id: &ObjectId) -> bool {
        self.markers().contains(id)
    }

    fn markers(&self) -> MutexGuard<'_, LruCache<ObjectId, ()>> {
        // A panic while the lock was held leaves a cache that is still a valid cache.
        self.markers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is remembered of a source; `None` where there is nothing on disk at all.
    pub async fn facts(&self, source: String) -> Option<Facts> {
        let disk = self.disk.clone()?;
        Some(rt::blocking(move || disk.facts(&source)).await)
    }

    pub async fn keep_facts(&self, source: String, facts: Facts) {
        let Some(disk) = self.disk.clone() else { return };
        if let Err(error) = rt::blocking(move || disk.keep_facts(&source, facts)).await {
            tracing::debug!(%error, "what was found out about the objects is not remembered");
        }
    }

    /// Writes to the disk what waits for that.
    pub async fn flush(&self) {
        if let Some(disk) = self.disk.clone() {
            rt::blocking(move || disk.flush()).await;
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

    fn lock(&self) -> MutexGuard<'_, LruCache<Fingerprint, Attributes>> {
        // A panic while the lock was held leaves a cache that is still a valid cache.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The directory that an object is in, and its name there. A directory's marker is in the directory above.
fn place_of(id: &ObjectId) -> (Place, &str) {
    let whole = id.key.strip_suffix('/').unwrap_or(&id.key);
    let (prefix, name) = id.key.split_at(whole.rfind('/').map_or(0, |slash| slash + 1));
    let place = Place {
        bucket: id.bucket.clone(),
        prefix: prefix.to_owned(),
    };
    (place, name)
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
        let cache = AttributeCache::new(NonZeroUsize::new(10).unwrap(), None);
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
