//! Every kind of key that is no file name as it is: listed, read, written, renamed, removed, and made through the mount.

use crate::foreign::walk;
use crate::support::mount::Mount;
use crate::support::s3::Bucket;
use crate::support::store::Store;
use crate::support::{command::bash, files};
use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

crate::on_the_embedded_store!(
    every_kind_of_key_can_be_worked_with,
    what_is_left_empty_can_be_removed,
    an_exclusive_creation_under_a_directorys_own_key_is_one,
    an_object_that_appears_beside_its_directory_is_seen,
    names_that_no_key_has_are_refused,
);

/// A key, its path, and keys that make it odd.
struct Kind {
    key: String,
    path: String,
    beside: Vec<String>,
}

fn kinds() -> Vec<Kind> {
    let x = |count| "x".repeat(count);
    let kind = |key: &str, path: &str, beside: &[String]| Kind {
        key: key.to_owned(),
        path: path.to_owned(),
        beside: beside.to_vec(),
    };
    let deep = format!("{}end", "d/".repeat(510)) + "!";
    vec![
        kind("a//b", "a/~%%2F/b", &[]),
        kind("/leading", "~%%2F/leading", &[]),
        kind("///three", "~%%2F/~%%2F/~%%2F/three", &[]),
        kind("dir/", "dir/~%", &[]),
        kind("dir/", "dir/~%", &["dir/file".to_owned()]),
        kind("dir//", "dir/~%%2F/~%", &[]),
        kind("/", "~%%2F/~%", &[]),
        kind("both", "~%both", &["both/inside".to_owned()]),
        kind("both", "~%both", &["both/".to_owned()]),
        kind(
            "in/both",
            "in/~%both",
            &["in/both/a".to_owned(), "in/both-".to_owned()],
        ),
        kind(".", "~%.", &[]),
        kind("..", "~%..", &[]),
        kind("./x", "~%.%2F/x", &[]),
        kind("a/../x", "a/~%..%2F/x", &[]),
        kind("~%escaped", "~%%7E%25escaped", &[]),
        kind("~%dir/x", "~%%7E%25dir%2F/x", &[]),
        kind("nul\0", "~%nul%00", &[]),
        kind(&x(256), &format!("~%{}~/~%{}", x(252), x(4)), &[]),
        kind(
            &format!("p/{}/below", x(600)),
            &format!("p/~%{}~/~%{}~/~%{}%2F/below", x(252), x(252), x(96)),
            &[],
        ),
        kind(
            &x(254),
            &format!("~%{}~/~%xx", x(252)),
            &[format!("{}/in", x(254))],
        ),
        kind(&deep, &deep, &[]),
        kind(
            "line\nbreak\ttab \u{1}\u{7f}",
            "line\nbreak\ttab \u{1}\u{7f}",
            &[],
        ),
        kind("a%41+b &?#\\", "a%41+b &?#\\", &[]),
        kind("with_$folder$", "with_$folder$", &[]),
    ]
}

/// What the bucket has under the key; an empty one that ends in `/` is a directory.
fn stored(bucket: &Bucket, key: &str) -> Option<String> {
    let bytes = bucket.find(key)?;
    let is_marker = key.ends_with('/') && bytes.is_empty();
    (!is_marker).then(|| String::from_utf8(bytes).expect("text"))
}

