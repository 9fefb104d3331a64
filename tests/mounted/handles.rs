//! What open files see: each other, their own version, and nothing that was promised to others.

use crate::support::files::{self, errno};
use crate::support::pattern;
use crate::support::store::Store;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

crate::on_each_store!(
    an_unlinked_file_stays_readable,
    a_large_file_is_read_and_written_on_after_another_took_its_name,
    a_replaced_file_stays_readable,
    what_is_too_large_to_keep_makes_no_newer_file_wait,
    where_the_bucket_keeps_versions_nothing_is_fetched,
    a_file_being_written_is_an_ordinary_file,
    fsync_puts_the_file_into_the_bucket_and_writing_goes_on,
    a_mapped_file_is_written_back,
    appending_handles_do_not_overwrite_each_other,
    an_open_file_can_be_renamed,
);

fn read_from_start(file: &mut File) -> Vec<u8> {
    let mut data = Vec::new();
    file.seek(SeekFrom::Start(0)).expect("seekable");
    file.read_to_end(&mut data).expect("readable");
    data
}

fn an_unlinked_file_stays_readable(store: &Store) {
    let data = pattern(3_000_000, 1);
    store.bucket.put("foreign", data.clone());
    let mount = store.mount().start();
    let mut foreign = File::open(mount.join("foreign")).expect("opened");
    fs::remove_file(mount.join("foreign")).expect("removed");
    assert!(!mount.join("foreign").exists());
    assert!(read_from_start(&mut foreign) == data);

    let path = mount.join("own");
    let mut own = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .expect("made");
    own.write_all(b"scratch").expect("written");
    fs::remove_file(&path).expect("removed");
    own.write_all(b" data").expect("written");
    assert_eq!(read_from_start(&mut own), b"scratch data");
    files::close(own).expect("a file without a name has nothing to commit");

    // A new file of the name does not disturb the old one.
    files::write(&mount.join("foreign"), b"new").expect("written");
    assert!(read_from_start(&mut foreign) == data);
    assert_eq!(fs::read(mount.join("foreign")).expect("read"), b"new");
    drop(foreign);
    mount.unmount();
    assert_eq!(store.bucket.keys(""), ["foreign"]);
    assert_eq!(store.bucket.get("foreign"), b"new");
}

/// More than the memory: most of it is only in parts of an upload when its name goes.
fn a_large_file_is_read_and_written_on_after_another_took_its_name(store: &Store) {
    for replaced in [false, true] {
        let mount = store.mount().options("--memory 32M").start();
        let path = mount.join("file");
        let mut data = pattern(60_000_000, 1);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .expect("made");
        file.write_all(&data).expect("written");
        if replaced {
            files::write(&mount.join("temporary"), b"new").expect("written");
            fs::rename(mount.join("temporary"), &path).expect("replaced");
        } else {
            fs::remove_file(&path).expect("removed");
            assert!(!path.exists());
            files::write(&path, b"new").expect("written");
        }
        file.write_all_at(b"changed", 20_000_000).expect("written");
        data[20_000_000..][..7].copy_from_slice(b"changed");
        assert!(read_from_start(&mut file) == data, "replaced: {replaced}");
        assert_eq!(fs::read(&path).expect("read"), b"new");
        files::close(file).expect("a file without a name has nothing to commit");
        mount.unmount();
        assert_eq!(store.bucket.keys(""), ["file"], "replaced: {replaced}");
        assert_eq!(store.bucket.text("file"), "new");
        store.bucket.delete("file");
    }
}

fn a_replaced_file_stays_readable(store: &Store) {
    let (old, new) = (pattern(2_000_000, 1), pattern(1_000_000, 2));
    store.bucket.put("file", old.clone());
    let mount = store.mount().start();
    let mut reader = File::open(mount.join("file")).expect("opened");
    let mut start = [0; 1000];
    reader.read_exact(&mut start).expect("read");
    files::write(&mount.join("temporary"), &new).expect("written");
    fs::rename(mount.join("temporary"), mount.join("file")).expect("replaced");
    assert!(read_from_start(&mut reader) == old);
    assert!(fs::read(mount.join("file")).expect("read") == new);
    drop(reader);
    assert!(store.bucket.get("file") == new);
}

fn what_is_too_large_to_keep_makes_no_newer_file_wait(store: &Store) {
    let (old, small) = (pattern(6_000_000, 1), pattern(1_000_000, 2));
    for key in ["replaced", "unlinked"] {
        store.bucket.put(key, old.clone());
    }
    store.bucket.put("small", small.clone());
    let mount = store
        .mount()
        .options("--keep-open-limit 2M")
        .expect_in_log("--keep-open-limit does not allow it")
        .expect_in_log("operation=\"read\"")
        .start();
    let [replaced, unlinked, mut kept] =
        ["replaced", "unlinked", "small"].map(|name| File::open(mount.join(name)).expect("opened"));
    files::write(&mount.join("temporary"), b"new").expect("written");
    fs::rename(mount.join("temporary"), mount.join("replaced")).expect("replaced");
    fs::remove_file(mount.join("unlinked")).expect("removed");
    files::write(&mount.join("unlinked"), b"new").expect("written");
    fs::remove_file(mount.join("small")).expect("removed");
    files::write(&mount.join("small"), b"new").expect("written");
    for gone in [replaced, unlinked] {
        let read = gone.read_exact_at(&mut [0; 1000], 5_000_000);
        assert_eq!(errno(read), libc::ESTALE);
    }
    assert!(read_from_start(&mut kept) == small);
    drop(kept);
    mount.unmount();
    for key in ["replaced", "unlinked", "small"] {
        assert_eq!(store.bucket.text(key), "new");
    }
}

