//! The seam between the commands and the filesystem: starts it, and ends it without losing data.

use crate::base::error::{Error, ErrorKind};
use crate::base::mount_config::{AttributesMode, MetadataTtl, MountConfig, Source, ViewOf};
use crate::base::prices::RequestPrices;
use crate::cache::attributes::disk::DiskAttributes;
use crate::cache::blocks::{self, BlockCache};
use crate::cli::cache;
use crate::cli::connect;
use crate::cli::control::Progress;
use crate::cli::costs;
use crate::cli::failure::Failure;
use crate::cli::known_stores::KnownStores;
use crate::cli::system::directories;
use crate::fs::shutdown::Pending;
use crate::fs::{Defaults, Fs, FsSettings};
use crate::fuse;
use crate::object::budget::Budget;
use crate::object::file::{FileContext, KeepOpen};
use crate::rt;
use crate::s3::types::ListRequest;
use crate::s3::{Client, ClientOptions, Feature, Message, Queue, Support};
use crate::spool::Spool;
use crate::telemetry::Metrics;
use crate::tree::{LISTING_CAPACITY_BYTES, Tree, TreeSettings, notifications};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// A refresh waits no longer for the kernel.
const TELLING_LIMIT: Duration = Duration::from_mins(1);
/// The longest that a name is believed not to exist.
const NEGATIVE_TTL: Duration = Duration::from_secs(1);

/// A live mount.
pub struct Mounted {
    fs: Arc<Fs>,
    session: fuse::Mounted,
    client: Client,
    known_stores: KnownStores,
    request_prices: Option<RequestPrices>,
    budget: Arc<Budget>,
    disk_cache: Option<Arc<BlockCache>>,
    /// Reads the queue of notifications.
    listening: Option<rt::JoinHandle<()>>,
}

/// Connects to the store, adopts what an earlier mount left, mounts at `config.mount_point`.
///
/// # Errors
/// Why there is no mount.
pub async fn start(config: &MountConfig) -> Result<Mounted, Failure> {
    let client = Client::connect(client_options(config), Arc::new(Metrics::default())).await?;
    check_source(&client, &config.source).await?;
    check_view(&client, config).await?;
    let (queue, messages) = open_queue(config, &client).await?;
    let known_stores = KnownStores::new(config, &client);
    known_stores.recall(&client).await;
    let (state_dir, source) = (config.state_dir.clone(), spool_source(config, &client));
    let (spool, leftovers) = rt::blocking(move || Spool::open(&state_dir, &source)).await?;
    spool.set_limit_bytes(config.spool_size_bytes.unwrap_or(u64::MAX));
    let (invalidations, heard) = mpsc::unbounded_channel();
    let negative_ttl = negative_ttl(config);
    let mut settings = tree_settings(config, &client);
    settings.attributes_on_disk = open_attributes(config, client.endpoint()).await?;
    let tree = Tree::new(client.clone(), spool.clone(), settings, invalidations);
    let disk_cache = open_disk_cache(config, client.endpoint()).await?;
    let context = Arc::new(FileContext {
        client: client.clone(),
        // What the disk cache holds while it writes is a part of it.
        budget: Budget::new(
            config.memory_bytes - disk_cache.as_ref().map_or(0, |_| blocks::STORING_BYTES),
            config.stall_timeout,
        ),
        disk_cache: disk_cache.clone(),
        spool: spool.clone(),
        metadata_format: config.metadata_format,
        stall_timeout: config.stall_timeout,
        on_conflict: config.on_conflict,
        keep_open: KeepOpen::new(config.keep_open_limit_bytes),
    });
    let budget = context.budget.clone();
    let fs = Fs::new(tree, context, spool, fs_settings(config));
    fs.recover(leftovers).await?;
    fs.tree().sample().await;
    fs.tree().hear(&messages);
    let listening = queue.map(|queue| rt::spawn(notifications::listen(fs.tree().clone(), queue)));
    let session = fuse::mount(fs.clone(), config, negative_ttl, rt::Handle::current(), heard)?;
    Ok(Mounted {
        fs,
        session,
        client,
        known_stores,
        request_prices: config.request_prices,
        budget,
        disk_cache,
        listening,
    })
}

/// The queue of notifications, and the first messages of it: a wrong address or a missing permission is said before there is
/// a mount.
async fn open_queue(config: &MountConfig, client: &Client) -> Result<(Option<Queue>, Vec<Message>), Failure> {
    let Some(url) = &config.notifications else {
        return Ok((None, Vec::new()));
    };
    let queue = Queue::new(client, url)
        .map_err(|error| Failure::usage(format!("--notifications: {}", error.message())))?;
    let refused = |error: Error| {
        let advice = Queue::advice(&error);
        Failure::from(error).within("--notifications").advising(advice)
    };
    let messages = queue.receive(Duration::ZERO).await.map_err(refused)?;
    if !messages.is_empty() {
        // They are of what was before this mount knew anything.
        queue.delete(&messages).await.map_err(refused)?;
    }
    Ok((Some(queue), messages))
}

