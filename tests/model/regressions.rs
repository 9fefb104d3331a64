//! What random operations have found, each as the shortest story that tells it.

use crate::in_process::driver::Descriptor;
use crate::in_process::{Mount, Options, World};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(30);
const CREATE: i32 = libc::O_CREAT | libc::O_TRUNC;

struct Story {
    world: World,
    mount: Mount,
}

impl Story {
    fn new(objects: &[(&str, &[u8])]) -> Self {
        let world = World::new(Options::default());
        for (key, bytes) in objects {
            world.remote.put(key, bytes);
        }
        let mount = world.mount();
        Self { world, mount }
    }

    fn open(&self, path: &str, flags: i32) -> Descriptor {
        self.mount
            .run("open", self.mount.driver.open(path, flags, 0o644))
            .expect("the file opens")
    }

    fn write(&self, descriptor: &Descriptor, data: &[u8]) {
        self.mount
            .run("write", self.mount.driver.write(descriptor, 0, data))
            .expect("the write succeeds");
    }

    fn close(&self, descriptor: Descriptor) -> Result<(), i32> {
        self.mount.run("close", self.mount.driver.close(descriptor))
    }

    fn names(&self, path: &str) -> Vec<String> {
        let listed = self.mount.run("list", self.mount.driver.list(path, true));
        listed.expect("the directory can be read").into_keys().collect()
    }

    fn bytes(&self, key: &str) -> Option<Vec<u8>> {
        self.world.remote.get(key).map(|stored| stored.bytes)
    }
}

#[test]
fn a_file_that_is_created_for_reading_is_in_the_bucket_when_it_is_closed() {
    let story = Story::new(&[]);
    let descriptor = story.open("f", libc::O_RDONLY | libc::O_CREAT);
    assert_eq!(story.close(descriptor), Ok(()));
    assert_eq!(story.bytes("f").as_deref(), Some(&b""[..]));
}

#[test]
fn a_mode_that_is_set_on_an_open_file_survives_its_next_commit() {
    let story = Story::new(&[("f", b"old")]);
    let descriptor = story.open("f", libc::O_RDWR);
    let chmod = story.mount.run("chmod", story.mount.driver.chmod("f", 0o600));
    assert_eq!(chmod, Ok(()));
    story.write(&descriptor, b"new");
    assert_eq!(story.close(descriptor), Ok(()));
    let stored = story.world.remote.get("f").expect("the object");
    assert_eq!(
        (&stored.bytes[..], stored.attributes().mode),
        (&b"new"[..], Some(libc::S_IFREG | 0o600))
    );
}

#[test]
fn a_mode_that_was_set_before_an_unlink_is_that_of_the_open_file() {
    for replaced in [false, true] {
        let story = Story::new(&[("f", b"old"), ("other", b"other")]);
        let driver = &story.mount.driver;
        let descriptor = story.open("f", libc::O_RDWR);
        let gone = story.mount.run("chmod and unlink", async {
            driver.chmod("f", 0o600).await?;
            if replaced {
                driver.rename("other", "f", false).await
            } else {
                driver.unlink("f").await
            }
        });
        assert_eq!(gone, Ok(()));
        let mode = || {
            let attr = story.mount.run("fstat", driver.fstat(&descriptor));
            attr.expect("an open file").mode & 0o7777
        };
        assert_eq!(mode(), 0o600, "replaced: {replaced}");
        story.write(&descriptor, b"new");
        assert_eq!(mode(), 0o600, "written, replaced: {replaced}");
        assert_eq!(story.close(descriptor), Ok(()));
        assert_eq!(story.bytes("f").as_deref(), replaced.then_some(&b"other"[..]));
    }
}

#[test]
fn what_an_unlinked_file_copied_does_not_go_to_the_name_that_it_had() {
    let story = Story::new(&[("f", b"unlinked"), ("new", b"what is there now")]);
    let driver = &story.mount.driver;
    let unlinked = story.open("f", libc::O_RDWR);
    let copied = story.mount.run("copies to and fro", async {
        driver.unlink("f").await?;
        driver.rename("new", "f", false).await?;
        let source = driver.open("f", libc::O_RDWR, 0).await?;
        assert_eq!(driver.copy_range((&source, 0), (&unlinked, 3), 4).await, Ok(4));
        assert_eq!(driver.copy_range((&unlinked, 0), (&source, 8), 8).await, Ok(8));
        driver.close(source).await
    });
    assert_eq!(copied, Ok(()));
    assert_eq!(story.bytes("f").as_deref(), Some(&b"what is unlwhatdw"[..]));
    assert_eq!(story.close(unlinked), Ok(()));
    let kept = pailfs::spool::conflicts::list(story.mount.state_dir()).expect("a list");
    assert!(kept.conflicts.is_empty(), "{kept:?}");
}

