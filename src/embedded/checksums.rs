//! What S3 computes over bodies: the MD5 of ETags, and the five checksum algorithms.
//!
//! 1. A client may claim a checksum in a header, in a trailer after the body, or only name an algorithm:
//!    [`Claims`] gathers them, and [`Claims::verify`] holds them against what arrived.
//! 2. The checksum of a multipart object comes from its parts alone: [`of_parts`] joins CRCs (full object) or
//!    hashes the parts' digests (composite), so that completing an upload reads no data.
//!
//! Source: S3 User Guide, "Checking object integrity for data uploads in Amazon S3".

use crc_fast::{CrcAlgorithm, Digest, checksum_combine};
use http::HeaderMap;
use s3s::crypto::{Checksum as _, Md5, Sha1, Sha256};
use s3s::{S3Result, s3_error};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Algorithm {
    Crc32,
    Crc32c,
    Crc64nvme,
    Sha1,
    Sha256,
}

impl Algorithm {
    pub const ALL: [Self; 5] = [
        Self::Crc32,
        Self::Crc32c,
        Self::Crc64nvme,
        Self::Sha1,
        Self::Sha256,
    ];

    /// What S3 computes when the client asks for nothing.
    pub const DEFAULT: Self = Self::Crc64nvme;

    /// The name in `x-amz-checksum-algorithm` and in listings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Crc32 => "CRC32",
            Self::Crc32c => "CRC32C",
            Self::Crc64nvme => "CRC64NVME",
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
        }
    }

    /// The header, or trailer, that carries the value.
    pub fn header(self) -> &'static str {
        match self {
            Self::Crc32 => "x-amz-checksum-crc32",
            Self::Crc32c => "x-amz-checksum-crc32c",
            Self::Crc64nvme => "x-amz-checksum-crc64nvme",
            Self::Sha1 => "x-amz-checksum-sha1",
            Self::Sha256 => "x-amz-checksum-sha256",
        }
    }

    pub fn by_name(name: &str) -> S3Result<Self> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.name().eq_ignore_ascii_case(name))
            .ok_or_else(|| s3_error!(InvalidRequest, "unknown checksum algorithm"))
    }

    fn crc(self) -> Option<CrcAlgorithm> {
        match self {
            Self::Crc32 => Some(CrcAlgorithm::Crc32IsoHdlc),
            Self::Crc32c => Some(CrcAlgorithm::Crc32Iscsi),
            Self::Crc64nvme => Some(CrcAlgorithm::Crc64Nvme),
            Self::Sha1 | Self::Sha256 => None,
        }
    }

    /// The last `width` bytes of a CRC in big-endian order are its value.
    fn crc_width_bytes(self) -> usize {
        if self == Self::Crc64nvme { 8 } else { 4 }
    }

    fn encode_crc(self, value: u64) -> String {
        BASE64.encode(&value.to_be_bytes()[8 - self.crc_width_bytes()..])
    }

    fn decode_crc(self, value: &str) -> Option<u64> {
        let bytes = BASE64
            .decode(value)
            .ok()
            .filter(|bytes| bytes.len() == self.crc_width_bytes())?;
        Some(
            bytes
                .iter()
                .fold(0, |number, byte| number << 8 | u64::from(*byte)),
        )
    }

    /// How the parts of an upload are summed up when the client does not say.
    pub fn default_kind(self) -> Kind {
        if self == Self::Crc64nvme {
            Kind::FullObject
        } else {
            Kind::Composite
        }
    }

    /// SHA cannot be joined; CRC64NVME exists for full objects only.
    pub fn allows(self, kind: Kind) -> bool {
        match kind {
            Kind::FullObject => self.crc().is_some(),
            Kind::Composite => self != Self::Crc64nvme,
        }
    }
}

/// What a checksum of a multipart object covers: its bytes, or its parts' checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    FullObject,
    Composite,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::FullObject => "FULL_OBJECT",
            Self::Composite => "COMPOSITE",
        }
    }
}

