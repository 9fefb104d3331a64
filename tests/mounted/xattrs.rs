//! Extended attributes: those of users, and what the mount tells of objects.

use crate::support::command::{Tool, bash, has_program};
use crate::support::files;
use crate::support::mount::Mount;
use crate::support::store::Store;
use pailfs::embedded::Operation;
use std::path::Path;

crate::on_each_store!(
    user_xattrs_survive_writing_renaming_and_a_remount,
    what_objects_are_is_told_by_virtual_xattrs,
    the_limit_of_metadata_is_told_at_once,
);
crate::on_the_embedded_store!(
    directories_have_xattrs_too,
    the_form_is_that_of_s3fs,
    other_namespaces_cost_no_request,
    copying_programs_keep_user_xattrs_and_no_others,
    tags_are_read_and_written,
    a_refresh_forgets_what_is_known_below,
    the_last_failure_is_told,
    writing_drops_set_user_id,
);

/// Runs statements of Python with `get`, `set`, `names` and `remove` for xattrs, and `errno_of`.
#[track_caller]
fn python(directory: &Path, script: &str) -> String {
    let prelude = "
import os, errno, json, sys
def get(path, name): return os.getxattr(path, name).decode()
def set(path, name, value, flags=0): os.setxattr(path, name, value if isinstance(value, bytes) else value.encode(), flags)
def names(path): return sorted(os.listxattr(path))
remove = os.removexattr
def errno_of(call, *rest):
    try: call(*rest)
    except OSError as error: return errno.errorcode[error.errno]
    return 'none'
";
    Tool::new("python3")
        .args(["-c", &format!("{prelude}\nos.chdir(sys.argv[1])\n{script}")])
        .arg(directory)
        .run()
}

fn user_xattrs_survive_writing_renaming_and_a_remount(store: &Store) {
    let mount = store.mount().start();
    python(
        &mount.path(),
        "
with open('file', 'wb') as f:
    f.write(b'data'); os.setxattr(f.fileno(), 'user.early', b'1')
set('file', 'user.late', bytes(range(256)))
set('file', 'user.gone', 'x'); remove('file', 'user.gone')
assert errno_of(set, 'file', 'user.late', 'x', os.XATTR_CREATE) == 'EEXIST'
assert errno_of(set, 'file', 'user.none', 'x', os.XATTR_REPLACE) == 'ENODATA'
assert errno_of(get, 'file', 'user.none') == 'ENODATA'
os.rename('file', 'renamed')
assert names('renamed') == ['user.early', 'user.late'], names('renamed')
with open('renamed', 'ab') as f: f.write(b' more')
os.chmod('renamed', 0o600)
",
    );
    mount.unmount();
    let again = store.mount().start();
    python(
        &again.path(),
        "
os.stat('renamed')
assert names('renamed') == ['user.early', 'user.late'], names('renamed')
assert os.getxattr('renamed', 'user.late') == bytes(range(256))
assert open('renamed').read() == 'data more'
",
    );
}

fn directories_have_xattrs_too(store: &Store) {
    let mount = store.mount().start();
    python(
        &mount.path(),
        "os.mkdir('d'); set('d', 'user.a', 'b'); os.chmod('d', 0o700); set('d', 'user.c', 'd')",
    );
    mount.unmount();
    let again = store.mount().start();
    python(
        &again.path(),
        "assert names('d') == ['user.a', 'user.c'] and get('d', 'user.c') == 'd'; assert os.stat('d').st_mode & 0o777 == 0o700",
    );
}

fn the_form_is_that_of_s3fs(store: &Store) {
    let s3fs = [
        ("mode", "33188"),
        (
            "xattr",
            "%7B%22user.colour%22%3A%22Ymx1ZQ%3D%3D%22%2C%22security.other%22%3A%22eA%3D%3D%22%7D",
        ),
    ];
    store.bucket.put_with_metadata("theirs", b"data", &s3fs);
    store
        .bucket
        .put_with_metadata("odd", b"data", &[("xattr", "yes, please")]);
    let mount = store.mount().start();
    python(
        &mount.path(),
        "
assert get('theirs', 'user.colour') == 'blue'
set('theirs', 'user.more', 'x')
assert errno_of(set, 'odd', 'user.more', 'x') == 'ENOTSUP'
assert names('odd') == []
",
    );
    mount.unmount();
    let metadata = store.bucket.metadata("theirs");
    assert_eq!(
        metadata["xattr"],
        "%7B%22security.other%22%3A%22eA%3D%3D%22%2C%22user.colour%22%3A%22Ymx1ZQ%3D%3D%22%2C%22user.more%22%3A%22eA%3D%3D%22%7D"
    );
    assert_eq!(store.bucket.metadata("odd")["xattr"], "yes, please");
}

