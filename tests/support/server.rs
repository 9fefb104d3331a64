//! Other servers than ours, as programs: each is started by the first test that wants it, once for a run.
//!
//! Difficulties:
//! 1. They must end with the test run, however that ends: each is started by a thread that lives as long as the process,
//!    and the kernel kills it when that thread is gone; `atexit` removes their files too.
//! 2. Ports: all are given, as free ones, and one that is taken meanwhile means another try.

use super::command::starting;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, Once, mpsc};
use std::time::Duration;

const STARTS: usize = 5;
const START_LIMIT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// What [`remove_at_exit`] has to do.
static TO_REMOVE: Mutex<Vec<(i32, Vec<PathBuf>)>> = Mutex::new(Vec::new());

/// A server that could be started.
pub struct Candidate {
    pub command: Command,
    /// Its own, made by [`new_directory`].
    pub directory: PathBuf,
    /// What it makes elsewhere, and leaves there when it is killed.
    pub strays: Vec<PathBuf>,
    pub port: u16,
}

/// A test tool that `scripts/test` installs: what `variable` names, or what is in the target directory. `None`, with a
/// line that says why, when it is missing.
///
/// # Panics
/// When it is missing where every test must run.
pub fn find_tool(variable: &str, name: &str) -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Some(path.into());
    }
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent()?;
    let path = target.join("test-tools/bin").join(name);
    if path.is_file() {
        return Some(path);
    }
    assert!(
        !super::must_not_skip(),
        "{name} is missing: run scripts/test, or set {variable}"
    );
    eprintln!("skipped: {name} is missing; scripts/test installs it, {variable} names it");
    None
}

/// Starts it and waits until it is ready; returns where it listens.
///
/// # Panics
/// When it does not start.
pub fn start(name: &str, mut candidate: impl FnMut() -> Candidate, is_ready: impl Fn(u16) -> bool) -> String {
    (0..STARTS)
        .find_map(|_| try_to_start(name, candidate(), &is_ready))
        .unwrap_or_else(|| panic!("{name} does not start"))
}

fn try_to_start(name: &str, candidate: Candidate, is_ready: &impl Fn(u16) -> bool) -> Option<String> {
    let Candidate {
        mut command,
        directory,
        mut strays,
        port,
    } = candidate;
    let log = File::create(directory.join("log")).expect("a log file");
    command
        .current_dir(&directory)
        .stdin(Stdio::null())
        .process_group(0);
    command
        .stdout(log.try_clone().expect("another descriptor"))
        .stderr(log);
    let mut child = spawn(command);
    let ended = super::poll(START_LIMIT, || {
        std::thread::sleep(POLL_INTERVAL);
        match child.try_wait().expect("a child of ours") {
            Some(_) => Some(true),
            None => is_ready(port).then_some(false),
        }
    });
    if ended == Some(false) {
        strays.push(directory);
        remember(child.id() as i32, strays);
        return Some(format!("http://127.0.0.1:{port}"));
    }
    let log = std::fs::read_to_string(directory.join("log")).unwrap_or_default();
    eprintln!("{name} did not start: {log}");
    super::processes::signal(child.id() as i32, libc::SIGKILL);
    let _gone = child.wait();
    strays.push(directory);
    remove(&strays);
    None
}

fn remember(process_id: i32, left: Vec<PathBuf>) {
    static REGISTERED: Once = Once::new();
    TO_REMOVE
        .lock()
        .expect("no panic while locked")
        .push((process_id, left));
    // SAFETY: the function is `extern "C"`, takes nothing, and does not unwind.
    REGISTERED.call_once(|| unsafe {
        libc::atexit(remove_at_exit);
    });
}

extern "C" fn remove_at_exit() {
    let Ok(mut to_remove) = TO_REMOVE.lock() else {
        return;
    };
    for (process_id, left) in to_remove.drain(..) {
        super::processes::signal(process_id, libc::SIGKILL);
        remove(&left);
    }
}

/// Directories with all that is in them, sockets; what is not there is no harm.
fn remove(left: &[PathBuf]) {
    for path in left {
        let _the_next_clean_up_does_it = if path.is_dir() {
            std::fs::remove_dir_all(path)
        } else {
            std::fs::remove_file(path)
        };
    }
}

pub fn new_directory(prefix: &str) -> PathBuf {
    let directory = tempfile::Builder::new().prefix(prefix).tempdir();
    directory.expect("a temporary directory").keep()
}

/// Free ports, all different, because all are taken at the same time.
pub fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("an address").port())
}

/// From a thread that stays: the kernel kills the child when the thread that started it ends.
fn spawn(mut command: Command) -> Child {
    let (give, take) = mpsc::channel();
    let starter = move || {
        // SAFETY: one system call, which may be made between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let started = {
            let _starting = starting();
            command.spawn().expect("the server can be executed")
        };
        give.send(started).expect("somebody waits");
        loop {
            std::thread::park();
        }
    };
    std::thread::Builder::new()
        .name("server".into())
        .spawn(starter)
        .expect("a thread");
    take.recv().expect("the thread started it")
}

/// The answer to a request without a signature; empty when there is none.
pub fn ask(port: u16) -> String {
    let ask = || {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(START_LIMIT))?;
        stream.write_all(b"GET / HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok::<_, std::io::Error>(answer)
    };
    ask().unwrap_or_default()
}
