//! `pailfs ls`: keys, page by page as they come.
//!
//! PREFIX is what S3 calls a prefix: `s3://b/pho` lists `photos/` and `phone.txt`. Without `--recursive` keys are cut off
//! behind the next `/`, and what lies behind is one directory, whose name ends in `/`.

use super::args::LsArgs;
use super::output::{self, Array, Output, Stop};
use super::{block_on, connect_plainly};
use crate::base::object::ObjectId;
use crate::cli::failure::Failure;
use crate::s3::types::{ListPage, ListRequest, ListedObject};
use crate::s3::{Addresses, Client, LinkMethod};
use serde::Serialize;

/// S3 returns no more in one page.
const PAGE_ENTRIES: u64 = 1000;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    name: String,
    size: u64,
    /// Empty for directories: they are not objects.
    last_modified: String,
    signed_url: String,
    url: String,
}

/// # Errors
/// `NotFound` for a bucket that does not exist. A prefix without keys is no failure.
pub fn run(args: &LsArgs) -> Result<(), Failure> {
    block_on(async { output::ended(list(args).await) })
}

async fn list(args: &LsArgs) -> Result<(), Stop> {
    let client = connect_plainly(&args.common).await?;
    let mut output = Output::stdout();
    let mut array = None;
    let mut request = ListRequest {
        bucket: args.location.bucket.as_str().into(),
        prefix: args.location.key.clone(),
        by_directory: !args.recursive,
        start_after: None,
        continuation: None,
        max_keys: 0,
    };
    let mut left = args.limit.unwrap_or(u64::MAX);
    let mut addresses = None;
    while left > 0 {
        request.max_keys = left.min(PAGE_ENTRIES) as u32;
        let mut page = client.list(&request).await?;
        request.continuation = page.continuation.take();
        if args.common.json && array.is_none() {
            array = Some(Array::begin(&mut output)?);
            // After the first page: now it is known which region the bucket is in.
            addresses = Some(client.addresses(&args.location.bucket).await?);
        }
        for listed in in_order(page)
            .into_iter()
            .take(usize::try_from(left).unwrap_or(usize::MAX))
        {
            left -= 1;
            let signed_url = signed_url(args, &client, &listed).await?;
            match (&mut array, &addresses) {
                (Some(array), Some(addresses)) => {
                    array.element(&mut output, &entry(listed, signed_url, addresses))?;
                }
                _ => print_line(args, &mut output, &listed, &signed_url)?,
            }
        }
        // Whoever reads along sees each page when it is there.
        output.flush()?;
        if request.continuation.is_none() {
            break;
        }
    }
    if let Some(array) = array {
        array.end(&mut output)?;
    }
    output.flush()
}

/// One line: an object, or a directory.
enum Listed {
    Object(ListedObject),
    Directory(String),
}

impl Listed {
    fn name(&self) -> &str {
        match self {
            Self::Object(object) => &object.key,
            Self::Directory(prefix) => prefix,
        }
    }
}

/// What is in the page, by name.
fn in_order(page: ListPage) -> Vec<Listed> {
    let objects = page.objects.into_iter().map(Listed::Object);
    let directories = page.prefixes.into_iter().map(Listed::Directory);
    let mut all: Vec<_> = objects.chain(directories).collect();
    all.sort_by(|a, b| a.name().cmp(b.name()));
    all
}

async fn signed_url(args: &LsArgs, client: &Client, listed: &Listed) -> Result<String, Failure> {
    match listed {
        Listed::Object(object) if args.signed_url => {
            let id = ObjectId::new(args.location.bucket.as_str(), object.key.as_str());
            Ok(client.signed_link(LinkMethod::Get, &id, args.expires).await?)
        }
        _ => Ok(String::new()),
    }
}

fn entry(listed: Listed, signed_url: String, addresses: &Addresses) -> Entry {
    let url = addresses.of(listed.name());
    match listed {
        Listed::Object(object) => Entry {
            name: object.key,
            size: object.size_bytes,
            last_modified: output::rfc3339(object.last_modified),
            signed_url,
            url,
        },
        Listed::Directory(name) => Entry {
            name,
            size: 0,
            last_modified: String::new(),
            signed_url,
            url,
        },
    }
}

fn print_line(args: &LsArgs, output: &mut Output, listed: &Listed, signed_url: &str) -> Result<(), Stop> {
    let mut line = if args.long {
        let (size, time) = match listed {
            Listed::Object(object) => (
                object.size_bytes.to_string(),
                output::rfc3339(object.last_modified),
            ),
            Listed::Directory(_) => ("-".to_owned(), "-".to_owned()),
        };
        format!("{size:>15}  {time:24}  ")
    } else {
        String::new()
    };
    line.push_str(&output.name(listed.name()));
    if !signed_url.is_empty() {
        line.push('\t');
        line.push_str(signed_url);
    }
    output.line(&line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::object::ETag;
    use std::time::UNIX_EPOCH;

    #[test]
    fn objects_and_directories_are_merged_by_name() {
        let object = |key: &str| ListedObject {
            key: key.to_owned(),
            size_bytes: 0,
            etag: ETag::new("e"),
            last_modified: UNIX_EPOCH,
            storage_class: None,
            checksum_algorithm: None,
        };
        let page = ListPage {
            objects: vec![object("a"), object("a0"), object("z")],
            prefixes: vec!["a/".to_owned(), "b/".to_owned()],
            continuation: None,
        };
        let names: Vec<String> = in_order(page)
            .iter()
            .map(|listed| listed.name().to_owned())
            .collect();
        assert_eq!(names, ["a", "a/", "a0", "b/", "z"]);
    }
}
