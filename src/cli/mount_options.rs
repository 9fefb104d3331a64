//! `-o a,b=c`, as mount(8), fstab and fusermount know it, turned into the same [`MountArgs`] as the long options. Pure.
//!
//! Difficulties, and who solves each:
//! 1. mount(8) passes on options that are for itself, for systemd or for the network's start-up: [`is_for_others`].
//! 2. An unknown option must not be swallowed (it may be a misspelt `ro`), so it is an error that names it.
//! 3. The last of contradictory flags wins, as with mount(8) ([`set_kernel_flag`], `ro`/`rw`); a long option given
//!    beside `-o` wins over it, because it is more deliberate than a line in fstab.

use crate::base::mount_config::KernelFlag;
use crate::base::prices::RequestPrices;
use crate::cli::args::{MountArgs, PathStyleArg};
use crate::cli::units::{
    parse_count, parse_duration, parse_link_lifetime, parse_mode, parse_past, parse_size_bytes, parse_ttl,
};
use clap::ValueEnum;

/// What `-o` says beyond what [`MountArgs`] can hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtraOptions {
    pub kernel_flags: Vec<KernelFlag>,
    pub default_permissions: bool,
}

/// mount(8) gives all options of the mount again, the kernel's own among them.
const CANNOT_REMOUNT: &str = "-o remount: a mount keeps its options. `mount -i -o remount,ro MOUNTPOINT` has the kernel refuse \
    writing (rw: no more); for anything else unmount it and mount it again";

/// Moves everything in `args.options` into the other fields of `args`.
///
/// # Errors
/// The text that names the option which is unknown or has a wrong value.
pub fn apply(args: &mut MountArgs) -> Result<ExtraOptions, String> {
    let mut extra = ExtraOptions::default();
    let mut from_options = MountArgs::default();
    let mut all = args.options.iter().flat_map(|list| list.split(','));
    if all.any(|option| option == "remount") {
        return Err(CANNOT_REMOUNT.into());
    }
    for list in std::mem::take(&mut args.options) {
        for option in list.split(',').filter(|option| !option.is_empty()) {
            apply_one(option, &mut from_options, &mut extra)
                .map_err(|message| format!("-o {option}: {message}"))?;
        }
    }
    merge(args, from_options);
    extra.kernel_flags.sort_unstable();
    Ok(extra)
}

fn apply_one(option: &str, args: &mut MountArgs, extra: &mut ExtraOptions) -> Result<(), String> {
    let (name, value) = match option.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (option, None),
    };
    if is_for_others(name) {
        return Ok(());
    }
    let name = name.replace('-', "_");
    if let Some(value) = value {
        return apply_value(&name, value, args);
    }
    if let Some(flag) = kernel_flag(&name) {
        set_kernel_flag(&mut extra.kernel_flags, flag);
        return Ok(());
    }
    match name.as_str() {
        "ro" | "read_only" => args.read_only = true,
        "rw" => args.read_only = false,
        "versions" => args.versions = true,
        "allow_other" => args.allow_other = true,
        "allow_bucket_changes" => args.allow_bucket_changes = true,
        "list_virtual_xattrs" => args.list_virtual_xattrs = true,
        "no_sign_request" => args.endpoint.no_sign_request = true,
        "requester_pays" => args.endpoint.requests.requester_pays = true,
        "use_path_request_style" => args.endpoint.path_style = Some(PathStyleArg::Always),
        "default_permissions" => extra.default_permissions = true,
        "foreground" => args.foreground = true,
        "allow_root" => return Err("not supported; use allow_other".into()),
        name if takes_value(name) => return Err(format!("needs a value: {name}=…")),
        _ => return Err("unknown option".into()),
    }
    Ok(())
}

