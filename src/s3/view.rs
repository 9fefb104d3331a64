//! Looks at a versioned bucket in another way than as it is now: as it was at a time (`--at`), or with the versions of all
//! objects as files of hidden directories (`--versions`). Everything above sees ordinary keys.
//!
//! Difficulties, and who solves them:
//! 1. As it was: of each key the newest version that is not younger than the time, from listings of all versions; a key
//!    whose versions stand on two pages is decided once ([`Position`]). Which version that is, is remembered for the GET that
//!    follows, else looked for ([`View::known`], [`Client::version_at`]).
//! 2. A directory that had nothing at that time must not be shown: what is below is looked at, up to a limit
//!    ([`Client::was_there`]).
//! 3. Versions as files: `dir/.versions/NAME/ID` stands for the version ID of `dir/NAME`. Nothing can be written there
//!    ([`Client::check_changeable`]); a bucket's own keys with such a component are hidden meanwhile.

use super::client::Client;
use super::types::{ListPage, ListRequest, ListedObject};
use super::versions::{ListedVersion, VersionMarker, VersionsRequest};
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::mount_config::ViewOf;
use crate::base::object::ObjectId;
use lru::LruCache;
use serde::{Deserialize, Serialize};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// The name of the hidden directories.
pub const VERSIONS: &str = ".versions";
const PAGE_ENTRIES: u32 = 1_000;
/// Of one file so many versions are put in order.
const MAX_VERSIONS: usize = 100_000;
/// So many versions below a prefix are looked at to see whether anything was there; then it is taken for so.
const MAX_PAGES_OF_PROOF: u32 = 10;
// unwrap: the number is not zero, which the compiler checks.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(65_536).unwrap();

pub(super) struct View {
    of: ViewOf,
    /// Which version is the one of the time.
    known: Mutex<LruCache<ObjectId, String>>,
}

/// Where a listing of versions goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Position {
    from: Option<VersionMarker>,
    /// The last key, where it is decided already.
    decided: Option<String>,
}

impl Position {
    fn of(request: &ListRequest) -> Self {
        let decoded = request.continuation.as_deref().map(serde_json::from_str);
        if let Some(Ok(position)) = decoded {
            return position;
        }
        let after = request.start_after.clone();
        Self {
            from: after.map(|key| VersionMarker {
                key,
                version_id: None,
            }),
            decided: None,
        }
    }

    fn continuation(&self) -> Option<String> {
        self.from.as_ref()?;
        serde_json::to_string(self).ok()
    }
}

/// `dir/.versions/NAME/ID`, taken apart.
#[derive(Debug, PartialEq, Eq)]
struct Hidden<'a> {
    /// `dir/`, or nothing.
    directory: &'a str,
    /// What follows `.versions/`.
    rest: &'a str,
}

fn hidden(key: &str) -> Option<Hidden<'_>> {
    let marker = ".versions/";
    let at = if key.starts_with(marker) {
        0
    } else {
        key.find("/.versions/")? + 1
    };
    Some(Hidden {
        directory: &key[..at],
        rest: &key[at + marker.len()..],
    })
}

