//! Walking large trees: few listings, and never many more than the walker reads. Only the embedded store counts.

use crate::support::command::bash;
use crate::support::files;
use crate::support::store::Store;
use pailfs::embedded::Operation;

crate::on_the_embedded_store!(
    finding_in_a_wide_tree,
    finding_in_a_thousand_directories,
    listing_a_wide_tree_with_attributes,
    walking_a_deep_tree,
    a_jump_into_a_tree_tells_nothing_of_what_is_above,
    reading_few_directories_lists_few,
    siblings_with_deep_trees_are_not_listed_flat_for_long,
    what_is_changed_during_a_walk_is_seen,
    a_new_directory_needs_no_listing,
    a_huge_directory_lists_in_bounded_memory,
);

const PREFIXES: usize = 100;
const OBJECTS: usize = 10_000;
/// Directories that are asked for their markers before it is clear that there are none.
const MARKERS: u64 = 3;

fn fill_wide(store: &Store) {
    store.fill(
        (0..OBJECTS).map(|i| format!("p{:03}/f{i:05}", i % PREFIXES)),
        b"x",
    );
}

fn lists(store: &Store) -> u64 {
    store.server().counts().of(Operation::List)
}

fn finding_in_a_wide_tree(store: &Store) {
    fill_wide(store);
    let mount = store.mount().start();
    store.server().counts().reset();
    let found = bash(&mount.path(), "find . -type f | wc -l");
    assert_eq!(found.trim(), OBJECTS.to_string());
    // The root, the first directory, and the rest in pages of a thousand.
    assert!(lists(store) <= 12, "{:?}", store.server().counts().all());
    assert!(
        store.server().counts().total() <= 13 + MARKERS,
        "{:?}",
        store.server().counts().all()
    );
}

fn finding_in_a_thousand_directories(store: &Store) {
    store.fill((0..100_000).map(|i| format!("p{:03}/f{i:06}", i % 1_000)), b"x");
    let mount = store.mount().start();
    store.server().counts().reset();
    let found = bash(&mount.path(), "find . -type f | wc -l");
    assert_eq!(found.trim(), "100000");
    assert!(lists(store) <= 110, "{:?}", store.server().counts().all());
}

fn listing_a_wide_tree_with_attributes(store: &Store) {
    fill_wide(store);
    let mount = store.mount().start();
    store.server().counts().reset();
    let found = bash(&mount.path(), "ls -lR | grep -c ^-");
    assert_eq!(found.trim(), OBJECTS.to_string());
    // A few objects, and markers if there are any, were looked at by the mount itself.
    assert!(
        store.server().counts().total() <= 12,
        "{:?}",
        store.server().counts().all()
    );
}

/// As source trees are: directories within directories, few files in each.
fn walking_a_deep_tree(store: &Store) {
    let keys = (0..4_000).map(|i| format!("a{}/b{}/c{}/d{}/f{i}", i % 5, i / 5 % 5, i / 25 % 4, i / 100 % 4));
    store.fill(keys, b"x");
    let mount = store.mount().start();
    store.server().counts().reset();
    let found = bash(&mount.path(), "find . -type f | wc -l");
    assert_eq!(found.trim(), "4000");
    // There are 531 directories.
    assert!(lists(store) <= 30, "{:?}", store.server().counts().all());
}

/// The flat listing goes on where the walker is, in the middle of a directory that it has not seen the beginning of.
fn a_jump_into_a_tree_tells_nothing_of_what_is_above(store: &Store) {
    let read_first = (0..900).flat_map(|i| [format!("r/b/{i}"), format!("r/c/{i}")]);
    let above = (0..5_000).map(|i| format!("r/x/f{i:04}"));
    let rest = ["r/a/1", "r/x/y/1", "r/x/z", "r/z/1"].map(str::to_owned);
    store.fill(read_first.chain(above).chain(rest), b"x");
    let mount = store.mount().start();
    bash(&mount.path(), "for d in r/a r/b r/c r/x/y; do ls $d; done");
    let listed = bash(&mount.path(), "ls -U r/x | wc -l");
    assert_eq!(listed.trim(), "5002");
    assert_eq!(bash(&mount.path(), "cat r/x/f0000"), "x");
}