fn apply_value(name: &str, value: &str, args: &mut MountArgs) -> Result<(), String> {
    let text = || Some(value.to_owned());
    match name {
        "endpoint_url" | "url" => args.endpoint.endpoint_url = text(),
        "region" => args.endpoint.region = text(),
        "profile" => args.endpoint.profile = text(),
        "path_style" => args.endpoint.path_style = Some(parse_word(value)?),
        "ca_bundle" => args.endpoint.ca_bundle = Some(value.into()),
        "expected_bucket_owner" => args.endpoint.requests.expected_bucket_owner = text(),
        "sse" => args.endpoint.requests.sse = Some(parse_word(value)?),
        "sse_kms_key_id" => args.endpoint.requests.sse_kms_key_id = text(),
        "sse_c_key_file" => args.endpoint.requests.sse_c_key_file = Some(value.into()),
        "storage_class" => args.endpoint.requests.storage_class = text(),
        "acl" => args.endpoint.requests.acl = Some(parse_word(value)?),
        "capability" => args.endpoint.capabilities.push(value.to_owned()),
        "at" => args.at = Some(parse_past(value)?),
        "uid" => args.uid = text(),
        "gid" => args.gid = text(),
        "file_mode" | "fmode" => args.file_mode = Some(parse_mode(value)?),
        "dir_mode" | "dmode" => args.dir_mode = Some(parse_mode(value)?),
        "umask" => args.umask = Some(parse_mode(value)?),
        "attributes" => args.attributes = Some(parse_word(value)?),
        "head_parallelism" => args.head_parallelism = Some(parse_count(value)?),
        "metadata_format" => args.metadata_format = Some(parse_word(value)?),
        "presigned_url_lifetime" => args.presigned_url_lifetime = Some(parse_link_lifetime(value)?),
        "notifications" => args.notifications = text(),
        "metadata_ttl" => args.metadata_ttl = Some(parse_ttl(value)?),
        "on_conflict" => args.on_conflict = Some(parse_word(value)?),
        "request_prices" => args.request_prices = Some(RequestPrices::parse(value)?),
        "memory" => args.memory = Some(parse_size_bytes(value)?),
        "stall_timeout" => args.stall_timeout = Some(parse_duration(value)?),
        "state_dir" => args.state.state_dir = Some(value.into()),
        "spool_size" => args.spool_size = Some(parse_size_bytes(value)?),
        "keep_open_limit" => args.keep_open_limit = Some(parse_size_bytes(value)?),
        "cache_size" => args.cache_size = Some(parse_size_bytes(value)?),
        "passthrough" => args.passthrough = Some(parse_word(value)?),
        "cache_dir" => args.cache_dir = Some(value.into()),
        "log_level" => args.log.log_level = text(),
        "log_file" => args.log.log_file = Some(value.into()),
        "fsname" => args.fsname = text(),
        "subtype" => args.subtype = text(),
        _ => return Err("unknown option".into()),
    }
    Ok(())
}

fn takes_value(name: &str) -> bool {
    apply_value(name, "", &mut MountArgs::default()) != Err("unknown option".into())
}

fn parse_word<T: ValueEnum>(value: &str) -> Result<T, String> {
    T::from_str(value, false).map_err(|_| {
        let possible: Vec<String> = T::value_variants()
            .iter()
            .filter_map(|variant| Some(variant.to_possible_value()?.get_name().to_owned()))
            .collect();
        format!("expected one of {}", possible.join(", "))
    })
}

/// Options for mount(8), systemd and others, which it passes on nonetheless (mount(8), "FILESYSTEM-INDEPENDENT MOUNT
/// OPTIONS"; systemd.mount(5)). Relative atime has no meaning where no atime is kept.
fn is_for_others(name: &str) -> bool {
    let known = matches!(
        name,
        "defaults"
            | "_netdev"
            | "nofail"
            | "auto"
            | "noauto"
            | "user"
            | "nouser"
            | "users"
            | "owner"
            | "group"
            | "comment"
            | "relatime"
            | "norelatime"
            | "strictatime"
            | "nostrictatime"
            | "lazytime"
            | "nolazytime"
            | "diratime"
            | "nodiratime"
            | "silent"
            | "loud"
            | "iversion"
            | "noiversion"
            | "mand"
            | "nomand"
            | "helper"
            | "uhelper"
    );
    known || name.starts_with("x-") || name.starts_with("X-")
}

