//! What reading directories leaves behind, and opens that meet answers which cannot be.

use super::{bytes_of, open, world_with};
use crate::in_process::{Mount, Options, World};
use pailfs::embedded::{Fault, Operation, Quirks, When};
use pailfs::tree::node::{Kind, ROOT};
use std::time::Duration;

#[test]
fn entries_that_were_prepared_and_not_sent_leave_no_inodes() {
    const FILES: usize = 300;
    // What the kernel's first buffer takes.
    const TAKEN: usize = 25;
    let world = World::new(Options::default());
    for n in 0..FILES {
        world.remote.put(&format!("{n:03}"), b"");
    }
    let mount = world.mount();
    let (fs, tree) = (&mount.fs, mount.fs.tree());
    let before = tree.inode_count();
    let handle = fs.open_directory(ROOT).expect("opened");
    let (mut offset, mut names) = (0, Vec::new());
    for round in 0.. {
        let entries = mount.run("readdirplus", fs.read_directory(handle, offset, true));
        let entries = entries.expect("read");
        let sent = entries.len().min(TAKEN);
        let most = if round == 0 { 32 } else { TAKEN * 9 / 8 + 1 };
        assert!(entries.len() <= most, "{} prepared for {sent}", entries.len());
        fs.sent_entries(handle, &entries, sent);
        let Some(last) = entries[..sent].last() else { break };
        offset = last.next_offset;
        names.extend(entries[..sent].iter().map(|entry| entry.name.clone()));
        let known = entries[..sent].iter().filter(|entry| entry.attr.is_some());
        assert_eq!(
            tree.inode_count(),
            before + known.clone().count(),
            "round {round}"
        );
        // The kernel forgets them at once.
        known.for_each(|entry| tree.forget(entry.ino, 1));
    }
    fs.release_directory(ROOT, handle);
    assert_eq!(names.len(), FILES + 2);
    assert_eq!(tree.inode_count(), before);
}

#[test]
fn a_reader_that_takes_everything_gets_more_the_next_time() {
    let world = World::new(Options::default());
    for n in 0..900 {
        world.remote.put(&format!("{n:03}"), b"");
    }
    let mount = world.mount();
    let handle = mount.fs.open_directory(ROOT).expect("opened");
    let (mut offset, mut answers) = (0, 0);
    loop {
        let entries = mount.run("readdir", mount.fs.read_directory(handle, offset, false));
        let entries = entries.expect("read");
        mount.fs.sent_entries(handle, &entries, entries.len());
        let Some(last) = entries.last() else { break };
        offset = last.next_offset;
        answers += 1;
    }
    assert!(answers <= 5, "{answers}");
}

#[test]
fn an_answer_of_another_length_is_asked_for_again() {
    let (world, mount) = world_with("f", b"all of the bytes");
    mount.run("list", mount.driver.list("", true)).expect("listed");
    let shortened = Fault::ShortenBody { to_bytes: 5 };
    world
        .store
        .faults()
        .inject(When::on(Operation::Get), shortened.clone());
    let read = mount.run("read", mount.driver.read_file("f"));
    assert_eq!(read.as_deref(), Ok(&b"all of the bytes"[..]));
    mount.sleep(Duration::from_secs(60));
    world
        .store
        .faults()
        .inject(When::on(Operation::Get).for_ever(), shortened);
    let read = mount.run("read", mount.driver.read_file("f"));
    assert_eq!(read, Err(libc::EIO), "{}", mount.driver.last_error.borrow());
    world.store.faults().clear();
    assert_eq!(bytes_of(&world, "f").expect("there"), b"all of the bytes");
    let read = mount.run("read", mount.driver.read_file("f"));
    assert_eq!(read.as_deref(), Ok(&b"all of the bytes"[..]));
}

