//! Unlinked and replaced files of which bytes are only in parts of an upload: that is bound to a name which others take.

use super::{bytes_of, open};
use crate::in_process::driver::Descriptor;
use crate::in_process::{Mount, Options, World};
use pailfs::embedded::Operation;
use std::time::Duration;

const MIB: usize = 1 << 20;
/// More than what the memory of these mounts holds.
const LEN: usize = 40 * MIB;
/// Neither in the first part nor in the last.
const IN_PARTS: usize = 18 * MIB;
const CREATE: i32 = libc::O_RDWR | libc::O_CREAT;

fn content(number: u8) -> Vec<u8> {
    let mut content = vec![0; LEN];
    for (at, piece) in content.chunks_mut(1000).enumerate() {
        piece.fill(at as u8 ^ number);
    }
    content
}

/// A handle of `path` that wrote `content(number)`, parts of which are nowhere but in the store.
fn streamed(mount: &Mount, path: &str, flags: i32, number: u8) -> Descriptor {
    let file = open(mount, path, flags);
    let data = content(number);
    for (step, piece) in data.chunks(MIB).enumerate() {
        mount
            .run("write", mount.driver.write(&file, step * MIB, piece))
            .expect("written");
    }
    file
}

fn assert_reads(mount: &Mount, file: &Descriptor, expected: &[u8], when: &str) {
    for at in [IN_PARTS, 0, LEN - 10] {
        let read = mount.run("read", mount.driver.read(file, at, 10));
        assert_eq!(read.as_deref(), Ok(&expected[at..at + 10]), "{when}, at {at}");
    }
}

#[derive(Clone, Copy, Debug)]
enum Taker {
    Written,
    WrittenInParts,
    Renamed,
    RenamedOver,
    NewRenamedOver,
    Symlink,
    InDirectory,
}

impl Taker {
    const ALL: [Self; 7] = [
        Self::Written,
        Self::WrittenInParts,
        Self::Renamed,
        Self::RenamedOver,
        Self::NewRenamedOver,
        Self::Symlink,
        Self::InDirectory,
    ];

    fn replaces(self) -> bool {
        matches!(self, Self::RenamedOver | Self::NewRenamedOver)
    }

    /// Takes the name `d/f`.
    fn take(self, mount: &Mount) {
        let driver = &mount.driver;
        let taken = match self {
            Self::Written => mount.run("write", driver.write_file("d/f", CREATE, b"new")),
            Self::WrittenInParts => {
                let new = streamed(mount, "d/f", CREATE, 9);
                // Commits early.
                assert_reads(mount, &new, &content(9), "the new one");
                mount.run("close", driver.close(new))
            }
            Self::Renamed | Self::RenamedOver => mount.run("rename", driver.rename("g", "d/f", false)),
            Self::NewRenamedOver => mount.run("write and rename", async {
                let new = driver.open("new", CREATE, 0o644).await?;
                driver.write(&new, 0, b"new").await?;
                driver.rename("new", "d/f", false).await?;
                driver.close(new).await
            }),
            Self::Symlink => mount.run("symlink", driver.symlink("d/f", "new")),
            Self::InDirectory => mount.run("rename a directory", async {
                driver.rename("d", "d.old", false).await?;
                driver.rename("e", "d", false).await
            }),
        };
        assert_eq!(taken, Ok(()), "{self:?}");
    }
}

#[test]
fn what_only_parts_have_can_be_read_and_written_after_the_name_was_taken() {
    for taker in Taker::ALL {
        let variants: &[bool] = match taker {
            Taker::Written | Taker::RenamedOver => &[false, true],
            _ => &[false],
        };
        for existed in variants.iter().copied() {
            let world = World::new(Options::default());
            world.remote.put("g", b"new");
            world.remote.put("e/f", b"new");
            world.remote.put("d/keep", b"");
            if existed {
                world.remote.put("d/f", &vec![1; 3 * MIB]);
            }
            let mount = world.mount();
            let driver = &mount.driver;
            let flags = if existed { libc::O_RDWR } else { CREATE };
            let old = streamed(&mount, "d/f", flags, 5);
            if !taker.replaces() {
                mount.run("unlink", driver.unlink("d/f")).expect("unlinked");
            }
            taker.take(&mount);
            let when = format!("{taker:?}, existed: {existed}");
            let mut expected = content(5);
            mount
                .run("write", driver.write(&old, IN_PARTS, b"more"))
                .unwrap_or_else(|errno| panic!("{when}: {errno}"));
            expected[IN_PARTS..IN_PARTS + 4].copy_from_slice(b"more");
            assert_reads(&mount, &old, &expected, &when);
            let new = match taker {
                Taker::WrittenInParts => content(9),
                _ => b"new".to_vec(),
            };
            assert!(bytes_of(&world, "d/f").as_ref() == Some(&new), "{when}");
            mount.run("close", driver.close(old)).expect("closed");
            assert!(bytes_of(&world, "d/f").as_ref() == Some(&new), "{when}, closed");
            let kept = pailfs::spool::conflicts::list(mount.state_dir()).expect("a list");
            assert!(kept.conflicts.is_empty(), "{when}: {kept:?}");
        }
    }
}

