//! Unlinked, replaced and renamed files whose objects or handles live on.

use super::{bytes_of, open, world_with};
use crate::in_process::{Options, World};
use pailfs::embedded::{Fault, Operation, When};
use pailfs::tree::node::Kind;
use std::time::Duration;

#[test]
fn an_equal_file_that_takes_an_unlinked_name_survives_the_last_close() {
    let (world, mount) = world_with("f", b"same");
    let driver = &mount.driver;
    let reader = open(&mount, "f", libc::O_RDONLY);
    mount.run("unlink", driver.unlink("f")).expect("unlinked");
    mount
        .run("write", driver.write_file("copy", libc::O_CREAT, b"same"))
        .expect("written");
    mount
        .run("rename", driver.rename("copy", "f", false))
        .expect("renamed");
    mount.run("close", driver.close(reader)).expect("closed");
    assert_eq!(bytes_of(&world, "f").expect("the renamed file"), b"same");
}

#[test]
fn an_equal_file_written_while_the_unlinked_one_is_closed_survives() {
    let (world, mount) = world_with("f", b"same");
    let driver = &mount.driver;
    let reader = open(&mount, "f", libc::O_RDONLY);
    mount.run("unlink", driver.unlink("f")).expect("unlinked");
    let writer = open(&mount, "f", libc::O_WRONLY | libc::O_CREAT);
    mount
        .run("write", driver.write(&writer, 0, b"same"))
        .expect("written");
    let late = When::on(Operation::Delete).key("f");
    world
        .store
        .faults()
        .inject(late, Fault::Delay(Duration::from_secs(5)));
    let (_, written) = mount.run("closes", async {
        tokio::join!(driver.close(reader), async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            driver.close(writer).await
        })
    });
    written.expect("closed");
    assert_eq!(bytes_of(&world, "f").expect("the new file"), b"same");
}

#[test]
fn a_symlink_that_takes_an_unlinked_name_is_seen() {
    let (_world, mount) = world_with("f", b"bytes");
    let driver = &mount.driver;
    let reader = open(&mount, "f", libc::O_RDONLY);
    mount.run("list", driver.list("", false)).expect("listed");
    mount.run("unlink", driver.unlink("f")).expect("unlinked");
    mount.run("symlink", driver.symlink("f", "target")).expect("made");
    assert_eq!(
        mount.run("readlink", driver.readlink("f")),
        Ok("target".to_owned())
    );
    assert_eq!(
        mount
            .run("list", driver.list("", false))
            .expect("listed")
            .get("f"),
        Some(&Kind::Symlink)
    );
    assert_eq!(
        mount.run("read", driver.read(&reader, 0, 10)).expect("read"),
        b"bytes"
    );
    mount.run("close", driver.close(reader)).expect("closed");
    assert_eq!(
        mount.run("readlink", driver.readlink("f")),
        Ok("target".to_owned())
    );
}

#[test]
fn a_new_file_is_renamed_over_one_that_is_just_being_closed() {
    let world = World::new(Options::default());
    let mount = world.mount();
    let driver = &mount.driver;
    let old = open(&mount, "g", libc::O_WRONLY | libc::O_CREAT);
    mount
        .run("write", driver.write(&old, 0, b"old"))
        .expect("written");
    let new = open(&mount, "f", libc::O_WRONLY | libc::O_CREAT);
    mount
        .run("write", driver.write(&new, 0, b"new"))
        .expect("written");
    let (closed, renamed) = mount.run("close and rename", async {
        tokio::join!(driver.close(old), driver.rename("f", "g", false))
    });
    closed.expect("closed");
    renamed.expect("renamed");
    mount.run("close", driver.close(new)).expect("closed");
    assert_eq!(bytes_of(&world, "g").expect("there"), b"new");
    assert_eq!(world.remote.keys(), ["g"]);
}

