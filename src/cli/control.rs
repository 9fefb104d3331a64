//! How commands talk to the daemon of a mount: one line of JSON each way over a Unix socket.
//!
//! Difficulties, and who solves each:
//! 1. A mount's daemon must be found from the mount point alone, without touching the mount (which may hang): the
//!    socket is named after the mount's device numbers, which the mount table tells ([`socket_name`],
//!    [`candidate_sockets`]).
//! 2. Only the user who mounted (and root) may unmount: the socket has mode 0600 in a directory of mode 0700.
//! 3. Sending what is unsent may take long, and a silent peer may be a dead one: the daemon repeats the progress every
//!    [`HEARTBEAT`], and a client gives up after [`SILENCE_LIMIT`] without a line.
//! 4. Who was told "done" may delete the state directory at once: the connection stays open until the daemon's process
//!    is gone ([`keep_until_exit`]), and the client waits for that ([`request_unmount`]).
//! 5. The daemon ends right after "done": it must not end before that was said ([`ControlServer::finish`]).
//!
//! Commands and signals become the same [`ControlRequest`]s, which the mount's main loop receives.

use crate::cli::environment::Environment;
use crate::cli::failure::{Exit, Failure};
use crate::cli::system::directories;
use crate::cli::system::mount_table::Mount;
use crate::cli::system::mounts::Way;
use crate::rt;
use serde::{Deserialize, Serialize};
use std::os::fd::IntoRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot, watch};

/// How often a daemon that works on a request says so.
pub const HEARTBEAT: Duration = Duration::from_millis(500);
/// A daemon that says nothing for so long is taken for dead.
pub const SILENCE_LIMIT: Duration = Duration::from_secs(30);
/// How long a client may take to say what it wants.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// How long the end of a daemon waits for clients to read their answers.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// No message is longer.
const MAX_LINE_BYTES: u64 = 64 << 10;

/// What is not in the bucket yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    pub pending_files: u64,
    pub pending_bytes: u64,
}

/// What the main loop of a mount is asked to do.
#[derive(Debug)]
pub enum ControlRequest {
    /// Put everything into the bucket, then unmount.
    Unmount {
        /// `Plain`: fail, and stay mounted, when something cannot be sent or the mount is in use. `Detach`: end in any
        /// case; what cannot be sent is kept for the next mount.
        way: Way,
        progress: watch::Sender<Progress>,
        done: oneshot::Sender<Result<(), Failure>>,
    },
    /// Forget what is believed about a path in the mount.
    Refresh {
        path: PathBuf,
        done: oneshot::Sender<Result<(), Failure>>,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Request {
    Unmount,
    Refresh { path: PathBuf },
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Reply {
    Progress(Progress),
    Done,
    /// The mount goes on.
    Refreshed,
    Failed(Failure),
}

/// The daemon's end: listens until it is dropped, which removes the socket.
#[derive(Debug)]
pub struct ControlServer {
    path: PathBuf,
    /// Device and inode of our socket. Device numbers of mounts are used again at once, so a newer mount's socket may have
    /// the path by the time that this one ends.
    identity: Option<(u64, u64)>,
    accepting: rt::JoinHandle<()>,
    /// Closed when nobody owes an answer any more.
    answering: mpsc::Receiver<()>,
}

impl ControlServer {
    /// Listens at `path` and turns what clients ask into `requests`.
    ///
    /// # Errors
    /// When the directory or the socket cannot be made, or others could put things into the directory.
    pub fn start(path: &Path, requests: mpsc::Sender<ControlRequest>) -> Result<Self, Failure> {
        if let Some(directory) = path.parent() {
            directories::make_trusted(directory)?;
        }
        // The device numbers in its name are ours, so an older socket belongs to a daemon that is gone.
        let _absent_already = std::fs::remove_file(path);
        let named =
            |error: std::io::Error| Failure::io(&error, format_args!("control socket {}", path.display()));
        let listener = UnixListener::bind(path).map_err(named)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(named)?;
        let (owes_answer, answering) = mpsc::channel(1);
        let accepting = rt::spawn(accept(listener, requests, owes_answer));
        Ok(Self {
            path: path.to_owned(),
            identity: identity_of(path),
            accepting,
            answering,
        })
    }

    /// Stops listening, and waits until everybody who asked got an answer (as long as they read it).
    pub async fn finish(mut self) {
        self.accepting.abort();
        if rt::timeout(ANSWER_LIMIT, self.answering.recv()).await.is_err() {
            tracing::warn!("a client of the control socket does not read its answer");
        }
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        self.accepting.abort();
        if self.identity.is_some() && identity_of(&self.path) == self.identity {
            let _absent_already = std::fs::remove_file(&self.path);
        }
    }
}

fn identity_of(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path)
        .ok()
        .map(|metadata| (metadata.dev(), metadata.ino()))
}

async fn accept(
    listener: UnixListener,
    requests: mpsc::Sender<ControlRequest>,
    owes_answer: mpsc::Sender<()>,
) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(rt::spawn(serve(stream, requests.clone(), owes_answer.clone()))),
            Err(error) => {
                tracing::warn!(%error, "control socket");
                rt::sleep(HEARTBEAT).await;
            }
        }
    }
}

