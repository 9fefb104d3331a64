//! Walks over ordered keys, page by page. Pure.
//!
//! 1. A page must not cost the keys it leaves out: the walk jumps over each common prefix instead of reading it.
//! 2. Pages must be complete and never repeat: an entry (key or common prefix) belongs to the page if it is
//!    greater than the point after which the page starts.
//! 3. Versions of one key may span pages: the marker is a key and a version.

use super::state::{Bucket, Key, Version};
use std::collections::BTreeMap;
use std::ops::Bound;

/// What to list.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    pub prefix: &'a str,
    /// Empty means none.
    pub delimiter: &'a str,
    /// Entries up to and with this one are left out; empty means none.
    pub after: &'a str,
    pub max_entries: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Entry<'a, T> {
    Key(&'a str, &'a T),
    CommonPrefix(&'a str),
}

impl<T> Entry<'_, T> {
    pub fn name(&self) -> &str {
        match self {
            Self::Key(name, _) | Self::CommonPrefix(name) => name,
        }
    }
}

/// Entries in byte order, without end; those for which `is_listed` is false are left out.
pub fn walk<'a, T>(
    keys: &'a BTreeMap<Key, T>,
    query: Query<'a>,
    is_listed: impl Fn(&T) -> bool + 'a,
) -> impl Iterator<Item = Entry<'a, T>> + 'a {
    let mut from: Bound<Vec<u8>> =
        if query.after.as_bytes() >= query.prefix.as_bytes() && !query.after.is_empty() {
            Bound::Excluded(query.after.into())
        } else {
            Bound::Included(query.prefix.into())
        };
    std::iter::from_fn(move || {
        loop {
            let start = from.as_ref().map(Vec::as_slice);
            let (key, value) = keys
                .range::<[u8], _>((start, Bound::Unbounded))
                .find(|(_, value)| is_listed(value))?;
            let rest = key.0.strip_prefix(query.prefix)?;
            let group = if query.delimiter.is_empty() {
                None
            } else {
                rest.find(query.delimiter)
            };
            let Some(position) = group else {
                from = Bound::Excluded(key.0.clone().into());
                return Some(Entry::Key(&key.0, value));
            };
            let common = &key.0[..query.prefix.len() + position + query.delimiter.len()];
            from = Bound::Included(after_all_with_prefix(common));
            if common.as_bytes() > query.after.as_bytes() {
                return Some(Entry::CommonPrefix(common));
            }
        }
    })
}

/// The least byte string greater than every one that starts with `prefix` (not empty).
fn after_all_with_prefix(prefix: &str) -> Vec<u8> {
    let mut bytes = prefix.as_bytes().to_vec();
    // UTF-8 has no byte 0xFF: the last byte can always be incremented.
    if let Some(last) = bytes.last_mut() {
        *last += 1;
    }
    bytes
}

/// One page of current objects.
pub struct Page<'a, T> {
    pub entries: Vec<Entry<'a, T>>,
    pub is_truncated: bool,
}

/// The first `max_entries` entries, and whether there are more.
pub fn page<'a, T>(mut entries: impl Iterator<Item = Entry<'a, T>>, max_entries: usize) -> Page<'a, T> {
    let page: Vec<_> = entries.by_ref().take(max_entries).collect();
    let is_truncated = max_entries > 0 && entries.next().is_some();
    Page {
        entries: page,
        is_truncated,
    }
}

pub fn current_objects<'a>(bucket: &'a Bucket, query: Query<'a>) -> Page<'a, Vec<Version>> {
    let is_current =
        |versions: &Vec<Version>| versions.last().is_some_and(|version| version.object.is_some());
    page(walk(&bucket.keys, query, is_current), query.max_entries)
}

/// An entry of a listing of versions.
#[derive(Debug)]
pub enum VersionEntry<'a> {
    Version {
        key: &'a str,
        version: &'a Version,
        is_latest: bool,
    },
    CommonPrefix(&'a str),
}

/// One page of versions, newest first within a key. With `after_version`, the page starts behind that version of
/// `query.after`.
pub fn versions<'a>(
    bucket: &'a Bucket,
    query: Query<'a>,
    after_version: Option<&'a str>,
) -> (Vec<VersionEntry<'a>>, bool) {
    let resumed = after_version.into_iter().flat_map(move |id| {
        let versions = bucket.keys.get_key_value(query.after.as_bytes());
        versions.into_iter().flat_map(move |(key, versions)| {
            newest_first(&key.0, versions)
                .skip_while(
                    move |entry| !matches!(entry, VersionEntry::Version { version, .. } if version.id == id),
                )
                .skip(1)
        })
    });
    let rest = walk(&bucket.keys, query, |_| true).flat_map(|entry| {
        let (key, versions, common) = match entry {
            Entry::Key(key, versions) => (key, versions.as_slice(), None),
            Entry::CommonPrefix(prefix) => ("", [].as_slice(), Some(VersionEntry::CommonPrefix(prefix))),
        };
        newest_first(key, versions).chain(common)
    });
    let mut all = resumed.chain(rest);
    let page: Vec<_> = all.by_ref().take(query.max_entries).collect();
    let is_truncated = query.max_entries > 0 && all.next().is_some();
    (page, is_truncated)
}

