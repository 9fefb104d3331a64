//! Bugs that were found by reading: each test is the exact sequence of events that showed one.

#[path = "../in_process/mod.rs"]
mod in_process;

mod attributes;
mod closes;
mod counts;
mod directories;
mod freshness;
mod large_copies;
mod listings;
mod moves;
mod names;
mod silence;
mod unlinked_parts;
mod unlinks;
mod versions;
mod walks;

use in_process::driver::Descriptor;
use in_process::{Mount, Options, World};

/// A mount of a bucket with one object.
fn world_with(key: &str, bytes: &[u8]) -> (World, Mount) {
    let world = World::new(Options::default());
    world.remote.put(key, bytes);
    let mount = world.mount();
    (world, mount)
}

fn open(mount: &Mount, path: &str, flags: i32) -> Descriptor {
    let opened = mount.run("open", mount.driver.open(path, flags, 0o644));
    opened.unwrap_or_else(|errno| panic!("open {path}: {errno} {}", mount.driver.last_error.borrow()))
}

fn bytes_of(world: &World, key: &str) -> Option<Vec<u8>> {
    world.remote.get(key).map(|stored| stored.bytes)
}
