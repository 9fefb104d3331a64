//! `pailfs refresh`: the mount forgets what it believes about a path, so that the next look asks the bucket.

use crate::cli::args::RefreshArgs;
use crate::cli::control;
use crate::cli::environment::Environment;
use crate::cli::failure::{Exit, Failure};
use crate::cli::system::mount_table::{self, Mount};
use crate::cli::system::mounts;
use crate::rt;
use std::path::{Path, PathBuf};

/// # Errors
/// NotFound when the path is in no mount of ours; Denied when that is somebody else's.
pub fn run(args: &RefreshArgs) -> Result<(), Failure> {
    let environment = Environment::of_process()?;
    let state_dir = environment.state_dir(args.state.state_dir.as_deref())?;
    let table = mount_table::read().map_err(|error| Failure::io(&error, "/proc/self/mountinfo"))?;
    let path = environment.absolute(&args.path);
    // As it is written first: what is to be refreshed may not be found by asking the mount.
    let found = find(&table, &path).or_else(|| find(&table, &mounts::real_path(&path).ok()?));
    let Some((mount, below)) = found else {
        let message = format!("{} is not in a mount of pailfs", path.display());
        return Err(Failure::new(Exit::NotFound, message));
    };
    let candidates = control::candidate_sockets(mount, &environment, &state_dir);
    let runtime = rt::build().map_err(|error| Failure::io(&error, "threads"))?;
    runtime.block_on(async {
        let stream = control::connect(&candidates).await?;
        control::request_refresh(stream, &below).await
    })
}

/// The mount that a path is in, and the path within it.
fn find<'a>(table: &'a [Mount], path: &Path) -> Option<(&'a Mount, PathBuf)> {
    let mount = path
        .ancestors()
        .find_map(|ancestor| mount_table::topmost_at(table, ancestor))?;
    let below = path.strip_prefix(&mount.mount_point).ok()?;
    mount.is_fuse().then(|| (mount, below.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_belongs_to_the_innermost_mount() {
        let mount = |mount_point: &str, fs_type: &str| Mount {
            mount_id: 1,
            major: 0,
            minor: 1,
            mount_point: mount_point.into(),
            fs_type: fs_type.into(),
            source: "s3://b".into(),
            user_id: None,
        };
        let table = [
            mount("/", "ext4"),
            mount("/m", "fuse.pailfs"),
            mount("/m/x", "tmpfs"),
        ];
        let below = |path: &str| find(&table, Path::new(path)).map(|(_, below)| below);
        assert_eq!(below("/m/a/b"), Some("a/b".into()));
        assert_eq!(below("/m"), Some("".into()));
        assert_eq!(below("/m/x/y"), None);
        assert_eq!(below("/other"), None);
    }
}
