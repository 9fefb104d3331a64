//! What was found out about a bucket's objects as a whole: whether other tools' attributes are among them, and whether
//! directories have any. It decides what needs to be asked, and is remembered from mount to mount.
//!
//! 1. Where listings tell how objects were uploaded, those of other tools are not asked for attributes, as most carry none. So
//!    that a bucket of a tool which writes some is known for one, the first mount looks at a few objects ([`Tree::sample`]).
//! 2. What is seen later by the way counts too ([`Tree::remember`]).

use super::Tree;
use super::lookup::{MARK, may_be_special};
use super::marker;
use crate::base::attributes::Attributes;
use crate::base::mount_config::{AttributesMode, Source};
use crate::base::object::ObjectId;
use crate::cache::attributes::disk::Facts;
use crate::rt;
use crate::s3::types::{ListRequest, ListedObject};
use futures_util::stream::{self, StreamExt};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// So many objects, and so many markers, are looked at.
const SAMPLE: usize = 3;
/// Of so many at the beginning of the bucket.
const SAMPLE_KEYS: u32 = 200;
/// A store that does not answer sooner is not waited for.
const PATIENCE: Duration = Duration::from_secs(5);

impl Tree {
    /// Recalls what earlier mounts found out, or finds it out. Failures are no matter: it is found out later.
    pub async fn sample(self: &Arc<Self>) {
        let Source::Bucket { bucket, prefix } = &self.settings.source else {
            return;
        };
        if self.settings.attributes != AttributesMode::Auto {
            return;
        }
        let known = self.attributes.facts(self.settings.source.to_string()).await;
        let known = known.unwrap_or_default();
        self.foreign_attributes_seen
            .fetch_or(known.foreign_attributes, Ordering::Relaxed);
        self.markers_matter.fetch_or(known.markers, Ordering::Relaxed);
        let is_known = known.sampled || {
            let looking = self.look_at_some(bucket, prefix);
            rt::timeout(PATIENCE, looking).await == Ok(true)
        };
        if is_known {
            self.markers_asked.store(marker::SAMPLE, Ordering::Relaxed);
            self.sampled.store(true, Ordering::Relaxed);
        }
    }

    /// True when there was something to look at.
    async fn look_at_some(&self, bucket: &str, prefix: &str) -> bool {
        let request = ListRequest {
            bucket: bucket.into(),
            prefix: prefix.to_owned(),
            by_directory: false,
            start_after: None,
            continuation: None,
            max_keys: SAMPLE_KEYS,
        };
        let Ok(page) = self.client.list(&request).await else {
            return false;
        };
        self.note_page(&page.objects);
        if page.objects.is_empty() || !self.algorithms_seen.load(Ordering::Relaxed) {
            return false;
        }
        let is_marker = |object: &&ListedObject| object.key.ends_with('/') && object.size_bytes == 0;
        let is_of_others = |object: &&ListedObject| {
            !is_marker(object)
                && object.checksum_algorithm.as_deref() != Some(MARK)
                && !may_be_special(&super::directory::page_object((*object).clone()))
        };
        let markers = page.objects.iter().filter(is_marker).take(SAMPLE);
        let others = page.objects.iter().filter(is_of_others).take(SAMPLE);
        let look = |object: &ListedObject| {
            let id = ObjectId::new(bucket, object.key.as_str());
            async move {
                let Ok(info) = self.client.head(&id).await else {
                    return;
                };
                let attributes = self.remember_attributes(&id, &info);
                if id.key.ends_with('/') && attributes != Attributes::default() {
                    self.markers_matter.store(true, Ordering::Relaxed);
                }
            }
        };
        let looks: Vec<_> = markers.chain(others).map(look).collect();
        stream::iter(looks)
            .buffer_unordered(2 * SAMPLE)
            .collect::<()>()
            .await;
        true
    }

    /// Keeps what was found out, and what is known of single objects, for the next mount.
    pub async fn remember(&self) {
        self.attributes.flush().await;
        let facts = Facts {
            sampled: self.sampled.load(Ordering::Relaxed),
            foreign_attributes: self.foreign_attributes_seen.load(Ordering::Relaxed),
            markers: self.markers_matter.load(Ordering::Relaxed),
        };
        self.attributes
            .keep_facts(self.settings.source.to_string(), facts)
            .await;
    }
}
