//! Large files in the disk cache that the kernel reads past the daemon. What must hold holds where it does not, too; that it
//! does is shown as root, where the kernel has it.

use crate::disk_cache::{LEN, data, files_of};
use crate::support::command::{Tool, bash, script_tool};
use crate::support::files::{self, errno};
use crate::support::mount::{Mount, NOBODY, Place};
use crate::support::store::Store;
use crate::support::{is_root, wait_for, wait_until};
use crate::users::DeviceForEverybody;
use pailfs::embedded::Operation;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

crate::on_each_store!(
    a_file_that_was_read_once_is_read_past_the_daemon,
    who_has_the_old_version_open_reads_it_to_its_end,
    opens_of_both_kinds_never_meet,
);
crate::on_the_embedded_store!(
    what_can_be_changed_is_not_given_away,
    what_is_given_away_is_not_changed,
    old_versions_are_given_away,
    whoever_clears_the_cache_disturbs_nobody,
    a_damaged_version_is_not_given_away,
    after_a_kill_it_is_looked_at_again,
    where_the_kernel_refuses_all_is_as_before,
);

const READ_ONLY: &str = "--read-only --cache-size 64M";
const ALWAYS: &str = "--cache-size 64M --passthrough always";

const REFUSED: &str = "programs read the file past this process";

/// Whether this machine lets the daemon do it: Linux 6.9, real root, and no overlay below the cache.
fn is_possible(place: &Place) -> bool {
    const OVERLAY_MAGIC: i64 = 0x794c_7630;
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("readable");
    let mut numbers = release
        .split(['.', '-'])
        .map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let users = fs::read_to_string("/proc/self/uid_map").expect("readable");
    let is_everybody_here = users.split_whitespace().eq(["0", "0", "4294967295"]);
    let path = std::ffi::CString::new(place.cache().to_str().expect("UTF-8")).expect("no NUL");
    // SAFETY: all zeros is a valid value, and the path is a NUL-terminated string that lives through the call.
    let kind = unsafe {
        let mut found: libc::statfs = std::mem::zeroed();
        assert_eq!(libc::statfs(path.as_ptr(), &raw mut found), 0);
        found.f_type
    };
    is_root() && is_everybody_here && version >= (6, 9) && kind != OVERLAY_MAGIC
}

/// What the daemon has counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counts {
    served_bytes: u64,
    opens: u64,
}

fn counts(mount: &Mount) -> Counts {
    let told = || {
        let text = mount.log().text();
        let lines: Vec<String> = text
            .lines()
            .filter(|line| line.contains("disk cache of this mount:"))
            .map(str::to_owned)
            .collect();
        lines
    };
    let before = told().len();
    mount.signal(libc::SIGUSR1);
    let line = wait_for("the counts", || told().get(before).cloned());
    let count = |name: &str| {
        let value = line.split_whitespace().find_map(|word| word.strip_prefix(name));
        value.expect("told").parse().expect("a number")
    };
    Counts {
        served_bytes: count("served_bytes="),
        opens: count("passthrough_opens="),
    }
}

/// Opens the file until that is answered by passthrough, where it can be. What the disk was too slow to take, and what the
/// kernel keeps without having read it past the daemon, is read again.
fn open_past(mount: &Mount, place: &Place, name: &str) -> File {
    let open = || File::open(mount.join(name)).expect("opened");
    if !is_possible(place) {
        return open();
    }
    wait_for("an open past the daemon", || {
        let before = counts(mount).opens;
        let mut file = open();
        if counts(mount).opens > before {
            return Some(file);
        }
        // SAFETY: the descriptor is open.
        unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        io::copy(&mut file, &mut io::sink()).expect("read");
        None
    })
}

fn is_right(path: &Path, content: &[u8]) {
    assert!(fs::read(path).expect("read") == content, "{}", path.display());
}

