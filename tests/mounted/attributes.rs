//! What objects carry beside their bytes, and what changing it costs.

use crate::support::command::{Tool, bash, has_program};
use crate::support::files;
use crate::support::store::Store;
use pailfs::embedded::{Fault, Operation, Quirks, When};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

crate::on_each_store!(
    changes_do_not_undo_each_other,
    what_waits_is_seen_and_is_stored_at_the_end,
    a_change_that_waits_goes_with_the_next_writing,
);
crate::on_the_embedded_store!(
    several_changes_are_one_copy,
    fsync_brings_changes_to_the_bucket,
    a_change_rides_on_a_rename,
    archives_and_copies_cost_one_request_a_file,
    synchronising_costs_three_requests_a_file,
    a_change_that_fails_is_told_at_fsync,
    a_mode_set_after_a_directory_rename_stays_where_copies_have_other_tags,
);

fn mode_of(store: &Store, key: &str) -> Option<String> {
    store.bucket.metadata(key).remove("file-permissions")
}

fn changes_do_not_undo_each_other(store: &Store) {
    store
        .bucket
        .put_with_metadata("file", b"data", &[("colour", "blue")]);
    let mount = store.mount().start();
    let path = mount.join("file");
    let mut file = OpenOptions::new().append(true).open(&path).expect("opened");
    file.write_all(b" more").expect("written");
    file.set_permissions(fs::Permissions::from_mode(0o640))
        .expect("set");
    drop(file);
    bash(&mount.path(), "touch -d '2001-02-03 04:05:06' file; sync file");
    bash(&mount.path(), "chmod u+x file; sync file; chmod g+x file");
    mount.unmount();
    assert_eq!(mode_of(store, "file").as_deref(), Some("0100750"));
    let metadata = store.bucket.metadata("file");
    assert_eq!(metadata["file-mtime"], "981173106000000000ns");
    assert_eq!(metadata["colour"], "blue");
    assert_eq!(store.bucket.text("file"), "data more");
}

fn several_changes_are_one_copy(store: &Store) {
    let mount = store.mount().start();
    warm_up(&mount);
    files::write(&mount.join("file"), b"data").expect("written");
    let counts = store.server().counts().clone();
    counts.reset();
    bash(
        &mount.path(),
        "chmod 600 file; touch -cd '2001-02-03 04:05:06' file; chmod 640 file; test \"$(stat -c '%a %Y' file)\" = '640 981173106'",
    );
    mount.unmount();
    assert_eq!(counts.of(Operation::Copy), 1, "{:?}", counts.all());
    assert_eq!(counts.of(Operation::Head), 0, "{:?}", counts.all());
    assert_eq!(mode_of(store, "file").as_deref(), Some("0100640"));
}

fn fsync_brings_changes_to_the_bucket(store: &Store) {
    let mount = store.mount().start();
    files::write(&mount.join("file"), b"data").expect("written");
    bash(&mount.path(), "chmod 604 file; sync file");
    assert_eq!(mode_of(store, "file").as_deref(), Some("0100604"));
    // And by itself, within a second.
    bash(&mount.path(), "chmod 606 file");
    crate::support::wait_until("it is stored", || {
        mode_of(store, "file").as_deref() == Some("0100606")
    });
}

fn what_waits_is_seen_and_is_stored_at_the_end(store: &Store) {
    let mount = store.mount().start();
    files::write(&mount.join("file"), b"data").expect("written");
    files::write(&mount.join("gone"), b"data").expect("written");
    bash(
        &mount.path(),
        "chmod 604 file gone; touch -d '2001-02-03 04:05:06.5' file; ls -l > /dev/null; cat file > /dev/null; rm gone; mv file renamed; chmod g+r renamed; stat -c '%a %.1Y' renamed | grep -qx '644 981173106.5'",
    );
    mount.unmount();
    assert_eq!(store.bucket.keys(""), ["renamed"]);
    assert_eq!(mode_of(store, "renamed").as_deref(), Some("0100644"));
    let again = store.mount().start();
    let stat = fs::metadata(again.join("renamed")).expect("there");
    assert_eq!(
        (stat.mode() & 0o7777, stat.mtime(), stat.mtime_nsec()),
        (0o644, 981_173_106, 500_000_000)
    );
}

fn a_change_that_waits_goes_with_the_next_writing(store: &Store) {
    let mount = store.mount().start();
    files::write(&mount.join("file"), b"data").expect("written");
    bash(
        &mount.path(),
        "chmod 604 file; touch -d '2001-02-03 04:05:06' file; echo more >> file; test \"$(stat -c %Y file)\" -gt 1000000000; chmod 640 file; echo new > file; truncate -s 2 file; stat -c '%a %s' file | grep -qx '640 2'",
    );
    mount.unmount();
    assert_eq!(store.bucket.text("file"), "ne");
    assert_eq!(mode_of(store, "file").as_deref(), Some("0100640"));
}

