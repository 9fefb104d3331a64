//! Archived objects: seen, and read once they are restored.

use crate::support::command::bash;
use crate::support::mount::Mount;
use crate::support::store::Store;

crate::on_the_embedded_store!(
    an_archived_object_is_told_at_once_and_read_when_restored,
    what_would_copy_an_archived_object_says_why_not,
    what_is_asked_for_about_an_object_is_told,
);

/// `get FILE NAME`, `put FILE NAME VALUE` and `names FILE` for what the mount tells of objects; what fails prints its errno.
fn script(mount: &Mount, script: &str) -> String {
    let prelude = r#"
        set +e
        attribute() { python3 -c '
import os, sys, errno
call, *rest = sys.argv[1:]
try:
    if call == "names": print(*sorted(os.listxattr(rest[0])))
    elif call == "get": print(os.getxattr(rest[0], "user.s3." + rest[1]).decode())
    else: os.setxattr(rest[0], "user.s3." + rest[1], rest[2].encode())
except OSError as error: print(errno.errorcode[error.errno])' "$@"; }
        get() { attribute get "$@"; }
        put() { attribute put "$@"; }
        names() { attribute names "$@"; }
    "#;
    bash(&mount.path(), &format!("{prelude}\n{script}\ntrue"))
}

fn an_archived_object_is_told_at_once_and_read_when_restored(store: &Store) {
    for key in ["glacier", "large"] {
        store
            .bucket
            .put_stored(key, vec![b'x'; 2 << 20], "GLACIER", "key");
    }
    store.bucket.put("plain", "content");
    let mount = store
        .mount()
        .expect_in_log("the object is archived")
        .expect_in_log("RestoreAlreadyInProgress")
        .start();
    let said = script(
        &mount,
        "ls | wc -l
         for f in glacier large; do cat $f 2>&1; done
         dd if=large of=/dev/null bs=1k skip=1500 count=1 2>&1 | head -1
         get glacier storage-class; get glacier restore; get plain restore
         for value in '' 7:fast x; do put glacier restore \"$value\"; done
         put glacier restore 7:Bulk; put glacier restore 7; get glacier restore
         cat glacier 2>&1",
    );
    let error = "Input/output error";
    assert_eq!(
        said,
        format!(
            "3\ncat: glacier: {error}\ncat: large: {error}\ndd: failed to open 'large': {error}\n\
             GLACIER\narchived\nENODATA\nEINVAL\nEINVAL\nEINVAL\nEBUSY\nbeing restored\ncat: glacier: {error}\n"
        )
    );
    store.server().store().finish_restores();
    let restored = script(&mount, "wc -c < glacier; get glacier restore; cat large 2>&1");
    let until = "restored until Fri, 21 Dec 2029 00:00:00 GMT";
    assert_eq!(restored, format!("2097152\n{until}\ncat: large: {error}\n"));
    mount.unmount();
}

fn what_would_copy_an_archived_object_says_why_not(store: &Store) {
    store.bucket.put_stored("a", "content", "DEEP_ARCHIVE", "key");
    store.bucket.put_stored("dir/b", "content", "DEEP_ARCHIVE", "key");
    let mount = store.mount().expect_in_log("the object is archived").start();
    let said = script(
        &mount,
        "for command in 'mv a c' 'mv dir other' 'cp a c' 'truncate -s 3 a'; do $command 2>&1 | grep -c 'Input/output error'; done
         ls . dir; chmod 600 a; sleep 2; get a error | grep -c InvalidObjectState
         rm a; echo new > dir/b; cat dir/b",
    );
    assert_eq!(said, "1\n1\n1\n1\n.:\na\ndir\n\ndir:\nb\n1\nnew\n");
    mount.unmount();
    assert_eq!(store.bucket.keys(""), ["dir/b"]);
}

fn what_is_asked_for_about_an_object_is_told(store: &Store) {
    let mount = store
        .mount()
        .options("--list-virtual-xattrs --presigned-url-lifetime 2m")
        .start();
    let said = script(
        &mount,
        "printf hello > file; get file checksum
         curl -s \"$(get file presigned-url)\"; echo
         get file presigned-url | grep -o 'Expires=[0-9]*'
         names file",
    );
    assert_eq!(
        said,
        "CRC32C:mnG7TA==\nhello\nExpires=120\nuser.s3.checksum user.s3.content-type user.s3.etag user.s3.key user.s3.presigned-url \
         user.s3.storage-class user.s3.tags user.s3.url user.s3.version-id\n"
    );
    mount.unmount();
    let plain = store.mount().start();
    assert_eq!(script(&plain, "names file"), "\n");
    plain.unmount();
}