/// A listing that is worthless, as this mount changed the directory meanwhile, leaves an older one behind.
#[test]
fn an_old_listing_does_not_answer_for_one_that_was_not_kept() {
    let (world, mount) = world_with("d/old", b"x");
    let driver = &mount.driver;
    mount.run("list", driver.list("d", true)).expect("listed");
    let mine = open(&mount, "d/mine", libc::O_CREAT | libc::O_WRONLY);
    mount
        .run("write", driver.write(&mine, 0, b"mine"))
        .expect("written");
    world.remote.put("d/new", b"theirs");
    mount.sleep(Duration::from_secs(60));
    // The second name that is asked for makes the directory be listed.
    let nothing = mount.run("stat", driver.stat("d/nothing"));
    assert_eq!(nothing.map(|stat| stat.size_bytes), Err(libc::ENOENT));
    let slowly = Fault::Delay(Duration::from_secs(5));
    world
        .store
        .faults()
        .inject(When::on(Operation::List).for_ever(), slowly);
    let closing = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        driver.close(mine).await
    };
    let (stat, closed) = mount.run("stat", async { tokio::join!(driver.stat("d/new"), closing) });
    closed.expect("closed");
    assert_eq!(stat.map(|stat| stat.size_bytes), Ok(6));
}

/// What may be a symlink is looked at. Where that is refused it is shown as what the listing says, and all others are too.
#[test]
fn an_object_that_may_not_be_looked_at_is_listed_as_a_file() {
    let world = World::new(Options::default());
    for key in ["d/a", "d/refused", "d/z"] {
        world.remote.put_in_parts(key, &[b"small"]);
    }
    for refusal in ["AccessDenied", "InvalidRequest"] {
        let refused = When::on(Operation::Head).key("d/refused").for_ever();
        let fault = world.store.faults().inject(refused, Fault::Answer(refusal));
        for with_attributes in [false, true] {
            let mount = world.mount();
            let driver = &mount.driver;
            let listed = mount.run("list", driver.list("d", with_attributes));
            let listed = listed.expect("listed");
            assert_eq!(listed.keys().collect::<Vec<_>>(), ["a", "refused", "z"]);
            assert!(listed.values().all(|kind| *kind == Kind::File));
            let stat = mount
                .run("stat", driver.stat("d/refused"))
                .expect("as it is listed");
            assert_eq!((stat.kind, stat.size_bytes), (Kind::File, 5));
            let read = mount.run("read", driver.read_file("d/a"));
            assert_eq!(read.as_deref(), Ok(&b"small"[..]));
            // What the bucket refuses it refuses.
            let changed = mount.run("truncate", driver.truncate("d/refused", 1));
            assert!(changed.is_err());
            mount.crash();
        }
        world.store.faults().remove(fault);
    }
    // A store that does not answer is no refusal.
    let broken = When::on(Operation::Head).key("d/refused").for_ever();
    world
        .store
        .faults()
        .inject(broken, Fault::Answer("InternalError"));
    let mount = world.mount();
    let listed = mount.run("list", mount.driver.list("d", false));
    assert_eq!(listed.expect_err("nobody knows what it is"), libc::EIO);
}

/// A bucket of so many objects, mounted, whose listings take a second each.
fn large(objects: usize, name: impl Fn(usize) -> String) -> (World, Mount) {
    let world = World::new(Options::default());
    world.remote.multiply((0..objects).map(name));
    let mount = world.mount();
    let slow = Fault::DelayReply(Duration::from_secs(1));
    world
        .store
        .faults()
        .inject(When::on(Operation::List).for_ever(), slow);
    world.store.counts().reset();
    (world, mount)
}

/// A handle on the root, and what was read through it.
struct Reader<'a> {
    mount: &'a Mount,
    handle: u64,
    offset: u64,
    names: Vec<String>,
}

impl<'a> Reader<'a> {
    fn new(mount: &'a Mount) -> Self {
        Self {
            mount,
            handle: mount.fs.open_directory(ROOT).expect("opened"),
            offset: 0,
            names: Vec::new(),
        }
    }

