//! Ways to end a mount, none of which loses what was written.

use crate::support::command::{Tool, bash};
use crate::support::files;
use crate::support::is_root;
use crate::support::mount::{Mount, Place, mounts_at};
use crate::support::store::Store;
use pailfs::embedded::{Fault, Operation, When};
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

crate::on_each_store!(
    unmount_leaves_everything_in_the_bucket,
    signals_unmount,
    a_background_mount_is_like_any_other,
    a_busy_mount_stays,
    fusermount_is_an_end_too,
);
crate::on_the_embedded_store!(
    unmount_waits_for_what_is_being_sent,
    unmount_sends_what_could_not_be_sent_before,
    a_signal_detaches_a_busy_background_mount,
    a_signal_detaches_a_busy_mount_that_nobody_looks_at,
    a_signal_ends_a_mount_whose_store_is_silent,
    only_the_own_mount_is_taken_away,
);

/// Changes a file through a mapping and leaves it without a close after the change: nobody has waited for the commit.
fn change_through_a_mapping(path: &Path, data: &[u8]) {
    let file = File::options().read(true).write(true).open(path).expect("opened");
    // SAFETY: a new mapping of `data.len()` bytes of a file that is at least as long; it is used inside these bounds and
    // given back once.
    unsafe {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let memory = libc::mmap(
            std::ptr::null_mut(),
            data.len(),
            protection,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        );
        assert_ne!(memory, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
        files::close(file).expect("closed without a change");
        std::ptr::copy_nonoverlapping(data.as_ptr(), memory.cast::<u8>(), data.len());
        assert_eq!(libc::munmap(memory, data.len()), 0);
    }
}

fn unmount_leaves_everything_in_the_bucket(store: &Store) {
    let mount = store.mount().start();
    bash(&mount.path(), "mkdir dir; echo one > dir/one; echo two > two");
    files::write(&mount.join("mapped"), b"before").expect("written");
    change_through_a_mapping(&mount.join("mapped"), b"after!");
    mount.unmount();
    assert_eq!(store.bucket.text("dir/one"), "one\n");
    assert_eq!(store.bucket.text("mapped"), "after!");
    assert_eq!(store.bucket.open_uploads(), [""; 0]);
}

fn unmount_waits_for_what_is_being_sent(store: &Store) {
    let mut mount = store.mount().start();
    files::write(&mount.join("mapped"), b"before").expect("written");
    let slow = When::on(Operation::Put).key("mapped").for_ever();
    store
        .server()
        .faults()
        .inject(slow, Fault::Delay(Duration::from_secs(3)));
    change_through_a_mapping(&mount.join("mapped"), b"after!");
    mount.unmount_command().success();
    assert_eq!(store.bucket.text("mapped"), "after!");
    mount.wait_for_end();
}

fn unmount_sends_what_could_not_be_sent_before(store: &Store) {
    let mut mount = store
        .mount()
        .options("--stall-timeout 3s")
        .expect_in_log("file")
        .start();
    let broken = When::on(Operation::Put).key("file").for_ever();
    let fault = store
        .server()
        .faults()
        .inject(broken, Fault::Answer("InternalError"));
    let failed = files::write(&mount.join("file"), b"precious");
    failed.expect_err("the bucket does not have it");
    // Not lost, and readable here.
    assert_eq!(fs::read_to_string(mount.join("file")).expect("read"), "precious");
    assert_eq!(store.bucket.find("file"), None);
    store.server().faults().remove(fault);
    mount.unmount_command().success();
    assert_eq!(store.bucket.text("file"), "precious");
    mount.wait_for_end();
}

fn signals_unmount(store: &Store) {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let mut mount = store.mount().start();
        let name = format!("file-{signal}");
        files::write(&mount.join(&name), b"before").expect("written");
        change_through_a_mapping(&mount.join(&name), b"after!");
        mount.signal(signal);
        assert_eq!(mount.wait_for_end(), Some(0));
        assert_eq!(store.bucket.text(&name), "after!");
        assert_eq!(
            fs::read_dir(mount.path())
                .expect("an empty directory again")
                .count(),
            0
        );
    }
}