/// All of it, some of it, its end, and what is behind that.
fn check(file: &mut File, content: &[u8]) {
    let len = content.len();
    let mut buffer = vec![0; len + 1000];
    for (offset, expected) in [
        (0, len),
        (len - 10, 10),
        (len, 0),
        (len + 5_000, 0),
        (123_457, len - 123_457),
    ] {
        let mut filled = 0;
        loop {
            let read = file.read_at(&mut buffer[filled..], (offset + filled) as u64);
            match read.expect("read") {
                0 => break,
                read => filled += read,
            }
        }
        assert_eq!(filled, expected, "from {offset} on");
        assert!(buffer[..filled] == content[offset.min(len)..], "from {offset} on");
    }
    assert_eq!(file.metadata().expect("there").len(), len as u64);
    assert_eq!(file.seek(SeekFrom::End(0)).expect("sought"), len as u64);
}

/// Mapped, the last page is filled up with zeros.
const MAP: &str = "
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
memory = mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_READ)
os.close(fd)
whole = memory[:]
print(len(whole), sum(whole[::4096]) % 65521)
sys.stdout.flush()
";

fn a_file_that_was_read_once_is_read_past_the_daemon(store: &Store) {
    let content = data(1, LEN);
    store.bucket.put("large", content.clone());
    store.bucket.put("small", data(2, 1000));
    let place = Place::new();
    let mount = store.mount().at(&place).options(READ_ONLY).start();
    is_right(&mount.join("large"), &content);
    let mut file = open_past(&mount, &place, "large");
    let before = counts(&mount);
    check(&mut file, &content);
    is_right(&mount.join("large"), &content);
    let sum = content
        .iter()
        .step_by(4096)
        .map(|byte| u64::from(*byte))
        .sum::<u64>()
        % 65_521;
    let mapped = Tool::new("python3")
        .args(["-c", MAP])
        .arg(mount.join("large"))
        .run();
    assert_eq!(mapped, format!("{LEN} {sum}\n"));
    bash(
        &mount.path(),
        "cmp large <(cat large); tail -c 5 large | wc -c; head -c 5 large >/dev/null",
    );
    fs::copy(mount.join("large"), place.work().join("copy")).expect("copied");
    is_right(&place.work().join("copy"), &content);
    let other = mount.join("large");
    std::thread::scope(|threads| {
        threads.spawn(|| check(&mut file, &content));
        threads.spawn(|| check(&mut File::open(other).expect("opened"), &content));
    });
    drop(file);
    if is_possible(&place) {
        let after = counts(&mount);
        assert_eq!(
            after.served_bytes, before.served_bytes,
            "read by way of the daemon"
        );
        assert!(after.opens >= before.opens + 6, "{after:?}, before {before:?}");
        for _ in 0..3 {
            is_right(&mount.join("small"), &data(2, 1000));
        }
        assert_eq!(counts(&mount).opens, after.opens, "small files");
    }
    mount.unmount();
}

fn after_a_kill_it_is_looked_at_again(store: &Store) {
    let content = data(3, LEN);
    store.bucket.put("large", content.clone());
    let place = Place::new();
    let mut mount = store.mount().at(&place).options(READ_ONLY).start();
    is_right(&mount.join("large"), &content);
    let file = open_past(&mount, &place, "large");
    mount.kill();
    drop(file);
    drop(mount);
    let mount = store.mount().at(&place).options(READ_ONLY).start();
    store_has_not_to_be_asked(store, || {
        is_right(&mount.join("large"), &content);
        assert_eq!(counts(&mount).opens, 0, "nobody has looked at it yet");
        check(&mut open_past(&mount, &place, "large"), &content);
    });
    mount.unmount();
}

fn store_has_not_to_be_asked(store: &Store, work: impl FnOnce()) {
    store.server().counts().reset();
    work();
    let all = store.server().counts().all();
    assert_eq!(store.server().counts().of(Operation::Get), 0, "{all:?}");
}

