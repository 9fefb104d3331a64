//! Contents of files kept on disk across mounts.

use crate::full_disk::SmallDisk;
use crate::support::command::{Tool, has_program};
use crate::support::lease::Lease;
use crate::support::mount::{Mount, Place};
use crate::support::store::Store;
use crate::support::{wait_for, wait_until};
use pailfs::embedded::Operation;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

crate::on_each_store!(
    contents_are_right_whatever_others_do,
    contents_are_right_after_every_kill,
);
crate::on_the_embedded_store!(
    what_was_read_once_is_not_fetched_again,
    a_damaged_block_is_fetched_again,
    warming_clearing_and_showing,
    warming_shows_how_far_it_is,
    warming_waits_for_a_disk_that_does_not_answer,
    warming_goes_past_what_is_in_memory,
    what_is_not_whole_after_warming_is_told,
    a_full_disk_is_told,
);

pub const LEN: usize = 5 * (1 << 20) + 12_345;

pub fn data(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 251 + seed * 7) as u8).collect()
}

fn start(store: &Store, place: &Arc<Place>) -> Mount {
    store.mount().at(place).options("--cache-size 64M").start()
}

/// The data of each version in the cache.
pub fn files_of(place: &Place) -> Vec<PathBuf> {
    let blocks = place.cache().join("blocks");
    ["kept", "probation"]
        .iter()
        .flat_map(|part| fs::read_dir(blocks.join(part)).expect("a directory of the cache"))
        .map(|entry| entry.expect("an entry").path().join("data"))
        .collect()
}

fn wait_until_stored(place: &Place, bytes: usize) {
    wait_for("the cache has it", || {
        let stored: u64 = files_of(place).iter().map(|path| on_disk_bytes(path)).sum();
        (stored >= bytes as u64).then_some(())
    });
}

fn on_disk_bytes(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).map_or(0, |metadata| metadata.blocks() * 512)
}

fn what_was_read_once_is_not_fetched_again(store: &Store) {
    let (large, small) = (data(1, LEN), data(2, 100));
    store.bucket.put("large", large.clone());
    store.bucket.put("small", small.clone());
    let place = Place::new();
    let mount = start(store, &place);
    assert!(fs::read(mount.join("large")).expect("read") == large);
    assert!(fs::read(mount.join("small")).expect("read") == small);
    wait_until_stored(&place, LEN);
    mount.unmount();

    let mount = start(store, &place);
    store.server().counts().reset();
    assert!(fs::read(mount.join("large")).expect("read") == large);
    assert!(fs::read(mount.join("small")).expect("read") == small);
    assert_eq!(
        store.server().counts().of(Operation::Get),
        0,
        "{:?}",
        store.server().counts().all()
    );
    mount.unmount();
    assert!(place.log().says("damaged_blocks=0"), "{}", place.log().tail());
}

fn a_damaged_block_is_fetched_again(store: &Store) {
    let content = data(3, LEN);
    store.bucket.put("large", content.clone());
    let place = Place::new();
    let mount = start(store, &place);
    assert!(fs::read(mount.join("large")).expect("read") == content);
    wait_until_stored(&place, LEN);
    mount.unmount();
    for path in files_of(&place) {
        let file = fs::File::options().write(true).open(path).expect("opened");
        let len = file.metadata().expect("there").len();
        file.write_all_at(b"damaged", len - 1_000_000).expect("written");
    }
    let mount = store
        .mount()
        .at(&place)
        .options("--cache-size 64M")
        .expect_in_log("a block of the disk cache is damaged")
        .start();
    assert!(fs::read(mount.join("large")).expect("read") == content);
    mount.unmount();
    assert!(place.log().says("damaged_blocks=1"), "{}", place.log().tail());
}