/// What the local record calls this mount's source. A read-only mount has none of its own that is ever left behind, and
/// must not take over what a mount that may write has to send.
fn spool_source(config: &MountConfig, client: &Client) -> String {
    let source = format!("{} at {}", config.source, client.endpoint());
    if config.access.read_only {
        format!("{source}, read-only")
    } else {
        source
    }
}

async fn open_disk_cache(config: &MountConfig, endpoint: &str) -> Result<Option<Arc<BlockCache>>, Failure> {
    let Some(limit_bytes) = config.cache_size_bytes else {
        return Ok(None);
    };
    let directory = cache::blocks_directory(&config.cache_dir);
    directories::make_trusted(&directory)?;
    let endpoint = endpoint.to_owned();
    let opened = rt::blocking(move || {
        let opened = BlockCache::open(&directory, limit_bytes, &endpoint);
        opened.map_err(|error| Failure::io(&error, format_args!("cache {}", directory.display())))
    });
    opened.await.map(Some)
}

async fn open_attributes(
    config: &MountConfig,
    endpoint: &str,
) -> Result<Option<Arc<DiskAttributes>>, Failure> {
    if config.attributes == AttributesMode::Listing {
        return Ok(None);
    }
    let directory = cache::attributes_directory(&config.cache_dir);
    directories::make_trusted(&directory)?;
    let endpoint = endpoint.to_owned();
    let opened = rt::blocking(move || {
        let opened = DiskAttributes::open(&directory, &endpoint);
        opened.map_err(|error| Failure::io(&error, format_args!("cache {}", directory.display())))
    });
    opened.await.map(Some)
}

fn client_options(config: &MountConfig) -> ClientOptions {
    let probe_prefix = match &config.source {
        Source::Bucket { prefix, .. } => prefix.clone(),
        Source::AllBuckets => String::new(),
    };
    ClientOptions {
        stall_timeout: config.stall_timeout,
        read_only: config.access.read_only,
        view: config.view,
        probe_prefix,
        ..connect::client_options(&config.endpoint)
    }
}

