//! What programs store comes back: after a remount, and through copying and archiving programs. Everything that lstat(2),
//! readlink(2), listxattr(2) and the content say is compared.

use crate::support::command::{Tool, bash};
use crate::support::is_root;
use crate::support::mount::Mount;
use crate::support::store::Store;
use std::path::Path;

crate::on_each_store!(
    everything_is_the_same_after_a_remount,
    copies_and_archives_are_the_same,
);

/// Prints one line for each path below `argv[1]`, with what is to be compared: `argv[2]` has more letters for more of it.
const SNAPSHOT: &str = r"
import hashlib, os, stat, sys
root, what = os.fsencode(sys.argv[1]), sys.argv[2]
paths = [root]
for directory, names, files in os.walk(root):
    paths += [os.path.join(directory, name) for name in names + files]
for path in sorted(paths):
    st = os.lstat(path)
    is_directory = stat.S_ISDIR(st.st_mode)
    facts = [os.path.relpath(path, root), oct(stat.S_IFMT(st.st_mode))]
    if not is_directory or 'd' in what:
        facts += [oct(st.st_mode & 0o7777), st.st_uid, st.st_gid, st.st_mtime_ns]
        facts.append(sorted((n, os.getxattr(path, n)) for n in os.listxattr(path, follow_symlinks=False)))
    if 'i' in what:
        facts.append(st.st_ino)
    if stat.S_ISLNK(st.st_mode):
        facts.append(os.readlink(path))
    if stat.S_ISREG(st.st_mode):
        facts += [st.st_size, hashlib.sha256(open(path, 'rb').read()).hexdigest()]
    print(*facts)
";

/// Makes `source`: files with holes and without, odd names, modes, times and owners, links, a fifo, directories.
const MAKE: &str = r#"
import os, sys
os.umask(0o022)
os.mkdir('source'); os.chdir('source')
for d in ['empty', 'a', 'a/b', 'a/b/c', 'sticky']: os.mkdir(d)
for n, (name, size) in enumerate([('f', 0), ('a/g', 5), ('a/b/large', 9 << 20), ('a/b/c/name with ü \n and "', 100), ('.hidden', 1)]):
    with open(name, 'wb') as f: f.write(os.urandom(size))
    os.chmod(name, [0o600, 0o4755, 0o444, 0o2770, 0o604][n])
    os.setxattr(name, 'user.number', str(n).encode())
    os.setxattr(name, 'user.bytes', bytes(range(50)))
with open('sparse', 'wb') as f: f.truncate(100_000)
os.symlink('../nowhere', 'a/link'); os.symlink('f', 'link'); os.mkfifo('a/pipe', 0o640)
os.chmod('sticky', 0o1777); os.chmod('a', 0o2750)
if os.geteuid() == 0:
    os.lchown('a/link', 12, 34); os.chown('a/g', 1000, 0); os.chown('a/pipe', 0, 50); os.chown('empty', 7, 8)
    os.chmod('a/g', 0o4755)
for directory, names, files in os.walk('.', topdown=False):
    for name in files + ['.']:
        path = os.path.join(directory, name)
        when = 981173106_123456789 + len(path) * 1_000_000_007
        os.utime(path, ns=(when, when), follow_symlinks=False)
"#;

fn make(mount: &Mount) {
    Tool::new("python3")
        .args(["-c", MAKE])
        .current_dir(mount.path())
        .run();
}

fn snapshot(path: &Path, what: &str) -> String {
    Tool::new("python3")
        .args(["-c", SNAPSHOT])
        .arg(path)
        .arg(what)
        .run()
}

/// SeaweedFS keeps nothing on directories beyond the life of a mount.
fn of_directories(store: &Store) -> &'static str {
    if store.is_embedded() { "d" } else { "" }
}

fn everything_is_the_same_after_a_remount(store: &Store) {
    let mount = store.mount().options("-o suid").start();
    make(&mount);
    let what = format!("i{}", of_directories(store));
    let before = snapshot(&mount.join("source"), &what);
    assert!(before.lines().count() >= 15, "{before}");
    mount.unmount();
    // With what is remembered on disk, and without.
    for _ in 0..2 {
        let again = store.mount().options("-o suid").start();
        assert_eq!(snapshot(&again.join("source"), &what), before);
        assert_eq!(snapshot(&again.join("source"), &what), before);
    }
}

fn copies_and_archives_are_the_same(store: &Store) {
    if !is_root() {
        return;
    }
    let mount = store.mount().options("-o suid").start();
    make(&mount);
    let script = "cp -a source copied; rsync -aX source/ synchronised/; tar --xattrs -cf ARCHIVE source; mkdir unpacked; tar --xattrs --xattrs-include='*' -xpf ARCHIVE -C unpacked";
    let archive = mount.work().join("archive.tar");
    bash(
        &mount.path(),
        &script.replace("ARCHIVE", archive.to_str().expect("UTF-8")),
    );
    // Back and forth: what an archive of the copy has is what the source has.
    let what = of_directories(store);
    let expected = snapshot(&mount.join("source"), what);
    let copies = ["copied", "synchronised", "unpacked/source"];
    for copy in copies {
        assert_eq!(snapshot(&mount.join(copy), what), expected, "{copy}");
    }
    mount.unmount();
    let again = store.mount().options("-o suid").start();
    for copy in ["source"].iter().chain(&copies) {
        assert_eq!(
            snapshot(&again.join(copy), what),
            expected,
            "{copy}, after a remount"
        );
    }
    // And what rsync thinks of it.
    let differs = bash(&again.path(), "rsync -aXcni source/ copied/");
    let differs = differs
        .lines()
        .filter(|line| store.is_embedded() || !line.starts_with(".d"));
    assert_eq!(differs.collect::<Vec<_>>(), [""; 0]);
}
