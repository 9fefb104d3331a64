//! Mounts without a kernel, in one process with their store, on clocks that stand still.
//!
//! 1. Everything between the filesystem's methods and the store's disk is the real thing: the SDK and HTTP run over
//!    in-memory connections ([`World::client_options`], [`dialer`]).
//! 2. Time-outs, retries and cache lifetimes must cost nothing: each mount has a runtime of its own whose clock stands
//!    still and jumps to the next timer when nothing else is left to do. A mount that nobody drives is frozen.
//! 3. A crash must stop everything at once: dropping the runtime does.
//! 4. A hang must fail and say where: [`Mount::run`] has a deadline on the mount's clock, and a watchdog on the real one
//!    for what never yields.

// Each test binary uses a part of this.
#![allow(dead_code)]

pub mod driver;
pub mod random;
pub mod remote;
mod watchdog;

use driver::Driver;
use pailfs::base::attributes::MetadataFormat;
use pailfs::base::limits::{MIB, UploadLimits};
use pailfs::base::mount_config::{AttributesMode, OnConflict, Passthrough, Source};
use pailfs::base::requests::RequestOptions;
use pailfs::cache::attributes::disk::DiskAttributes;
use pailfs::cache::blocks::BlockCache;
use pailfs::embedded::{Store, StoreOptions};
use pailfs::fs::{Defaults, Fs, FsSettings};
use pailfs::object::budget::Budget;
use pailfs::object::file::{FileContext, KeepOpen};
use pailfs::s3::{Capabilities, Client, ClientOptions, Dialer, StaticCredentials};
use pailfs::spool::Spool;
use pailfs::telemetry::Metrics;
use pailfs::tree::{Invalidation, LISTING_CAPACITY_BYTES, Tree, TreeSettings};
use remote::Remote;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

pub const BUCKET: &str = "bucket";
/// Where a mount keeps blocks, in its state directory.
const BLOCKS: &str = "blocks";
/// Where all mounts of a world keep attributes, in its directory.
const ATTRIBUTES: &str = "attributes";

/// Bytes under way in each direction of one connection.
const CONNECTION_BYTES: usize = 256 * 1024;
/// More is not remembered of what the kernel was told.
const MOST_TOLD: usize = 1_000;
/// On a mount's own clock: longer than any chain of time-outs.
const DEADLINE: Duration = Duration::from_secs(3600);

/// How the mounts of a test are set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// `None`: for ever.
    pub metadata_ttl: Option<Duration>,
    /// When objects are asked what they carry.
    pub attributes: AttributesMode,
    pub stall_timeout: Duration,
    pub memory_bytes: u64,
    /// False: the endpoint is taken for S3 itself.
    pub probing: bool,
    /// What the store allows: larger objects are copied in parts.
    pub limits: UploadLimits,
    pub on_conflict: OnConflict,
    /// Of files that are unlinked or replaced while they are open.
    pub keep_open_limit_bytes: u64,
    /// Limit of the cache of contents on disk; `None` without one.
    pub disk_cache_bytes: Option<u64>,
    /// What all cached listings may take together.
    pub listing_capacity_bytes: usize,
    /// All mounts remember attributes on disk, in one directory.
    pub attributes_on_disk: bool,
    /// What all requests carry, those of [`World::remote`] too.
    pub requests: RequestOptions,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            metadata_ttl: Some(Duration::from_secs(10)),
            attributes: AttributesMode::Auto,
            stall_timeout: Duration::from_secs(30),
            memory_bytes: 32 * MIB,
            probing: false,
            limits: UploadLimits::S3,
            on_conflict: OnConflict::Keep,
            keep_open_limit_bytes: 1 << 30,
            disk_cache_bytes: None,
            listing_capacity_bytes: LISTING_CAPACITY_BYTES,
            attributes_on_disk: false,
            requests: RequestOptions::default(),
        }
    }
}

/// A store with one bucket, and the directory in which mounts keep their state.
pub struct World {
    pub store: Store,
    pub options: Options,
    /// Somebody else, on another machine, with a plain client.
    pub remote: Remote,
    state: tempfile::TempDir,
}

impl World {
    pub fn new(options: Options) -> Self {
        let store = Store::open(StoreOptions::in_memory()).expect("a store in memory opens");
        let remote = Remote::new(&store, client_options(&store, &options));
        remote.create_bucket();
        Self {
            store,
            options,
            remote,
            state: state_directory(),
        }
    }

