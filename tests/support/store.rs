//! The stores that tests run on: the embedded one, in this process, so that its requests can be counted; SeaweedFS; moto.

use super::moto;
use super::mount::MountBuilder;
use super::s3::{self, Bucket};
use super::seaweed;
use pailfs::embedded::{Server, ServerOptions};
use std::future::Future;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

pub const ACCESS_KEY: &str = "pailfs";
pub const SECRET_KEY: &str = "pailfs-secret";

static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| pailfs::rt::build().expect("threads"));

/// Runs what is asynchronous from a test's own thread.
pub fn block_on<F: Future>(future: F) -> F::Output {
    RUNTIME.block_on(future)
}

/// One store with one bucket of the test's own.
pub struct Store {
    pub bucket: Bucket,
    pub endpoint_url: String,
    pub client: aws_sdk_s3::Client,
    embedded: Option<Embedded>,
    is_moto: bool,
}

struct Embedded {
    server: Server,
    _data: tempfile::TempDir,
}

/// For a bucket on a store that tests share.
fn new_name() -> String {
    static BUCKETS: AtomicU64 = AtomicU64::new(0);
    format!("test-{}", BUCKETS.fetch_add(1, Ordering::Relaxed))
}

impl Store {
    /// A new, empty embedded store.
    pub fn embedded() -> Self {
        let data = tempfile::tempdir().expect("a temporary directory");
        let mut options = ServerOptions::new(data.path());
        options.access_key = ACCESS_KEY.into();
        options.secret_key = SECRET_KEY.into();
        // The machine does not lose power during a test.
        options.durable = false;
        let server = block_on(Server::start(options)).expect("the embedded store starts");
        let mut store = Self::at(server.endpoint_url(), "test");
        store.embedded = Some(Embedded { server, _data: data });
        store
    }

    /// A new bucket of the one SeaweedFS of this test run; `None` when the test is to be skipped.
    pub fn seaweed() -> Option<Self> {
        Some(Self::at(seaweed::endpoint_url()?, &new_name()))
    }

    /// The same on the one moto of this test run.
    pub fn moto() -> Option<Self> {
        let endpoint_url = moto::endpoint_url()?;
        let client = s3::trusting_client(&endpoint_url, ACCESS_KEY, SECRET_KEY);
        let mut store = Self::with_client(client, endpoint_url, &new_name());
        store.is_moto = true;
        Some(store)
    }

    fn at(endpoint_url: String, bucket: &str) -> Self {
        let client = s3::client(&endpoint_url, ACCESS_KEY, SECRET_KEY);
        Self::with_client(client, endpoint_url, bucket)
    }

    fn with_client(client: aws_sdk_s3::Client, endpoint_url: String, bucket: &str) -> Self {
        Self {
            bucket: Bucket::create(&client, bucket),
            endpoint_url,
            client,
            embedded: None,
            is_moto: false,
        }
    }

    pub fn is_embedded(&self) -> bool {
        self.embedded.is_some()
    }

    pub fn is_moto(&self) -> bool {
        self.is_moto
    }

    /// The embedded store, to count its requests or to make them fail.
    pub fn server(&self) -> &Server {
        &self
            .embedded
            .as_ref()
            .expect("a test on the embedded store")
            .server
    }

    /// Many objects at once, without a request (only on the embedded store).
    pub fn fill(&self, keys: impl IntoIterator<Item = String>, data: &[u8]) {
        let mut keys = keys.into_iter();
        let Some(first) = keys.next() else { return };
        self.bucket.put(&first, data);
        let store = self.server().store();
        block_on(store.multiply(&self.bucket.name, &first, keys)).expect("filled");
    }

    pub fn another_bucket(&self, name: &str) -> Bucket {
        Bucket::create(&self.client, name)
    }

    /// A mount of the test's bucket, to be started.
    pub fn mount(&self) -> MountBuilder {
        MountBuilder::new(&self.endpoint_url, Some(format!("s3://{}", self.bucket.name)))
    }

    pub fn mount_prefix(&self, prefix: &str) -> MountBuilder {
        MountBuilder::new(
            &self.endpoint_url,
            Some(format!("s3://{}/{prefix}", self.bucket.name)),
        )
    }

    pub fn mount_all_buckets(&self) -> MountBuilder {
        MountBuilder::new(&self.endpoint_url, None)
    }
}

/// Makes tests of functions that take a `&Store`: one on the embedded store, one on SeaweedFS.
#[macro_export]
macro_rules! on_each_store {
    ($($name:ident),* $(,)?) => {
        mod embedded {
            $(#[test]
            fn $name() {
                super::$name(&$crate::support::store::Store::embedded());
            })*
        }
        mod seaweed {
            $(#[test]
            fn $name() {
                if let Some(store) = $crate::support::store::Store::seaweed() {
                    super::$name(&store);
                }
            })*
        }
    };
}

/// As `on_each_store`, and on moto.
#[macro_export]
macro_rules! on_all_stores {
    ($($name:ident),* $(,)?) => {
        $crate::on_each_store!($($name),*);
        mod moto {
            $(#[test]
            fn $name() {
                if let Some(store) = $crate::support::store::Store::moto() {
                    super::$name(&store);
                }
            })*
        }
    };
}

/// As `on_each_store`, on the embedded store only.
#[macro_export]
macro_rules! on_the_embedded_store {
    ($($name:ident),* $(,)?) => {
        mod embedded_only {
            $(#[test]
            fn $name() {
                super::$name(&$crate::support::store::Store::embedded());
            })*
        }
    };
}
