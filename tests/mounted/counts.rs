//! What common work costs in requests. Only the embedded store counts.

use crate::support::command::{Tool, bash, has_program, script_tool};
use crate::support::files;
use crate::support::mount::Place;
use crate::support::store::Store;
use crate::support::{PATIENCE, poll};
use pailfs::embedded::Operation;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

crate::on_the_embedded_store!(
    copying_many_files_in,
    reading_many_files,
    listing_a_tree,
    writing_a_file_is_one_request,
    nothing_is_asked_twice_in_a_short_time,
    the_next_mount_does_not_probe_again,
    what_was_written_is_read_with_one_request,
    what_was_rewritten_is_read_with_one_request,
    what_an_earlier_mount_wrote_is_read_with_one_request_each,
    cloning_a_repository,
);

const DIRECTORIES: usize = 20;
const FILES: usize = 2_000;
/// Requests besides those that the work is made of.
const OTHERS: u64 = 25;

fn others(store: &Store, expected: &[Operation]) -> u64 {
    let counts = store.server().counts();
    counts.total()
        - expected
            .iter()
            .map(|operation| counts.of(*operation))
            .sum::<u64>()
}

fn copying_many_files_in(store: &Store) {
    let mount = store.mount().start();
    let script = format!(
        "for d in $(seq {DIRECTORIES}); do mkdir -p tree/d$d; for f in $(seq {}); do echo $d $f > tree/d$d/f$f; done; done",
        FILES / DIRECTORIES
    );
    bash(&mount.work(), &script);
    let counts = store.server().counts().clone();
    counts.reset();
    Tool::new("cp")
        .arg("-r")
        .arg(mount.work().join("tree"))
        .arg(mount.path())
        .run();
    let after_the_copy = counts.all();
    mount.unmount();
    // One more directory holds the twenty.
    let markers = DIRECTORIES as u64 + 1;
    let others = counts.total() - FILES as u64 - markers;
    assert!(
        others <= OTHERS,
        "{others}: {after_the_copy:?} after the copy, {:?} at the end",
        counts.all()
    );
    assert_eq!(store.bucket.keys("tree/").len(), FILES + markers as usize);
}

fn reading_many_files(store: &Store) {
    let key = |i: usize| format!("tree/d{}/f{i}", i % DIRECTORIES);
    store.bucket.put_all((0..FILES).map(key), &[b'x'; 4096]);
    // What has to be looked at again after a time is no matter of this test, which may take longer than that.
    let mount = store.mount().options("--metadata-ttl 1h").start();
    bash(&mount.path(), "ls -R > /dev/null");
    let counts = store.server().counts().clone();
    counts.reset();
    bash(
        &mount.path(),
        "find . -type f | while read -r file; do cat \"$file\"; done | wc -c | grep -qx 8192000",
    );
    let gets = counts.of(Operation::Get);
    assert!(gets <= FILES as u64, "{:?}", counts.all());
    let others = others(store, &[Operation::Get]);
    assert!(others <= OTHERS, "{others}: {:?}", counts.all());
}

fn listing_a_tree(store: &Store) {
    let sizes = [2_500, 1_000, 999, 1, 40];
    for (directory, size) in sizes.into_iter().enumerate() {
        store
            .bucket
            .put_all((0..size).map(|i| format!("d{directory}/f{i}")), b"x");
    }
    let mount = store.mount().options("--attributes listing").start();
    let counts = store.server().counts().clone();
    counts.reset();
    let listed = bash(&mount.path(), "ls -lR | grep -c ^-");
    assert_eq!(listed.trim(), sizes.iter().sum::<usize>().to_string());
    let pages: u64 = sizes.iter().map(|size| size.div_ceil(1_000) as u64).sum();
    let of_the_root = 1;
    let lists = counts.of(Operation::List);
    assert!(
        lists <= pages + of_the_root,
        "{lists} for {pages} pages: {:?}",
        counts.all()
    );
    let others = others(store, &[Operation::List]);
    assert!(others <= 3, "{:?}", counts.all());
}

fn writing_a_file_is_one_request(store: &Store) {
    let mount = store.mount().start();
    // The first may find out what the store can do.
    files::write(&mount.join("first"), b"data").expect("written");
    let counts = store.server().counts().clone();
    counts.reset();
    // Not by a shell, whose redirection closes the file once before it is written.
    files::write(&mount.join("file"), b"data").expect("written");
    assert_eq!(counts.of(Operation::Put), 1, "{:?}", counts.all());
    assert!(counts.total() <= 3, "{:?}", counts.all());
    counts.reset();
    // The mount wrote it and knows it; nobody reads or checks it again for this.
    bash(&mount.path(), "ls -l > /dev/null; stat file > /dev/null");
    assert!(counts.total() <= 2, "{:?}", counts.all());
}

