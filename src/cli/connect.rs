//! From a configuration to a client of the store.

use crate::base::mount_config::{EndpointConfig, PathStyle};
use crate::cli::failure::Failure;
use crate::rt;
use crate::s3::{self, Capabilities, ClientOptions, StaticCredentials};

/// The client's options for `endpoint`; what only mounts decide is left at its default.
#[must_use]
pub fn client_options(endpoint: &EndpointConfig) -> ClientOptions {
    ClientOptions {
        endpoint_url: endpoint.endpoint_url.clone(),
        region: endpoint.region.clone(),
        profile: endpoint.profile.clone(),
        path_style: match endpoint.path_style {
            PathStyle::Auto => s3::PathStyle::Auto,
            PathStyle::Always => s3::PathStyle::Always,
            PathStyle::Never => s3::PathStyle::Never,
        },
        no_sign_request: endpoint.no_sign_request,
        requests: endpoint.requests.clone(),
        capabilities: overrides(endpoint),
        credentials: endpoint.keys.as_ref().map(|keys| StaticCredentials {
            access_key_id: keys.access_key_id.clone(),
            secret_access_key: keys.secret_access_key.clone(),
            session_token: None,
        }),
        ca_bundle: endpoint.ca_bundle.clone(),
        ..ClientOptions::default()
    }
}

/// What the user says of the store.
#[must_use]
pub fn overrides(endpoint: &EndpointConfig) -> Capabilities {
    // `mount_config` has checked the text; what cannot be read says nothing.
    endpoint.capabilities.parse().unwrap_or_default()
}

/// Runs a command that awaits.
///
/// # Errors
/// Those of the command; Failed when the system refuses threads.
pub fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    rt::build()
        .map_err(|error| Failure::io(&error, "threads"))?
        .block_on(work)
}
