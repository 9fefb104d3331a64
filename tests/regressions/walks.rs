//! Listings ahead of a walk, over a link on which every answer takes its time.

use crate::in_process::{Mount, Options, World};
use pailfs::embedded::{Fault, Operation, When};
use std::time::Duration;

/// Each listing takes this long on the mount's own clock, which stands still meanwhile: so it counts rounds, not time.
const ROUND: Duration = Duration::from_millis(100);

fn world_of(keys: impl IntoIterator<Item = String>, round: Duration) -> World {
    let world = World::new(Options {
        metadata_ttl: Some(Duration::from_mins(10)),
        ..Options::default()
    });
    world.remote.multiply(keys);
    let slow = Fault::Delay(round);
    world
        .store
        .faults()
        .inject(When::on(Operation::List).for_ever(), slow);
    world
}

fn lists(world: &World) -> u64 {
    world.store.counts().of(Operation::List)
}

fn heads(world: &World) -> u64 {
    world.store.counts().of(Operation::Head)
}

/// What was changed less than this before it was looked at, by the store's clock, is not remembered.
fn let_it_settle() {
    std::thread::sleep(Duration::from_millis(3_100));
}

/// Reads directories one after the other; gives how many entries they had, and how many rounds that took.
fn read(mount: &Mount, directories: impl IntoIterator<Item = String>) -> (usize, u128) {
    mount.run("walk", async {
        let began = tokio::time::Instant::now();
        let mut entries = 0;
        for directory in directories {
            let listed = mount.driver.list(&directory, false).await;
            entries += listed
                .unwrap_or_else(|errno| panic!("{directory}: {errno}"))
                .len();
        }
        (entries, began.elapsed().as_millis() / ROUND.as_millis())
    })
}

fn wide(directories: usize, files: usize) -> impl Iterator<Item = String> {
    (0..directories).flat_map(move |d| (0..files).map(move |f| format!("p{d:03}/f{f:03}")))
}

fn names(directories: std::ops::Range<usize>) -> impl Iterator<Item = String> {
    directories.map(|d| format!("p{d:03}"))
}

#[test]
fn a_wide_tree_is_listed_in_ranges_beside_each_other() {
    let world = world_of(wide(500, 100), ROUND);
    let mount = world.mount();
    world.store.counts().reset();
    assert_eq!(read(&mount, [String::new()]).0, 500);
    let (entries, rounds) = read(&mount, names(0..500));
    assert_eq!(entries, 50_000);
    // Fifty pages, and one for each end of a range.
    assert!(lists(&world) <= 58, "{} listings", lists(&world));
    assert!(rounds <= 25, "{rounds} rounds");
}

#[test]
fn who_stops_early_leaves_few_listings_behind() {
    let world = world_of(wide(500, 100), ROUND);
    let mount = world.mount();
    read(&mount, [String::new()]);
    world.store.counts().reset();
    // A page has ten.
    read(&mount, names(0..21));
    mount.sleep(Duration::from_secs(5));
    // Three of them bring what was read; as much again, and a page, may lie ahead.
    assert!(lists(&world) <= 3 + 3 + 2, "{} listings", lists(&world));
}

/// The second range is there long before the first one's next page.
#[test]
fn pages_that_come_late_are_put_where_they_belong() {
    for late in 3..12 {
        let world = world_of(wide(200, 100), Duration::from_millis(1));
        let slow = Fault::Delay(Duration::from_secs(3));
        world
            .store
            .faults()
            .inject(When::on(Operation::List).nth(late), slow);
        let mount = world.mount();
        read(&mount, [String::new()]);
        let (entries, _) = read(&mount, names(0..200));
        assert_eq!(entries, 20_000, "with {late} late");
    }
}

#[test]
fn a_range_that_fails_costs_listings_and_nothing_else() {
    for failing in 3..8 {
        let world = world_of(wide(200, 100), Duration::from_millis(1));
        world.store.faults().inject(
            When::on(Operation::List).nth(failing),
            Fault::Answer("AccessDenied"),
        );
        let mount = world.mount();
        read(&mount, [String::new()]);
        let (entries, _) = read(&mount, names(0..200));
        assert_eq!(entries, 20_000, "with {failing} failing");
    }
}

