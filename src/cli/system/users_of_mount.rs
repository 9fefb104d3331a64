//! Who keeps a mount busy: processes with open files, a current directory or a program on it (as fuser(1) tells).

use std::fs;
use std::path::{Path, PathBuf};

/// A process that uses a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountUser {
    pub process_id: u32,
    pub program: String,
    /// What it uses.
    pub path: PathBuf,
}

/// At most `limit` processes that use something at or below `mount_point`. Other users' processes are seen only by
/// root, so an empty answer proves nothing.
#[must_use]
pub fn find(mount_point: &Path, limit: usize) -> Vec<MountUser> {
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter_map(|process_id| used_by(process_id, mount_point))
        .take(limit)
        .collect()
}

fn used_by(process_id: u32, mount_point: &Path) -> Option<MountUser> {
    let process = PathBuf::from(format!("/proc/{process_id}"));
    let open_files = fs::read_dir(process.join("fd"))
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()));
    let links = ["cwd", "root", "exe"].map(|name| process.join(name));
    let path = links.into_iter().chain(open_files).find_map(|link| {
        fs::read_link(link)
            .ok()
            .filter(|target| target.starts_with(mount_point))
    })?;
    let program = fs::read_to_string(process.join("comm"))
        .unwrap_or_default()
        .trim()
        .to_owned();
    Some(MountUser {
        process_id,
        program,
        path,
    })
}

/// ` (in use by bash (4711): /mnt/dir, …)`, or nothing when nobody is found.
#[must_use]
pub fn describe(mount_point: &Path) -> String {
    const SHOWN: usize = 3;
    let users = find(mount_point, SHOWN + 1);
    if users.is_empty() {
        return String::new();
    }
    let mut shown: Vec<String> = users
        .iter()
        .take(SHOWN)
        .map(|user| format!("{} ({}): {}", user.program, user.process_id, user.path.display()))
        .collect();
    if users.len() > SHOWN {
        shown.push("…".into());
    }
    format!(" (in use by {})", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_file_is_found_with_its_owner() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let base = directory.path().canonicalize().expect("a path");
        assert_eq!(find(&base, 5), []);
        assert_eq!(describe(&base), "");
        let path = base.join("open");
        let _file = fs::File::create(&path).expect("made");
        let users = find(&base, 5);
        assert_eq!(users.len(), 1);
        assert_eq!((users[0].process_id, &users[0].path), (std::process::id(), &path));
        assert!(describe(&base).contains("open"), "{}", describe(&base));
    }
}
