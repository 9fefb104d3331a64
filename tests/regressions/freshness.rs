//! What others change, and what of it is seen when: by chance, by news, or because the user says so.

use super::{open, world_with};
use crate::in_process::{BUCKET, Mount, Options, World};
use pailfs::base::attributes::{Attributes, MetadataFormat};
use pailfs::base::mount_config::AttributesMode;
use pailfs::base::object::ObjectHeaders;
use pailfs::embedded::Operation;
use pailfs::plan::notifications::Change;
use pailfs::tree::Invalidation;
use pailfs::tree::freshness::Freshness;
use pailfs::tree::node::Ino;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

/// An open brings the beginning only.
const LARGE: usize = 8 << 20;
/// The store tells the times of changes in whole seconds.
const NEXT_SECOND: Duration = Duration::from_millis(1_100);
const TTL: Duration = Duration::from_secs(10);

fn world(metadata_ttl: Option<Duration>, attributes: AttributesMode) -> World {
    World::new(Options {
        metadata_ttl,
        attributes,
        ..Options::default()
    })
}

/// As another host puts it: the same bytes have the same ETag, whatever they carry.
fn put_with_mode(world: &World, key: &str, mode: u32) {
    let type_bits = if key.ends_with('/') {
        libc::S_IFDIR
    } else {
        libc::S_IFREG
    };
    let attributes = Attributes {
        mode: Some(type_bits | mode),
        ..Attributes::default()
    };
    let mut headers = ObjectHeaders::default();
    attributes.write(MetadataFormat::Aws, &mut headers.metadata);
    let bytes: &[u8] = if key.ends_with('/') { b"" } else { b"the same" };
    world.remote.put_with(key, bytes, headers);
}

fn mode(mount: &Mount, path: &str) -> u32 {
    let stat = mount.run("stat", mount.driver.stat(path));
    stat.unwrap_or_else(|errno| panic!("{path}: {errno}")).mode & 0o7777
}

fn size(mount: &Mount, path: &str) -> Result<u64, i32> {
    let stat = mount.run("stat", mount.driver.stat(path));
    stat.map(|stat| stat.size_bytes)
}

fn forgot_name(told: &[Invalidation], wanted: &str) -> bool {
    told.iter()
        .any(|told| matches!(told, Invalidation::Entry { name, .. } if name == wanted))
}

fn forgot_attributes(told: &[Invalidation], wanted: Ino) -> bool {
    told.iter()
        .any(|told| matches!(told, Invalidation::Attributes { ino, .. } if *ino == wanted))
}

/// Which objects in `d` were asked for.
fn heads(world: &World) -> Vec<String> {
    let asked = world.store.counts().log().into_iter();
    let heads = asked.filter(|(operation, key)| *operation == Operation::Head && key.starts_with("d/"));
    heads.map(|(_, key)| key).collect()
}

#[test]
fn a_read_that_finds_its_version_gone_makes_the_name_be_looked_up_again() {
    for (ttl, is_deleted) in [(Some(TTL), false), (Some(TTL), true), (None, false), (None, true)] {
        let world = world(ttl, AttributesMode::Auto);
        world.remote.put("d/f", &vec![1; LARGE]);
        world.remote.put("d/other", b"as it was");
        let mount = world.mount();
        let driver = &mount.driver;
        mount.run("list", driver.list("d", true)).expect("listed");
        assert_eq!(size(&mount, "d/f"), Ok(LARGE as u64));
        let file = open(&mount, "d/f", libc::O_RDONLY);
        if is_deleted {
            world.remote.delete("d/f");
        } else {
            world.remote.put("d/f", b"newer");
        }
        let read = mount.run("read", driver.read(&file, LARGE - 4_096, 4_096));
        assert_eq!(read, Err(libc::ESTALE));
        assert!(forgot_name(&mount.told(), "f"), "{ttl:?}");
        let expected = if is_deleted { Err(libc::ENOENT) } else { Ok(5) };
        assert_eq!(size(&mount, "d/f"), expected, "{ttl:?}");
        if !is_deleted {
            let read = mount.run("read", driver.read_file("d/f"));
            assert_eq!(read.as_deref(), Ok(&b"newer"[..]));
        }
        let listed = mount.run("list", driver.list("d", true)).expect("listed");
        assert_eq!(listed.contains_key("f"), !is_deleted);
        mount.run("close", driver.close(file)).expect("closed");
    }
}