    pub fn state_dir(&self) -> &Path {
        self.state.path()
    }

    /// Somebody who uses the bucket without the options that requests carry here.
    pub fn stranger(&self) -> Remote {
        let options = Options {
            requests: RequestOptions::default(),
            ..self.options.clone()
        };
        Remote::new(&self.store, client_options(&self.store, &options))
    }

    /// Mounts the bucket; what a crashed mount left behind is taken over first.
    pub fn mount(&self) -> Mount {
        self.mount_in(self.state.path().to_owned())
    }

    /// A mount on another machine: with a state directory of its own.
    pub fn mount_elsewhere(&self, machine: &str) -> Mount {
        self.mount_in(self.state.path().join(machine))
    }

    /// The files in which attributes are remembered.
    pub fn attribute_files(&self) -> Vec<PathBuf> {
        files_in(&self.state.path().join(ATTRIBUTES))
    }

    fn mount_in(&self, state_dir: PathBuf) -> Mount {
        let runtime = paused_runtime();
        let attributes = self
            .options
            .attributes_on_disk
            .then(|| self.state.path().join(ATTRIBUTES));
        let (fs, told) = runtime.block_on(set_up(
            &self.store,
            &self.options,
            state_dir.clone(),
            attributes.as_deref(),
        ));
        Mount {
            driver: Driver::new(fs.clone()),
            fs,
            told,
            runtime,
            state_dir,
        }
    }
}

/// The files of a directory, in order.
fn files_in(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    files.sort();
    files
}

fn client_options(store: &Store, options: &Options) -> ClientOptions {
    let of_store = store.options();
    ClientOptions {
        // Nobody else is asked for the store; keys go nowhere but to this machine.
        endpoint_url: Some(if options.requests.customer_key().is_some() {
            "http://127.0.0.1".to_owned()
        } else {
            "http://store.invalid".to_owned()
        }),
        requests: options.requests.clone(),
        region: Some(of_store.region.clone()),
        credentials: Some(StaticCredentials {
            access_key_id: of_store.access_key.clone(),
            secret_access_key: of_store.secret_key.clone(),
            session_token: None,
        }),
        stall_timeout: options.stall_timeout,
        limits: options.limits,
        capabilities: if options.probing {
            Capabilities::default()
        } else {
            Capabilities::s3()
        },
        ..ClientOptions::default()
    }
}

/// In memory where the system has such a directory: the durable record waits for the disk again and again.
fn state_directory() -> tempfile::TempDir {
    let in_memory = Path::new("/dev/shm");
    let made = if in_memory.is_dir() {
        tempfile::tempdir_in(in_memory)
    } else {
        tempfile::tempdir()
    };
    made.expect("a directory for state")
}

pub fn paused_runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime without threads")
}

/// Connections to the store that live in the caller's runtime, both ends of them.
pub fn dialer(store: &Store) -> Dialer {
    let store = store.clone();
    Dialer::new(move || {
        let (near, far) = tokio::io::duplex(CONNECTION_BYTES);
        let store = store.clone();
        tokio::spawn(async move { store.serve_connection(far).await });
        async { Ok(near) }
    })
}

/// What the kernel would have been told to forget.
type Told = Arc<Mutex<Vec<Invalidation>>>;

/// Takes the kernel's place.
fn listen(mut invalidations: mpsc::UnboundedReceiver<Invalidation>) -> Told {
    let told = Told::default();
    let heard = told.clone();
    tokio::spawn(async move {
        while let Some(mut invalidation) = invalidations.recv().await {
            match &mut invalidation {
                Invalidation::Attributes { told, .. } => drop(told.take()),
                // Who waits hears of it when this is dropped.
                Invalidation::Nothing { .. } => continue,
                Invalidation::Entry { .. } | Invalidation::Content { .. } => {}
            }
            let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
            if heard.len() < MOST_TOLD {
                heard.push(invalidation);
            }
        }
    });
    told
}

