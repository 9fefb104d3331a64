//! Looking at processes, and ending one's own.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// Sends a signal to a process that the test started (or, negative, to its group).
pub fn signal(process: i32, signal: i32) {
    // SAFETY: no memory is involved; a process that is gone is no harm.
    unsafe { libc::kill(process, signal) };
}

/// True until the process has ended; a zombie has ended.
pub fn is_alive(process_id: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{process_id}/stat")) else {
        return false;
    };
    !matches!(fields_after_name(&stat).next(), Some("Z" | "X") | None)
}

/// The most memory that the process ever had resident (proc_pid_status(5), `VmHWM`), in KiB.
pub fn peak_memory_kib(process_id: u32) -> u64 {
    of_status(process_id, "VmHWM:")
}

/// What it has resident now, in KiB.
pub fn resident_memory_kib(process_id: u32) -> u64 {
    of_status(process_id, "VmRSS:")
}

fn of_status(process_id: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process_id}/status")).expect("a process of ours");
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .expect("a number")
}

/// proc_pid_stat(5): the name stands in parentheses and may hold anything; state, parent and group follow.
fn fields_after_name(stat: &str) -> impl Iterator<Item = &str> {
    stat.rsplit_once(')')
        .map_or("", |(_, rest)| rest)
        .split_whitespace()
}

fn all() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").expect("/proc is readable");
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// The processes whose command line contains all of these arguments, each as a whole.
pub fn with_arguments(wanted: &[&str]) -> Vec<u32> {
    let has_them = |process_id: &u32| {
        let line = fs::read(format!("/proc/{process_id}/cmdline")).unwrap_or_default();
        let arguments: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        wanted.iter().all(|word| arguments.contains(&word.as_bytes()))
    };
    all().filter(has_them).collect()
}

/// Where every thread of a process group waits, for the message of a test that hung.
pub fn describe_group(group: u32) -> String {
    let belongs = |process_id: &u32| {
        let stat = fs::read_to_string(format!("/proc/{process_id}/stat")).unwrap_or_default();
        fields_after_name(&stat).nth(2) == Some(&group.to_string())
    };
    all().filter(belongs).map(describe).collect()
}

/// Where every thread of a process waits.
pub fn describe(process_id: u32) -> String {
    let mut text = String::new();
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_else(|error| format!("({error})"));
    let line = read(format!("/proc/{process_id}/cmdline").as_ref()).replace('\0', " ");
    let _infallible = writeln!(text, "process {process_id}: {line}");
    let tasks = fs::read_dir(format!("/proc/{process_id}/task"))
        .into_iter()
        .flatten();
    for task in tasks.flatten() {
        let path = task.path();
        let of = |name: &str| read(&path.join(name)).trim().to_owned();
        let stack: Vec<String> = of("stack").lines().take(6).map(str::to_owned).collect();
        let _infallible = writeln!(
            text,
            "  thread {:?}: wchan {}, system call {}, stack {stack:?}",
            of("comm"),
            of("wchan"),
            of("syscall")
        );
    }
    text
}

/// The most memory that a process ever had resident (`VmHWM`).
pub fn peak_memory_bytes(process_id: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process_id}/status")).expect("the process is alive");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .expect("VmHWM");
    let kib: u64 = line
        .split_whitespace()
        .nth(1)
        .expect("a figure")
        .parse()
        .expect("a number");
    kib << 10
}
