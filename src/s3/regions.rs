//! One SDK client per region, and which bucket is in which region. The SDK follows no redirect across
//! regions. New credentials make new clients, which share the connections of the former ones.

use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_s3::Client as SdkClient;
use aws_sdk_s3::config::{Builder, IdentityCache, Region};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const REFRESH_AHEAD: Duration = Duration::from_mins(1);

pub(super) struct Regions {
    home: Arc<str>,
    known: Mutex<Known>,
}

struct Known {
    config: Builder,
    /// `None`: requests are not signed.
    signer: Option<SharedCredentialsProvider>,
    /// Counts the changes of credentials.
    generation: u64,
    clients: HashMap<Arc<str>, SdkClient>,
    buckets: HashMap<String, Arc<str>>,
}

/// A client, and what was decided by choosing it.
pub(super) struct Way {
    pub sdk: SdkClient,
    pub region: Arc<str>,
    /// Which credentials it signs with.
    pub generation: u64,
}

/// What former credentials left in the cache is not used again.
fn with_signer(mut config: Builder, signer: Option<SharedCredentialsProvider>) -> Builder {
    config.set_credentials_provider(signer);
    config.identity_cache(IdentityCache::lazy().buffer_time(REFRESH_AHEAD).build())
}

impl Regions {
    pub(super) fn new(config: Builder, signer: Option<SharedCredentialsProvider>, home: &str) -> Self {
        Self {
            home: home.into(),
            known: Mutex::new(Known {
                config: with_signer(config, signer.clone()),
                signer,
                generation: 0,
                clients: HashMap::new(),
                buckets: HashMap::new(),
            }),
        }
    }

    pub(super) fn home(&self) -> &str {
        &self.home
    }

    /// How `bucket` is asked.
    pub(super) fn way_to(&self, bucket: &str) -> Way {
        let known = &mut *self.lock();
        let region = known.buckets.get(bucket).unwrap_or(&self.home).clone();
        let client = known.clients.entry(region.clone()).or_insert_with(|| {
            let region = Region::new(region.to_string());
            SdkClient::from_conf(known.config.clone().region(region).build())
        });
        Way {
            sdk: client.clone(),
            region,
            generation: known.generation,
        }
    }

    /// Of the credentials; see [`Way::generation`].
    pub(super) fn generation(&self) -> u64 {
        self.lock().generation
    }

    /// Who signs now; `None`: nobody.
    pub(super) fn signer(&self) -> Option<SharedCredentialsProvider> {
        self.lock().signer.clone()
    }

    /// Signs all requests from now on with what `provider` gives.
    pub(super) fn sign_with(&self, provider: SharedCredentialsProvider) {
        let known = &mut *self.lock();
        known.config = with_signer(known.config.clone(), Some(provider.clone()));
        known.signer = Some(provider);
        known.generation += 1;
        known.clients.clear();
    }

    /// Takes note of the region that an answer named; false when that is where we asked already.
    pub(super) fn learn(&self, bucket: &str, asked: &str, named: &str) -> bool {
        if named == asked || bucket.is_empty() {
            return false;
        }
        self.lock().buckets.insert(bucket.to_owned(), named.into());
        true
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