/// As `pailfs mount` does it, but for the kernel.
async fn set_up(
    store: &Store,
    options: &Options,
    state_dir: PathBuf,
    attributes: Option<&Path>,
) -> (Arc<Fs>, Told) {
    let metrics = Arc::new(Metrics::default());
    let client = Client::with_dialer(client_options(store, options), metrics, dialer(store))
        .await
        .expect("valid options");
    let disk_cache = options.disk_cache_bytes.map(|limit_bytes| {
        BlockCache::open(&state_dir.join(BLOCKS), limit_bytes, "store").expect("a directory for blocks")
    });
    let (spool, leftovers) = Spool::open(&state_dir, "s3://bucket at test").expect("a state directory");
    let (invalidations, heard) = mpsc::unbounded_channel();
    let told = listen(heard);
    let settings = TreeSettings {
        source: Source::Bucket {
            bucket: BUCKET.to_owned(),
            prefix: String::new(),
        },
        metadata_ttl: options.metadata_ttl,
        attributes: options.attributes,
        read_only: false,
        allow_bucket_changes: false,
        listings_show_algorithms: !options.probing,
        head_parallelism: 32,
        listing_capacity_bytes: options.listing_capacity_bytes,
        attributes_on_disk: attributes
            .map(|directory| DiskAttributes::open(directory, "store").expect("a directory for attributes")),
    };
    let tree = Tree::new(client.clone(), spool.clone(), settings, invalidations);
    let context = Arc::new(FileContext {
        on_conflict: options.on_conflict,
        keep_open: KeepOpen::new(options.keep_open_limit_bytes),
        client,
        budget: Budget::new(options.memory_bytes, options.stall_timeout),
        disk_cache,
        spool: spool.clone(),
        metadata_format: MetadataFormat::Aws,
        stall_timeout: options.stall_timeout,
    });
    let fs_settings = FsSettings {
        list_virtual_xattrs: false,
        presigned_url_lifetime: Duration::from_mins(5),
        passthrough: Passthrough::Never,
        defaults: Defaults {
            uid: 0,
            gid: 0,
            file_mode: 0o644,
            dir_mode: 0o755,
        },
        read_only: false,
        metadata_format: MetadataFormat::Aws,
    };
    let fs = Fs::new(tree, context, spool, fs_settings);
    fs.recover(leftovers).await.expect("leftovers can be read");
    (fs, told)
}

/// One mount and all its tasks.
pub struct Mount {
    pub driver: Driver,
    pub fs: Arc<Fs>,
    told: Told,
    runtime: Runtime,
    state_dir: PathBuf,
}

impl Mount {
    /// Drives the mount until `operation` is done; `what` names it should it hang.
    pub fn run<T>(&self, what: &str, operation: impl Future<Output = T>) -> T {
        let _watched = watchdog::watch(what);
        self.runtime.block_on(async {
            tokio::time::timeout(DEADLINE, operation)
                .await
                .unwrap_or_else(|_| panic!("{what} hangs"))
        })
    }

    /// Drives the mount for so long: `None` when `operation` was not done by then, and given up.
    pub fn run_for<T>(
        &self,
        what: &str,
        patience: Duration,
        operation: impl Future<Output = T>,
    ) -> Option<T> {
        let _watched = watchdog::watch(what);
        self.runtime
            .block_on(async { tokio::time::timeout(patience, operation).await.ok() })
    }

    /// What the kernel was told to forget since this was asked last.
    pub fn told(&self) -> Vec<Invalidation> {
        self.run("telling", async {
            tokio::time::sleep(Duration::from_millis(1)).await
        });
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *told)
    }

    /// Lets the mount's clock and its background work go on.
    pub fn sleep(&self, duration: Duration) {
        self.run("sleeping", async { tokio::time::sleep(duration).await });
    }

    /// Ends the mount as a kill does: nothing is finished, nothing is said. The state directory stays.
    pub fn crash(self) {
        let Self {
            driver, fs, runtime, ..
        } = self;
        let left = Arc::downgrade(&fs);
        let inside = runtime.enter();
        drop(driver);
        drop(fs);
        drop(inside);
        drop(runtime);
        // It would hold its locks, as no process does that is gone.
        assert_eq!(left.strong_count(), 0, "something keeps the mount");
    }

    /// Ends the mount in order; returns what could not be sent.
    pub fn unmount(self) -> Vec<String> {
        let unsent = self.run("unmounting", async {
            self.driver.forget_all();
            self.fs.finish(|_| {}).await
        });
        self.crash();
        unsent
    }

    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// The files of its cache on disk.
    pub fn cached_files(&self) -> Vec<PathBuf> {
        let blocks = self.state_dir.join(BLOCKS);
        let versions = ["kept", "probation"].map(|place| files_in(&blocks.join(place)));
        let files_of = |version: PathBuf| ["data", "table"].map(|name| version.join(name));
        versions.concat().into_iter().flat_map(files_of).collect()
    }
}
