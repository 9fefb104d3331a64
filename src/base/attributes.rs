//! POSIX attributes as objects carry them in their user metadata.
//!
//! | | AWS (S3 Files, FSx, DataSync, File Gateway) | s3fs, rclone | gsutil, gcsfuse |
//! |---|---|---|---|
//! | mode | `file-permissions`: octal | `mode` | `goog-reserved-posix-mode`: octal |
//! | owner | `file-owner` | `uid` | `goog-reserved-posix-uid` |
//! | group | `file-group` | `gid` | `goog-reserved-posix-gid` |
//! | mtime | `file-mtime` | `mtime` | `goog-reserved-file-mtime`, `goog-reserved-posix-mtime` |
//! | atime | `file-atime` | `atime` | `goog-reserved-file-atime`, `goog-reserved-posix-atime` |
//! | ctime | `file-ctime` (ours: other tools ignore it) | `ctime` | |
//! | device number | `file-device` (ours, in every family): `major:minor` | | |
//!
//! Each attribute is taken from the first column, from the left, where it can be understood. What cannot be understood
//! is ignored, value by value. Difficulties, and what solves each:
//! 1. *One name, two bases.* s3fs writes `mode` in decimal, rclone in octal: [`parse_mode_of_either_base`] has the rule.
//! 2. *Times*: `<n>ns`, `us`, `ms` or `s` (AWS), seconds with or without a fraction (s3fs: nine digits; rclone: as
//!    many as needed), RFC 3339 (rclone's `atime`). A whole number without a unit that is too large for seconds is taken for
//!    the unit that puts it near our time. All are kept exact to the nanosecond, before 1970 too (there `-1.5` is 1.5 s before, as rclone has it).
//! 3. *Stale values.* [`Attributes::write`] removes what every family says before it writes one, so that no older value of
//!    another family is believed later, by us or by anybody.

pub mod xattrs;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What an object's metadata says; `None` where it says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// `st_mode`, type bits included (`S_IFREG` where the metadata has none, also on a directory's marker).
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub mtime: Option<SystemTime>,
    pub ctime: Option<SystemTime>,
    pub atime: Option<SystemTime>,
    /// Of a device node; as the kernel numbers devices for FUSE (`new_encode_dev`, `linux/kdev_t.h`).
    pub device: Option<u32>,
}

/// Which family of names is written (`--metadata-format`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MetadataFormat {
    #[default]
    Aws,
    S3fs,
    None,
}

/// Metadata name of the identity of an upload: by it a lost reply is resolved. Every upload of ours carries one.
pub const TRANSACTION: &str = "pailfs-txn";

/// Metadata name of the identities of the writes whose bytes are in this version, latest first, separated by commas.
pub const APPENDS: &str = "pailfs-appends";

const AWS_MODE: &str = "file-permissions";
const AWS_OWNER: &str = "file-owner";
const AWS_GROUP: &str = "file-group";
const AWS_MTIME: &str = "file-mtime";
const AWS_CTIME: &str = "file-ctime";
const AWS_ATIME: &str = "file-atime";
const DEVICE: &str = "file-device";
const S3FS_MODE: &str = "mode";
const S3FS_UID: &str = "uid";
const S3FS_GID: &str = "gid";
const S3FS_MTIME: &str = "mtime";
const S3FS_CTIME: &str = "ctime";
const S3FS_ATIME: &str = "atime";
const GOOG_MODE: &str = "goog-reserved-posix-mode";
const GOOG_UID: &str = "goog-reserved-posix-uid";
const GOOG_GID: &str = "goog-reserved-posix-gid";
const GOOG_MTIMES: [&str; 2] = ["goog-reserved-file-mtime", "goog-reserved-posix-mtime"];
const GOOG_ATIMES: [&str; 2] = ["goog-reserved-file-atime", "goog-reserved-posix-atime"];

const MODE_AND_OWNER: [&str; 10] = [
    AWS_MODE, AWS_OWNER, AWS_GROUP, DEVICE, S3FS_MODE, S3FS_UID, S3FS_GID, GOOG_MODE, GOOG_UID, GOOG_GID,
];
const TIMES: [&str; 10] = [
    AWS_MTIME,
    AWS_CTIME,
    AWS_ATIME,
    S3FS_MTIME,
    S3FS_CTIME,
    S3FS_ATIME,
    GOOG_MTIMES[0],
    GOOG_MTIMES[1],
    GOOG_ATIMES[0],
    GOOG_ATIMES[1],
];

