//! Puts on each request what the user's options say, as the last thing before it is signed.
//!
//! Difficulties, and who solves them:
//! 1. An option must not be forgotten for one of the many requests of an edit or a copy: which request takes what is one
//!    table ([`takes`]), by the names of the S3 API Reference.
//! 2. What is written keeps the encryption and the class that the object had, unless an option says otherwise: an option's
//!    headers replace those of the request, and those that would contradict go ([`Stamp::headers`]).
//! 3. Objects from before are not encrypted with the user's own key, and a store refuses requests that bring one for them:
//!    such a request is sent again without it ([`Client::with_key_fallback`]).

use super::client::Client;
use crate::base::error::{Error, Result};
use crate::base::requests::{RequestOptions, WriteEncryption};
use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint;
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, Metadata};
use std::future::Future;

const COPY_SOURCE: &str = "x-amz-copy-source";
const SSE: &str = "x-amz-server-side-encryption";
const KMS_KEY: &str = "x-amz-server-side-encryption-aws-kms-key-id";
const BUCKET_KEY: &str = "x-amz-server-side-encryption-bucket-key-enabled";
const CUSTOMER: [&str; 3] = [
    "x-amz-server-side-encryption-customer-algorithm",
    "x-amz-server-side-encryption-customer-key",
    "x-amz-server-side-encryption-customer-key-md5",
];
const SOURCE_CUSTOMER: [&str; 3] = [
    "x-amz-copy-source-server-side-encryption-customer-algorithm",
    "x-amz-copy-source-server-side-encryption-customer-key",
    "x-amz-copy-source-server-side-encryption-customer-key-md5",
];

/// What one kind of request can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Takes {
    /// It is about a bucket that somebody owns.
    owner: bool,
    /// It says how an object is stored.
    storage: bool,
    /// It needs the key that the object is encrypted with.
    key: bool,
    /// The same, for an object that it copies from.
    source: bool,
}

fn takes(operation: &str) -> Takes {
    let about_a_bucket = Takes {
        owner: true,
        storage: false,
        key: false,
        source: false,
    };
    match operation {
        "ListBuckets" | "CreateBucket" => Takes {
            owner: false,
            ..about_a_bucket
        },
        "PutObject" | "CreateMultipartUpload" => Takes {
            storage: true,
            key: true,
            ..about_a_bucket
        },
        "CopyObject" => Takes {
            storage: true,
            key: true,
            source: true,
            ..about_a_bucket
        },
        "UploadPartCopy" => Takes {
            key: true,
            source: true,
            ..about_a_bucket
        },
        "UploadPart" | "CompleteMultipartUpload" | "GetObject" | "HeadObject" => Takes {
            key: true,
            ..about_a_bucket
        },
        _ => about_a_bucket,
    }
}

/// What becomes of the user's own key in a request that has been stamped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keyed {
    Yes,
    /// The object that is read, or copied from, is not encrypted with it.
    No,
}

impl Keyed {
    pub(super) fn apply(self, request: &mut HttpRequest) {
        if self == Self::Yes {
            return;
        }
        // A copy's destination is encrypted all the same.
        let is_copy = request.headers().contains_key(COPY_SOURCE);
        for name in if is_copy { SOURCE_CUSTOMER } else { CUSTOMER } {
            request.headers_mut().remove(name);
        }
    }
}

impl Client {
    /// Runs `send(Keyed::Yes)`, and without the user's own key where that is refused and may be why.
    pub(super) async fn with_key_fallback<T, F, Fut>(&self, send: F) -> Result<T>
    where
        F: Fn(Keyed) -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        match send(Keyed::Yes).await {
            Err(refusal) if self.inner.requests.customer_key().is_some() && may_mean_no_key(&refusal) => {
                send(Keyed::No).await.map_err(|_| refusal)
            }
            other => other,
        }
    }
}

/// S3 answers 400 for a key that an object is not encrypted with; a HEAD's answer does not say more.
fn may_mean_no_key(refusal: &Error) -> bool {
    let is_code = matches!(
        refusal.s3_code(),
        None | Some("InvalidRequest" | "InvalidArgument")
    );
    refusal.http_status() == Some(400) && is_code
}

#[derive(Debug)]
pub(super) struct Stamp(pub(super) RequestOptions);

impl Stamp {
    /// The headers to set, and those that must not stay.
    fn headers(&self, operation: &str) -> (Vec<(&'static str, &str)>, Vec<&'static str>) {
        let takes = takes(operation);
        let (mut set, mut removed) = (Vec::new(), Vec::new());
        if self.0.requester_pays {
            set.push(("x-amz-request-payer", "requester"));
        }
        if let Some(owner) = self.0.expected_bucket_owner.as_deref().filter(|_| takes.owner) {
            set.push(("x-amz-expected-bucket-owner", owner));
            if takes.source {
                set.push(("x-amz-source-expected-bucket-owner", owner));
            }
        }
        if takes.storage {
            set.extend(
                self.0
                    .storage_class
                    .as_deref()
                    .map(|class| ("x-amz-storage-class", class)),
            );
            set.extend(self.0.acl.as_deref().map(|acl| ("x-amz-acl", acl)));
            if let Some(encryption) = &self.0.encryption {
                removed.extend([SSE, KMS_KEY, BUCKET_KEY]);
                if let WriteEncryption::Store {
                    algorithm,
                    kms_key_id,
                } = encryption
                {
                    set.push((SSE, algorithm));
                    set.extend(kms_key_id.as_deref().map(|id| (KMS_KEY, id)));
                }
            }
        }
        if let Some(key) = self.0.customer_key() {
            let values = ["AES256", key.base64(), key.md5_base64()];
            for (names, is_taken) in [(CUSTOMER, takes.key), (SOURCE_CUSTOMER, takes.source)] {
                set.extend(names.into_iter().zip(values).filter(|_| is_taken));
            }
        }
        (set, removed)
    }
}

#[dyn_dispatch_hint]
impl Intercept for Stamp {
    fn name(&self) -> &'static str {
        "Stamp"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> std::result::Result<(), BoxError> {
        let operation = config.load::<Metadata>().map_or("", Metadata::name);
        let (set, removed) = self.headers(operation);
        let headers = context.request_mut().headers_mut();
        for name in removed {
            headers.remove(name);
        }
        for (name, value) in set {
            headers.try_insert(name, value.to_owned())?;
        }
        Ok(())
    }
}