    /// Reads until so many names were read, or to the end.
    fn read(&mut self, until: usize) -> pailfs::base::error::Result<()> {
        while self.names.len() < until {
            let fs = &self.mount.fs;
            let entries = self
                .mount
                .run("readdir", fs.read_directory(self.handle, self.offset, false))?;
            fs.sent_entries(self.handle, &entries, entries.len());
            let Some(last) = entries.last() else { break };
            self.offset = last.next_offset;
            let names = entries.into_iter().map(|entry| entry.name);
            self.names
                .extend(names.filter(|name| name != "." && name != ".."));
        }
        Ok(())
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        self.mount.fs.release_directory(ROOT, self.handle);
    }
}

fn lists(world: &World) -> u64 {
    world.store.counts().of(Operation::List)
}

/// In seconds of the mount's own clock, which goes on by what the store waits for.
fn waited_s(mount: &Mount, read: impl FnOnce()) -> u64 {
    let now = || mount.run("looking at the clock", async { tokio::time::Instant::now() });
    let before = now();
    read();
    (now() - before).as_secs()
}

#[test]
fn a_large_directory_is_listed_at_several_places_at_once() {
    const OBJECTS: usize = 60_000;
    let (world, mount) = large(OBJECTS, |n| format!("{n:06}.dat"));
    let mut reader = Reader::new(&mount);
    let seconds = waited_s(&mount, || reader.read(usize::MAX).expect("read"));
    let expected: Vec<String> = (0..OBJECTS).map(|n| format!("{n:06}.dat")).collect();
    assert!(reader.names == expected);
    // One after the other takes a second for each of 60 pages.
    assert!(seconds <= 20, "{seconds}");
    assert!(lists(&world) <= 60 + 10, "{}", lists(&world));
}

#[test]
fn objects_and_directories_of_a_large_directory_come_in_order_once() {
    const DIRECTORIES: usize = 9_000;
    let key = |n: usize| match n % 3 {
        0 => format!("{:05}", n / 3),
        1 => format!("{:05}!", n / 3),
        _ => format!("{:05}/x", n / 3),
    };
    let (world, mount) = large(3 * DIRECTORIES, key);
    let mut reader = Reader::new(&mount);
    let seconds = waited_s(&mount, || reader.read(usize::MAX).expect("read"));
    let mut names = std::mem::take(&mut reader.names);
    names.sort_unstable();
    let shown = |n: usize| [format!("{n:05}"), format!("{n:05}!"), format!("~%{n:05}")];
    let mut expected: Vec<String> = (0..DIRECTORIES).flat_map(shown).collect();
    expected.sort_unstable();
    assert!(names == expected, "{} of {}", names.len(), expected.len());
    assert!(seconds <= 15, "{seconds}");
    assert!(lists(&world) <= 27 + 8, "{}", lists(&world));
}

#[test]
fn a_directory_of_a_few_pages_costs_what_it_has_pages() {
    let (world, mount) = large(3_000, |n| format!("{n:04}"));
    let mut reader = Reader::new(&mount);
    reader.read(10).expect("read");
    assert!(lists(&world) <= 2, "{}", lists(&world));
    reader.read(usize::MAX).expect("read");
    assert_eq!((reader.names.len(), lists(&world)), (3_000, 3));
}

#[test]
fn a_large_directory_of_a_store_in_no_order_is_listed_page_after_page() {
    let (world, mount) = large(12_500, |n| format!("{n:05}"));
    world.store.set_quirks(Quirks {
        unordered_listings: true,
        ..Quirks::default()
    });
    let mut reader = Reader::new(&mount);
    reader.read(usize::MAX).expect("read");
    let mut names = std::mem::take(&mut reader.names);
    names.sort_unstable();
    assert!(names.is_sorted_by(|one, next| one < next));
    assert_eq!((names.len(), lists(&world)), (12_500, 13));
}

