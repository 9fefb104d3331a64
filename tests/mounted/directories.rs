//! Directories with many entries, and directories that come and go by what is in them.

use crate::support::command::bash;
use crate::support::files;
use crate::support::is_root;
use crate::support::store::Store;
use std::collections::BTreeSet;
use std::fs;

crate::on_each_store!(
    a_directory_of_many_pages_is_listed_whole,
    a_directory_is_removed_only_when_the_bucket_says_it_is_empty,
    everything_can_be_removed,
    the_log_tells_how_far_a_large_rename_is,
    attributes_of_directories_last,
);
// SeaweedFS takes a marker for existing as long as there are keys below it, and then removes both.
crate::on_the_embedded_store!(
    a_directory_stays_when_it_becomes_empty,
    a_marker_keeps_what_others_put_on_it,
    what_a_listing_shows_of_a_directory_is_not_asked_again,
);

fn a_directory_of_many_pages_is_listed_whole(store: &Store) {
    let count = if store.is_embedded() { 5_000 } else { 2_300 };
    let name = |i: usize| format!("f{i:05}");
    store
        .bucket
        .put_all((0..count).map(|i| format!("big/{}", name(i))), b"x");
    store
        .bucket
        .put_all((0..40).map(|i| format!("big/sub{i}/x")), b"x");
    let mount = store.mount().start();
    let listed: Vec<String> = bash(&mount.path(), "ls -f big")
        .lines()
        .map(str::to_owned)
        .collect();
    let unique: BTreeSet<&String> = listed.iter().collect();
    assert_eq!((listed.len(), unique.len()), (count + 40 + 2, count + 40 + 2));
    assert!((0..count).all(|i| unique.contains(&name(i))));
    assert_eq!(
        bash(&mount.path(), "find . -type f | wc -l").trim(),
        (count + 40).to_string()
    );
    assert_eq!(
        bash(&mount.path(), "ls -l big | grep -c ^-").trim(),
        count.to_string()
    );
    // A walk that removes what it has seen must not skip what it has not.
    bash(
        &mount.path(),
        "find big -name 'f*' -delete; test \"$(ls big | wc -l)\" = 40",
    );
    assert_eq!(store.bucket.keys("big/f"), [""; 0]);
}

fn a_directory_stays_when_it_becomes_empty(store: &Store) {
    store.bucket.put("implicit/only", "x");
    let mount = store.mount().start();
    bash(
        &mount.path(),
        "rm implicit/only; test -d implicit; test -z \"$(ls -A implicit)\"",
    );
    mount.unmount();
    assert_eq!(store.bucket.keys(""), ["implicit/"]);
    let mount = store.mount().start();
    bash(
        &mount.path(),
        "test -d implicit; rmdir implicit; test ! -e implicit",
    );
    mount.unmount();
    assert_eq!(store.bucket.keys(""), [""; 0]);
}

fn a_directory_is_removed_only_when_the_bucket_says_it_is_empty(store: &Store) {
    let mount = store.mount().start();
    fs::create_dir(mount.join("dir")).expect("made");
    assert_eq!(fs::read_dir(mount.join("dir")).expect("listed").count(), 0);
    // This mount does not know of it.
    store.bucket.put("dir/foreign", "x");
    assert_eq!(files::errno(fs::remove_dir(mount.join("dir"))), libc::ENOTEMPTY);
    store.bucket.delete("dir/foreign");
    fs::remove_dir(mount.join("dir")).expect("it is empty now");
    assert_eq!(files::errno(fs::remove_dir(mount.join("dir"))), libc::ENOENT);
    files::write(&mount.join("file"), b"x").expect("written");
    assert_eq!(files::errno(fs::remove_dir(mount.join("file"))), libc::ENOTDIR);
    assert_eq!(files::errno(fs::create_dir(mount.join("file"))), libc::EEXIST);
}

