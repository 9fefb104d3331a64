//! The total, reversible mapping between keys and file names.
//!
//! A directory is a prefix (empty or ending in `/`); what stands behind the prefix in a key, up to and
//! including the next `/`, is the *suffix* that an entry of the directory stands for. A component is *plain* when it
//! can be a file name as it is: 1 to 255 bytes, no NUL, not `.` or `..`, and not beginning with `~%`.
//!
//! | name in the directory `P` | stands for | exists when |
//! |---|---|---|
//! | `c` (plain) | directory `Pc/` | a key begins with `Pc/` |
//! | `c` (plain) | object `Pc` | the object does, and no key begins with `Pc/` |
//! | `~%` + escaped `c` (plain) | object `Pc` | the object does, and some key begins with `Pc/` |
//! | `~%` + escaped `c` (not plain) | object `Pc` | the object does |
//! | `~%` + escaped `c/` (`c` not plain; ends in `%2F`) | directory `Pc/` | a key begins with `Pc/` |
//! | `~%` | object `P` itself | it has data (without data it is the directory's marker, and no file) |
//! | `~%` + piece + `~` | directory of the names that go on after this piece | one of those names does |
//!
//! Difficulties, and what solves each:
//! 1. *Two things of one name.* A file and a directory of one plain component differ by the `~%` of the file; of a
//!    component that is not plain by the escaped `/` at the end of the directory. So `P/` (an empty component) is
//!    the directory `~%%2F`, and the object `P` with data is the file `~%`.
//! 2. *Two names of one thing.* An escaped name counts only in the one form that [`name_of_file`] and
//!    [`name_of_directory`] give; any other spelling is [`NameError::NoSuchName`].
//! 3. *A component that itself looks escaped* is not plain: `~%x` is the file `~%%7E%25x`.
//! 4. *Too long.* Where the escaped form does not fit into 255 bytes it is cut into pieces, each filled as far as whole
//!    characters go, each beginning with `~%` (so that no piece is `.` or `..`), all but the last ending in `~`.
//!    Escaped text contains no `~`, so the last piece never ends so. The pieces before the last are directories
//!    ("partial" ones), which exist by the names below them only: they have no key, no marker, and cannot be made or removed.
//! 5. *Listing a partial directory.* [`DirectoryKey::listing_prefix`] with delimiter `/` lists a superset of its
//!    entries; [`name_of_file`] and [`name_of_directory`] answer `None` for what is not among them.
//! 6. *Markers of other tools*: see [`legacy_folder_marker`].

mod escape;
#[cfg(test)]
mod tests;

use crate::base::error::ErrorKind;
use crate::base::limits::{MAX_KEY_BYTES, MAX_NAME_BYTES};
use escape::{MARK, MORE, Piece};
use std::borrow::Cow;
use std::ffi::OsStr;
use std::fmt;

/// Why a name stands for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameError {
    /// No key is ever called so in this directory.
    NoSuchName,
    NameNotUtf8,
    /// The name is over 255 bytes, or its key would be over 1,024.
    NameTooLong,
}

impl NameError {
    /// What somebody who looks for the name is told.
    #[must_use]
    pub fn on_lookup(self) -> ErrorKind {
        match self {
            Self::NoSuchName => ErrorKind::NotFound,
            Self::NameNotUtf8 => ErrorKind::NameNotUtf8,
            Self::NameTooLong => ErrorKind::NameTooLong,
        }
    }

    /// What somebody who wants to create something of the name is told.
    #[must_use]
    pub fn on_creation(self) -> ErrorKind {
        match self {
            Self::NoSuchName => ErrorKind::Invalid,
            Self::NameNotUtf8 => ErrorKind::NameNotUtf8,
            Self::NameTooLong => ErrorKind::NameTooLong,
        }
    }
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoSuchName => "no key has this name",
            Self::NameNotUtf8 => "the name is not UTF-8",
            Self::NameTooLong => "the name or its key is too long",
        })
    }
}

impl std::error::Error for NameError {}

/// A directory's position among the keys of one bucket.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DirectoryKey {
    prefix: String,
    /// The text, not escaped, of the pieces gathered so far of a component that is too long; empty as a rule.
    partial: String,
}

impl DirectoryKey {
    /// The directory of a mount's prefix; a missing `/` at its end is added.
    #[must_use]
    pub fn root(prefix: &str) -> Self {
        let slash = if prefix.is_empty() || prefix.ends_with('/') {
            ""
        } else {
            "/"
        };
        Self {
            prefix: format!("{prefix}{slash}"),
            partial: String::new(),
        }
    }

