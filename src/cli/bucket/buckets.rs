//! `pailfs buckets`: the buckets of the account, one a line.

use super::args::BucketsArgs;
use super::output::{self, Array, Output, Stop};
use super::{block_on, connect_plainly};
use crate::cli::failure::Failure;
use crate::s3::types::BucketEntry;
use serde::Serialize;

#[derive(Serialize)]
struct Entry<'a> {
    name: &'a str,
}

/// # Errors
/// Denied when the store does not let these credentials list buckets.
pub fn run(args: &BucketsArgs) -> Result<(), Failure> {
    let buckets = block_on(async { Ok(connect_plainly(&args.common).await?.list_buckets().await?) })?;
    output::ended(print(args, &buckets))
}

fn print(args: &BucketsArgs, buckets: &[BucketEntry]) -> Result<(), Stop> {
    let mut output = Output::stdout();
    if args.common.json {
        let mut array = Array::begin(&mut output)?;
        for bucket in buckets {
            array.element(&mut output, &Entry { name: &bucket.name })?;
        }
        array.end(&mut output)?;
    }
    for bucket in buckets.iter().filter(|_| !args.common.json) {
        output.line(&line(bucket, args.long))?;
    }
    output.flush()
}

fn line(bucket: &BucketEntry, long: bool) -> String {
    match bucket.created {
        _ if !long => bucket.name.clone(),
        Some(created) => format!("{}  {}", output::rfc3339(created), bucket.name),
        None => format!("{:24}  {}", "-", bucket.name),
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
        assert_eq!(line(&known, true), "2023-11-14T22:13:20.000Z  photos");
        assert_eq!(line(&known, false), "photos");
        let unknown = BucketEntry {
            name: "photos".into(),
            created: None,
        };
        assert_eq!(
            line(&unknown, true).find("photos"),
            line(&known, true).find("photos")
        );
    }
}
