//! Links: an object's address, and the same with a signature that lets its holder read or write the object.
//!
//! 1. The address must be the one that requests go to (path style or virtual host, region, dual stack, acceleration):
//!    the SDK makes it, as it does for a request.
//! 2. Nothing is sent: signing needs the credentials only.
//! 3. A link dies with the credentials that signed it, however long it was to live: [`Client::credentials_end`].

use super::client::Client;
use super::convert;
use super::errors::Failure;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::object::ObjectId;
use crate::rt;
use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials;
use aws_sdk_s3::Client as SdkClient;
use aws_sdk_s3::presigning::PresigningConfig;
use std::time::{Duration, SystemTime};

/// Signature version 4 allows no more ("Authenticating requests: using query parameters", S3 API Reference).
pub const LONGEST_LINK: Duration = Duration::from_hours(7 * 24);

/// What a signed link lets its holder do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkMethod {
    Get,
    Put,
}

/// The addresses of one bucket's objects.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// Ends in `/`; the encoded key follows.
    base: String,
}

impl Addresses {
    /// The address of `key`, without a signature.
    #[must_use]
    pub fn of(&self, key: &str) -> String {
        format!("{}{}", self.base, convert::encode_key(key))
    }
}

impl Client {
    /// A link that ends after `lifetime`, or earlier with the credentials. Sends no request.
    ///
    /// # Errors
    /// `Invalid` for a lifetime that is too long, and where nothing is signed; `Denied` without credentials.
    pub async fn signed_link(&self, method: LinkMethod, id: &ObjectId, lifetime: Duration) -> Result<String> {
        if self.inner.regions.signer().is_none() {
            let message = "a signed link needs credentials, and requests are not signed";
            return Err(Error::new(ErrorKind::Invalid, message).on(id));
        }
        if self.inner.requests.customer_key().is_some() {
            let message = "a link to what is encrypted with a key of your own does not work without the key";
            return Err(Error::new(ErrorKind::Invalid, message).on(id));
        }
        let sdk = self.inner.regions.way_to(&id.bucket).sdk;
        let (seen, version_id) = self.seen_as(id, None).await?;
        sign(&sdk, method, &seen, version_id, lifetime)
            .await
            .map_err(|error| error.on(id))
    }

    /// Where the objects of `bucket` are found.
    pub async fn addresses(&self, bucket: &str) -> Result<Addresses> {
        const KEY: &str = "k";
        // Whoever signs: the signature is cut off.
        let nobody = Credentials::new("nobody", "nothing", None, None, "address");
        let sdk = self.inner.regions.way_to(bucket).sdk;
        let config = sdk.config().to_builder().credentials_provider(nobody).build();
        let sdk = SdkClient::from_conf(config);
        let link = sign(
            &sdk,
            LinkMethod::Get,
            &ObjectId::new(bucket, KEY),
            None,
            LONGEST_LINK,
        )
        .await?;
        let address = link.split('?').next().unwrap_or_default();
        let base = address.strip_suffix(KEY).filter(|base| base.ends_with('/'));
        let base = base.ok_or_else(|| {
            Error::new(ErrorKind::Internal, format!("not an address: {address}")).on_bucket(bucket)
        })?;
        Ok(Addresses {
            base: base.to_owned(),
        })
    }

    /// When the credentials in use now will have expired, where they do.
    pub async fn credentials_end(&self) -> Option<SystemTime> {
        let provider = self.inner.regions.signer()?;
        let credentials = provider.provide_credentials().await.ok()?;
        credentials.expiry()
    }
}

async fn sign(
    sdk: &SdkClient,
    method: LinkMethod,
    id: &ObjectId,
    version_id: Option<String>,
    lifetime: Duration,
) -> Result<String> {
    let settings = PresigningConfig::builder()
        .start_time(rt::wall_clock())
        .expires_in(lifetime)
        .build()
        .map_err(|error| Error::new(ErrorKind::Invalid, format!("lifetime of a link: {error}")))?;
    let (bucket, key) = (&*id.bucket, &*id.key);
    let signed = match method {
        LinkMethod::Get => {
            let request = sdk
                .get_object()
                .bucket(bucket)
                .key(key)
                .set_version_id(version_id);
            request.presigned(settings).await.map_err(Failure::from)
        }
        LinkMethod::Put => {
            let request = sdk.put_object().bucket(bucket).key(key);
            request.presigned(settings).await.map_err(Failure::from)
        }
    };
    signed
        .map(|request| request.uri().to_owned())
        .map_err(|failure| failure.into_final_error("signing a link", id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::s3::{ClientOptions, PathStyle, StaticCredentials};
    use crate::telemetry::Metrics;
    use std::sync::Arc;

    async fn client(path_style: PathStyle, endpoint_url: Option<&str>) -> Client {
        let options = ClientOptions {
            endpoint_url: endpoint_url.map(str::to_owned),
            region: Some("eu-central-1".into()),
            path_style,
            credentials: Some(StaticCredentials {
                access_key_id: "AK".into(),
                secret_access_key: "SK".into(),
                session_token: None,
            }),
            ..ClientOptions::default()
        };
        Client::connect(options, Arc::new(Metrics::default()))
            .await
            .expect("a client")
    }

    #[tokio::test]
    async fn addresses_are_those_that_requests_go_to() {
        for (path_style, endpoint_url, expected) in [
            (
                PathStyle::Auto,
                None,
                "https://bucket.s3.eu-central-1.amazonaws.com/",
            ),
            (
                PathStyle::Always,
                None,
                "https://s3.eu-central-1.amazonaws.com/bucket/",
            ),
            (
                PathStyle::Auto,
                Some("http://127.0.0.1:9000"),
                "http://127.0.0.1:9000/bucket/",
            ),
            (
                PathStyle::Never,
                Some("http://s3.example.org:9000"),
                "http://bucket.s3.example.org:9000/",
            ),
        ] {
            let client = client(path_style, endpoint_url).await;
            let addresses = client.addresses("bucket").await.expect("addresses");
            assert_eq!(addresses.of(""), expected);
            // A signed link is that address with a signature behind it.
            let key = "a b/+%#?&=é\n\u{1}/..//x";
            let link = client
                .signed_link(
                    LinkMethod::Get,
                    &ObjectId::new("bucket", key),
                    Duration::from_secs(9),
                )
                .await
                .expect("a link");
            let (address, query) = link.split_once('?').expect("signed");
            assert_eq!(address, addresses.of(key));
            assert!(query.contains("X-Amz-Expires=9&"), "{query}");
        }
    }

    #[tokio::test]
    async fn no_link_lives_longer_than_a_week() {
        let client = client(PathStyle::Auto, None).await;
        let id = ObjectId::new("bucket", "k");
        let sign = |lifetime| client.signed_link(LinkMethod::Put, &id, lifetime);
        assert!(sign(LONGEST_LINK).await.is_ok());
        let error = sign(LONGEST_LINK + Duration::from_secs(1))
            .await
            .expect_err("too long");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert_eq!(client.credentials_end().await, None, "these do not expire");
    }
}
