//! The command line as clap reads it: no side effects, no defaults that depend on the machine.
//!
//! Difficulties, and who solves each:
//! 1. `mount` takes an optional source before a required mount point: [`MountArgs::paths`] takes one or two words and
//!    `mount_config` tells them apart.
//! 2. mount(8) and fstab pass options as `-o a,b=c`: `mount_options` turns them into the same [`MountArgs`].
//! 3. mount(8) calls a helper as `mount.pailfs SOURCE DIR [-sfnv] [-o OPTIONS]`, libfuse's helper as
//!    `pailfs SOURCE DIR -o OPTIONS`: [`normalise`] makes both `pailfs mount …` before clap sees them.

use crate::base::attributes::MetadataFormat;
use crate::base::mount_config::{AttributesMode, MetadataTtl, OnConflict, Passthrough, PathStyle};
use crate::base::prices::RequestPrices;
use crate::cli::bucket::args::{
    BucketsArgs, CatArgs, GetArgs, LsArgs, PutArgs, RmArgs, UndeleteArgs, UrlArgs, VersionsArgs,
};
use crate::cli::failure::EXIT_CODES_HELP;
use crate::cli::request_args::RequestArgs;
use crate::cli::units::{
    parse_count, parse_duration, parse_link_lifetime, parse_mode, parse_past, parse_size_bytes, parse_ttl,
};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// Mount S3 buckets as directories: one object is one file, byte for byte.
#[derive(Debug, Parser)]
#[command(name = "pailfs", version, after_help = EXIT_CODES_HELP, after_long_help = EXIT_CODES_HELP)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Mount a bucket, a prefix of one, or all buckets
    #[command(
        override_usage = "pailfs mount [OPTIONS] [s3://BUCKET[/PREFIX]] MOUNTPOINT",
        long_about = "Mount a bucket, a prefix of one, or (without a source) all buckets as directories.\n\n\
            Returns when the mount is live; the work goes on in the background. Credentials are found as the AWS tools \
            find them: environment, profiles, SSO, web identity, container and instance roles.",
        after_long_help = EXIT_CODES_HELP
    )]
    Mount(Box<MountArgs>),
    /// Unmount: waits until everything is in the bucket
    #[command(alias = "umount", after_long_help = EXIT_CODES_HELP)]
    Unmount(UnmountArgs),
    /// Forget what a mount believes about a path and all below it: the next look asks the bucket
    #[command(after_long_help = EXIT_CODES_HELP)]
    Refresh(RefreshArgs),
    /// Show or clear the cache of file contents, or fill it
    #[command(after_long_help = EXIT_CODES_HELP)]
    Cache(CacheArgs),
    /// Try it out: a local store with two sample buckets, mounted, until Ctrl-C
    Demo(DemoArgs),
    /// Run a local S3 store over a directory, on loopback
    Serve(ServeArgs),
    /// List, save or drop local versions that lost against a newer object
    Conflicts(ConflictsArgs),
    /// List the buckets of the account
    #[command(after_long_help = EXIT_CODES_HELP)]
    Buckets(BucketsArgs),
    /// List a bucket's keys
    #[command(after_long_help = EXIT_CODES_HELP)]
    Ls(LsArgs),
    /// Write an object to standard output
    #[command(after_long_help = EXIT_CODES_HELP)]
    Cat(CatArgs),
    /// Download an object to a file
    #[command(after_long_help = EXIT_CODES_HELP)]
    Get(GetArgs),
    /// Upload a file, or standard input, to an object
    #[command(after_long_help = EXIT_CODES_HELP)]
    Put(PutArgs),
    /// Delete objects
    #[command(after_long_help = EXIT_CODES_HELP)]
    Rm(RmArgs),
    /// List the versions of objects in a versioned bucket
    #[command(after_long_help = EXIT_CODES_HELP)]
    Versions(VersionsArgs),
    /// Bring back what was deleted in a versioned bucket
    #[command(after_long_help = EXIT_CODES_HELP)]
    Undelete(UndeleteArgs),
    /// Print a signed link to an object
    #[command(after_long_help = EXIT_CODES_HELP)]
    Url(UrlArgs),
    /// Detaches a mount whose daemon died (started by `mount`, not by people)
    #[command(hide = true)]
    WatchMount(WatchMountArgs),
}

