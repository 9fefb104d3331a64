//! From options to a client: credentials, region, endpoint, connections.
//!
//! - Settings come from aws-config, as every AWS tool reads them; credentials are `credentials`' business.
//! - The region need not be known: requests to a bucket elsewhere are redirected once and remembered
//!   (`regions`).
//! - Which store that is, is for `endpoint` to say; others than AWS get path-style addresses, AWS gets virtual-host style,
//!   unless told otherwise.

use super::capabilities::{Capabilities, KnownCapabilities};
use super::client::Client;
use super::clock::ServerClock;
use super::connector::{Connector, Patience};
use super::credentials::Identity;
use super::dial::{Connect, Dialer, Proxies};
use super::endpoint::{self, Addressing, Endpoint};
use super::pace::Pace;
use super::regions::Regions;
use super::retry::Inner;
use super::stamp::Stamp;
use super::tls;
use super::view::View;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::limits::UploadLimits;
use crate::base::mount_config::ViewOf;
use crate::base::requests::RequestOptions;
use crate::rt;
use crate::telemetry::Metrics;
use aws_config::environment::region::EnvironmentVariableRegionProvider;
use aws_config::imds::region::ImdsRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    RequestChecksumCalculation, ResponseChecksumValidation, StalledStreamProtectionConfig,
};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::sync::Semaphore;

const DEFAULT_REGION: &str = "us-east-1";
const LONGEST_CONNECT: Duration = Duration::from_secs(10);

/// How buckets are addressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PathStyle {
    /// Virtual-host style on AWS, path style elsewhere.
    #[default]
    Auto,
    Always,
    Never,
}

/// Keys that are given rather than found.
#[derive(Clone, PartialEq, Eq)]
pub struct StaticCredentials {
    pub access_key_id: String,
    pub secret_access_key: String,
    pub session_token: Option<String>,
}

impl std::fmt::Debug for StaticCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StaticCredentials")
            .field("access_key_id", &self.access_key_id)
            .finish_non_exhaustive()
    }
}

/// How to reach S3.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// `None`: what aws-config says, else AWS.
    pub endpoint_url: Option<String>,
    /// `None`: found out.
    pub region: Option<String>,
    pub profile: Option<String>,
    pub path_style: PathStyle,
    /// Send unsigned requests, and look for no credentials.
    pub no_sign_request: bool,
    /// `None`: the chain of aws-config.
    pub credentials: Option<StaticCredentials>,
    /// Certificates to trust beside the system's; `None`: `AWS_CA_BUNDLE`.
    pub ca_bundle: Option<PathBuf>,
    /// An operation without progress for so long fails.
    pub stall_timeout: Duration,
    /// A quarter of them is for small requests only.
    pub max_connections: usize,
    /// What all requests carry.
    pub requests: RequestOptions,
    /// Never write anything, not even to find out what the endpoint does.
    pub read_only: bool,
    /// What is shown of a versioned bucket.
    pub view: ViewOf,
    /// Where probe objects are written: ends in `/` or is empty.
    pub probe_prefix: String,
    /// What is known of the endpoint: remembered, then overridden by the user. Not needed for AWS.
    pub capabilities: Capabilities,
    /// What the endpoint allows in uploads and copies.
    pub limits: UploadLimits,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            endpoint_url: None,
            region: None,
            profile: None,
            path_style: PathStyle::Auto,
            no_sign_request: false,
            credentials: None,
            ca_bundle: None,
            stall_timeout: Duration::from_mins(1),
            max_connections: 64,
            requests: RequestOptions::default(),
            read_only: false,
            view: ViewOf::Now,
            probe_prefix: String::new(),
            capabilities: Capabilities::default(),
            limits: UploadLimits::S3,
        }
    }
}

impl Client {
    /// Reads the configuration, finds credentials, and makes a client. Sends no request to S3.
    ///
    /// # Errors
    /// `Denied` when there are no credentials; `Invalid` for options that cannot be used.
    pub async fn connect(options: ClientOptions, metrics: Arc<Metrics>) -> Result<Self> {
        build(options, metrics, None).await
    }

    /// The same over connections that `dialer` makes, without TLS for `http` endpoints: under the real HTTP
    /// stack and SDK.
    pub async fn with_dialer(options: ClientOptions, metrics: Arc<Metrics>, dialer: Dialer) -> Result<Self> {
        build(options, metrics, Some(dialer)).await
    }
}

