//! Sets up the log: one line per event, UTC time stamps, to a file or to standard error.
//!
//! Difficulties, and who solves each:
//! 1. The SDK and its HTTP stack log at `info` what only their authors want to see: [`DEFAULT_FILTER`] keeps them at
//!    `warn`, below whatever level the user asks for ([`filter_text`]).
//! 2. Log files hold keys, which can be private: they are made with mode 0600 ([`open_log_file`]).
//! 3. A line must not be torn when several threads log: the file is opened with `O_APPEND` and each event is one
//!    `write` (tracing-subscriber formats into a buffer of its own first).

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Mutex;
use tracing_subscriber::EnvFilter;

/// What crates other than ours may say when the user names only a level.
pub const DEFAULT_FILTER: &str = "aws_config=error,aws_sdk_s3=warn,aws_sdk_sso=warn,aws_sdk_ssooidc=warn,aws_sdk_sts=warn,\
    aws_smithy_runtime=warn,aws_smithy_runtime::client::http::connection_poisoning=off,aws_smithy_runtime_api=warn,\
    aws_smithy_http_client=warn,aws_sigv4=warn,aws_runtime=warn,\
    hyper=warn,hyper_util=warn,rustls=warn,h2=warn,fuser=error,s3s=warn";

/// Where log lines go.
#[derive(Debug)]
pub enum Destination {
    Stderr,
    File(File),
}

/// Opens (or makes) a log file for appending, readable by its owner only.
///
/// # Errors
/// What `open(2)` says, with the path.
pub fn open_log_file(path: &Path) -> io::Result<File> {
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("log file {}: {error}", path.display()));
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .map_err(named)
}

/// The directives that `level` stands for: a bare level goes below [`DEFAULT_FILTER`]; text with a target
/// (`pailfs=debug,hyper=trace`) is appended to it, and so wins, as later directives for one target do.
#[must_use]
pub fn filter_text(level: &str) -> String {
    format!("{DEFAULT_FILTER},{level}")
}

/// Checks what `--log-level` says, in tracing-subscriber's `EnvFilter` syntax.
///
/// # Errors
/// The text that says what is wrong.
pub fn check_level(level: &str) -> Result<(), String> {
    let known = |word: &str| {
        matches!(
            word.to_ascii_lowercase().as_str(),
            "off" | "error" | "warn" | "info" | "debug" | "trace"
        )
    };
    let mut words = level.split(',').map(str::trim);
    if words.any(|word| !word.contains(['=', '[']) && !known(word)) {
        return Err(format!(
            "log level {level:?}: expected off, error, warn, info, debug, trace, or target=level,…"
        ));
    }
    EnvFilter::builder()
        .parse(filter_text(level))
        .map(drop)
        .map_err(|error| format!("log level {level:?}: {error}"))
}

/// Starts logging for the rest of the process; a second call changes nothing.
///
/// # Errors
/// When `level` does not parse.
pub fn start(level: &str, destination: Destination) -> Result<(), String> {
    check_level(level)?;
    let filter = EnvFilter::builder()
        .parse(filter_text(level))
        .map_err(|error| format!("log level {level:?}: {error}"))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(true);
    // `try_init` fails only when a subscriber is there already, which then goes on being used.
    let _already_started = match destination {
        Destination::Stderr => builder
            .with_ansi(io::stderr().is_terminal())
            .with_writer(io::stderr)
            .try_init()
            .is_err(),
        Destination::File(file) => builder
            .with_ansi(false)
            .with_writer(Mutex::new(file))
            .try_init()
            .is_err(),
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn levels_and_directives_are_accepted_and_nonsense_is_named() {
        for good in ["info", "WARN", "off", "pailfs=debug", "warn,pailfs::s3=trace"] {
            assert_eq!(check_level(good), Ok(()), "{good}");
        }
        for bad in ["loud", "", "info,quiet", "pailfs=loud"] {
            let message = check_level(bad).expect_err(bad);
            assert!(message.contains(&format!("{bad:?}")), "{message}");
        }
    }

    #[test]
    fn the_users_directives_come_last_so_that_they_win() {
        assert!(filter_text("hyper=trace").ends_with(",hyper=trace"));
        assert!(filter_text("debug").starts_with("aws_config=error"));
    }

    #[test]
    fn a_log_file_is_private_and_appended_to() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("log");
        std::fs::write(&path, "old\n").expect("written");
        std::fs::remove_file(&path).expect("removed");
        io::Write::write_all(&mut open_log_file(&path).expect("made"), b"one\n").expect("written");
        io::Write::write_all(&mut open_log_file(&path).expect("opened"), b"two\n").expect("written");
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "one\ntwo\n");
        assert_eq!(
            std::fs::metadata(&path).expect("there").permissions().mode() & 0o777,
            0o600
        );
        let missing = directory.path().join("no/such");
        assert!(
            open_log_file(&missing)
                .expect_err("no directory")
                .to_string()
                .contains("no/such")
        );
    }
}
