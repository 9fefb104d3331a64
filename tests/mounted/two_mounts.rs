//! Two mounts of one bucket, as on two machines: all they share is the bucket.

use crate::support::command::{bash, nothing_is_started, starting};
use crate::support::files;
use crate::support::mount::Mount;
use crate::support::store::{ACCESS_KEY, SECRET_KEY, Store};
use crate::support::{pattern, wait_until};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::process::{Command, Stdio};
use std::sync::Barrier;

crate::on_each_store!(
    an_open_sees_what_the_other_closed,
    exactly_one_creates_exclusively,
    exactly_one_shell_creates_exclusively,
    every_close_of_what_lost_says_so,
    a_conflicting_write_is_refused_and_kept,
    a_stream_that_lost_can_be_put_over_the_object,
    an_open_file_never_mixes_versions,
    names_of_the_other_appear_and_vanish,
    a_rename_without_replacing_respects_the_other,
);
// SeaweedFS has directories of its own and does not decide who makes one.
crate::on_the_embedded_store!(exactly_one_makes_the_directory);

const ROUNDS: usize = 100;

fn two(store: &Store) -> [Mount; 2] {
    [store.mount().start(), store.mount().start()]
}

fn an_open_sees_what_the_other_closed(store: &Store) {
    let [a, b] = two(store);
    for round in 0..20 {
        let (writer, reader) = if round % 2 == 0 { (&a, &b) } else { (&b, &a) };
        // Sometimes of the same length, so that only the content tells versions apart.
        let text = format!("round {:02} {}", round, "x".repeat(round / 4));
        files::write(&writer.join("file"), text.as_bytes()).expect("written");
        assert_eq!(fs::read_to_string(reader.join("file")).expect("read"), text);
        assert_eq!(fs::read_to_string(writer.join("file")).expect("read"), text);
    }
}

/// Runs both at the same time, once per round, and returns what each said.
fn race<T: Send>(rounds: usize, work: impl Fn(usize, usize) -> T + Sync) -> Vec<[T; 2]> {
    let barrier = Barrier::new(2);
    let run = |side: usize| -> Vec<T> {
        let one = |round| {
            barrier.wait();
            work(side, round)
        };
        (0..rounds).map(one).collect()
    };
    let [first, second] = std::thread::scope(|scope| {
        let threads = [scope.spawn(|| run(0)), scope.spawn(|| run(1))];
        threads.map(|thread| thread.join().expect("no panic"))
    });
    first
        .into_iter()
        .zip(second)
        .map(|(first, second)| [first, second])
        .collect()
}

fn exactly_one_creates_exclusively(store: &Store) {
    let mounts = two(store);
    let work = |side: usize, round: usize| {
        files::create_exclusively(
            &mounts[side].join(format!("f{round}")),
            format!("side {side}").as_bytes(),
        )
    };
    for (round, results) in race(ROUNDS, work).into_iter().enumerate() {
        let winners: Vec<usize> = (0..2).filter(|side| results[*side].is_ok()).collect();
        assert_eq!(winners.len(), 1, "round {round}: {results:?}");
        let loser = results.into_iter().find_map(Result::err).expect("one lost");
        assert_eq!(loser.raw_os_error(), Some(libc::EEXIST), "round {round}: {loser}");
        assert_eq!(
            store.bucket.text(&format!("f{round}")),
            format!("side {}", winners[0])
        );
    }
}

/// A shell ignores what close says, and closes a copy of the descriptor before it writes.
fn exactly_one_shell_creates_exclusively(store: &Store) {
    let mounts = two(store);
    let work = |side: usize, round: usize| {
        let script = format!("set -C; echo {side} > lock{round}");
        let mut shell = Command::new("bash");
        shell.args(["-c", &script]).current_dir(mounts[side].path());
        shell.stdout(Stdio::piped()).stderr(Stdio::piped());
        let running = {
            let _starting = starting();
            shell.spawn().expect("bash starts")
        };
        running.wait_with_output().expect("bash runs")
    };
    for (round, outputs) in race(20, work).into_iter().enumerate() {
        let winners: Vec<usize> = (0..2).filter(|side| outputs[*side].status.success()).collect();
        assert_eq!(winners.len(), 1, "round {round}: {outputs:?}");
        let said = String::from_utf8_lossy(&outputs[1 - winners[0]].stderr).into_owned();
        assert!(
            said.contains("File exists") || said.contains("cannot overwrite existing file"),
            "round {round}: {said}"
        );
        assert_eq!(
            store.bucket.text(&format!("lock{round}")),
            format!("{}\n", winners[0])
        );
    }
}

fn exactly_one_makes_the_directory(store: &Store) {
    let mounts = two(store);
    let work = |side: usize, round: usize| fs::create_dir(mounts[side].join(format!("d{round}")));
    for (round, results) in race(20, work).into_iter().enumerate() {
        let winners = results.iter().filter(|result| result.is_ok()).count();
        assert_eq!(winners, 1, "round {round}: {results:?}");
    }
}

fn every_close_of_what_lost_says_so(store: &Store) {
    let mount = store.mount().expect_in_log("the local version was kept").start();
    let path = mount.join("file");
    let quiet = nothing_is_started();
    let mut file = File::create_new(&path).expect("made");
    // As a child process has them, which exits before its parent closes the file.
    let copies = [
        file.try_clone().expect("a copy"),
        file.try_clone().expect("a copy"),
    ];
    store.bucket.put("file", "of the other");
    // More than a lock file's content, which would not be kept.
    file.write_all(&[b'm'; 5000]).expect("written");
    for copy in copies.into_iter().chain([file]) {
        assert!(matches!(
            files::errno(files::close(copy)),
            libc::EEXIST | libc::ESTALE
        ));
    }
    drop(quiet);
    assert_eq!(store.bucket.text("file"), "of the other");
}