#[test]
fn an_unlinked_file_that_copied_from_another_is_gone_after_a_crash() {
    let Story { world, mount } = Story::new(&[("f", b"unlinked"), ("g", b"copied from")]);
    let driver = &mount.driver;
    let copied = mount.run("copy and unlink", async {
        let source = driver.open("g", libc::O_RDONLY, 0).await?;
        let target = driver.open("f", libc::O_RDWR, 0).await?;
        assert_eq!(driver.copy_range((&source, 0), (&target, 0), 6).await, Ok(6));
        driver.unlink("f").await
    });
    assert_eq!(copied, Ok(()));
    mount.crash();
    let mount = world.mount();
    mount.sleep(LONG);
    assert_eq!(world.remote.keys(), ["g"]);
}

#[test]
fn what_is_written_after_a_conflict_is_not_called_safe() {
    let story = Story::new(&[("f", b"old")]);
    let descriptor = story.open("f", libc::O_RDWR);
    story.write(&descriptor, b"mine");
    story.world.remote.put("f", b"theirs");
    let synced = story.mount.run("fsync", story.mount.driver.fsync(&descriptor));
    assert_eq!(synced, Err(libc::ESTALE));
    let again = story.mount.driver.write(&descriptor, 0, b"mine again");
    assert_eq!(story.mount.run("write", again), Err(libc::ESTALE));
    assert_eq!(story.close(descriptor), Err(libc::ESTALE));
    assert_eq!(story.bytes("f").as_deref(), Some(&b"theirs"[..]));
}

#[test]
fn a_removed_directory_does_not_come_back_for_an_open_file() {
    let story = Story::new(&[("d/", b""), ("d/f", b"still read")]);
    let driver = &story.mount.driver;
    let descriptor = story.open("d/f", libc::O_RDONLY);
    assert_eq!(story.mount.run("unlink", driver.unlink("d/f")), Ok(()));
    assert_eq!(story.mount.run("rmdir", driver.rmdir("d")), Ok(()));
    story.mount.sleep(LONG);
    assert!(story.names("").is_empty(), "{:?}", story.names(""));
    assert_eq!(
        story.mount.run("stat", driver.stat("d")).map(drop),
        Err(libc::ENOENT)
    );
    let read = story.mount.run("read", driver.read(&descriptor, 0, 100));
    assert_eq!(read.as_deref(), Ok(&b"still read"[..]));
    assert_eq!(story.close(descriptor), Ok(()));
    assert!(
        story.world.remote.keys().is_empty(),
        "{:?}",
        story.world.remote.keys()
    );
}

#[test]
fn what_was_listed_while_it_was_unlinked_does_not_come_back_with_its_last_handle() {
    let story = Story::new(&[("d/", b""), ("d/f", b"f"), ("d/other", b"other"), ("e/f", b"f")]);
    let driver = &story.mount.driver;
    let descriptors = [
        story.open("d/f", libc::O_RDONLY),
        story.open("e/f", libc::O_RDONLY),
    ];
    let removed = story.mount.run("unlink", async {
        driver.unlink("d/f").await?;
        driver.unlink("e/f").await?;
        driver.rmdir("e").await
    });
    assert_eq!(removed, Ok(()));
    story.mount.sleep(LONG);
    let seen = || (story.names(""), story.names("d"));
    let expected = (vec!["d".to_owned()], vec!["other".to_owned()]);
    assert_eq!(seen(), expected);
    for descriptor in descriptors {
        assert_eq!(story.close(descriptor), Ok(()));
    }
    assert_eq!(seen(), expected);
}

#[test]
fn an_unlinked_file_does_not_come_back_under_a_renamed_directory() {
    let story = Story::new(&[("d/", b""), ("d/f", b"still read"), ("d/g", b"stays")]);
    let driver = &story.mount.driver;
    let descriptor = story.open("d/f", libc::O_RDONLY);
    assert_eq!(story.mount.run("unlink", driver.unlink("d/f")), Ok(()));
    assert_eq!(story.mount.run("rename", driver.rename("d", "e", false)), Ok(()));
    assert_eq!(story.names("e"), ["g"]);
    let read = story.mount.run("read", driver.read(&descriptor, 0, 100));
    assert_eq!(read.as_deref(), Ok(&b"still read"[..]));
    assert_eq!(story.close(descriptor), Ok(()));
    assert_eq!(story.world.remote.keys(), ["e/", "e/g"]);
}