/// How the store is reached; shared by the commands that talk to one.
#[derive(Args, Clone, Debug, Default)]
pub struct EndpointArgs {
    /// URL of the store, for stores other than AWS (also: AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL)
    #[arg(long, value_name = "URL", help_heading = "Store")]
    pub endpoint_url: Option<String>,
    /// Region; found out when not given
    #[arg(long, value_name = "NAME", help_heading = "Store")]
    pub region: Option<String>,
    /// Profile of the AWS configuration files
    #[arg(long, value_name = "NAME", help_heading = "Store")]
    pub profile: Option<String>,
    /// Bucket names in the path of URLs, rather than in the host name
    #[arg(long, value_name = "WHEN", help_heading = "Store")]
    pub path_style: Option<PathStyleArg>,
    /// Send requests without a signature, for public buckets
    #[arg(long, help_heading = "Store")]
    pub no_sign_request: bool,
    #[command(flatten)]
    pub requests: RequestArgs,
    /// What the store does with a feature, rather than finding out: NAME=honoured|ignored|refused|unknown; may be repeated
    #[arg(long = "capability", value_name = "NAME=HOW", help_heading = "Store")]
    pub capabilities: Vec<String>,
    /// PEM file with certificates to trust besides the system's
    #[arg(long, value_name = "FILE", env = "AWS_CA_BUNDLE", help_heading = "Store")]
    pub ca_bundle: Option<PathBuf>,
}

#[derive(Args, Clone, Debug, Default)]
pub struct LogArgs {
    /// off, error, warn, info, debug, trace, or target=level,…
    #[arg(long, value_name = "LEVEL", env = "PAILFS_LOG_LEVEL", help_heading = "Log")]
    pub log_level: Option<String>,
    /// Append the log to this file (default: a file in the state directory; standard error with --foreground)
    #[arg(long, value_name = "FILE", help_heading = "Log")]
    pub log_file: Option<PathBuf>,
}

/// Where local state lives.
#[derive(Args, Clone, Debug, Default)]
pub struct StateArgs {
    /// Directory for unsent data and records that must survive (default: ~/.local/state/pailfs; root: /var/lib/pailfs)
    #[arg(
        long,
        value_name = "DIR",
        env = "PAILFS_STATE_DIR",
        help_heading = "Local files"
    )]
    pub state_dir: Option<PathBuf>,
}

/// The options of `mount`, from the command line and from `-o`.
#[derive(Args, Clone, Debug, Default)]
pub struct MountArgs {
    /// What to mount (all buckets when left out), and where
    #[arg(value_name = "SOURCE] MOUNTPOINT", num_args = 1..=2, required = true)]
    pub paths: Vec<OsString>,
    /// Stay in the foreground and log to standard error
    #[arg(short, long)]
    pub foreground: bool,
    /// Options as mount(8) passes them; every option below can be given so, with `_` for `-`
    #[arg(short, value_name = "A,B=C", action = clap::ArgAction::Append)]
    pub options: Vec<String>,

    #[command(flatten)]
    pub endpoint: EndpointArgs,

    /// Refuse all changes
    #[arg(short = 'r', long, help_heading = "Access")]
    pub read_only: bool,
    /// Show a versioned bucket as it was then (such as 2026-11-01T12:00:00Z), read-only
    #[arg(long, value_name = "TIME", value_parser = parse_past, conflicts_with = "versions", help_heading = "Access")]
    pub at: Option<SystemTime>,
    /// In each directory of a versioned bucket, a hidden one called .versions that has all versions of its files
    #[arg(long, help_heading = "Access")]
    pub versions: bool,
    /// Let other users use the mount; the kernel checks permissions (needs user_allow_other in /etc/fuse.conf)
    #[arg(long, help_heading = "Access")]
    pub allow_other: bool,
    /// mkdir and rmdir beside the buckets create and delete buckets
    #[arg(long, help_heading = "Access")]
    pub allow_bucket_changes: bool,
    /// Owner of files that do not name one: a user's name or number
    #[arg(long, value_name = "USER", help_heading = "Access")]
    pub uid: Option<String>,
    /// Group of files that do not name one: a group's name or number
    #[arg(long, value_name = "GROUP", help_heading = "Access")]
    pub gid: Option<String>,
    /// Permissions of files that do not name any, octal [default: 0644]
    #[arg(long, value_name = "MODE", value_parser = parse_mode, help_heading = "Access")]
    pub file_mode: Option<u32>,
    /// Permissions of directories that do not name any, octal [default: 0755]
    #[arg(long, value_name = "MODE", value_parser = parse_mode, help_heading = "Access")]
    pub dir_mode: Option<u32>,
    /// Bits to take away from those permissions, octal
    #[arg(long, value_name = "MODE", value_parser = parse_mode, help_heading = "Access")]
    pub umask: Option<u32>,

