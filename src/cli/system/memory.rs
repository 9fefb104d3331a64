//! How much memory this process may use: the machine's, or the tightest limit of its control groups.
//! Sources: proc(5) for /proc/meminfo and /proc/self/cgroup; the kernel's cgroup-v2.rst (`memory.max`, where a limit of
//! any ancestor counts) and cgroup-v1/memory.rst (`memory.limit_in_bytes`).

use std::path::Path;

/// The limit in bytes. When nothing can be read (no /proc), 1 GiB: small enough for any machine.
#[must_use]
pub fn limit_bytes() -> u64 {
    let text = |path: &Path| std::fs::read_to_string(path).ok();
    let physical = text(Path::new("/proc/meminfo")).and_then(|text| parse_meminfo(&text));
    let groups = text(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let limits = limit_files(&groups)
        .into_iter()
        .filter_map(|file| parse_limit(&text(Path::new(&file))?));
    limits.chain(physical).min().unwrap_or(1 << 30)
}

fn parse_meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}

/// `max` (v2) and v1's huge number are no limits; the latter loses against the machine's memory by itself.
fn parse_limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|bytes| *bytes > 0)
}

/// Every file that may hold a limit for a process whose /proc/self/cgroup is `groups`.
fn limit_files(groups: &str) -> Vec<String> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (_hierarchy, Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let (root, file) = if controllers.is_empty() {
            ("/sys/fs/cgroup", "memory.max")
        } else if controllers.split(',').any(|name| name == "memory") {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
        } else {
            continue;
        };
        // In a container the path may be the host's while only the group itself is mounted: the root's file counts too.
        let mut path = path.trim_end_matches('/');
        loop {
            files.push(format!("{root}{path}/{file}"));
            match path.rfind('/') {
                Some(cut) => path = &path[..cut],
                None => break,
            }
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo() {
        assert_eq!(
            parse_meminfo("MemTotal:       16303428 kB\nMemFree: 1 kB\n"),
            Some(16_303_428 * 1024)
        );
        assert_eq!(parse_meminfo("MemFree: 1 kB\n"), None);
    }

    #[test]
    fn limits_of_every_ancestor_count() {
        assert_eq!(
            limit_files("0::/user.slice/a.scope\n"),
            [
                "/sys/fs/cgroup/user.slice/a.scope/memory.max",
                "/sys/fs/cgroup/user.slice/memory.max",
                "/sys/fs/cgroup/memory.max"
            ]
        );
        assert_eq!(limit_files("0::/\n"), ["/sys/fs/cgroup/memory.max"]);
        assert_eq!(
            limit_files("5:cpu,cpuacct:/x\n4:memory:/docker/1\n"),
            [
                "/sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/docker/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes"
            ]
        );
    }

    #[test]
    fn limit_texts() {
        assert_eq!(parse_limit("1073741824\n"), Some(1 << 30));
        assert_eq!(parse_limit("max\n"), None);
        assert!(limit_bytes() > 1 << 20);
    }
}
