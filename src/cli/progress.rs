//! Bars: how far a transfer is, and what is still to be sent. For people: on a terminal only, nothing elsewhere.

use crate::cli::bucket::output::printable;
use crate::cli::control::Progress;
use crate::cli::say::say;
use crate::cli::units::show_bytes;
use crate::rt;
use indicatif::{ProgressBar, ProgressStyle};
use std::future::Future;
use std::io::IsTerminal;
use std::pin::pin;
use std::time::Duration;

const TICK: Duration = Duration::from_millis(100);

/// A bar whose end is the most that was ever pending.
pub struct ProgressView {
    bar: Option<ProgressBar>,
    most_pending_bytes: u64,
    last: Progress,
}

impl ProgressView {
    #[must_use]
    pub fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(0);
            if let Ok(style) =
                ProgressStyle::with_template("{wide_bar} {binary_bytes}/{binary_total_bytes} {msg}")
            {
                bar.set_style(style);
            }
            bar
        });
        Self {
            bar,
            most_pending_bytes: 0,
            last: Progress::default(),
        }
    }

    pub fn show(&mut self, progress: Progress) {
        self.last = progress;
        self.most_pending_bytes = self.most_pending_bytes.max(progress.pending_bytes);
        if let Some(bar) = &self.bar {
            bar.set_length(self.most_pending_bytes);
            bar.set_position(self.most_pending_bytes - progress.pending_bytes);
            let plural = if progress.pending_files == 1 { "" } else { "s" };
            bar.set_message(format!("{} file{plural} to send", progress.pending_files));
        }
    }

    /// Prints a line above the bar.
    pub fn say(&self, message: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| say(message)),
            None => say(message),
        }
    }

    /// What would be left if everything ended now.
    #[must_use]
    pub fn what_is_left(&self) -> String {
        describe(self.last)
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Default for ProgressView {
    fn default() -> Self {
        Self::new()
    }
}

/// How far a transfer is, with its rate and the time left: on a terminal, else nothing.
pub struct Bar(Option<ProgressBar>);

impl Bar {
    /// `total_bytes`: where that is known.
    #[must_use]
    pub fn new(what: &str, total_bytes: Option<u64>) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(None);
        }
        let (bar, template) = match total_bytes {
            Some(bytes) => (
                ProgressBar::new(bytes),
                "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta} left",
            ),
            None => (
                ProgressBar::no_length(),
                "{msg} {spinner} {binary_bytes} {binary_bytes_per_sec}",
            ),
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        let bar = Self(Some(bar));
        bar.name(what);
        bar
    }

    /// What it is about, from now on.
    pub fn name(&self, what: &str) {
        if let Some(bar) = &self.0 {
            bar.set_message(printable(what).into_owned());
        }
    }

    pub fn set(&self, done_bytes: u64) {
        if let Some(bar) = &self.0 {
            bar.set_position(bar.length().map_or(done_bytes, |total| done_bytes.min(total)));
        }
    }

    /// Waits for `work`, and shows meanwhile what `done_bytes` says.
    pub async fn watch<T>(&self, done_bytes: impl Fn() -> u64, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            match rt::timeout(TICK, &mut work).await {
                Ok(result) => return result,
                Err(_) => self.set(done_bytes()),
            }
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// `3 files (12.0 MiB) are not in the bucket yet`.
#[must_use]
pub fn describe(progress: Progress) -> String {
    match progress.pending_files {
        0 => "everything is in the bucket".into(),
        1 => format!(
            "1 file ({}) is not in the bucket yet",
            show_bytes(progress.pending_bytes)
        ),
        files => format!(
            "{files} files ({}) are not in the bucket yet",
            show_bytes(progress.pending_bytes)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_said_in_words() {
        let mut view = ProgressView {
            bar: Some(ProgressBar::hidden()),
            most_pending_bytes: 0,
            last: Progress::default(),
        };
        view.show(Progress {
            pending_files: 3,
            pending_bytes: 3 << 20,
        });
        assert_eq!(
            view.what_is_left(),
            "3 files (3.00 MiB) are not in the bucket yet"
        );
        view.show(Progress {
            pending_files: 1,
            pending_bytes: 1 << 20,
        });
        let bar = view.bar.as_ref().expect("given");
        assert_eq!((bar.length(), bar.position()), (Some(3 << 20), 2 << 20));
        view.show(Progress::default());
        assert_eq!(view.what_is_left(), "everything is in the bucket");
    }
}