fn where_the_bucket_keeps_versions_nothing_is_fetched(store: &Store) {
    store.bucket.keep_versions();
    let old = pattern(6_000_000, 1);
    for key in ["replaced", "unlinked"] {
        store.bucket.put(key, old.clone());
    }
    let mount = store.mount().options("--keep-open-limit 0").start();
    let [replaced, unlinked] =
        ["replaced", "unlinked"].map(|name| File::open(mount.join(name)).expect("opened"));
    files::write(&mount.join("temporary"), b"new").expect("written");
    fs::rename(mount.join("temporary"), mount.join("replaced")).expect("replaced");
    fs::remove_file(mount.join("unlinked")).expect("removed");
    files::write(&mount.join("unlinked"), b"new").expect("written");
    for mut file in [replaced, unlinked] {
        assert!(read_from_start(&mut file) == old);
    }
    mount.unmount();
    for key in ["replaced", "unlinked"] {
        assert_eq!(store.bucket.text(key), "new");
    }
}

fn a_file_being_written_is_an_ordinary_file(store: &Store) {
    let mount = store.mount().start();
    let path = mount.join("file");
    let mut writer = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .expect("made");
    let mut expected = pattern(200_000, 1);
    writer.write_all(&expected).expect("written");
    let reader = File::open(&path).expect("a second handle");
    let mut seen = vec![0; 200_000];
    reader.read_exact_at(&mut seen, 0).expect("read");
    assert!(seen == expected);
    assert_eq!(fs::metadata(&path).expect("there").len(), 200_000);

    let second = OpenOptions::new()
        .write(true)
        .open(&path)
        .expect("a second writer");
    second.write_all_at(b"second", 100_000).expect("written");
    writer.write_all_at(b"first", 10).expect("written");
    writer.set_len(150_000).expect("truncated");
    expected[100_000..100_006].copy_from_slice(b"second");
    expected[10..15].copy_from_slice(b"first");
    expected.truncate(150_000);
    assert!(read_from_start(&mut writer) == expected);
    drop(reader);
    files::close(second).expect("committed");
    files::close(writer).expect("committed");
    assert!(store.bucket.get("file") == expected);
}

fn fsync_puts_the_file_into_the_bucket_and_writing_goes_on(store: &Store) {
    let mount = store.mount().start();
    let mut file = File::create(mount.join("file")).expect("made");
    for round in 1..=3 {
        file.write_all(b"some text\n").expect("written");
        file.sync_all().expect("in the bucket");
        assert_eq!(store.bucket.text("file"), "some text\n".repeat(round));
    }
    file.write_all(b"the end\n").expect("written");
    files::close(file).expect("in the bucket");
    assert!(store.bucket.text("file").ends_with("the end\n"));
}

fn a_mapped_file_is_written_back(store: &Store) {
    let mount = store.mount().start();
    let path = mount.join("mapped");
    files::write(&path, &vec![b'.'; 20_000]).expect("written");
    let script = r#"
import mmap, os, sys, time
with open(sys.argv[1], "r+b") as file:
    with mmap.mmap(file.fileno(), 0) as memory:
        memory[5000:5004] = b"here"
        memory.flush()
        print("flushed", flush=True)
        while not os.path.exists(sys.argv[2]):
            time.sleep(0.01)
        memory[10000:10005] = b"there"
assert open(sys.argv[1], "rb").read()[10000:10005] == b"there"
"#;
    // What msync(2) brings to the bucket is there when it returns.
    let go_on = mount.work().join("go-on");
    let mut tool = crate::support::command::Tool::new("python3")
        .arg("-c")
        .arg(script);
    tool = tool.arg(&path).arg(&go_on);
    let running = tool.start();
    crate::support::wait_until("it was flushed", || running.stdout_so_far().contains("flushed"));
    let stored = store.bucket.get("mapped");
    assert_eq!(
        (&stored[5000..5004], &stored[10000..10005]),
        (&b"here"[..], &b"....."[..])
    );
    std::fs::write(&go_on, "").expect("written");
    running.wait().success();
    let stored = store.bucket.get("mapped");
    assert_eq!(
        (&stored[5000..5004], &stored[10000..10005]),
        (&b"here"[..], &b"there"[..])
    );
    assert_eq!(stored.len(), 20_000);
}

fn appending_handles_do_not_overwrite_each_other(store: &Store) {
    let mount = store.mount().start();
    let path = mount.join("log");
    let open = || {
        OpenOptions::new()
            .append(true)
            .create(true)
            .open(&path)
            .expect("opened")
    };
    let (mut first, mut second) = (open(), open());
    for round in 0..20 {
        writeln!(first, "first {round}").expect("appended");
        writeln!(second, "second {round}").expect("appended");
    }
    files::close(first).expect("committed");
    files::close(second).expect("committed");
    let lines: Vec<String> = (0..20)
        .map(|round| {
            format!(
                "first {round}
second {round}
"
            )
        })
        .collect();
    assert_eq!(store.bucket.text("log"), lines.concat());
}

fn an_open_file_can_be_renamed(store: &Store) {
    let mount = store.mount().start();
    let mut file = File::create(mount.join("before")).expect("made");
    file.write_all(b"one ").expect("written");
    fs::rename(mount.join("before"), mount.join("after")).expect("renamed");
    file.write_all(b"two").expect("written");
    files::close(file).expect("committed");
    assert_eq!(fs::read(mount.join("after")).expect("read"), b"one two");
    assert_eq!(store.bucket.keys(""), ["after"]);
    assert_eq!(store.bucket.text("after"), "one two");
}
