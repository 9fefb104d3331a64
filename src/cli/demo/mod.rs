//! `pailfs demo`: the embedded store with two sample buckets, and a mount of all of them.
//!
//! Difficulties, and who solves each:
//! 1. Store and mount live in one process, and the mount's main loop takes this thread: the store has a runtime of its
//!    own, which ends after the mount ([`run`]).
//! 2. Samples are made once; what a user changed since then stays: `samples::fill`.
//! 3. `--once` must use the mount while this thread serves it, and must end it whatever happens: [`start_walk`].

mod samples;
mod walk;

use crate::base::mount_config::{AccessKeys, EndpointConfig, MountConfig, PathStyle};
use crate::cli::args::{DemoArgs, MountArgs};
use crate::cli::connect;
use crate::cli::control::{ControlRequest, Progress};
use crate::cli::environment::Environment;
use crate::cli::failure::Failure;
use crate::cli::foreground::start_log;
use crate::cli::mount::{SYSTEM_ACCOUNTS, WhenLive, run_here};
use crate::cli::mount_config;
use crate::cli::say::print;
use crate::cli::system::directories;
use crate::cli::system::mounts::Way;
use crate::embedded::{Server, ServerOptions};
use crate::rt;
use crate::s3::{Client, ClientOptions};
use crate::telemetry::Metrics;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot, watch};

/// Where everything of a demo is.
struct Places {
    base: PathBuf,
    /// Removed in the end.
    is_temporary: bool,
}

impl Places {
    fn choose(args: &DemoArgs, environment: &Environment) -> Result<Self, Failure> {
        let (base, is_temporary) = match &args.dir {
            Some(dir) => (environment.absolute(dir), false),
            None if args.once => (
                std::env::temp_dir().join(format!("pailfs-demo-{}", rt::random_id())),
                true,
            ),
            None => (
                environment
                    .state_dir(args.state.state_dir.as_deref())?
                    .join("demo"),
                false,
            ),
        };
        let places = Self { base, is_temporary };
        for directory in [places.store(), places.mount_point()] {
            // The mount point may be the dead mount of a killed demo, which exists and cannot be looked at.
            if !crate::cli::system::mounts::is_dead(&directory) {
                directories::make_private(&directory)?;
            }
        }
        Ok(places)
    }

    fn store(&self) -> PathBuf {
        self.base.join("store")
    }

    fn mount_point(&self) -> PathBuf {
        self.base.join("mnt")
    }

    fn remove_if_temporary(&self) {
        if self.is_temporary
            && let Err(error) = std::fs::remove_dir_all(&self.base)
        {
            tracing::warn!(%error, directory = %self.base.display(), "not removed");
        }
    }
}

/// # Errors
/// Why there is no mount; with `--once`, which steps went wrong.
pub fn run(args: &DemoArgs) -> Result<(), Failure> {
    let environment = Environment::of_process()?;
    start_log(&args.log, &environment)?;
    let places = Places::choose(args, &environment)?;
    let runtime = rt::build().map_err(|error| Failure::io(&error, "threads"))?;
    let mut options = ServerOptions::new(places.store());
    options.durable = !places.is_temporary;
    let keys = AccessKeys {
        access_key_id: options.access_key.clone(),
        secret_access_key: options.secret_key.clone(),
    };
    let server = runtime.block_on(Server::start(options.clone()))?;
    let endpoint = EndpointConfig {
        endpoint_url: Some(server.endpoint_url()),
        region: Some(options.region),
        path_style: PathStyle::Always,
        keys: Some(keys),
        ..EndpointConfig::default()
    };
    let result = runtime.block_on(fill(&endpoint)).and_then(|client| {
        let config = mount_settings(endpoint, &places, &environment)?;
        let (finished, walked) = oneshot::channel();
        let when_live = if args.once {
            start_walk(&runtime, client, places.mount_point(), finished)
        } else {
            print_what_to_try(&places, &config)
        };
        let mounted = run_here(config, &environment, when_live, true);
        if !args.once {
            return mounted;
        }
        mounted?;
        runtime
            .block_on(walked)
            .unwrap_or_else(|_| Err(Failure::failed("the walk was interrupted")))
    });
    runtime.block_on(server.shutdown());
    places.remove_if_temporary();
    result
}