/// The id that `pailfs conflicts list` shows beside this key.
fn conflict_of(mount: &Mount, key: &str) -> Option<String> {
    let listed = mount.place.pailfs().args(["conflicts", "list"]).run();
    let line = listed.lines().find(|line| line.ends_with(key))?;
    line.split_whitespace().next().map(str::to_owned)
}

fn a_conflicting_write_is_refused_and_kept(store: &Store) {
    store.bucket.put("file", "original");
    let a = store.mount().expect_in_log("").start();
    let b = store.mount().start();
    let quiet = nothing_is_started();
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(a.join("file"))
        .expect("opened");
    file.write_all(b"mine").expect("written");
    files::write(&b.join("file"), b"of the other").expect("written");
    let refused = file.sync_all();
    let closed = files::close(file);
    drop(quiet);
    assert_eq!(files::errno(refused.and(closed)), libc::ESTALE);
    assert_eq!(store.bucket.text("file"), "of the other");
    assert_eq!(fs::read_to_string(a.join("file")).expect("read"), "of the other");

    let id = conflict_of(&a, "file").expect("the local version is kept");
    let saved = a.work().join("saved");
    a.place
        .pailfs()
        .args(["conflicts", "save", &id])
        .arg(&saved)
        .run();
    assert_eq!(fs::read_to_string(&saved).expect("saved"), "mineinal");
    a.place.pailfs().args(["conflicts", "drop", &id]).run();
    assert_eq!(conflict_of(&a, "file"), None);
    assert_eq!(conflict_of(&b, "file"), None);
    // The file can be used again.
    files::write(&a.join("file"), b"agreed").expect("written");
    assert_eq!(store.bucket.text("file"), "agreed");
}

/// Its bytes are nowhere but in the upload.
fn a_stream_that_lost_can_be_put_over_the_object(store: &Store) {
    let mount = store.mount().options("--memory 32MiB").expect_in_log("").start();
    let data = pattern(80 << 20, 11);
    let quiet = nothing_is_started();
    let mut file = File::create_new(mount.join("film")).expect("made");
    for piece in data.chunks(1 << 20) {
        file.write_all(piece).expect("written");
    }
    store.bucket.put("film", "of the other");
    let closed = files::close(file);
    drop(quiet);
    assert!(matches!(files::errno(closed), libc::ESTALE | libc::EEXIST));
    let id = conflict_of(&mount, "film").expect("the local version is kept");
    let pailfs = || {
        let tool = mount.place.pailfs().env("AWS_ACCESS_KEY_ID", ACCESS_KEY);
        tool.env("AWS_SECRET_ACCESS_KEY", SECRET_KEY).arg("conflicts")
    };
    let shown = pailfs().args(["show", &id]).run();
    assert!(shown.contains("parts of an upload"), "{shown}");
    let endpoint = ["--endpoint-url", &store.endpoint_url];
    pailfs().args(["apply", &id]).args(endpoint).run();
    assert!(store.bucket.get("film") == data);
    assert_eq!(conflict_of(&mount, "film"), None);
    assert_eq!(store.bucket.open_uploads(), [""; 0]);
}

fn an_open_file_never_mixes_versions(store: &Store) {
    let old = vec![b'o'; 9 << 20];
    store.bucket.put("file", old.clone());
    let a = store.mount().expect_in_log("").start();
    let b = store.mount().start();
    let mut reader = File::open(a.join("file")).expect("opened");
    let mut seen = vec![0; 64 << 10];
    reader.read_exact(&mut seen).expect("read");
    assert!(seen.iter().all(|byte| *byte == b'o'));
    files::write(&b.join("file"), &vec![b'n'; 9 << 20]).expect("written");
    let mut rest = Vec::new();
    let result = reader.read_to_end(&mut rest);
    assert!(rest.iter().all(|byte| *byte == b'o'), "bytes of another version");
    match result {
        Ok(_) => assert_eq!(rest.len() + seen.len(), old.len()),
        Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ESTALE)),
    }
    reader.seek(SeekFrom::Start(0)).expect("seekable");
    let again = fs::read(a.join("file")).expect("read");
    assert!(again.len() == 9 << 20 && again.iter().all(|byte| *byte == b'n'));
}

fn names_of_the_other_appear_and_vanish(store: &Store) {
    let a = store.mount().options("--metadata-ttl 1s").start();
    let b = store.mount().options("--metadata-ttl 1s").start();
    bash(&a.path(), "ls; test ! -e dir");
    bash(&b.path(), "mkdir dir; echo x > dir/file");
    wait_until("a directory of the other is listed", || {
        bash(&a.path(), "ls -R").contains("file")
    });
    assert_eq!(fs::read_to_string(a.join("dir/file")).expect("read"), "x\n");
    bash(&b.path(), "mv dir moved");
    wait_until("a renamed directory is seen", || {
        bash(&a.path(), "ls") == "moved\n"
    });
    bash(&b.path(), "rm -r moved");
    wait_until("a removed directory is gone", || bash(&a.path(), "ls").is_empty());
}

fn a_rename_without_replacing_respects_the_other(store: &Store) {
    let [a, b] = two(store);
    files::write(&a.join("mine"), b"mine").expect("written");
    assert!(!a.join("target").exists());
    files::write(&b.join("target"), b"of the other").expect("written");
    let refused = files::rename_without_replacing(&a.join("mine"), &a.join("target"));
    assert_eq!(files::errno(refused), libc::EEXIST);
    assert_eq!(store.bucket.text("target"), "of the other");
    assert_eq!(store.bucket.text("mine"), "mine");
}
