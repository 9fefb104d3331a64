//! From options to one validated [`MountConfig`]. Pure: what the machine contributes is in [`Environment`], user and
//! group names are looked up through a function that the caller gives.
//!
//! Difficulties, and who solves each:
//! 1. The source may be left out, and must not be mistaken for a path: [`split_paths`].
//! 2. A name in the mount table with a comma would inject mount options (fuser joins them with commas): [`table_name`].
//! 3. The source is the default of that name, and may hold any character: [`default_fsname`].

use crate::base::limits::{GIB, MAX_KEY_BYTES, MIB};
use crate::base::mount_config::{
    Access, EndpointConfig, KernelFlag, MetadataTtl, MountConfig, Source, ViewOf,
};
use crate::cli::args::{EndpointArgs, MountArgs};
use crate::cli::environment::Environment;
use crate::cli::failure::Failure;
use crate::cli::mount_options::{self, ExtraOptions};
use crate::s3::Capabilities;
use crate::telemetry;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// As that of `pailfs url`.
const DEFAULT_LINK_LIFETIME: Duration = Duration::from_mins(5);
pub const DEFAULT_KEEP_OPEN_LIMIT_BYTES: u64 = GIB;
pub const DEFAULT_MEMORY_BYTES: u64 = 256 * MIB;
/// Below this, a part of the smallest size that S3 accepts would not fit into a quarter of the budget.
pub const MIN_MEMORY_BYTES: u64 = 32 * MIB;
/// Objects of up to a quarter of the cache are kept: below this, hardly any.
pub const MIN_CACHE_BYTES: u64 = 16 * MIB;
const DEFAULT_HEAD_PARALLELISM: u16 = 32;
pub const DEFAULT_METADATA_TTL: Duration = Duration::from_secs(10);
pub const DEFAULT_STALL_TIMEOUT: Duration = Duration::from_mins(1);

/// Looks up the number of a user or a group by its name.
pub struct Accounts<'a> {
    pub user: &'a dyn Fn(&str) -> Option<u32>,
    pub group: &'a dyn Fn(&str) -> Option<u32>,
}

/// What `pailfs mount` was asked for, validated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountCommand {
    pub config: MountConfig,
    pub foreground: bool,
    pub log_level: String,
    /// Absolute. `None`: standard error in the foreground, else [`default_log_file`].
    pub log_file: Option<PathBuf>,
}