    /// What all keys of this directory begin with: empty or ending in `/`.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// True for a directory that exists only because a component is too long for one name: it has no marker, nothing
    /// can be created in its parent to make it, and only escaped names are in it.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        !self.partial.is_empty()
    }

    /// The prefix of the listing (delimiter `/`) that shows all entries, and of a partial directory also others.
    #[must_use]
    pub fn listing_prefix(&self) -> Cow<'_, str> {
        if self.partial.is_empty() {
            Cow::Borrowed(&self.prefix)
        } else {
            Cow::Owned(format!("{}{}", self.prefix, self.partial))
        }
    }

    /// The key of this directory's marker; `None` for a partial directory and for the root of a bucket.
    #[must_use]
    pub fn marker_key(&self) -> Option<&str> {
        (!self.is_partial() && !self.prefix.is_empty()).then_some(self.prefix.as_str())
    }

    /// This directory, at or below `from`, as it is called once `from` has become `to`.
    #[must_use]
    pub fn rebased(&self, from: &Self, to: &Self) -> Self {
        let rest = self.prefix.strip_prefix(from.prefix.as_str()).unwrap_or_default();
        Self {
            prefix: format!("{}{rest}", to.prefix),
            partial: self.partial.clone(),
        }
    }

    fn of_suffix(&self, suffix: &str) -> Self {
        Self {
            prefix: format!("{}{suffix}", self.prefix),
            partial: String::new(),
        }
    }
}

/// When the object of a [`FileCandidate`] is called by the resolved name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileRule {
    /// While no directory of the same component exists (no key begins with the object's key and `/`).
    UnlessDirectory,
    /// While such a directory exists.
    BesideDirectory,
    /// Whenever the object exists.
    Always,
    /// While it has data: it is the directory's own marker.
    MarkerWithData,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileCandidate {
    pub key: String,
    pub rule: FileRule,
}

/// What a name may stand for: at least one of the two is there. Where both are, the directory goes first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    pub file: Option<FileCandidate>,
    pub directory: Option<DirectoryKey>,
}

/// What `name` in `directory` may stand for.
///
/// # Errors
/// [`NameError`]: the name can stand for nothing, whatever is in the bucket. `.`, `..`, the empty name and names with
/// `/` or NUL are such names too.
pub fn resolve(directory: &DirectoryKey, name: &OsStr) -> Result<Resolved, NameError> {
    if name.len() > MAX_NAME_BYTES {
        return Err(NameError::NameTooLong);
    }
    let name = name.to_str().ok_or(NameError::NameNotUtf8)?;
    if let Some(escaped) = name.strip_prefix(MARK) {
        resolve_escaped(directory, escaped)
    } else if directory.is_partial() || !is_plain(name) {
        Err(NameError::NoSuchName)
    } else {
        resolve_plain(directory, name)
    }
}

fn resolve_plain(directory: &DirectoryKey, name: &str) -> Result<Resolved, NameError> {
    let key_bytes = directory.prefix.len() + name.len();
    if key_bytes > MAX_KEY_BYTES {
        return Err(NameError::NameTooLong);
    }
    let mut key = String::with_capacity(key_bytes);
    key.push_str(&directory.prefix);
    key.push_str(name);
    let below = (key_bytes < MAX_KEY_BYTES).then(|| {
        let mut prefix = String::with_capacity(key_bytes + 1);
        prefix.push_str(&key);
        prefix.push('/');
        DirectoryKey {
            prefix,
            partial: String::new(),
        }
    });
    Ok(Resolved {
        file: Some(FileCandidate {
            key,
            rule: FileRule::UnlessDirectory,
        }),
        directory: below,
    })
}

fn resolve_escaped(directory: &DirectoryKey, escaped: &str) -> Result<Resolved, NameError> {
    if let Some(part) = escaped.strip_suffix(MORE) {
        return resolve_partial(directory, part);
    }
    let text = escape::unescape(escaped).ok_or(NameError::NoSuchName)?;
    let suffix = format!("{}{text}", directory.partial);
    if !matches!(
        escape::piece_at(&suffix, directory.partial.len()),
        Some(Piece::Last(_))
    ) {
        return Err(NameError::NoSuchName);
    }
    let component = suffix.strip_suffix('/');
    let rule = match component {
        _ if suffix.is_empty() => FileRule::MarkerWithData,
        Some(component) if component.contains('/') || is_plain(component) => {
            return Err(NameError::NoSuchName);
        }
        None if suffix.contains('/') => return Err(NameError::NoSuchName),
        None if is_plain(&suffix) => FileRule::BesideDirectory,
        _ => FileRule::Always,
    };
    let key = format!("{}{suffix}", directory.prefix);
    if key.is_empty() {
        return Err(NameError::NoSuchName);
    }
    if key.len() > MAX_KEY_BYTES {
        return Err(NameError::NameTooLong);
    }
    Ok(if component.is_some() {
        Resolved {
            file: None,
            directory: Some(DirectoryKey {
                prefix: key,
                partial: String::new(),
            }),
        }
    } else {
        Resolved {
            file: Some(FileCandidate { key, rule }),
            directory: None,
        }
    })
}

fn resolve_partial(directory: &DirectoryKey, part: &str) -> Result<Resolved, NameError> {
    let text = escape::unescape(part).ok_or(NameError::NoSuchName)?;
    // A `/` ends the component, so that it can only be in the last piece.
    if text.contains('/') || !escape::may_be_partial(&directory.partial, &text) {
        return Err(NameError::NoSuchName);
    }
    let partial = format!("{}{text}", directory.partial);
    if directory.prefix.len() + partial.len() >= MAX_KEY_BYTES {
        return Err(NameError::NameTooLong);
    }
    Ok(Resolved {
        file: None,
        directory: Some(DirectoryKey {
            prefix: directory.prefix.clone(),
            partial,
        }),
    })
}

