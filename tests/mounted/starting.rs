//! What can be wrong is said before the command returns, with an exit code.

use crate::support::command::bash;
use crate::support::mount::{MountBuilder, Place};
use crate::support::store::Store;
use pailfs::embedded::{Fault, When};
use std::fs;

crate::on_each_store!(
    a_prefix_is_a_filesystem_of_its_own,
    wrong_buckets_and_keys_are_said_at_once
);
crate::on_the_embedded_store!(
    what_the_mount_point_must_be,
    options_as_mount_passes_them,
    a_wrong_clock_is_said_at_once
);

fn a_prefix_is_a_filesystem_of_its_own(store: &Store) {
    store.bucket.put("some/prefix/file", "inside");
    store.bucket.put("some/prefix/dir/deep", "inside");
    store.bucket.put("some/prefixed", "outside");
    store.bucket.put("some/other", "outside");
    for prefix in ["some/prefix", "some/prefix/"] {
        let mount = store.mount_prefix(prefix).start();
        assert_eq!(
            bash(&mount.path(), "find . -type f | sort"),
            "./dir/deep\n./file\n"
        );
        bash(
            &mount.path(),
            "echo x > new; mkdir sub; mv new sub/; rm -r sub; echo y > dir/made; rm dir/made",
        );
        mount.unmount();
    }
    let mount = store.mount_prefix("not/there/yet").start();
    bash(&mount.path(), "test -z \"$(ls)\"; echo x > file");
    mount.unmount();
    let mut keys = store.bucket.keys("");
    keys.sort();
    let expected = [
        "not/there/yet/file",
        "some/other",
        "some/prefix/dir/deep",
        "some/prefix/file",
        "some/prefixed",
    ];
    assert_eq!(keys, expected);
}

fn wrong_buckets_and_keys_are_said_at_once(store: &Store) {
    let missing = || MountBuilder::new(&store.endpoint_url, Some("s3://no-such-bucket".into()));
    missing().fail_to_start().fails(3, "no-such-bucket");
    missing()
        .options("--foreground")
        .fail_to_start()
        .fails(3, "no-such-bucket");
    store.mount().keys("pailfs", "wrong").fail_to_start().fails(4, "");
    store.mount().keys("nobody", "wrong").fail_to_start().fails(4, "");
    let unreachable = MountBuilder::new("http://127.0.0.1:9", Some("s3://bucket".into()));
    let said = unreachable.fail_to_start();
    said.fails(1, "connection refused");
    said.fails(1, "the endpoint http://127.0.0.1:9 cannot be reached");
}

fn a_wrong_clock_is_said_at_once(store: &Store) {
    let skewed = When::any().for_ever();
    store
        .server()
        .faults()
        .inject(skewed, Fault::Answer("RequestTimeTooSkewed"));
    store.mount().fail_to_start().fails(1, "clock");
    store.mount_all_buckets().fail_to_start().fails(1, "clock");
}

fn what_the_mount_point_must_be(store: &Store) {
    let place = Place::new();
    fs::remove_dir(place.mount_point()).expect("removed");
    store.mount().at(&place).fail_to_start().fails(3, "mnt");
    fs::write(place.mount_point(), "").expect("a file");
    store
        .mount()
        .at(&place)
        .fail_to_start()
        .fails(2, "not a directory");
    fs::remove_file(place.mount_point()).expect("removed");
    fs::create_dir(place.mount_point()).expect("made");
    let mount = store.mount().at(&place).start();
    // Not `fail_to_start`: the other one stays mounted there.
    let second = place
        .pailfs()
        .args(["mount", "s3://test", "--endpoint-url", &store.endpoint_url])
        .arg(place.mount_point());
    second
        .env("AWS_ACCESS_KEY_ID", "pailfs")
        .env("AWS_SECRET_ACCESS_KEY", "pailfs-secret")
        .output()
        .fails(5, "mounted already");
    bash(&mount.path(), "echo usable > file");
    mount.unmount();
}

fn options_as_mount_passes_them(store: &Store) {
    store.bucket.put("file", "x");
    let mount = store
        .mount()
        .options("-o rw,_netdev,uid=1234,gid=5678,umask=027,fsname=data,nosuid")
        .start();
    assert_eq!(bash(&mount.path(), "stat -c '%u %g %a' file"), "1234 5678 640\n");
    let table = fs::read_to_string("/proc/self/mountinfo").expect("readable");
    let path = mount.path();
    let line = table
        .lines()
        .find(|line| line.contains(path.to_str().expect("UTF-8")))
        .expect("mounted");
    assert!(
        line.contains(" - fuse.pailfs data ") && line.contains("nosuid") && line.contains("nodev"),
        "{line}"
    );
}
