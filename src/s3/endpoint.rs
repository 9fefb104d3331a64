//! Which store requests go to, as the SDK resolves it: everything that is known of a store, and what is kept for it on this
//! machine, goes by this.
//!
//! 1. An endpoint can be named in many places: an option, `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`, a profile, the
//!    `[services]` section that a profile points to. [`Endpoint::resolve`] asks the SDK's own configuration.
//! 2. How buckets become host names is said there too, in settings that the SDK does not read: [`Addressing`].
//! 3. What is taken for AWS is believed to honour every condition; on any other store that loses updates. A host of Amazon's
//!    is not S3 yet: a load balancer or a machine there may serve anything ([`is_aws_host`]).

use super::config::{ClientOptions, PathStyle};
use super::credentials::read_profiles;
use crate::base::error::{Error, ErrorKind, Result};
use aws_config::SdkConfig;
use aws_config::profile::ProfileSet;
use aws_types::service_config::ServiceConfigKey;
use std::net::IpAddr;

const AWS: &str = "aws";
/// The suffixes of S3's host names in all of AWS's partitions (botocore, `partitions.json`).
const AWS_SUFFIXES: [&str; 6] = [
    ".amazonaws.com",
    ".amazonaws.com.cn",
    ".amazonaws.eu",
    ".api.aws",
    ".api.amazonwebservices.com.cn",
    ".api.amazonwebservices.eu",
];

/// A store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// `None`: what AWS has for the region.
    url: Option<String>,
}

impl Endpoint {
    /// `option` wins over all that is configured.
    ///
    /// # Errors
    /// `Invalid` for what is no URL, saying where it may come from.
    pub(super) fn resolve(option: Option<&str>, shared: &SdkConfig) -> Result<Self> {
        let configured = || of_s3(shared).or_else(|| shared.endpoint_url().map(str::to_owned));
        let url = option.map(str::to_owned).or_else(configured);
        let url = url.map(|url| url.trim_end_matches('/').to_owned());
        let url = url.filter(|url| !url.is_empty());
        if let Some(url) = &url {
            check(url)?;
        }
        Ok(Self { url })
    }

    pub(super) fn url(&self) -> Option<&str> {
        self.url.as_deref()
    }

    pub(super) fn is_aws(&self) -> bool {
        self.url().is_none_or(is_aws_host)
    }

    /// Nobody between here and the store can read what is sent.
    pub(super) fn is_private(&self) -> bool {
        let Some(uri) = self.url().and_then(|url| url.parse::<http::Uri>().ok()) else {
            return true;
        };
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let is_here =
            host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        uri.scheme_str() == Some("https") || is_here
    }

    /// Equal for equal stores.
    pub(super) fn name(&self) -> &str {
        self.url().unwrap_or(AWS)
    }
}

/// What the environment or the profile says for S3, or for all services; the SDK's clients ask the same.
fn of_s3(shared: &SdkConfig) -> Option<String> {
    let key = ServiceConfigKey::builder()
        .service_id("S3")
        .env("AWS_ENDPOINT_URL")
        .profile("endpoint_url")
        .build()
        .ok()?;
    let url = shared.service_config()?.load_config(key)?;
    Some(url).filter(|url| !url.is_empty())
}

/// # Errors
/// `Invalid`.
pub(super) fn check(url: &str) -> Result<()> {
    let is_usable = url.parse::<http::Uri>().ok().is_some_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty())
    });
    if is_usable {
        return Ok(());
    }
    let message = format!(
        "endpoint URL {url:?}: not of the form http(s)://HOST[:PORT]; it comes from --endpoint-url, AWS_ENDPOINT_URL_S3, \
         AWS_ENDPOINT_URL or the profile"
    );
    Err(Error::new(ErrorKind::Invalid, message))
}

/// How buckets become host names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Addressing {
    pub path_style: bool,
    pub accelerate: bool,
    pub dual_stack: bool,
}

