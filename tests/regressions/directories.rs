//! What changes while somebody reads a directory, a few entries at a time: what was read is old when it is handed out.

use super::open;
use crate::in_process::{BUCKET, Mount, Options, World};
use pailfs::base::mount_config::AttributesMode;
use pailfs::embedded::Operation;
use pailfs::fs::readdir::DirectoryEntry;
use pailfs::plan::notifications::Change;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

const FILES: usize = 100;
/// How many entries an answer can take.
const TAKEN: usize = 20;

/// A handle of the directory `d`, read with attributes.
struct Reading<'a> {
    mount: &'a Mount,
    ino: u64,
    handle: u64,
    offset: u64,
    names: BTreeSet<String>,
}

impl<'a> Reading<'a> {
    fn begin(mount: &'a Mount) -> Self {
        let ino = mount.run("stat", mount.driver.stat("d")).expect("there").ino;
        Self {
            mount,
            ino,
            handle: mount.fs.open_directory(ino).expect("opened"),
            offset: 0,
            names: BTreeSet::new(),
        }
    }

    /// The next answer; the kernel keeps what it is told.
    fn next(&mut self) -> Vec<DirectoryEntry> {
        let reading = self.mount.fs.read_directory(self.handle, self.offset, true);
        let mut entries = self.mount.run("readdirplus", reading).expect("read");
        let sent = entries.len().min(TAKEN);
        self.mount.fs.sent_entries(self.handle, &entries, sent);
        entries.truncate(sent);
        self.offset = entries.last().map_or(self.offset, |entry| entry.next_offset);
        entries.retain(|entry| entry.attr.is_some());
        self.names.extend(entries.iter().map(|entry| entry.name.clone()));
        entries
    }

    /// All names, the ones that were read before too.
    fn finish(mut self) -> BTreeSet<String> {
        loop {
            let before = self.offset;
            self.next();
            if self.offset == before {
                break;
            }
        }
        self.mount.fs.release_directory(self.ino, self.handle);
        self.names
    }
}

fn name(number: usize) -> String {
    format!("f{number:03}")
}

fn path(number: usize) -> String {
    format!("d/{}", name(number))
}

fn world(metadata_ttl: Option<Duration>, attributes: AttributesMode) -> World {
    let world = World::new(Options {
        metadata_ttl,
        attributes,
        ..Options::default()
    });
    for number in 0..FILES {
        world.remote.put(&path(number), b"old");
    }
    world
}

const TTLS: [Option<Duration>; 2] = [Some(Duration::from_secs(10)), None];
/// Where each object is asked what it carries, and where nothing is asked.
const MODES: [AttributesMode; 2] = [AttributesMode::Full, AttributesMode::Listing];

/// Files that only this mount has, one of which goes before its turn comes, and one of which is stored.
#[test]
fn unsent_files_that_go_or_are_stored_while_they_are_listed() {
    let world = World::new(Options::default());
    let mount = world.mount();
    let driver = &mount.driver;
    mount.run("mkdir", driver.mkdir("d", 0o755)).expect("made");
    let mut files: Vec<_> = (0..FILES)
        .map(|number| open(&mount, &path(number), libc::O_CREAT | libc::O_WRONLY))
        .collect();
    let mut reading = Reading::begin(&mount);
    reading.next();
    let (gone, stored, renamed) = (FILES - 1, FILES - 2, FILES - 3);
    mount.run("unlink", driver.unlink(&path(gone))).expect("unlinked");
    mount
        .run("rename", driver.rename(&path(renamed), "d/another", false))
        .expect("renamed");
    for _ in [gone, stored] {
        let file = files.pop().expect("open");
        mount.run("close", driver.close(file)).expect("closed");
    }
    driver.forget_all();
    let names = reading.finish();
    for number in 0..FILES {
        let is_there = number != gone && number != renamed;
        assert_eq!(names.contains(&name(number)), is_there, "{number}");
    }
    for file in files {
        mount.run("close", driver.close(file)).expect("closed");
    }
}

/// The name is there all the time.
#[test]
fn a_name_that_an_unsent_file_takes_is_shown() {
    let world = world(None, AttributesMode::Listing);
    let mount = world.mount();
    let driver = &mount.driver;
    let unsent = open(&mount, "d/unsent", libc::O_CREAT | libc::O_WRONLY);
    let mut reading = Reading::begin(&mount);
    // Unsent files come first, by themselves.
    reading.next();
    reading.next();
    let made = FILES - 1;
    mount.run("unlink", driver.unlink(&path(made))).expect("unlinked");
    let again = open(&mount, &path(made), libc::O_CREAT | libc::O_WRONLY);
    let replaced = FILES - 2;
    mount
        .run("rename", driver.rename("d/unsent", &path(replaced), false))
        .expect("renamed");
    let names = reading.finish();
    assert!(names.contains(&name(made)), "made again");
    assert!(names.contains(&name(replaced)), "replaced");
    for file in [unsent, again] {
        mount.run("close", driver.close(file)).expect("closed");
    }
}

