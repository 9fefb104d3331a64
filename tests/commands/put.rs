//! `pailfs put`.

use crate::errors::error_of;
use crate::keys;
use crate::on_all_stores;
use crate::on_the_embedded_store;
use crate::schema;
use crate::shell::Shell;
use crate::support::store::Store;
use crate::support::{pattern, processes, wait_until};
use pailfs::embedded::{Fault, Operation, When};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

on_all_stores!(
    every_key_can_be_written,
    a_stream_is_uploaded_in_parts,
    time_and_permissions_travel,
    base64_is_decoded_or_nothing_is_written,
    conditions_decide,
    content_types_are_found_or_given,
);
on_the_embedded_store!(
    a_small_file_is_one_request,
    an_upload_that_fails_leaves_nothing,
    a_lost_reply_is_looked_into,
    an_interrupted_upload_is_taken_back,
    a_killed_upload_is_aborted_by_the_next,
    what_cannot_be_uploaded_is_told,
);

fn every_key_can_be_written(store: &Store) {
    let shell = Shell::new(store);
    for key in keys::odd(store) {
        shell.write("file", key.as_bytes());
        let key = if key.ends_with('/') { continue } else { key };
        assert_eq!(shell.run(&["put", "file", &shell.at_key(key)]), "");
        assert_eq!(store.bucket.get(key), key.as_bytes(), "{key:?}");
    }
    shell.write("a b+c.txt", b"data");
    shell.run(&["put", "a b+c.txt", &shell.at_key("dir/")]);
    shell.run(&["put", "a b+c.txt", &shell.at_key("")]);
    assert_eq!(store.bucket.get("dir/a b+c.txt"), b"data");
    assert_eq!(store.bucket.get("a b+c.txt"), b"data");
    shell.write("empty", b"");
    let put = shell.json(&["put", "--json", "empty", &shell.at_key("empty.json")]);
    schema::check("put", &put);
    assert_eq!(put["size"], 0);
    assert_eq!(put["contentType"], "application/json");
    assert_eq!(store.bucket.get("empty.json"), b"");
    // Whatever was there is replaced.
    shell.run(&["put", "file", &shell.at_key("empty.json")]);
    assert_eq!(store.bucket.get("empty.json"), shell.read("file"));
}

fn a_stream_is_uploaded_in_parts(store: &Store) {
    let shell = Shell::new(store);
    let bytes = pattern(45 << 20, 11);
    shell.write("large", &bytes);
    shell
        .script("cat large | pailfs put --memory 32M - s3://$BUCKET/stream")
        .success();
    assert!(store.bucket.get("stream") == bytes);
    shell.run(&["put", "--memory", "32M", "large", &shell.at_key("large")]);
    assert!(store.bucket.get("large") == bytes);
    assert_eq!(store.bucket.open_uploads(), Vec::<String>::new());
    // And back.
    shell
        .script("pailfs get --memory 32M s3://$BUCKET/large back; cmp large back")
        .success();
}

fn time_and_permissions_travel(store: &Store) {
    let shell = Shell::new(store);
    let mtime = UNIX_EPOCH + Duration::new(1_600_000_000, 987_654_321);
    for (name, len_bytes) in [("small", 10), ("large", 20 << 20)] {
        shell.write(name, &pattern(len_bytes, 12));
        let path = shell.work().join(name);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).expect("changed");
        let file = std::fs::File::options().write(true).open(&path).expect("opened");
        file.set_modified(mtime).expect("changed");
        shell.run(&["put", name, &shell.at_key(name)]);
        let head = store.bucket.head(name);
        let metadata = head.metadata().expect("metadata");
        assert_eq!(metadata["file-mtime"], "1600000000987654321ns");
        assert_eq!(metadata["file-permissions"], "0100640");
        shell.run(&["get", &shell.at_key(name), "back"]);
        let found = std::fs::metadata(shell.work().join("back")).expect("a file");
        assert_eq!(found.modified().expect("a time"), mtime);
        assert_eq!(found.permissions().mode() & 0o7777, 0o640);
    }
    shell.run(&["put", "--metadata-format", "s3fs", "small", &shell.at_key("s3fs")]);
    assert_eq!(
        store.bucket.head("s3fs").metadata().expect("metadata")["mode"],
        "33184"
    );
    shell.run(&["put", "--metadata-format", "none", "small", &shell.at_key("none")]);
    assert!(
        !store
            .bucket
            .head("none")
            .metadata()
            .expect("metadata")
            .contains_key("file-mtime")
    );
}

