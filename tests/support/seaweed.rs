//! One SeaweedFS for all tests of a run.
//!
//! It listens on many ports, most with fixed defaults: all are given. Some ports are not derived from others but default
//! to fixed numbers, or stay unused: those services are off. Sockets of its own are where it wants them, whatever the
//! environment says: they are removed with its directory.

use super::server::{self, Candidate};
use super::store::{ACCESS_KEY, SECRET_KEY};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Where the running SeaweedFS listens; `None`, with a line that says why, when there is none on this machine.
///
/// # Panics
/// When there is none where every test must run, or when it does not start.
pub fn endpoint_url() -> Option<String> {
    static STARTED: OnceLock<Option<String>> = OnceLock::new();
    let start = || {
        let program = server::find_tool("PAILFS_TEST_WEED", "weed")?;
        Some(server::start("SeaweedFS", || candidate(&program), is_ready))
    };
    STARTED.get_or_init(start).clone()
}

fn candidate(program: &Path) -> Candidate {
    let directory = server::new_directory("pailfs-seaweed-");
    let [s3_port, ports @ ..] = server::free_ports::<8>();
    let identity = format!(
        r#"{{"identities":[{{"name":"test","credentials":[{{"accessKey":"{ACCESS_KEY}","secretKey":"{SECRET_KEY}"}}],
        "actions":["Admin","Read","Write","List","Tagging"]}}]}}"#
    );
    std::fs::write(directory.join("s3.json"), identity).expect("written");
    std::fs::create_dir(directory.join("data")).expect("made");
    let mut command = Command::new(program);
    command.arg(format!("-logdir={}", directory.display()));
    command.args([
        "server",
        "-s3",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-volume.max=3000",
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
    let strays = names.clone().zip(ports).filter_map(socket_of).collect();
    command.args(names.zip(ports).map(|(name, port)| format!("-{name}={port}")));
    command.arg(format!("-dir={}", directory.join("data").display()));
    command.arg(format!("-s3.config={}", directory.join("s3.json").display()));
    command.arg(format!("-s3.localSocket={}", directory.join("s3.sock").display()));
    command.arg(format!(
        "-filer.localSocket={}",
        directory.join("filer.sock").display()
    ));
    Candidate {
        command,
        directory,
        strays,
        port: s3_port,
    }
}

/// Through which its parts talk to each other.
fn socket_of((name, port): (&str, u16)) -> Option<PathBuf> {
    let part = name.strip_suffix(".port.grpc")?;
    Some(format!("/tmp/seaweedfs-{part}-grpc-{port}.sock").into())
}

/// It answers with "access denied" only once its keys are loaded; before that it lets everybody in, or nobody.
fn is_ready(s3_port: u16) -> bool {
    server::ask(s3_port).contains("AccessDenied")
}
