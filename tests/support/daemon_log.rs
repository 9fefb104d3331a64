//! What a daemon said: an unexpected warning or error fails the test.

use std::fs;
use std::path::PathBuf;

/// The log file of one mount.
#[derive(Clone, Debug)]
pub struct DaemonLog {
    pub path: PathBuf,
}

impl DaemonLog {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.path).unwrap_or_default()).into_owned()
    }

    pub fn says(&self, text: &str) -> bool {
        self.text().contains(text)
    }

    /// The lines that should not be there: warnings, errors and panics that contain none of `expected`.
    pub fn unexpected(&self, expected: &[String]) -> Vec<String> {
        let is_bad = |line: &&str| {
            let level = line.split_whitespace().nth(1);
            matches!(level, Some("WARN" | "ERROR")) || line.contains("panicked at")
        };
        let is_unexpected = |line: &&str| !expected.iter().any(|text| line.contains(text.as_str()));
        self.text()
            .lines()
            .filter(is_bad)
            .filter(is_unexpected)
            .map(str::to_owned)
            .collect()
    }

    /// The end of it, for messages.
    pub fn tail(&self) -> String {
        let text = self.text();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}