fn a_change_rides_on_a_rename(store: &Store) {
    let mount = store.mount().start();
    warm_up(&mount);
    files::write(&mount.join("file"), b"data").expect("written");
    let counts = store.server().counts().clone();
    counts.reset();
    bash(
        &mount.path(),
        "chmod 600 file; touch -d '2001-02-03 04:05:06' file; mv -T file renamed",
    );
    mount.unmount();
    assert_eq!(
        (counts.of(Operation::Copy), counts.of(Operation::Delete)),
        (1, 1),
        "{:?}",
        counts.all()
    );
    assert_eq!(store.bucket.keys(""), ["renamed"]);
    assert_eq!(mode_of(store, "renamed").as_deref(), Some("0100600"));
    assert_eq!(
        store.bucket.metadata("renamed")["file-mtime"],
        "981173106000000000ns"
    );
}

/// The first of each kind of change may find out what the store can do.
fn warm_up(mount: &crate::support::mount::Mount) {
    bash(
        &mount.path(),
        "echo x > w; chmod 600 w; sync w; echo y >> w; mv w v; echo z > w; mv w v; rm v; mkdir d; chmod 700 d; rmdir d",
    );
}

const FILES: u64 = 60;

/// A tree whose files have modes and times of their own.
fn make_tree(mount: &crate::support::mount::Mount) {
    let script = format!(
        "mkdir tree; for i in $(seq {FILES}); do echo $i > tree/f$i; chmod 640 tree/f$i; touch -d @$((1000000000 + i)).25 tree/f$i; done; tar cf tree.tar tree"
    );
    bash(&mount.work(), &script);
}

/// Requests that change something, but for those of the one directory.
fn of_the_files(store: &Store) -> (u64, u64, u64) {
    let counts = store.server().counts();
    let of = |operation| counts.of(operation);
    (of(Operation::Put), of(Operation::Copy), of(Operation::Delete))
}

fn archives_and_copies_cost_one_request_a_file(store: &Store) {
    let mount = store.mount().start();
    make_tree(&mount);
    warm_up(&mount);
    // The tree lives as long as the mount's place.
    let place = mount.place.clone();
    let work = place.work();
    store.server().counts().reset();
    Tool::new("cp")
        .arg("-a")
        .arg(work.join("tree"))
        .arg(mount.join("copied"))
        .run();
    let after_the_copy = of_the_files(store);
    Tool::new("tar")
        .arg("xpf")
        .arg(work.join("tree.tar"))
        .arg("-C")
        .arg(mount.path())
        .run();
    mount.unmount();
    let total = of_the_files(store);
    // A directory is made, and gets its mode, owner and times at the end.
    assert!(after_the_copy.0 <= FILES + 5, "{after_the_copy:?}");
    assert!(total.0 <= 2 * (FILES + 5), "{total:?}");
    assert_eq!((total.1, total.2), (0, 0), "{total:?}");
    let again = store.mount().start();
    let shown = "cd $0 && find . -type f -printf '%f %m %T@\\n' | sort";
    let there = Tool::new("bash")
        .args(["-c", shown])
        .arg(again.join("copied"))
        .run();
    let here = Tool::new("bash").args(["-c", shown]).arg(work.join("tree")).run();
    assert_eq!(there, here);
}

fn synchronising_costs_three_requests_a_file(store: &Store) {
    if !has_program("rsync") {
        return;
    }
    let mount = store.mount().start();
    make_tree(&mount);
    warm_up(&mount);
    store.server().counts().reset();
    Tool::new("rsync")
        .arg("-a")
        .arg(mount.work().join("tree"))
        .arg(mount.path())
        .run();
    mount.unmount();
    let (puts, copies, deletes) = of_the_files(store);
    assert!(puts <= FILES + 5, "{puts}");
    assert_eq!((copies, deletes), (FILES, FILES));
    assert_eq!(mode_of(store, "tree/f7").as_deref(), Some("0100640"));
    assert_eq!(
        store.bucket.metadata("tree/f7")["file-mtime"],
        "1000000007250000000ns"
    );
}

fn a_change_that_fails_is_told_at_fsync(store: &Store) {
    let mount = store
        .mount()
        .expect_in_log("could not be stored")
        .expect_in_log("operation=\"fsync\"")
        .start();
    warm_up(&mount);
    let path = mount.join("file");
    files::write(&path, b"data").expect("written");
    let file = fs::File::open(&path).expect("opened");
    let faults = store.server().faults();
    faults.inject(When::on(Operation::Copy), Fault::Answer("AccessDenied"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("it waits");
    assert_eq!(files::errno(file.sync_all()), libc::EACCES);
    faults.clear();
    file.sync_all().expect("told once");
    drop(file);
}

fn a_mode_set_after_a_directory_rename_stays_where_copies_have_other_tags(store: &Store) {
    store.server().set_quirks(Quirks {
        opaque_etags: true,
        ..Quirks::default()
    });
    let mount = store.mount().start();
    let shown = bash(
        &mount.path(),
        "mkdir x; echo a > x/f; mv x y; chmod 640 y/f; echo b >> y/f; stat -c %a y/f; cat y/f",
    );
    assert_eq!(shown, "640\na\nb\n");
    mount.unmount();
    assert_eq!(mode_of(store, "y/f").as_deref(), Some("0100640"));
}
