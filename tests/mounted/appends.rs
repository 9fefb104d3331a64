//! Many processes append to one file: on one mount, and on several mounts of one bucket. No line is lost.

use crate::support::command::{bash, nothing_is_started};
use crate::support::files;
use crate::support::mount::Mount;
use crate::support::store::Store;
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;

crate::on_each_store!(
    appenders_on_one_mount_lose_no_line,
    appenders_on_four_mounts_lose_no_line,
    who_reads_back_what_it_appended_sees_the_others,
);
crate::on_the_embedded_store!(
    a_page_of_a_mapping_keeps_its_place,
    a_synchronous_append_is_in_the_bucket
);

const WRITERS: usize = 4;
const LINES: usize = 15;

/// Each writer appends its lines, opening the file anew for each of some and keeping it open for others.
fn append_all(paths: &[std::path::PathBuf]) {
    std::thread::scope(|scope| {
        for (writer, path) in paths.iter().enumerate() {
            scope.spawn(move || {
                let open = || {
                    OpenOptions::new()
                        .append(true)
                        .create(true)
                        .open(path)
                        .expect("opened")
                };
                let mut kept = open();
                for line in 0..LINES {
                    let text = format!("writer {writer} line {line}\n");
                    if line % 2 == 0 {
                        kept.write_all(text.as_bytes()).expect("appended");
                        kept.sync_all().expect("in the bucket");
                    } else {
                        let mut file = open();
                        file.write_all(text.as_bytes()).expect("appended");
                        files::close(file).expect("in the bucket");
                    }
                }
                files::close(kept).expect("in the bucket");
            });
        }
    });
}

fn assert_all_lines(store: &Store, key: &str) {
    let text = store.bucket.text(key);
    let lines: Vec<&str> = text.lines().collect();
    let expected: BTreeSet<String> = (0..WRITERS)
        .flat_map(|writer| (0..LINES).map(move |line| format!("writer {writer} line {line}")))
        .collect();
    let found: BTreeSet<String> = lines.iter().map(|line| (*line).to_owned()).collect();
    assert_eq!(found, expected);
    assert_eq!(lines.len(), expected.len(), "no line twice");
}

fn appenders_on_one_mount_lose_no_line(store: &Store) {
    let mount = store.mount().start();
    append_all(&vec![mount.join("log"); WRITERS]);
    assert_all_lines(store, "log");
    assert_eq!(
        fs::read_to_string(mount.join("log")).expect("read"),
        store.bucket.text("log")
    );
}

fn appenders_on_four_mounts_lose_no_line(store: &Store) {
    let mounts: Vec<Mount> = (0..WRITERS).map(|_| store.mount().start()).collect();
    let paths: Vec<_> = mounts.iter().map(|mount| mount.join("log")).collect();
    append_all(&paths);
    assert_all_lines(store, "log");
    for path in &paths {
        assert_eq!(fs::read_to_string(path).expect("read"), store.bucket.text("log"));
    }
}

fn who_reads_back_what_it_appended_sees_the_others(store: &Store) {
    store.bucket.put("log", "first\n");
    let mount = store.mount().start();
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .open(mount.join("log"))
        .expect("opened");
    let mut before = String::new();
    file.read_to_string(&mut before).expect("read");
    assert_eq!(before, "first\n");
    let quiet = nothing_is_started();
    file.write_all(b"mine\n").expect("appended");
    store.bucket.put("log", "another was here, and wrote more\n");
    file.sync_all().expect("in the bucket");
    drop(quiet);
    let expected = "another was here, and wrote more\nmine\n";
    assert_eq!(store.bucket.text("log"), expected);
    let again = fs::read_to_string(mount.join("log")).expect("read");
    assert_eq!(again, expected);
    assert_eq!(file.metadata().expect("stat").len(), expected.len() as u64);
    let script = "exec 3<> log; head -c 7 <&3; echo more >> log; cat log";
    assert_eq!(bash(&mount.path(), script), format!("another{expected}more\n"));
}

fn a_page_of_a_mapping_keeps_its_place(store: &Store) {
    store.bucket.put("file", "0123456789");
    let mount = store.mount().start();
    // Mapped and changed through a handle that appends.
    let script = r#"
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_APPEND)
m = mmap.mmap(fd, 10)
m[2:4] = b"XY"
m.flush()
m.close()
os.write(fd, b"end")
os.close(fd)
"#;
    let path = mount.join("file");
    crate::support::command::Tool::new("python3")
        .arg("-c")
        .arg(script)
        .arg(&path)
        .run();
    assert_eq!(store.bucket.text("file"), "01XY456789end");
}

fn a_synchronous_append_is_in_the_bucket(store: &Store) {
    let mount = store.mount().start();
    for (flag, name) in [
        (libc::O_SYNC, "sync"),
        (libc::O_DSYNC, "dsync"),
        (libc::O_SYNC | libc::O_DIRECT, "direct-sync"),
        (libc::O_DSYNC | libc::O_DIRECT, "direct-dsync"),
    ] {
        for append in [true, false] {
            let mut options = OpenOptions::new();
            options.create(true).custom_flags(flag);
            let options = if append {
                options.append(true)
            } else {
                options.write(true)
            };
            let key = format!("{name}-{append}");
            let mut file: File = options.open(mount.join(&key)).expect("opened");
            file.write_all(b"one").expect("written");
            assert_eq!(store.bucket.text(&key), "one", "{key}");
            file.write_all(b"two").expect("written");
            assert_eq!(store.bucket.text(&key), "onetwo", "{key}");
        }
    }
}