fn who_has_the_old_version_open_reads_it_to_its_end(store: &Store) {
    let (old, new) = (data(4, LEN), data(5, LEN + 4_321));
    store.bucket.put("large", old.clone());
    let place = Place::new();
    let mount = store.mount().at(&place).options(READ_ONLY).start();
    is_right(&mount.join("large"), &old);
    let mut file = open_past(&mount, &place, "large");
    store.bucket.put("large", new.clone());
    is_right(&mount.join("large"), &new);
    check(&mut file, &old);
    check(&mut open_past(&mount, &place, "large"), &new);
    check(&mut file, &old);
    store.bucket.delete("large");
    check(&mut file, &old);
    drop(file);
    mount.unmount();
}

/// The kernel answers EIO where they do.
fn opens_of_both_kinds_never_meet(store: &Store) {
    let content = data(6, LEN);
    store.bucket.put("large", content.clone());
    let place = Place::new();
    let mount = store.mount().at(&place).options(ALWAYS);
    let mount = mount.expect_in_log(REFUSED).start();
    let path = mount.join("large");
    std::thread::scope(|threads| {
        for reader in 0..3 {
            let (path, content) = (&path, &content);
            threads.spawn(move || {
                for round in 0..40 {
                    let file = File::open(path).expect("opened");
                    let mut block = vec![0; 100_000];
                    let at = (round * 37 + reader * 11) % 52 * 100_000;
                    file.read_exact_at(&mut block, at as u64).expect("read");
                    assert!(block == content[at..at + 100_000], "at {at}");
                }
            });
        }
        threads.spawn(|| {
            for _ in 0..20 {
                // Refused while all of them read past the daemon.
                let opened = OpenOptions::new().write(true).open(&path);
                assert!(opened.is_ok() || errno(opened) == libc::ETXTBSY);
            }
        });
    });
    check(&mut open_past(&mount, &place, "large"), &content);
    mount.unmount();
}

fn what_can_be_changed_is_not_given_away(store: &Store) {
    for options in [
        "--cache-size 64M",
        "--read-only --cache-size 64M --passthrough never",
    ] {
        let content = data(7, LEN);
        store.bucket.put("large", content.clone());
        let mount = store.mount().options(options).start();
        for _ in 0..3 {
            is_right(&mount.join("large"), &content);
        }
        wait_until("the cache has it", || {
            files_of(&mount.place)
                .iter()
                .any(|path| fs::read(path).is_ok_and(|read| read == content))
        });
        let file = File::open(mount.join("large")).expect("opened");
        assert_eq!(counts(&mount).opens, 0);
        if !options.contains("--read-only") {
            // What others write is seen through it at once.
            let writer = OpenOptions::new().write(true).open(mount.join("large"));
            let writer = writer.expect("opened");
            writer.write_all_at(b"new", 1_000_000).expect("written");
            let mut seen = [0; 3];
            file.read_exact_at(&mut seen, 1_000_000).expect("read");
            assert_eq!(&seen, b"new");
        }
        drop(file);
        mount.unmount();
    }
}

fn what_is_given_away_is_not_changed(store: &Store) {
    let content = data(8, LEN);
    for name in ["large", "replaced", "unlinked"] {
        store.bucket.put(name, content.clone());
    }
    let place = Place::new();
    let mount = store.mount().at(&place).options(ALWAYS);
    let mount = mount.expect_in_log(REFUSED).start();
    let path = mount.join("large");
    is_right(&path, &content);
    let mut file = open_past(&mount, &place, "large");
    if is_possible(&place) {
        assert_eq!(errno(OpenOptions::new().write(true).open(&path)), libc::ETXTBSY);
        assert_eq!(errno(OpenOptions::new().append(true).open(&path)), libc::ETXTBSY);
        assert_eq!(errno(File::create(&path)), libc::ETXTBSY);
        let script = "import os, sys; os.truncate(sys.argv[1], 5)";
        let truncated = Tool::new("python3").args(["-c", script]).arg(&path).output();
        truncated.fails(1, "Text file busy");
        check(&mut file, &content);
    }
    // Not its bytes.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("changed");
    check(&mut file, &content);
    drop(file);
    fs::write(&path, b"written").expect("nobody reads it any more");
    is_right(&path, b"written");

    is_right(&mount.join("replaced"), &content);
    let mut replaced = open_past(&mount, &place, "replaced");
    fs::rename(&path, mount.join("replaced")).expect("renamed");
    is_right(&mount.join("replaced"), b"written");
    check(&mut replaced, &content);

    is_right(&mount.join("unlinked"), &content);
    let mut unlinked = open_past(&mount, &place, "unlinked");
    fs::remove_file(mount.join("unlinked")).expect("removed");
    files::write(&mount.join("unlinked"), b"another").expect("written");
    check(&mut unlinked, &content);
    drop((replaced, unlinked));
    mount.unmount();
    assert_eq!(store.bucket.text("replaced"), "written");
    assert_eq!(store.bucket.text("unlinked"), "another");
}

