//! A real mount by the real program.
//!
//! Difficulties, and who solves each:
//! 1. A mount that hangs must not hang the test run: [`Watchdog`] kills the daemon, so that every waiting call fails.
//! 2. A test may mount again with the same state: [`Place`] holds the directories and outlives mounts.
//! 3. Processes that other tests fork hold copies of this test's files for a moment, so that the mount seems in use:
//!    [`Mount::unmount`] asks again while the answer is "in use".

use super::command::{Done, Running, Tool, nothing_is_started};
use super::daemon_log::DaemonLog;
use super::processes;
use super::store::{ACCESS_KEY, SECRET_KEY};
use std::ffi::{CString, OsStr};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

/// How long a test may hold one mount.
const WATCHDOG_LIMIT: Duration = Duration::from_secs(300);
const IN_USE: i32 = 5;
const PROGRAM: &str = env!("CARGO_BIN_EXE_pailfs");
/// An ordinary user who has an entry in the password file everywhere.
pub const NOBODY: u32 = 65_534;

/// The directories of one mount: `mnt`, `state`, `cache`, `log`.
pub struct Place {
    home: tempfile::TempDir,
    user_id: Option<u32>,
}

impl Place {
    pub fn new() -> Arc<Self> {
        Self::of_user(None)
    }

    fn of_user(user_id: Option<u32>) -> Arc<Self> {
        let home = tempfile::Builder::new()
            .prefix("pailfs-")
            .tempdir()
            .expect("a temporary directory");
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).expect("permissions");
        for name in ["mnt", "state", "cache", "work"] {
            fs::create_dir(home.path().join(name)).expect("made");
        }
        if let Some(user_id) = user_id {
            for name in ["", "mnt", "state", "cache", "work"] {
                std::os::unix::fs::chown(home.path().join(name), Some(user_id), Some(user_id)).expect("root");
            }
        }
        Arc::new(Self { home, user_id })
    }

    pub fn mount_point(&self) -> PathBuf {
        self.home.path().join("mnt")
    }

    /// A local directory beside the mount, for what a test needs.
    pub fn work(&self) -> PathBuf {
        self.home.path().join("work")
    }

    pub fn state(&self) -> PathBuf {
        self.home.path().join("state")
    }

    pub fn cache(&self) -> PathBuf {
        self.home.path().join("cache")
    }

    pub fn log(&self) -> DaemonLog {
        DaemonLog {
            path: self.home.path().join("log"),
        }
    }

    /// The program, as the user of this place, without anything of the caller's AWS configuration.
    pub fn pailfs(&self) -> Tool {
        let mut tool = Tool::new(self.program());
        let inherited = std::env::vars_os().map(|(name, _)| name);
        let foreign = |name: &std::ffi::OsString| {
            let name = name.to_string_lossy();
            name.starts_with("AWS_") || name.starts_with("PAILFS_") || name.starts_with("XDG_")
        };
        for name in inherited.filter(foreign) {
            tool.command().env_remove(name);
        }
        tool.command()
            .env("HOME", self.home.path())
            .env("RUST_BACKTRACE", "1");
        if let Some(user_id) = self.user_id {
            tool = tool.user(user_id);
        }
        tool.env("PAILFS_STATE_DIR", self.state())
    }

    /// Another user may not be able to reach the program where it was built.
    fn program(&self) -> PathBuf {
        let original = PathBuf::from(PROGRAM);
        if self.user_id.is_none() {
            return original;
        }
        let copy = self.home.path().join("pailfs");
        if !copy.exists() {
            // A process that another test starts meanwhile would have it open for writing for a moment: nobody could run it.
            let _alone = nothing_is_started();
            fs::copy(original, &copy).expect("copied");
        }
        copy
    }

    fn is_mounted(&self) -> bool {
        mounts_at(&self.mount_point())
            .iter()
            .any(|kind| kind.starts_with("fuse"))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What a killed test left: removing the directory must not remove what is in the bucket.
        while !mounts_at(&self.mount_point()).is_empty() && detach(&self.mount_point()) {}
    }
}