#[test]
fn a_file_unlinked_before_it_replaced_another_takes_that_one_along() {
    let (world, mount) = world_with("g", b"old");
    let driver = &mount.driver;
    let new = open(&mount, "f", libc::O_WRONLY | libc::O_CREAT);
    mount
        .run("write", driver.write(&new, 0, b"new"))
        .expect("written");
    mount
        .run("rename", driver.rename("f", "g", false))
        .expect("renamed");
    mount.run("unlink", driver.unlink("g")).expect("unlinked");
    mount.run("close", driver.close(new)).expect("closed");
    assert_eq!(mount.run("stat", driver.stat("g")).map(drop), Err(libc::ENOENT));
    assert_eq!(world.remote.keys(), Vec::<String>::new());
}

#[test]
fn a_file_made_while_its_directory_is_renamed_is_found_there() {
    let (world, mount) = world_with("d/f", b"bytes");
    let driver = &mount.driver;
    let directory = mount.run("stat", driver.stat("d")).expect("there").ino;
    let caller = pailfs::fs::Caller {
        uid: 0,
        gid: 0,
        thread: 1,
    };
    // The new file is made when everything is copied and only the old objects are still to be deleted.
    let late = When::on(Operation::Delete).key("d/f");
    world
        .store
        .faults()
        .inject(late, Fault::Delay(Duration::from_secs(5)));
    let (renamed, made) = mount.run("rename and create", async {
        tokio::join!(driver.rename("d", "e", false), async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let flags = libc::O_WRONLY | libc::O_CREAT;
            let (_, closed) = mount.fs.create(caller, directory, "closed", 0o644, flags).await?;
            mount.fs.write(closed.handle, 0, b"new").await?;
            mount.fs.flush(closed.handle).await?;
            mount.fs.release(closed.handle).await;
            let (_, open) = mount.fs.create(caller, directory, "open", 0o644, flags).await?;
            mount.fs.write(open.handle, 0, b"newer").await?;
            Ok::<_, pailfs::base::error::Error>(open)
        })
    });
    renamed.expect("renamed");
    let open = made.expect("made");
    mount
        .run("flush", mount.fs.flush(open.handle))
        .expect("in the bucket");
    mount.run("release", mount.fs.release(open.handle));
    assert_eq!(world.remote.keys(), ["e/closed", "e/f", "e/open"]);
    // Nothing is believed any more.
    mount.sleep(Duration::from_secs(60));
    for (path, bytes) in [("e/closed", &b"new"[..]), ("e/open", b"newer"), ("e/f", b"bytes")] {
        assert_eq!(
            mount.run("read", driver.read_file(path)).as_deref(),
            Ok(bytes),
            "{path}"
        );
    }
}

#[test]
fn a_directory_outlives_its_last_file_also_when_a_reader_has_that() {
    let (_world, mount) = world_with("d/f", b"bytes");
    let driver = &mount.driver;
    let reader = open(&mount, "d/f", libc::O_RDONLY);
    mount.run("unlink", driver.unlink("d/f")).expect("unlinked");
    mount.sleep(Duration::from_secs(5));
    mount.run("close", driver.close(reader)).expect("closed");
    mount.sleep(Duration::from_secs(60));
    assert_eq!(
        mount.run("stat", driver.stat("d")).expect("still there").kind,
        Kind::Directory
    );
}

#[test]
fn a_deferred_delete_of_a_dead_mount_spares_an_equal_object_written_since() {
    let (world, mount) = world_with("f", b"same");
    let _never_closed = open(&mount, "f", libc::O_RDONLY);
    mount.run("unlink", mount.driver.unlink("f")).expect("unlinked");
    mount.crash();
    // Times of objects have whole seconds.
    std::thread::sleep(Duration::from_millis(2_100));
    world.remote.put("f", b"same");
    world.mount().crash();
    assert_eq!(bytes_of(&world, "f").expect("somebody else's"), b"same");
}