impl Addressing {
    /// Options, then the environment, then the profile: its own settings, and those below its `s3 =`, which are the AWS
    /// CLI's ("AWS CLI S3 Configuration").
    ///
    /// # Errors
    /// `Invalid` for what cannot be combined.
    pub(super) async fn resolve(
        options: &ClientOptions,
        shared: &SdkConfig,
        endpoint: &Endpoint,
    ) -> Result<Self> {
        let of_s3 = match read_profiles(options.profile.as_deref()).await {
            Ok(profiles) => move |name: &str| nested(&profiles, name),
            Err(error) => {
                tracing::warn!(%error, "S3 settings of the profile are not used");
                return Ok(Self::combine(options, shared, endpoint, |_| None));
            }
        };
        let combined = Self::combine(options, shared, endpoint, of_s3);
        if combined.accelerate && (combined.path_style || shared.use_fips() == Some(true)) {
            let message = "S3 Transfer Acceleration (use_accelerate_endpoint) can be combined neither with path style nor with \
                           FIPS endpoints";
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        Ok(combined)
    }

    fn combine(
        options: &ClientOptions,
        shared: &SdkConfig,
        endpoint: &Endpoint,
        of_s3: impl Fn(&str) -> Option<String>,
    ) -> Self {
        let is_on = |value: Option<String>| value.is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let path_style = match (options.path_style, of_s3("addressing_style").as_deref()) {
            (PathStyle::Always, _) | (PathStyle::Auto, Some("path")) => true,
            (PathStyle::Never, _) | (PathStyle::Auto, Some("virtual")) => false,
            (PathStyle::Auto, _) => !endpoint.is_aws(),
        };
        // Both name hosts of AWS, so an endpoint that is named leaves no room for them.
        let is_free = endpoint.url().is_none();
        let variable = std::env::var("AWS_S3_USE_ACCELERATE_ENDPOINT").ok();
        let accelerate = variable.or_else(|| of_s3("use_accelerate_endpoint"));
        let dual_stack = shared
            .use_dual_stack()
            .unwrap_or_else(|| is_on(of_s3("use_dualstack_endpoint")));
        Self {
            path_style,
            accelerate: is_free && is_on(accelerate),
            dual_stack: is_free && dual_stack,
        }
    }
}

/// A setting below the profile's `s3 =`.
fn nested(profiles: &ProfileSet, name: &str) -> Option<String> {
    let settings = profiles.get("s3")?.lines();
    let mut settings = settings.filter_map(|line| line.split_once('='));
    let (_, value) = settings.find(|(found, _)| found.trim().eq_ignore_ascii_case(name))?;
    Some(value.trim().to_owned())
}

fn is_aws_host(url: &str) -> bool {
    let uri = url.parse::<http::Uri>().ok();
    let Some(host) = uri
        .as_ref()
        .and_then(http::Uri::host)
        .map(str::to_ascii_lowercase)
    else {
        return false;
    };
    let Some(labels) = AWS_SUFFIXES.iter().find_map(|suffix| host.strip_suffix(suffix)) else {
        return false;
    };
    let is_of_s3 = |label: &str| label == "s3" || label.starts_with("s3-") || label.starts_with("s3express-");
    let is_of_others = |label: &str| label == "elb" || label == "compute" || label.starts_with("compute-");
    labels.split('.').any(is_of_s3) && !labels.split('.').any(is_of_others)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_s3_itself_is_aws() {
        for url in [
            "https://s3.eu-central-1.amazonaws.com",
            "https://s3-us-west-2.amazonaws.com",
            "https://s3.amazonaws.com:443/",
            "https://s3-fips.dualstack.us-east-1.amazonaws.com",
            "https://bucket.vpce-1a2b3c4d-5e6f.s3.us-east-1.vpce.amazonaws.com",
            "https://s3.cn-north-1.amazonaws.com.cn",
            "https://s3.dualstack.us-east-1.api.aws",
            "https://S3.EU-CENTRAL-1.AMAZONAWS.COM",
        ] {
            assert!(is_aws_host(url), "{url}");
        }
        for url in [
            "http://127.0.0.1:9000",
            "https://amazonaws.com.example.org",
            "https://s3.example.org",
            "http://s3-minio-0123456789.eu-central-1.elb.amazonaws.com:9000",
            "http://minio-0123456789abcdef.elb.eu-central-1.amazonaws.com",
            "http://ec2-203-0-113-25.compute-1.amazonaws.com:9000",
            "http://ec2-203-0-113-25.eu-west-1.compute.amazonaws.com:9000",
            "https://id.execute-api.us-east-1.amazonaws.com",
        ] {
            assert!(!is_aws_host(url), "{url}");
        }
    }

    #[test]
    fn endpoints_that_are_no_urls_are_refused() {
        assert!(check("http://127.0.0.1:9000").is_ok());
        for wrong in ["127.0.0.1:9000", "s3://bucket", "http://", "ftp://host"] {
            assert_eq!(check(wrong).expect_err(wrong).kind(), ErrorKind::Invalid);
        }
    }
}
