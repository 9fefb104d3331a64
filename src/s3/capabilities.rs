//! What an endpoint does with the features that stores differ in, as values that can be printed, stored and
//! overridden.
//!
//! A condition that is accepted is not a condition that is honoured: some stores take it and overwrite all
//! the same. AWS is known; everything else is found out by `probe`, or noticed in passing, or told by an
//! option.

use crate::base::error::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Something that S3 does and not every store does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Feature {
    PutIfNoneMatch,
    PutIfMatch,
    CompleteIfNoneMatch,
    CompleteIfMatch,
    CopyIfNoneMatch,
    CopyIfMatch,
    DeleteIfMatch,
    /// A condition for each key of DeleteObjects.
    BatchDeleteIfMatch,
    /// CRC32C checksums of requests.
    Crc32c,
    /// Listings are in the byte order of keys.
    ListOrder,
    /// Listings show each object's checksum algorithm.
    ListedAlgorithms,
    /// User metadata of keys that end in `/` is kept.
    MarkerMetadata,
}

impl Feature {
    pub const ALL: [Self; 12] = [
        Self::PutIfNoneMatch,
        Self::PutIfMatch,
        Self::CompleteIfNoneMatch,
        Self::CompleteIfMatch,
        Self::CopyIfNoneMatch,
        Self::CopyIfMatch,
        Self::DeleteIfMatch,
        Self::BatchDeleteIfMatch,
        Self::Crc32c,
        Self::ListOrder,
        Self::ListedAlgorithms,
        Self::MarkerMetadata,
    ];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PutIfNoneMatch => "put-if-none-match",
            Self::PutIfMatch => "put-if-match",
            Self::CompleteIfNoneMatch => "complete-if-none-match",
            Self::CompleteIfMatch => "complete-if-match",
            Self::CopyIfNoneMatch => "copy-if-none-match",
            Self::CopyIfMatch => "copy-if-match",
            Self::DeleteIfMatch => "delete-if-match",
            Self::BatchDeleteIfMatch => "batch-delete-if-match",
            Self::Crc32c => "crc32c",
            Self::ListOrder => "list-order",
            Self::ListedAlgorithms => "listed-algorithms",
            Self::MarkerMetadata => "marker-metadata",
        }
    }
}

/// What a store does with a feature.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Support {
    /// It does what S3 does.
    Honoured,
    /// It takes the request and acts as if the feature were not in it.
    Ignored,
    /// It refuses requests with it.
    Refused,
    /// Not found out (yet): not to be relied upon.
    #[default]
    Unknown,
}

impl Support {
    const ALL: [Self; 4] = [Self::Honoured, Self::Ignored, Self::Refused, Self::Unknown];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Honoured => "honoured",
            Self::Ignored => "ignored",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
        }
    }
}

/// The features of one endpoint. Everything that was never set is `Unknown`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Capabilities(BTreeMap<Feature, Support>);

impl Capabilities {
    /// AWS S3, and stores that do all that S3 does.
    #[must_use]
    pub fn s3() -> Self {
        Self(
            Feature::ALL
                .into_iter()
                .map(|feature| (feature, Support::Honoured))
                .collect(),
        )
    }

    #[must_use]
    pub fn get(&self, feature: Feature) -> Support {
        self.0.get(&feature).copied().unwrap_or_default()
    }

    pub fn set(&mut self, feature: Feature, support: Support) {
        self.0.insert(feature, support);
    }

    /// Takes over all that `other` knows.
    pub fn merge(&mut self, other: &Self) {
        for (&feature, &support) in &other.0 {
            if support != Support::Unknown {
                self.set(feature, support);
            }
        }
    }
}

impl Capabilities {
    /// What is known here and is not in `other`.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        let new = |(feature, support): &(&Feature, &Support)| {
            **support != Support::Unknown && !other.0.contains_key(feature)
        };
        Self(
            self.0
                .iter()
                .filter(new)
                .map(|(feature, support)| (*feature, *support))
                .collect(),
        )
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// One `name=support` a line.
impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for feature in Feature::ALL {
            writeln!(f, "{}={}", feature.name(), self.get(feature).name())?;
        }
        Ok(())
    }
}

/// Reads `name=support` settings, separated by commas or line ends.
///
/// # Errors
/// `Invalid`, naming what is allowed.
impl FromStr for Capabilities {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut capabilities = Self::default();
        for setting in text
            .split([',', '\n'])
            .map(str::trim)
            .filter(|setting| !setting.is_empty())
        {
            let (feature, support) = parse_setting(setting)?;
            capabilities.set(feature, support);
        }
        Ok(capabilities)
    }
}

