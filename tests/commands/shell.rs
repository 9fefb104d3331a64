//! Runs commands as a script does: in a directory of their own, with a store's address and keys in the environment.

use crate::support::command::{Done, Tool};
use crate::support::store::{ACCESS_KEY, SECRET_KEY, Store};
use std::path::{Path, PathBuf};

const PROGRAM: &str = env!("CARGO_BIN_EXE_pailfs");

pub struct Shell {
    home: tempfile::TempDir,
    endpoint_url: String,
    bucket: String,
}

impl Shell {
    pub fn new(store: &Store) -> Self {
        Self::at(&store.endpoint_url, &store.bucket.name)
    }

    pub fn at(endpoint_url: &str, bucket: &str) -> Self {
        let home = tempfile::Builder::new().prefix("pailfs-commands-").tempdir();
        let home = home.expect("a temporary directory");
        std::fs::create_dir(home.path().join("work")).expect("made");
        Self {
            home,
            endpoint_url: endpoint_url.to_owned(),
            bucket: bucket.to_owned(),
        }
    }

    /// Where the commands run.
    pub fn work(&self) -> PathBuf {
        self.home.path().join("work")
    }

    pub fn state(&self) -> PathBuf {
        self.home.path().join("state")
    }

    /// The address of a key in the store's bucket.
    pub fn at_key(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.bucket)
    }

    /// `program` with nothing of the caller's AWS configuration.
    pub fn tool(&self, program: impl AsRef<std::ffi::OsStr>) -> Tool {
        let mut tool = Tool::new(program);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if ["AWS_", "PAILFS_", "XDG_"]
                .iter()
                .any(|start| text.starts_with(start))
            {
                tool.command().env_remove(&name);
            }
        }
        let programs = Path::new(PROGRAM).parent().expect("a directory").to_owned();
        let inherited = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths([programs].into_iter().chain(std::env::split_paths(&inherited)));
        tool.env("HOME", self.home.path())
            .env("PATH", path.expect("no colons"))
            .env("PAILFS_STATE_DIR", self.state())
            .env("AWS_ENDPOINT_URL", &self.endpoint_url)
            .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
            .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
            .env("AWS_REGION", "us-east-1")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("BUCKET", &self.bucket)
            .current_dir(self.work())
    }

    /// However it ends.
    #[track_caller]
    pub fn output(&self, arguments: &[&str]) -> Done {
        self.tool(PROGRAM).args(arguments).output()
    }

    /// It must succeed, and have nothing to complain about; returns what it printed.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> String {
        let done = self.output(arguments);
        assert_eq!(done.stderr, "", "{arguments:?}");
        done.success()
    }

    /// The document that it prints.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let text = self.run(arguments);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text}"))
    }

    /// A bash script, which ends at the first command that fails; however it ends.
    #[track_caller]
    pub fn script(&self, script: &str) -> Done {
        self.tool("bash")
            .args(["-euo", "pipefail", "-c", script])
            .output()
    }

    pub fn write(&self, name: &str, data: &[u8]) {
        std::fs::write(self.work().join(name), data).expect("written");
    }

    #[track_caller]
    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.work().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// What is in the directory.
    pub fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.work()).expect("listed");
        let names = entries.map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        });
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }
}