/// Makes the configuration that `args` asks for.
///
/// # Errors
/// A usage failure that names the option and says what it should be.
pub fn resolve(
    mut args: MountArgs,
    environment: &Environment,
    accounts: &Accounts<'_>,
) -> Result<MountCommand, Failure> {
    let ExtraOptions {
        kernel_flags,
        default_permissions,
    } = mount_options::apply(&mut args).map_err(Failure::usage)?;
    let (source, mount_point) = split_paths(&args.paths)?;
    if args.allow_bucket_changes && source != Source::AllBuckets {
        return Err(Failure::usage(
            "--allow-bucket-changes has a meaning only when all buckets are mounted",
        ));
    }
    let view = resolve_view(&args, &source)?;
    let fsname = match &args.fsname {
        Some(name) => table_name("--fsname", name)?,
        None => default_fsname(&source),
    };
    let subtype = table_name("--subtype", args.subtype.as_deref().unwrap_or("pailfs"))?;
    let memory_bytes = memory_budget(args.memory, environment)?;
    let stall_timeout = args.stall_timeout.unwrap_or(DEFAULT_STALL_TIMEOUT);
    if stall_timeout.is_zero() {
        return Err(Failure::usage("--stall-timeout must be longer than nothing"));
    }
    let log_level = args.log.log_level.clone().unwrap_or_else(|| "info".into());
    telemetry::log::check_level(&log_level).map_err(Failure::usage)?;
    let config = MountConfig {
        source,
        mount_point: environment.absolute(mount_point),
        endpoint: resolve_endpoint(&args.endpoint, environment)?,
        access: resolve_access(&args, default_permissions, environment, accounts)?,
        view,
        allow_bucket_changes: args.allow_bucket_changes,
        attributes: args.attributes.map(Into::into).unwrap_or_default(),
        head_parallelism: usize::from(args.head_parallelism.unwrap_or(DEFAULT_HEAD_PARALLELISM)),
        metadata_format: args.metadata_format.map(Into::into).unwrap_or_default(),
        list_virtual_xattrs: args.list_virtual_xattrs,
        presigned_url_lifetime: args.presigned_url_lifetime.unwrap_or(DEFAULT_LINK_LIFETIME),
        metadata_ttl: args.metadata_ttl.unwrap_or(match view {
            // What was does not change.
            ViewOf::At(_) => MetadataTtl::Forever,
            ViewOf::Now | ViewOf::AllVersions => MetadataTtl::For(DEFAULT_METADATA_TTL),
        }),
        notifications: notifications(args.notifications.as_deref(), view)?,
        on_conflict: args.on_conflict.map(Into::into).unwrap_or_default(),
        request_prices: args.request_prices,
        memory_bytes,
        stall_timeout,
        state_dir: environment.state_dir(args.state.state_dir.as_deref())?,
        cache_dir: environment.cache_dir(args.cache_dir.as_deref())?,
        spool_size_bytes: args.spool_size,
        keep_open_limit_bytes: args.keep_open_limit.unwrap_or(DEFAULT_KEEP_OPEN_LIMIT_BYTES),
        cache_size_bytes: cache_size(args.cache_size)?,
        passthrough: args.passthrough.map(Into::into).unwrap_or_default(),
        fsname,
        subtype,
        kernel_flags: safe_kernel_flags(kernel_flags),
    };
    let log_file = args.log.log_file.as_ref().map(|path| environment.absolute(path));
    Ok(MountCommand {
        config,
        foreground: args.foreground,
        log_level,
        log_file,
    })
}

/// # Errors
/// Usage for what cannot be combined.
fn resolve_view(args: &MountArgs, source: &Source) -> Result<ViewOf, Failure> {
    match (args.at, args.versions) {
        (Some(_), true) => Err(Failure::usage("--at and --versions exclude each other")),
        (Some(_), false) if *source == Source::AllBuckets => Err(Failure::usage(
            "--at is for one bucket: pailfs mount --at TIME s3://BUCKET MOUNTPOINT",
        )),
        (Some(time), false) => Ok(ViewOf::At(time)),
        (None, true) => Ok(ViewOf::AllVersions),
        (None, false) => Ok(ViewOf::Now),
    }
}

fn notifications(url: Option<&str>, view: ViewOf) -> Result<Option<String>, Failure> {
    match (url, view) {
        (Some(_), ViewOf::At(_)) => Err(Failure::usage(
            "--notifications tell what changes; with --at nothing does",
        )),
        (url, _) => Ok(url.map(str::to_owned)),
    }
}

/// Zero is none.
fn cache_size(size_bytes: Option<u64>) -> Result<Option<u64>, Failure> {
    match size_bytes {
        None | Some(0) => Ok(None),
        Some(size_bytes) if size_bytes < MIN_CACHE_BYTES => Err(Failure::usage(format!(
            "--cache-size must be at least {} MiB, or 0",
            MIN_CACHE_BYTES / MIB
        ))),
        Some(size_bytes) => Ok(Some(size_bytes)),
    }
}