fn nothing_is_asked_twice_in_a_short_time(store: &Store) {
    store.bucket.put_all((0..50).map(|i| format!("dir/f{i}")), b"x");
    let mount = store.mount().options("--metadata-ttl 600s").start();
    bash(&mount.path(), "ls -lR > /dev/null");
    let counts = store.server().counts().clone();
    counts.reset();
    bash(
        &mount.path(),
        "for i in 1 2 3; do ls -lR > /dev/null; find . -name 'f*' > /dev/null; stat dir/f7 > /dev/null; done",
    );
    assert_eq!(counts.total(), 0, "{:?}", counts.all());
}

fn the_next_mount_does_not_probe_again(store: &Store) {
    let place = Place::new();
    let counts = store.server().counts().clone();
    let requests_of_first_write = |options: &[&str], name: &str| {
        let builder = store.mount().at(&place);
        let mount = options
            .iter()
            .fold(builder, |builder, words| builder.options(words))
            .start();
        counts.reset();
        files::write(&mount.join(name), b"data").expect("written");
        let requests = counts.total();
        mount.unmount();
        requests
    };
    assert!(
        requests_of_first_write(&[], "first") > 3,
        "this store is not known"
    );
    assert!(requests_of_first_write(&[], "second") <= 3, "{:?}", counts.all());
    // What the user says is not mistaken for something that was found out.
    requests_of_first_write(&["--capability put-if-none-match=ignored"], "third");
    assert!(requests_of_first_write(&[], "fourth") <= 3, "{:?}", counts.all());
    for (said, by) in [
        ("this store: put-if-none-match=ignored", "the third"),
        (
            "remembered of this store: put-if-none-match=honoured",
            "the others",
        ),
    ] {
        assert!(place.log().says(said), "{by}: {}", place.log().tail());
    }
}

fn what_was_written_is_read_with_one_request(store: &Store) {
    let mount = store.mount().options("--metadata-ttl 1h").start();
    let counts = store.server().counts().clone();
    let read_after = |name: &str, content: &[u8]| {
        counts.reset();
        assert!(std::fs::read(mount.join(name)).expect("read") == content);
        counts.all()
    };
    // The kernel keeps whole pages of what is written, and no others.
    for (name, bytes) in [("short", 100), ("longer", 9_000)] {
        let content = vec![b'c'; bytes];
        // The kernel says that a file was closed some time after it was: one that is still open is looked at first.
        let mut names = (0..).map(|number| format!("{name}{number}"));
        let read_with_one = poll(PATIENCE, || {
            let name = names.next()?;
            files::write(&mount.join(&name), &content).expect("written");
            let counts = read_after(&name, &content);
            let allowed = [Operation::Get, Operation::Head];
            assert!(
                counts
                    .iter()
                    .all(|(operation, count)| allowed.contains(operation) && *count == 1),
                "{name}: {counts:?}"
            );
            (counts == [(Operation::Get, 1)].into()).then_some(name)
        })
        .unwrap_or_else(|| panic!("{name}: looked at each time"));
        // Now it has them all, and the object is looked at only, unless the kernel needed the memory.
        let seen_again = poll(PATIENCE, || {
            (read_after(&read_with_one, &content) == [(Operation::Head, 1)].into()).then_some(())
        });
        assert!(seen_again.is_some(), "{name}");
    }
}

fn what_was_rewritten_is_read_with_one_request(store: &Store) {
    let mount = store.mount().options("--metadata-ttl 1h").start();
    let counts = store.server().counts().clone();
    let (before, after) = (vec![b'b'; 100], vec![b'a'; 100]);
    for way in ["by open", "later"] {
        let rewrite = |path: &Path| {
            if way == "by open" {
                return files::write(path, &after);
            }
            let mut file = std::fs::File::options().write(true).open(path)?;
            file.set_len(0)?;
            file.write_all(&after)
        };
        let mut names = (0..).map(|number| format!("{way}{number}"));
        // As above, one may be still open.
        let read_with_one = poll(PATIENCE, || {
            let path = mount.join(names.next()?);
            files::write(&path, &before).expect("written");
            assert!(std::fs::read(&path).expect("read") == before);
            rewrite(&path).expect("rewritten");
            counts.reset();
            assert!(std::fs::read(&path).expect("read") == after);
            (counts.all() == [(Operation::Get, 1)].into()).then_some(())
        });
        assert!(read_with_one.is_some(), "emptied {way}: {:?}", counts.all());
    }
}

