//! The program as a user runs it: exit codes, messages, the store, the watcher.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

const PROGRAM: &str = env!("CARGO_BIN_EXE_pailfs");

/// The program with a deadline, its local files below `home`, and no credentials.
fn pailfs(home: &Path) -> Command {
    let mut command = Command::new("timeout");
    command
        .args(["--kill-after=5", "60", PROGRAM])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
        .env("HOME", home)
        .env("PAILFS_STATE_DIR", home.join("state"))
        .env("PAILFS_CACHE_DIR", home.join("cache"));
    // Nobody is asked for credentials.
    command
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .stdin(Stdio::null());
    command
}

fn run(home: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = pailfs(home)
        .args(arguments)
        .output()
        .expect("timeout(1) is there");
    (
        status.code(),
        format!(
            "{}{}",
            String::from_utf8_lossy(&stdout),
            String::from_utf8_lossy(&stderr)
        ),
    )
}

fn home() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

#[test]
fn failures_have_their_codes_and_say_why() {
    let home = home();
    let mount_point = home.path().join("mnt");
    std::fs::create_dir(&mount_point).expect("made");
    let mount_point = mount_point.to_str().expect("UTF-8");
    let missing = home.path().join("missing");
    let missing = missing.to_str().expect("UTF-8");
    for (arguments, code, part) in [
        (
            &["mount", "s3://a-bucket", missing][..],
            3,
            "missing: No such file",
        ),
        (
            &["mount", "s3://a-bucket", mount_point, "-o", "bogus"],
            2,
            "-o bogus: unknown option",
        ),
        (
            &["mount", "s3://a-bucket", mount_point, "--memory", "much"],
            2,
            "much",
        ),
        (&["mount", "s3://a-bucket"], 2, "mount point is missing"),
        (
            &["mount", "s3://a-bucket", mount_point, "--log-level", "loud"],
            2,
            "loud",
        ),
        (&["unmount", mount_point], 3, "is not a mount point"),
        (&["unmount", "/proc"], 3, "type proc"),
        (&["buckets"], 4, "no credentials"),
        (&["frobnicate"], 2, "frobnicate"),
    ] {
        let (seen, text) = run(home.path(), arguments);
        assert_eq!(seen, Some(code), "{arguments:?}: {text}");
        assert!(text.contains(part), "{arguments:?}: {text}");
    }
}

#[test]
fn the_background_mount_fails_in_the_foreground() {
    let home = home();
    let mount_point = home.path().join("mnt");
    std::fs::write(&mount_point, "not a directory").expect("written");
    let (code, text) = run(
        home.path(),
        &["mount", "s3://a-bucket", mount_point.to_str().expect("UTF-8")],
    );
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("not a directory"), "{text}");
    // The daemon had its log.
    let logs = std::fs::read_dir(home.path().join("state/log"))
        .expect("made")
        .count();
    assert_eq!(logs, 1);
}

#[test]
fn mount_helpers_only_rehearse_when_told_to() {
    let home = home();
    let helper = home.path().join("mount.pailfs");
    std::os::unix::fs::symlink(PROGRAM, &helper).expect("linked");
    let status = |options: &str| {
        let mut command = Command::new("timeout");
        command
            .arg("60")
            .arg(&helper)
            .args(["s3://a-bucket", "/nowhere", "-fn", "-o", options])
            .env("HOME", home.path());
        command
            .stderr(Stdio::null())
            .status()
            .expect("timeout(1) is there")
            .code()
    };
    assert_eq!(status("ro,_netdev,nofail,x-systemd.automount"), Some(0));
    assert_eq!(status("ro,misspelt"), Some(2));
    assert!(!home.path().join("state").exists());
}

/// Ended when dropped, by its own id.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended_already = self.0.kill();
        let _waited_for = self.0.wait();
    }
}

#[test]
fn the_store_serves_what_it_says_and_keeps_it() {
    let home = home();
    let data = home.path().join("data");
    for round in 0..2 {
        let mut command = Command::new(PROGRAM);
        command
            .arg("serve")
            .arg(&data)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut server = Running(command.spawn().expect("starts"));
        let output = server.0.stdout.take().expect("piped");
        let mut exports = Vec::new();
        for line in BufReader::new(output).lines() {
            let line = line.expect("readable");
            if let Some((name, value)) = line.strip_prefix("export ").and_then(|rest| rest.split_once('=')) {
                exports.push((name.to_owned(), value.to_owned()));
                if name == "AWS_REGION" {
                    break;
                }
            }
        }
        assert_eq!(exports.len(), 4, "{exports:?}");
        let Output { status, stderr, .. } = pailfs(home.path())
            .arg("buckets")
            .envs(exports)
            .output()
            .expect("timeout(1) is there");
        assert!(
            status.success(),
            "round {round}: {}",
            String::from_utf8_lossy(&stderr)
        );
        let id = i32::try_from(server.0.id()).expect("an id");
        // SAFETY: a signal to a child that has not been waited for.
        assert_eq!(unsafe { libc::kill(id, libc::SIGTERM) }, 0);
        assert!(server.0.wait().expect("ends").success());
    }
}

/// A mount to detach needs root; FUSE is not needed.
fn mount_tmpfs(at: &Path) -> bool {
    let path = std::ffi::CString::new(at.to_str().expect("UTF-8")).expect("no NUL");
    // SAFETY: all pointers are to NUL-terminated strings that live through the call.
    unsafe {
        libc::mount(
            c"tmpfs".as_ptr(),
            path.as_ptr(),
            c"tmpfs".as_ptr(),
            0,
            std::ptr::null(),
        ) == 0
    }
}

fn watch(mount_point: &Path, said: &str) {
    let mut command = Command::new("timeout");
    command
        .args(["60", PROGRAM, "watch-mount"])
        .arg(mount_point)
        .stdin(Stdio::piped());
    let mut watcher = Running(command.spawn().expect("starts"));
    let mut pipe = watcher.0.stdin.take().expect("piped");
    pipe.write_all(said.as_bytes()).expect("written");
    drop(pipe);
    assert!(watcher.0.wait().expect("ends").success());
}

#[test]
fn the_watcher_detaches_its_mount_and_no_other() {
    let home = home();
    let mount_point = home.path().canonicalize().expect("a path").join("mnt");
    std::fs::create_dir(&mount_point).expect("made");
    if !mount_tmpfs(&mount_point) {
        eprintln!("left out: mounting needs root");
        return;
    }
    let find = || {
        let table = pailfs::cli::system::mount_table::read().expect("readable");
        pailfs::cli::system::mount_table::topmost_at(&table, &mount_point).cloned()
    };
    let mount = find().expect("mounted");
    let numbers = format!("{} {} {}\n", mount.mount_id, mount.major, mount.minor);
    watch(&mount_point, &format!("{numbers}clean\n"));
    watch(
        &mount_point,
        &format!("{} {} {}\n", mount.mount_id, mount.major, mount.minor + 1),
    );
    assert_eq!(
        find().as_ref(),
        Some(&mount),
        "a clean end, or another mount's numbers"
    );
    watch(&mount_point, &numbers);
    assert_eq!(find(), None, "the daemon died");
}