fn warming_clearing_and_showing(store: &Store) {
    for name in ["dir/a", "dir/sub/b"] {
        store.bucket.put(name, data(4, 1 << 20));
    }
    let place = Place::new();
    let mount = start(store, &place);
    let cache = |words: &[&str]| {
        let tool = mount.pailfs().arg("cache").args(words);
        tool.arg("--cache-dir").arg(place.cache()).run()
    };
    store.server().counts().reset();
    let warmed = warming(&mount, &["dir"]).run();
    assert!(warmed.contains("2 files, 2097152 bytes"), "{warmed}");
    assert_eq!(gets(store), 2);
    // Again: nothing is asked but whether they are still the same.
    assert_eq!(warming(&mount, &["dir"]).run(), warmed);
    assert_eq!(gets(store), 2);
    assert!(cache(&["status"]).contains(": 2 files"));
    assert!(cache(&["clear"]).contains("removed 2 files"));
    assert!(cache(&["status"]).contains(": 0 files"));
    // The mount goes on.
    assert!(fs::read(mount.join("dir/a")).expect("read") == data(4, 1 << 20));
}

fn gets(store: &Store) -> u64 {
    store.server().counts().of(Operation::Get)
}

fn warming(mount: &Mount, names: &[&str]) -> Tool {
    let tool = mount.pailfs().args(["cache", "warm", "--parallel", "2"]);
    tool.args(names.iter().map(|name| mount.join(name)))
}

/// Nothing of it is fetched.
fn is_whole(store: &Store, mount: &Mount, name: &str, content: &[u8]) {
    store.server().counts().reset();
    assert!(fs::read(mount.join(name)).expect("read") == content, "{name}");
    assert_eq!(gets(store), 0, "{:?}", store.server().counts().all());
}

fn warming_shows_how_far_it_is(store: &Store) {
    if !has_program("python3") {
        return;
    }
    for name in ["dir/a", "dir/sub/b"] {
        store.bucket.put(name, data(6, 12 << 20));
    }
    let mount = start(store, &Place::new());
    let seen = warming(&mount, &["dir"]).on_a_terminal("").output().success();
    for part in [
        "0 of 2 files",
        "/24.00 MiB",
        "2 files, 25165824 bytes in the cache",
    ] {
        assert!(seen.contains(part), "{part}: {seen:?}");
    }
    let elsewhere = mount.pailfs().args(["cache", "warm", "/"]).output();
    assert_eq!(elsewhere.status.code(), Some(3));
    assert!(
        elsewhere.stderr.contains("/ is not in a mount of pailfs"),
        "{elsewhere:?}"
    );
}

fn warming_waits_for_a_disk_that_does_not_answer(store: &Store) {
    let content = data(5, LEN);
    store.bucket.put("large", content.clone());
    let place = Place::new();
    let mount = start(store, &place);
    let mut beginning = vec![0; 1 << 20];
    let file = fs::File::open(mount.join("large")).expect("opened");
    file.read_exact_at(&mut beginning, 0).expect("read");
    wait_until_stored(&place, 1 << 16);
    drop(file);
    mount.unmount();

    let lease = Lease::on_the_only_file_below(&place.cache().join("blocks"));
    let late = "the disk cache does not answer";
    let start = || {
        let builder = store.mount().at(&place).options("--cache-size 64M");
        builder.expect_in_log(late).start()
    };
    let mount = start();
    let warming = warming(&mount, &["large"]).start();
    wait_until("the disk is asked", || place.log().says(late));
    // All of it passes through memory meanwhile, and nothing of it is kept.
    assert!(fs::read(mount.join("large")).expect("read") == content);
    drop(lease);
    let warmed = warming.wait().success();
    assert!(warmed.contains(&format!("1 files, {LEN} bytes")), "{warmed}");
    mount.unmount();
    is_whole(store, &start(), "large", &content);
}

fn warming_goes_past_what_is_in_memory(store: &Store) {
    let content = data(6, LEN);
    store.bucket.put("large", content.clone());
    let place = Place::new();
    let mount = start(store, &place);
    // The kernel has it in its pages, and the daemon some of it while this is open.
    let open = fs::File::open(mount.join("large")).expect("opened");
    assert!(fs::read(mount.join("large")).expect("read") == content);
    mount
        .pailfs()
        .args(["cache", "clear", "--cache-dir"])
        .arg(place.cache())
        .run();
    warming(&mount, &["large"]).run();
    drop(open);
    mount.unmount();
    is_whole(store, &start(store, &place), "large", &content);
}

