//! Programs under a deadline.

use super::processes;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

const DEFAULT_LIMIT: Duration = Duration::from_secs(150);
/// How long a killed process may take to be gone; one that waits for the filesystem cannot die at all.
const DEATH_LIMIT: Duration = Duration::from_secs(10);

/// Read by whoever starts a program.
static SPAWNING: RwLock<()> = RwLock::new(());

/// While the result lives no other test starts a program. A new process has copies of all descriptors until it becomes the
/// program, and closes them then, which commits what was written to them: a test for which that is too early holds this.
/// It must not start a program itself meanwhile.
pub fn nothing_is_started() -> RwLockWriteGuard<'static, ()> {
    SPAWNING.write().unwrap_or_else(PoisonError::into_inner)
}

/// To be held by whoever starts a program by other means than [`Tool`].
pub fn starting() -> RwLockReadGuard<'static, ()> {
    SPAWNING.read().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a program on a terminal of its own: the answer, the program and its arguments.
const ON_A_TERMINAL: &str = r#"
import os, pty, sys
pid, fd = pty.fork()
if pid == 0:
    os.execvp(sys.argv[2], sys.argv[2:])
os.write(fd, sys.argv[1].encode())
seen = b""
while True:
    try:
        data = os.read(fd, 65536)
    except OSError:
        break
    if not data:
        break
    seen += data
sys.stdout.buffer.write(seen)
sys.stdout.flush()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#;

/// A program to run. Its output goes to files, so that a child which lives on does not keep anybody waiting.
pub struct Tool {
    command: Command,
    limit: Duration,
}

/// How a program ended.
#[derive(Debug)]
pub struct Done {
    /// For messages only.
    #[expect(dead_code, reason = "shown by Debug")]
    pub words: String,
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// A program that is running.
pub struct Running {
    child: Child,
    words: String,
    stdout: File,
    stderr: File,
    limit: Duration,
}

impl Tool {
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C.UTF-8").process_group(0);
        Self {
            command,
            limit: DEFAULT_LIMIT,
        }
    }

    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    pub fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(arguments);
        self
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub fn current_dir(mut self, directory: impl AsRef<Path>) -> Self {
        self.command.current_dir(directory);
        self
    }

    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The same on a terminal of its own, with an answer typed ahead. What it shows comes to the standard output. Needs python3.
    pub fn on_a_terminal(self, answer: &str) -> Self {
        let mut on_it = Self::new("python3").args(["-c", ON_A_TERMINAL, answer]);
        on_it = on_it
            .arg(self.command.get_program())
            .args(self.command.get_args());
        for (name, value) in self.command.get_envs() {
            match value {
                Some(value) => on_it.command.env(name, value),
                None => on_it.command.env_remove(name),
            };
        }
        if let Some(directory) = self.command.get_current_dir() {
            on_it.command.current_dir(directory);
        }
        on_it.env("TERM", "xterm").limit(self.limit)
    }

    /// As this user, who is in no other groups. For root only.
    pub fn user(mut self, user_id: u32) -> Self {
        self.command.uid(user_id).gid(user_id);
        self
    }

    /// For what has no short way here.
    pub fn command(&mut self) -> &mut Command {
        &mut self.command
    }

    #[track_caller]
    pub fn start(mut self) -> Running {
        let words = format!("{:?}", self.command);
        let file = || tempfile::tempfile().expect("a temporary file");
        let (stdout, stderr) = (file(), file());
        let copy = |file: &File| file.try_clone().expect("another descriptor");
        self.command.stdin(Stdio::null());
        self.command
            .stdout(Stdio::from(copy(&stdout)))
            .stderr(Stdio::from(copy(&stderr)));
        let _starting = starting();
        let child = self
            .command
            .spawn()
            .unwrap_or_else(|error| panic!("{words}: {error}"));
        Running {
            child,
            words,
            stdout,
            stderr,
            limit: self.limit,
        }
    }

    /// However it ends.
    #[track_caller]
    pub fn output(self) -> Done {
        self.start().wait()
    }

    /// It must succeed; returns what it printed.
    #[track_caller]
    pub fn run(self) -> String {
        self.output().success()
    }
}

impl Running {
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child of ours").is_some()
    }

    pub fn stdout_so_far(&self) -> String {
        text(&self.stdout)
    }

    pub fn stderr_so_far(&self) -> String {
        text(&self.stderr)
    }

    /// Waits for the end; one that does not come in time fails the test.
    #[track_caller]
    pub fn wait(mut self) -> Done {
        let ended = super::poll(self.limit, || self.child.try_wait().expect("a child of ours"));
        let Some(status) = ended else {
            let place = processes::describe_group(self.child.id());
            self.kill();
            let (stdout, stderr) = (text(&self.stdout), text(&self.stderr));
            panic!(
                "{} did not end within {:?}. It was here:\n{place}\nstdout: {stdout}\nstderr: {stderr}",
                self.words, self.limit
            );
        };
        Done {
            words: std::mem::take(&mut self.words),
            status,
            stdout: text(&self.stdout),
            stderr: text(&self.stderr),
        }
    }

    /// Ends it and everything it started in its group.
    pub fn kill(&mut self) {
        processes::signal(-(self.child.id() as i32), libc::SIGKILL);
        let _gone_or_stuck = super::poll(DEATH_LIMIT, || self.child.try_wait().ok().flatten());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.kill();
        }
    }
}

/// The position of `file` is its writer's, and stays.
fn text(file: &File) -> String {
    let mut bytes = vec![0; file.metadata().expect("an open file").len() as usize];
    let read_bytes = file.read_at(&mut bytes, 0).expect("readable");
    String::from_utf8_lossy(&bytes[..read_bytes]).into_owned()
}

impl Done {
    #[track_caller]
    pub fn success(self) -> String {
        assert!(self.status.success(), "failed: {self:#?}");
        self.stdout
    }

    /// It must fail with this exit code and say this.
    #[track_caller]
    pub fn fails(&self, code: i32, text: &str) {
        assert!(!self.status.success(), "succeeded: {self:#?}");
        assert_eq!(self.status.code(), Some(code), "{self:#?}");
        let (said, wanted) = (self.stderr.to_lowercase(), text.to_lowercase());
        assert!(said.contains(&wanted), "does not say {text:?}: {self:#?}");
    }
}

/// Runs a script in `directory`; it ends at the first command that fails.
#[track_caller]
pub fn bash(directory: &Path, script: &str) -> String {
    script_tool(directory, script).run()
}

pub fn script_tool(directory: &Path, script: &str) -> Tool {
    Tool::new("bash")
        .args(["-euo", "pipefail", "-c", script])
        .current_dir(directory)
}

/// Whether a program is installed. A test that needs one that is not is skipped, but not where everything must run.
pub fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|directory: PathBuf| directory.join(name).is_file());
    assert!(found || !super::must_not_skip(), "{name} is not installed");
    if !found {
        eprintln!("skipped: {name} is not installed");
    }
    found
}