const NANOS_PER_SECOND: i128 = 1_000_000_000;

impl Attributes {
    /// Reads whichever family is there, in the order of preference of the module's table. Names are lower case,
    /// without `x-amz-meta-`.
    #[must_use]
    pub fn read(metadata: &BTreeMap<String, String>) -> Self {
        let text = |name: &str| metadata.get(name).map(|value| value.trim());
        let number = |names: [&str; 3]| names.into_iter().find_map(|name| parse_owner(text(name)?));
        let time = |names: &[&str]| names.iter().find_map(|name| parse_time(text(name)?));
        Self {
            mode: text(AWS_MODE)
                .and_then(parse_octal_mode)
                .or_else(|| text(S3FS_MODE).and_then(parse_mode_of_either_base))
                .or_else(|| text(GOOG_MODE).and_then(parse_octal_mode)),
            uid: number([AWS_OWNER, S3FS_UID, GOOG_UID]),
            gid: number([AWS_GROUP, S3FS_GID, GOOG_GID]),
            mtime: time(&[AWS_MTIME, S3FS_MTIME, GOOG_MTIMES[0], GOOG_MTIMES[1]]),
            ctime: time(&[AWS_CTIME, S3FS_CTIME]),
            atime: time(&[AWS_ATIME, S3FS_ATIME, GOOG_ATIMES[0], GOOG_ATIMES[1]]),
            device: text(DEVICE).and_then(parse_device),
        }
    }

    /// Puts these attributes into `metadata`, replacing what any family said before; other metadata stays. An attribute
    /// that is `None` is said nowhere afterwards.
    ///
    /// [`MetadataFormat::None`] writes nothing and leaves mode and owner as they are, but removes the times: they
    /// were of an older content, and a tool that compares times would take the new content for the old.
    pub fn write(&self, format: MetadataFormat, metadata: &mut BTreeMap<String, String>) {
        for name in TIMES {
            metadata.remove(name);
        }
        if format == MetadataFormat::None {
            return;
        }
        for name in MODE_AND_OWNER {
            metadata.remove(name);
        }
        let mut put = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                metadata.insert(name.to_owned(), value);
            }
        };
        put(DEVICE, self.device.map(format_device));
        if format == MetadataFormat::Aws {
            put(AWS_MODE, self.mode.map(|mode| format!("0{mode:o}")));
            put(AWS_OWNER, self.uid.map(|uid| uid.to_string()));
            put(AWS_GROUP, self.gid.map(|gid| gid.to_string()));
            put(AWS_MTIME, self.mtime.map(in_nanoseconds));
            put(AWS_CTIME, self.ctime.map(in_nanoseconds));
            put(AWS_ATIME, self.atime.map(in_nanoseconds));
        } else {
            put(S3FS_MODE, self.mode.map(|mode| mode.to_string()));
            put(S3FS_UID, self.uid.map(|uid| uid.to_string()));
            put(S3FS_GID, self.gid.map(|gid| gid.to_string()));
            put(S3FS_MTIME, self.mtime.map(in_seconds));
            put(S3FS_CTIME, self.ctime.map(in_seconds));
            put(S3FS_ATIME, self.atime.map(in_seconds));
        }
    }
}