fn what_is_not_whole_after_warming_is_told(store: &Store) {
    let small = 1 << 20;
    for n in 0..20 {
        store.bucket.put(&format!("many/f{n:02}"), data(n, small));
    }
    store.bucket.put("large", data(7, 4 * small + 1));
    store.bucket.put("empty", b"");
    let place = Place::new();
    let mount = store.mount().at(&place).options("--cache-size 16M").start();
    warming(&mount, &["large", "empty"])
        .output()
        .fails(1, "large is not whole in the cache: 4194305 bytes are more than");
    warming(&mount, &["many/f00", "empty"]).run();
    // Each of them is there for a while, but not all of them at the end.
    warming(&mount, &["many"]).output().fails(1, "it was evicted");
    mount.unmount();

    let mount = store.mount().start();
    warming(&mount, &["many/f00"])
        .output()
        .fails(1, "its mount has no disk cache");
}

fn a_full_disk_is_told(store: &Store) {
    store.bucket.put("large", data(8, LEN));
    let place = Place::new();
    let Some(disk) = SmallDisk::at(&place.cache(), 3 << 20) else {
        eprintln!("skipped: only root may mount a tmpfs");
        return;
    };
    let full = "No space left on device";
    let mount = store
        .mount()
        .at(&place)
        .options("--cache-size 64M")
        .expect_in_log(full)
        .start();
    warming(&mount, &["large"]).output().fails(1, full);
    // Reading goes on.
    assert!(fs::read(mount.join("large")).expect("read") == data(8, LEN));
    mount.unmount();
    drop(disk);
}

fn contents_are_right_whatever_others_do(store: &Store) {
    let place = Place::new();
    let mount = start(store, &place);
    let second_place = Place::new();
    fs::remove_dir(second_place.cache()).expect("empty");
    std::os::unix::fs::symlink(place.cache(), second_place.cache()).expect("linked");
    let second = start(store, &second_place);
    for round in 0..6 {
        let content = data(round, LEN + round);
        store.bucket.put("file", content.clone());
        assert!(
            fs::read(mount.join("file")).expect("read") == content,
            "round {round}"
        );
        assert!(
            fs::read(second.join("file")).expect("read") == content,
            "round {round}"
        );
        // And what a mount itself writes.
        let content = data(round + 100, LEN - round);
        fs::write(mount.join("file"), &content).expect("written");
        assert!(
            fs::read(second.join("file")).expect("read") == content,
            "round {round}"
        );
        assert!(
            fs::read(mount.join("file")).expect("read") == content,
            "round {round}"
        );
    }
}

fn contents_are_right_after_every_kill(store: &Store) {
    let times = if std::env::var_os("PAILFS_TEST_LONG").is_some() {
        100
    } else {
        10
    };
    let names: Vec<String> = (0..4).map(|i| format!("f{i}")).collect();
    for (seed, name) in names.iter().enumerate() {
        store.bucket.put(name, data(seed, LEN));
    }
    let place = Place::new();
    for _ in 0..times {
        let mut mount = start(store, &place);
        let paths: Vec<PathBuf> = names.iter().map(|name| mount.join(name)).collect();
        let (tell, told) = std::sync::mpsc::channel();
        let reading = std::thread::spawn(move || {
            for (seed, path) in paths.iter().enumerate() {
                // Fails when the mount is gone.
                if let Ok(read) = fs::read(path) {
                    assert!(read == data(seed, LEN), "wrong bytes in file {seed}");
                }
                let _nobody_listens = tell.send(());
            }
        });
        told.recv().expect("one file was read");
        mount.kill();
        reading.join().expect("right bytes");
    }
    let mount = start(store, &place);
    for (seed, name) in names.iter().enumerate() {
        assert!(
            fs::read(mount.join(name)).expect("read") == data(seed, LEN),
            "{name}"
        );
    }
}
