//! What a user wants requests to carry, beside what they are for.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use md5::Digest;
use std::fmt;

/// S3 takes keys for AES-256 only.
const CUSTOMER_KEY_BYTES: usize = 32;

/// The options of a mount or a command that travel with its requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestOptions {
    /// Agree to pay for requests to buckets whose owners do not.
    pub requester_pays: bool,
    /// Requests about a bucket of any other account fail.
    pub expected_bucket_owner: Option<String>,
    /// How all that is written is encrypted; `None`: as the object was before, or as the bucket says.
    pub encryption: Option<WriteEncryption>,
    /// Of all that is written; `None`: that of the object before, or the store's own.
    pub storage_class: Option<String>,
    /// The canned ACL of all that is written.
    pub acl: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteEncryption {
    /// By the store: `AES256`, `aws:kms` or `aws:kms:dsse`.
    Store {
        algorithm: String,
        kms_key_id: Option<String>,
    },
    /// With a key that the store does not keep (SSE-C): whoever reads needs it too.
    Customer(CustomerKey),
}

impl RequestOptions {
    /// The key that reads need too.
    #[must_use]
    pub fn customer_key(&self) -> Option<&CustomerKey> {
        match &self.encryption {
            Some(WriteEncryption::Customer(key)) => Some(key),
            _ => None,
        }
    }
}

/// A key of SSE-C. Its `Debug` output hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct CustomerKey {
    base64: String,
    md5_base64: String,
}

impl CustomerKey {
    /// From the contents of a file: the key's 32 bytes, or their base64 on a line.
    ///
    /// # Errors
    /// The text that says what is wrong, without the contents.
    pub fn from_file(contents: &[u8]) -> Result<Self, String> {
        if let Ok(key) = <[u8; CUSTOMER_KEY_BYTES]>::try_from(contents) {
            return Ok(Self::new(key));
        }
        let decoded = STANDARD.decode(contents.trim_ascii());
        match decoded.map(<[u8; CUSTOMER_KEY_BYTES]>::try_from) {
            Ok(Ok(key)) => Ok(Self::new(key)),
            Ok(Err(other)) => Err(format!(
                "expected a key of {CUSTOMER_KEY_BYTES} bytes; the base64 there is of {}",
                other.len()
            )),
            Err(_) => Err(format!(
                "expected a key of {CUSTOMER_KEY_BYTES} bytes, or their base64; there are {} bytes, which are neither",
                contents.len()
            )),
        }
    }

    fn new(key: [u8; CUSTOMER_KEY_BYTES]) -> Self {
        Self {
            base64: STANDARD.encode(key),
            md5_base64: STANDARD.encode(md5::Md5::digest(key)),
        }
    }

    /// As the header has it.
    #[must_use]
    pub fn base64(&self) -> &str {
        &self.base64
    }

    #[must_use]
    pub fn md5_base64(&self) -> &str {
        &self.md5_base64
    }
}

impl fmt::Debug for CustomerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CustomerKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_file_has_the_bytes_or_their_base64() {
        let raw = CustomerKey::from_file(&[7; 32]).expect("a key");
        let text = CustomerKey::from_file(b"BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\n").expect("a key");
        assert_eq!(raw, text);
        assert_eq!(raw.base64(), "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=");
        assert_eq!(raw.md5_base64(), STANDARD.encode(md5::Md5::digest([7; 32])));
        assert_eq!(format!("{raw:?}"), "CustomerKey(…)");
        for (contents, part) in [
            (&b"aHVudGVyMg=="[..], "is of 7"),
            (b"not a key", "9 bytes, which are neither"),
            (b"", "is of 0"),
            (&[7; 33], "33 bytes"),
        ] {
            let message = CustomerKey::from_file(contents).expect_err("no key");
            assert!(message.contains(part) && !message.contains("hunter"), "{message}");
        }
    }
}