/// Listings show that these objects carry attributes, but not which.
fn what_an_earlier_mount_wrote_is_read_with_one_request_each(store: &Store) {
    const FILES: u64 = 300;
    const DIRECTORIES: u64 = 6;
    let writer = store.mount().start();
    let script = format!(
        "umask 027; for d in $(seq {DIRECTORIES}); do mkdir d$d; for f in $(seq {}); do echo $d $f > d$d/f$f; done; done",
        FILES / DIRECTORIES
    );
    bash(&writer.path(), &script);
    writer.unmount();
    let counts = store.server().counts().clone();
    // Each time a mount that remembers nothing.
    let counted = |script: &str| {
        let mount = store.mount().options("--metadata-ttl 1h").start();
        counts.reset();
        let printed = bash(&mount.path(), script);
        (printed, counts.of(Operation::Get), counts.of(Operation::Head))
    };
    let readers = [
        "find . -type f | while read -r file; do cat \"$file\"; done | wc -l",
        "grep -r . . | wc -l",
        "find . -type f | xargs -n 10 -P 8 cat | wc -l",
    ];
    for script in readers {
        let (printed, gets, heads) = counted(script);
        assert_eq!(printed.trim(), FILES.to_string(), "{script}");
        assert_eq!(gets, FILES, "{script}: {:?}", counts.all());
        // Markers of directories.
        assert!(heads <= DIRECTORIES + 1, "{script}: {:?}", counts.all());
    }
    // Whoever wants to know what they carry is told, by one request each.
    let (printed, gets, heads) = counted("stat -c %a d*/f* | sort | uniq -c");
    assert_eq!(printed.split_whitespace().collect::<Vec<_>>(), ["300", "640"]);
    assert!(
        gets == 0 && heads <= FILES + DIRECTORIES + 1,
        "{:?}",
        counts.all()
    );
    let (printed, ..) = counted("cat d1/f1 > /dev/null; stat -c %a d1/f1");
    assert_eq!(printed, "640\n");
}

/// git copies objects file by file, sets their times, and reads each twice when it checks out: nothing else is to be asked.
fn cloning_a_repository(store: &Store) {
    const FILES: usize = 200;
    if !has_program("git") {
        return;
    }
    let mount = store.mount().options("--metadata-ttl 1h").start();
    let git = |directory: &Path, script: &str| {
        script_tool(directory, script)
            .env("HOME", mount.work())
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .run()
    };
    let per_directory = FILES / 4;
    git(
        &mount.work(),
        &format!(
            r"
            git init -q repository && cd repository && mkdir a b c d
            for d in a b c d; do for i in $(seq {per_directory}); do head -c 4000 /dev/urandom > $d/f$i; done; done
            git add . && git -c user.name=A -c user.email=a@example.org commit -q -m files
            "
        ),
    );
    let counts = store.server().counts().clone();
    counts.reset();
    counts.set_logging(true);
    let clone = format!("git clone -q {}/repository clone", mount.work().display());
    git(&mount.path(), &clone);
    mount.unmount();
    let mut asked: BTreeMap<String, BTreeMap<Operation, u64>> = BTreeMap::new();
    for (operation, key) in counts.log() {
        *asked.entry(key).or_default().entry(operation).or_default() += 1;
    }
    // Blobs, trees, the commit.
    let is_object = |key: &str| key.starts_with("clone/.git/objects/") && !key.ends_with('/');
    let objects = asked.iter().filter(|(key, _)| is_object(key));
    let (mut number, mut looks) = (0, 0);
    for (key, asked) in objects {
        let of = |operation| asked.get(&operation).copied().unwrap_or(0);
        number += 1;
        looks += of(Operation::Get) + of(Operation::Head);
        let changes = asked
            .iter()
            .filter(|(operation, _)| !matches!(operation, Operation::Get | Operation::Head));
        let changes: Vec<_> = changes.map(|(operation, count)| (*operation, *count)).collect();
        assert_eq!(changes, [(Operation::Put, 1), (Operation::Copy, 1)], "{key}");
    }
    assert_eq!(number, FILES + 4 + 1 + 1);
    // Trees and the commit are read some more times, and what the kernel has not closed yet is looked at before it is read.
    assert!(
        looks <= 5 * FILES as u64 / 2 + 50,
        "{looks} looks at {number} objects"
    );
    for (key, asked) in &asked {
        let is_renamed = Path::new(key).extension().is_some_and(|ending| ending == "lock");
        let allowed = [Operation::Put, Operation::Delete];
        assert!(
            !is_renamed || asked.keys().all(|asked| allowed.contains(asked)),
            "{key}: {asked:?}"
        );
        let is_file = ["a", "b", "c", "d"]
            .iter()
            .any(|directory| key.starts_with(&format!("clone/{directory}/f")));
        assert!(
            !is_file || *asked == [(Operation::Put, 1)].into(),
            "{key}: {asked:?}"
        );
    }
    assert!(counts.of(Operation::List) <= 4, "{:?}", counts.all());
}
