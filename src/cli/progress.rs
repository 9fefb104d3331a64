//! Shows what is still to be sent: a bar on a terminal, nothing elsewhere.

use crate::cli::control::Progress;
use crate::cli::say::say;
use crate::cli::units::show_bytes;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;

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