/// Checks how the store is to be reached.
///
/// # Errors
/// A usage failure for a URL that is none.
pub fn resolve_endpoint(args: &EndpointArgs, environment: &Environment) -> Result<EndpointConfig, Failure> {
    if let Some(url) = &args.endpoint_url {
        check_endpoint_url(url)?;
    }
    let capabilities = args.capabilities.join(",");
    capabilities
        .parse::<Capabilities>()
        .map_err(|error| Failure::usage(format!("--capability: {}", error.message())))?;
    let word = |option: &str, value: &Option<String>| match value {
        Some(value) if value.trim().is_empty() => Err(Failure::usage(format!("{option} is empty"))),
        value => Ok(value.clone()),
    };
    Ok(EndpointConfig {
        endpoint_url: args
            .endpoint_url
            .as_ref()
            .map(|url| url.trim_end_matches('/').to_owned()),
        region: word("--region", &args.region)?,
        profile: word("--profile", &args.profile)?,
        path_style: args.path_style.map(Into::into).unwrap_or_default(),
        no_sign_request: args.no_sign_request,
        requests: args.requests.resolve(environment)?,
        capabilities,
        ca_bundle: args.ca_bundle.as_ref().map(|path| environment.absolute(path)),
        keys: None,
    })
}

fn check_endpoint_url(url: &str) -> Result<(), Failure> {
    let wrong = |why: &str| {
        Err(Failure::usage(format!(
            "endpoint URL {url:?}: {why}; expected something like https://s3.example.com"
        )))
    };
    let Ok(parsed) = url.parse::<http::Uri>() else {
        return wrong("not a URL");
    };
    match parsed.scheme_str() {
        Some("http" | "https") => {}
        _ => return wrong("it must begin with http:// or https://"),
    }
    match parsed.authority() {
        Some(authority) if authority.as_str().contains('@') => {
            return wrong("it must not contain credentials");
        }
        Some(authority) if !authority.host().is_empty() => {}
        _ => return wrong("it names no host"),
    }
    if parsed.query().is_some() {
        return wrong("it must not have a query");
    }
    Ok(())
}

/// The words of `pailfs mount [SOURCE] MOUNTPOINT`.
fn split_paths(paths: &[impl AsRef<OsStr>]) -> Result<(Source, &Path), Failure> {
    match paths {
        [mount_point] => {
            let mount_point = mount_point.as_ref();
            if mount_point.to_str().is_some_and(|text| text.starts_with("s3://")) {
                return Err(Failure::usage(
                    "the mount point is missing: pailfs mount s3://BUCKET MOUNTPOINT",
                ));
            }
            Ok((Source::AllBuckets, Path::new(mount_point)))
        }
        [source, mount_point] => {
            let source = source.as_ref();
            let text = source.to_str().ok_or_else(|| {
                Failure::usage(format!(
                    "source {}: not UTF-8, which bucket names and keys are",
                    source.display()
                ))
            })?;
            Ok((
                parse_source(text).map_err(Failure::usage)?,
                Path::new(mount_point.as_ref()),
            ))
        }
        _ => Err(Failure::usage("expected [s3://BUCKET[/PREFIX]] MOUNTPOINT")),
    }
}

/// `s3://bucket/prefix`, `bucket`, `bucket/prefix`; all buckets: `s3://`, or `pailfs` and `none`, which fstab needs as
/// its first field has to be there.
///
/// # Errors
/// The text that says what is wrong.
pub fn parse_source(text: &str) -> Result<Source, String> {
    if matches!(text, "s3://" | "pailfs" | "none") {
        return Ok(Source::AllBuckets);
    }
    let rest = text.strip_prefix("s3://").unwrap_or(text);
    if let Some((scheme, _)) = rest.split_once("://") {
        return Err(format!(
            "source {text:?}: scheme {scheme:?} is not s3 (for another store: --endpoint-url)"
        ));
    }
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    check_bucket_name(bucket).map_err(|message| format!("source {text:?}: {message}"))?;
    let mut prefix = prefix.to_owned();
    if !prefix.is_empty() && !prefix.ends_with('/') {
        prefix.push('/');
    }
    if prefix.len() >= MAX_KEY_BYTES {
        return Err(format!(
            "source: the prefix leaves no room for names: keys have at most {MAX_KEY_BYTES} bytes"
        ));
    }
    if prefix.contains('\0') {
        return Err("source: the prefix contains a NUL byte".into());
    }
    Ok(Source::Bucket {
        bucket: bucket.to_owned(),
        prefix,
    })
}