/// A mode that the kernel can be told: one of the seven file types, made `S_IFREG` where there is none.
fn valid_mode(mode: u32) -> Option<u32> {
    match mode & libc::S_IFMT {
        0 => Some(mode | libc::S_IFREG),
        libc::S_IFREG
        | libc::S_IFDIR
        | libc::S_IFLNK
        | libc::S_IFIFO
        | libc::S_IFCHR
        | libc::S_IFBLK
        | libc::S_IFSOCK => Some(mode),
        _ => None,
    }
    .filter(|mode| mode & !(libc::S_IFMT | 0o7777) == 0)
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn parse_octal_mode(text: &str) -> Option<u32> {
    // from_str_radix would take a sign.
    let digits = text.strip_prefix("0o").unwrap_or(text);
    is_digits(digits)
        .then(|| u32::from_str_radix(digits, 8).ok())
        .flatten()
        .and_then(valid_mode)
}

/// `mode` as s3fs (decimal: `33188`) or rclone (octal: `100644`, `40755`) writes it.
///
/// - A leading zero means octal, for both (s3fs reads numbers as C does); a digit 8 or 9 means decimal.
/// - Else the reading that gives a file type counts. No regular file and no socket has two such readings.
/// - Where both do: octal if that is a directory, unless the other is a symlink with the permissions symlinks have
///   (`41471`); else decimal, since rclone stores neither pipes nor devices.
/// - Where none does it is permissions only, in octal (`755`). A decimal pipe needs permissions without special bits to
///   be taken for one, so that `4755` is the set-user-id mode it looks like.
fn parse_mode_of_either_base(text: &str) -> Option<u32> {
    if text.starts_with('0') {
        return parse_octal_mode(text);
    }
    let decimal = is_digits(text)
        .then(|| text.parse::<u32>().ok())
        .flatten()
        .filter(|mode| {
            valid_mode(*mode) == Some(*mode)
                && (mode & libc::S_IFMT != libc::S_IFIFO || mode & 0o7000 == 0 || text.contains(['8', '9']))
        });
    let bare_decimal = || {
        text.contains(['8', '9'])
            .then(|| text.parse().ok())
            .flatten()
            .and_then(valid_mode)
    };
    let octal = parse_octal_mode(text);
    match (octal, decimal) {
        (None, decimal) => decimal.or_else(bare_decimal),
        (Some(octal), None) => Some(octal),
        (Some(octal), Some(decimal)) => {
            let is_symlink =
                decimal & libc::S_IFMT == libc::S_IFLNK && matches!(decimal & 0o7777, 0o777 | 0o755);
            let octal_wins = octal & libc::S_IFMT == libc::S_IFDIR && !is_symlink;
            Some(if octal_wins { octal } else { decimal })
        }
    }
}

/// Twelve bits of major, twenty of minor, interleaved as `new_encode_dev` in `linux/kdev_t.h` does it.
fn parse_device(text: &str) -> Option<u32> {
    let (major, minor) = text.split_once(':')?;
    if !is_digits(major) || !is_digits(minor) {
        return None;
    }
    let (major, minor): (u32, u32) = (major.parse().ok()?, minor.parse().ok()?);
    (major < 1 << 12 && minor < 1 << 20).then_some((minor & 0xff) | (major << 8) | ((minor & !0xff) << 12))
}

fn format_device(device: u32) -> String {
    let (major, minor) = (
        (device >> 8) & 0xfff,
        (device & 0xff) | ((device >> 12) & 0xf_ff00),
    );
    format!("{major}:{minor}")
}

/// A uid or gid. The highest number is `(uid_t)-1`, which chown(2) takes for "no change": nobody's.
fn parse_owner(text: &str) -> Option<u32> {
    is_digits(text)
        .then(|| text.parse().ok())
        .flatten()
        .filter(|id| *id != u32::MAX)
}

fn parse_time(text: &str) -> Option<SystemTime> {
    let nanos = if text.contains('T') {
        parse_rfc3339(text)?
    } else {
        parse_number_of_time(text)?
    };
    from_nanoseconds(nanos)
}

fn from_nanoseconds(nanos: i128) -> Option<SystemTime> {
    let distance = nanos.unsigned_abs();
    let seconds = u64::try_from(distance / NANOS_PER_SECOND.unsigned_abs()).ok()?;
    let distance = Duration::new(seconds, (distance % NANOS_PER_SECOND.unsigned_abs()) as u32);
    if nanos < 0 {
        UNIX_EPOCH.checked_sub(distance)
    } else {
        UNIX_EPOCH.checked_add(distance)
    }
}

fn to_nanoseconds(time: SystemTime) -> i128 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => after.as_nanos() as i128,
        Err(before) => -(before.duration().as_nanos() as i128),
    }
}

fn in_nanoseconds(time: SystemTime) -> String {
    format!("{}ns", to_nanoseconds(time))
}