    /// Where mode, owner and times come from: auto asks only objects that carry them, full asks every object once,
    /// listing asks none [default: auto]
    #[arg(long, value_name = "HOW", help_heading = "Metadata")]
    pub attributes: Option<AttributesArg>,
    /// How many objects of a directory that is being walked are asked for theirs at a time [default: 32]
    #[arg(long, value_name = "N", value_parser = parse_count, help_heading = "Metadata")]
    pub head_parallelism: Option<u16>,
    /// How mode, owner and times are written to objects [default: aws]
    #[arg(long, value_name = "FORMAT", help_heading = "Metadata")]
    pub metadata_format: Option<MetadataFormatArg>,
    /// Show user.s3.* in lists of extended attributes, where copying programs find and copy them
    #[arg(long, help_heading = "Metadata")]
    pub list_virtual_xattrs: bool,
    /// How long the links in user.s3.presigned-url live, at most 7 days [default: 5m]
    #[arg(long, value_name = "TIME", value_parser = parse_link_lifetime, help_heading = "Metadata")]
    pub presigned_url_lifetime: Option<Duration>,
    /// How long listings and attributes are believed, or "forever" [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = parse_ttl, help_heading = "Metadata")]
    pub metadata_ttl: Option<MetadataTtl>,
    /// The SQS queue, of this mount alone, to which the bucket sends its event notifications: what others change is seen when
    /// they tell of it, so that --metadata-ttl may be long
    #[arg(long, value_name = "QUEUE_URL", help_heading = "Metadata")]
    pub notifications: Option<String>,

    /// What becomes of a local version when another host's newer object is there: keep it on this machine, copy it beside the
    /// object too, fail without keeping it, overwrite the object [default: keep]
    #[arg(long, value_name = "HOW", help_heading = "Writing")]
    pub on_conflict: Option<OnConflictArg>,
    /// Prices of a thousand requests and of a gigabyte received, such as put=0.005:get=0.0004:list=0.005:received=0.09;
    /// the log then tells what the mount has cost, at its end and upon SIGUSR1
    #[arg(long, value_name = "PRICES", value_parser = RequestPrices::parse, help_heading = "Log")]
    pub request_prices: Option<RequestPrices>,

    /// Hard limit of all data buffers [default: 256MiB, or an eighth of the memory limit if that is less]
    #[arg(long, value_name = "SIZE", env = "PAILFS_MEMORY", value_parser = parse_size_bytes, help_heading = "Limits")]
    pub memory: Option<u64>,
    /// An operation without progress for so long fails with ETIMEDOUT [default: 60s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration, help_heading = "Limits")]
    pub stall_timeout: Option<Duration>,
    /// How much unsent data may lie in the state directory, beside what is saved when it cannot be sent and what sending
    /// needs room for; beyond it writers wait until data is sent, and after the stall time-out get EDQUOT. Streams need none
    /// [default: as much as the disk has]
    #[arg(long, value_name = "SIZE", value_parser = parse_size_bytes, help_heading = "Limits")]
    pub spool_size: Option<u64>,
    /// How much of files that were unlinked or replaced while they were open may be kept in the state directory, once
    /// something else takes their name; programs that still read what does not fit get ESTALE [default: 1GiB]
    #[arg(long, value_name = "SIZE", value_parser = parse_size_bytes, help_heading = "Limits")]
    pub keep_open_limit: Option<u64>,

    #[command(flatten)]
    pub state: StateArgs,
    /// Directory for what can be thrown away (default: ~/.cache/pailfs; root: /var/cache/pailfs)
    #[arg(
        long,
        value_name = "DIR",
        env = "PAILFS_CACHE_DIR",
        help_heading = "Local files"
    )]
    pub cache_dir: Option<PathBuf>,

    /// Keep contents of files that are read in the cache directory, up to this size (in all mounts that share it)
    /// [default: 0, none]
    #[arg(long, value_name = "SIZE", value_parser = parse_size_bytes, help_heading = "Local files")]
    pub cache_size: Option<u64>,
    /// Whether the kernel reads large files that are wholly in that cache by itself, as fast as local ones; needs root. "auto"
    /// does so with files that cannot be changed through the mount: all of a --read-only mount, and old versions. "always" does
    /// so with all; a file that is being read cannot be changed meanwhile (ETXTBSY), but replaced [default: auto]
    #[arg(long, value_name = "WHEN", value_enum, help_heading = "Local files")]
    pub passthrough: Option<PassthroughArg>,

    /// Name that mount tables show as the source [default: the source]
    #[arg(long, value_name = "NAME", help_heading = "Mount table")]
    pub fsname: Option<String>,
    /// Type that mount tables show after "fuse." [default: pailfs]
    #[arg(long, value_name = "NAME", help_heading = "Mount table")]
    pub subtype: Option<String>,

    #[command(flatten)]
    pub log: LogArgs,

    /// This process is the background daemon: report on standard output, once
    #[arg(long, hide = true)]
    pub daemon: bool,
    /// Check the options, and mount nothing (what mount(8) calls fake)
    #[arg(long, hide = true)]
    pub rehearse: bool,
}