#[test]
fn a_directory_that_was_just_emptied_can_be_renamed() {
    let story = Story::new(&[("d/f", b"without a marker")]);
    let driver = &story.mount.driver;
    assert_eq!(story.mount.run("unlink", driver.unlink("d/f")), Ok(()));
    assert_eq!(story.mount.run("rename", driver.rename("d", "e", false)), Ok(()));
    story.mount.sleep(LONG);
    assert_eq!(story.names(""), ["e"]);
    assert_eq!(story.world.remote.keys(), ["e/"]);
}

#[test]
fn a_directory_that_was_emptied_of_an_open_file_stays() {
    let story = Story::new(&[("d/f", b"without a marker")]);
    let driver = &story.mount.driver;
    let descriptor = story.open("d/f", libc::O_RDONLY);
    assert_eq!(story.mount.run("unlink", driver.unlink("d/f")), Ok(()));
    story.mount.sleep(LONG);
    assert_eq!(story.close(descriptor), Ok(()));
    story.mount.sleep(LONG);
    assert_eq!(story.names(""), ["d"]);
    assert_eq!(story.world.remote.keys(), ["d/"]);
}

#[test]
fn a_directory_that_was_emptied_by_two_machines_stays() {
    let Story { world, mount } = Story::new(&[("d/e", b"without a marker"), ("d/f", b"f")]);
    let other = world.mount_elsewhere("other");
    let names = mount.run("list", mount.driver.list("d", true));
    assert_eq!(names.map(|names| names.len()), Ok(2));
    assert_eq!(other.run("unlink", other.driver.unlink("d/e")), Ok(()));
    other.sleep(LONG);
    mount.sleep(LONG);
    assert_eq!(mount.run("unlink", mount.driver.unlink("d/f")), Ok(()));
    mount.sleep(LONG);
    assert_eq!(world.remote.keys(), ["d/"]);
}

#[test]
fn a_directory_that_another_machine_left_to_an_unlinked_file_stays() {
    let Story { world, mount } = Story::new(&[("d/e", b"without a marker"), ("d/f", b"f")]);
    let other = world.mount_elsewhere("other");
    let names = mount.run("list", mount.driver.list("d", true));
    assert_eq!(names.map(|names| names.len()), Ok(2));
    let open = mount.driver.open("d/f", libc::O_RDONLY, 0);
    let descriptor = mount.run("open", open).expect("opened");
    assert_eq!(mount.run("unlink", mount.driver.unlink("d/f")), Ok(()));
    mount.sleep(LONG);
    assert_eq!(other.run("unlink", other.driver.unlink("d/e")), Ok(()));
    other.sleep(LONG);
    assert_eq!(world.remote.keys(), ["d/f"]);
    assert_eq!(mount.run("close", mount.driver.close(descriptor)), Ok(()));
    mount.sleep(LONG);
    assert_eq!(world.remote.keys(), ["d/"]);
}

#[test]
fn a_file_is_seen_though_an_unlinked_one_of_its_name_is_still_open() {
    let story = Story::new(&[("f", b"old")]);
    let driver = &story.mount.driver;
    let descriptor = story.open("f", libc::O_RDONLY);
    assert_eq!(story.mount.run("unlink", driver.unlink("f")), Ok(()));
    assert_eq!(
        story.mount.run("write", driver.write_file("f", CREATE, b"new")),
        Ok(())
    );
    story.mount.sleep(LONG);
    assert_eq!(story.names(""), ["f"]);
    assert_eq!(
        story.mount.run("read", driver.read_file("f")).as_deref(),
        Ok(&b"new"[..])
    );
    assert_eq!(
        story
            .mount
            .run("read", driver.read(&descriptor, 0, 100))
            .as_deref(),
        Ok(&b"old"[..])
    );
    assert_eq!(story.close(descriptor), Ok(()));
    assert_eq!(story.bytes("f").as_deref(), Some(&b"new"[..]));
}

#[test]
fn a_new_file_that_replaced_another_by_rename_takes_it_along_when_unlinked() {
    let story = Story::new(&[("f", b"old")]);
    let driver = &story.mount.driver;
    let descriptor = story.open("new", libc::O_WRONLY | libc::O_CREAT);
    story.write(&descriptor, b"new");
    assert_eq!(
        story.mount.run("rename", driver.rename("new", "f", false)),
        Ok(())
    );
    assert_eq!(story.mount.run("unlink", driver.unlink("f")), Ok(()));
    assert_eq!(story.close(descriptor), Ok(()));
    story.mount.sleep(LONG);
    assert!(story.names("").is_empty(), "{:?}", story.names(""));
    assert!(
        story.world.remote.keys().is_empty(),
        "{:?}",
        story.world.remote.keys()
    );
}
