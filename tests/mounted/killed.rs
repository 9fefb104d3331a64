//! kill -9: the mount point is usable again, what was committed is there, and the next mount finds its way.

use crate::support::command::{bash, script_tool};
use crate::support::files;
use crate::support::mount::{Place, mounts_at};
use crate::support::processes;
use crate::support::store::Store;
use crate::support::{pattern, wait_until};
use pailfs::embedded::{Fault, Operation, When};
use std::fs::{self, File};
use std::io::Write;

crate::on_each_store!(
    a_daemon_killed_while_writing,
    a_dead_mount_is_replaced,
    a_dead_mount_can_be_unmounted
);
crate::on_the_embedded_store!(
    unsent_data_is_sent_by_the_next_mount,
    uploads_of_a_killed_daemon_are_not_left_open
);

fn a_daemon_killed_while_writing(store: &Store) {
    let place = Place::new();
    // Writes until it fails, and tells which files were closed without an error.
    let script = "for i in $(seq 100000); do
        head -c $((i * 37 % 50000)) /dev/zero | tr '\\0' \"$((i % 10))\" > f$i || exit 0
        echo $i
    done";
    for round in 0..3 {
        // Whatever is said about what the killed one left.
        let mut mount = store.mount().at(&place).expect_in_log("").start();
        let directory = mount.join(format!("round{round}"));
        fs::create_dir(&directory).expect("made");
        let writer = script_tool(&directory, script).start();
        wait_until("some files are written", || {
            fs::read_dir(&directory).expect("listed").count() > 10 + round * 7
        });
        mount.kill();
        let closed = writer.wait().stdout;
        wait_until("the dead mount is detached", || {
            mounts_at(&place.mount_point()).is_empty()
        });
        assert_eq!(
            fs::read_dir(place.mount_point()).expect("no dead mount").count(),
            0
        );
        let closed: Vec<usize> = closed
            .lines()
            .map(|line| line.parse().expect("a number"))
            .collect();
        assert!(closed.len() >= 10 + round * 7);
        for i in closed {
            let expected = (i % 10).to_string().repeat(i * 37 % 50_000);
            assert!(
                store.bucket.text(&format!("round{round}/f{i}")) == expected,
                "round {round}, file {i}"
            );
        }
    }
    let mount = store.mount().at(&place).expect_in_log("").start();
    bash(
        &mount.path(),
        "echo clean > file; ls -R | wc -l; find . -type f | xargs cat > /dev/null",
    );
    mount.unmount();
    assert_eq!(store.bucket.text("file"), "clean\n");
}

/// Kills the daemon and, before it, the process that would detach its mount.
fn leave_a_dead_mount(store: &Store, place: &std::sync::Arc<Place>) {
    let mut mount = store.mount().at(place).start();
    let mount_point = place.mount_point();
    let watchers = processes::with_arguments(&["watch-mount", mount_point.to_str().expect("UTF-8")]);
    assert_eq!(watchers.len(), 1, "{watchers:?}");
    // The daemon notices when it next speaks to it, which a killed daemon does not.
    processes::signal(watchers[0] as i32, libc::SIGKILL);
    mount.kill();
    wait_until("the mount is dead", || {
        fs::metadata(&mount_point).is_err_and(|error| error.raw_os_error() == Some(libc::ENOTCONN))
    });
    mount.leave();
}

fn a_dead_mount_is_replaced(store: &Store) {
    let place = Place::new();
    leave_a_dead_mount(store, &place);
    let mount = store
        .mount()
        .at(&place)
        .expect_in_log("detached the dead mount")
        .start();
    assert!(mount.log().says("detached the dead mount"));
    bash(&mount.path(), "echo x > file; cat file");
    mount.unmount();
    assert!(mounts_at(&place.mount_point()).is_empty());
}

fn a_dead_mount_can_be_unmounted(store: &Store) {
    let place = Place::new();
    leave_a_dead_mount(store, &place);
    place.pailfs().arg("unmount").arg(place.mount_point()).run();
    assert!(mounts_at(&place.mount_point()).is_empty());
    place
        .pailfs()
        .arg("unmount")
        .arg(place.mount_point())
        .output()
        .fails(3, "not a mount point");
}

fn unsent_data_is_sent_by_the_next_mount(store: &Store) {
    let place = Place::new();
    let mut mount = store
        .mount()
        .at(&place)
        .options("--stall-timeout 3s")
        .expect_in_log("")
        .start();
    let broken = When::on_each(&[Operation::Put, Operation::CreateUpload])
        .key("file")
        .for_ever();
    let fault = store
        .server()
        .faults()
        .inject(broken, Fault::Answer("InternalError"));
    let data = pattern(100_000, 3);
    files::write(&mount.join("file"), &data).expect_err("the bucket does not have it");
    // The data is kept on disk from the moment at which sending it failed.
    wait_until("it is recorded", || mount.log().says("will be tried again"));
    mount.kill();
    wait_until("the dead mount is detached", || {
        mounts_at(&place.mount_point()).is_empty()
    });
    store.server().faults().remove(fault);
    let mount = store.mount().at(&place).expect_in_log("").start();
    wait_until("it is sent", || {
        store.bucket.find("file").is_some_and(|found| found == data)
    });
    assert!(fs::read(mount.join("file")).expect("read") == data);
    mount.unmount();
}

fn uploads_of_a_killed_daemon_are_not_left_open(store: &Store) {
    let place = Place::new();
    let mut mount = store.mount().at(&place).options("--memory 32MiB").start();
    let mut file = File::create(mount.join("large")).expect("made");
    let block = pattern(1 << 20, 5);
    for _ in 0..40 {
        file.write_all(&block).expect("written");
    }
    wait_until("an upload is under way", || {
        store.bucket.open_uploads() == ["large"]
    });
    mount.kill();
    drop(file);
    wait_until("the dead mount is detached", || {
        mounts_at(&place.mount_point()).is_empty()
    });
    let mount = store.mount().at(&place).expect_in_log("").start();
    wait_until("the upload is aborted or completed", || {
        store.bucket.open_uploads().is_empty()
    });
    mount.unmount();
}