fn base64_is_decoded_or_nothing_is_written(store: &Store) {
    let shell = Shell::new(store);
    let bytes = pattern(20 << 20, 13);
    shell.write("binary", &bytes);
    shell
        .script("base64 binary | pailfs put --base64 - s3://$BUCKET/decoded")
        .success();
    assert!(store.bucket.get("decoded") == bytes);
    for (text, part) in [
        ("YWJj\nZ-==", "'-' at byte 6"),
        ("YWJjZA", "padding"),
        ("YWJjZB==", "at byte 5"),
    ] {
        shell.write("text", text.as_bytes());
        let done = shell.output(&["put", "--base64", "--json", "text", &shell.at_key("wrong")]);
        done.fails(1, part);
        error_of(&done);
        assert_eq!(store.bucket.find("wrong"), None);
    }
    // Found out after parts have been sent.
    let done =
        shell.script("(base64 binary; echo '!') | pailfs put --memory 32M --base64 - s3://$BUCKET/wrong");
    done.fails(1, "invalid base64");
    assert_eq!(store.bucket.find("wrong"), None);
    assert_eq!(store.bucket.open_uploads(), Vec::<String>::new());
}

fn conditions_decide(store: &Store) {
    let shell = Shell::new(store);
    let key = shell.at_key("key");
    shell.write("first", b"first");
    shell.write("second", b"second");
    let first = shell.json(&["put", "--json", "--if-none-match", "first", &key]);
    let done = shell.output(&["put", "--json", "--if-none-match", "second", &key]);
    done.fails(5, "nothing was written");
    let error = error_of(&done);
    assert_eq!(
        (&error["key"], &error["code"]),
        (&"key".into(), &"PreconditionFailed".into())
    );
    assert_eq!(store.bucket.get("key"), b"first");
    let etag = first["etag"].as_str().expect("an ETag");
    let done = shell.output(&[
        "put",
        "--if-match",
        "0123456789abcdef0123456789abcdef",
        "second",
        &key,
    ]);
    done.fails(5, etag);
    assert_eq!(store.bucket.get("key"), b"first");
    shell.run(&["put", "--if-match", etag, "second", &key]);
    assert_eq!(store.bucket.get("key"), b"second");
    shell
        .output(&["put", "--if-match", etag, "first", &shell.at_key("other")])
        .fails(5, "there is no object");
    // The same in parts, and nothing stays behind.
    shell.write("large", &pattern(40 << 20, 14));
    let done = shell.output(&["put", "--memory", "32M", "--if-none-match", "large", &key]);
    done.fails(5, "another object is there");
    assert_eq!(store.bucket.get("key"), b"second");
    assert_eq!(store.bucket.open_uploads(), Vec::<String>::new());
    let conflicts = shell.run(&["conflicts"]);
    assert!(
        !conflicts.contains("key"),
        "whoever lost still has the file: {conflicts}"
    );
}

fn content_types_are_found_or_given(store: &Store) {
    let shell = Shell::new(store);
    for name in ["page.html", "noextension", "photo.jpg"] {
        shell.write(name, b"data");
    }
    for (arguments, key, expected) in [
        (&["put", "page.html"][..], "page.html", "text/html"),
        (&["put", "page.html"], "no-extension", "text/html"),
        (&["put", "noextension"], "noextension", "application/octet-stream"),
        (&["put", "photo.jpg"], "photo.png", "image/png"),
        (
            &["put", "--content-type", "text/x-own; charset=utf-8", "photo.jpg"],
            "own",
            "text/x-own; charset=utf-8",
        ),
    ] {
        let address = shell.at_key(key);
        let arguments: Vec<&str> = arguments.iter().copied().chain([&*address]).collect();
        shell.run(&arguments);
        assert_eq!(store.bucket.head(key).content_type(), Some(expected));
        let document = shell.json(&["cat", "--json", &address]);
        assert_eq!(document["contentType"], expected);
    }
}

fn a_small_file_is_one_request(store: &Store) {
    let shell = Shell::new(store);
    shell.write("file", &pattern(1 << 20, 15));
    store.server().counts().reset();
    shell.run(&["put", "file", &shell.at_key("key")]);
    assert_eq!(
        store.server().counts().total(),
        1,
        "{:?}",
        store.server().counts().all()
    );
    store.server().counts().reset();
    shell.run(&["get", &shell.at_key("key"), "back"]);
    assert_eq!(
        store.server().counts().total(),
        1,
        "{:?}",
        store.server().counts().all()
    );
}

fn an_upload_that_fails_leaves_nothing(store: &Store) {
    let shell = Shell::new(store);
    shell.write("large", &pattern(40 << 20, 16));
    for operation in [
        Operation::CreateUpload,
        Operation::UploadPart,
        Operation::Complete,
    ] {
        let when = When::on(operation).for_ever();
        store
            .server()
            .faults()
            .inject(when, Fault::Answer("AccessDenied"));
        let done = shell.output(&["put", "--memory", "32M", "large", &shell.at_key("key")]);
        done.fails(4, "AccessDenied");
        store.server().faults().clear();
        assert_eq!(store.bucket.find("key"), None);
        assert_eq!(store.bucket.open_uploads(), Vec::<String>::new(), "{operation:?}");
    }
    store
        .server()
        .faults()
        .inject(When::on(Operation::Put).for_ever(), Fault::Answer("AccessDenied"));
    shell.write("small", b"data");
    shell
        .output(&["put", "small", &shell.at_key("key")])
        .fails(4, "check the credentials");
}

