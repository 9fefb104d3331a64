//! `pailfs mount`: from a validated configuration to a live mount, and to its end.
//!
//! Difficulties, and who solves each:
//! 1. Everything that can be wrong must be found out before the mount is reported live: [`run`] orders the steps.
//! 2. A mount ends in three ways: asked by a command or a signal, unmounted from outside, killed. The first two meet in
//!    [`serve_until_end`]; the watcher is for the third.
//! 3. Unmounting must not lose what is unsent: data goes first, then the mount ([`unmount`]), then what came in between.
//!
//! The filesystem itself is started in `filesystem.rs`.

use crate::base::mount_config::MountConfig;
use crate::cli::args::MountArgs;
use crate::cli::control::{self, ControlRequest, ControlServer, Progress};
use crate::cli::daemon::{self, Reporter};
use crate::cli::environment::Environment;
use crate::cli::failure::Failure;
use crate::cli::filesystem::{self, Mounted};
use crate::cli::mount_config::{self, Accounts, MountCommand};
use crate::cli::signals::{self, EndingSignals, ReportSignal};
use crate::cli::system::mount_table::{self, Mount};
use crate::cli::system::mounts::{self, Way};
use crate::cli::system::{accounts, directories};
use crate::cli::watcher::Watcher;
use crate::rt;
use crate::telemetry::log::{self, Destination};
use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// How long the kernel may take to end a session after its mount is gone.
const SESSION_END_LIMIT: Duration = Duration::from_secs(30);

/// The accounts of this machine.
pub const SYSTEM_ACCOUNTS: Accounts<'static> = Accounts {
    user: &accounts::user_number,
    group: &accounts::group_number,
};

/// `arguments`: this process' own, without the program's name, to start the daemon with.
///
/// # Errors
/// Why there is no mount; in the foreground also why it did not end well.
pub fn run(args: MountArgs, arguments: &[OsString]) -> Result<(), Failure> {
    let (is_daemon, is_rehearsal) = (args.daemon, args.rehearse);
    let environment = Environment::of_process()?;
    let command = mount_config::resolve(args, &environment, &SYSTEM_ACCOUNTS)?;
    if is_rehearsal {
        return Ok(());
    }
    directories::make_private(&command.config.state_dir)?;
    directories::make_private(&command.config.cache_dir)?;
    if is_daemon {
        let reporter =
            Reporter::become_daemon().map_err(|error| Failure::io(&error, "start of the daemon"))?;
        log::start(&command.log_level, Destination::Stderr).map_err(Failure::usage)?;
        return run_as_daemon(command.config, &environment, reporter);
    }
    if command.foreground {
        let destination = if let Some(path) = &command.log_file {
            Destination::File(log::open_log_file(path).map_err(|error| Failure::io(&error, "log"))?)
        } else {
            Destination::Stderr
        };
        log::start(&command.log_level, destination).map_err(Failure::usage)?;
        // Under a service manager nobody presses Ctrl-C again.
        let interactive = std::io::stderr().is_terminal();
        return run_here(command.config, &environment, Box::new(|_| true), interactive);
    }
    daemon::start(arguments, &log_file(&command)?)
}

fn log_file(command: &MountCommand) -> Result<PathBuf, Failure> {
    if let Some(path) = &command.log_file {
        return Ok(path.clone());
    }
    let path = mount_config::default_log_file(&command.config);
    if let Some(directory) = path.parent() {
        directories::make_private(directory)?;
    }
    Ok(path)
}

/// What happens once the mount is live; it may keep the sender to end the mount. False: nobody wants the mount any more.
pub type WhenLive = Box<dyn FnOnce(mpsc::Sender<ControlRequest>) -> bool + Send>;

/// Failures before the mount is live go to the caller, later ones to the log.
fn run_as_daemon(config: MountConfig, environment: &Environment, reporter: Reporter) -> Result<(), Failure> {
    let reporter = Arc::new(Mutex::new(Some(reporter)));
    let take =
        |shared: &Mutex<Option<Reporter>>| shared.lock().unwrap_or_else(PoisonError::into_inner).take();
    let of_hook = reporter.clone();
    let when_live: WhenLive = Box::new(move |_| take(&of_hook).is_some_and(Reporter::live));
    let result = run_here(config, environment, when_live, false);
    if let Err(failure) = &result {
        if let Some(reporter) = take(&reporter) {
            reporter.failed(failure);
        } else {
            tracing::error!(%failure, "the mount ended badly");
        }
    }
    result
}

/// Mounts in this process, and returns when the mount has ended. `interactive`: a person sees our output and can press
/// Ctrl-C more than once.
///
/// # Errors
/// Why there is no mount, or why it did not end well.
pub fn run_here(
    mut config: MountConfig,
    environment: &Environment,
    when_live: WhenLive,
    interactive: bool,
) -> Result<(), Failure> {
    let is_ours = |mount: &Mount| {
        control::is_served(&control::candidate_sockets(mount, environment, &config.state_dir))
    };
    let mount_point = mounts::prepare_mount_point(&config.mount_point, &is_ours)?;
    for warning in mount_point.warnings {
        tracing::warn!("{warning}");
    }
    config.mount_point = mount_point.path;
    // Before there are threads, and before there is a descriptor of /dev/fuse to inherit.
    let mut watcher = Watcher::start(&config.mount_point)?;
    let result = match rt::build() {
        Ok(runtime) => runtime.block_on(serve(&config, environment, &mut watcher, when_live, interactive)),
        Err(error) => Err(Failure::io(&error, "threads")),
    };
    watcher.dismiss();
    result
}

