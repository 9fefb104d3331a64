//! Everything that a mount was asked to be, validated: plain values that every layer may read.
//! `cli` makes one from options, environment and defaults; nothing else does.

use crate::base::attributes::MetadataFormat;
use crate::base::prices::RequestPrices;
use crate::base::requests::RequestOptions;
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Every bucket of the account, as a directory.
    AllBuckets,
    /// One bucket, or what is below one prefix of it. `prefix` is empty or ends in `/`.
    Bucket { bucket: String, prefix: String },
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AllBuckets => f.write_str("s3://"),
            Self::Bucket { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::Bucket { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

/// How bucket names go into URLs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PathStyle {
    /// Virtual-host style on AWS, path style on any other endpoint.
    #[default]
    Auto,
    Always,
    Never,
}

/// How the store is reached. What is `None` is found in the environment and the AWS configuration files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointConfig {
    pub endpoint_url: Option<String>,
    pub region: Option<String>,
    pub profile: Option<String>,
    pub path_style: PathStyle,
    /// Send requests without a signature, for public buckets.
    pub no_sign_request: bool,
    /// What all requests carry.
    pub requests: RequestOptions,
    /// What the user says the store does, as `NAME=HOW` settings (`s3::Capabilities` in its printed form); wins over
    /// what is found out or remembered.
    pub capabilities: String,
    /// A PEM file with certificates to trust besides the system's.
    pub ca_bundle: Option<PathBuf>,
    /// Given keys, instead of looking for credentials.
    pub keys: Option<AccessKeys>,
}

/// A pair of keys. Its `Debug` output hides the secret one.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessKeys {
    pub access_key_id: String,
    pub secret_access_key: String,
}

impl fmt::Debug for AccessKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccessKeys({}, …)", self.access_key_id)
    }
}

/// Where attributes of files come from (`--attributes`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AttributesMode {
    /// Objects that a listing marks as ours are asked (HEAD); others get the defaults.
    #[default]
    Auto,
    /// Every object is asked once.
    Full,
    /// None is asked: size and time from the listing, the rest from the defaults.
    Listing,
}

/// What becomes of a local version when somebody else's newer object is there (`--on-conflict`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnConflict {
    /// It is kept on this machine.
    #[default]
    Keep,
    /// It is also written beside the object, under a name of its own.
    Copy,
    /// It is dropped. Whoever wrote it is told, as always.
    Fail,
    /// It replaces the newer object.
    Overwrite,
}

/// How long listings and attributes are believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetadataTtl {
    For(Duration),
    Forever,
}

impl fmt::Display for MetadataTtl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::For(duration) => write!(f, "{duration:?}"),
            Self::Forever => f.write_str("forever"),
        }
    }
}

/// What a mount shows of a versioned bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ViewOf {
    /// What is there now.
    #[default]
    Now,
    /// What was there then.
    At(SystemTime),
    /// What is there now, and in each directory a hidden one with all versions.
    AllVersions,
}

/// Flags of mount(8) that the kernel carries out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KernelFlag {
    Dev,
    NoDev,
    Suid,
    NoSuid,
    Exec,
    NoExec,
    Sync,
    Async,
    DirSync,
    Atime,
    NoAtime,
}

/// Who owns files that do not say so themselves, and who may use the mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    pub uid: u32,
    pub gid: u32,
    /// Permission bits of files and of directories, without type bits.
    pub file_mode: u32,
    pub dir_mode: u32,
    pub read_only: bool,
    /// Other users than the mounting one may use the mount; the kernel then checks permissions.
    pub allow_other: bool,
    pub default_permissions: bool,
}

/// Which files the kernel may read in the disk cache by itself (`--passthrough`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Passthrough {
    /// Those that cannot be changed through the mount.
    #[default]
    Auto,
    /// All; those that are being read cannot be changed meanwhile.
    Always,
    Never,
}

/// One mount, complete and valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountConfig {
    pub source: Source,
    /// Absolute.
    pub mount_point: PathBuf,
    pub endpoint: EndpointConfig,
    pub access: Access,
    pub view: ViewOf,
    /// `mkdir` and `rmdir` in the root of an [`Source::AllBuckets`] mount create and delete buckets.
    pub allow_bucket_changes: bool,
    pub attributes: AttributesMode,
    /// So many HEADs run ahead of a walk at a time; not zero.
    pub head_parallelism: usize,
    pub metadata_format: MetadataFormat,
    /// Show `user.s3.*` in lists of xattrs.
    pub list_virtual_xattrs: bool,
    /// Of the links in `user.s3.presigned-url`.
    pub presigned_url_lifetime: Duration,
    pub metadata_ttl: MetadataTtl,
    /// The address of the queue that tells what others change.
    pub notifications: Option<String>,
    pub on_conflict: OnConflict,
    /// To tell what the mount has cost.
    pub request_prices: Option<RequestPrices>,
    /// The hard limit of all data buffers.
    pub memory_bytes: u64,
    /// An operation without progress for so long answers `ETIMEDOUT`.
    pub stall_timeout: Duration,
    /// Both absolute.
    pub state_dir: PathBuf,
    pub cache_dir: PathBuf,
    /// The most that unsent data may take in `state_dir`, beside what is saved when it cannot be sent; `None`: the disk's.
    pub spool_size_bytes: Option<u64>,
    /// The most that is kept in `state_dir` for open handles of files that were unlinked or replaced.
    pub keep_open_limit_bytes: u64,
    /// The most that file contents may take in `cache_dir`; `None`: they are not kept there.
    pub cache_size_bytes: Option<u64>,
    pub passthrough: Passthrough,
    /// What mount tables show as the source, and after `fuse.` as the type. No commas in either.
    pub fsname: String,
    pub subtype: String,
    /// Without contradictions, sorted.
    pub kernel_flags: Vec<KernelFlag>,
}