fn a_background_mount_is_like_any_other(store: &Store) {
    let mount = store.mount().in_background().start();
    bash(&mount.path(), "echo x > file; cat file");
    mount.unmount();
    assert_eq!(store.bucket.text("file"), "x\n");
}

fn a_busy_mount_stays(store: &Store) {
    let mount = store.mount().expect_in_log("still mounted").start();
    let mut file = File::create(mount.join("file")).expect("made");
    file.write_all(b"one ").expect("written");
    mount.unmount_command().fails(5, "in use");
    assert!(mount.is_mounted());
    file.write_all(b"two").expect("still usable");
    files::close(file).expect("committed");
    mount.unmount();
    assert_eq!(store.bucket.text("file"), "one two");
}

fn a_signal_detaches_a_busy_background_mount(store: &Store) {
    let mut mount: Mount = store.mount().in_background().expect_in_log("").start();
    let mut file = File::create(mount.join("file")).expect("made");
    file.write_all(b"unsent").expect("written");
    mount.signal(libc::SIGTERM);
    mount.wait_for_end();
    drop(file);
    assert_eq!(store.bucket.text("file"), "unsent");
}

/// As a service manager starts it: in the foreground, without a terminal.
fn a_signal_detaches_a_busy_mount_that_nobody_looks_at(store: &Store) {
    let mut mount = store.mount().expect_in_log("").start();
    let mut file = File::create(mount.join("file")).expect("made");
    file.write_all(b"unsent").expect("written");
    mount.signal(libc::SIGTERM);
    mount.wait_for_end();
    drop(file);
    assert_eq!(store.bucket.text("file"), "unsent");
}

fn a_signal_ends_a_mount_whose_store_is_silent(store: &Store) {
    let place = Place::new();
    let mut mount = store
        .mount()
        .at(&place)
        .options("--stall-timeout 1s")
        .expect_in_log("")
        .start();
    files::write(&mount.join("first"), b"x").expect("written");
    let open: Vec<File> = (0..8)
        .map(|i| {
            let mut file = File::create(mount.join(format!("file{i}"))).expect("made");
            file.write_all(b"unsent").expect("written");
            file
        })
        .collect();
    store
        .server()
        .faults()
        .inject(When::any().for_ever(), Fault::Stall);
    mount.signal(libc::SIGTERM);
    mount.wait_for_end();
    drop(open);
    store.server().faults().clear();
    // What could not be sent is sent by the next mount.
    store.mount().at(&place).expect_in_log("").start().unmount();
    for i in 0..8 {
        assert_eq!(store.bucket.text(&format!("file{i}")), "unsent");
    }
}

fn fusermount_is_an_end_too(store: &Store) {
    let mut mount = store.mount().start();
    files::write(&mount.join("file"), b"before").expect("written");
    change_through_a_mapping(&mount.join("file"), b"after!");
    crate::support::wait_until("not in use", || {
        let tool = Tool::new("fusermount3").arg("-u").arg(mount.path());
        tool.output().status.success()
    });
    assert_eq!(mount.wait_for_end(), Some(0));
    assert_eq!(store.bucket.text("file"), "after!");
}

fn only_the_own_mount_is_taken_away(store: &Store) {
    if !is_root() {
        return;
    }
    let place = Place::new();
    Tool::new("mount")
        .args(["-t", "tmpfs", "below"])
        .arg(place.mount_point())
        .run();
    fs::write(place.mount_point().join("below"), "x").expect("written");
    let mount = store.mount().at(&place).expect_in_log("is not empty").start();
    bash(&mount.path(), "test ! -e below; echo x > file");
    mount.unmount();
    assert_eq!(mounts_at(&place.mount_point()), ["tmpfs"]);
    assert_eq!(bash(&place.mount_point(), "ls"), "below\n");
}