/// A checksum of one algorithm in its header form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum {
    pub algorithm: Algorithm,
    pub value: String,
}

/// The checksum an object carries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectSum {
    pub sum: Sum,
    pub kind: Kind,
}

enum Running {
    Crc(Box<Digest>),
    Sha1(Box<Sha1>),
    Sha256(Box<Sha256>),
}

/// Checksums, and the MD5 if it is wanted, computed in one pass.
pub struct Hasher {
    md5: Option<Md5>,
    sums: Vec<(Algorithm, Running)>,
}

/// What a [`Hasher`] found.
#[derive(Clone, Debug)]
pub struct Digests {
    pub md5: Option<[u8; 16]>,
    pub sums: Vec<Sum>,
}

impl Digests {
    /// The ETag of a body that was put whole, if its MD5 was computed.
    pub fn etag(&self) -> Option<String> {
        self.md5.map(|md5| hex(&md5))
    }

    pub fn sum(&self, algorithm: Algorithm) -> Option<&Sum> {
        self.sums.iter().find(|sum| sum.algorithm == algorithm)
    }
}

impl Hasher {
    pub fn new(algorithms: &[Algorithm], with_md5: bool) -> Self {
        let running = |algorithm: Algorithm| match (algorithm.crc(), algorithm) {
            (Some(crc), _) => Running::Crc(Box::new(Digest::new(crc))),
            (None, Algorithm::Sha1) => Running::Sha1(Box::new(Sha1::new())),
            (None, _) => Running::Sha256(Box::new(Sha256::new())),
        };
        let mut wanted = algorithms.to_vec();
        wanted.sort_unstable();
        wanted.dedup();
        Self {
            md5: with_md5.then(Md5::new),
            sums: wanted.into_iter().map(|a| (a, running(a))).collect(),
        }
    }

    pub fn update(&mut self, data: &[u8]) {
        if let Some(md5) = &mut self.md5 {
            md5.update(data);
        }
        for (_, running) in &mut self.sums {
            match running {
                Running::Crc(digest) => digest.update(data),
                Running::Sha1(digest) => digest.update(data),
                Running::Sha256(digest) => digest.update(data),
            }
        }
    }

    pub fn finish(self) -> Digests {
        let sums = self.sums.into_iter().map(|(algorithm, running)| {
            let value = match running {
                Running::Crc(digest) => algorithm.encode_crc(digest.finalize()),
                Running::Sha1(digest) => BASE64.encode(digest.finalize()),
                Running::Sha256(digest) => BASE64.encode(digest.finalize()),
            };
            Sum { algorithm, value }
        });
        Digests {
            md5: self.md5.map(Md5::finalize),
            sums: sums.collect(),
        }
    }
}

/// What a client says about a body that is still to come.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    /// Values from headers.
    pub values: Vec<Sum>,
    /// The algorithm named without a value.
    pub named: Option<Algorithm>,
    /// Announced in `x-amz-trailer`.
    announced: Option<Algorithm>,
    content_md5: Option<[u8; 16]>,
}

impl Claims {
    /// # Errors
    /// `InvalidRequest` for more than one checksum, `InvalidDigest` for a Content-MD5 that is none.
    pub fn new(
        values: Vec<Sum>,
        named: Option<&str>,
        content_md5: Option<&str>,
        headers: &HeaderMap,
    ) -> S3Result<Self> {
        if values.len() > 1 {
            return Err(s3_error!(
                InvalidRequest,
                "Expecting a single x-amz-checksum- header"
            ));
        }
        let content_md5 = content_md5
            .map(|text| {
                BASE64
                    .decode(text)
                    .ok()
                    .and_then(|bytes| <[u8; 16]>::try_from(bytes).ok())
            })
            .map(|bytes| bytes.ok_or_else(|| s3_error!(InvalidDigest)))
            .transpose()?;
        let announced = headers
            .get("x-amz-trailer")
            .and_then(|value| value.to_str().ok())
            .and_then(|name| {
                Algorithm::ALL
                    .into_iter()
                    .find(|algorithm| algorithm.header().eq_ignore_ascii_case(name.trim()))
            });
        Ok(Self {
            values,
            named: named.map(Algorithm::by_name).transpose()?,
            announced,
            content_md5,
        })
    }

