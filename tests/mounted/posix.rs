//! What POSIX promises and tools depend on, beyond what pjdfstest looks at.

use crate::support::command::{Tool, bash};
use crate::support::mount::Mount;
use crate::support::store::Store;

crate::on_the_embedded_store!(
    directories_can_be_read_from_any_place_while_they_change,
    locks_hold_between_processes,
    changes_are_told_to_watchers,
    the_filesystem_has_room,
    a_reader_of_a_file_that_is_replaced_gets_the_old_or_the_new,
    without_metadata_nothing_is_written_and_defaults_are_shown,
    a_directorys_times_are_those_of_the_last_change_in_it,
);
crate::on_each_store!(all_three_times_come_back);

fn python(mount: &Mount, script: &str) -> String {
    Tool::new("python3")
        .args(["-c", script])
        .current_dir(mount.path())
        .run()
}

fn directories_can_be_read_from_any_place_while_they_change(store: &Store) {
    store.fill((0..2_500).map(|i| format!("d/f{i:04}")), b"x");
    let mount = store.mount().start();
    python(
        &mount,
        r"
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
libc.opendir.restype = libc.readdir.restype = ctypes.c_void_p
libc.telldir.restype = ctypes.c_long
for f in (libc.readdir, libc.telldir, libc.rewinddir, libc.closedir): f.argtypes = [ctypes.c_void_p]
libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
def read(d):
    entry = libc.readdir(d)
    return ctypes.string_at(entry + 19).decode() if entry else None
def rest(d):
    names = []
    while (name := read(d)) is not None: names.append(name)
    return [n for n in names if n not in ('.', '..')]
everything = [f'f{i:04}' for i in range(2500)]
d = libc.opendir(b'd')
before = [read(d) for _ in range(1202)]
place = libc.telldir(d)
after = rest(d)
assert sorted(before[2:] + after) == everything
libc.seekdir(d, place)
assert rest(d) == after
# What was read goes, something new comes: the rest is still the rest, each name once.
for name in before[2:800]: os.unlink('d/' + name)
open('d/a-new-one', 'w').close()
libc.seekdir(d, place)
again = rest(d)
assert [n for n in again if n != 'a-new-one'] == after, (len(again), len(after))
# From the beginning it is as it is now.
libc.rewinddir(d)
assert sorted(rest(d)) == sorted(os.listdir('d')) == sorted(['a-new-one'] + before[800:] + after)
libc.closedir(d)
# Removing while reading misses nothing.
with os.scandir('d') as entries:
    for entry in entries: os.unlink(entry.path)
assert os.listdir('d') == []
",
    );
}

fn locks_hold_between_processes(store: &Store) {
    let mount = store.mount().start();
    let script = "echo x > f; exec 3<> f; flock -x 3; ! flock -n f true; flock -u 3; flock -n f true";
    bash(&mount.path(), script);
    python(
        &mount,
        r"
import fcntl, os, subprocess, sys
f = open('f', 'r+b')
fcntl.lockf(f, fcntl.LOCK_EX, 10, 5)
try_it = '''
import fcntl, sys
f = open('f', 'r+b')
try: fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, int(sys.argv[1]))
except BlockingIOError: print('held')
else: print('free')
'''
ask = lambda at: subprocess.run([sys.executable, '-c', try_it, str(at)], capture_output=True, text=True).stdout.strip()
assert [ask(4), ask(5), ask(14), ask(15)] == ['free', 'held', 'held', 'free']
fcntl.lockf(f, fcntl.LOCK_UN, 10, 5)
assert ask(5) == 'free'
",
    );
}

fn changes_are_told_to_watchers(store: &Store) {
    let mount = store.mount().start();
    python(
        &mount,
        r"
import ctypes, os, struct
libc = ctypes.CDLL(None)
os.mkdir('d')
watch = libc.inotify_init1(os.O_NONBLOCK)
libc.inotify_add_watch(watch, b'd', 0xfff)
with open('d/f', 'w') as f: f.write('x')
os.chmod('d/f', 0o600); os.rename('d/f', 'd/g'); os.unlink('d/g')
data, seen = os.read(watch, 65536), []
while data:
    _, mask, _, length = struct.unpack('iIII', data[:16])
    seen.append((mask & 0xfff, data[16:16 + length].rstrip(b'\0').decode()))
    data = data[16 + length:]
# IN_CREATE, IN_MODIFY, IN_CLOSE_WRITE, IN_ATTRIB, IN_MOVED_FROM, IN_MOVED_TO, IN_DELETE
for event in [(0x100, 'f'), (2, 'f'), (8, 'f'), (4, 'f'), (0x40, 'f'), (0x80, 'g'), (0x200, 'g')]:
    assert event in seen, (event, seen)
",
    );
}

fn the_filesystem_has_room(store: &Store) {
    let mount = store.mount().start();
    python(
        &mount,
        r"
import os, shutil
s = os.statvfs('.')
assert s.f_namemax == 255 and s.f_bavail * s.f_frsize > 1 << 40 and s.f_favail > 1 << 20, s
assert shutil.disk_usage('.').free > 1 << 40
",
    );
    bash(
        &mount.path(),
        "df -h . > /dev/null; df -i . > /dev/null; stat -f . > /dev/null",
    );
}

