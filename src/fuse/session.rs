//! fuser's session on a new mount: two loops with a descriptor each.

use super::handlers::Handlers;
use super::{device, notify};
use crate::base::error::{Error, Result};
use crate::base::mount_config::MountConfig;
use crate::fs::Fs;
use crate::fs::Invalidation;
use crate::rt::{self, Handle};
use fuser::{Config, Session, SessionACL};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;

/// The kernel's loops: a second one serves other programs while the first is busy.
const LOOPS: usize = 2;
/// Read-ahead of the mount where privileges allow to set it (the kernel's default for FUSE is 128 KiB).
const READ_AHEAD_KIB: u32 = 4_096;

/// A live mount. The kernel ends it: when it is unmounted, by whomever.
pub struct Mounted {
    ended: watch::Receiver<bool>,
}

/// Mounts `fs` as `config` says and answers the kernel from now on.
///
/// # Errors
/// `LocalIo` with what mount(2) or fusermount3 said.
pub fn mount(
    fs: Arc<Fs>,
    config: &MountConfig,
    negative_ttl: Duration,
    runtime: Handle,
    invalidations: UnboundedReceiver<Invalidation>,
) -> Result<Mounted> {
    let at = |error: &std::io::Error| {
        Error::local_io(
            error,
            format_args!("mounting at {}", config.mount_point.display()),
        )
    };
    let handlers = Handlers {
        fs,
        runtime,
        negative_ttl,
    };
    let kernel = device::mount(config).map_err(|error| at(&error))?;
    let session = Session::from_fd(handlers, kernel, who_may_use_it(config), loops()).map_err(|error| {
        device::unmount(&config.mount_point);
        at(&error)
    })?;
    let notifier = session.notifier();
    let (tell, ended) = watch::channel(false);
    rt::thread("pailfs-session", move || {
        if let Err(error) = session.run() {
            tracing::error!(%error, "the kernel's session ended badly");
        }
        // Nobody may be waiting.
        let _ = tell.send(true);
    })
    .map_err(|error| at(&error))?;
    raise_read_ahead(&config.mount_point);
    notify::start(notifier, invalidations).map_err(|error| at(&error))?;
    Ok(Mounted { ended })
}

fn who_may_use_it(config: &MountConfig) -> SessionACL {
    if config.access.allow_other {
        SessionACL::All
    } else {
        SessionACL::Owner
    }
}

fn loops() -> Config {
    let mut config = Config::default();
    config.n_threads = Some(LOOPS);
    config.clone_fd = true;
    config
}

/// Works as root only; without it sequential reads are slower, nothing else.
fn raise_read_ahead(mount_point: &Path) {
    use std::os::unix::fs::MetadataExt;
    let Ok(metadata) = std::fs::metadata(mount_point) else {
        return;
    };
    let device = metadata.dev();
    let path = format!(
        "/sys/class/bdi/{}:{}/read_ahead_kb",
        libc::major(device),
        libc::minor(device)
    );
    if let Err(error) = std::fs::write(&path, READ_AHEAD_KIB.to_string()) {
        tracing::debug!(%error, "the mount's read-ahead stays at the kernel's default");
    }
}

impl Mounted {
    /// Returns when the kernel has sent its last request. May be called again.
    pub async fn ended(&mut self) {
        // An error means that the session's thread is gone, which is an end too.
        let _ = self.ended.wait_for(|ended| *ended).await;
    }
}
