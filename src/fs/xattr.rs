//! Extended attributes: those of users, which the object carries as s3fs writes them, and those that this program makes up
//! (`user.s3.*`).
//!
//! Difficulties, and what solves each:
//! 1. `ls -l`, `cp -a` and every write ask for attributes in other namespaces: those are answered without a request.
//! 2. Listings carry no metadata. What a file has is in memory after a look at it; an object of which only a listing is
//!    known, and which by that carries nothing, is asked only when somebody wants one by its name.
//! 3. S3 takes 2 KiB of metadata: more is refused at once, and not when it is too late to tell.
//! 4. The made-up ones must not be copied to other files: they are listed only when that was asked for
//!    (`virtual_xattrs`).

use super::Fs;
use super::attr::known_headers;
use super::edits::Edit;
use super::virtual_xattrs::TAGS;
use crate::base::attributes::MetadataFormat;
use crate::base::attributes::xattrs::{self, Xattrs};
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::object::{ObjectHeaders, Version};
use crate::tree::node::{Ino, Node, Place};
use std::sync::Arc;

const USER: &str = "user.";
/// Names of what this program makes up.
pub(super) const VIRTUAL: &str = "user.s3.";
/// The largest value that could ever fit, as base64, into what S3 takes.
const MAX_VALUE_BYTES: usize = 1_200;

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
pub(super) struct Carried {
    /// `None` for a file that is not in the bucket yet.
    pub version: Option<Version>,
    pub headers: ObjectHeaders,
}

impl Fs {
    /// getxattr(2): the value.
    ///
    /// # Errors
    /// `NoAttribute`; `Unsupported` for ACLs; what S3 says.
    pub async fn xattr(&self, ino: Ino, name: &str) -> Result<Vec<u8>> {
        check_readable(name)?;
        let node = self.tree.node(self.tree.shown_by(ino))?;
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
        let node = self.tree.node(self.tree.shown_by(ino))?;
        let mut names = Vec::new();
        let mut add = |name: &str| {
            names.extend_from_slice(name.as_bytes());
            names.push(0);
        };
        // Nothing that a listing shows needs to be asked for.
        let is_directory = matches!(node.place, Place::Directory(_));
        let may_carry = node.attributes_known || node.is_guess();
        let headers = if may_carry || is_directory || self.content(ino).is_some() {
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
            self.virtual_names(&node).into_iter().for_each(&mut add);
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
        self.changeable(ino)?;
        let node = self.tree.node(self.tree.shown_by(ino))?;
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
        self.changeable(ino)?;
        let node = self.tree.node(self.tree.shown_by(ino))?;
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
    pub(super) async fn carried(&self, node: &Node) -> Result<Carried> {
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

    pub(super) fn content(&self, ino: Ino) -> Option<Arc<super::contents::OpenFile>> {
        self.files().get(&ino).cloned()
    }
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

pub(super) fn no_attribute(name: &str) -> Error {
    Error::new(ErrorKind::NoAttribute, format!("there is no {name}"))
}

pub(super) fn on(node: &Node, error: Error) -> Error {
    match node.object() {
        Some(id) => error.on(id),
        None => error,
    }
}