fn newest_first<'a>(key: &'a str, versions: &'a [Version]) -> impl Iterator<Item = VersionEntry<'a>> {
    versions
        .iter()
        .rev()
        .enumerate()
        .map(move |(age, version)| VersionEntry::Version {
            key,
            version,
            is_latest: age == 0,
        })
}

/// `encoding-type=url`: everything but letters, digits and `-_.*/` as `%XX`, a space as `+`.
pub fn url_encode(text: &str) -> String {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'*' | b'/' => {
                encoded.push(byte.into());
            }
            b' ' => encoded.push('+'),
            _ => encoded.extend([
                '%',
                HEX[usize::from(byte >> 4)].into(),
                HEX[usize::from(byte & 15)].into(),
            ]),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::Cell;

    fn keys(names: &[&str]) -> BTreeMap<Key, u8> {
        names.iter().map(|name| (Key((*name).to_owned()), 0)).collect()
    }

    fn names(page: &Page<'_, u8>) -> Vec<String> {
        page.entries.iter().map(|entry| entry.name().to_owned()).collect()
    }

    fn list(keys: &BTreeMap<Key, u8>, query: Query<'_>) -> (Vec<String>, bool) {
        let page = page(walk(keys, query, |_| true), query.max_entries);
        (names(&page), page.is_truncated)
    }

    const ALL: Query<'static> = Query {
        prefix: "",
        delimiter: "",
        after: "",
        max_entries: 1000,
    };

    #[test]
    fn keys_come_in_byte_order_and_prefixes_among_them() {
        let keys = keys(&["a/1", "a/2", "a-b", "a", "b", "c/x/1", "c/y", "c0"]);
        let delimited = Query {
            delimiter: "/",
            ..ALL
        };
        assert_eq!(list(&keys, delimited).0, ["a", "a-b", "a/", "b", "c/", "c0"]);
        assert_eq!(
            list(
                &keys,
                Query {
                    prefix: "c/",
                    ..delimited
                }
            )
            .0,
            ["c/x/", "c/y"]
        );
        assert_eq!(
            list(
                &keys,
                Query {
                    after: "a/",
                    ..delimited
                }
            )
            .0,
            ["b", "c/", "c0"]
        );
        assert_eq!(
            list(
                &keys,
                Query {
                    delimiter: "/x/",
                    prefix: "c",
                    ..ALL
                }
            )
            .0,
            ["c/x/", "c/y", "c0"]
        );
        assert_eq!(
            list(
                &keys,
                Query {
                    max_entries: 0,
                    ..ALL
                }
            ),
            (vec![], false)
        );
    }

    #[test]
    fn a_page_does_not_read_what_a_common_prefix_hides() {
        let many: Vec<String> = (0..10_000)
            .map(|n| format!("big/{n:05}"))
            .chain(["a".into(), "z".into()])
            .collect();
        let keys = keys(&many.iter().map(String::as_str).collect::<Vec<_>>());
        let looked_at = Cell::new(0);
        let query = Query {
            delimiter: "/",
            ..ALL
        };
        let count = |_: &u8| {
            looked_at.set(looked_at.get() + 1);
            true
        };
        assert_eq!(names(&page(walk(&keys, query, count), 1000)), ["a", "big/", "z"]);
        assert!(looked_at.get() <= 4, "{} keys looked at", looked_at.get());
    }

    #[test]
    fn the_encoding_leaves_slashes() {
        assert_eq!(url_encode("a b+c/ü\n%~"), "a+b%2Bc/%C3%BC%0A%25%7E");
    }

    proptest! {
        /// Pages of any size, joined, are the whole listing; and the whole listing is what a naive one says.
        #[test]
        fn pages_join_to_the_whole(
            names in proptest::collection::btree_set("[ab/\u{10FFFF}]{0,5}", 0..40),
            prefix in "[ab/]{0,2}",
            delimiter in prop_oneof![Just(""), Just("/"), Just("a/")],
            max_entries in 1usize..5,
        ) {
            let keys: BTreeMap<Key, u8> = names.iter().map(|name| (Key(name.clone()), 0)).collect();
            let mut naive: Vec<String> = names
                .iter()
                .filter_map(|name| {
                    let rest = name.strip_prefix(prefix.as_str())?;
                    let group = if delimiter.is_empty() { None } else { rest.find(delimiter) };
                    Some(group.map_or(name.clone(), |at| name[..prefix.len() + at + delimiter.len()].to_owned()))
                })
                .collect();
            naive.dedup();
            let mut joined: Vec<String> = Vec::new();
            loop {
                let after = joined.last().cloned().unwrap_or_default();
                let (page, more) = list(&keys, Query { prefix: &prefix, delimiter, after: &after, max_entries });
                prop_assert!(page.len() <= max_entries);
                // The empty key cannot be told from "no marker"; S3 has no empty keys.
                prop_assume!(page.first().is_none_or(|first| !first.is_empty()));
                joined.extend(page);
                if !more {
                    break;
                }
            }
            prop_assert_eq!(joined, naive);
        }
    }
}