fn a_lost_reply_is_looked_into(store: &Store) {
    let shell = Shell::new(store);
    shell.write("small", b"data");
    shell.write("large", &pattern(40 << 20, 17));
    for (file, operation) in [("small", Operation::Put), ("large", Operation::Complete)] {
        for condition in [&["--if-none-match"][..], &[]] {
            store.bucket.delete("key");
            store
                .server()
                .faults()
                .inject(When::on(operation).times(1), Fault::LoseReply);
            let address = shell.at_key("key");
            let arguments = ["put", "--memory", "32M", file, &address];
            let arguments: Vec<&str> = arguments.iter().chain(condition).copied().collect();
            shell.run(&arguments);
            assert!(store.bucket.get("key") == shell.read(file));
            assert_eq!(store.bucket.open_uploads(), Vec::<String>::new());
        }
    }
}

/// A `put` that has begun an upload and waits for more input.
fn begin_stream(shell: &Shell, store: &Store) -> crate::support::command::Running {
    let script = "(cat large; exec sleep 60) | exec pailfs put --memory 32M - s3://$BUCKET/stream";
    let running = shell.tool("bash").args(["-c", script]).start();
    wait_until("parts of an upload", || {
        store.server().counts().of(Operation::UploadPart) > 0
    });
    running
}

/// The `pailfs put` of this shell: its directory is in the command line of nobody else.
fn putting_process(store: &Store) -> i32 {
    let address = format!("s3://{}/stream", store.bucket.name);
    let endpoint = format!("AWS_ENDPOINT_URL={}", store.endpoint_url);
    let is_ours = |process: &u32| {
        let environment = std::fs::read(format!("/proc/{process}/environ")).unwrap_or_default();
        environment
            .split(|byte| *byte == 0)
            .any(|line| line == endpoint.as_bytes())
    };
    let mut found = processes::with_arguments(&["pailfs", "put", &address]);
    found.retain(is_ours);
    assert_eq!(found.len(), 1);
    found[0] as i32
}

fn an_interrupted_upload_is_taken_back(store: &Store) {
    let shell = Shell::new(store);
    shell.write("large", &pattern(40 << 20, 18));
    let running = begin_stream(&shell, store);
    processes::signal(putting_process(store), libc::SIGTERM);
    wait_until("no upload", || store.bucket.open_uploads().is_empty());
    drop(running);
    assert_eq!(store.bucket.find("stream"), None);
}

fn a_killed_upload_is_aborted_by_the_next(store: &Store) {
    let shell = Shell::new(store);
    shell.write("large", &pattern(40 << 20, 19));
    let running = begin_stream(&shell, store);
    let process = putting_process(store);
    processes::signal(process, libc::SIGKILL);
    drop(running);
    // Until it is gone its records are its own.
    wait_until("its end", || !processes::is_alive(process as u32));
    assert_eq!(store.bucket.open_uploads(), ["stream"]);
    shell.write("small", b"data");
    shell.run(&["put", "small", &shell.at_key("small")]);
    assert_eq!(store.bucket.open_uploads(), Vec::<String>::new());
    assert_eq!(store.bucket.find("stream"), None);
}

fn what_cannot_be_uploaded_is_told(store: &Store) {
    let shell = Shell::new(store);
    shell.write("file", b"data");
    let key = shell.at_key("key");
    shell.output(&["put", "missing", &key]).fails(3, "missing");
    shell.output(&["put", ".", &key]).fails(2, "is a directory");
    shell
        .output(&["put", "-", &shell.at_key("")])
        .fails(2, "is a bucket");
    shell
        .output(&["put", "file", "s3://test/k", "--if-match", "e", "--if-none-match"])
        .fails(2, "cannot be used with");
    let long = shell.at_key(&"k".repeat(1025));
    shell.output(&["put", "file", &long]).fails(2, "1025 bytes");
    let done = shell.output(&["put", "--json", "file", "s3://no-such-bucket-here/key"]);
    done.fails(3, "pailfs buckets");
    assert_eq!(error_of(&done)["code"], "NoSuchBucket");
    // A file that changes while it is read: a pipe in between holds the command up.
    store.server().faults().inject(
        When::on(Operation::UploadPart).for_ever(),
        Fault::Delay(Duration::from_millis(300)),
    );
    shell.write("changing", &pattern(60 << 20, 20));
    let path = shell.work().join("changing");
    let changed_at = key.replace("key", "changing");
    let running = shell
        .tool(env!("CARGO_BIN_EXE_pailfs"))
        .args(["put", "--memory", "32M", "changing", &changed_at])
        .start();
    wait_until("a part", || store.server().counts().of(Operation::UploadPart) > 0);
    let file = std::fs::File::options().write(true).open(path).expect("opened");
    file.set_modified(SystemTime::now() + Duration::from_secs(5))
        .expect("changed");
    running.wait().fails(5, "changed while it was read");
    store.server().faults().clear();
    assert_eq!(store.bucket.find("changing"), None);
    assert_eq!(store.bucket.open_uploads(), Vec::<String>::new());
}