    /// The algorithm the client chose, if it chose one.
    pub fn chosen(&self) -> Option<Algorithm> {
        self.values
            .first()
            .map(|sum| sum.algorithm)
            .or(self.announced)
            .or(self.named)
    }

    pub fn has_md5(&self) -> bool {
        self.content_md5.is_some()
    }

    /// Checks headers and `trailers` against what was computed.
    ///
    /// # Errors
    /// `BadDigest` when any claim is wrong, `InvalidRequest` when an announced trailer did not come.
    pub fn verify(&self, trailers: Option<&HeaderMap>, digests: &Digests) -> S3Result<()> {
        let trailing = self.announced.map(|algorithm| {
            let value = trailers
                .and_then(|all| all.get(algorithm.header()))
                .and_then(|v| v.to_str().ok());
            value
                .map(|value| Sum {
                    algorithm,
                    value: value.to_owned(),
                })
                .ok_or_else(|| s3_error!(InvalidRequest, "the announced checksum trailer is missing"))
        });
        for claim in self.values.iter().cloned().chain(trailing.transpose()?) {
            if digests.sum(claim.algorithm) != Some(&claim) {
                return Err(s3_error!(
                    BadDigest,
                    "the {} you specified did not match",
                    claim.algorithm.name()
                ));
            }
        }
        if self.content_md5.is_some() && self.content_md5 != digests.md5 {
            return Err(s3_error!(
                BadDigest,
                "the Content-MD5 you specified did not match"
            ));
        }
        Ok(())
    }
}

/// The checksum of an object made of parts with these checksums and lengths.
/// `None` when a part lacks one of that algorithm.
pub fn of_parts<'a>(
    algorithm: Algorithm,
    kind: Kind,
    parts: impl ExactSizeIterator<Item = (Option<&'a Sum>, u64)>,
) -> Option<ObjectSum> {
    let count = parts.len();
    let value = match kind {
        Kind::FullObject => {
            let crc = algorithm.crc()?;
            let mut whole = algorithm.decode_crc(&Hasher::new(&[algorithm], false).finish().sums[0].value)?;
            let mut len_bytes = 0u64;
            for (sum, part_len_bytes) in parts {
                let part = algorithm.decode_crc(&sum?.value)?;
                whole = match (len_bytes, part_len_bytes) {
                    (0, _) => part,
                    (_, 0) => whole,
                    _ => checksum_combine(crc, whole, part, part_len_bytes),
                };
                len_bytes += part_len_bytes;
            }
            algorithm.encode_crc(whole)
        }
        Kind::Composite => {
            let mut hasher = Hasher::new(&[algorithm], false);
            for (sum, _) in parts {
                hasher.update(&BASE64.decode(&sum?.value).ok()?);
            }
            format!("{}-{count}", hasher.finish().sums[0].value)
        }
    };
    Some(ObjectSum {
        sum: Sum { algorithm, value },
        kind,
    })
}

/// The ETag of a multipart object: the MD5 of its parts' MD5s, and their number.
pub fn etag_of_parts<'a>(part_etags: impl ExactSizeIterator<Item = &'a str>) -> String {
    let count = part_etags.len();
    let mut md5 = Md5::new();
    for etag in part_etags {
        md5.update(&unhex(etag).unwrap_or_default());
    }
    format!("{}-{count}", hex(&md5.finalize()))
}