/// Where there are no versions, an older state cannot be shown, and must not be taken for one in which nothing was there.
async fn check_view(client: &Client, config: &MountConfig) -> Result<(), Failure> {
    let (ViewOf::At(_) | ViewOf::AllVersions, Source::Bucket { bucket, .. }) = (config.view, &config.source)
    else {
        return Ok(());
    };
    match client.has_versions(bucket).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(Failure::failed(format!(
            "s3://{bucket} has no versioning: it keeps nothing but what is there now, so --at and --versions have nothing to show"
        ))),
        Err(error) if error.kind() == ErrorKind::Denied => {
            tracing::warn!(%error, "whether the bucket has versioning is not known: these keys may not ask");
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// A wrong name or wrong keys are said before there is a mount.
async fn check_source(client: &Client, source: &Source) -> Result<(), Failure> {
    let checked = match source {
        Source::Bucket { bucket, prefix } => {
            let request = ListRequest {
                bucket: bucket.as_str().into(),
                prefix: prefix.clone(),
                by_directory: true,
                start_after: None,
                continuation: None,
                max_keys: 1,
            };
            match client.first_head_bucket(bucket).await {
                // Policies may allow to list a prefix only.
                Err(error) if error.kind() == ErrorKind::Denied => client.list(&request).await.map(drop),
                other => other,
            }
        }
        Source::AllBuckets => match client.first_list_buckets().await {
            // Buckets can still be reached by their names.
            Err(error) if error.kind() == ErrorKind::Denied && error.s3_code() == Some("AccessDenied") => {
                tracing::warn!("these keys may not list buckets: reach them by name");
                Ok(())
            }
            other => other.map(drop),
        },
    };
    checked.map_err(|error| match error.kind() {
        ErrorKind::Network | ErrorKind::TimedOut => Failure::failed(format!(
            "{} cannot be reached: {error}\n\
             check the address (--endpoint-url, --region), the network, and the proxy (HTTPS_PROXY, NO_PROXY)",
            endpoint_name(client)
        )),
        _ => Failure::from(error),
    })
}

fn endpoint_name(client: &Client) -> String {
    match client.endpoint() {
        "aws" => format!("S3 in the region {}", client.region()),
        url => format!("the endpoint {url}"),
    }
}

fn negative_ttl(config: &MountConfig) -> Duration {
    match config.metadata_ttl {
        MetadataTtl::For(ttl) => ttl.min(NEGATIVE_TTL),
        MetadataTtl::Forever => NEGATIVE_TTL,
    }
}

fn tree_settings(config: &MountConfig, client: &Client) -> TreeSettings {
    TreeSettings {
        source: config.source.clone(),
        metadata_ttl: match config.metadata_ttl {
            MetadataTtl::For(ttl) => Some(ttl),
            MetadataTtl::Forever => None,
        },
        attributes: config.attributes,
        read_only: config.access.read_only,
        allow_bucket_changes: config.allow_bucket_changes,
        listings_show_algorithms: client.capabilities().get(Feature::ListedAlgorithms) == Support::Honoured,
        head_parallelism: config.head_parallelism,
        listing_capacity_bytes: LISTING_CAPACITY_BYTES,
        attributes_on_disk: None,
    }
}

fn fs_settings(config: &MountConfig) -> FsSettings {
    let access = &config.access;
    FsSettings {
        defaults: Defaults {
            uid: access.uid,
            gid: access.gid,
            file_mode: access.file_mode,
            dir_mode: access.dir_mode,
        },
        read_only: access.read_only,
        metadata_format: config.metadata_format,
        list_virtual_xattrs: config.list_virtual_xattrs,
        presigned_url_lifetime: config.presigned_url_lifetime,
        passthrough: config.passthrough,
    }
}

impl Mounted {
    /// Puts everything that was written into the bucket, telling what is pending; the mount stays usable.
    ///
    /// # Errors
    /// What could not be sent, and why.
    pub async fn flush(&self, progress: &watch::Sender<Progress>) -> Result<(), Failure> {
        all_sent(&self.fs.send_all(|pending| show(progress, pending)).await)
    }

    /// Returns when the kernel has ended the session: the mount is gone. May be called again.
    pub async fn ended(&mut self) {
        self.session.ended().await;
    }

    /// After the end of the session: sends what is still unsent, or keeps it for the next mount; finishes intents.
    ///
    /// # Errors
    /// What was kept instead of sent, and why.
    pub async fn finish(&mut self, progress: &watch::Sender<Progress>) -> Result<(), Failure> {
        if let Some(listening) = &self.listening {
            listening.abort();
        }
        let unsent = self.fs.finish(|pending| show(progress, pending)).await;
        self.known_stores.remember(&self.client).await;
        self.log_requests();
        all_sent(&unsent)
    }

    /// Writes to the log what the mount has asked of the store so far.
    pub fn log_requests(&self) {
        tracing::info!(
            "requests of this mount: {}",
            costs::describe(self.client.metrics(), self.request_prices.as_ref())
        );
        tracing::info!(
            "data buffers of this mount: used_bytes={} of {}",
            self.budget.used_bytes(),
            self.budget.limit_bytes()
        );
        if self.listening.is_some() {
            let counts = self.fs.tree().news_counts();
            tracing::info!(
                "notifications of this mount: changes={} known={} elsewhere={} not_understood={}",
                counts.changes,
                counts.known,
                counts.elsewhere,
                counts.not_understood
            );
        }
        if let Some(cache) = &self.disk_cache {
            let counts = cache.counts();
            tracing::info!(
                "disk cache of this mount: served_bytes={} stored_bytes={} damaged_blocks={} passthrough_opens={}",
                counts.served_bytes,
                counts.stored_bytes,
                counts.damaged_blocks,
                self.client.metrics().passthrough_opens.load(Ordering::Relaxed)
            );
        }
    }

    /// Forgets what is believed about a path within the mount. `done` hears of it when the kernel has forgotten it, too, or
    /// that no object or directory can have the path.
    pub fn refresh(&self, path: &Path, done: oneshot::Sender<Result<(), Failure>>) {
        tracing::info!(path = %path.display(), "refreshed");
        let tree = self.fs.tree().clone();
        let refreshed = tree.refresh(path).map_err(Failure::from);
        // Nothing else that the mount is asked for waits for the kernel.
        rt::spawn(async move {
            let told = rt::timeout(TELLING_LIMIT, tree.all_told()).await;
            let late = |_| {
                Failure::failed(format!(
                    "forgotten, but the kernel may still believe something: programs have kept it busy for {TELLING_LIMIT:?}"
                ))
            };
            // Who asked may be gone.
            let _nobody_waits = done.send(refreshed.and(told.map_err(late)));
        });
    }
}

fn show(progress: &watch::Sender<Progress>, pending: Pending) {
    progress.send_replace(Progress {
        pending_files: pending.files as u64,
        pending_bytes: pending.bytes,
    });
}

fn all_sent(unsent: &[String]) -> Result<(), Failure> {
    if unsent.is_empty() {
        return Ok(());
    }
    let text = format!(
        "{} file(s) could not be sent; they are kept on this machine and sent by the next mount of the same source:\n{}",
        unsent.len(),
        unsent.join("\n")
    );
    Err(Failure::failed(text))
}
