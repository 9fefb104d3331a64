//! Which store requests go to, as the SDK resolves it: everything that is known of a store, and what is kept for it on this
//! machine, goes by this.
//!
//! 1. An endpoint can be named in many places: an option, `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`, a profile, the
//!    `[services]` section that a profile points to. [`Endpoint::resolve`] asks the SDK's own configuration.
//! 2. What is taken for AWS is believed to honour every condition; on any other store that loses updates. A host of Amazon's
//!    is not S3 yet: a load balancer or a machine there may serve anything ([`is_aws_host`]).

use crate::base::error::{Error, ErrorKind, Result};
use aws_config::SdkConfig;
use aws_types::service_config::ServiceConfigKey;

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
