//! Whose requests they are.
//!
//! 1. A profile that was asked for by name is not overridden by keys that happen to be in the environment: what it says comes
//!    first, as in the AWS CLI ([`Finder::find`]).
//! 2. The SDK renews what expires, but reads files once: keys that were replaced in a file, or taken back before their time,
//!    are noticed by the store's refusal. Then everything is looked for anew ([`Identity::renew`]).
//! 3. A refusal can have other reasons. Where the same keys are found nothing is sent again, and looking, which may be a
//!    request to another service, has its intervals ([`Doubt::interval`]).
//! 4. What is asked may not answer: looking ends after [`PATIENCE`], and is then left for [`SILENT_INTERVAL`], so that it does
//!    not cost every refused request that time.

use super::config::ClientOptions;
use super::connector::{Connector, sources};
use super::regions::Regions;
use crate::base::error::{Error, ErrorKind, Result};
use crate::rt;
use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::meta::credentials::CredentialsProviderChain;
use aws_config::profile::{self, ProfileFileCredentialsProvider, ProfileSet};
use aws_config::provider_config::ProviderConfig;
use aws_config::{Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_types::os_shim_internal::{Env, Fs};
use std::time::Duration;
use tokio::sync::Mutex;

/// A credential process, or a service that is asked for credentials, has this long to answer when others are looked for.
const PATIENCE: Duration = Duration::from_secs(10);
/// One that did not is not asked again before.
const SILENT_INTERVAL: Duration = Duration::from_mins(1);

/// How surely a refusal is about the credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    /// The store says so.
    Certain,
    /// It does not say why: the answer to a HEAD has no body. Mostly a policy.
    Possible,
}

impl Doubt {
    /// How often at most other credentials are looked for.
    fn interval(self) -> Duration {
        match self {
            Self::Certain => Duration::from_secs(1),
            Self::Possible => Duration::from_secs(10),
        }
    }
}

/// The credentials of one client.
pub(super) struct Identity {
    /// `None`: they were given, or requests are not signed.
    finder: Option<Finder>,
    latest: Mutex<Latest>,
}

#[derive(Default)]
struct Latest {
    credentials: Option<Credentials>,
    looked: Option<rt::Instant>,
    /// That is not over, or nobody answered.
    is_silent: bool,
}

impl Latest {
    fn may_look(&self, doubt: Doubt) -> bool {
        let interval = if self.is_silent {
            SILENT_INTERVAL
        } else {
            doubt.interval()
        };
        self.looked.is_none_or(|looked| looked.elapsed() >= interval)
    }
}

impl Identity {
    /// Finds credentials, and the provider that the first clients get (`None`: unsigned requests).
    ///
    /// # Errors
    /// `Denied` when there are none; `Invalid` for a profile that does not exist.
    pub(super) async fn establish(
        options: &ClientOptions,
        shared: &SdkConfig,
        region: &str,
        connector: Connector,
    ) -> Result<(Self, Option<SharedCredentialsProvider>)> {
        let fixed = Self {
            finder: None,
            latest: Mutex::default(),
        };
        if options.no_sign_request {
            return Ok((fixed, None));
        }
        if let Some(given) = &options.credentials {
            let (id, secret) = (given.access_key_id.clone(), given.secret_access_key.clone());
            let credentials = Credentials::new(id, secret, given.session_token.clone(), None, "options");
            return Ok((fixed, Some(SharedCredentialsProvider::new(credentials))));
        }
        let finder = Finder {
            profile: options.profile.clone(),
            region: Region::new(region.to_owned()),
            connector,
            use_fips: shared.use_fips(),
            use_dual_stack: shared.use_dual_stack(),
        };
        let (provider, credentials) = finder.find().await?;
        let identity = Self {
            finder: Some(finder),
            latest: Mutex::new(Latest {
                credentials: Some(credentials),
                ..Latest::default()
            }),
        };
        Ok((identity, Some(provider)))
    }

