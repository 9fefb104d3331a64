//! When objects are asked what they carry, where listings do not tell: seldom, never twice, and many at a time.

use crate::support::command::{Tool, bash};
use crate::support::files;
use crate::support::mount::{Mount, Place};
use crate::support::store::Store;
use pailfs::embedded::{Fault, Operation, Quirks, When};
use std::sync::Arc;
use std::time::Duration;

crate::on_the_embedded_store!(
    a_second_listing_asks_nothing_after_a_remount_too,
    two_mounts_of_one_machine_share_what_they_know,
    objects_of_other_tools_are_not_asked,
    where_listings_do_not_tell_many_are_asked_at_a_time,
    finding_asks_nothing_and_finds_every_symlink,
    attributes_of_other_tools_are_found_by_a_sample,
);

const FILES: usize = 150;

fn heads(store: &Store) -> u64 {
    store.server().counts().of(Operation::Head)
}

fn list(mount: &Mount) -> String {
    bash(&mount.path(), "ls -lR --time-style=full-iso")
}

/// Files of different modes, in directories that have attributes too, and symlinks.
fn make_tree(mount: &Mount) {
    let script = format!(
        "umask 022; for d in a b c/d; do mkdir -p $d; chmod 750 $d; for i in $(seq {}); do echo $i > $d/f$i; chmod 6$((i % 8))4 $d/f$i; done; ln -s nowhere $d/link; done",
        FILES / 3
    );
    bash(&mount.path(), &script);
}

/// What was changed less than this before it was looked at may change again without a trace.
fn let_it_settle() {
    std::thread::sleep(Duration::from_millis(3_100));
}

fn a_second_listing_asks_nothing_after_a_remount_too(store: &Store) {
    let place = Place::new();
    let mount = |options: &str| store.mount().at(&place).options(options).start();
    let first = mount("--metadata-ttl 3s");
    make_tree(&first);
    first.unmount();
    let_it_settle();

    let second = mount("--metadata-ttl 3s");
    let before = list(&second);
    std::thread::sleep(Duration::from_millis(3_200));
    store.server().counts().reset();
    assert_eq!(list(&second), before);
    assert_eq!(heads(store), 0, "{:?}", store.server().counts().all());
    second.unmount();

    let third = mount("--metadata-ttl 10s");
    store.server().counts().reset();
    assert_eq!(list(&third), before);
    assert_eq!(heads(store), 0, "{:?}", store.server().counts().all());
    // What has changed since is asked, and nothing else.
    bash(&third.path(), "chmod 600 a/f7; sync a/f7");
    third.unmount();
    let_it_settle();
    let fourth = mount("--metadata-ttl 10s");
    store.server().counts().reset();
    bash(
        &fourth.path(),
        "ls -lR > /dev/null; stat -c %a a/f7 | grep -qx 600",
    );
    assert!(heads(store) <= 1, "{:?}", store.server().counts().all());
}

fn two_mounts_of_one_machine_share_what_they_know(store: &Store) {
    let (one, two) = (Place::new(), Place::new());
    let writer = store.mount().at(&one).start();
    make_tree(&writer);
    writer.unmount();
    let_it_settle();
    let mount = |place: &Arc<Place>| store.mount().at(place).cache_of(&one).start();
    let first = mount(&one);
    let second = mount(&two);
    let shown = list(&first);
    assert_eq!(list(&second), shown);
    first.unmount();
    second.unmount();
    // Whichever mounts next, and also after one was killed.
    for place in [&two, &one, &two] {
        let mut next = mount(place);
        store.server().counts().reset();
        assert_eq!(list(&next), shown);
        assert_eq!(heads(store), 0, "{:?}", store.server().counts().all());
        next.kill();
    }
}

fn objects_of_other_tools_are_not_asked(store: &Store) {
    store.fill((0..3_000).map(|i| format!("d{}/f{i}", i % 30)), b"x");
    let mount = store.mount().start();
    store.server().counts().reset();
    let shown = bash(&mount.path(), "ls -lR | grep -c ^-; find . -type f | wc -l");
    assert_eq!(shown, "3000\n3000\n");
    assert_eq!(heads(store), 0, "{:?}", store.server().counts().all());
}