/// Seconds with nine decimals (s3fs takes the digits behind the point for nanoseconds, however many there are), or none
/// where the number alone says that it is seconds.
fn in_seconds(time: SystemTime) -> String {
    let nanos = to_nanoseconds(time);
    let sign = if nanos < 0 { "-" } else { "" };
    let (seconds, fraction) = (nanos.abs() / NANOS_PER_SECOND, nanos.abs() % NANOS_PER_SECOND);
    if fraction == 0 && seconds < MAX_BARE_SECONDS {
        format!("{sign}{seconds}")
    } else {
        format!("{sign}{seconds}.{fraction:09}")
    }
}

fn parse_number_of_time(text: &str) -> Option<i128> {
    let unit_begin = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_begin);
    let (negative, number) = number
        .strip_prefix('-')
        .map_or((false, number), |rest| (true, rest));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    // 30 digits are far beyond any time, and cannot overflow below.
    if !is_digits(whole) || !is_digits(fraction) || whole.len() > 30 {
        return None;
    }
    let whole: i128 = whole.parse().ok()?;
    let nanos_per_unit = match unit {
        "ns" => 1,
        "us" => 1_000,
        "ms" => 1_000_000,
        "s" => NANOS_PER_SECOND,
        "" if number.contains('.') => NANOS_PER_SECOND,
        "" => nanoseconds_of_bare_unit(whole),
        _ => return None,
    };
    let fraction: i128 = fraction_in_billionths(fraction) * nanos_per_unit / NANOS_PER_SECOND;
    let nanos = whole.checked_mul(nanos_per_unit)?.checked_add(fraction)?;
    Some(if negative { -nanos } else { nanos })
}

/// The end, in the year 5138, of what a number without unit and fraction is taken for seconds.
const MAX_BARE_SECONDS: i128 = 100_000_000_000;

/// The unit of a whole number that names none: seconds while that is near our time, then milli-, micro-, nanoseconds.
fn nanoseconds_of_bare_unit(whole: i128) -> i128 {
    if whole < MAX_BARE_SECONDS {
        NANOS_PER_SECOND
    } else if whole < MAX_BARE_SECONDS * 1_000 {
        1_000_000
    } else if whole < MAX_BARE_SECONDS * 1_000_000 {
        1_000
    } else {
        1
    }
}

/// The digits behind a decimal point, cut after the ninth.
fn fraction_in_billionths(digits: &str) -> i128 {
    let value = digits
        .bytes()
        .take(9)
        .fold(0, |value, digit| value * 10 + i128::from(digit - b'0'));
    (digits.len()..9).fold(value, |value, _| value * 10)
}

/// `2006-01-02T15:04:05.999999999Z`, or with an offset as `+07:00`.
fn parse_rfc3339(text: &str) -> Option<i128> {
    let (date, time) = text.split_once('T')?;
    let zone_begin = time.find(['Z', '+', '-'])?;
    let (time, zone) = time.split_at(zone_begin);
    let number =
        |text: &str, len: usize| (text.len() == len && is_digits(text)).then(|| text.parse::<i64>().ok())?;

    let mut fields = date.split('-');
    let (year, month, day) = (
        number(fields.next()?, 4)?,
        number(fields.next()?, 2)?,
        number(fields.next()?, 2)?,
    );
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut clock = time.split(':');
    let (hour, minute, second) = (
        number(clock.next()?, 2)?,
        number(clock.next()?, 2)?,
        number(clock.next()?, 2)?,
    );
    let offset_minutes = if zone == "Z" {
        0
    } else {
        let (hours, minutes) = zone[1..].split_once(':')?;
        let minutes = number(hours, 2)? * 60 + number(minutes, 2)?;
        if zone.starts_with('-') { -minutes } else { minutes }
    };
    let is_over = fields.next().is_some() || clock.next().is_some();
    let in_range =
        (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    if is_over || !in_range || !is_digits(fraction) {
        return None;
    }
    let seconds =
        days_since_epoch(year, month, day) * 86_400 + hour * 3_600 + (minute - offset_minutes) * 60 + second;
    Some(i128::from(seconds) * NANOS_PER_SECOND + fraction_in_billionths(fraction))
}

/// Days from 1970-01-01 to a date of the Gregorian calendar; years are counted from March, so that the leap day is
/// a year's last.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leap_days + day_of_year - 719_468
}

#[cfg(test)]
mod tests;