async fn serve(
    mut stream: UnixStream,
    requests: mpsc::Sender<ControlRequest>,
    owes_answer: mpsc::Sender<()>,
) {
    match serve_request(&mut stream, requests).await {
        Ok(Reply::Done) => keep_until_exit(stream),
        Ok(_) => {}
        // The client went away: what it asked for goes on.
        Err(error) => tracing::debug!(%error, "control connection"),
    }
    drop(owes_answer);
}

/// Leaves the connection to the end of this process: see difficulty 4.
fn keep_until_exit(stream: UnixStream) {
    match stream.into_std() {
        Ok(stream) => drop(stream.into_raw_fd()),
        Err(error) => tracing::debug!(%error, "control connection"),
    }
}

async fn serve_request(
    stream: &mut UnixStream,
    requests: mpsc::Sender<ControlRequest>,
) -> std::io::Result<Reply> {
    let (read, mut write) = stream.split();
    let mut read = BufReader::new(read).take(MAX_LINE_BYTES);
    let mut line = String::new();
    if rt::timeout(REQUEST_LIMIT, read.read_line(&mut line))
        .await
        .is_err()
    {
        return Err(std::io::ErrorKind::TimedOut.into());
    }
    let reply = match serde_json::from_str::<Request>(&line) {
        Err(error) => Reply::Failed(Failure::usage(format!("control request {line:?}: {error}"))),
        Ok(Request::Refresh { path }) => refresh(path, &requests).await,
        Ok(Request::Unmount) => {
            let (progress, seen) = watch::channel(Progress::default());
            let (done, result) = oneshot::channel();
            let request = ControlRequest::Unmount {
                way: Way::Plain,
                progress,
                done,
            };
            if requests.send(request).await.is_err() {
                Reply::Failed(Failure::failed("the mount is ending already"))
            } else {
                report_until_done(&mut write, seen, result).await?
            }
        }
    };
    write_line(&mut write, &reply).await?;
    Ok(reply)
}

async fn refresh(path: PathBuf, requests: &mpsc::Sender<ControlRequest>) -> Reply {
    let (done, result) = oneshot::channel();
    let is_ending = || Reply::Failed(Failure::failed("the mount is ending"));
    if requests
        .send(ControlRequest::Refresh { path, done })
        .await
        .is_err()
    {
        return is_ending();
    }
    match result.await {
        Ok(Ok(())) => Reply::Refreshed,
        Ok(Err(failure)) => Reply::Failed(failure),
        Err(_dropped) => is_ending(),
    }
}

async fn report_until_done(
    write: &mut (impl AsyncWriteExt + Unpin),
    progress: watch::Receiver<Progress>,
    mut result: oneshot::Receiver<Result<(), Failure>>,
) -> std::io::Result<Reply> {
    loop {
        match rt::timeout(HEARTBEAT, &mut result).await {
            Ok(Ok(Ok(()))) => return Ok(Reply::Done),
            Ok(Ok(Err(failure))) => return Ok(Reply::Failed(failure)),
            Ok(Err(_dropped)) => return Ok(Reply::Failed(Failure::failed("the daemon gave the request up"))),
            Err(_elapsed) => {
                let now = *progress.borrow();
                write_line(write, &Reply::Progress(now)).await?;
            }
        }
    }
}

