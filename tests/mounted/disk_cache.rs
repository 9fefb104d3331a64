//! Contents of files kept on disk across mounts.

use crate::support::mount::Place;
use crate::support::store::Store;
use crate::support::wait_for;
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
);

pub const LEN: usize = 5 * (1 << 20) + 12_345;

pub fn data(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 251 + seed * 7) as u8).collect()
}

fn start(store: &Store, place: &Arc<Place>) -> crate::support::mount::Mount {
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
    let warmed = mount
        .pailfs()
        .args(["cache", "warm", "--parallel", "2"])
        .arg(mount.join("dir"))
        .run();
    assert!(warmed.contains("2 files, 2097152 bytes"), "{warmed}");
    wait_until_stored(&place, 2 << 20);
    assert!(cache(&["status"]).contains(": 2 files"));
    assert!(cache(&["clear"]).contains("removed 2 files"));
    assert!(cache(&["status"]).contains(": 0 files"));
    // The mount goes on.
    assert!(fs::read(mount.join("dir/a")).expect("read") == data(4, 1 << 20));
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