/// The types of the mounts at a path, from the mount table, which never touches the mount.
pub fn mounts_at(path: &Path) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("readable");
    let mut found = Vec::new();
    for line in table.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        if Path::new(fields[4]) == path {
            let kind = fields
                .iter()
                .position(|field| *field == "-")
                .map_or("", |at| fields[at + 1]);
            found.push(kind.to_owned());
        }
    }
    found
}

/// The last resort; true when something was detached.
fn detach(path: &Path) -> bool {
    if super::is_root() {
        let path = CString::new(path.as_os_str().as_bytes()).expect("no NUL");
        // SAFETY: a NUL-terminated string that lives through the call.
        return unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW) == 0 };
    }
    Tool::new("fusermount3")
        .args(["-u", "-z", "--"])
        .arg(path)
        .output()
        .status
        .success()
}

/// A mount to be started.
pub struct MountBuilder {
    source: Option<String>,
    options: Vec<String>,
    place: Option<Arc<Place>>,
    cache: Option<PathBuf>,
    user_id: Option<u32>,
    keys: (String, String),
    environment: Vec<(String, String)>,
    expected: Vec<String>,
    in_background: bool,
    limit: Duration,
}

impl MountBuilder {
    pub fn new(endpoint_url: &str, source: Option<String>) -> Self {
        Self {
            source,
            options: vec![
                "--endpoint-url".into(),
                endpoint_url.into(),
                "--region".into(),
                "us-east-1".into(),
            ],
            place: None,
            cache: None,
            user_id: None,
            keys: (ACCESS_KEY.into(), SECRET_KEY.into()),
            environment: Vec::new(),
            expected: Vec::new(),
            in_background: false,
            limit: WATCHDOG_LIMIT,
        }
    }

    /// Another way to the store.
    pub fn by_way_of(mut self, endpoint_url: &str) -> Self {
        endpoint_url.clone_into(&mut self.options[1]);
        self
    }

    /// Words of the command line, separated by blanks.
    pub fn options(mut self, words: &str) -> Self {
        self.options.extend(words.split(' ').map(str::to_owned));
        self
    }

    /// In directories that exist already.
    pub fn at(mut self, place: &Arc<Place>) -> Self {
        self.place = Some(place.clone());
        self
    }

    /// With the cache of another place.
    pub fn cache_of(mut self, place: &Place) -> Self {
        self.cache = Some(place.cache());
        self
    }

    pub fn user(mut self, user_id: u32) -> Self {
        self.user_id = Some(user_id);
        self
    }

    pub fn keys(mut self, access_key: &str, secret_key: &str) -> Self {
        self.keys = (access_key.into(), secret_key.into());
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Warnings and errors with this text in them are part of the test.
    pub fn expect_in_log(mut self, text: &str) -> Self {
        self.expected.push(text.to_owned());
        self
    }

    /// As people use it: the command returns when the mount is live.
    pub fn in_background(mut self) -> Self {
        self.in_background = true;
        self
    }

    /// For tests that move much data.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    fn place(&self) -> Arc<Place> {
        self.place.clone().unwrap_or_else(|| Place::of_user(self.user_id))
    }

    fn tool(&self, place: &Place) -> Tool {
        let mut tool = place
            .pailfs()
            .arg("mount")
            .args(&self.source)
            .arg(place.mount_point());
        tool = tool
            .args(&self.options)
            .arg("--cache-dir")
            .arg(self.cache.clone().unwrap_or_else(|| place.cache()));
        tool = tool.arg("--log-file").arg(place.log().path);
        tool = tool
            .env("AWS_ACCESS_KEY_ID", &self.keys.0)
            .env("AWS_SECRET_ACCESS_KEY", &self.keys.1);
        tool = tool.env("AWS_EC2_METADATA_DISABLED", "true");
        for (name, value) in &self.environment {
            tool = tool.env(name, value);
        }
        let level = std::env::var_os("PAILFS_TEST_LOG").unwrap_or_else(|| "info".into());
        tool.env("PAILFS_LOG_LEVEL", level)
    }

