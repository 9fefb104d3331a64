//! Tests whose environment matters: each runs in a process of its own, which has only the variables it is given.

use std::fs;
use std::future::Future;
use std::path::PathBuf;
use std::process::Command;

const INSIDE: &str = "PAILFS_TEST_ALONE";

/// The home directory of a test that runs alone, with AWS's configuration files in it.
pub struct Home(PathBuf);

impl Home {
    /// Writes `~/.aws/config`.
    pub fn config(&self, text: &str) {
        self.write("config", text);
    }

    /// Writes `~/.aws/credentials`.
    pub fn credentials(&self, text: &str) {
        self.write("credentials", text);
    }

    fn write(&self, name: &str, text: &str) {
        let directory = self.0.join(".aws");
        fs::create_dir_all(&directory).expect("made");
        fs::write(directory.join(name), text).expect("written");
    }
}

/// Sets variables, before there are other threads than the test's.
pub fn set(variables: &[(&str, &str)]) {
    assert!(
        std::env::var_os(INSIDE).is_some(),
        "only in a test that runs alone"
    );
    for (name, value) in variables {
        // SAFETY: of this process's threads one runs the test and the other waits for its end.
        unsafe { std::env::set_var(name, value) };
    }
}

/// Runs the test that calls this again, in a process of its own, and there `body`.
pub fn alone<B: FnOnce(&Home)>(body: B) {
    if std::env::var_os(INSIDE).is_some() {
        let home = std::env::var_os("HOME").expect("given below");
        body(&Home(home.into()));
        return;
    }
    // The closure's type is named after the test: `s3_edge::module::test::{{closure}}`.
    let name = std::any::type_name::<B>();
    let name = name.split_once("::").map_or(name, |(_, rest)| rest);
    let name = name.trim_end_matches("::{{closure}}");
    let home = tempfile::tempdir().expect("a temporary directory");
    let program = std::env::current_exe().expect("this program");
    let done = Command::new(program)
        .args(["--exact", name, "--test-threads=1", "--nocapture"])
        .env_clear()
        .env("HOME", home.path())
        .env("RUST_BACKTRACE", "1")
        // Nobody is asked for credentials.
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env(INSIDE, "1")
        .output()
        .expect("this program runs");
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr)
    );
    assert!(
        done.status.success() && said.contains("1 passed"),
        "{name}, alone:\n{said}"
    );
}

/// Runs `work` on a clock that waits for nothing.
pub fn paused<F: Future>(work: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime")
        .block_on(work)
}
