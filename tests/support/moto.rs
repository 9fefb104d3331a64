//! One moto for all tests of a run: a third S3 server, written by others again, which checks neither signatures nor
//! checksums.

use super::server::{self, Candidate};
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

/// Where the running moto listens; `None`, with a line that says why, when there is none on this machine.
///
/// # Panics
/// When there is none where every test must run, or when it does not start.
pub fn endpoint_url() -> Option<String> {
    static STARTED: OnceLock<Option<String>> = OnceLock::new();
    let start = || {
        let program = server::find_tool("PAILFS_TEST_MOTO", "moto_server")?;
        let is_ready = |port| server::ask(port).starts_with("HTTP/1.");
        Some(server::start("moto", || candidate(&program), is_ready))
    };
    STARTED.get_or_init(start).clone()
}

fn candidate(program: &Path) -> Candidate {
    let [port] = server::free_ports();
    let mut command = Command::new(program);
    command.args(["-H", "127.0.0.1", "-p"]).arg(port.to_string());
    Candidate {
        command,
        directory: server::new_directory("pailfs-moto-"),
        strays: Vec::new(),
        port,
    }
}