#[test]
fn several_unlinked_files_have_the_name_one_after_the_other() {
    let world = World::new(Options::default());
    let mount = world.mount();
    let driver = &mount.driver;
    let mut files = Vec::new();
    for number in [1, 2] {
        files.push((number, streamed(&mount, "f", CREATE, number)));
        mount.run("unlink", driver.unlink("f")).expect("unlinked");
    }
    assert_eq!(world.remote.keys(), Vec::<String>::new());
    mount
        .run("write", driver.write_file("f", CREATE, b"new"))
        .expect("written");
    for (number, file) in &files {
        assert_reads(&mount, file, &content(*number), &format!("file {number}"));
    }
    for (_, file) in files {
        mount.run("close", driver.close(file)).expect("closed");
    }
    assert_eq!(bytes_of(&world, "f").expect("there"), b"new");
    assert_eq!(world.remote.keys(), ["f"]);
}

#[test]
fn what_an_unlinked_file_puts_for_its_own_handles_is_seen_by_nobody_and_goes_with_them() {
    for existed in [false, true] {
        for crashes in [false, true] {
            let world = World::new(Options::default());
            world.remote.put("keep", b"");
            if existed {
                world.remote.put("f", b"old");
            }
            let mount = world.mount();
            let driver = &mount.driver;
            let flags = if existed { libc::O_RDWR } else { CREATE };
            let file = streamed(&mount, "f", flags, 5);
            mount.run("unlink", driver.unlink("f")).expect("unlinked");
            assert_reads(&mount, &file, &content(5), "unlinked");
            assert!(bytes_of(&world, "f").is_some(), "the test needs an early commit");
            mount.sleep(Duration::from_secs(30));
            let listed = mount.run("list", driver.list("", true)).expect("listed");
            assert_eq!(listed.keys().collect::<Vec<_>>(), ["keep"]);
            assert_eq!(
                mount.run("stat", driver.stat("f")).map(drop),
                Err(libc::ENOENT),
                "existed: {existed}"
            );
            if crashes {
                mount.crash();
                world.mount().sleep(Duration::from_secs(30));
            } else {
                mount.run("close", driver.close(file)).expect("closed");
            }
            assert_eq!(
                world.remote.keys(),
                ["keep"],
                "existed: {existed}, crashes: {crashes}"
            );
        }
    }
}

#[test]
fn an_unlinked_file_is_not_sent() {
    let world = World::new(Options::default());
    let mount = world.mount();
    let driver = &mount.driver;
    let file = open(&mount, "f", CREATE);
    mount.run("unlink", driver.unlink("f")).expect("unlinked");
    world.store.counts().reset();
    let data = content(3);
    for (step, piece) in data.chunks(MIB).enumerate() {
        mount
            .run("write", driver.write(&file, step * MIB, piece))
            .expect("written");
    }
    assert_reads(&mount, &file, &data, "unlinked");
    mount.run("close", driver.close(file)).expect("closed");
    assert_eq!(
        world.store.counts().total(),
        0,
        "{:?}",
        world.store.counts().all()
    );
}

#[test]
fn a_new_file_that_is_put_early_leaves_the_handles_of_the_unlinked_one_what_they_need() {
    let world = World::new(Options::default());
    let old = vec![b'o'; 12 * MIB];
    world.remote.put("f", &old);
    let mount = world.mount();
    let driver = &mount.driver;
    let reading = open(&mount, "f", libc::O_RDONLY);
    mount.run("unlink", driver.unlink("f")).expect("unlinked");
    let new = streamed(&mount, "f", CREATE, 7);
    assert_reads(&mount, &new, &content(7), "the new one");
    assert!(
        bytes_of(&world, "f").as_deref() == Some(&content(7)[..]),
        "the test needs an early commit"
    );
    let read = mount.run("read", driver.read(&reading, 11 * MIB, 10));
    assert_eq!(read.as_deref(), Ok(&old[..10]));
    mount.run("close", driver.close(reading)).expect("closed");
    mount.run("close", driver.close(new)).expect("closed");
    assert!(bytes_of(&world, "f").as_deref() == Some(&content(7)[..]));
}