fn kernel_flag(name: &str) -> Option<KernelFlag> {
    Some(match name {
        "dev" => KernelFlag::Dev,
        "nodev" => KernelFlag::NoDev,
        "suid" => KernelFlag::Suid,
        "nosuid" => KernelFlag::NoSuid,
        "exec" => KernelFlag::Exec,
        "noexec" => KernelFlag::NoExec,
        "sync" => KernelFlag::Sync,
        "async" => KernelFlag::Async,
        "dirsync" => KernelFlag::DirSync,
        "atime" => KernelFlag::Atime,
        "noatime" => KernelFlag::NoAtime,
        _ => return None,
    })
}

/// The flag that says the contrary, if there is one.
fn contrary(flag: KernelFlag) -> Option<KernelFlag> {
    use KernelFlag::{Async, Atime, Dev, DirSync, Exec, NoAtime, NoDev, NoExec, NoSuid, Suid, Sync};
    Some(match flag {
        Dev => NoDev,
        NoDev => Dev,
        Suid => NoSuid,
        NoSuid => Suid,
        Exec => NoExec,
        NoExec => Exec,
        Sync => Async,
        Async => Sync,
        Atime => NoAtime,
        NoAtime => Atime,
        DirSync => return None,
    })
}

fn set_kernel_flag(flags: &mut Vec<KernelFlag>, flag: KernelFlag) {
    flags.retain(|other| *other != flag && Some(*other) != contrary(flag));
    flags.push(flag);
}