/// The listing goes on where it was, and begins nowhere else.
#[test]
fn a_directory_is_read_on_after_an_error() {
    let (world, mount) = large(20_500, |n| format!("{n:05}"));
    let mut reader = Reader::new(&mount);
    for page in [1, 3, 9] {
        reader.read(1_000 * page).expect("read");
        let refusal = Fault::Answer("AccessDenied");
        let fault = world
            .store
            .faults()
            .inject(When::on(Operation::List).for_ever(), refusal);
        let refused = reader.read(usize::MAX).expect_err("refused");
        assert_eq!(refused.errno(), libc::EACCES);
        world.store.faults().remove(fault);
    }
    reader.read(usize::MAX).expect("read");
    let expected: Vec<String> = (0..20_500).map(|n| format!("{n:05}")).collect();
    assert!(reader.names == expected, "{} names", reader.names.len());
}

/// Pages that came before the change would show what is not there any more.
#[test]
fn what_was_removed_while_a_large_directory_is_read_is_not_shown() {
    let (world, mount) = large(30_000, |n| format!("{n:05}"));
    let mut reader = Reader::new(&mount);
    reader.read(20_000).expect("read");
    let next = reader.names.len();
    let gone = format!("{:05}", next + 3_500);
    mount.run("unlink", mount.driver.unlink(&gone)).expect("unlinked");
    reader.read(usize::MAX).expect("read");
    let expected: Vec<String> = (0..30_000).map(|n| format!("{n:05}")).collect();
    let expected: Vec<&String> = expected.iter().filter(|name| **name != gone).collect();
    assert!(reader.names.iter().eq(expected), "{} names", reader.names.len());
    assert!(lists(&world) <= 30 + 12, "{}", lists(&world));
}

#[test]
fn what_is_on_its_way_is_given_up_with_the_handle() {
    let (world, mount) = large(30_000, |n| format!("{n:05}"));
    let mut reader = Reader::new(&mount);
    reader.read(20_000).expect("read");
    let silent = When::on(Operation::List).for_ever();
    world.store.faults().inject(silent, Fault::Stall);
    // Several more are asked for, and none comes.
    let patience = Duration::from_secs(20);
    let more = async {
        let mut offset = reader.offset;
        loop {
            let entries = mount.fs.read_directory(reader.handle, offset, false).await;
            offset = entries.expect("read").last().expect("more").next_offset;
        }
    };
    assert!(mount.run_for("readdir", patience, more).is_none());
    drop(reader);
    world.store.counts().reset();
    // Who still waited would ask again.
    mount.sleep(Duration::from_mins(5));
    assert_eq!(lists(&world), 0);
}

#[test]
fn a_listing_that_is_known_is_read_in_several_parts_and_as_it_was() {
    const FILES: usize = 2_500;
    let world = World::new(Options::default());
    for n in 0..FILES {
        world.remote.put(&format!("{n:04}"), b"");
    }
    let mount = world.mount();
    let list = || mount.run("list", mount.driver.list("", false)).expect("listed");
    assert_eq!(list().len(), FILES);
    world.store.counts().reset();
    assert_eq!(list().len(), FILES);
    // Who reads it now and then is not confused by what comes and goes in the parts that were read.
    let handle = mount.fs.open_directory(ROOT).expect("opened");
    let (mut offset, mut names) = (0, Vec::new());
    loop {
        let entries = mount.run("readdir", mount.fs.read_directory(handle, offset, false));
        let entries = entries.expect("read");
        mount.fs.sent_entries(handle, &entries, entries.len());
        let Some(last) = entries.last() else { break };
        offset = last.next_offset;
        names.extend(entries.into_iter().map(|entry| entry.name));
        let gone = format!("{:04}", names.len() / 2);
        // Some are gone already.
        let _ = mount.run("unlink", mount.driver.unlink(&gone));
    }
    mount.fs.release_directory(ROOT, handle);
    names.retain(|name| name.len() == 4);
    assert!(names.is_sorted());
    assert_eq!(names.len(), FILES);
    assert_eq!(world.store.counts().of(Operation::List), 0);
}