impl View {
    pub(super) fn new(of: ViewOf) -> Self {
        Self {
            of,
            known: Mutex::new(LruCache::new(REMEMBERED)),
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, LruCache<ObjectId, String>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Client {
    /// True where `.versions` can be looked up in every directory.
    #[must_use]
    pub fn shows_versions(&self) -> bool {
        self.inner.view.of == ViewOf::AllVersions
    }

    /// True where listings show keys as the store has them now, a page in a request.
    #[must_use]
    pub fn shows_what_is_now(&self) -> bool {
        self.inner.view.of == ViewOf::Now
    }

    /// # Errors
    /// `NotPermitted` for a key that stands for a version.
    pub fn check_changeable(&self, id: &ObjectId) -> Result<()> {
        let is_hidden = self.shows_versions() && hidden(&id.key).is_some();
        if is_hidden || matches!(self.inner.view.of, ViewOf::At(_)) {
            return Err(Error::new(ErrorKind::NotPermitted, "versions cannot be changed").on(id));
        }
        Ok(())
    }

    /// The object, and the version of it, that a key stands for.
    ///
    /// # Errors
    /// `NotFound`.
    pub(super) async fn seen_as(
        &self,
        id: &ObjectId,
        version_id: Option<&Arc<str>>,
    ) -> Result<(ObjectId, Option<String>)> {
        let given = version_id.map(|version_id| (**version_id).to_owned());
        match self.inner.view.of {
            ViewOf::At(time) if given.is_none() => {
                let found = self.version_at(id, time).await?;
                Ok((id.clone(), Some(found)))
            }
            ViewOf::AllVersions => match hidden(&id.key) {
                None => Ok((id.clone(), given)),
                Some(Hidden { directory, rest }) => match rest.split_once('/') {
                    Some((name, version_id)) if !name.is_empty() && !version_id.is_empty() => Ok((
                        id.sibling(format!("{directory}{name}")),
                        Some(version_id.to_owned()),
                    )),
                    _ => Err(Error::new(ErrorKind::NotFound, "no version is called so").on(id)),
                },
            },
            _ => Ok((id.clone(), given)),
        }
    }

    /// What the view shows of a listing; `None`: the listing as it is.
    pub(super) async fn list_in_view(&self, request: &ListRequest) -> Result<Option<ListPage>> {
        match self.inner.view.of {
            ViewOf::Now => Ok(None),
            ViewOf::At(time) => self.list_at(request, time).await.map(Some),
            ViewOf::AllVersions => match hidden(&request.prefix) {
                None => Ok(None),
                Some(Hidden { directory, rest }) => {
                    self.list_hidden(request, directory, rest).await.map(Some)
                }
            },
        }
    }

    async fn list_at(&self, request: &ListRequest, time: SystemTime) -> Result<ListPage> {
        let mut position = Position::of(request);
        let mut page = ListPage::default();
        loop {
            let versions = self.list_versions(&versions_request(request, &position)).await?;
            for prefix in versions.prefixes {
                if self.was_there(&request.bucket, &prefix, time).await? {
                    page.prefixes.push(prefix);
                }
            }
            for version in versions.versions {
                if position.decided.as_ref() == Some(&version.key) || version.last_modified > time {
                    continue;
                }
                position.decided = Some(version.key.clone());
                if !version.is_delete_marker {
                    let id = ObjectId::new(&*request.bucket, version.key.as_str());
                    self.inner.view.known().put(id, version.version_id.clone());
                    page.objects.push(listed(version));
                }
            }
            position.from = versions.next;
            let is_something = !page.objects.is_empty() || !page.prefixes.is_empty();
            if is_something || position.from.is_none() {
                page.continuation = position.continuation();
                return Ok(page);
            }
        }
    }

    /// Whether a directory had anything in it.
    async fn was_there(&self, bucket: &Arc<str>, prefix: &str, time: SystemTime) -> Result<bool> {
        let mut request = VersionsRequest {
            bucket: bucket.clone(),
            prefix: prefix.to_owned(),
            by_directory: false,
            from: None,
            max_entries: PAGE_ENTRIES,
        };
        let mut decided = String::new();
        for _ in 0..MAX_PAGES_OF_PROOF {
            let page = self.list_versions(&request).await?;
            for version in page.versions {
                if version.key == decided || version.last_modified > time {
                    continue;
                }
                if !version.is_delete_marker {
                    return Ok(true);
                }
                decided = version.key;
            }
            request.from = page.next;
            if request.from.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn version_at(&self, id: &ObjectId, time: SystemTime) -> Result<String> {
        if let Some(known) = self.inner.view.known().get(id) {
            return Ok(known.clone());
        }
        let mut request = VersionsRequest {
            bucket: id.bucket.clone(),
            prefix: id.key.to_string(),
            by_directory: false,
            from: None,
            max_entries: PAGE_ENTRIES,
        };
        'pages: loop {
            let page = self.list_versions(&request).await?;
            for version in page.versions {
                if version.key != *id.key {
                    break 'pages;
                }
                if version.last_modified <= time {
                    if version.is_delete_marker {
                        break 'pages;
                    }
                    self.inner
                        .view
                        .known()
                        .put(id.clone(), version.version_id.clone());
                    return Ok(version.version_id);
                }
            }
            request.from = page.next;
            if request.from.is_none() {
                break;
            }
        }
        Err(Error::new(ErrorKind::NotFound, "there was no such object then").on(id))
    }

    /// `rest`: nothing, a part of a name, or a name and a part of a version's.
    async fn list_hidden(&self, request: &ListRequest, directory: &str, rest: &str) -> Result<ListPage> {
        let of_one = rest.split_once('/');
        let mut position = Position::of(request);
        // A place in the hidden directory means nothing to the store.
        let skips = request
            .start_after
            .as_deref()
            .filter(|_| request.continuation.is_none());
        if skips.is_some() {
            position.from = None;
        }
        let mut page = ListPage::default();
        loop {
            let of_names = VersionsRequest {
                prefix: format!("{directory}{}", of_one.map_or(rest, |(name, _)| name)),
                by_directory: true,
                ..versions_request(request, &position)
            };
            let mut versions = self.list_versions(&of_names).await?;
            let is_behind = |version: &ListedVersion| {
                of_one.is_some_and(|(wanted, _)| version.key[directory.len()..] > *wanted)
            };
            if versions.versions.last().is_some_and(is_behind) {
                versions.next = None;
            }
            for version in versions.versions {
                let name = version.key[directory.len()..].to_owned();
                let is_wanted = of_one.is_none_or(|(wanted, _)| wanted == name) && !name.is_empty();
                if version.is_delete_marker || !is_wanted {
                    continue;
                }
                let place = format!("{directory}{VERSIONS}/{name}/");
                let key = format!("{place}{}", version.version_id);
                if !key.starts_with(&request.prefix) || skips.is_some_and(|after| *key <= *after) {
                    continue;
                }
                if of_one.is_some() || !request.by_directory {
                    page.objects.push(ListedObject {
                        key,
                        ..listed(version)
                    });
                } else if position.decided.as_ref() != Some(&place) {
                    page.prefixes.push(place.clone());
                    position.decided = Some(place);
                }
            }
            position.from = versions.next;
            // Identifiers are in no order: all of one file's are put into one.
            let is_enough = if of_one.is_some() {
                page.objects.len() >= MAX_VERSIONS
            } else {
                !page.objects.is_empty() || !page.prefixes.is_empty()
            };
            if is_enough || position.from.is_none() {
                page.objects.sort_by(|a, b| a.key.cmp(&b.key));
                page.continuation = position.continuation();
                return Ok(page);
            }
        }
    }
}

fn versions_request(request: &ListRequest, position: &Position) -> VersionsRequest {
    VersionsRequest {
        bucket: request.bucket.clone(),
        prefix: request.prefix.clone(),
        by_directory: request.by_directory,
        from: position.from.clone(),
        max_entries: PAGE_ENTRIES,
    }
}

fn listed(version: ListedVersion) -> ListedObject {
    ListedObject {
        key: version.key,
        size_bytes: version.size_bytes,
        etag: version.etag,
        last_modified: version.last_modified,
        storage_class: version.storage_class,
        checksum_algorithm: version.checksum_algorithm,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_hidden_directories_are_taken_apart() {
        let of = |key| hidden(key).map(|hidden| (hidden.directory, hidden.rest));
        assert_eq!(of(".versions/a/1"), Some(("", "a/1")));
        assert_eq!(of("d/.versions/"), Some(("d/", "")));
        assert_eq!(of("d/e/.versions/a b/x"), Some(("d/e/", "a b/x")));
        for plain in ["a", ".versions", "d/.versions", "d/x.versions/a", ".versions2/a"] {
            assert_eq!(of(plain), None, "{plain}");
        }
    }
}