    /// The command in the way people use it, which is to fail.
    pub fn fail_to_start(self) -> Done {
        let place = self.place();
        let done = self.tool(&place).output();
        assert!(!done.status.success(), "mounted: {done:#?}");
        assert!(!place.is_mounted(), "failed, and is mounted: {done:#?}");
        done
    }

    pub fn start(self) -> Mount {
        let place = self.place();
        let log_start = place.log().text().len();
        let (daemon, process_id) = if self.in_background {
            self.tool(&place).run();
            let mount_point = place.mount_point();
            let wanted = ["--daemon", mount_point.to_str().expect("UTF-8")];
            let found = processes::with_arguments(&wanted);
            assert_eq!(found.len(), 1, "one daemon of {wanted:?}: {found:?}");
            (None, found[0])
        } else {
            let daemon = self.start_in_foreground(&place, log_start);
            let process_id = daemon.id();
            (Some(daemon), process_id)
        };
        let watchdog = Watchdog::start(process_id, self.limit, place.log());
        Mount {
            daemon,
            process_id,
            place,
            expected: self.expected,
            has_ended: false,
            is_left: false,
            _watchdog: watchdog,
        }
    }

    fn start_in_foreground(&self, place: &Place, log_start: usize) -> Running {
        let mut tool = self.tool(place).arg("--foreground");
        // SAFETY: one system call, which may be made between fork and exec.
        unsafe {
            use std::os::unix::process::CommandExt;
            tool.command().pre_exec(|| {
                // Survives a change of the user only when set after it, which is where this runs.
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let mut daemon = tool.start();
        super::wait_for("the mount is live", || {
            let log = place.log().text();
            let is_live = log
                .get(log_start..)
                .is_some_and(|new| new.contains(" mounted source="));
            let has_ended = daemon.has_ended();
            assert!(
                is_live || !has_ended,
                "did not mount: {}\n{log}",
                daemon.stderr_so_far()
            );
            is_live.then_some(())
        });
        daemon
    }
}

/// A live mount; unmounted when dropped.
pub struct Mount {
    /// `None` when it went to the background.
    daemon: Option<Running>,
    pub process_id: u32,
    pub place: Arc<Place>,
    expected: Vec<String>,
    has_ended: bool,
    /// The dead mount stays where it is.
    is_left: bool,
    _watchdog: Watchdog,
}

impl Mount {
    pub fn path(&self) -> PathBuf {
        self.place.mount_point()
    }

    pub fn join(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.path().join(Path::new(name.as_ref()))
    }

    pub fn work(&self) -> PathBuf {
        self.place.work()
    }

    pub fn log(&self) -> DaemonLog {
        self.place.log()
    }

    pub fn signal(&self, signal: i32) {
        processes::signal(self.process_id as i32, signal);
    }

    /// `pailfs unmount`, once.
    pub fn unmount_command(&self) -> Done {
        self.place.pailfs().arg("unmount").arg(self.path()).output()
    }

    /// Unmounts, and checks that everything ended well.
    #[track_caller]
    pub fn unmount(mut self) {
        let failure = self.end();
        assert_eq!(failure, None);
    }

    /// Waits until the daemon has ended by itself or by a signal; returns its exit code where it is known.
    #[track_caller]
    pub fn wait_for_end(&mut self) -> Option<i32> {
        super::wait_until("the daemon ends", || match &mut self.daemon {
            Some(daemon) => daemon.has_ended(),
            None => !processes::is_alive(self.process_id),
        });
        super::wait_until("the mount is gone", || !self.place.is_mounted());
        self.has_ended = true;
        self.daemon.take().and_then(|daemon| daemon.wait().status.code())
    }

    /// kill -9; returns when the process is gone. The mount point is the watcher's.
    pub fn kill(&mut self) {
        self.signal(libc::SIGKILL);
        super::wait_until("a killed daemon is gone", || match &mut self.daemon {
            Some(daemon) => daemon.has_ended(),
            None => !processes::is_alive(self.process_id),
        });
        self.has_ended = true;
    }

    /// After [`Mount::kill`]: gives the mount point, with the dead mount on it, to whatever the test does next.
    pub fn leave(mut self) {
        self.is_left = true;
    }

    /// Another command of the program, as the user of this mount.
    pub fn pailfs(&self) -> Tool {
        self.place.pailfs()
    }

    pub fn peak_memory_kib(&self) -> u64 {
        processes::peak_memory_kib(self.process_id)
    }

    pub fn is_mounted(&self) -> bool {
        self.place.is_mounted()
    }

    /// Fails when the log has a warning or an error that the test did not announce.
    fn check_log(&self) -> Option<String> {
        let unexpected = self.log().unexpected(&self.expected);
        (!unexpected.is_empty()).then(|| format!("unexpected in the log:\n{}", unexpected.join("\n")))
    }

    fn end(&mut self) -> Option<String> {
        if self.has_ended {
            return self.check_log();
        }
        self.has_ended = true;
        let (mut last, mut was_in_use) = (None, false);
        super::poll(super::PATIENCE, || {
            let done = self.unmount_command();
            let is_in_use = done.status.code() == Some(IN_USE);
            was_in_use |= is_in_use;
            last = Some(done);
            (!is_in_use).then_some(())
        });
        if was_in_use {
            // By a process that another test had just started, and that was not the program yet.
            self.expected.push("still mounted".to_owned());
        }
        let last = last.filter(|done| !done.status.success());
        if last.is_some() || self.is_mounted() {
            return Some(format!(
                "unmount: {last:#?}, mounted: {}\n{}",
                self.is_mounted(),
                self.log().tail()
            ));
        }
        let ended = super::poll(super::PATIENCE, || {
            let has_ended = match &mut self.daemon {
                Some(daemon) => daemon.has_ended(),
                None => !processes::is_alive(self.process_id),
            };
            has_ended.then_some(())
        });
        if ended.is_none() {
            let place = processes::describe(self.process_id);
            return Some(format!(
                "the daemon lives on after the unmount:\n{place}\n{}",
                self.log().tail()
            ));
        }
        if let Some(done) = self.daemon.take().map(Running::wait)
            && !done.status.success()
        {
            return Some(format!(
                "the daemon ended badly: {done:#?}\n{}",
                self.log().tail()
            ));
        }
        self.check_log()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let was_panicking = std::thread::panicking();
        let failure = if was_panicking && !self.has_ended {
            eprintln!("the daemon's log ends so:\n{}", self.log().tail());
            self.has_ended = true;
            self.unmount_command();
            None
        } else {
            self.end()
        };
        if processes::is_alive(self.process_id) && self.is_mounted() {
            self.signal(libc::SIGKILL);
        }
        while !self.is_left && self.place.is_mounted() && detach(&self.path()) {}
        if let Some(failure) = failure {
            assert!(was_panicking, "{failure}");
            eprintln!("{failure}");
        }
    }
}

/// Kills a daemon whose mount is held for too long: whatever waits for it fails then, and so the test.
struct Watchdog {
    _dropped_at_the_end: mpsc::Sender<()>,
}

impl Watchdog {
    fn start(process_id: u32, limit: Duration, log: DaemonLog) -> Self {
        let (sender, receiver) = mpsc::channel::<()>();
        let watch = move || {
            if receiver.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
                let place = processes::describe(process_id);
                eprintln!(
                    "a mount was held for {limit:?}; its daemon is killed.\n{place}\n{}",
                    log.tail()
                );
                processes::signal(process_id as i32, libc::SIGKILL);
            }
        };
        std::thread::Builder::new()
            .name("watchdog".into())
            .spawn(watch)
            .expect("a thread");
        Self {
            _dropped_at_the_end: sender,
        }
    }
}