fn work_with(kind: &Kind, bucket: &Bucket, place: &Path) {
    let path = place.join(&kind.path);
    let of_the_key = |place: &Path| walk(place).remove(&kind.path);
    let check = |expected: &str| {
        assert_eq!(stored(bucket, &kind.key).as_deref(), Some(expected));
        assert_eq!(of_the_key(place).as_deref(), Some(expected));
    };
    check("content");
    let mut file = OpenOptions::new().append(true).open(&path).expect("opened");
    file.write_all(b" and more").expect("written");
    drop(file);
    check("content and more");
    files::write(&path, b"new").expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("changed");
    check("new");

    let moved = place.join("moved");
    fs::rename(&path, &moved).expect("renamed");
    assert_eq!(stored(bucket, &kind.key), None);
    assert_eq!(bucket.text("moved"), "new");
    assert_eq!(of_the_key(place), None);
    fs::create_dir_all(path.parent().expect("a parent")).expect("made, or there");
    fs::rename(&moved, &path).expect("renamed");
    check("new");
    assert_eq!(bucket.find("moved"), None);
    assert_eq!(fs::metadata(&path).expect("there").mode() & 0o7777, 0o640);

    fs::remove_file(&path).expect("removed");
    assert_eq!(stored(bucket, &kind.key), None);
    assert_eq!(files::errno(fs::metadata(&path)), libc::ENOENT);
    for other in &kind.beside {
        assert!(bucket.find(other).is_some(), "{other} is another object");
    }
    fs::create_dir_all(path.parent().expect("a parent")).expect("made, or there");
    files::write(&path, b"made here").expect("written");
    check("made here");
}

fn every_kind_of_key_can_be_worked_with(store: &Store) {
    let kinds = kinds();
    let name = |n: usize| format!("kind-{n}");
    let buckets: Vec<Bucket> = (0..kinds.len()).map(|n| store.another_bucket(&name(n))).collect();
    for (kind, bucket) in kinds.iter().zip(&buckets) {
        for other in &kind.beside {
            bucket.put(other, if other.ends_with('/') { "" } else { "other" });
        }
        bucket.put(&kind.key, "content");
    }
    let mount = store.mount_all_buckets().start();
    for (n, (kind, bucket)) in kinds.iter().zip(&buckets).enumerate() {
        println!("{n}: the key {:?}", kind.key);
        work_with(kind, bucket, &mount.join(name(n)));
    }
    mount.unmount();
    // Another mount reads each by its path, and lists nothing else.
    let again = store.mount_all_buckets().start();
    for (n, kind) in kinds.iter().enumerate() {
        let place = again.join(name(n));
        let text = fs::read_to_string(place.join(&kind.path));
        assert_eq!(text.expect("read"), "made here", "{:?}", kind.key);
        let files = kind.beside.iter().filter(|other| !other.ends_with('/')).count();
        assert_eq!(walk(&place).len(), files + 1, "{:?}", kind.key);
        bash(&place, "find . -mindepth 1 -delete");
    }
    again.unmount();
    for (kind, bucket) in kinds.iter().zip(&buckets) {
        assert_eq!(bucket.keys(""), [""; 0], "{:?}", kind.key);
    }
}

/// A directory that is there only because a name is too long has no key: that of what it is in must stay.
fn what_is_left_empty_can_be_removed(store: &Store) {
    let long = "x".repeat(300);
    store.bucket.put("dir/", "data of the directory's own key");
    store.bucket.put(&format!("dir/{long}"), "long");
    let mount = store.mount().start();
    let (partial, file) = (
        format!("dir/~%{}~", "x".repeat(252)),
        format!("~%{}", "x".repeat(48)),
    );
    let text = fs::read_to_string(mount.join(&partial).join(&file));
    assert_eq!(text.expect("read"), "long");
    let refused = fs::remove_dir(mount.join(&partial));
    assert_eq!(files::errno(refused), libc::ENOTEMPTY);
    fs::remove_file(mount.join(&partial).join(&file)).expect("removed");
    fs::remove_dir(mount.join(&partial)).expect("removed");
    assert_eq!(files::errno(fs::metadata(mount.join(&partial))), libc::ENOENT);
    assert_eq!(bash(&mount.path(), "ls dir"), "~%\n");
    assert_eq!(store.bucket.text("dir/"), "data of the directory's own key");
    mount.unmount();
    assert_eq!(store.bucket.keys(""), ["dir/"]);
}