async fn write_line<T: Serialize>(
    write: &mut (impl AsyncWriteExt + Unpin),
    value: &T,
) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(value).map_err(std::io::Error::other)?;
    line.push(b'\n');
    write.write_all(&line).await
}

/// Asks the daemon behind `stream` to unmount, and waits until it did and its process has ended; `show` is called with
/// what is pending, repeatedly.
///
/// # Errors
/// What the daemon says; Failed when it ends or falls silent without an answer.
pub async fn request_unmount(stream: UnixStream, mut show: impl FnMut(Progress)) -> Result<(), Failure> {
    let lost = |error: &std::io::Error| Failure::io(error, "the daemon's control socket");
    let (read, mut write) = stream.into_split();
    write_line(&mut write, &Request::Unmount)
        .await
        .map_err(|error| lost(&error))?;
    let mut read = BufReader::new(read).take(MAX_LINE_BYTES);
    let mut line = String::new();
    loop {
        line.clear();
        read.set_limit(MAX_LINE_BYTES);
        let length = match rt::timeout(SILENCE_LIMIT, read.read_line(&mut line)).await {
            Ok(result) => result.map_err(|error| lost(&error))?,
            Err(_) => {
                return Err(Failure::failed(format!(
                    "the daemon has said nothing for {SILENCE_LIMIT:?}"
                )));
            }
        };
        if length == 0 {
            return Err(Failure::failed(
                "the daemon ended before everything was done; its log says why",
            ));
        }
        match serde_json::from_str(&line) {
            Ok(Reply::Progress(progress)) => show(progress),
            Ok(Reply::Refreshed) => return Err(Failure::failed("the daemon answered another question")),
            Ok(Reply::Failed(failure)) => return Err(failure),
            Ok(Reply::Done) => break,
            Err(error) => return Err(Failure::failed(format!("the daemon's answer {line:?}: {error}"))),
        }
    }
    line.clear();
    match rt::timeout(SILENCE_LIMIT, read.read_line(&mut line)).await {
        Ok(_) => Ok(()),
        Err(_) => Err(Failure::failed(
            "unmounted, and everything is in the bucket, but the daemon does not end",
        )),
    }
}

/// Asks the daemon behind `stream` to forget what it believes about `path` (within the mount).
///
/// # Errors
/// What the daemon says; Failed when it ends or falls silent without an answer.
pub async fn request_refresh(stream: UnixStream, path: &Path) -> Result<(), Failure> {
    let lost = |error: &std::io::Error| Failure::io(error, "the daemon's control socket");
    let (read, mut write) = stream.into_split();
    let request = Request::Refresh {
        path: path.to_owned(),
    };
    write_line(&mut write, &request)
        .await
        .map_err(|error| lost(&error))?;
    let mut line = String::new();
    let mut read = BufReader::new(read).take(MAX_LINE_BYTES);
    match rt::timeout(SILENCE_LIMIT, read.read_line(&mut line)).await {
        Ok(result) => result.map_err(|error| lost(&error))?,
        Err(_elapsed) => {
            return Err(Failure::failed(format!(
                "the daemon has said nothing for {SILENCE_LIMIT:?}"
            )));
        }
    };
    match serde_json::from_str(&line) {
        Ok(Reply::Refreshed) => Ok(()),
        Ok(Reply::Failed(failure)) => Err(failure),
        answer => Err(Failure::failed(format!(
            "the daemon's answer {line:?}: {answer:?}"
        ))),
    }
}

/// The socket's name for the mount with these device numbers.
#[must_use]
pub fn socket_name(mount: &Mount) -> String {
    format!("{}-{}.sock", mount.major, mount.minor)
}

