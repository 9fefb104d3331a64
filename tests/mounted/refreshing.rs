//! What a mount believes for ever until it is told to look again, and what it says it has cost.

use crate::support::command::bash;
use crate::support::store::Store;
use crate::support::{PATIENCE, poll};
use pailfs::embedded::Operation;
use std::fs;
use std::path::Path;

crate::on_each_store!(a_refresh_shows_what_others_changed, a_refresh_of_no_mount_fails);
crate::on_the_embedded_store!(
    what_is_believed_for_ever_costs_nothing_again,
    the_cost_is_told_upon_a_signal_and_at_the_end,
);

fn text(path: &Path) -> String {
    fs::read_to_string(path).expect("readable")
}

fn a_refresh_shows_what_others_changed(store: &Store) {
    store.bucket.put("dir/a", "one");
    store.bucket.put("dir/gone", "x");
    store.bucket.put("other/b", "one");
    let mount = store.mount().options("--metadata-ttl forever").start();
    bash(
        &mount.path(),
        "cat dir/a other/b dir/gone > /dev/null; ls -lR > /dev/null",
    );
    store.bucket.put("dir/a", "longer than before");
    store.bucket.put("dir/new", "new");
    store.bucket.delete("dir/gone");
    store.bucket.put("other/b", "two, not refreshed");
    // Nobody told the mount.
    assert_eq!(text(&mount.join("dir/a")), "one");

    // When it returns the kernel has forgotten, too.
    let refresh = |path: &str| {
        mount.pailfs().arg("refresh").arg(mount.join(path)).run();
    };
    refresh("dir");
    assert_eq!(bash(&mount.path(), "stat -c %s dir/a; ls dir"), "18\na\nnew\n");
    assert_eq!(text(&mount.join("dir/a")), "longer than before");
    assert_eq!(text(&mount.join("other/b")), "one");

    // A single file, and one that was not there.
    refresh("other/b");
    assert_eq!(text(&mount.join("other/b")), "two, not refreshed");
    assert!(!mount.join("other/c").exists());
    store.bucket.put("other/c", "c");
    refresh("other/c");
    assert!(mount.join("other/c").exists());
    // And everything.
    store.bucket.put("top", "t");
    refresh("");
    assert!(mount.join("top").exists());
}

fn a_refresh_of_no_mount_fails(store: &Store) {
    let mount = store.mount().start();
    let done = mount.pailfs().arg("refresh").arg(mount.work()).output();
    assert_eq!(done.status.code(), Some(3), "{done:?}");
    assert!(done.stderr.contains("not in a mount of pailfs"), "{done:?}");
}

fn what_is_believed_for_ever_costs_nothing_again(store: &Store) {
    store
        .bucket
        .put_all((0..20).map(|i| format!("dir/f{i}")), b"data");
    let mount = store.mount().options("--metadata-ttl forever").start();
    bash(&mount.path(), "ls -lR > /dev/null; cat dir/* > /dev/null");
    store.server().counts().reset();
    bash(
        &mount.path(),
        "for i in 1 2 3; do ls -lR > /dev/null; cat dir/* > /dev/null; stat dir/f7 > /dev/null; done",
    );
    assert_eq!(
        store.server().counts().total(),
        0,
        "{:?}",
        store.server().counts().all()
    );
}

fn the_cost_is_told_upon_a_signal_and_at_the_end(store: &Store) {
    store.bucket.put_all((0..10).map(|i| format!("f{i}")), b"data");
    let mount = store
        .mount()
        .options("--request-prices put=5:get=1:list=5:received=0")
        .start();
    bash(&mount.path(), "cat f* > /dev/null");
    mount.signal(libc::SIGUSR1);
    let told = || {
        let log = fs::read_to_string(&mount.log().path).expect("a log");
        let lines = log.lines().filter(|line| line.contains("requests of this mount"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let line = poll(PATIENCE, || told().first().cloned()).expect("the log tells");
    let gets = store.server().counts().of(Operation::Get);
    assert_eq!(gets, 10);
    assert!(line.contains(&format!("get={gets} ")), "{line}");
    assert!(line.contains("cost=0.0"), "{line}");
    assert!(mount.is_mounted());
    let log = mount.log().path;
    mount.unmount();
    let log = fs::read_to_string(log).unwrap_or_default();
    // The directory may be gone with the mount.
    assert!(
        log.is_empty() || log.matches("requests of this mount").count() == 2,
        "{log}"
    );
}