    /// Looks for credentials again after the store refused those of `generation`. True when there are others now, with which
    /// the request is to be sent again. Whoever comes meanwhile waits for the same search.
    pub(super) async fn renew(&self, regions: &Regions, generation: u64, doubt: Doubt) -> bool {
        let Some(finder) = &self.finder else { return false };
        let mut latest = self.latest.lock().await;
        if regions.generation() != generation {
            return true;
        }
        if !latest.may_look(doubt) {
            return false;
        }
        // Noted before: whoever asks may be given up while this waits.
        latest.looked = Some(rt::now());
        latest.is_silent = true;
        let found = rt::timeout(PATIENCE, finder.find()).await;
        latest.looked = Some(rt::now());
        latest.is_silent = found.is_err();
        let (provider, credentials) = match found {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                tracing::warn!(%error, "the credentials may have been refused, and no others are found");
                return false;
            }
            Err(_elapsed) => {
                tracing::warn!(
                    "the credentials may have been refused, and where others may be does not answer within {PATIENCE:?}"
                );
                return false;
            }
        };
        if latest
            .credentials
            .as_ref()
            .is_some_and(|old| are_equal(old, &credentials))
        {
            return false;
        }
        tracing::info!(
            access_key_id = credentials.access_key_id(),
            "the credentials were replaced"
        );
        latest.credentials = Some(credentials);
        regions.sign_with(provider);
        true
    }
}

/// Their origin and expiry do not matter to the store.
fn are_equal(a: &Credentials, b: &Credentials) -> bool {
    a.access_key_id() == b.access_key_id()
        && a.secret_access_key() == b.secret_access_key()
        && a.session_token() == b.session_token()
}

/// Where credentials are looked for.
struct Finder {
    /// Asked for by name.
    profile: Option<String>,
    region: Region,
    connector: Connector,
    use_fips: Option<bool>,
    use_dual_stack: Option<bool>,
}

impl Finder {
    /// Reads all files anew.
    async fn find(&self) -> Result<(SharedCredentialsProvider, Credentials)> {
        let provider = match &self.profile {
            None => SharedCredentialsProvider::new(self.chain().build().await),
            Some(name) => {
                check_profile(name).await?;
                let of_profile = ProfileFileCredentialsProvider::builder()
                    .configure(&self.provider_config())
                    .profile_name(name)
                    .build();
                let rest = self.chain().profile_name(name).build().await;
                SharedCredentialsProvider::new(
                    CredentialsProviderChain::first_try("Profile", of_profile).or_else("Default", rest),
                )
            }
        };
        match provider.provide_credentials().await {
            Ok(credentials) => Ok((provider, credentials)),
            Err(error) => {
                let causes = sources(&error).map(ToString::to_string).collect::<Vec<_>>();
                Err(self.none_found(&causes.join(": ")))
            }
        }
    }

    fn chain(&self) -> aws_config::default_provider::credentials::Builder {
        DefaultCredentialsChain::builder()
            .configure(self.provider_config())
            .region(self.region.clone())
    }

    /// A new one each time: it keeps the files that it has read.
    fn provider_config(&self) -> ProviderConfig {
        ProviderConfig::without_region()
            .with_http_client(self.connector.clone())
            .with_region(Some(self.region.clone()))
            .with_use_fips(self.use_fips)
            .with_use_dual_stack(self.use_dual_stack)
    }

    fn none_found(&self, why: &str) -> Error {
        let profile = self.profile.as_deref().unwrap_or("default");
        let message = format!(
            "no credentials ({why}); looked in the environment (AWS_ACCESS_KEY_ID), in the profile {profile:?} (keys, SSO, \
             credential process, role), for a web identity token (AWS_WEB_IDENTITY_TOKEN_FILE), and asked the container and \
             instance metadata services; buckets that anybody may read need --no-sign-request"
        );
        Error::new(ErrorKind::Denied, message)
    }
}

/// The configuration files, with `profile` selected, or what the environment selects.
///
/// # Errors
/// `Invalid` for files that cannot be understood.
pub(super) async fn read_profiles(profile: Option<&str>) -> Result<ProfileSet> {
    let selected = profile.map(|name| name.to_owned().into());
    #[expect(
        clippy::default_trait_access,
        reason = "the type's name is in another crate of the SDK"
    )]
    let read = profile::load(&Fs::real(), &Env::real(), &Default::default(), selected).await;
    read.map_err(|error| {
        let causes = sources(&error).map(ToString::to_string).collect::<Vec<_>>();
        let message = format!("AWS configuration files: {}", causes.join(": "));
        Error::new(ErrorKind::Invalid, message)
    })
}

/// A name that was mistyped must not give the requests to somebody else.
async fn check_profile(name: &str) -> Result<()> {
    let profiles = read_profiles(Some(name)).await?;
    if profiles.get_profile(name).is_some() {
        return Ok(());
    }
    let known = profiles.profiles().collect::<Vec<_>>().join(", ");
    let message = format!(
        "profile {name:?}: not in the AWS configuration files (~/.aws/config, ~/.aws/credentials, or where AWS_CONFIG_FILE and \
         AWS_SHARED_CREDENTIALS_FILE point to); there are: {known}"
    );
    Err(Error::new(ErrorKind::Invalid, message))
}
