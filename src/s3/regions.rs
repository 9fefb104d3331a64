//! One SDK client per region, and which bucket is in which region. The SDK follows no redirect across
//! regions.

use aws_sdk_s3::Client as SdkClient;
use aws_sdk_s3::config::{Builder, Region};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(super) struct Regions {
    config: Builder,
    home: Arc<str>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    clients: HashMap<Arc<str>, SdkClient>,
    buckets: HashMap<String, Arc<str>>,
}

impl Regions {
    pub(super) fn new(config: Builder, home: &str) -> Self {
        Self {
            config,
            home: home.into(),
            known: Mutex::default(),
        }
    }

    pub(super) fn home(&self) -> &str {
        &self.home
    }

    /// The region that `bucket` is asked for in, and the client of that region.
    pub(super) fn client_of(&self, bucket: &str) -> (Arc<str>, SdkClient) {
        let mut known = self.lock();
        let region = known.buckets.get(bucket).unwrap_or(&self.home).clone();
        let client = known.clients.entry(region.clone()).or_insert_with(|| {
            let config = self
                .config
                .clone()
                .region(Region::new(region.to_string()))
                .build();
            SdkClient::from_conf(config)
        });
        let client = client.clone();
        (region, client)
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
