//! How fast small writes are, beside a filesystem that does nothing: `cargo bench --bench small_writes`.
//!
//! A write costs its way through the kernel and back; whatever pailfs does more than that is its own. Both are mounted at
//! the same time and take turns; each figure is the median of several turns. All run on one CPU, for otherwise the time it
//! takes to wake another one is most of what is measured, and no file is so large that it is sent while it is written: that
//! costs a CPU something too, but is no part of a write. Needs /dev/fuse and root or fusermount3.

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyCreate, ReplyEmpty, ReplyEntry,
    ReplyWrite, Request, WriteFlags,
};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, UNIX_EPOCH};

const TURNS: usize = 41;
/// Each turn writes so much, or as many writes as this allows.
const TURN_BYTES: usize = 7 << 20;
const TURN_WRITES: usize = 20_000;
const SIZES_BYTES: [usize; 3] = [512, 4 << 10, 128 << 10];
const TTL: Duration = Duration::from_mins(10);

struct Null;

fn attr(inode: INodeNo, kind: FileType) -> FileAttr {
    FileAttr {
        ino: inode,
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm: 0o777,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Filesystem for Null {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let _ = config.add_capabilities(InitFlags::FUSE_HANDLE_KILLPRIV_V2);
        let _ = config.set_max_write(1 << 20);
        Ok(())
    }

    fn lookup(&self, _request: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEntry) {
        reply.error(Errno::ENOENT);
    }

    fn getattr(&self, _request: &Request, inode: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        let kind = if inode == INodeNo::ROOT {
            FileType::Directory
        } else {
            FileType::RegularFile
        };
        reply.attr(&TTL, &attr(inode, kind));
    }

    fn create(
        &self,
        _request: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let file = attr(INodeNo(2), FileType::RegularFile);
        reply.created(&TTL, &file, Generation(0), FileHandle(1), FopenFlags::empty());
    }

    fn write(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.written(data.len() as u32);
    }

    fn flush(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }
}

/// A process that is ended with this value, and waited for.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // SAFETY: the child has not been waited for, so its pid is its own.
        unsafe { libc::kill(self.0.id() as i32, libc::SIGTERM) };
        let _ = self.0.wait();
    }
}

fn pailfs() -> Command {
    Command::new(env!("CARGO_BIN_EXE_pailfs"))
}

/// The embedded store, and what a client has to know of it.
fn serve(directory: &Path) -> (Process, Vec<(String, String)>) {
    let mut child = pailfs()
        .args(["serve", "--port", "0"])
        .arg(directory)
        .stdout(Stdio::piped())
        .spawn()
        .expect("pailfs serve starts");
    let mut output = BufReader::new(child.stdout.take().expect("piped"));
    let mut environment = Vec::new();
    while environment.len() < 4 {
        let mut line = String::new();
        let count = output.read_line(&mut line).expect("its output is read");
        assert!(count > 0, "pailfs serve ended");
        if let Some((name, value)) = line
            .trim()
            .strip_prefix("export ")
            .and_then(|pair| pair.split_once('='))
        {
            environment.push((name.to_owned(), value.to_owned()));
        }
    }
    (Process(child), environment)
}

/// Writes a second.
fn rate(directory: &Path, turn: usize, size_bytes: usize) -> f64 {
    let writes = TURN_WRITES.min(TURN_BYTES / size_bytes);
    let block = vec![turn as u8; size_bytes];
    let mut file = File::create(directory.join(format!("{size_bytes}-{turn}"))).expect("created");
    let begun = Instant::now();
    for _ in 0..writes {
        file.write_all(&block).expect("written");
    }
    writes as f64 / begun.elapsed().as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Keeps this process, and all that it starts, on the CPU that it is on.
fn stay_on_one_cpu() {
    // SAFETY: `cpu_set_t` is plain bits, and both calls get a set of the size they are told.
    let result = unsafe {
        let mut cpus: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(libc::sched_getcpu() as usize, &mut cpus);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const cpus)
    };
    assert_eq!(result, 0, "the CPU can be chosen");
}

fn main() {
    stay_on_one_cpu();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let [null, mounted, data, state] = ["null", "mounted", "data", "state"].map(|name| {
        let path = directory.path().join(name);
        std::fs::create_dir(&path).expect("created");
        path
    });
    let mut config = Config::default();
    config.n_threads = Some(2);
    config.clone_fd = true;
    config.mount_options = vec![MountOption::FSName("null".to_owned())];
    let null_session = fuser::spawn_mount(Null, &null, &config).expect("the null filesystem is mounted");
    let (server, environment) = serve(&data);
    let status = pailfs()
        .args(["mount", "--allow-bucket-changes"])
        .arg(&mounted)
        .arg("--state-dir")
        .arg(&state)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .status()
        .expect("pailfs mount runs");
    assert!(status.success(), "not mounted");
    let bucket = mounted.join("bucket");
    std::fs::create_dir(&bucket).expect("created");
    println!("writes a second, medians of {TURNS} turns");
    println!("{:>10} {:>10} {:>10} {:>6}", "bytes", "null", "pailfs", "ratio");
    for size_bytes in SIZES_BYTES {
        let turns: Vec<(f64, f64)> = (0..TURNS)
            .map(|turn| (rate(&null, turn, size_bytes), rate(&bucket, turn, size_bytes)))
            .collect();
        let (null, pailfs): (Vec<f64>, Vec<f64>) = turns.into_iter().unzip();
        let (null, pailfs) = (median(null), median(pailfs));
        println!(
            "{size_bytes:>10} {null:>10.0} {pailfs:>10.0} {:>5.0}%",
            100.0 * pailfs / null
        );
    }
    let unmounted = pailfs().arg("unmount").arg(&mounted).status();
    assert!(unmounted.expect("pailfs unmount runs").success(), "not unmounted");
    drop(server);
    drop(null_session);
}