async fn serve(
    config: &MountConfig,
    environment: &Environment,
    watcher: &mut Watcher,
    when_live: WhenLive,
    interactive: bool,
) -> Result<(), Failure> {
    let mut signals = EndingSignals::listen()?;
    let mut reports = ReportSignal::listen()?;
    let mut mounted = tokio::select! {
        result = filesystem::start(config) => result?,
        () = signals.next() => {
            // Dropped on its way, the start may leave a mount that nobody serves.
            if mounts::is_dead(&config.mount_point) {
                mounts::detach(&config.mount_point)?;
            }
            return Err(Failure::failed("interrupted before the mount was live"));
        }
    };
    let (requests, mut received) = mpsc::channel(4);
    let control = match announce(config, environment, watcher, requests.clone()) {
        Ok(control) => control,
        Err(failure) => {
            end_at_once(config, &mut mounted).await;
            return Err(failure);
        }
    };
    tracing::info!(source = %config.source, mount_point = %config.mount_point.display(), "mounted");
    if !when_live(requests.clone()) {
        end_at_once(config, &mut mounted).await;
        return Err(Failure::failed(
            "whoever started the mount is gone; unmounted again",
        ));
    }
    signals::start(signals, requests, interactive);
    let result = serve_until_end(config, &mut mounted, &mut received, &mut reports).await;
    // Whoever asked too late gets an answer too.
    drop(received);
    control.finish().await;
    tracing::info!(mount_point = %config.mount_point.display(), "unmounted");
    result
}

/// Makes the live mount known to the watcher and to `pailfs unmount`.
fn announce(
    config: &MountConfig,
    environment: &Environment,
    watcher: &mut Watcher,
    requests: mpsc::Sender<ControlRequest>,
) -> Result<ControlServer, Failure> {
    let mount = own_mount(config)?;
    watcher.mounted(&mount);
    let directory = control::socket_directory(environment, &config.state_dir);
    ControlServer::start(&directory.join(control::socket_name(&mount)), requests)
}

fn own_mount(config: &MountConfig) -> Result<Mount, Failure> {
    let table = mount_table::read().map_err(|error| Failure::io(&error, "/proc/self/mountinfo"))?;
    let mount = mount_table::topmost_at(&table, &config.mount_point).filter(|mount| mount.is_fuse());
    mount
        .cloned()
        .ok_or_else(|| Failure::failed("the new mount is not in the mount table"))
}

/// Nothing has been written yet, as nobody knew of the mount.
async fn end_at_once(config: &MountConfig, mounted: &mut Mounted) {
    let path = config.mount_point.clone();
    if let Err(failure) = rt::blocking(move || mounts::detach(&path)).await {
        tracing::error!(%failure, "unmount");
        return;
    }
    if rt::timeout(SESSION_END_LIMIT, mounted.ended()).await.is_err() {
        tracing::error!("the kernel does not end the session");
    }
}

/// Carries out requests until the mount is gone and what was unsent is sent or kept.
async fn serve_until_end(
    config: &MountConfig,
    mounted: &mut Mounted,
    requests: &mut mpsc::Receiver<ControlRequest>,
    reports: &mut ReportSignal,
) -> Result<(), Failure> {
    loop {
        let request = tokio::select! {
            () = mounted.ended() => None,
            request = requests.recv() => request,
            () = reports.next() => {
                mounted.log_requests();
                continue;
            }
        };
        let (way, progress, done) = match request {
            None => {
                tracing::info!("unmounted from outside");
                return mounted.finish(&watch::channel(Progress::default()).0).await;
            }
            Some(ControlRequest::Refresh { path, done }) => {
                mounted.refresh(&path, done);
                continue;
            }
            Some(ControlRequest::Unmount { way, progress, done }) => (way, progress, done),
        };
        if let Err(failure) = unmount(config, mounted, way, &progress).await {
            tracing::warn!(%failure, "still mounted");
            // Who asked may be gone.
            let _nobody_waits = done.send(Err(failure));
            continue;
        }
        let result = mounted.finish(&progress).await;
        let _nobody_waits = done.send(result.clone());
        return result;
    }
}

/// Sends what is unsent, then takes the mount away.
async fn unmount(
    config: &MountConfig,
    mounted: &mut Mounted,
    way: Way,
    progress: &watch::Sender<Progress>,
) -> Result<(), Failure> {
    // Whoever detaches has tried that before: what could not be sent then is saved, and is tried once more at the end.
    if way == Way::Plain {
        mounted.flush(progress).await?;
    }
    let path = config.mount_point.clone();
    rt::blocking(move || mounts::unmount(&path, way)).await?;
    // Detached, a session lives on while files are open: its user was told that this is the end.
    if rt::timeout(SESSION_END_LIMIT, mounted.ended()).await.is_err() {
        tracing::warn!("files are still open; they are cut off");
    }
    Ok(())
}
