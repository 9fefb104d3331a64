//! Extended attributes that this program makes up: what an object is in the bucket (`user.s3.*`).
//!
//! 1. Some cost a request each time they are read or set; all others tell what was seen at the last look.
//! 2. They are no part of the file: listed only with `--list-virtual-xattrs`, so that nothing copies them.

use super::Fs;
use super::edits::Edit;
use super::xattr::{no_attribute, on};
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::object::ObjectId;
use crate::s3::{LinkMethod, Restore};
use crate::tree::node::{Node, Place};
use std::sync::Arc;

const BUCKET_AND_KEY: [&str; 2] = ["user.s3.key", "user.s3.url"];
/// Told without a request.
const OF_OBJECTS: [&str; 4] = [
    CONTENT_TYPE,
    "user.s3.etag",
    "user.s3.storage-class",
    "user.s3.version-id",
];
/// Told by a request, or a signature.
const ASKED: [&str; 3] = [CHECKSUM, PRESIGNED_URL, TAGS];
const ERROR: &str = "user.s3.error";
pub(super) const TAGS: &str = "user.s3.tags";
const CHECKSUM: &str = "user.s3.checksum";
const CONTENT_TYPE: &str = "user.s3.content-type";
const PRESIGNED_URL: &str = "user.s3.presigned-url";
const REFRESH: &str = "user.s3.refresh";
const RESTORE: &str = "user.s3.restore";

impl Fs {
    /// Those that the inode has.
    pub(super) fn virtual_names(&self, node: &Node) -> Vec<&'static str> {
        let mut names = match &node.place {
            Place::Object(_) => [&BUCKET_AND_KEY[..], &OF_OBJECTS].concat(),
            Place::Directory(_) => BUCKET_AND_KEY.to_vec(),
            Place::Buckets => Vec::new(),
        };
        if is_in_bucket(node) {
            names.extend(ASKED);
        }
        if self.edits.failure(node.ino).is_some() {
            names.push(ERROR);
        }
        names
    }

    pub(super) async fn virtual_xattr(&self, node: &Node, name: &str) -> Result<Vec<u8>> {
        let id = match &node.place {
            Place::Object(id) => id.clone(),
            Place::Directory(place) => crate::tree::Tree::marker_id(place),
            Place::Buckets => return Err(no_attribute(name)),
        };
        let text = match name {
            "user.s3.key" => Some(id.key.to_string()),
            "user.s3.url" => Some(format!("s3://{}/{}", id.bucket, id.key)),
            ERROR => self.edits.failure(node.ino).map(|error| as_json(&error)),
            TAGS if is_in_bucket(node) => Some(self.tags(&id).await?),
            CHECKSUM if is_in_bucket(node) => {
                let checksum = self.context.client.checksum(&id).await?;
                Some(checksum.unwrap_or_else(|| "none".to_owned()))
            }
            RESTORE if is_in_bucket(node) => {
                let archive = self.context.client.archive(&id).await?;
                archive.map(|archive| archive.to_string())
            }
            PRESIGNED_URL if is_in_bucket(node) => {
                let lifetime = self.settings.presigned_url_lifetime;
                Some(
                    self.context
                        .client
                        .signed_link(LinkMethod::Get, &id, lifetime)
                        .await?,
                )
            }
            _ if node.object().is_some() => self.of_object(node, name).await?,
            _ => None,
        };
        text.map(String::into_bytes).ok_or_else(|| no_attribute(name))
    }

    async fn of_object(&self, node: &Node, name: &str) -> Result<Option<String>> {
        if !OF_OBJECTS.contains(&name) {
            return Ok(None);
        }
        let carried = self.carried(node).await?;
        let version = carried.version;
        Ok(match name {
            "user.s3.etag" => version.map(|version| version.etag.to_string()),
            "user.s3.version-id" => version.and_then(|version| version.version_id.map(|id| id.to_string())),
            CONTENT_TYPE => carried.headers.content_type,
            // S3 names it only where it is another one.
            "user.s3.storage-class" => carried
                .headers
                .storage_class
                .or_else(|| version.map(|_| "STANDARD".to_owned())),
            _ => None,
        })
    }

    pub(super) async fn set_virtual_xattr(
        self: &Arc<Self>,
        node: &Node,
        name: &str,
        value: &[u8],
    ) -> Result<()> {
        let text = std::str::from_utf8(value)
            .map_err(|_| Error::new(ErrorKind::Invalid, format!("{name} must be UTF-8")))?;
        match (name, &node.place) {
            (CONTENT_TYPE, Place::Object(id)) => {
                if text.is_empty()
                    || text.len() > 255
                    || !text.bytes().all(|byte| (b' '..0x7f).contains(&byte))
                {
                    return Err(Error::new(ErrorKind::Invalid, "a content type is printable ASCII").on(id));
                }
                self.change_object(node, Edit::of_content_type(text.to_owned()))
                    .await
            }
            (TAGS, Place::Object(_)) => self.set_tags(node, text).await,
            (RESTORE, Place::Object(id)) => {
                let restore = Restore::parse(text).map_err(|error| error.on(id))?;
                self.context.client.restore(id, &restore).await
            }
            (REFRESH, Place::Directory(place)) => {
                self.tree.refresh_below(place, None);
                Ok(())
            }
            _ => Err(Error::new(
                ErrorKind::NotPermitted,
                format!("{name} cannot be set"),
            )),
        }
    }

    /// All tags, as a JSON object.
    async fn tags(&self, id: &ObjectId) -> Result<String> {
        let tags = self.context.client.get_tagging(id).await?.unwrap_or_default();
        let tags: std::collections::BTreeMap<String, String> = tags
            .split('&')
            .filter(|tag| !tag.is_empty())
            .map(|tag| {
                let (key, value) = tag.split_once('=').unwrap_or((tag, ""));
                (decoded(key), decoded(value))
            })
            .collect();
        // Strings as keys and values are always JSON.
        Ok(serde_json::to_string(&tags).unwrap_or_default())
    }

    pub(super) async fn set_tags(&self, node: &Node, json: &str) -> Result<()> {
        let Some(id) = node.object().filter(|_| is_in_bucket(node)) else {
            let text = "a file that is not in the bucket yet has no tags";
            return Err(on(node, Error::new(ErrorKind::NotPermitted, text)));
        };
        let tags = if json.trim().is_empty() {
            std::collections::BTreeMap::new()
        } else {
            serde_json::from_str(json).map_err(|error| {
                let text =
                    format!("tags are a JSON object of strings, such as {{\"colour\":\"blue\"}}: {error}");
                Error::new(ErrorKind::Invalid, text).on(id)
            })?
        };
        self.context.client.put_tagging(id, &tags).await?;
        // What is remembered of the object says nothing of these; an upload must take them along.
        self.tree.forget_headers(node.ino);
        if let Some(open) = self.content(node.ino) {
            open.file.edit_headers(|headers| {
                headers.tagging = None;
                headers.unread_tags = tags.len() as u32;
            });
        }
        Ok(())
    }
}

fn is_in_bucket(node: &Node) -> bool {
    node.object().is_some() && !node.local
}

fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text)
        .decode_utf8_lossy()
        .into_owned()
}

fn as_json(error: &Error) -> String {
    serde_json::json!({
        "message": error.message(),
        "errno": error.errno(),
        "bucket": error.bucket(),
        "key": error.key(),
        "s3_code": error.s3_code(),
        "http_status": error.http_status(),
        "request_id": error.request_id(),
        "attempts": error.attempts(),
    })
    .to_string()
}