/// What this mount changes while ranges are on their way is seen, also where a page was asked for before and comes later.
#[test]
fn changes_during_a_walk_are_seen_in_every_range() {
    let world = world_of(wide(300, 100), ROUND);
    let mount = world.mount();
    read(&mount, [String::new()]);
    read(&mount, names(0..41));
    let driver = &mount.driver;
    for directory in (41..300).step_by(20) {
        let of = |name: &str| format!("p{directory:03}/{name}");
        mount.run("change", async {
            driver.unlink(&of("f007")).await.expect("removed");
            driver
                .write_file(&of("new"), libc::O_CREAT, b"n")
                .await
                .expect("made");
            driver
                .write_file(&of("newer"), libc::O_CREAT, b"n")
                .await
                .expect("made");
        });
        let listed = mount.run("list", driver.list(&format!("p{directory:03}"), false));
        let listed = listed.expect("listed");
        assert_eq!(listed.len(), 101, "{directory}");
        assert!(listed.contains_key("new") && !listed.contains_key("f007"));
    }
    assert_eq!(read(&mount, names(41..300)).0, 259 * 100 + 13);
}

/// What may be symlinks has to be looked at. A few of them in each directory are not looked at one after the other.
#[test]
fn what_may_be_symlinks_is_looked_at_ahead_of_a_walk() {
    let world = world_of(wide(100, 10), Duration::from_millis(1));
    let slow = Fault::Delay(ROUND);
    world
        .store
        .faults()
        .inject(When::on(Operation::Head).for_ever(), slow);
    for d in 0..100 {
        world
            .remote
            .put_in_parts(&format!("p{d:03}/one-part"), &[b"small"]);
    }
    let_it_settle();
    let mount = world.mount();
    read(&mount, [String::new()]);
    world.store.counts().reset();
    let (entries, rounds) = read(&mount, names(0..100));
    assert_eq!(entries, 1_100);
    assert_eq!(heads(&world), 100);
    assert!(rounds <= 15, "{rounds} rounds");
    // It is remembered.
    read(&mount, names(0..100));
    assert_eq!(heads(&world), 100);
}

#[test]
fn what_may_be_symlinks_in_one_directory_is_looked_at_many_at_a_time() {
    let world = world_of([], Duration::from_millis(1));
    for i in 0..400 {
        world.remote.put_in_parts(&format!("d/{i}"), &[b"small"]);
    }
    let_it_settle();
    let slow = Fault::Delay(ROUND);
    world
        .store
        .faults()
        .inject(When::on(Operation::Head).for_ever(), slow);
    for with_attributes in [false, true] {
        let mount = world.mount();
        world.store.counts().reset();
        let (_, rounds) = mount.run("list", async {
            let began = tokio::time::Instant::now();
            let listed = mount.driver.list("d", with_attributes).await;
            let rounds = began.elapsed().as_millis() / ROUND.as_millis();
            (listed.expect("listed"), rounds)
        });
        // The name of the directory is looked at, too.
        assert!(heads(&world) <= 401, "{} looks", heads(&world));
        assert!(rounds <= 40, "{rounds} rounds");
        mount.unmount();
    }
}

#[test]
fn who_stops_walking_has_had_few_objects_looked_at() {
    let world = world_of(wide(100, 2), Duration::from_millis(1));
    for d in 0..100 {
        for i in 0..3 {
            world
                .remote
                .put_in_parts(&format!("p{d:03}/one-part-{i}"), &[b"small"]);
        }
    }
    let mount = world.mount();
    read(&mount, [String::new()]);
    world.store.counts().reset();
    read(&mount, names(0..10));
    mount.sleep(Duration::from_secs(5));
    assert!(heads(&world) <= 30 + 32, "{} looks", heads(&world));
}