/// The directory in which a daemon of this user listens: the system's or the session's runtime directory, which a
/// reboot empties; where there is none, one in the state directory.
#[must_use]
pub fn socket_directory(environment: &Environment, state_dir: &Path) -> PathBuf {
    match (&environment.xdg_runtime_dir, environment.uid) {
        (_, 0) => "/run/pailfs".into(),
        (Some(directory), _) => directory.join("pailfs"),
        (None, _) => state_dir.join("run"),
    }
}

/// Where the daemon of `mount` may listen, likeliest first; root finds those of other users too.
#[must_use]
pub fn candidate_sockets(mount: &Mount, environment: &Environment, state_dir: &Path) -> Vec<PathBuf> {
    let mut directories = vec![
        socket_directory(environment, state_dir),
        state_dir.join("run"),
        "/run/pailfs".into(),
    ];
    directories.extend(
        mount
            .user_id
            .map(|uid| PathBuf::from(format!("/run/user/{uid}/pailfs"))),
    );
    let name = socket_name(mount);
    let mut candidates: Vec<PathBuf> = Vec::new();
    for directory in directories {
        let path = directory.join(&name);
        if !candidates.contains(&path) {
            candidates.push(path);
        }
    }
    candidates
}

/// Whether a daemon listens at one of `candidates`. Without a runtime; a local connection does not wait.
#[must_use]
pub fn is_served(candidates: &[PathBuf]) -> bool {
    candidates
        .iter()
        .any(|path| std::os::unix::net::UnixStream::connect(path).is_ok())
}