async fn fill(endpoint: &EndpointConfig) -> Result<Client, Failure> {
    let options: ClientOptions = connect::client_options(endpoint);
    let client = Client::connect(options, Arc::new(Metrics::default())).await?;
    let count = samples::fill(&client).await?;
    if count > 0 {
        print(format_args!("Made two buckets with {count} objects."))?;
    }
    Ok(client)
}

/// As `pailfs mount` would have it, with all local files in the demo's directory.
fn mount_settings(
    endpoint: EndpointConfig,
    places: &Places,
    environment: &Environment,
) -> Result<MountConfig, Failure> {
    let mut args = MountArgs {
        paths: vec![places.mount_point().into()],
        ..MountArgs::default()
    };
    args.state.state_dir = Some(places.base.join("state"));
    args.cache_dir = Some(places.base.join("cache"));
    let mut config = mount_config::resolve(args, environment, &SYSTEM_ACCOUNTS)?.config;
    directories::make_private(&config.state_dir)?;
    directories::make_private(&config.cache_dir)?;
    config.endpoint = endpoint;
    config.allow_bucket_changes = true;
    Ok(config)
}

fn print_what_to_try(places: &Places, config: &MountConfig) -> WhenLive {
    let text = what_to_try(&places.mount_point(), config);
    Box::new(move |_| print(&text).is_ok())
}

fn what_to_try(mount_point: &Path, config: &MountConfig) -> String {
    let mount_point = mount_point.display();
    let url = config.endpoint.endpoint_url.as_deref().unwrap_or_default();
    let (id, secret) = config.endpoint.keys.as_ref().map_or(("", ""), |keys| {
        (keys.access_key_id.as_str(), keys.secret_access_key.as_str())
    });
    format!(
        "\nTwo buckets are mounted at {mount_point}. In another terminal, try:\n\n\
         \x20 cd {mount_point}\n\
         \x20 ls -l library library/books\n\
         \x20 cat 'library/books/Ada Ash/Volume 01.txt'\n\
         \x20 cp -r library/books library/more-books\n\
         \x20 mv library/more-books library/moved && rm -r library/moved\n\
         \x20 grep -h 2024-05-01 measurements/2024/05/*.csv\n\
         \x20 mkdir a-new-bucket && echo hello > a-new-bucket/hello.txt\n\n\
         The same objects through S3: endpoint {url}, access key {id}, secret key {secret}.\n\
         Ctrl-C ends the demo; the data stays for the next one."
    )
}

/// Walks beside the mount, on the store's runtime, and unmounts in the end.
fn start_walk(
    runtime: &tokio::runtime::Runtime,
    client: Client,
    mount_point: PathBuf,
    finished: oneshot::Sender<Result<(), Failure>>,
) -> WhenLive {
    let handle = runtime.handle().clone();
    Box::new(move |requests: mpsc::Sender<ControlRequest>| {
        let inner = handle.clone();
        // The runtime's own thread pool for blocking work: dropped with the runtime, after the walk.
        drop(handle.spawn(async move {
            let in_bucket = move |id: &_| inner.block_on(walk::read_object(&client, id));
            let result = rt::blocking(move || walk::walk(&mount_point, in_bucket)).await;
            let unmounted = unmount(&requests).await;
            // Nobody waits when the mount itself failed.
            let _nobody_waits = finished.send(result.and(unmounted));
        }));
        true
    })
}

/// A mount that cannot be taken away properly is taken away nonetheless, and is a failure.
async fn unmount(requests: &mpsc::Sender<ControlRequest>) -> Result<(), Failure> {
    let properly = unmount_by(requests, Way::Plain).await;
    if properly.is_err() {
        unmount_by(requests, Way::Detach).await?;
    }
    properly
}

async fn unmount_by(requests: &mpsc::Sender<ControlRequest>, way: Way) -> Result<(), Failure> {
    let ended = || Failure::failed("the mount ended too early");
    let (progress, _seen) = watch::channel(Progress::default());
    let (done, result) = oneshot::channel();
    requests
        .send(ControlRequest::Unmount { way, progress, done })
        .await
        .map_err(|_| ended())?;
    result.await.map_err(|_| ended())?
}