fn where_listings_do_not_tell_many_are_asked_at_a_time(store: &Store) {
    let quirks = Quirks {
        no_checksum_algorithms_in_listings: true,
        ..Quirks::default()
    };
    store.server().set_quirks(quirks);
    store.fill((0..2_000).map(|i| format!("d{}/f{i:04}", i % 4)), b"x");
    let mount = store.mount().options("--metadata-ttl 1h").start();
    store.server().counts().reset();
    let shown = bash(&mount.path(), "ls -lR | grep -c ^-");
    assert_eq!(shown, "2000\n");
    assert!(
        heads(store) <= 2_000 + 8,
        "asked twice: {:?}",
        store.server().counts().all()
    );
    store.server().counts().reset();
    bash(&mount.path(), "ls -lR > /dev/null; find . -size +100 | wc -l");
    assert_eq!(heads(store), 0, "{:?}", store.server().counts().all());
    mount.unmount();

    for parallelism in [32, 7] {
        let options = format!("--head-parallelism {parallelism}");
        let mut mount = store.mount().options(&options).start();
        // None is answered: all that came are on their way together.
        let unanswered = store.server().faults().inject(
            When::on(Operation::Head)
                .key_where(|key| key.starts_with("d0/f"))
                .for_ever(),
            Fault::Stall,
        );
        store.server().counts().reset();
        let mut listing = Tool::new("ls").arg("-l").arg(mount.join("d0")).start();
        crate::support::wait_until("many are on their way", || heads(store) >= parallelism);
        assert!(heads(store) <= parallelism + 2, "{}", heads(store));
        mount.kill();
        listing.kill();
        store.server().faults().remove(unanswered);
    }
}

fn finding_asks_nothing_and_finds_every_symlink(store: &Store) {
    let place = Place::new();
    let mount = store.mount().at(&place).start();
    make_tree(&mount);
    files::write(&mount.join("large"), &[0; 10_000]).expect("written");
    mount.unmount();
    let_it_settle();
    let again = store.mount().at(&place).start();
    let counts = store.server().counts().clone();
    counts.reset();
    counts.set_logging(true);
    // Programs want to know the directories that they go into.
    let asked = || {
        let heads = counts
            .log()
            .into_iter()
            .filter(|(operation, _)| *operation == Operation::Head);
        let keys = heads.map(|(_, key)| key);
        keys.filter(|key| !key.ends_with('/')).collect::<Vec<_>>()
    };
    let script =
        "ls -R > /dev/null; python3 -c 'import os; print(sum(len(f) for _, _, f in os.walk(\".\")))'";
    let counted = bash(&again.path(), script);
    assert_eq!(counted.trim(), (FILES + 4).to_string());
    // Only what may be a symlink is asked what it is, once.
    let links = asked();
    assert!(links.iter().all(|key| key.ends_with("/link")), "{links:?}");
    assert_eq!(links.len(), 3, "{links:?}");
    let find = |kind| Tool::new("find").arg(again.path()).args(["-type", kind]).run();
    assert_eq!(find("f").lines().count(), FILES + 1);
    assert_eq!(find("l").lines().count(), 3);
    assert_eq!(asked(), links);
}

fn attributes_of_other_tools_are_found_by_a_sample(store: &Store) {
    for i in 0..20 {
        let key = format!("f{i:02}");
        store.bucket.put_with_metadata(
            &key,
            b"x",
            &[("mode", "33216"), ("uid", "12"), ("mtime", "981173106")],
        );
    }
    let place = Place::new();
    let mount = store.mount().at(&place).start();
    let shown = bash(&mount.path(), "stat -c '%a %u %Y' * | sort -u");
    assert_eq!(shown, "700 12 981173106\n");
    mount.unmount();
    // It is remembered that there are such.
    let again = store.mount().at(&place).start();
    let shown = bash(&again.path(), "stat -c '%a %u %Y' * | sort -u");
    assert_eq!(shown, "700 12 981173106\n");
}
