//! The options of the commands on buckets, as clap reads them.

use super::location::Location;
use super::transfer::Wanted;
use crate::cli::args::{EndpointArgs, LogArgs, MetadataFormatArg, StateArgs};
use crate::cli::units::{parse_duration, parse_link_lifetime, parse_size_bytes};
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

/// What all of them take.
#[derive(Args, Clone, Debug, Default)]
pub struct CommonArgs {
    /// Print JSON, as docs/commands.schema.json has it; errors too, as the last line of standard error
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub endpoint: EndpointArgs,
    #[command(flatten)]
    pub log: LogArgs,
}

#[derive(Args, Clone, Debug)]
pub struct BucketsArgs {
    /// Creation dates too
    #[arg(short, long, conflicts_with = "json")]
    pub long: bool,
    #[command(flatten)]
    pub common: CommonArgs,
}

#[derive(Args, Clone, Debug)]
pub struct LsArgs {
    /// s3://BUCKET[/PREFIX]: the keys that begin with PREFIX
    #[arg(value_name = "s3://BUCKET[/PREFIX]", value_parser = Location::parse)]
    pub location: Location,
    /// All keys, rather than one directory's keys and directories
    #[arg(short, long)]
    pub recursive: bool,
    /// Sizes in bytes and times of modification too
    #[arg(short, long)]
    pub long: bool,
    /// A signed link to each object
    #[arg(long)]
    pub signed_url: bool,
    /// How long the links live
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = parse_link_lifetime, requires = "signed_url")]
    pub expires: Duration,
    /// Stop after so many lines
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    #[command(flatten)]
    pub common: CommonArgs,
}

/// Of the commands that move objects.
#[derive(Args, Clone, Debug, Default)]
pub struct TransferArgs {
    /// Hard limit of all data buffers [default: 128MiB, or an eighth of the memory limit if that is less]
    #[arg(long, value_name = "SIZE", env = "PAILFS_MEMORY", value_parser = parse_size_bytes, help_heading = "Limits")]
    pub memory: Option<u64>,
    /// Without progress for so long the command fails [default: 60s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration, help_heading = "Limits")]
    pub stall_timeout: Option<Duration>,
}

/// What `cat` makes of an object's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Encoding {
    /// Text; anything else is an error
    Utf8,
    /// Any bytes (RFC 4648)
    Base64,
    /// A JSON document; anything else is an error
    Json,
}

#[derive(Args, Clone, Debug)]
pub struct CatArgs {
    #[arg(value_name = "s3://BUCKET/KEY", value_parser = Location::parse)]
    pub location: Location,
    /// A part of the object: A-B (both included, from 0), A- or -N (the last N bytes)
    #[arg(long, value_name = "A-B", value_parser = Wanted::parse, allow_hyphen_values = true)]
    pub range: Option<Wanted>,
    /// What the bytes are to be [default: the bytes as they are; with --json: utf8]
    #[arg(long, value_name = "HOW")]
    pub encoding: Option<Encoding>,
    #[command(flatten)]
    pub transfer: TransferArgs,
    #[command(flatten)]
    pub common: CommonArgs,
}

#[derive(Args, Clone, Debug)]
pub struct GetArgs {
    #[arg(value_name = "s3://BUCKET/KEY", value_parser = Location::parse)]
    pub location: Location,
    /// Where to, replacing what is there [default: the current directory]
    #[arg(value_name = "FILE|DIR")]
    pub destination: Option<PathBuf>,
    #[command(flatten)]
    pub transfer: TransferArgs,
    #[command(flatten)]
    pub common: CommonArgs,
}

#[derive(Args, Clone, Debug)]
pub struct PutArgs {
    /// What to upload; -: standard input
    #[arg(value_name = "FILE|-")]
    pub file: PathBuf,
    /// Where to, replacing what is there; a KEY that ends in / is a directory
    #[arg(value_name = "s3://BUCKET/KEY", value_parser = Location::parse)]
    pub location: Location,
    /// Content type [default: by the extension]
    #[arg(long, value_name = "TYPE")]
    pub content_type: Option<String>,
    /// Decode the input (RFC 4648; white space is skipped); anything else is an error, and nothing is written
    #[arg(long)]
    pub base64: bool,
    /// Only if there is no such object
    #[arg(long, conflicts_with = "if_match")]
    pub if_none_match: bool,
    /// Only if the object is this version
    #[arg(long, value_name = "ETAG")]
    pub if_match: Option<String>,
    /// How mode, owner and time of the file are written to the object [default: aws]
    #[arg(long, value_name = "FORMAT")]
    pub metadata_format: Option<MetadataFormatArg>,
    #[command(flatten)]
    pub transfer: TransferArgs,
    #[command(flatten)]
    pub state: StateArgs,
    #[command(flatten)]
    pub common: CommonArgs,
}

#[derive(Args, Clone, Debug)]
pub struct RmArgs {
    #[arg(value_name = "s3://BUCKET/KEY", value_parser = Location::parse, required = true)]
    pub locations: Vec<Location>,
    /// Everything below KEY/ too; asks on a terminal
    #[arg(short, long)]
    pub recursive: bool,
    /// Do not ask
    #[arg(short, long, requires = "recursive")]
    pub yes: bool,
    /// A key that is not there is no failure
    #[arg(long)]
    pub missing_ok: bool,
    #[command(flatten)]
    pub common: CommonArgs,
}

#[derive(Args, Clone, Debug)]
pub struct VersionsArgs {
    /// s3://BUCKET[/PREFIX]: the keys that begin with PREFIX
    #[arg(value_name = "s3://BUCKET[/PREFIX]", value_parser = Location::parse)]
    pub location: Location,
    /// Stop after so many lines
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    #[command(flatten)]
    pub common: CommonArgs,
}

#[derive(Args, Clone, Debug)]
pub struct UndeleteArgs {
    #[arg(value_name = "s3://BUCKET/KEY", value_parser = Location::parse, required = true)]
    pub locations: Vec<Location>,
    /// Everything below KEY/ too
    #[arg(short, long)]
    pub recursive: bool,
    #[command(flatten)]
    pub common: CommonArgs,
}

#[derive(Args, Clone, Debug)]
pub struct UrlArgs {
    #[arg(value_name = "s3://BUCKET/KEY", value_parser = Location::parse)]
    pub location: Location,
    /// How long the link lives, at most 7 days
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = parse_link_lifetime)]
    pub expires: Duration,
    /// A link that uploads the object instead of downloading it
    #[arg(long)]
    pub put: bool,
    #[command(flatten)]
    pub common: CommonArgs,
}