async fn build(options: ClientOptions, metrics: Arc<Metrics>, dialer: Option<Dialer>) -> Result<Client> {
    check(&options)?;
    let clock = Arc::new(ServerClock::default());
    let connector = make_connector(&options, &metrics, &clock, dialer).await?;
    let shared = load(&options, connector.clone()).await;
    let endpoint = Endpoint::resolve(options.endpoint_url.as_deref(), &shared)?;
    if options.requests.customer_key().is_some() && !endpoint.is_private() {
        let message = "a key of your own (SSE-C) goes with every request: that needs an endpoint of https, or on this machine";
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    let region = region(&shared, &endpoint).await;
    let (identity, provider) = Identity::establish(&options, &shared, &region, connector.clone()).await?;
    let addressing = Addressing::resolve(&options, &shared, &endpoint).await?;
    let config = s3_config(&options, &shared, &endpoint, addressing);
    let mut capabilities = if endpoint.is_aws() {
        Capabilities::s3()
    } else {
        Capabilities::default()
    };
    capabilities.merge(&options.capabilities);
    let reserved = (options.max_connections / 4).max(1);
    let inner = Inner {
        regions: Regions::new(config, provider, &region),
        identity,
        connector,
        metrics,
        clock,
        pace: Pace::default(),
        metadata_lane: Arc::new(Semaphore::new(reserved)),
        data_lane: Arc::new(Semaphore::new(
            options.max_connections.saturating_sub(reserved).max(1),
        )),
        stall_timeout: options.stall_timeout,
        limits: options.limits,
        capabilities: KnownCapabilities::new(capabilities, !options.read_only, options.probe_prefix),
        requests: options.requests,
        view: View::new(options.view),
        old_probes_are_gone: AtomicBool::new(false),
        has_seen_other_storage: AtomicBool::new(false),
        is_aws: endpoint.is_aws(),
        endpoint: endpoint.name().to_owned(),
    };
    Ok(Client {
        inner: Arc::new(inner),
    })
}

fn check(options: &ClientOptions) -> Result<()> {
    if let Some(url) = &options.endpoint_url {
        endpoint::check(url)?;
    }
    if options.stall_timeout.is_zero() {
        let message = "a stall time-out of zero lets no request finish";
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    Ok(())
}

async fn make_connector(
    options: &ClientOptions,
    metrics: &Arc<Metrics>,
    clock: &Arc<ServerClock>,
    dialer: Option<Dialer>,
) -> Result<Connector> {
    let stall = options.stall_timeout;
    let patience = Patience {
        connect: (stall / 3).min(LONGEST_CONNECT),
        read: stall / 3,
        write: stall,
    };
    let bundle = options
        .ca_bundle
        .clone()
        .or_else(|| std::env::var_os("AWS_CA_BUNDLE").map(PathBuf::from));
    let tls = match dialer {
        Some(_) if bundle.is_none() => tls::no_trust()?,
        _ => rt::blocking(move || tls::client_config(bundle.as_deref())).await?,
    };
    let (tls, proxies) = (Arc::new(tls), Arc::new(Proxies::from_env()));
    let connect = Connect::new(tls.clone(), proxies.clone(), dialer, patience.connect);
    let max_idle = options.max_connections;
    Ok(Connector::new(
        connect,
        tls,
        proxies,
        patience,
        max_idle,
        metrics.clone(),
        clock.clone(),
    ))
}

async fn load(options: &ClientOptions, connector: Connector) -> SdkConfig {
    let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .http_client(connector)
        .no_credentials()
        .region(region_chain(options));
    if let Some(profile) = &options.profile {
        loader = loader.profile_name(profile);
    }
    if let Some(url) = &options.endpoint_url {
        loader = loader.endpoint_url(url);
    }
    loader.load().await
}

/// What is said about the region on this machine; see [`region`] for what else there is.
fn region_chain(options: &ClientOptions) -> RegionProviderChain {
    let builder = ProfileFileRegionProvider::builder();
    let profile = match &options.profile {
        Some(name) => builder.profile_name(name).build(),
        None => builder.build(),
    };
    RegionProviderChain::first_try(options.region.clone().map(Region::new))
        .or_else(EnvironmentVariableRegionProvider::new())
        .or_else(profile)
}

/// The region to begin with. The instance metadata service is asked only where the store may be AWS.
async fn region(shared: &SdkConfig, endpoint: &Endpoint) -> String {
    let found = match shared.region() {
        Some(region) => Some(region.clone()),
        None if endpoint.url().is_none() => ImdsRegionProvider::builder().build().region().await,
        None => None,
    };
    found.map_or_else(|| DEFAULT_REGION.to_owned(), |region| region.to_string())
}

fn s3_config(
    options: &ClientOptions,
    shared: &SdkConfig,
    endpoint: &Endpoint,
    addressing: Addressing,
) -> aws_sdk_s3::config::Builder {
    let mut builder = aws_sdk_s3::config::Builder::from(shared)
        .retry_config(RetryConfig::disabled())
        .timeout_config(TimeoutConfig::disabled())
        // The connector watches for silence itself, and knows a slow reader from a silent server.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .force_path_style(addressing.path_style)
        .accelerate(addressing.accelerate)
        .use_dual_stack(addressing.dual_stack);
    builder.set_endpoint_url(endpoint.url().map(str::to_owned));
    if options.requests != RequestOptions::default() {
        builder = builder.interceptor(Stamp(options.requests.clone()));
    }
    builder
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_printed() {
        let keys = StaticCredentials {
            access_key_id: "AKID".into(),
            secret_access_key: "hidden".into(),
            session_token: Some("hidden".into()),
        };
        assert!(!format!("{keys:?}").contains("hidden"));
    }
}
