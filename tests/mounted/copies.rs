//! Copies inside the mount, holes and reservations, with the programs that make them.

use crate::support::command::{bash, script_tool};
use crate::support::files;
use crate::support::pattern;
use crate::support::store::Store;
use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

crate::on_each_store!(
    cp_copies_what_was_copied_from,
    a_copied_file_may_be_unlinked_renamed_and_changed,
    fallocate_extends_zeroes_and_punches,
);
crate::on_the_embedded_store!(cp_moves_no_data, what_cannot_be_done_says_so);

const MIB: usize = 1 << 20;

fn cp_moves_no_data(store: &Store) {
    let data = pattern(64 * MIB, 1);
    store.bucket.put("large", data.clone());
    let mount = store.mount().start();
    files::write(
        &mount.join("first"),
        b"the first write may find out what the store can do",
    )
    .expect("written");
    let counts = store.server().counts().clone();
    for options in ["", "--reflink=auto", "--sparse=always"] {
        let copy = format!("copy{options}");
        counts.reset();
        bash(&mount.path(), &format!("cp {options} large ./{copy}"));
        if options != "--sparse=always" {
            // An open fetches the beginning: that is how it sees the newest version.
            let (up, down) = (counts.received_bytes(), counts.sent_bytes());
            assert!(up + down < MIB as u64, "{up} up, {down} down: {:?}", counts.all());
            assert!(counts.total() <= 10, "{:?}", counts.all());
        }
        assert!(store.bucket.get(&copy) == data, "{options}");
    }
}

fn cp_copies_what_was_copied_from(store: &Store) {
    let data = pattern(11 * MIB + 3, 2);
    store.bucket.put("dir/large", data.clone());
    store.bucket.put("dir/small", "small");
    let mount = store.mount().start();
    bash(
        &mount.path(),
        "cp -a dir copy && cp copy/large again && cmp dir/large again",
    );
    for key in ["copy/large", "again"] {
        assert!(store.bucket.get(key) == data, "{key}");
    }
    assert_eq!(store.bucket.text("copy/small"), "small");
    // Over a larger file, and with changes around it.
    bash(
        &mount.path(),
        "cp again copy/small; echo end >> copy/small; cp dir/small again; cmp dir/small again",
    );
    assert!(store.bucket.get("copy/small") == [&data[..], b"end\n"].concat());
    assert_eq!(store.bucket.text("again"), "small");
}

fn copy_range(from: &File, to: &File, len: usize) -> usize {
    // SAFETY: both descriptors are open, and no memory is involved.
    let copied = unsafe {
        libc::copy_file_range(
            from.as_raw_fd(),
            std::ptr::null_mut(),
            to.as_raw_fd(),
            std::ptr::null_mut(),
            len,
            0,
        )
    };
    usize::try_from(copied).unwrap_or_else(|_| panic!("{}", std::io::Error::last_os_error()))
}

fn a_copied_file_may_be_unlinked_renamed_and_changed(store: &Store) {
    const CHANGES: [&str; 6] = [
        "rm source",
        "mv source elsewhere",
        "echo changed > source",
        "chmod 600 source",
        "echo other > other; mv other source",
        "rm source; echo new > source",
    ];
    let data = pattern(9 * MIB, 3);
    for n in 0..CHANGES.len() {
        store.bucket.put(&format!("source{n}"), data.clone());
    }
    let mount = store.mount().start();
    for (n, change) in CHANGES.into_iter().enumerate() {
        let source = format!("source{n}");
        let key = format!("copy{n}");
        let from = File::open(mount.join(&source)).expect("opened");
        let to = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(mount.join(&key))
            .expect("made");
        assert_eq!(copy_range(&from, &to, data.len()), data.len(), "{change}");
        drop(from);
        bash(&mount.path(), &change.replace("source", &source));
        let mut seen = vec![0; data.len()];
        to.read_exact_at(&mut seen, 0).expect("read");
        assert!(seen == data, "{change}");
        files::close(to).expect("committed");
        assert!(store.bucket.get(&key) == data, "{change}");
        bash(&mount.path(), &format!("rm -f {source} elsewhere other"));
        assert_eq!(store.bucket.keys(&source), [""; 0], "{change}");
    }
}

fn fallocate_extends_zeroes_and_punches(store: &Store) {
    let mut data = pattern(7 * MIB, 4);
    store.bucket.put("file", data.clone());
    let mount = store.mount().start();
    bash(
        &mount.path(),
        "fallocate -l 8MiB file && fallocate -n -l 20MiB file && fallocate -p -o 1000 -l 5000 file && fallocate -z -o 8388600 -l 100 file",
    );
    data.resize(8 * MIB - 8 + 100, 0);
    data[1000..6000].fill(0);
    assert!(store.bucket.get("file") == data);
    assert!(fs::read(mount.join("file")).expect("read") == data);
    bash(
        &mount.path(),
        "truncate -s 30M sparse; printf x | dd of=sparse bs=1 seek=20000000 conv=notrunc status=none",
    );
    let mut sparse = vec![0; 30 * MIB];
    sparse[20_000_000] = b'x';
    assert!(store.bucket.get("sparse") == sparse);
}

fn what_cannot_be_done_says_so(store: &Store) {
    let mount = store.mount().start();
    store.bucket.put("file", pattern(100_000, 5));
    let failing = |script: &str, expected: &str| {
        script_tool(&mount.path(), script).output().fails(1, expected);
    };
    failing("fallocate -c -o 4096 -l 4096 file", "not supported");
    failing("fallocate -i -o 4096 -l 4096 file", "not supported");
    let script = "import os; os.open('.', os.O_TMPFILE | os.O_RDWR)";
    failing(&format!("python3 -c \"{script}\""), "not supported");
    failing("cp --reflink=always file copy", "not supported");
    // A hole that is there is found.
    let file = OpenOptions::new()
        .write(true)
        .read(true)
        .open(mount.join("file"))
        .expect("opened");
    file.set_len(200_000).expect("extended");
    // SAFETY: the descriptor is open, and no memory is involved.
    let seek = |offset, whence| unsafe { libc::lseek(file.as_raw_fd(), offset, whence) };
    assert_eq!(seek(0, libc::SEEK_HOLE), 100_000);
    assert_eq!(seek(50, libc::SEEK_DATA), 50);
    assert_eq!(seek(150_000, libc::SEEK_DATA), -1);
    assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::ENXIO));
}