/// The entry of a directory that leads to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named<'a> {
    /// The entry is the file or directory itself.
    Here(Cow<'a, str>),
    /// The name is too long: the entry is this partial directory, and the way goes on in it.
    Within { name: String, directory: DirectoryKey },
}

/// How the object `key` is called in `directory`. `beside_directory` says whether some key begins with `key` and `/`.
/// `None`: it is not in this directory (but below it, elsewhere, or not among the names of a partial directory).
///
/// For the directory's own marker this is the name of the file that it is if it has data.
#[must_use]
pub fn name_of_file<'a>(directory: &DirectoryKey, key: &'a str, beside_directory: bool) -> Option<Named<'a>> {
    let component = key.strip_prefix(directory.prefix.as_str())?;
    if !beside_directory && is_plain(component) {
        return (!directory.is_partial()).then_some(Named::Here(Cow::Borrowed(component)));
    }
    if key.is_empty() || component.contains('/') {
        return None;
    }
    escaped_name(directory, component)
}

/// How the directory of `common_prefix` (ending in `/`) is called in `directory`. `None`: it is not in it.
#[must_use]
pub fn name_of_directory<'a>(directory: &DirectoryKey, common_prefix: &'a str) -> Option<Named<'a>> {
    let suffix = common_prefix.strip_prefix(directory.prefix.as_str())?;
    let component = suffix.strip_suffix('/')?;
    if is_plain(component) {
        return (!directory.is_partial()).then_some(Named::Here(Cow::Borrowed(component)));
    }
    if component.contains('/') {
        return None;
    }
    escaped_name(directory, suffix)
}

fn escaped_name(directory: &DirectoryKey, suffix: &str) -> Option<Named<'static>> {
    if !suffix.starts_with(directory.partial.as_str()) {
        return None;
    }
    let gathered_bytes = directory.partial.len();
    Some(match escape::piece_at(suffix, gathered_bytes)? {
        Piece::Last(text) => Named::Here(Cow::Owned(escape::last_name(text))),
        Piece::Partial(text) => Named::Within {
            name: escape::partial_name(text),
            directory: DirectoryKey {
                prefix: directory.prefix.clone(),
                partial: suffix[..gathered_bytes + text.len()].to_owned(),
            },
        },
    })
}

/// All names from `root` down to the directory of `prefix`; `None` when it is not below `root`.
#[must_use]
pub fn path_of_directory(root: &DirectoryKey, prefix: &str) -> Option<Vec<String>> {
    let mut path = Vec::new();
    let directory = descend(root, prefix, &mut path)?;
    (directory.prefix == prefix).then_some(path)
}

/// All names from `root` down to the object `key` as a file; `None` when it is not below `root`.
/// `beside_directory` says whether some key begins with `key` and `/`.
#[must_use]
pub fn path_of_file(root: &DirectoryKey, key: &str, beside_directory: bool) -> Option<Vec<String>> {
    let mut path = Vec::new();
    let mut directory = descend(root, key, &mut path)?;
    loop {
        match name_of_file(&directory, key, beside_directory)? {
            Named::Here(name) => {
                path.push(name.into_owned());
                return Some(path);
            }
            Named::Within {
                name,
                directory: next,
            } => {
                path.push(name);
                directory = next;
            }
        }
    }
}

/// Goes down from `root` through all directories that `key` names, appends their names, and gives the last.
fn descend(root: &DirectoryKey, key: &str, path: &mut Vec<String>) -> Option<DirectoryKey> {
    let mut directory = root.clone();
    while let Some(slash) = key.strip_prefix(directory.prefix.as_str())?.find('/') {
        let suffix_end = directory.prefix.len() + slash + 1;
        match name_of_directory(&directory, &key[..suffix_end])? {
            Named::Here(name) => {
                path.push(name.into_owned());
                directory = directory.of_suffix(&key[directory.prefix.len()..suffix_end]);
            }
            Named::Within {
                name,
                directory: next,
            } => {
                path.push(name);
                directory = next;
            }
        }
    }
    Some(directory)
}

/// The directory prefix (ending in `/`) that an object called `dir_$folder$` stands for, as old Hadoop and EMR wrote them
/// (without data). Such objects are not listed; an object `dir` of the same name goes before the directory.
#[must_use]
pub fn legacy_folder_marker(key: &str) -> Option<String> {
    let stem = key.strip_suffix(LEGACY_FOLDER_SUFFIX)?;
    (!stem.is_empty() && !stem.ends_with('/')).then(|| format!("{stem}/"))
}

/// What [`legacy_folder_marker`] looks for at a key's end.
pub const LEGACY_FOLDER_SUFFIX: &str = "_$folder$";

fn is_plain(component: &str) -> bool {
    !matches!(component, "" | "." | "..")
        && component.len() <= MAX_NAME_BYTES
        && !component.starts_with(MARK)
        && !component.bytes().any(|byte| byte == 0 || byte == b'/')
}