fn an_exclusive_creation_under_a_directorys_own_key_is_one(store: &Store) {
    let mount = store.mount().start();
    fs::create_dir(mount.join("dir")).expect("made");
    let create = |mount: &Mount| {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).open(mount.join("dir/~%"))
    };
    let mut file = create(&mount).expect("its marker is no file");
    file.write_all(b"data").expect("written");
    file.sync_all().expect("stored");
    drop(file);
    assert_eq!(files::errno(create(&mount)), libc::EEXIST);
    assert_eq!(store.bucket.text("dir/"), "data");
    // The directory goes on existing without it, by a marker.
    fs::remove_file(mount.join("dir/~%")).expect("removed");
    bash(
        &mount.path(),
        "ls -A dir; ln -s x 'dir/~%'; readlink 'dir/~%'; rm 'dir/~%'; echo y > new; mv -nT new 'dir/~%'; cat 'dir/~%'; rm 'dir/~%'",
    );
    mount.unmount();
    assert_eq!(store.bucket.keys(""), ["dir/"]);
    assert_eq!(store.bucket.text("dir/"), "");
}

fn an_object_that_appears_beside_its_directory_is_seen(store: &Store) {
    store.bucket.put("a/inside", "inside");
    store.bucket.put("b", "file");
    let mount = store.mount().options("--metadata-ttl 1s").start();
    assert_eq!(bash(&mount.path(), "ls -p; cat a/inside b"), "a/\nb\ninsidefile");
    // A foreign object takes the name of a directory, and a foreign directory that of a file, which somebody reads.
    let mut reader = fs::File::open(mount.join("b")).expect("opened");
    store.bucket.put("a", "beside");
    store.bucket.put("b/inside", "inside b");
    crate::support::wait_until("both are seen", || {
        bash(&mount.path(), "ls -p") == "a/\nb/\n~%a\n~%b\n"
    });
    let shown = bash(
        &mount.path(),
        "cat a/inside '~%a' b/inside '~%b'; echo more >> '~%a'; stat -c %F a b '~%a' '~%b'",
    );
    let types = "directory\ndirectory\nregular file\nregular file\n";
    assert_eq!(shown, format!("insidebesideinside bfile{types}"));
    assert_eq!(store.bucket.text("a"), "besidemore\n");
    let mut text = String::new();
    std::io::Read::read_to_string(&mut reader, &mut text).expect("read");
    assert_eq!(text, "file");
    drop(reader);
    // When the directory goes, the object has its plain name again.
    bash(&mount.path(), "rm a/inside; rmdir a; rm -r b");
    crate::support::wait_until("the objects have their names", || {
        bash(&mount.path(), "ls -p") == "a\nb\n"
    });
    assert_eq!(bash(&mount.path(), "cat a b"), "besidemore\nfile");
    mount.unmount();
    assert_eq!(store.bucket.keys(""), ["a", "b"]);
}

fn names_that_no_key_has_are_refused(store: &Store) {
    store.bucket.put("a", "a file");
    let mount = store.mount().start();
    bash(&mount.path(), &format!("mkdir -p {}", "d/".repeat(511)));
    let full = format!("{}long", "d/".repeat(511));
    let not_utf8: &OsStr = OsStrExt::from_bytes(b"\xff");
    let create = |name: &OsStr| files::errno(fs::File::create(mount.join(name)));
    for (name, expected) in [
        // No directory beside it; another spelling of an escape; an escape of what needs none.
        (OsStr::new("~%a"), libc::EINVAL),
        (OsStr::new("~%%2e"), libc::EINVAL),
        (OsStr::new("~%b%2F"), libc::EINVAL),
        (OsStr::new(&"x".repeat(256)), libc::ENAMETOOLONG),
        (OsStr::new(&full), libc::ENAMETOOLONG),
        (not_utf8, libc::EILSEQ),
    ] {
        assert_eq!(create(name), expected, "{}", name.display());
    }
    let made = fs::create_dir(mount.join("~%b%2F"));
    assert_eq!(files::errno(made), libc::EINVAL);
}