#[test]
fn the_kernel_is_told_of_what_a_look_shows() {
    let world = world(None, AttributesMode::Full);
    put_with_mode(&world, "f", 0o600);
    let mount = world.mount();
    assert_eq!(mode(&mount, "f"), 0o600);
    let ino = mount.run("stat", mount.driver.stat("f")).expect("there").ino;
    let tree = mount.fs.tree();
    let look = || {
        mount.told();
        let node = tree.node(ino).expect("known");
        mount.run("look", tree.look(&node)).expect("there");
        mount.told()
    };
    assert!(look().is_empty(), "nothing has changed");
    put_with_mode(&world, "f", 0o640);
    assert!(forgot_attributes(&look(), ino), "another mode");
    assert!(look().is_empty(), "that is known");
    assert_eq!(mode(&mount, "f"), 0o640);
    world.remote.put("f", b"other bytes");
    assert!(forgot_attributes(&look(), ino), "another size");
    assert_eq!(size(&mount, "f"), Ok(11));
    // The handle keeps its inode, and the name has another one.
    let file = open(&mount, "f", libc::O_RDONLY);
    world.remote.put("f", b"once more");
    assert!(forgot_name(&look(), "f"), "another inode");
    assert_eq!(size(&mount, "f"), Ok(9));
    mount.run("close", mount.driver.close(file)).expect("closed");
}

/// Tells the mount of a change by others.
fn tell(mount: &Mount, key: &str, is_message: bool) {
    let change = Change {
        bucket: BUCKET.to_owned(),
        key: key.to_owned(),
        is_removal: false,
        etag: None,
        at: None,
    };
    let tree = mount.fs.tree();
    mount.run("news", async {
        if is_message {
            tree.heard_of(&change);
        } else {
            tree.refresh(Path::new("d")).expect("a path");
        }
    });
}

/// Somebody looked at a few of a row, and the mount at those behind them; then they change.
#[test]
fn what_was_looked_at_ahead_is_not_believed_after_news() {
    for (suffix, is_message) in [("", true), ("", false), ("/", true), ("/", false)] {
        let world = world(None, AttributesMode::Full);
        let keys: Vec<String> = (0..8).map(|number| format!("d/{number}{suffix}")).collect();
        for key in &keys {
            put_with_mode(&world, key, 0o700);
        }
        let mount = world.mount();
        mount.run("list", mount.driver.list("d", false)).expect("listed");
        assert_eq!(mode(&mount, "d/0"), 0o700);
        assert_eq!(mode(&mount, "d/1"), 0o700);
        mount.sleep(Duration::from_secs(1));
        world.store.counts().set_logging(true);
        assert_eq!(mode(&mount, "d/2"), 0o700);
        let asked = heads(&world);
        assert!(asked.is_empty(), "it was looked at before: {asked:?}");
        put_with_mode(&world, &keys[5], 0o750);
        tell(&mount, &keys[5], is_message);
        assert_eq!(mode(&mount, "d/5"), 0o750, "{suffix:?} {is_message}");
    }
}

/// A rename copies what is there, which is not what was known.
#[test]
fn what_others_changed_before_a_rename_is_seen_behind_it() {
    for (is_message, has_same_bytes) in [(true, true), (true, false), (false, true), (false, false)] {
        let world = world(None, AttributesMode::Full);
        for key in ["d/file", "d/below/file"] {
            put_with_mode(&world, key, 0o600);
        }
        let mount = world.mount();
        let driver = &mount.driver;
        mount.run("list", driver.list("d/below", true)).expect("listed");
        for path in ["d/file", "d/below/file"] {
            assert_eq!(mode(&mount, path), 0o600);
            if !has_same_bytes {
                world.remote.put(path, b"of another length");
            }
            if has_same_bytes {
                put_with_mode(&world, path, 0o640);
            }
            tell(&mount, path, is_message);
        }
        mount
            .run("rename", driver.rename("d/file", "d/moved", false))
            .expect("renamed");
        mount
            .run("rename", driver.rename("d/below", "d/beside", false))
            .expect("renamed");
        let expected = if has_same_bytes { (0o640, 8) } else { (0o644, 17) };
        for path in ["d/moved", "d/beside/file"] {
            let shown = (mode(&mount, path), size(&mount, path).expect("there"));
            assert_eq!(shown, expected, "{path} {is_message}");
        }
    }
}