pub fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(
        digits
            .chunks_exact(2)
            .map(|pair| pair[0] << 4 | pair[1])
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digests(data: &[u8]) -> Digests {
        let mut hasher = Hasher::new(&Algorithm::ALL, true);
        hasher.update(data);
        hasher.finish()
    }

    #[test]
    fn known_values_come_out() {
        let found = digests(b"123456789");
        assert_eq!(found.etag().unwrap(), "25f9e794323b453885f5181f1b624d0b");
        let value = |algorithm| BASE64.decode(&found.sum(algorithm).unwrap().value).unwrap();
        assert_eq!(hex(&value(Algorithm::Crc32)), "cbf43926");
        assert_eq!(hex(&value(Algorithm::Crc32c)), "e3069283");
        assert_eq!(hex(&value(Algorithm::Crc64nvme)), "ae8b14860a799888");
        assert_eq!(
            hex(&value(Algorithm::Sha1)),
            "f7c3bc1d808e04732adf679965ccc34ca7ae3441"
        );
    }

    #[test]
    fn a_full_object_checksum_of_parts_is_that_of_the_whole() {
        let data: Vec<u8> = (0..9_000u32).map(|n| (n % 253) as u8).collect();
        let cuts = [0, 0, 17, 4096, 9_000, 9_000];
        for algorithm in [Algorithm::Crc32, Algorithm::Crc32c, Algorithm::Crc64nvme] {
            let parts: Vec<(Digests, u64)> = cuts
                .windows(2)
                .map(|w| (digests(&data[w[0]..w[1]]), (w[1] - w[0]) as u64))
                .collect();
            let sum = of_parts(
                algorithm,
                Kind::FullObject,
                parts.iter().map(|(d, n)| (d.sum(algorithm), *n)),
            );
            assert_eq!(Some(&sum.unwrap().sum), digests(&data).sum(algorithm));
        }
    }

    #[test]
    fn a_composite_checksum_counts_its_parts() {
        let part = digests(b"x");
        let parts = [(part.sum(Algorithm::Sha256), 1), (part.sum(Algorithm::Sha256), 1)];
        let sum = of_parts(Algorithm::Sha256, Kind::Composite, parts.into_iter()).unwrap();
        assert!(sum.sum.value.ends_with("=-2"), "{}", sum.sum.value);
        assert!(of_parts(Algorithm::Sha256, Kind::FullObject, parts.into_iter()).is_none());
        assert!(of_parts(Algorithm::Crc32, Kind::FullObject, [(None, 1)].into_iter()).is_none());
    }

    #[test]
    fn wrong_claims_are_refused() {
        let none = HeaderMap::new();
        let wrong = Sum {
            algorithm: Algorithm::Crc32c,
            value: "AAAAAA==".into(),
        };
        let claims = Claims::new(vec![wrong.clone()], None, None, &none).unwrap();
        assert!(claims.verify(None, &digests(b"data")).is_err());
        assert!(claims.verify(None, &digests(b"")).is_ok());
        assert!(Claims::new(vec![wrong.clone(), wrong], None, None, &none).is_err());
        assert!(Claims::new(vec![], None, Some("short"), &none).is_err());
        let md5 = Claims::new(vec![], None, Some("1B2M2Y8AsgTpgAmY7PhCfg=="), &none).unwrap();
        assert!(md5.verify(None, &digests(b"")).is_ok());
        assert!(md5.verify(None, &digests(b"x")).is_err());
    }

    #[test]
    fn an_announced_trailer_must_come() {
        let mut headers = HeaderMap::new();
        headers.insert("x-amz-trailer", "x-amz-checksum-crc32".parse().unwrap());
        let claims = Claims::new(vec![], None, None, &headers).unwrap();
        assert_eq!(claims.chosen(), Some(Algorithm::Crc32));
        assert!(claims.verify(None, &digests(b"")).is_err());
        let mut trailers = HeaderMap::new();
        trailers.insert("x-amz-checksum-crc32", "AAAAAA==".parse().unwrap());
        assert!(claims.verify(Some(&trailers), &digests(b"")).is_ok());
        assert!(claims.verify(Some(&trailers), &digests(b"y")).is_err());
    }
}
