//! Extended attributes: those of users, which the object carries as s3fs writes them, and those that this program makes up
//! (`user.s3.*`).
//!
//! Difficulties, and what solves each:
//! 1. `ls -l`, `cp -a` and every write ask for attributes in other namespaces: those are answered without a request.
//! 2. Listings carry no metadata. What a file has is in memory after a look at it; an object of which only a listing is
//!    known, and which by that carries nothing, is asked only when somebody wants one by its name.
//! 3. S3 takes 2 KiB of metadata: more is refused at once, and not when it is too late to tell.
//! 4. The made-up ones must not be copied to other files: they are listed only when that was asked for.

use super::Fs;
use super::attr::known_headers;
use super::edits::Edit;
use crate::base::attributes::MetadataFormat;
use crate::base::attributes::xattrs::{self, Xattrs};
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::object::{ObjectHeaders, ObjectId, Version};
use crate::tree::node::{Ino, Node, Place};
use std::sync::Arc;

const USER: &str = "user.";
/// Names of what this program makes up.
const VIRTUAL: &str = "user.s3.";
/// The largest value that could ever fit, as base64, into what S3 takes.
const MAX_VALUE_BYTES: usize = 1_200;

const BUCKET_AND_KEY: [&str; 2] = ["user.s3.key", "user.s3.url"];
const OF_OBJECTS: [&str; 4] = [
    "user.s3.content-type",
    "user.s3.etag",
    "user.s3.storage-class",
    "user.s3.version-id",
];
const ERROR: &str = "user.s3.error";
const TAGS: &str = "user.s3.tags";
const CONTENT_TYPE: &str = "user.s3.content-type";
const REFRESH: &str = "user.s3.refresh";

/// How setxattr(2) treats what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetMode {
    Any,
    /// XATTR_CREATE.
    Create,
    /// XATTR_REPLACE.
    Replace,
}

/// What an inode carries.
struct Carried {
    /// `None` for a file that is not in the bucket yet.
    version: Option<Version>,
    headers: ObjectHeaders,
}

impl Fs {
    /// getxattr(2): the value.
    ///
    /// # Errors
    /// `NoAttribute`; `Unsupported` for ACLs; what S3 says.
    pub async fn xattr(&self, ino: Ino, name: &str) -> Result<Vec<u8>> {
        check_readable(name)?;
        let node = self.tree.node(ino)?;
        if name.starts_with(VIRTUAL) {
            return self.virtual_xattr(&node, name).await;
        }
        let headers = self.carried(&node).await?.headers;
        let value = Xattrs::read(&headers.metadata)
            .ok()
            .and_then(|xattrs| xattrs.get(name));
        value.ok_or_else(|| no_attribute(name))
    }

    /// listxattr(2): names, each with a NUL byte behind it.
    ///
    /// # Errors
    /// What S3 says.
    pub async fn xattr_names(&self, ino: Ino) -> Result<Vec<u8>> {
        let node = self.tree.node(ino)?;
        let mut names = Vec::new();
        let mut add = |name: &str| {
            names.extend_from_slice(name.as_bytes());
            names.push(0);
        };
        // Nothing that a listing shows needs to be asked for.
        let is_directory = matches!(node.place, Place::Directory(_));
        let headers = if node.attributes_known || is_directory || self.content(ino).is_some() {
            self.carried(&node).await?.headers
        } else {
            ObjectHeaders::default()
        };
        if let Ok(xattrs) = Xattrs::read(&headers.metadata) {
            xattrs
                .names()
                .filter(|name| name.starts_with(USER))
                .for_each(&mut add);
        }
        if self.settings.list_virtual_xattrs {
            match &node.place {
                Place::Object(_) => OF_OBJECTS
                    .iter()
                    .chain(&BUCKET_AND_KEY)
                    .for_each(|name| add(name)),
                Place::Directory(_) => BUCKET_AND_KEY.iter().for_each(|name| add(name)),
                Place::Buckets => {}
            }
            if self.edits.failure(ino).is_some() {
                add(ERROR);
            }
        }
        Ok(names)
    }

    /// setxattr(2).
    ///
    /// # Errors
    /// `Unsupported` outside of `user.`, `NotPermitted` for what cannot be set, `AttributeTooLarge` and `NoRoom` at S3's
    /// limit, `Exists` and `NoAttribute` as `mode` has it.
    pub async fn set_xattr(
        self: &Arc<Self>,
        ino: Ino,
        name: &str,
        value: &[u8],
        mode: SetMode,
    ) -> Result<()> {
        check_writable(name)?;
        self.writable()?;
        let node = self.tree.node(ino)?;
        if name.starts_with(VIRTUAL) {
            return self.set_virtual_xattr(&node, name, value).await;
        }
        self.change_xattr(&node, name, Some(value), mode).await
    }

    /// removexattr(2).
    ///
    /// # Errors
    /// As [`Fs::set_xattr`].
    pub async fn remove_xattr(self: &Arc<Self>, ino: Ino, name: &str) -> Result<()> {
        check_writable(name)?;
        self.writable()?;
        let node = self.tree.node(ino)?;
        if name == TAGS {
            return self.set_tags(&node, "").await;
        }
        if name.starts_with(VIRTUAL) {
            return Err(Error::new(
                ErrorKind::NotPermitted,
                format!("{name} cannot be removed"),
            ));
        }
        self.change_xattr(&node, name, None, SetMode::Replace).await
    }