#[test]
fn what_this_mount_removes_or_renames_does_not_come_back() {
    for (metadata_ttl, attributes) in TTLS.into_iter().flat_map(|ttl| MODES.map(|mode| (ttl, mode))) {
        let world = world(metadata_ttl, attributes);
        let mount = world.mount();
        let driver = &mount.driver;
        // From the bucket, and from what was listed before.
        for round in 0..2 {
            let (gone, renamed, replaced) = (50 + round, 60 + round, 70 + round);
            let mut reading = Reading::begin(&mount);
            reading.next();
            mount.run("unlink", driver.unlink(&path(gone))).expect("unlinked");
            let to = path(FILES + round);
            mount
                .run("rename", driver.rename(&path(renamed), &to, false))
                .expect("renamed");
            mount
                .run(
                    "write",
                    driver.write_file(&path(replaced), libc::O_TRUNC, b"newer"),
                )
                .expect("written");
            driver.forget_all();
            let mut sizes = Vec::new();
            for _ in 0..=FILES / TAKEN {
                let entries = reading.next();
                let here = entries.iter().filter(|entry| entry.name == name(replaced));
                sizes.extend(here.filter_map(|entry| entry.attr).map(|attr| attr.size_bytes));
            }
            assert_eq!(sizes, [5]);
            let names = reading.finish();
            assert!(!names.contains(&name(gone)), "{metadata_ttl:?} {round}");
            assert!(!names.contains(&name(renamed)), "{metadata_ttl:?} {round}");
            for number in [gone, renamed] {
                let stat = mount.run("stat", driver.stat(&path(number)));
                assert_eq!(stat.map(|stat| stat.size_bytes), Err(libc::ENOENT));
                let flags = libc::O_CREAT | libc::O_EXCL;
                let made = mount.run("create", driver.write_file(&path(number), flags, b"again"));
                assert_eq!(made, Ok(()), "{}", driver.last_error.borrow());
                mount
                    .run("unlink", driver.unlink(&path(number)))
                    .expect("unlinked");
            }
        }
    }
}

/// What others did, as the mount is told of it: by messages, or by its user.
#[test]
fn what_was_read_before_news_came_is_not_believed_after_them() {
    for (is_message, attributes) in [true, false]
        .into_iter()
        .flat_map(|is| MODES.map(|mode| (is, mode)))
    {
        let world = world(None, attributes);
        let mount = world.mount();
        let driver = &mount.driver;
        for round in 0..2 {
            let (changed, gone) = (50 + round, 60 + round);
            let mut reading = Reading::begin(&mount);
            reading.next();
            world.remote.put(&path(changed), b"longer than before");
            world.remote.delete(&path(gone));
            let told = |number, is_removal| Change {
                bucket: BUCKET.to_owned(),
                key: path(number),
                is_removal,
                etag: None,
                at: None,
            };
            let tree = mount.fs.tree();
            mount.run("news", async {
                if is_message {
                    tree.heard_of(&told(changed, false));
                    tree.heard_of(&told(gone, true));
                } else {
                    tree.refresh(Path::new("d")).expect("a path");
                }
            });
            world.store.counts().reset();
            let names = reading.finish();
            assert!(!names.contains(&name(gone)));
            if is_message {
                // What no news are of is not asked again.
                let lists = world.store.counts().of(Operation::List);
                assert!(lists <= 3, "{lists} listings");
            }
            let stat = mount.run("stat", driver.stat(&path(changed))).expect("there");
            assert_eq!(stat.size_bytes, 18);
            let stat = mount.run("stat", driver.stat(&path(gone)));
            assert_eq!(stat.map(|stat| stat.size_bytes), Err(libc::ENOENT));
        }
    }
}

/// A marker that is not there says nothing about the directory.
#[test]
fn a_directory_that_another_host_removed_is_not_believed_because_it_has_no_marker() {
    let world = world(TTLS[0], AttributesMode::Full);
    for number in 0..FILES {
        world.remote.put(&format!("d/sub{number:03}/file"), b"old");
    }
    let mount = world.mount();
    let mut reading = Reading::begin(&mount);
    reading.next();
    for number in 0..FILES {
        world.remote.delete(&format!("d/sub{number:03}/file"));
    }
    mount.sleep(Duration::from_secs(20));
    let shown = reading.next();
    let believed: Vec<_> = shown
        .iter()
        .filter(|entry| entry.name.starts_with("sub"))
        .filter(|entry| entry.attr.as_ref().is_some_and(|attr| !attr.ttl.is_zero()))
        .map(|entry| &entry.name)
        .collect();
    assert!(believed.is_empty(), "{believed:?}");
    loop {
        let more = reading.next();
        if more.is_empty() {
            break;
        }
        for entry in more.iter().filter(|entry| entry.name.starts_with("sub")) {
            let ttl = entry.attr.as_ref().map(|attr| attr.ttl);
            assert_eq!(ttl, Some(Duration::ZERO), "{:?}", entry.name);
        }
    }
}

/// It has a name that was there all the time, first as another's.
#[test]
fn an_unsent_file_that_takes_a_name_while_it_is_listed_is_shown() {
    for is_listed_before in [false, true] {
        let world = World::new(Options::default());
        world.remote.put("d/taken", b"old");
        let mount = world.mount();
        let driver = &mount.driver;
        let open = mount.run("two files are open", async {
            if is_listed_before {
                driver.list("d", false).await.expect("listed");
            }
            let taken = driver.open("d/taken", libc::O_RDONLY, 0).await.expect("opened");
            let flags = libc::O_WRONLY | libc::O_CREAT;
            (taken, driver.open("d/unsent", flags, 0o644).await.expect("made"))
        });
        let mut reading = Reading::begin(&mount);
        reading.next();
        assert!(reading.names.contains("unsent"), "{:?}", reading.names);
        mount
            .run("rename", driver.rename("d/unsent", "d/taken", false))
            .expect("renamed");
        let names = reading.finish();
        assert!(names.contains("taken"), "{is_listed_before}: {names:?}");
        mount.run("close", async {
            driver.close(open.0).await.expect("closed");
            driver.close(open.1).await.expect("closed");
        });
    }
}