/// Fills the gaps of `args` from `other`.
fn merge(args: &mut MountArgs, other: MountArgs) {
    fn fill<T>(target: &mut Option<T>, from: Option<T>) {
        if target.is_none() {
            *target = from;
        }
    }
    args.foreground |= other.foreground;
    args.read_only |= other.read_only;
    args.versions |= other.versions;
    args.allow_other |= other.allow_other;
    args.allow_bucket_changes |= other.allow_bucket_changes;
    args.list_virtual_xattrs |= other.list_virtual_xattrs;
    args.endpoint.no_sign_request |= other.endpoint.no_sign_request;
    args.endpoint.requests.fill(other.endpoint.requests);
    fill(&mut args.endpoint.endpoint_url, other.endpoint.endpoint_url);
    fill(&mut args.endpoint.region, other.endpoint.region);
    fill(&mut args.endpoint.profile, other.endpoint.profile);
    fill(&mut args.endpoint.path_style, other.endpoint.path_style);
    fill(&mut args.endpoint.ca_bundle, other.endpoint.ca_bundle);
    // The last setting of a feature wins.
    args.endpoint
        .capabilities
        .splice(0..0, other.endpoint.capabilities);
    fill(&mut args.at, other.at);
    fill(&mut args.uid, other.uid);
    fill(&mut args.gid, other.gid);
    fill(&mut args.file_mode, other.file_mode);
    fill(&mut args.dir_mode, other.dir_mode);
    fill(&mut args.umask, other.umask);
    fill(&mut args.attributes, other.attributes);
    fill(&mut args.head_parallelism, other.head_parallelism);
    fill(&mut args.metadata_format, other.metadata_format);
    fill(&mut args.presigned_url_lifetime, other.presigned_url_lifetime);
    fill(&mut args.metadata_ttl, other.metadata_ttl);
    fill(&mut args.notifications, other.notifications);
    fill(&mut args.on_conflict, other.on_conflict);
    fill(&mut args.request_prices, other.request_prices);
    fill(&mut args.memory, other.memory);
    fill(&mut args.stall_timeout, other.stall_timeout);
    fill(&mut args.state.state_dir, other.state.state_dir);
    fill(&mut args.cache_dir, other.cache_dir);
    fill(&mut args.spool_size, other.spool_size);
    fill(&mut args.keep_open_limit, other.keep_open_limit);
    fill(&mut args.cache_size, other.cache_size);
    fill(&mut args.passthrough, other.passthrough);
    fill(&mut args.log.log_level, other.log.log_level);
    fill(&mut args.log.log_file, other.log.log_file);
    fill(&mut args.fsname, other.fsname);
    fill(&mut args.subtype, other.subtype);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::MetadataFormatArg;
    use crate::cli::request_args::{AclArg, SseArg};
    use std::path::PathBuf;
    use std::time::Duration;

    fn parse(options: &str) -> Result<(MountArgs, ExtraOptions), String> {
        let mut args = MountArgs {
            options: vec![options.to_owned()],
            ..MountArgs::default()
        };
        apply(&mut args).map(|extra| (args, extra))
    }

    #[test]
    fn a_line_of_fstab_is_understood() {
        let line = "rw,_netdev,nofail,x-systemd.automount,x-systemd.idle-timeout=60,allow_other,uid=backup,gid=34,list_virtual_xattrs,\
            umask=077,endpoint_url=http://127.0.0.1:9000,region=eu-west-1,profile=p,metadata_ttl=forever,memory=64M,\
            capability=put-if-match=ignored,capability=crc32c=refused,state_dir=/s,cache-dir=/c,metadata_format=s3fs,stall_timeout=5s,nodev,nosuid,noexec,noatime,\
            requester_pays,expected_bucket_owner=123456789012,sse=aws:kms,sse_kms_key_id=arn:aws:kms:eu-west-1:1:key/2,sse_c_key_file=/k,\
            storage_class=STANDARD_IA,acl=bucket-owner-full-control,keep_open_limit=0";
        let (args, extra) = parse(line).expect("all known");
        assert!(args.allow_other && args.list_virtual_xattrs && !args.read_only);
        assert_eq!(
            (args.uid.as_deref(), args.gid.as_deref(), args.umask),
            (Some("backup"), Some("34"), Some(0o077))
        );
        assert_eq!(
            args.endpoint.endpoint_url.as_deref(),
            Some("http://127.0.0.1:9000")
        );
        assert_eq!(args.endpoint.profile.as_deref(), Some("p"));
        assert_eq!(
            args.endpoint.capabilities,
            ["put-if-match=ignored", "crc32c=refused"]
        );
        let requests = &args.endpoint.requests;
        assert!(requests.requester_pays && requests.acl == Some(AclArg::BucketOwnerFullControl));
        assert_eq!(
            (requests.sse, requests.sse_kms_key_id.as_deref()),
            (Some(SseArg::Kms), Some("arn:aws:kms:eu-west-1:1:key/2"))
        );
        assert_eq!(
            (
                requests.storage_class.as_deref(),
                requests.expected_bucket_owner.as_deref()
            ),
            (Some("STANDARD_IA"), Some("123456789012"))
        );
        assert_eq!(requests.sse_c_key_file, Some(PathBuf::from("/k")));
        assert_eq!((args.memory, args.keep_open_limit), (Some(64 << 20), Some(0)));
        assert_eq!(args.stall_timeout, Some(Duration::from_secs(5)));
        assert_eq!(
            (args.state.state_dir, args.cache_dir),
            (Some(PathBuf::from("/s")), Some(PathBuf::from("/c")))
        );
        assert_eq!(args.metadata_format, Some(MetadataFormatArg::S3fs));
        assert_eq!(
            extra.kernel_flags,
            [
                KernelFlag::NoDev,
                KernelFlag::NoSuid,
                KernelFlag::NoExec,
                KernelFlag::NoAtime
            ]
        );
    }

    #[test]
    fn what_is_unknown_is_named() {
        for (options, part) in [
            ("ro,nonesuch", "-o nonesuch: unknown option"),
            ("ro,none=such", "-o none=such: unknown option"),
            ("memory=lots", "-o memory=lots: size"),
            ("memory", "-o memory: needs a value"),
            ("path_style=sometimes", "expected one of auto, always, never"),
            (
                "rw,nosuid,relatime,user_id=0,remount,ro",
                "-o remount: a mount keeps",
            ),
        ] {
            let message = parse(options).expect_err(options);
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn the_last_of_contradictory_flags_wins() {
        let (args, extra) = parse("ro,dev,rw,nodev,sync,async,,").expect("parses");
        assert!(!args.read_only);
        assert_eq!(extra.kernel_flags, [KernelFlag::NoDev, KernelFlag::Async]);
    }

    #[test]
    fn a_long_option_wins_over_the_list() {
        let mut args = MountArgs {
            options: vec!["memory=1M,uid=5".into()],
            memory: Some(7),
            ..MountArgs::default()
        };
        apply(&mut args).expect("parses");
        assert_eq!((args.memory, args.uid.as_deref()), (Some(7), Some("5")));
    }
}
