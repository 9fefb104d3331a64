//! What only some ask of an object: its checksum, whether it is archived, and to have it restored.

use super::client::Client;
use super::errors::Failure;
use super::retry::Call;
use super::stamp::Keyed;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::object::{ARCHIVES, ObjectId};
use crate::telemetry::RequestClass;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::types::{ChecksumMode, GlacierJobParameters, RestoreRequest, Tier};
use std::fmt;

/// How far an archived object is from being readable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Archive {
    Archived,
    Restoring,
    /// As the store words it.
    RestoredUntil(String),
}

impl fmt::Display for Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Archived => f.write_str("archived"),
            Self::Restoring => f.write_str("being restored"),
            Self::RestoredUntil(date) => write!(f, "restored until {date}"),
        }
    }
}

/// How an object is to be restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restore {
    /// How long the copy is kept; `None` for what the store moved by itself, which moves back.
    pub days: Option<u32>,
    pub tier: String,
}

impl Restore {
    /// `DAYS[:TIER]`, or `:TIER`.
    ///
    /// # Errors
    /// `Invalid`.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = || {
            let message = format!(
                "{text:?}: expected days, such as 7, or 7:Bulk (tiers: Expedited, Standard, Bulk); :Standard for an object that \
                 INTELLIGENT_TIERING archived"
            );
            Error::new(ErrorKind::Invalid, message)
        };
        let (days, tier) = text.trim().split_once(':').unwrap_or((text.trim(), "Standard"));
        let tier = ["Expedited", "Standard", "Bulk"]
            .into_iter()
            .find(|known| known.eq_ignore_ascii_case(tier));
        let days = match days {
            "" => None,
            days => Some(
                days.parse::<u32>()
                    .ok()
                    .filter(|days| (1..=36_500).contains(days))
                    .ok_or_else(wrong)?,
            ),
        };
        if days.is_none() && !text.contains(':') {
            return Err(wrong());
        }
        Ok(Self {
            days,
            tier: tier.ok_or_else(wrong)?.to_owned(),
        })
    }
}

impl Client {
    /// The checksum of the whole object, as `ALGORITHM:BASE64`; `None` where the store has none.
    pub async fn checksum(&self, id: &ObjectId) -> Result<Option<String>> {
        let head = self.detailed_head(id).await?;
        let known = [
            ("CRC32C", head.checksum_crc32_c()),
            ("CRC64NVME", head.checksum_crc64_nvme()),
            ("CRC32", head.checksum_crc32()),
            ("SHA256", head.checksum_sha256()),
            ("SHA1", head.checksum_sha1()),
        ];
        let found = known.into_iter().find_map(|(name, value)| Some((name, value?)));
        Ok(found.map(|(name, value)| format!("{name}:{value}")))
    }

    /// `None` for an object that is not archived.
    pub async fn archive(&self, id: &ObjectId) -> Result<Option<Archive>> {
        let head = self.detailed_head(id).await?;
        let class = head.storage_class().map_or("STANDARD", |class| class.as_str());
        Ok(archive_of(
            head.restore(),
            ARCHIVES.contains(&class) || head.archive_status().is_some(),
        ))
    }

    async fn detailed_head(&self, id: &ObjectId) -> Result<HeadObjectOutput> {
        let call = &Call::on_object("HeadObject", RequestClass::Head, id);
        let (seen, version_id) = &self.seen_as(id, None).await?;
        let send = |keyed: Keyed| {
            self.inner.run(call, move |sdk| {
                let request = sdk.head_object().bucket(&*seen.bucket).key(&*seen.key);
                let request = request.set_version_id(version_id.clone());
                let request = request.checksum_mode(ChecksumMode::Enabled).customize();
                let request = request.mutate_request(move |request| keyed.apply(request));
                async move { request.send().await.map_err(Failure::from) }
            })
        };
        self.with_key_fallback(send).await
    }

    /// Has an archived object restored; that goes on when this returns.
    ///
    /// # Errors
    /// `Busy` when it is being restored already; `Archived`, `Invalid` for an object that is not archived.
    pub async fn restore(&self, id: &ObjectId, restore: &Restore) -> Result<()> {
        let tier = Tier::from(restore.tier.as_str());
        let request = match restore.days {
            Some(days) => {
                let parameters = GlacierJobParameters::builder().tier(tier).build();
                let parameters =
                    parameters.map_err(|error| Error::new(ErrorKind::Invalid, error.to_string()).on(id))?;
                RestoreRequest::builder()
                    .days(days as i32)
                    .glacier_job_parameters(parameters)
                    .build()
            }
            None => RestoreRequest::builder().tier(tier).build(),
        };
        let call = Call::on_object("RestoreObject", RequestClass::Other, id);
        let asked = self.inner.run(&call, |sdk| {
            let restore = sdk
                .restore_object()
                .bucket(&*id.bucket)
                .key(&*id.key)
                .restore_request(request.clone());
            async move { restore.send().await.map_err(Failure::from) }
        });
        asked.await.map(drop)
    }
}

/// `header`: `ongoing-request="true"`, or `ongoing-request="false", expiry-date="Fri, 21 Dec 2029 00:00:00 GMT"`.
fn archive_of(header: Option<&str>, is_archived: bool) -> Option<Archive> {
    match header {
        Some(header) if header.contains("ongoing-request=\"true\"") => Some(Archive::Restoring),
        Some(header) => {
            let date = header
                .split("expiry-date=\"")
                .nth(1)
                .and_then(|rest| rest.split('"').next());
            Some(Archive::RestoredUntil(
                date.unwrap_or("an unknown time").to_owned(),
            ))
        }
        None => is_archived.then_some(Archive::Archived),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_days_and_a_tier() {
        let of = |days, tier: &str| Restore {
            days,
            tier: tier.to_owned(),
        };
        for (text, expected) in [
            ("7", of(Some(7), "Standard")),
            ("1:bulk\n", of(Some(1), "Bulk")),
            (":Expedited", of(None, "Expedited")),
        ] {
            assert_eq!(Restore::parse(text).ok(), Some(expected), "{text}");
        }
        for text in ["", "0", "-1", "7:", "7:fast", "x", "99999999999"] {
            assert!(Restore::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_state_of_a_restore_is_read_from_its_header() {
        let date = "Fri, 21 Dec 2029 00:00:00 GMT";
        let done = format!("ongoing-request=\"false\", expiry-date=\"{date}\"");
        assert_eq!(
            archive_of(Some(&done), true),
            Some(Archive::RestoredUntil(date.into()))
        );
        assert_eq!(
            archive_of(Some("ongoing-request=\"true\""), true),
            Some(Archive::Restoring)
        );
        assert_eq!(archive_of(None, true), Some(Archive::Archived));
        assert_eq!(archive_of(None, false), None);
    }
}
