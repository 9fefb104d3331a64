//! The kernel's mount table of this process, `/proc/self/mountinfo` (proc(5)).

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Unique among live mounts; used again after an unmount.
    pub mount_id: u64,
    /// `st_dev` of files on it.
    pub major: u32,
    pub minor: u32,
    pub mount_point: PathBuf,
    pub fs_type: String,
    pub source: String,
    /// The user who mounted it, where the filesystem says (FUSE does).
    pub user_id: Option<u32>,
}

impl Mount {
    #[must_use]
    pub fn is_fuse(&self) -> bool {
        self.fs_type == "fuse" || self.fs_type.starts_with("fuse.") || self.fs_type == "fuseblk"
    }

    /// True for the default subtype; a user may have chosen another.
    #[must_use]
    pub fn is_pailfs(&self) -> bool {
        self.fs_type == "fuse.pailfs"
    }
}

/// Reads the table.
///
/// # Errors
/// When /proc is not there.
pub fn read() -> io::Result<Vec<Mount>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// The mount that is on top at `path` (absolute, without symlinks), if it is a mount point at all.
#[must_use]
pub fn topmost_at<'a>(table: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    table.iter().rev().find(|mount| mount.mount_point == path)
}

/// Lines that cannot be understood are left out.
fn parse(table: &[u8]) -> Vec<Mount> {
    table
        .split(|byte| *byte == b'\n')
        .filter_map(parse_line)
        .collect()
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
fn parse_line(line: &[u8]) -> Option<Mount> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let text = |index: usize| {
        fields
            .get(index)
            .and_then(|field| std::str::from_utf8(field).ok())
    };
    let (major, minor) = text(2)?.split_once(':')?;
    let separator = fields.iter().position(|field| *field == b"-")?;
    let options = fields
        .get(separator + 3)
        .map(|field| String::from_utf8_lossy(field))
        .unwrap_or_default();
    Some(Mount {
        mount_id: text(0)?.parse().ok()?,
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
        mount_point: OsString::from_vec(unescape(fields.get(4)?)).into(),
        fs_type: text(separator + 1)?.to_owned(),
        source: String::from_utf8_lossy(&unescape(fields.get(separator + 2)?)).into_owned(),
        user_id: options
            .split(',')
            .find_map(|option| option.strip_prefix("user_id=")?.parse().ok()),
    })
}

/// Undoes the kernel's octal escapes of space, tab, newline, backslash and hash.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut result = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let code = (*first == b'\\').then(|| tail.get(..3)).flatten();
        let code = code.and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(byte) = code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            result.push(byte);
            rest = &tail[3..];
        } else {
            result.push(*first);
            rest = tail;
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"\
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
40 21 0:52 / /mnt/my\\040data rw,nosuid - fuse.pailfs s3://b/a\\040b rw,user_id=1000,group_id=1000\n\
nonsense\n\
41 40 0:53 / /mnt/my\\040data rw master:2 propagate_from:3 - tmpfs tmpfs rw\n";

    #[test]
    fn lines_are_understood() {
        let table = parse(TABLE);
        assert_eq!(table.len(), 3);
        let mount = &table[1];
        assert_eq!((mount.mount_id, mount.major, mount.minor), (40, 0, 52));
        assert_eq!(mount.mount_point, Path::new("/mnt/my data"));
        assert_eq!((mount.source.as_str(), mount.user_id), ("s3://b/a b", Some(1000)));
        assert!(mount.is_pailfs() && mount.is_fuse() && !table[0].is_fuse());
    }

    #[test]
    fn the_last_mount_at_a_path_is_on_top() {
        let table = parse(TABLE);
        assert_eq!(
            topmost_at(&table, Path::new("/mnt/my data")).map(|mount| mount.mount_id),
            Some(41)
        );
        assert_eq!(topmost_at(&table, Path::new("/mnt")), None);
    }

    #[test]
    fn broken_escapes_stay_as_they_are() {
        assert_eq!(unescape(b"a\\04"), b"a\\04");
        assert_eq!(unescape(b"a\\999b\\134"), b"a\\999b\\");
    }

    #[test]
    fn this_process_has_a_root() {
        assert!(
            read()
                .expect("readable")
                .iter()
                .any(|mount| mount.mount_point == Path::new("/"))
        );
    }
}