fn the_limit_of_metadata_is_told_at_once(store: &Store) {
    let mount = store.mount().expect_in_log("operation=\"setxattr\"").start();
    files::write(&mount.join("file"), b"data").expect("written");
    python(
        &mount.path(),
        "
assert errno_of(set, 'file', 'user.large', 'x' * 4000) == 'E2BIG'
set('file', 'user.one', 'x' * 700)
assert errno_of(set, 'file', 'user.two', 'x' * 900) == 'ENOSPC'
assert names('file') == ['user.one']
os.utime('file', ns=(1, 2)); os.chown('file', os.getuid(), os.getgid()); os.chmod('file', 0o600)
",
    );
    mount.unmount();
    assert!(store.bucket.metadata("file").contains_key("xattr"));
}

fn other_namespaces_cost_no_request(store: &Store) {
    let mount = store.mount().start();
    files::write(&mount.join("file"), b"data").expect("written");
    let counts = store.server().counts().clone();
    counts.reset();
    python(
        &mount.path(),
        "
assert errno_of(get, 'file', 'security.capability') == 'ENODATA'
assert errno_of(get, 'file', 'system.posix_acl_access') == 'ENOTSUP'
assert errno_of(set, 'file', 'security.capability', 'x') in ('ENOTSUP', 'EPERM', 'EINVAL')
assert errno_of(set, 'file', 'trusted.x', 'x') in ('ENOTSUP', 'EPERM')
assert names('file') == []
",
    );
    bash(&mount.path(), "ls -l > /dev/null");
    assert!(counts.total() <= 1, "{:?}", counts.all());
}

fn copying_programs_keep_user_xattrs_and_no_others(store: &Store) {
    let mount = store.mount().start();
    python(
        &mount.path(),
        "open('file', 'w').write('data'); set('file', 'user.a', 'b')",
    );
    bash(&mount.path(), "cp -a file copied");
    let mut copies = vec!["copied"];
    if has_program("rsync") {
        bash(&mount.path(), "rsync -aX file synchronised");
        copies.push("synchronised");
    }
    bash(
        &mount.path(),
        "tar --xattrs -cf file.tar file && mkdir t && tar --xattrs -C t -xf file.tar",
    );
    copies.push("t/file");
    for copy in copies {
        python(
            &mount.path(),
            &format!("assert names('{copy}') == ['user.a'], names('{copy}')"),
        );
    }
}

fn what_objects_are_is_told_by_virtual_xattrs(store: &Store) {
    store.bucket.put("dir/page.html", "hello");
    let mount = store.mount().options("--list-virtual-xattrs").start();
    let etag = store.bucket.head("dir/page.html").e_tag.expect("a tag");
    let script = format!(
        "
p = 'dir/page.html'
assert get(p, 'user.s3.etag') == '{}', get(p, 'user.s3.etag')
assert get(p, 'user.s3.key') == p and get(p, 'user.s3.url') == 's3://{}/' + p
assert get(p, 'user.s3.storage-class') == 'STANDARD'
assert errno_of(get, p, 'user.s3.version-id') == 'ENODATA'
assert errno_of(get, p, 'user.s3.error') == 'ENODATA'
assert errno_of(get, p, 'user.s3.nonsense') == 'ENODATA'
assert 'user.s3.etag' in names(p)
assert get('dir', 'user.s3.key') == 'dir/'
set(p, 'user.s3.content-type', 'text/html')
assert get(p, 'user.s3.content-type') == 'text/html'
assert errno_of(set, p, 'user.s3.etag', 'x') == 'EPERM'
",
        etag.trim_matches('"'),
        store.bucket.name
    );
    python(&mount.path(), &script);
    mount.unmount();
    assert_eq!(
        store.bucket.head("dir/page.html").content_type.as_deref(),
        Some("text/html")
    );
}