fn reading_few_directories_lists_few(store: &Store) {
    fill_wide(store);
    let mount = store.mount().start();
    store.server().counts().reset();
    bash(&mount.path(), "ls p010 > /dev/null; ls p011 > /dev/null; sleep 1");
    // Looking the names up may take a listing of the root and a look; then one page each, and one ahead.
    assert!(lists(store) <= 5, "{:?}", store.server().counts().all());
}

fn siblings_with_deep_trees_are_not_listed_flat_for_long(store: &Store) {
    let below = (0..20).flat_map(|d| (0..3_000).map(move |i| format!("d{d:02}/deep/er/f{i}")));
    let beside = (0..20).map(|d| format!("d{d:02}/z"));
    store.fill(below.chain(beside), b"x");
    let mount = store.mount().start();
    store.server().counts().reset();
    let listed = bash(&mount.path(), "ls . d*");
    assert_eq!(listed.matches("deep").count(), 20);
    // One for each, and what the suspicion of a walk costs, once.
    assert!(lists(store) <= 1 + 20 + 4, "{:?}", store.server().counts().all());
}

fn what_is_changed_during_a_walk_is_seen(store: &Store) {
    fill_wide(store);
    let mount = store.mount().start();
    // The sweep has brought more directories than the two that were read.
    bash(&mount.path(), "ls > /dev/null; ls p000 p001 p002 > /dev/null");
    files::write(&mount.join("p005/new"), b"data").expect("written");
    bash(&mount.path(), "rm p006/f00006 && mv p007/f00007 p008/moved");
    let listed = bash(
        &mount.path(),
        "ls p005 | grep -cx new; ls p006 | wc -l; ls p007 | wc -l; ls p008 | wc -l",
    );
    assert_eq!(
        listed.split_whitespace().collect::<Vec<_>>(),
        ["1", "99", "99", "101"]
    );
}

fn a_new_directory_needs_no_listing(store: &Store) {
    let mount = store.mount().start();
    bash(&mount.path(), "mkdir first");
    store.server().counts().reset();
    bash(
        &mount.path(),
        "mkdir new && ls -la new && touch new/file && ls -l new && mkdir new/below && find new",
    );
    // The root was not listed before.
    assert!(lists(store) <= 2, "{:?}", store.server().counts().all());
}

fn a_huge_directory_lists_in_bounded_memory(store: &Store) {
    let objects: u64 = if std::env::var_os("PAILFS_TEST_LONG").is_some() {
        1_000_000
    } else {
        100_000
    };
    store.fill((0..objects).map(|i| format!("huge/f{i:07}")), b"x");
    let mount = store.mount().start();
    bash(&mount.path(), "ls > /dev/null; stat huge > /dev/null");
    let before_kib = mount.peak_memory_kib();
    store.server().counts().reset();
    // The first entries come with the first page; the one after it is on its way already.
    let mut entries = std::fs::read_dir(mount.join("huge")).expect("opened");
    entries.next().expect("an entry").expect("readable");
    assert!(lists(store) <= 2, "{:?}", store.server().counts().all());
    drop(entries);
    store.server().counts().reset();
    let found = bash(&mount.path(), "find huge -type f | wc -l");
    assert_eq!(found.trim(), objects.to_string());
    // Several at once, which show a little twice, and some behind the end.
    let pages = objects / 1_000;
    let most = pages + pages / 8 + 10;
    assert!(lists(store) <= most, "{:?}", store.server().counts().all());
    let grown_kib = mount.peak_memory_kib() - before_kib;
    assert!(grown_kib < 64 << 10, "{grown_kib} KiB more than before");
    let peak_kib = mount.peak_memory_kib();
    assert!(peak_kib < 150 << 10, "{peak_kib} KiB in all");
}