fn parse_setting(setting: &str) -> Result<(Feature, Support)> {
    let invalid = |what: &str, allowed: Vec<&str>| {
        let message = format!("capability {setting:?}: {what}; allowed: {}", allowed.join(", "));
        Error::new(ErrorKind::Invalid, message)
    };
    let names = || Feature::ALL.map(Feature::name).to_vec();
    let (name, value) = setting
        .split_once('=')
        .ok_or_else(|| invalid("no `=` in it", names()))?;
    let feature = Feature::ALL
        .into_iter()
        .find(|feature| feature.name() == name.trim());
    let support = Support::ALL
        .into_iter()
        .find(|support| support.name() == value.trim());
    Ok((
        feature.ok_or_else(|| invalid("unknown name", names()))?,
        support.ok_or_else(|| invalid("unknown value", Support::ALL.map(Support::name).to_vec()))?,
    ))
}

/// The capabilities of a running client: what is known so far, and whether more may be found out.
pub(super) struct KnownCapabilities {
    table: Mutex<Capabilities>,
    /// Features that a probe could not decide: not asked again.
    undecided: Mutex<BTreeSet<Feature>>,
    /// One probe at a time; whoever waits finds its result.
    pub probing: tokio::sync::Mutex<()>,
    pub may_probe: bool,
    /// Probe objects are written below this prefix.
    pub probe_prefix: String,
}

impl KnownCapabilities {
    pub(super) fn new(known: Capabilities, may_probe: bool, probe_prefix: String) -> Self {
        let undecided = Mutex::default();
        Self {
            table: Mutex::new(known),
            undecided,
            probing: tokio::sync::Mutex::default(),
            may_probe,
            probe_prefix,
        }
    }

    pub(super) fn snapshot(&self) -> Capabilities {
        self.table().clone()
    }

    pub(super) fn get(&self, feature: Feature) -> Support {
        self.table().get(feature)
    }

    /// Sets what was found out; true when it is news.
    pub(super) fn set(&self, feature: Feature, support: Support) -> bool {
        let mut table = self.table();
        let news = table.get(feature) != support;
        if news {
            table.set(feature, support);
        }
        news
    }

    /// Takes over what `other` knows of features that are unknown here.
    pub(super) fn fill(&self, other: &Capabilities) {
        let mut table = self.table();
        let mut filled = other.clone();
        filled.merge(&table);
        *table = filled;
    }

    pub(super) fn is_undecided(&self, feature: Feature) -> bool {
        self.undecided
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&feature)
    }

    pub(super) fn set_undecided(&self, feature: Feature) {
        self.undecided
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(feature);
    }

    fn table(&self) -> MutexGuard<'_, Capabilities> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_can_be_read_back() {
        let mut some = Capabilities::s3();
        some.set(Feature::DeleteIfMatch, Support::Ignored);
        some.set(Feature::Crc32c, Support::Unknown);
        let read: Capabilities = some.to_string().parse().expect("our own form");
        assert_eq!(read, some);
    }

    #[test]
    fn the_stored_form_has_the_same_names_as_the_printed_one() {
        let stored = serde_json::to_value(Capabilities::s3()).expect("plain data");
        for feature in Feature::ALL {
            assert_eq!(stored[feature.name()], "honoured", "{}", feature.name());
        }
        let read: Capabilities = serde_json::from_value(stored).expect("our own form");
        assert_eq!(read, Capabilities::s3());
    }

    #[test]
    fn a_wrong_setting_is_told_with_what_is_allowed() {
        for (text, part) in [
            ("put-if-match", "no `=`"),
            ("x=ignored", "list-order"),
            ("crc32c=no", "refused"),
        ] {
            let error = text.parse::<Capabilities>().expect_err("not a setting");
            assert!(error.message().contains(part), "{error}");
        }
    }

    #[test]
    fn merging_keeps_what_the_other_does_not_know() {
        let mut known: Capabilities = "put-if-match=honoured,crc32c=refused".parse().expect("settings");
        known.merge(&"put-if-match=ignored,crc32c=unknown".parse().expect("settings"));
        assert_eq!(known.get(Feature::PutIfMatch), Support::Ignored);
        assert_eq!(known.get(Feature::Crc32c), Support::Refused);
    }
}