/// S3 User Guide, "General purpose bucket naming rules", with what older buckets and other stores also have: capitals,
/// underscores, up to 255 bytes.
///
/// # Errors
/// The text that says what is wrong.
pub fn check_bucket_name(name: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if name.is_empty() {
        return Err("the bucket's name is missing".into());
    }
    if !(3..=255).contains(&name.len()) {
        return Err(format!("bucket name {name:?} must have 3 to 63 characters"));
    }
    if let Some(wrong) = name.chars().find(|c| !allowed(*c)) {
        return Err(format!(
            "bucket name {name:?} has {wrong:?} in it; letters, digits, hyphens and dots are allowed"
        ));
    }
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) || name.contains("..") {
        return Err(format!(
            "bucket name {name:?} must begin with a letter or digit and have no two dots in a row"
        ));
    }
    Ok(())
}

/// # Errors
/// Usage for less than an upload needs.
pub fn memory_budget(option: Option<u64>, environment: &Environment) -> Result<u64, Failure> {
    match option {
        Some(bytes) if bytes < MIN_MEMORY_BYTES => Err(Failure::usage(format!(
            "--memory must be at least {}MiB",
            MIN_MEMORY_BYTES / MIB
        ))),
        Some(bytes) => Ok(bytes),
        None => Ok((environment.memory_limit_bytes / 8).clamp(MIN_MEMORY_BYTES, DEFAULT_MEMORY_BYTES)),
    }
}

fn resolve_access(
    args: &MountArgs,
    default_permissions: bool,
    environment: &Environment,
    accounts: &Accounts<'_>,
) -> Result<Access, Failure> {
    let kept = !args.umask.unwrap_or(0);
    Ok(Access {
        uid: account(
            "--uid",
            "user",
            args.uid.as_deref(),
            accounts.user,
            environment.uid,
        )?,
        gid: account(
            "--gid",
            "group",
            args.gid.as_deref(),
            accounts.group,
            environment.gid,
        )?,
        file_mode: args
            .file_mode
            .unwrap_or(if args.umask.is_some() { 0o666 } else { 0o644 })
            & kept,
        dir_mode: args
            .dir_mode
            .unwrap_or(if args.umask.is_some() { 0o777 } else { 0o755 })
            & kept,
        read_only: args.read_only || args.at.is_some(),
        allow_other: args.allow_other,
        // Without the kernel's check every other user could do everything.
        default_permissions: default_permissions || args.allow_other,
    })
}

fn account(
    option: &str,
    what: &str,
    value: Option<&str>,
    look_up: &dyn Fn(&str) -> Option<u32>,
    default: u32,
) -> Result<u32, Failure> {
    let Some(value) = value else { return Ok(default) };
    // 4294967295 is (uid_t)-1, "leave as it is" to chown(2).
    match value.parse::<u32>() {
        Ok(number) if number < u32::MAX => Ok(number),
        Ok(_) => Err(Failure::usage(format!(
            "{option}: {value} is not a {what}'s number"
        ))),
        Err(_) => look_up(value)
            .ok_or_else(|| Failure::usage(format!("{option}: there is no {what} named {value:?}"))),
    }
}

/// A name for the mount table. fuser hands options on joined by commas, and fusermount3 takes `\` as an escape, so
/// either in a name would become options of somebody else's choice.
fn table_name(option: &str, name: &str) -> Result<String, Failure> {
    match name.chars().find(|c| matches!(c, ',' | '\\') || c.is_control()) {
        Some(wrong) => Err(Failure::usage(format!(
            "{option}: {wrong:?} is not allowed in {name:?}"
        ))),
        None if name.is_empty() => Err(Failure::usage(format!("{option} is empty"))),
        None => Ok(name.to_owned()),
    }
}

fn default_fsname(source: &Source) -> String {
    let replace = |c: char| {
        if matches!(c, ',' | '\\') || c.is_control() {
            '_'
        } else {
            c
        }
    };
    source.to_string().chars().map(replace).collect()
}