fn tags_are_read_and_written(store: &Store) {
    let mount = store.mount().start();
    files::write(&mount.join("file"), b"data").expect("written");
    python(
        &mount.path(),
        "
assert json.loads(get('file', 'user.s3.tags')) == {}
tags = {'a b': 'c&d', 'e': ''}
set('file', 'user.s3.tags', json.dumps(tags))
assert json.loads(get('file', 'user.s3.tags')) == tags
assert errno_of(set, 'file', 'user.s3.tags', 'no json') == 'EINVAL'
os.chmod('file', 0o600); os.sync()
remove('file', 'user.s3.tags')
assert json.loads(get('file', 'user.s3.tags')) == {}
",
    );
}

fn a_refresh_forgets_what_is_known_below(store: &Store) {
    store.bucket.put("dir/a", "x");
    let mount = store.mount().options("--metadata-ttl 1h").start();
    bash(&mount.path(), "ls -l dir > /dev/null");
    store.bucket.put("dir/b", "x");
    store.bucket.put("dir/a", "longer");
    python(&mount.path(), "set('dir', 'user.s3.refresh', '1')");
    assert_eq!(
        bash(&mount.path(), "stat -c '%n %s' dir/a dir/b; ls dir"),
        "dir/a 6\ndir/b 1\na\nb\n"
    );
}

fn the_last_failure_is_told(store: &Store) {
    let mount: Mount = store.mount().expect_in_log("on purpose").start();
    files::write(&mount.join("file"), b"data").expect("written");
    // The first copy may find out what the store can do.
    bash(&mount.path(), "chmod 644 file; sync file");
    let faults = store.server().faults();
    faults.inject(
        pailfs::embedded::When::on(Operation::Copy),
        pailfs::embedded::Fault::Answer("AccessDenied"),
    );
    python(
        &mount.path(),
        "
os.chmod('file', 0o600)
fd = os.open('file', os.O_RDONLY); assert errno_of(os.fsync, fd) == 'EACCES'
error = json.loads(get('file', 'user.s3.error'))
assert error['s3_code'] == 'AccessDenied' and error['key'] == 'file', error
os.chmod('file', 0o640); os.fsync(fd)
assert errno_of(get, 'file', 'user.s3.error') == 'ENODATA'
",
    );
}

/// Ways of changing what is in the file, none of which needs a privilege.
const CHANGES: [&str; 7] = [
    "echo more >> file",
    ": > file",
    "echo new > file",
    "truncate -s 3 file",
    "printf x | dd of=file conv=notrunc status=none",
    "fallocate -l 100 file",
    "python3 -c 'import os; a = os.open(\"other\", os.O_RDONLY); b = os.open(\"file\", os.O_WRONLY); os.copy_file_range(a, b, 3)'",
];

fn writing_drops_set_user_id(store: &Store) {
    if !crate::support::is_root() {
        return;
    }
    let mount = store.mount().options("--allow-other -o suid").start();
    files::write(&mount.join("file"), b"data").expect("written");
    bash(&mount.path(), "chmod 777 .; echo other > other; chmod 644 other");
    let mode = || bash(&mount.path(), "stat -c %a file");
    for change in CHANGES {
        bash(&mount.path(), &format!("chmod 6777 file; {change}"));
        assert_eq!(mode(), "6777\n", "root may: {change}");
        Tool::new("bash")
            .args(["-c", &format!("cd $0 && {change}")])
            .arg(mount.path())
            .user(crate::support::mount::NOBODY)
            .run();
        assert_eq!(mode(), "777\n", "{change}");
    }
    let stored = || store.bucket.metadata("file")["file-permissions"].clone();
    bash(&mount.path(), "sync file");
    assert_eq!(stored(), "0100777");
    // Without execution by the group that bit means mandatory locking.
    bash(
        &mount.path(),
        "chmod 6777 file; chown 1:1 file; test \"$(stat -c %a file)\" = 777; chmod 2745 file; chown 2:2 file; sync file",
    );
    assert_eq!((mode(), stored()), ("2745\n".to_owned(), "0102745".to_owned()));
}
