//! One SeaweedFS for all tests of a run, started by the first that wants it.
//!
//! Difficulties:
//! 1. It must end with the test run, however that ends: it is started by a thread that lives as long as the process, and
//!    the kernel kills it when that thread is gone; `atexit` removes its files too.
//! 2. It listens on many ports, most with fixed defaults: all are given, as free ones, and one that is taken
//!    meanwhile means another try.
//! 3. Some ports are not derived from others but default to fixed numbers, or stay unused: those services are off.

use super::store::{ACCESS_KEY, SECRET_KEY};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock, mpsc};
use std::time::Duration;

const STARTS: usize = 5;
const START_LIMIT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

struct Started {
    endpoint_url: String,
    process_id: i32,
    directory: PathBuf,
}

static STARTED: OnceLock<Option<Started>> = OnceLock::new();
/// What [`remove_at_exit`] has to do.
static TO_REMOVE: Mutex<Option<(i32, PathBuf)>> = Mutex::new(None);

/// Where the running SeaweedFS listens; `None`, with a line that says why, when there is none on this machine.
///
/// # Panics
/// When there is none where every test must run, or when it does not start.
pub fn endpoint_url() -> Option<String> {
    let started = STARTED.get_or_init(|| {
        let program = program()?;
        let started = (0..STARTS)
            .find_map(|_| try_to_start(&program))
            .expect("SeaweedFS starts");
        *TO_REMOVE.lock().expect("no panic while locked") =
            Some((started.process_id, started.directory.clone()));
        // SAFETY: the function is `extern "C"`, takes nothing, and does not unwind.
        unsafe { libc::atexit(remove_at_exit) };
        Some(started)
    });
    if started.is_none() {
        assert!(
            !super::must_not_skip(),
            "SeaweedFS is missing: run scripts/test, or set PAILFS_TEST_WEED"
        );
        eprintln!("skipped: SeaweedFS is missing; scripts/test installs it, PAILFS_TEST_WEED names it");
    }
    started.as_ref().map(|started| started.endpoint_url.clone())
}

fn program() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("PAILFS_TEST_WEED") {
        return Some(path.into());
    }
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent()?;
    let path = target.join("test-tools/bin/weed");
    path.is_file().then_some(path)
}

extern "C" fn remove_at_exit() {
    if let Ok(mut to_remove) = TO_REMOVE.lock()
        && let Some((process_id, directory)) = to_remove.take()
    {
        super::processes::signal(process_id, libc::SIGKILL);
        let _next_clean_up_does_it = std::fs::remove_dir_all(directory);
    }
}

/// Free ports, all different, because all are taken at the same time.
fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("an address").port())
}

fn try_to_start(program: &Path) -> Option<Started> {
    let directory = tempfile::Builder::new()
        .prefix("pailfs-seaweed-")
        .tempdir()
        .expect("a temporary directory")
        .keep();
    let [s3_port, ports @ ..] = free_ports::<8>();
    let mut child = spawn(command(program, &directory, s3_port, &ports));
    let log = || std::fs::read_to_string(directory.join("log")).unwrap_or_default();
    let ended = super::poll(START_LIMIT, || {
        std::thread::sleep(POLL_INTERVAL);
        match child.try_wait().expect("a child of ours") {
            Some(_) => Some(true),
            None => is_ready(s3_port).then_some(false),
        }
    });
    if ended == Some(false) {
        return Some(Started {
            endpoint_url: format!("http://127.0.0.1:{s3_port}"),
            process_id: child.id() as i32,
            directory,
        });
    }
    eprintln!("SeaweedFS did not start: {}", log());
    super::processes::signal(child.id() as i32, libc::SIGKILL);
    let _gone = child.wait();
    let _not_needed = std::fs::remove_dir_all(&directory);
    None
}

fn command(program: &Path, directory: &Path, s3_port: u16, ports: &[u16; 7]) -> Command {
    let identity = format!(
        r#"{{"identities":[{{"name":"test","credentials":[{{"accessKey":"{ACCESS_KEY}","secretKey":"{SECRET_KEY}"}}],
        "actions":["Admin","Read","Write","List","Tagging"]}}]}}"#
    );
    std::fs::write(directory.join("s3.json"), identity).expect("written");
    std::fs::create_dir(directory.join("data")).expect("made");
    let log = File::create(directory.join("log")).expect("a log file");
    let mut command = Command::new(program);
    command.args([
        "server",
        "-s3",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-volume.max=400",
    ]);
    command.args([
        "-master.volumeSizeLimitMB=256",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
    ]);
    command.arg(format!("-s3.port={s3_port}"));
    let names = ["s3.port.grpc", "master.port", "master.port.grpc", "volume.port"];
    let names = names
        .into_iter()
        .chain(["volume.port.grpc", "filer.port", "filer.port.grpc"]);
    command.args(names.zip(ports).map(|(name, port)| format!("-{name}={port}")));
    command.arg(format!("-dir={}", directory.join("data").display()));
    command.arg(format!("-s3.config={}", directory.join("s3.json").display()));
    command.arg(format!("-s3.localSocket={}", directory.join("s3.sock").display()));
    command.arg(format!(
        "-filer.localSocket={}",
        directory.join("filer.sock").display()
    ));
    command
        .current_dir(directory)
        .stdin(Stdio::null())
        .process_group(0);
    command
        .stdout(log.try_clone().expect("another descriptor"))
        .stderr(log);
    command
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
        give.send(command.spawn().expect("SeaweedFS can be executed"))
            .expect("somebody waits");
        loop {
            std::thread::park();
        }
    };
    std::thread::Builder::new()
        .name("seaweed".into())
        .spawn(starter)
        .expect("a thread");
    take.recv().expect("the thread started it")
}

/// It answers with "access denied" only once its keys are loaded; before that it lets everybody in, or nobody.
fn is_ready(s3_port: u16) -> bool {
    let ask = || {
        let mut stream = TcpStream::connect(("127.0.0.1", s3_port))?;
        stream.set_read_timeout(Some(START_LIMIT))?;
        stream.write_all(b"GET / HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok::<_, std::io::Error>(answer.contains("AccessDenied"))
    };
    ask().unwrap_or(false)
}
