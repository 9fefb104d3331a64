//! The client: one endpoint, one set of credentials. Its operations are in `objects`, `multipart`, `list` and
//! `buckets`.

use super::capabilities::{Capabilities, Feature, Support};
use super::retry::Inner;
use crate::base::limits::UploadLimits;
use crate::telemetry::Metrics;
use std::sync::Arc;
use std::time::SystemTime;

/// One endpoint, with one set of credentials. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    pub(super) inner: Arc<Inner>,
}

impl Client {
    /// The server's clock now, estimated from the `Date` headers of its answers (whole seconds, never ahead).
    #[must_use]
    pub fn server_time(&self) -> SystemTime {
        self.inner.clock.now()
    }

    /// What is known about the endpoint so far.
    #[must_use]
    pub fn capabilities(&self) -> Capabilities {
        self.inner.capabilities.snapshot()
    }

    /// Takes over what an earlier client found out about this endpoint, where nothing is known yet.
    pub fn recall(&self, remembered: &Capabilities) {
        self.inner.capabilities.fill(remembered);
    }

    /// What the endpoint does with `feature`. Probes in `bucket` when that is not known yet and this client
    /// may write; whoever asks at the same time waits for the same probe. `Unknown`: do not rely on it.
    pub async fn support(&self, feature: Feature, bucket: &str) -> Support {
        let known = &self.inner.capabilities;
        let support = known.get(feature);
        if support != Support::Unknown || !known.may_probe || known.is_undecided(feature) {
            return support;
        }
        let _only_prober = known.probing.lock().await;
        let support = known.get(feature);
        if support != Support::Unknown || known.is_undecided(feature) {
            return support;
        }
        // Rare and deep: kept out of the futures of all writes.
        Box::pin(self.probe_and_remember(feature, bucket)).await
    }

    /// What the endpoint allows in uploads and copies.
    #[must_use]
    pub fn limits(&self) -> UploadLimits {
        self.inner.limits
    }

    /// The name under which to remember [`Self::capabilities`]: equal for equal endpoints.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.inner.endpoint
    }

    /// True for AWS itself, of which everything is known.
    #[must_use]
    pub fn is_aws(&self) -> bool {
        self.inner.is_aws
    }

    /// The region of buckets that are not known to be elsewhere.
    #[must_use]
    pub fn region(&self) -> &str {
        self.inner.regions.home()
    }

    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.inner.metrics
    }
}
