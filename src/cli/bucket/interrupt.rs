//! Ctrl-C while something is moved: what was begun is taken back before the command ends.
//!
//! A signal that was ignored when the command started (`nohup`, background jobs of scripts) stays ignored.

use crate::cli::failure::Failure;
use std::future::Future;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that ask the command to end.
pub struct Interrupts {
    signals: Vec<Signal>,
}

impl Interrupts {
    /// From now on these signals do not end the process by themselves.
    ///
    /// # Errors
    /// When the runtime cannot listen to them.
    pub fn listen() -> Result<Self, Failure> {
        let mut signals = Vec::new();
        for kind in [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
        ] {
            if !is_ignored(kind.as_raw_value()) {
                signals.push(signal(kind).map_err(|error| Failure::io(&error, "signals"))?);
            }
        }
        Ok(Self { signals })
    }

    async fn next(&mut self) {
        let mut all: Vec<_> = self
            .signals
            .iter_mut()
            .map(|signal| Box::pin(signal.recv()))
            .collect();
        if all.is_empty() {
            std::future::pending::<()>().await;
        }
        let (_, _, rest) = futures_util::future::select_all(&mut all).await;
        drop(rest);
    }

    /// The result of `work`, unless a signal comes first: then `work` is dropped where it is.
    ///
    /// # Errors
    /// Those of `work`; Failed when a signal came.
    pub async fn unless_one_comes<T>(
        &mut self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            result = work => result,
            () = self.next() => Err(Failure::failed("interrupted")),
        }
    }
}

fn is_ignored(number: i32) -> bool {
    // SAFETY: all zeroes are a valid `sigaction`.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: asks only, and writes to a structure that lives through the call.
    let asked = unsafe { libc::sigaction(number, std::ptr::null(), &raw mut action) };
    asked == 0 && action.sa_sigaction == libc::SIG_IGN
}