#[derive(Args, Clone, Debug)]
pub struct UnmountArgs {
    #[arg(value_name = "MOUNTPOINT")]
    pub mount_point: PathBuf,
    #[command(flatten)]
    pub state: StateArgs,
}

#[derive(Args, Clone, Debug)]
pub struct CacheArgs {
    /// The cache directory of the mounts (default: ~/.cache/pailfs; root: /var/cache/pailfs)
    #[arg(long, value_name = "DIR", env = "PAILFS_CACHE_DIR", global = true)]
    pub cache_dir: Option<PathBuf>,
    #[command(subcommand)]
    pub action: CacheAction,
}

#[derive(Clone, Debug, Subcommand)]
pub enum CacheAction {
    /// How much is in it
    Status,
    /// Remove everything from it; mounts that use it go on
    Clear,
    /// Bring files, and all files below directories, into the cache of the mount with --cache-size that they are in
    Warm {
        /// Files and directories in a mount
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
        /// Files that are brought at the same time
        #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
        parallel: u16,
    },
}

#[derive(Args, Clone, Debug)]
pub struct RefreshArgs {
    /// A file or directory in a mount, or the mount point
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    #[command(flatten)]
    pub state: StateArgs,
}

#[derive(Args, Clone, Debug)]
pub struct DemoArgs {
    /// Directory for the store's data, made when absent (default: "demo" in the state directory; temporary with --once)
    pub dir: Option<PathBuf>,
    /// Walk through what can be done, checking every step, and exit
    #[arg(long)]
    pub once: bool,
    #[command(flatten)]
    pub state: StateArgs,
    #[command(flatten)]
    pub log: LogArgs,
}

#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// Directory for the store's data, made when absent
    pub dir: PathBuf,
    /// Port on 127.0.0.1; 0: any free one
    #[arg(long, default_value_t = 0)]
    pub port: u16,
    #[command(flatten)]
    pub log: LogArgs,
}

#[derive(Args, Clone, Debug)]
pub struct ConflictsArgs {
    #[command(flatten)]
    pub state: StateArgs,
    #[command(flatten)]
    pub log: LogArgs,
    #[command(subcommand)]
    pub action: Option<ConflictsAction>,
}

