//! What the machine and the caller's environment contribute to a configuration, read once, so that everything after
//! it is pure.

use crate::cli::failure::Failure;
use crate::cli::system::memory;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Environment {
    /// Effective ids of this process.
    pub uid: u32,
    pub gid: u32,
    pub current_dir: PathBuf,
    pub home: Option<PathBuf>,
    pub xdg_state_home: Option<PathBuf>,
    pub xdg_cache_home: Option<PathBuf>,
    pub xdg_runtime_dir: Option<PathBuf>,
    /// The smallest of the machine's memory and all limits of this process' control groups.
    pub memory_limit_bytes: u64,
}

impl Environment {
    /// Reads it from the process.
    ///
    /// # Errors
    /// When the current directory is gone and so relative paths mean nothing.
    pub fn of_process() -> Result<Self, Failure> {
        // The XDG base directory specification: "All paths must be absolute … If an implementation encounters a
        // relative path … it should consider the path invalid and ignore it".
        let directory = |value: Option<OsString>| value.map(PathBuf::from).filter(|path| path.is_absolute());
        let current_dir =
            std::env::current_dir().map_err(|error| Failure::io(&error, "the current directory"))?;
        // SAFETY: these two calls have no preconditions and cannot fail (credentials(7)).
        let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
        Ok(Self {
            uid,
            gid,
            current_dir,
            home: directory(std::env::var_os("HOME")),
            xdg_state_home: directory(std::env::var_os("XDG_STATE_HOME")),
            xdg_cache_home: directory(std::env::var_os("XDG_CACHE_HOME")),
            xdg_runtime_dir: directory(std::env::var_os("XDG_RUNTIME_DIR")),
            memory_limit_bytes: memory::limit_bytes(),
        })
    }

    /// The directory for what must survive, as an option gives it or by default.
    ///
    /// # Errors
    /// When there is neither an option nor a home directory.
    pub fn state_dir(&self, option: Option<&Path>) -> Result<PathBuf, Failure> {
        self.directory(
            option,
            "/var/lib/pailfs",
            self.xdg_state_home.as_deref(),
            ".local/state",
            "--state-dir",
        )
    }

    /// The directory for what can be thrown away, as an option gives it or by default.
    ///
    /// # Errors
    /// When there is neither an option nor a home directory.
    pub fn cache_dir(&self, option: Option<&Path>) -> Result<PathBuf, Failure> {
        self.directory(
            option,
            "/var/cache/pailfs",
            self.xdg_cache_home.as_deref(),
            ".cache",
            "--cache-dir",
        )
    }

    fn directory(
        &self,
        option: Option<&Path>,
        of_root: &str,
        xdg: Option<&Path>,
        in_home: &str,
        option_name: &str,
    ) -> Result<PathBuf, Failure> {
        if let Some(path) = option {
            return Ok(self.absolute(path));
        }
        if self.uid == 0 {
            return Ok(of_root.into());
        }
        if let Some(xdg) = xdg {
            return Ok(xdg.join("pailfs"));
        }
        match &self.home {
            Some(home) => Ok(home.join(in_home).join("pailfs")),
            None => Err(Failure::usage(format!(
                "HOME is not set: give a directory with {option_name}"
            ))),
        }
    }

    /// `path` as seen from the directory in which the command was given.
    #[must_use]
    pub fn absolute(&self, path: &Path) -> PathBuf {
        self.current_dir.join(path)
    }
}

#[cfg(test)]
pub(crate) fn example(uid: u32) -> Environment {
    Environment {
        uid,
        gid: uid,
        current_dir: "/work-dir".into(),
        home: Some("/home/u".into()),
        xdg_state_home: None,
        xdg_cache_home: None,
        xdg_runtime_dir: None,
        memory_limit_bytes: 8 << 30,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_follow_the_user() {
        let user = example(1000);
        assert_eq!(user.state_dir(None), Ok("/home/u/.local/state/pailfs".into()));
        assert_eq!(user.cache_dir(None), Ok("/home/u/.cache/pailfs".into()));
        let with_xdg = Environment {
            xdg_state_home: Some("/x".into()),
            ..user.clone()
        };
        assert_eq!(with_xdg.state_dir(None), Ok("/x/pailfs".into()));
        assert_eq!(with_xdg.state_dir(Some(Path::new("s"))), Ok("/work-dir/s".into()));
        assert_eq!(example(0).state_dir(None), Ok("/var/lib/pailfs".into()));
        assert_eq!(example(0).cache_dir(None), Ok("/var/cache/pailfs".into()));
        let homeless = Environment { home: None, ..user };
        assert!(
            homeless
                .state_dir(None)
                .expect_err("no home")
                .message
                .contains("--state-dir")
        );
    }
}
