//! `s3://BUCKET[/KEY]` as commands take it. What follows the first `/` is the key, character by character: nothing in it
//! is decoded, so that every key can be given.

use crate::base::limits::MAX_KEY_BYTES;
use crate::base::object::ObjectId;
use crate::cli::failure::Failure;
use crate::cli::mount_config::check_bucket_name;
use std::fmt;

/// A bucket, and a key or the beginning of keys in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    pub bucket: String,
    /// Empty: none was given.
    pub key: String,
}

impl Location {
    /// # Errors
    /// The text that says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let Some(rest) = text.strip_prefix("s3://") else {
            return Err("expected s3://BUCKET/KEY".into());
        };
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        check_bucket_name(bucket)?;
        if key.len() > MAX_KEY_BYTES {
            return Err(format!(
                "the key has {} bytes; S3 allows {MAX_KEY_BYTES}",
                key.len()
            ));
        }
        Ok(Self {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
        })
    }

    /// # Errors
    /// Usage, when there is no key.
    pub fn object(&self) -> Result<ObjectId, Failure> {
        if self.key.is_empty() {
            return Err(Failure::usage(format!(
                "{self} is a bucket; expected s3://BUCKET/KEY"
            )));
        }
        Ok(ObjectId::new(self.bucket.as_str(), self.key.as_str()))
    }

    /// What follows the key's last `/`.
    #[must_use]
    pub fn file_name(&self) -> &str {
        self.key.rsplit('/').next().unwrap_or_default()
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.key.escape_debug())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_location_is_refused_with_a_reason() {
        for (text, part) in [
            ("bucket/key", "s3://BUCKET/KEY"),
            ("s3://", "name is missing"),
            ("s3:///key", "name is missing"),
            ("s3://a b/key", "' '"),
            ("https://bucket/key", "s3://BUCKET/KEY"),
        ] {
            let message = Location::parse(text).expect_err(text);
            assert!(message.contains(part), "{text}: {message}");
        }
        let long = format!("s3://bucket/{}", "k".repeat(1025));
        assert!(Location::parse(&long).expect_err("too long").contains("1025"));
        let bucket = Location::parse("s3://bucket/").expect("a bucket");
        assert!(bucket.object().is_err());
    }

    #[test]
    fn file_names_are_what_follows_the_last_slash() {
        for (key, name) in [("a/b.txt", "b.txt"), ("b", "b"), ("a/", ""), ("a//b?c", "b?c")] {
            let location = Location::parse(&format!("s3://bucket/{key}")).expect("parses");
            assert_eq!(location.file_name(), name);
        }
    }

    proptest! {
        #[test]
        fn every_key_is_taken_as_it_is(key in "(?s).{1,60}") {
            let location = Location::parse(&format!("s3://bucket/{key}")).expect("parses");
            prop_assert_eq!(location.bucket, "bucket");
            prop_assert_eq!(location.key, key);
        }
    }
}
