//! SIGTERM, SIGINT and (in the foreground) SIGHUP unmount as `pailfs unmount` does.
//!
//! Difficulties, and who solves each:
//! 1. A person who presses Ctrl-C wants to know why it takes long, and how to stop waiting: [`run`] tells what is left
//!    at the second one, and ends at the third.
//! 2. A service manager sends one SIGTERM and later SIGKILL: when everything cannot be done properly (in use, or the
//!    store is away), a daemon does what can be done, [`Way::Detach`], which keeps unsent data for the next mount.

use crate::cli::control::{ControlRequest, Progress};
use crate::cli::failure::Failure;
use crate::cli::progress;
use crate::cli::say::say;
use crate::cli::system::mounts::Way;
use crate::rt;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};

/// The signals that end a mount. Made before the mount is reported live, so that none is lost.
#[derive(Debug)]
pub struct EndingSignals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl EndingSignals {
    /// From now on these signals do not end the process by themselves.
    ///
    /// # Errors
    /// When the runtime cannot listen to them.
    pub fn listen() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|error| Failure::io(&error, "signals"));
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }

    /// Waits for one of them.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}

/// SIGUSR1, upon which a mount writes to its log what it has asked of the store.
#[derive(Debug)]
pub struct ReportSignal(Signal);

impl ReportSignal {
    /// From now on it does not end the process.
    ///
    /// # Errors
    /// When the runtime cannot listen to it.
    pub fn listen() -> Result<Self, Failure> {
        let listened = signal(SignalKind::user_defined1());
        listened.map(Self).map_err(|error| Failure::io(&error, "signals"))
    }

    /// Waits for one.
    pub async fn next(&mut self) {
        self.0.recv().await;
    }
}

/// Turns signals into requests, until the receiver of `requests` is gone. `interactive`: a person sees our output.
pub async fn run(mut signals: EndingSignals, requests: mpsc::Sender<ControlRequest>, interactive: bool) {
    let mut way = Way::Plain;
    loop {
        signals.next().await;
        tracing::info!("asked to end by a signal");
        let Some(result) = unmount(&mut signals, &requests, way, interactive).await else {
            return;
        };
        let Err(failure) = result else { return };
        tracing::error!(%failure, "unmount");
        way = Way::Detach;
        if interactive {
            say(format_args!(
                "pailfs: {failure}\nstill mounted; press Ctrl-C again to unmount nevertheless"
            ));
        } else if unmount(&mut signals, &requests, way, interactive).await.is_none() {
            return;
        }
    }
}

/// `None`: the mount has ended.
async fn unmount(
    signals: &mut EndingSignals,
    requests: &mpsc::Sender<ControlRequest>,
    way: Way,
    interactive: bool,
) -> Option<Result<(), Failure>> {
    let (progress, seen) = watch::channel(Progress::default());
    let (done, mut result) = oneshot::channel();
    requests
        .send(ControlRequest::Unmount { way, progress, done })
        .await
        .ok()?;
    let mut further_signals = 0;
    loop {
        tokio::select! {
            result = &mut result => return result.ok(),
            () = signals.next() => {
                further_signals += 1;
                let left = progress::describe(*seen.borrow());
                if !interactive {
                    tracing::info!("asked to end again: {left}");
                } else if further_signals == 1 {
                    say(format_args!("pailfs: {left}; press Ctrl-C again to end without that"));
                } else {
                    say(format_args!("pailfs: ended; {left}"));
                    std::process::exit(crate::cli::failure::Exit::Failed as i32);
                }
            }
        }
    }
}

/// Starts [`run`] in the background.
pub fn start(signals: EndingSignals, requests: mpsc::Sender<ControlRequest>, interactive: bool) {
    drop(rt::spawn(run(signals, requests, interactive)));
}