#[test]
fn a_new_file_that_copies_from_the_unlinked_one_of_its_name_leaves_its_handles_what_they_need() {
    for is_closed_before in [false, true] {
        let world = World::new(Options::default());
        let old = vec![b'o'; 12 * MIB];
        world.remote.put("f", &old);
        let mount = world.mount();
        let driver = &mount.driver;
        let reading = open(&mount, "f", libc::O_RDONLY);
        mount.run("unlink", driver.unlink("f")).expect("unlinked");
        let new = open(&mount, "f", CREATE);
        let copied = mount.run("copy", driver.copy_range((&reading, 0), (&new, 0), old.len()));
        assert_eq!(copied, Ok(old.len()));
        world.store.counts().reset();
        let mut reading = Some(reading);
        if is_closed_before {
            mount
                .run("close", driver.close(reading.take().expect("open")))
                .expect("closed");
        }
        mount.run("close", driver.close(new)).expect("closed");
        assert!(bytes_of(&world, "f").as_ref() == Some(&old));
        if let Some(reading) = reading {
            let read = mount.run("read", driver.read(&reading, 11 * MIB, 10));
            assert_eq!(read.as_deref(), Ok(&old[..10]));
            mount.run("close", driver.close(reading)).expect("closed");
        } else {
            let gets = world.store.counts().of(Operation::Get);
            assert_eq!(gets, 1, "the test's own: nobody needed the bytes here");
        }
        assert!(bytes_of(&world, "f").as_ref() == Some(&old), "still there");
    }
}

#[test]
fn a_new_file_is_stored_where_the_parts_of_the_unlinked_one_are_too_many_to_keep() {
    let world = World::new(Options {
        keep_open_limit_bytes: MIB as u64,
        ..Options::default()
    });
    let mount = world.mount();
    let driver = &mount.driver;
    let old = streamed(&mount, "f", CREATE, 5);
    mount.run("unlink", driver.unlink("f")).expect("unlinked");
    mount
        .run("write", driver.write_file("f", CREATE, b"new"))
        .expect("written");
    let read = mount.run("read", driver.read(&old, IN_PARTS, 10));
    assert_eq!(read, Err(libc::ESTALE));
    let read = mount.run("read", driver.read(&old, 0, 10));
    assert_eq!(read.as_deref(), Ok(&content(5)[..10]), "what is here");
    mount
        .run("write", driver.write(&old, IN_PARTS, b"more"))
        .expect("written");
    mount.run("close", driver.close(old)).expect("closed");
    assert_eq!(bytes_of(&world, "f").expect("there"), b"new");
    assert_eq!(world.remote.keys(), ["f"]);
}

/// What is uploaded stays under the old name until the next commit: in the bucket, but for nobody to see.
#[test]
fn a_new_file_has_the_name_that_a_streamed_one_was_renamed_from() {
    for is_committed_between in [false, true] {
        let world = World::new(Options::default());
        world.remote.put("keep", b"");
        let mount = world.mount();
        let driver = &mount.driver;
        let first = streamed(&mount, "f", CREATE, 5);
        mount
            .run("rename", driver.rename("f", "g", false))
            .expect("renamed");
        mount.sleep(Duration::from_secs(30));
        let listed = mount.run("list", driver.list("", true)).expect("listed");
        assert_eq!(listed.keys().collect::<Vec<_>>(), ["g", "keep"]);
        if is_committed_between {
            mount.run("fsync", driver.fsync(&first)).expect("committed");
        }
        let second = open(&mount, "f", CREATE | libc::O_EXCL);
        mount
            .run("write", driver.write(&second, 0, b"new"))
            .expect("written");
        mount
            .run("close", driver.close(second))
            .expect("nobody else was there");
        assert_reads(&mount, &first, &content(5), "renamed");
        mount.run("close", driver.close(first)).expect("closed");
        assert_eq!(bytes_of(&world, "f").expect("there"), b"new");
        assert!(bytes_of(&world, "g").as_deref() == Some(&content(5)[..]));
        assert_eq!(world.remote.keys(), ["f", "g", "keep"]);
    }
}
