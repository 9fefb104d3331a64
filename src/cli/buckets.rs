//! `pailfs buckets`: the buckets of the account, one a line.

use crate::cli::args::BucketsArgs;
use crate::cli::connect;
use crate::cli::environment::Environment;
use crate::cli::failure::Failure;
use crate::cli::mount_config;
use crate::s3::types::BucketEntry;
use crate::telemetry::log::{self, Destination};
use std::io::Write;

/// # Errors
/// Denied when the store does not let these credentials list buckets.
pub fn run(args: &BucketsArgs) -> Result<(), Failure> {
    let environment = Environment::of_process()?;
    start_log(&args.log, &environment)?;
    let endpoint = mount_config::resolve_endpoint(&args.endpoint, &environment)?;
    let buckets = connect::block_on(async { Ok(connect::client(&endpoint).await?.list_buckets().await?) })?;
    let mut output = std::io::stdout().lock();
    let written = buckets
        .iter()
        .try_for_each(|bucket| writeln!(output, "{}", line(bucket)));
    match written {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::io(&error, "standard output"))
        }
        _ => Ok(()),
    }
}

/// Logs of commands in the foreground: warnings on standard error unless more is asked for.
///
/// # Errors
/// When the level does not parse, or the file cannot be opened.
pub fn start_log(args: &crate::cli::args::LogArgs, environment: &Environment) -> Result<(), Failure> {
    let destination = match &args.log_file {
        Some(path) => {
            let path = environment.absolute(path);
            Destination::File(log::open_log_file(&path).map_err(|error| Failure::io(&error, "log"))?)
        }
        None => Destination::Stderr,
    };
    log::start(args.log_level.as_deref().unwrap_or("warn"), destination).map_err(Failure::usage)
}

fn line(bucket: &BucketEntry) -> String {
    match bucket.created {
        Some(created) => format!("{}  {}", humantime::format_rfc3339_seconds(created), bucket.name),
        None => format!("{:20}  {}", "-", bucket.name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime};

    #[test]
    fn lines_align() {
        let created = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let known = BucketEntry {
            name: "photos".into(),
            created: Some(created),
        };
        assert_eq!(line(&known), "2023-11-14T22:13:20Z  photos");
        let unknown = BucketEntry {
            name: "photos".into(),
            created: None,
        };
        assert_eq!(line(&unknown).find("photos"), line(&known).find("photos"));
    }
}
