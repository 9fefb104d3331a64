//! `pailfs versions`: all versions of the keys that begin with PREFIX, page by page as they come.

use super::args::VersionsArgs;
use super::output::{self, Array, Output, Stop};
use super::{block_on, connect_plainly};
use crate::cli::failure::{Exit, Failure};
use crate::s3::Client;
use crate::s3::versions::{ListedVersion, VersionsRequest};
use serde::Serialize;

/// S3 returns no more in one page.
const PAGE_ENTRIES: u64 = 1000;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    name: String,
    version_id: String,
    is_latest: bool,
    /// This version says that the key was deleted.
    is_deleted: bool,
    size: u64,
    last_modified: String,
    etag: String,
}

/// # Errors
/// `NotFound` for a bucket that does not exist; Failed for one without versioning.
pub fn run(args: &VersionsArgs) -> Result<(), Failure> {
    block_on(async { output::ended(list(args).await) })
}

/// # Errors
/// When the bucket has no versions. Who may not ask goes on: the listing tells.
pub(super) async fn check_versioning(client: &Client, bucket: &str) -> Result<(), Failure> {
    match client.has_versions(bucket).await {
        Ok(false) => Err(Failure::new(
            Exit::Failed,
            format!("s3://{bucket} has no versioning: it keeps nothing but what is there now"),
        )),
        Err(error) if error.kind() == crate::base::error::ErrorKind::NotFound => Err(error.into()),
        Ok(true) | Err(_) => Ok(()),
    }
}

async fn list(args: &VersionsArgs) -> Result<(), Stop> {
    let client = connect_plainly(&args.common).await?;
    check_versioning(&client, &args.location.bucket).await?;
    let mut output = Output::stdout();
    let mut request = VersionsRequest {
        bucket: args.location.bucket.as_str().into(),
        prefix: args.location.key.clone(),
        by_directory: false,
        from: None,
        max_entries: 0,
    };
    let mut array = args.common.json.then(|| Array::begin(&mut output)).transpose()?;
    let mut left = args.limit.unwrap_or(u64::MAX);
    while left > 0 {
        request.max_entries = left.min(PAGE_ENTRIES) as u32;
        let page = client.list_versions(&request).await?;
        for version in page.versions {
            left = left.saturating_sub(1);
            match &mut array {
                Some(array) => array.element(&mut output, &entry(version))?,
                None => output.line(&line(&output, &version))?,
            }
        }
        output.flush()?;
        request.from = page.next;
        if request.from.is_none() {
            break;
        }
    }
    if let Some(array) = array {
        array.end(&mut output)?;
    }
    output.flush()
}

fn entry(version: ListedVersion) -> Entry {
    Entry {
        name: version.key,
        version_id: version.version_id,
        is_latest: version.is_latest,
        is_deleted: version.is_delete_marker,
        size: version.size_bytes,
        last_modified: output::rfc3339(version.last_modified),
        etag: version.etag.to_string(),
    }
}

fn line(output: &Output, version: &ListedVersion) -> String {
    let size = if version.is_delete_marker {
        "deleted".to_owned()
    } else {
        version.size_bytes.to_string()
    };
    let latest = if version.is_latest { '*' } else { ' ' };
    format!(
        "{size:>15}  {}  {latest} {:32}  {}",
        output::rfc3339(version.last_modified),
        version.version_id,
        output.name(&version.key)
    )
}