fn a_reader_of_a_file_that_is_replaced_gets_the_old_or_the_new(store: &Store) {
    let mount = store.mount().start();
    python(
        &mount,
        r"
import errno, os, threading
def put(n):
    with open('new', 'w') as f: f.write(str(n) * 1000)
    os.rename('new', 'f')
put(0)
done, wrong, reads = threading.Event(), [], 0
def read():
    global reads
    while not done.is_set():
        try:
            try: file = open('f')
            except OSError as error:
                # Replaced twice while it was opened: the kernel looks a second time, not a third.
                if error.errno == errno.ESTALE: continue
                raise
            text = file.read()
        except OSError as error: wrong.append(error); return
        reads += 1
        if len(text) % 1000 or len(set(text[i:i + len(text) // 1000] for i in range(0, len(text), len(text) // 1000))) != 1:
            wrong.append(text)
readers = [threading.Thread(target=read) for _ in range(2)]
for reader in readers: reader.start()
for n in range(10, 60): put(n)
while reads < 20 and not wrong: pass
done.set()
for reader in readers: reader.join()
assert not wrong, wrong[0]
",
    );
}

fn without_metadata_nothing_is_written_and_defaults_are_shown(store: &Store) {
    let options = "--metadata-format none --file-mode 0640 --dir-mode 0750 --uid 12 --gid 34 --allow-other";
    store
        .bucket
        .put_with_metadata("theirs", b"x", &[("colour", "blue")]);
    let mount = store.mount().options(options).start();
    python(
        &mount,
        r"
import errno, os
def errno_of(call, *rest):
    try: call(*rest)
    except OSError as error: return errno.errorcode[error.errno]
    return 'none'
with open('f', 'w') as f: f.write('x')
os.mkdir('d'); os.chmod('theirs', 0o600)
os.utime('f', ns=(10**18, 10**18))
assert errno_of(os.symlink, 'f', 'link') == errno_of(os.mkfifo, 'pipe') == 'EPERM'
assert errno_of(os.setxattr, 'f', 'user.a', b'b') in ('EOPNOTSUPP', 'ENOTSUP')
",
    );
    mount.unmount();
    for key in ["f", "theirs"] {
        let metadata = store.bucket.metadata(key);
        let told: Vec<&String> = metadata
            .keys()
            .filter(|name| !name.starts_with("pailfs-") && *name != "colour")
            .collect();
        assert!(told.is_empty(), "{key}: {metadata:?}");
    }
    assert_eq!(store.bucket.metadata("theirs")["colour"], "blue");
    let again = store.mount().options(options).start();
    let shown = bash(&again.path(), "stat -c '%n %a %u %g' d f theirs");
    assert_eq!(shown, "d 750 12 34\nf 640 12 34\ntheirs 640 12 34\n");
}

/// To the nanosecond; the time of the last read only where somebody set it.
fn all_three_times_come_back(store: &Store) {
    let mount = store.mount().start();
    let shown = "import os; print([(n, s.st_atime_ns, s.st_mtime_ns, s.st_ctime_ns) for n in ('set', 'written', 'link') for s in [os.lstat(n)]])";
    let script = format!(
        r"
import os
for name in ('set', 'written'):
    with open(name, 'w') as f: f.write('x')
os.symlink('set', 'link')
os.utime('set', ns=(1_000_000_000_123_456_789, 981_173_106_987_654_321))
os.utime('link', ns=(1_000_000_001_000_000_001, 2), follow_symlinks=False)
os.chmod('set', 0o640)
assert os.stat('set').st_ctime_ns > 1_700_000_000_000_000_000
{shown}"
    );
    let before = python(&mount, &script);
    assert!(
        before.contains("('set', 1000000000123456789, 981173106987654321, "),
        "{before}"
    );
    assert!(before.contains("('link', 1000000001000000001, 2, "), "{before}");
    mount.unmount();
    let again = store.mount().start();
    assert_eq!(python(&again, shown), before);
    // Reading moves none.
    bash(
        &again.path(),
        "cat set written > /dev/null; readlink link > /dev/null",
    );
    assert_eq!(python(&again, shown), before);
}

fn a_directorys_times_are_those_of_the_last_change_in_it(store: &Store) {
    let mount = store.mount().start();
    python(
        &mount,
        r"
import os, time
os.mkdir('d'); os.mkdir('e')
def changes(what, *directories):
    before = {d: os.stat(d) for d in 'de'}
    time.sleep(0.002)
    what()
    for d in 'de':
        now = os.stat(d)
        moved = (now.st_mtime_ns > before[d].st_mtime_ns, now.st_ctime_ns > before[d].st_ctime_ns)
        assert moved == (d in directories, d in directories), (d, moved)
changes(lambda: open('d/f', 'w').close(), 'd')
changes(lambda: os.mkdir('d/sub'), 'd')
changes(lambda: os.symlink('f', 'd/link'), 'd')
changes(lambda: os.mkfifo('d/pipe'), 'd')
changes(lambda: os.rename('d/f', 'e/g'), 'd', 'e')
changes(lambda: os.rename('d/sub', 'e/sub'), 'd', 'e')
changes(lambda: os.rename('e/g', 'e/h'), 'e')
changes(lambda: os.unlink('e/h'), 'e')
changes(lambda: os.rmdir('e/sub'), 'e')
# What is in a file moves nothing around it.
changes(lambda: open('d/new', 'w').close(), 'd')
changes(lambda: open('d/new', 'w').write('x'))
changes(lambda: os.chmod('d/new', 0o600))
",
    );
}