/// A bucket is no place to take devices and set-user-id programs from, unless the user says so.
fn safe_kernel_flags(mut flags: Vec<KernelFlag>) -> Vec<KernelFlag> {
    for (unsafe_flag, safe_flag) in [
        (KernelFlag::Dev, KernelFlag::NoDev),
        (KernelFlag::Suid, KernelFlag::NoSuid),
    ] {
        if !flags.contains(&unsafe_flag) && !flags.contains(&safe_flag) {
            flags.push(safe_flag);
        }
    }
    flags.sort_unstable();
    flags
}

/// Where the log of a background mount goes when no file is named.
#[must_use]
pub fn default_log_file(config: &MountConfig) -> PathBuf {
    let name: String = config
        .mount_point
        .to_string_lossy()
        .trim_matches('/')
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || matches!(c, '.' | '_') {
                c
            } else {
                '-'
            }
        })
        .collect();
    // Long paths keep their end, which tells more than their beginning; a file name has at most 255 bytes.
    let start = name.len().saturating_sub(200);
    config
        .state_dir
        .join("log")
        .join(format!("{}.log", &name[start..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Cli, Command};
    use crate::cli::environment::example;
    use crate::cli::failure::Exit;
    use clap::Parser;

    fn mount(line: &str) -> Result<MountConfig, Failure> {
        let words = ["pailfs", "mount"].into_iter().chain(line.split(' '));
        let Command::Mount(args) = Cli::try_parse_from(words).expect(line).command else {
            panic!("not mount")
        };
        let user = |name: &str| (name == "backup").then_some(34);
        resolve(
            *args,
            &example(1000),
            &Accounts {
                user: &user,
                group: &user,
            },
        )
        .map(|command| command.config)
    }

    #[test]
    fn defaults() {
        let config = mount("s3://photos/2024 mnt").expect("valid");
        assert_eq!(
            config.source,
            Source::Bucket {
                bucket: "photos".into(),
                prefix: "2024/".into()
            }
        );
        assert_eq!(config.mount_point, Path::new("/work-dir/mnt"));
        assert_eq!(config.memory_bytes, 256 << 20);
        assert_eq!(config.keep_open_limit_bytes, 1 << 30);
        assert_eq!(config.metadata_ttl, MetadataTtl::For(Duration::from_secs(10)));
        assert_eq!(config.stall_timeout, Duration::from_mins(1));
        let access = config.access;
        assert_eq!(
            (access.uid, access.gid, access.file_mode, access.dir_mode),
            (1000, 1000, 0o644, 0o755)
        );
        assert!(!access.default_permissions);
        assert_eq!(
            (config.fsname.as_str(), config.subtype.as_str()),
            ("s3://photos/2024/", "pailfs")
        );
        assert_eq!(config.kernel_flags, [KernelFlag::NoDev, KernelFlag::NoSuid]);
        assert_eq!(config.state_dir, Path::new("/home/u/.local/state/pailfs"));
    }

    #[test]
    fn options_arrive() {
        let config = mount(
            "/mnt --uid backup --gid 7 --umask 027 --allow-other --memory 64M --metadata-ttl forever \
             --allow-bucket-changes --state-dir s --keep-open-limit 2G --endpoint-url http://127.0.0.1:9000/ -o suid,ro",
        )
        .expect("valid");
        assert_eq!(config.source, Source::AllBuckets);
        let access = config.access;
        assert_eq!(
            (access.uid, access.gid, access.file_mode, access.dir_mode),
            (34, 7, 0o640, 0o750)
        );
        assert!(access.default_permissions && access.read_only && config.allow_bucket_changes);
        assert_eq!(
            config.endpoint.endpoint_url.as_deref(),
            Some("http://127.0.0.1:9000")
        );
        assert_eq!(config.state_dir, Path::new("/work-dir/s"));
        assert_eq!(config.kernel_flags, [KernelFlag::NoDev, KernelFlag::Suid]);
        assert_eq!(
            (
                config.memory_bytes,
                config.metadata_ttl,
                config.keep_open_limit_bytes
            ),
            (64 << 20, MetadataTtl::Forever, 2 << 30)
        );
    }

    #[test]
    fn sources() {
        let bucket = |bucket: &str, prefix: &str| Source::Bucket {
            bucket: bucket.into(),
            prefix: prefix.into(),
        };
        for (text, source) in [
            ("s3://abc", bucket("abc", "")),
            ("s3://abc/", bucket("abc", "")),
            ("abc", bucket("abc", "")),
            ("abc/d/e", bucket("abc", "d/e/")),
            ("s3://abc//x", bucket("abc", "/x/")),
            ("s3://Old_Bucket.1/ä b/", bucket("Old_Bucket.1", "ä b/")),
            ("s3://", Source::AllBuckets),
            ("none", Source::AllBuckets),
        ] {
            assert_eq!(parse_source(text), Ok(source), "{text}");
        }
        for (text, part) in [
            ("", "missing"),
            ("s3:///x", "missing"),
            ("ab", "3 to 63"),
            ("./dir", "3 to 63"),
            ("-abc", "begin with a letter"),
            ("my bucket", "' '"),
            ("https://abc/x", "--endpoint-url"),
            ("a..b", "two dots"),
        ] {
            let message = parse_source(text).expect_err(text);
            assert!(message.contains(part), "{text}: {message}");
        }
        assert!(parse_source(&format!("abc/{}", "x".repeat(1024))).is_err());
    }

    #[test]
    fn what_cannot_be_is_refused_as_usage() {
        for (line, part) in [
            ("s3://abc", "mount point is missing"),
            ("s3://abc /mnt --memory 1M", "at least 32MiB"),
            ("s3://abc /mnt --uid nobody-here", "nobody-here"),
            ("s3://abc /mnt --gid 4294967295", "--gid"),
            ("s3://abc /mnt --fsname a,allow_other", "','"),
            ("s3://abc /mnt --subtype x\\y", "--subtype"),
            ("s3://abc /mnt --endpoint-url ftp://x", "http://"),
            ("s3://abc /mnt --endpoint-url http://u:p@x", "credentials"),
            ("s3://abc /mnt --endpoint-url 127.0.0.1:9000", "http"),
            ("s3://abc /mnt --allow-bucket-changes", "--allow-bucket-changes"),
            ("s3://abc /mnt --stall-timeout 0", "--stall-timeout"),
            ("s3://abc /mnt -o bogus", "bogus"),
        ] {
            let failure = mount(line).expect_err(line);
            assert_eq!(failure.exit, Exit::Usage, "{line}");
            assert!(failure.message.contains(part), "{line}: {failure}");
        }
    }

    #[test]
    fn the_default_name_in_the_mount_table_is_harmless() {
        let source = Source::Bucket {
            bucket: "abc".into(),
            prefix: "a,suid,\\x\n/".into(),
        };
        assert_eq!(default_fsname(&source), "s3://abc/a_suid__x_/");
    }

    #[test]
    fn little_memory_makes_a_small_budget() {
        let small = Environment {
            memory_limit_bytes: 1 << 30,
            ..example(0)
        };
        assert_eq!(memory_budget(None, &small), Ok(128 << 20));
        let tiny = Environment {
            memory_limit_bytes: 64 << 20,
            ..example(0)
        };
        assert_eq!(memory_budget(None, &tiny), Ok(MIN_MEMORY_BYTES));
    }

    #[test]
    fn a_log_file_is_named_after_its_mount_point() {
        let mut config = mount("s3://abc /mnt/my,data").expect("valid");
        assert_eq!(
            default_log_file(&config),
            Path::new("/home/u/.local/state/pailfs/log/mnt-my-data.log")
        );
        config.mount_point = format!("/{}", "ä".repeat(500)).into();
        let path = default_log_file(&config);
        assert!(path.file_name().expect("has one").len() <= 255);
    }
}