fn old_versions_are_given_away(store: &Store) {
    store.bucket.keep_versions();
    let (old, new) = (data(9, LEN), data(10, LEN));
    store.bucket.put("large", old.clone());
    store.bucket.put("large", new);
    let place = Place::new();
    let options = "--versions --cache-size 64M";
    let mount = store.mount().at(&place).options(options).start();
    let versions = fs::read_dir(mount.join(".versions/large")).expect("listed");
    let names: Vec<_> = versions
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    let oldest = names
        .iter()
        .map(|name| format!(".versions/large/{}", name.to_string_lossy()))
        .find(|name| fs::read(mount.join(name)).expect("read") == old);
    let oldest = oldest.expect("one of them");
    check(&mut open_past(&mount, &place, &oldest), &old);
    mount.unmount();
}

fn whoever_clears_the_cache_disturbs_nobody(store: &Store) {
    let content = data(11, LEN);
    store.bucket.put("large", content.clone());
    let place = Place::new();
    let mount = store.mount().at(&place).options(READ_ONLY).start();
    is_right(&mount.join("large"), &content);
    let mut file = open_past(&mount, &place, "large");
    let cleared = mount
        .pailfs()
        .args(["cache", "clear", "--cache-dir"])
        .arg(place.cache());
    assert!(cleared.run().contains("removed 1 files"));
    check(&mut file, &content);
    check(&mut File::open(mount.join("large")).expect("opened"), &content);
    drop(file);
    is_right(&mount.join("large"), &content);
    check(&mut open_past(&mount, &place, "large"), &content);
    mount.unmount();
}

fn a_damaged_version_is_not_given_away(store: &Store) {
    let content = data(12, LEN);
    store.bucket.put("large", content.clone());
    let place = Place::new();
    let mount = store.mount().at(&place).options(READ_ONLY).start();
    is_right(&mount.join("large"), &content);
    drop(open_past(&mount, &place, "large"));
    mount.unmount();
    for path in files_of(&place) {
        let file = OpenOptions::new().write(true).open(path).expect("opened");
        file.write_all_at(b"damaged", 2_000_000).expect("written");
    }
    let options = store.mount().at(&place).options(READ_ONLY);
    let mount = options
        .expect_in_log("a block of the disk cache is damaged")
        .start();
    is_right(&mount.join("large"), &content);
    check(&mut open_past(&mount, &place, "large"), &content);
    mount.unmount();
}

fn where_the_kernel_refuses_all_is_as_before(store: &Store) {
    if !is_root() {
        return;
    }
    let content = data(13, LEN);
    store.bucket.put("large", content.clone());
    let _device = DeviceForEverybody::new();
    let mount = store.mount().user(NOBODY).options(READ_ONLY).start();
    fs::write(mount.work().join("expected"), &content).expect("written");
    wait_until("the kernel was asked", || {
        // Nobody else can look into what a user mounted for himself.
        let compared = format!("cmp {} expected", mount.join("large").display());
        script_tool(&mount.work(), &compared).user(NOBODY).run();
        !is_possible(&mount.place) || mount.log().says("by way of this process")
    });
    assert_eq!(counts(&mount).opens, 0);
    mount.unmount();
}