    async fn change_xattr(
        self: &Arc<Self>,
        node: &Node,
        name: &str,
        value: Option<&[u8]>,
        mode: SetMode,
    ) -> Result<()> {
        if self.settings.metadata_format == MetadataFormat::None {
            let text = "xattrs cannot be kept with --metadata-format none";
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        if value.is_some_and(|value| value.len() > MAX_VALUE_BYTES) {
            let text = format!("{name} is larger than an object's metadata may be (2 KiB in all)");
            return Err(on(node, Error::new(ErrorKind::AttributeTooLarge, text)));
        }
        let mut headers = self.carried(node).await?.headers;
        let Ok(xattrs) = Xattrs::read(&headers.metadata) else {
            let text = "the object has metadata named xattr that another tool wrote in a form of its own";
            return Err(on(node, Error::new(ErrorKind::Unsupported, text)));
        };
        match (mode, xattrs.get(name).is_some()) {
            (SetMode::Create, true) => {
                return Err(Error::new(ErrorKind::Exists, format!("{name} exists already")));
            }
            (SetMode::Replace, false) => return Err(no_attribute(name)),
            _ => {}
        }
        let edit = Edit::of_xattr(name, value);
        edit.apply_to_headers(&mut headers);
        if value.is_some() && !xattrs::fits(&headers.metadata) {
            let text = format!("no room for {name}: an object's metadata has at most 2 KiB");
            return Err(on(node, Error::new(ErrorKind::NoRoom, text)));
        }
        match &node.place {
            Place::Object(_) => self.change_object(node, edit).await,
            Place::Directory(place) => {
                let format = self.settings.metadata_format;
                let attributes = |attributes: &mut _| edit.apply(attributes, node.kind);
                let headers = |headers: &mut ObjectHeaders| {
                    edit.apply_to_headers(headers);
                    true
                };
                self.tree
                    .change_directory(node, place, format, attributes, headers)
                    .await
            }
            Place::Buckets => Err(Error::new(
                ErrorKind::NotPermitted,
                "the list of buckets has no attributes",
            )),
        }
    }

    /// What the file carries: as its content has it while it is open, else as the bucket does, with what waits for it.
    async fn carried(&self, node: &Node) -> Result<Carried> {
        let mut carried = match self.content(node.ino) {
            Some(open) => Carried {
                version: open.file.base_version(),
                headers: open.file.carried(),
            },
            None => self.carried_in_bucket(node).await?,
        };
        self.edits.overlay_headers(node.ino, &mut carried.headers);
        Ok(carried)
    }

    async fn carried_in_bucket(&self, node: &Node) -> Result<Carried> {
        if let Place::Directory(_) = &node.place {
            let node = self.tree.with_marker(node.clone()).await?;
            return Ok(Carried {
                version: node.version,
                headers: node.headers.as_deref().cloned().unwrap_or_default(),
            });
        }
        if let Some((version, headers)) = known_headers(node) {
            return Ok(Carried {
                version: Some(version),
                headers,
            });
        }
        if node.object().is_none() {
            return Ok(Carried {
                version: None,
                headers: ObjectHeaders::default(),
            });
        }
        let info = self.tree.look(node).await?;
        Ok(Carried {
            version: Some(info.version),
            headers: info.headers,
        })
    }

    async fn virtual_xattr(&self, node: &Node, name: &str) -> Result<Vec<u8>> {
        let id = match &node.place {
            Place::Object(id) => id.clone(),
            Place::Directory(place) => crate::tree::Tree::marker_id(place),
            Place::Buckets => return Err(no_attribute(name)),
        };
        let text = match name {
            "user.s3.key" => Some(id.key.to_string()),
            "user.s3.url" => Some(format!("s3://{}/{}", id.bucket, id.key)),
            ERROR => self.edits.failure(node.ino).map(|error| as_json(&error)),
            TAGS if node.object().is_some() => Some(self.tags(&id).await?),
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

    async fn set_virtual_xattr(self: &Arc<Self>, node: &Node, name: &str, value: &[u8]) -> Result<()> {
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

    async fn set_tags(&self, node: &Node, json: &str) -> Result<()> {
        let Some(id) = node.object().filter(|_| !node.local) else {
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

    fn content(&self, ino: Ino) -> Option<Arc<super::open::OpenFile>> {
        self.files().get(&ino).cloned()
    }
}

fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text)
        .decode_utf8_lossy()
        .into_owned()
}

/// Other namespaces have nothing here, and ACLs are not kept at all.
fn check_readable(name: &str) -> Result<()> {
    if name.starts_with(USER) {
        return Ok(());
    }
    if name.starts_with("security.") || name.starts_with("trusted.") {
        return Err(no_attribute(name));
    }
    Err(Error::new(ErrorKind::Unsupported, format!("{name} is not kept")))
}

fn check_writable(name: &str) -> Result<()> {
    if name.starts_with(USER) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Unsupported,
        format!("{name} cannot be kept: only user.*"),
    ))
}

fn no_attribute(name: &str) -> Error {
    Error::new(ErrorKind::NoAttribute, format!("there is no {name}"))
}

fn on(node: &Node, error: Error) -> Error {
    match node.object() {
        Some(id) => error.on(id),
        None => error,
    }
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