/// Connects to the first of `candidates` at which somebody listens.
///
/// # Errors
/// NotFound when nobody does; Denied when a socket is there that this user may not use.
pub async fn connect(candidates: &[PathBuf]) -> Result<UnixStream, Failure> {
    let mut denied = None;
    for path in candidates {
        match UnixStream::connect(path).await {
            Ok(stream) => return Ok(stream),
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => denied = Some(path),
            Err(_) => {}
        }
    }
    Err(match denied {
        Some(path) => Failure::new(
            Exit::Denied,
            format!("{}: the mount belongs to another user", path.display()),
        ),
        None => Failure::new(Exit::NotFound, "no daemon of pailfs answers for this mount"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::environment::example;

    fn mount() -> Mount {
        Mount {
            mount_id: 40,
            major: 0,
            minor: 52,
            mount_point: "/m".into(),
            fs_type: "fuse.pailfs".into(),
            source: "s3://b".into(),
            user_id: Some(1000),
        }
    }

    /// Runs `daemon` against `request_unmount` over a real socket.
    async fn converse<D: Future<Output = ()> + Send + 'static>(
        daemon: impl FnOnce(mpsc::Receiver<ControlRequest>) -> D,
    ) -> (Result<(), Failure>, Vec<Progress>) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("run/0-52.sock");
        let (sender, receiver) = mpsc::channel(1);
        let server = ControlServer::start(&path, sender).expect("listens");
        assert_eq!(
            std::fs::metadata(&path).expect("there").permissions().mode() & 0o777,
            0o600
        );
        let working = rt::spawn(daemon(receiver));
        let stream = connect(&["/no/such.sock".into(), path.clone()])
            .await
            .expect("connects");
        let mut seen = Vec::new();
        // The end of a process closes its connections; here the client sees "done" and its own process lives on.
        let result = rt::timeout(
            Duration::from_secs(20),
            request_unmount_and_close(stream, &mut seen),
        )
        .await;
        working.await.expect("no panic");
        server.finish().await;
        assert!(!path.exists());
        (result.expect("in time"), seen)
    }

    #[tokio::test]
    async fn an_ending_server_leaves_the_socket_of_a_newer_mount() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("run/0-52.sock");
        let start = || ControlServer::start(&path, mpsc::channel(1).0).expect("listens");
        let older = start();
        let newer = start();
        older.finish().await;
        assert!(path.exists());
        newer.finish().await;
        assert!(!path.exists());
    }

    /// `request_unmount` through a proxy that closes after the last line, as the end of a daemon's process does.
    async fn request_unmount_and_close(stream: UnixStream, seen: &mut Vec<Progress>) -> Result<(), Failure> {
        let (client, proxy) = UnixStream::pair().expect("a pair");
        let (proxy_read, mut proxy_write) = proxy.into_split();
        let (daemon_read, mut daemon_write) = stream.into_split();
        let forwarding = rt::spawn(async move {
            let mut request = String::new();
            BufReader::new(proxy_read)
                .read_line(&mut request)
                .await
                .expect("a request");
            daemon_write.write_all(request.as_bytes()).await.expect("sent");
            let mut replies = BufReader::new(daemon_read).lines();
            while let Some(line) = replies.next_line().await.expect("readable") {
                proxy_write
                    .write_all(format!("{line}\n").as_bytes())
                    .await
                    .expect("sent");
                if !line.contains("progress") {
                    break;
                }
            }
        });
        let result = request_unmount(client, |progress| seen.push(progress)).await;
        forwarding.await.expect("no panic");
        result
    }

    #[tokio::test]
    async fn an_unmount_reports_progress_and_its_end() {
        let pending = Progress {
            pending_files: 2,
            pending_bytes: 99,
        };
        let (result, seen) = converse(move |mut requests| async move {
            let Some(ControlRequest::Unmount { way, progress, done }) = requests.recv().await else {
                panic!("no request")
            };
            assert_eq!(way, Way::Plain);
            progress.send(pending).expect("watched");
            // Until the client was told once.
            rt::sleep(HEARTBEAT * 2).await;
            done.send(Ok(())).expect("awaited");
        })
        .await;
        assert_eq!(result, Ok(()));
        assert_eq!(seen.first(), Some(&pending));
    }

    #[tokio::test]
    async fn the_daemons_failure_arrives_with_its_exit_code() {
        let (result, _) = converse(|mut requests| async move {
            let Some(ControlRequest::Unmount { done, .. }) = requests.recv().await else {
                panic!("no request")
            };
            done.send(Err(Failure::new(Exit::Conflict, "in use")))
                .expect("awaited");
        })
        .await;
        assert_eq!(result, Err(Failure::new(Exit::Conflict, "in use")));
    }

    #[tokio::test]
    async fn a_daemon_that_dies_is_noticed() {
        let (client, daemon) = UnixStream::pair().expect("a pair");
        drop(daemon);
        assert!(request_unmount(client, |_| ()).await.is_err());
    }

    #[tokio::test]
    async fn nonsense_is_answered_with_a_usage_failure() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("run/x.sock");
        let (sender, _receiver) = mpsc::channel(1);
        let _server = ControlServer::start(&path, sender).expect("listens");
        let mut stream = UnixStream::connect(&path).await.expect("connects");
        stream.write_all(b"hello\n").await.expect("sent");
        let mut line = String::new();
        BufReader::new(stream)
            .read_line(&mut line)
            .await
            .expect("answered");
        let Ok(Reply::Failed(failure)) = serde_json::from_str(&line) else {
            panic!("{line}")
        };
        assert_eq!(failure.exit, Exit::Usage);
    }

    #[tokio::test]
    async fn nobody_listening_is_not_found() {
        let failure = connect(&["/no/such.sock".into()]).await.expect_err("nobody");
        assert_eq!(failure.exit, Exit::NotFound);
    }

    #[test]
    fn sockets_are_looked_for_where_daemons_put_them() {
        let user = Environment {
            xdg_runtime_dir: Some("/run/user/1000".into()),
            ..example(1000)
        };
        let own = socket_directory(&user, Path::new("/s")).join(socket_name(&mount()));
        assert_eq!(own, Path::new("/run/user/1000/pailfs/0-52.sock"));
        for environment in [user, example(1000), example(0)] {
            let listens = socket_directory(&environment, Path::new("/s")).join(socket_name(&mount()));
            assert!(candidate_sockets(&mount(), &environment, Path::new("/s")).contains(&listens));
        }
        // Root unmounts what a user mounted.
        assert!(candidate_sockets(&mount(), &example(0), Path::new("/s")).contains(&own));
    }
}