fn the_log_tells_how_far_a_large_rename_is(store: &Store) {
    store
        .bucket
        .put_all((0..1_050).map(|i| format!("tree/f{i}")), b"x");
    let mount = store.mount().start();
    fs::rename(mount.join("tree"), mount.join("moved")).expect("renamed");
    let log = mount.log().text();
    for step in ["copies", "deletes"] {
        let told = format!("from=\"tree/\" to=\"moved/\" step=\"{step}\" objects=1050");
        assert!(log.contains(&told), "{told} is not in {log}");
    }
}

fn everything_can_be_removed(store: &Store) {
    store
        .bucket
        .put_all((0..120).map(|i| format!("tree/d{}/e{}/f{i}", i % 4, i % 3)), b"x");
    let mount = store.mount().start();
    bash(
        &mount.path(),
        "mkdir -p tree/made/empty; echo x > tree/made/file; rm -rf tree; test -z \"$(ls -A)\"",
    );
    mount.unmount();
    assert_eq!(store.bucket.keys(""), [""; 0]);
}

fn attributes_of_directories_last(store: &Store) {
    let mount = store.mount().start();
    bash(
        &mount.path(),
        "mkdir -m 750 made; mkdir -p implicit/below; chmod 711 implicit; touch -d '2001-02-03 04:05:06.789' made implicit; mv made moved",
    );
    if is_root() {
        bash(&mount.path(), "chown 12:34 moved");
    }
    let shown = "stat -c '%n %a %u %g %Y' moved implicit";
    let before = bash(&mount.path(), shown);
    assert!(
        before.contains("moved 750 ") && before.contains("implicit 711 "),
        "{before}"
    );
    if !store.is_embedded() {
        // The store keeps no metadata there; while it is mounted nothing is lost, whatever the kernel forgets.
        if is_root() {
            bash(&mount.path(), "echo 2 > /proc/sys/vm/drop_caches");
        }
        assert_eq!(bash(&mount.path(), shown), before);
        return;
    }
    mount.unmount();
    let again = store.mount().start();
    assert_eq!(bash(&again.path(), shown), before);
    let by_listing = "find . -mindepth 1 -maxdepth 1 -printf '%f %m %U %G %T@\\n' | sort";
    let times = bash(&again.path(), by_listing);
    assert_eq!(times.matches(" 981173106.789").count(), 2, "{times}");
    // Another mount's change is seen when what is known has aged.
    let other = store.mount().options("--metadata-ttl 0s").start();
    assert_eq!(bash(&other.path(), shown), before);
    bash(&again.path(), "chmod 700 moved");
    assert_eq!(bash(&other.path(), "stat -c %a moved").trim(), "700");
}

fn a_marker_keeps_what_others_put_on_it(store: &Store) {
    store.bucket.put_with_metadata(
        "dir/",
        b"",
        &[("mode", "16872"), ("uid", "7"), ("gid", "8"), ("colour", "blue")],
    );
    store.bucket.put("dir/file", "x");
    let mount = store.mount().start();
    assert_eq!(bash(&mount.path(), "stat -c '%a %u %g' dir").trim(), "750 7 8");
    bash(&mount.path(), "chmod 755 dir");
    let metadata = store.bucket.metadata("dir/");
    assert_eq!(metadata.get("colour").map(String::as_str), Some("blue"));
    assert_eq!(metadata.get("file-owner").map(String::as_str), Some("7"));
    // Data under the key of a marker is a file, and stays one.
    store.bucket.put("odd/", "data");
    bash(
        &mount.path(),
        "chmod 700 odd; test \"$(stat -c %a odd)\" = 700; test \"$(cat odd/~%)\" = data",
    );
}

fn what_a_listing_shows_of_a_directory_is_not_asked_again(store: &Store) {
    store
        .bucket
        .put_all((0..30).map(|i| format!("top/d{i}/file")), b"x");
    let mount = store.mount().options("--metadata-ttl 1h").start();
    bash(&mount.path(), "ls -R top > /dev/null");
    let counts = store.server().counts().clone();
    counts.reset();
    bash(&mount.path(), "stat top/d* > /dev/null; ls -lR top > /dev/null");
    assert_eq!(counts.total(), 0, "{:?}", counts.all());
}