#[derive(Clone, Debug, Subcommand)]
pub enum ConflictsAction {
    /// Show them all (the default)
    List {
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Tell what one of them is, and what can be done with it
    Show {
        /// As `list` shows it; its first digits are enough
        id: String,
        /// As a JSON object
        #[arg(long)]
        json: bool,
    },
    /// Copy a local version to a file
    Save {
        /// As `list` shows it
        id: String,
        /// The file to make
        file: PathBuf,
        /// Replace the file if it exists
        #[arg(long)]
        force: bool,
        /// Tell what was done as a JSON object
        #[arg(long)]
        json: bool,
    },
    /// Write a local version over the object, if that is still the version that it lost against
    Apply {
        /// As `list` shows it
        id: String,
        /// Also over a version that is newer still
        #[arg(long)]
        force: bool,
        /// Tell what was done as a JSON object
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        endpoint: Box<EndpointArgs>,
    },
    /// Delete a local version for good
    Drop {
        /// As `list` shows it
        id: String,
        /// Tell what was done as a JSON object
        #[arg(long)]
        json: bool,
        /// To abort the upload that holds the version, where one does
        #[command(flatten)]
        endpoint: Box<EndpointArgs>,
    },
}

#[derive(Args, Clone, Debug)]
pub struct WatchMountArgs {
    pub mount_point: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PathStyleArg {
    Auto,
    Always,
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AttributesArg {
    Auto,
    Full,
    Listing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MetadataFormatArg {
    Aws,
    S3fs,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnConflictArg {
    Keep,
    Copy,
    Fail,
    Overwrite,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PassthroughArg {
    Auto,
    Always,
    Never,
}

impl From<PassthroughArg> for Passthrough {
    fn from(arg: PassthroughArg) -> Self {
        match arg {
            PassthroughArg::Auto => Self::Auto,
            PassthroughArg::Always => Self::Always,
            PassthroughArg::Never => Self::Never,
        }
    }
}

impl From<OnConflictArg> for OnConflict {
    fn from(arg: OnConflictArg) -> Self {
        match arg {
            OnConflictArg::Keep => Self::Keep,
            OnConflictArg::Copy => Self::Copy,
            OnConflictArg::Fail => Self::Fail,
            OnConflictArg::Overwrite => Self::Overwrite,
        }
    }
}

impl From<PathStyleArg> for PathStyle {
    fn from(arg: PathStyleArg) -> Self {
        match arg {
            PathStyleArg::Auto => Self::Auto,
            PathStyleArg::Always => Self::Always,
            PathStyleArg::Never => Self::Never,
        }
    }
}

impl From<AttributesArg> for AttributesMode {
    fn from(arg: AttributesArg) -> Self {
        match arg {
            AttributesArg::Auto => Self::Auto,
            AttributesArg::Full => Self::Full,
            AttributesArg::Listing => Self::Listing,
        }
    }
}

impl From<MetadataFormatArg> for MetadataFormat {
    fn from(arg: MetadataFormatArg) -> Self {
        match arg {
            MetadataFormatArg::Aws => Self::Aws,
            MetadataFormatArg::S3fs => Self::S3fs,
            MetadataFormatArg::None => Self::None,
        }
    }
}

/// Rewrites the ways in which mount helpers call a filesystem into `pailfs mount …`; anything else stays as it is.
/// `arguments` includes the program's name.
#[must_use]
pub fn normalise(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let program = arguments.first().map(PathBuf::from).unwrap_or_default();
    let program = program.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let is_helper = matches!(
        program,
        "mount.pailfs" | "mount.fuse.pailfs" | "mount.fuse3.pailfs"
    );
    let first_is_source = arguments
        .get(1)
        .and_then(|word| word.to_str())
        .is_some_and(|word| word.starts_with("s3://"));
    if !is_helper && !first_is_source {
        return arguments;
    }
    let mut result = vec![OsString::from("pailfs"), OsString::from("mount")];
    let mut words = arguments.drain(..).skip(1);
    while let Some(word) = words.next() {
        match word.to_str() {
            // The file system's type and the mount namespace, already decided when the helper runs.
            Some("-t" | "-N") if is_helper => drop(words.next()),
            Some(flags) if is_helper && is_flags_of_mount(flags) => {
                if flags.contains('f') {
                    result.push("--rehearse".into());
                }
            }
            _ => result.push(word),
        }
    }
    result
}

/// mount(8), "EXTERNAL HELPERS": sloppy, fake, no mtab, verbose. Nothing of ours depends on any but the second.
fn is_flags_of_mount(word: &str) -> bool {
    word.strip_prefix('-')
        .is_some_and(|flags| !flags.is_empty() && flags.chars().all(|flag| "sfnv".contains(flag)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn the_definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn helpers_calls_become_mount_commands() {
        for (call, expected) in [
            (
                "mount.pailfs s3://b /mnt -o rw,_netdev",
                "pailfs mount s3://b /mnt -o rw,_netdev",
            ),
            (
                "/sbin/mount.fuse.pailfs s3://b /mnt -sn -t fuse.pailfs -o rw",
                "pailfs mount s3://b /mnt -o rw",
            ),
            (
                "mount.pailfs s3://b /mnt -fv",
                "pailfs mount s3://b /mnt --rehearse",
            ),
            ("pailfs s3://b/p /mnt -o ro", "pailfs mount s3://b/p /mnt -o ro"),
            ("pailfs mount /mnt", "pailfs mount /mnt"),
            ("pailfs", "pailfs"),
        ] {
            assert_eq!(normalise(words(call)), words(expected), "{call}");
        }
    }

    #[test]
    fn an_option_list_may_be_given_more_than_once() {
        let cli = Cli::try_parse_from(words("pailfs mount s3://b /mnt -o ro -o uid=5 --memory 64M"))
            .expect("parses");
        let Command::Mount(args) = cli.command else {
            panic!("not mount: {cli:?}")
        };
        assert_eq!(args.paths, words("s3://b /mnt"));
        assert_eq!(args.options, ["ro", "uid=5"]);
        assert_eq!(args.memory, Some(64 << 20));
    }

    #[test]
    fn wrong_values_are_refused_by_name() {
        for (line, part) in [
            ("pailfs mount /mnt --memory lots", "lots"),
            ("pailfs mount /mnt --file-mode 999", "999"),
            ("pailfs mount /mnt --metadata-ttl never", "never"),
            ("pailfs mount /mnt --path-style some", "some"),
            ("pailfs mount", "MOUNTPOINT"),
            ("pailfs mount a b c", "c"),
        ] {
            let message = Cli::try_parse_from(words(line)).expect_err(line).to_string();
            assert!(message.contains(part), "{message}");
        }
    }
}