#[test]
fn a_change_of_attributes_by_others_is_seen_by_who_lists_again() {
    let world = world(Some(TTL), AttributesMode::Full);
    for key in ["d/changed", "d/same"] {
        put_with_mode(&world, key, 0o600);
    }
    let mount = world.mount();
    let list = || {
        mount.sleep(TTL + Duration::from_secs(1));
        mount.run("list", mount.driver.list("d", true)).expect("listed");
        ["d/changed", "d/same"].map(|path| mode(&mount, path))
    };
    assert_eq!(list(), [0o600, 0o600]);
    std::thread::sleep(NEXT_SECOND);
    put_with_mode(&world, "d/changed", 0o640);
    world.store.counts().set_logging(true);
    assert_eq!(list(), [0o640, 0o600]);
    assert_eq!(heads(&world), ["d/changed"], "what was put again");
    assert_eq!(list(), [0o640, 0o600]);
    assert_eq!(heads(&world), ["d/changed"], "that is known");
    // A name by itself, whose listing nobody reads.
    std::thread::sleep(NEXT_SECOND);
    put_with_mode(&world, "d/changed", 0o644);
    mount.sleep(TTL + Duration::from_secs(1));
    mount.run("list", mount.driver.list("d", false)).expect("listed");
    assert_eq!(mode(&mount, "d/changed"), 0o644);
}

/// What this mount wrote has a time that the store never told it.
#[test]
fn what_this_mount_wrote_is_not_looked_at_when_it_is_listed() {
    let (world, mount) = world_with("d/other", b"x");
    // The kernel remembers them all.
    *mount.driver.memory.borrow_mut() = 1_000;
    for number in 0..10 {
        let path = format!("d/{number}");
        let written = mount.run("write", mount.driver.write_file(&path, libc::O_CREAT, b"ours"));
        written.expect("written");
        assert_eq!(size(&mount, &path), Ok(4));
    }
    mount
        .run("chmod", mount.driver.chmod("d/3", 0o600))
        .expect("changed");
    mount.sleep(Duration::from_secs(60));
    mount
        .run("read", mount.driver.read_file("d/other"))
        .expect("read");
    world.store.counts().set_logging(true);
    mount.run("list", mount.driver.list("d", true)).expect("listed");
    assert_eq!(mode(&mount, "d/3"), 0o600);
    assert_eq!(mode(&mount, "d/4"), 0o644);
    let asked = heads(&world);
    assert!(asked.iter().all(|key| key == "d/other"), "{asked:?}");
}

#[test]
fn an_answer_from_before_a_change_is_none() {
    // As `Freshness` has it: what this mount stored since counts.
    let (_world, mount) = world_with("f", b"one");
    let ino = mount.run("stat", mount.driver.stat("f")).expect("there").ino;
    let tree = mount.fs.tree();
    let node = tree.node(ino).expect("known");
    let info = mount.run("look", tree.look(&node)).expect("there");
    let asked_at = tree.node(ino).expect("known").checked_at;
    mount.sleep(Duration::from_secs(1));
    let written = mount.run("write", mount.driver.write_file("f", libc::O_TRUNC, b"ours"));
    written.expect("written");
    mount.told();
    assert_eq!(tree.saw(ino, &info, asked_at), Freshness::Outdated);
    assert!(mount.told().is_empty());
    assert_eq!(size(&mount, "f"), Ok(4));
}

#[test]
fn what_was_looked_at_ahead_of_a_change_of_ours_is_not_believed_after_it() {
    let world = World::new(Options::default());
    for name in ["d/a", "d/b", "d/c"] {
        world.remote.put(name, b"content");
    }
    world.remote.put_with("d/sub/", b"", ObjectHeaders::default());
    let mount = world.mount();
    let driver = &mount.driver;
    let set = UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    mount.run("a row of looks, and a change of what lies ahead", async {
        driver.list("d", true).await.expect("listed");
        driver.stat("d/a").await.expect("seen");
        driver.set_mtime("d/c", set).await.expect("set");
        driver.chmod("d/sub", 0o700).await.expect("set");
    });
    mount.sleep(Duration::from_secs(3));
    mount.run("a look after the kernel has forgotten", async {
        driver.forget_all();
        assert_eq!(driver.stat("d/c").await.expect("seen").mtime, set);
        assert_eq!(driver.stat("d/sub").await.expect("seen").mode & 0o7777, 0o700);
    });
}
