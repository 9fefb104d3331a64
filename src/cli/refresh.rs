//! `pailfs refresh`: the mount forgets what it believes about a path, so that the next look asks the bucket.

use crate::cli::args::RefreshArgs;
use crate::cli::control;
use crate::cli::environment::Environment;
use crate::cli::failure::Failure;
use crate::cli::system::mount_table;
use crate::cli::system::mounts;
use crate::rt;

/// # Errors
/// NotFound when the path is in no mount of ours; Denied when that is somebody else's.
pub fn run(args: &RefreshArgs) -> Result<(), Failure> {
    let environment = Environment::of_process()?;
    let state_dir = environment.state_dir(args.state.state_dir.as_deref())?;
    let table = mount_table::read().map_err(|error| Failure::io(&error, "/proc/self/mountinfo"))?;
    let path = environment.absolute(&args.path);
    let (mount, below) = mounts::of_path(&table, &path)?;
    let candidates = control::candidate_sockets(mount, &environment, &state_dir);
    let runtime = rt::build().map_err(|error| Failure::io(&error, "threads"))?;
    runtime.block_on(async {
        let stream = control::connect(&candidates).await?;
        control::request_refresh(stream, &below).await
    })
}
