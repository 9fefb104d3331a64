//! User xattrs as s3fs keeps them: one metadata entry, `xattr`, with percent-encoded JSON that maps names to base64.
//!
//! 1. Names that this program does not show (other namespaces) are kept as they are.
//! 2. What is not s3fs's JSON is somebody else's metadata under the same name: it is never overwritten ([`Foreign`]).
//! 3. S3 takes 2 KiB of user metadata in all ([`fits`]).

use super::{APPENDS, MODE_AND_OWNER, TIMES, TRANSACTION};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use std::collections::BTreeMap;

/// The metadata name.
pub const XATTR: &str = "xattr";
/// What S3 takes of names and values together (S3 User Guide, "Working with object metadata").
const MAX_METADATA_BYTES: usize = 2048;
/// Kept free for mode, owner, times and the identity of an upload, whatever of them is there now.
const RESERVED_BYTES: usize = 320;

/// As s3fs encodes URLs.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'.')
    .remove(b'-')
    .remove(b'_')
    .remove(b'~');

/// The metadata entry is not what s3fs writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foreign;

/// All xattrs of one object, by name, as base64.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Xattrs(BTreeMap<String, String>);

impl Xattrs {
    /// # Errors
    /// [`Foreign`] when the entry is not what s3fs writes.
    pub fn read(metadata: &BTreeMap<String, String>) -> Result<Self, Foreign> {
        match metadata.get(XATTR) {
            Some(text) => Self::parse(text),
            None => Ok(Self::default()),
        }
    }

    /// The entry's text.
    ///
    /// # Errors
    /// As [`Xattrs::read`].
    pub fn parse(text: &str) -> Result<Self, Foreign> {
        let json = percent_decode_str(text.trim())
            .decode_utf8()
            .map_err(|_| Foreign)?;
        serde_json::from_str(&json).map(Self).map_err(|_| Foreign)
    }

    #[must_use]
    pub fn get(&self, name: &str) -> Option<Vec<u8>> {
        STANDARD.decode(self.0.get(name)?).ok()
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub fn set(&mut self, name: &str, value: &[u8]) {
        self.0.insert(name.to_owned(), STANDARD.encode(value));
    }

    /// False when there was none of that name.
    pub fn remove(&mut self, name: &str) -> bool {
        self.0.remove(name).is_some()
    }

    pub fn write(&self, metadata: &mut BTreeMap<String, String>) {
        if self.0.is_empty() {
            metadata.remove(XATTR);
            return;
        }
        // Strings as keys and values are always JSON.
        let json = serde_json::to_string(&self.0).unwrap_or_default();
        metadata.insert(XATTR.to_owned(), utf8_percent_encode(&json, ENCODED).to_string());
    }
}

/// Whether S3 takes this metadata, with whatever attributes it may carry later.
#[must_use]
pub fn fits(metadata: &BTreeMap<String, String>) -> bool {
    room_bytes(metadata).is_some()
}

/// How many bytes S3 takes beside this metadata and whatever attributes it may carry later; what can be given up
/// ([`APPENDS`]) does not count. `None`: it is too much already.
#[must_use]
pub fn room_bytes(metadata: &BTreeMap<String, String>) -> Option<usize> {
    let is_ours = |name: &str| {
        MODE_AND_OWNER.contains(&name) || TIMES.contains(&name) || [TRANSACTION, APPENDS].contains(&name)
    };
    let others = metadata.iter().filter(|(name, _)| !is_ours(name));
    let bytes: usize = others.map(|(name, value)| name.len() + value.len()).sum();
    MAX_METADATA_BYTES.checked_sub(bytes + RESERVED_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_form_is_that_of_s3fs() {
        let mut xattrs = Xattrs::default();
        xattrs.set("user.name", b"value");
        let mut metadata = BTreeMap::new();
        xattrs.write(&mut metadata);
        assert_eq!(metadata[XATTR], "%7B%22user.name%22%3A%22dmFsdWU%3D%22%7D");
        assert_eq!(Xattrs::read(&metadata), Ok(xattrs.clone()));
        assert!(xattrs.remove("user.name") && !xattrs.remove("user.name"));
        xattrs.write(&mut metadata);
        assert_eq!(metadata, BTreeMap::new());
    }

    #[test]
    fn metadata_of_others_under_that_name_is_not_taken_for_xattrs() {
        for text in ["", "yes", "{\"a\":1}", "%7B%22a%22%3A", "%ff"] {
            assert_eq!(Xattrs::parse(text), Err(Foreign), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_value_comes_back(all in proptest::collection::btree_map("\\PC{1,20}", proptest::collection::vec(any::<u8>(), 0..40), 0..5)) {
            let mut xattrs = Xattrs::default();
            for (name, value) in &all {
                xattrs.set(name, value);
            }
            let mut metadata = BTreeMap::new();
            xattrs.write(&mut metadata);
            let read = Xattrs::read(&metadata).expect("our own form");
            for (name, value) in &all {
                prop_assert_eq!(read.get(name), Some(value.clone()));
            }
            prop_assert_eq!(read.names().count(), all.len());
        }
    }
}
