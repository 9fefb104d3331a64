//! What goes wrong: exit codes, words, JSON.

use crate::on_all_stores;
use crate::on_the_embedded_store;
use crate::schema;
use crate::shell::Shell;
use crate::support::command::Done;
use crate::support::store::Store;
use pailfs::embedded::{Fault, Operation, When};
use serde_json::Value;

on_all_stores!(what_is_missing_is_told);
on_the_embedded_store!(
    what_is_denied_is_told,
    wrong_command_lines_are_told,
    a_store_that_cannot_be_reached_is_told,
    credentials_that_are_missing_are_told,
    nobody_has_to_read_what_is_said,
);

/// The last line of standard error, where the text above says the same.
#[track_caller]
pub fn error_of(done: &Done) -> Value {
    let last = done.stderr.lines().last().unwrap_or_default();
    let document: Value = serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {done:#?}"));
    schema::check("error", &document);
    let error = document["error"].clone();
    assert_eq!(
        error["exitCode"],
        done.status.code().expect("an exit code"),
        "{done:#?}"
    );
    let first = error["message"]
        .as_str()
        .expect("a message")
        .lines()
        .next()
        .unwrap_or_default();
    assert!(done.stderr.starts_with(&format!("pailfs: {first}")), "{done:#?}");
    error
}

fn what_is_missing_is_told(store: &Store) {
    let shell = Shell::new(store);
    let (key, odd) = (shell.at_key("missing"), shell.at_key("line\nend"));
    for (command, code) in [
        (&["cat", "--json", &key][..], "NoSuchKey"),
        (&["get", "--json", &key], "NoSuchKey"),
    ] {
        let done = shell.output(command);
        done.fails(3, "pailfs ls");
        let error = error_of(&done);
        assert_eq!(
            (&error["key"], &error["code"]),
            (&"missing".into(), &code.into()),
            "{error}"
        );
        assert_eq!(error["bucket"], store.bucket.name);
        assert_eq!(error["status"], 404);
    }
    let done = shell.output(&["cat", "--json", &odd]);
    done.fails(3, "line\\nend");
    assert_eq!(error_of(&done)["key"], "line\nend");
    for command in [
        &["ls", "--json", "s3://no-such-bucket-here"][..],
        &["cat", "--json", "s3://no-such-bucket-here/key"],
        &["get", "--json", "s3://no-such-bucket-here/key"],
    ] {
        let done = shell.output(command);
        done.fails(3, "no-such-bucket-here");
        assert_eq!(done.stdout, "", "{command:?}");
        let error = error_of(&done);
        assert_eq!(error["code"], "NoSuchBucket", "{command:?}: {error}");
        assert!(
            error["advice"]
                .as_str()
                .expect("advice")
                .contains("pailfs buckets")
        );
    }
    assert_eq!(shell.files(), Vec::<String>::new());
}

fn what_is_denied_is_told(store: &Store) {
    let shell = Shell::new(store);
    store.bucket.put("key", "data");
    shell.write("file", b"data");
    let key = shell.at_key("key");
    store
        .server()
        .faults()
        .inject(When::any().for_ever(), Fault::Answer("AccessDenied"));
    for command in [
        &["buckets", "--json"][..],
        &["ls", "--json", &key],
        &["cat", "--json", &key],
        &["get", "--json", &key],
        &["put", "--json", "file", &key],
        &["rm", "--json", "--missing-ok", &key],
        &["rm", "--json", "--recursive", "--yes", &key],
    ] {
        let done = shell.output(command);
        done.fails(4, "check the credentials");
        if command[0] == "rm" {
            // The last line sums up; those about keys are above.
            assert!(done.stderr.contains("\"code\":\"AccessDenied\""), "{done:?}");
            continue;
        }
        assert_eq!(error_of(&done)["code"], "AccessDenied", "{command:?}");
    }
    store.server().faults().clear();
    // A listing that breaks off is no listing.
    store
        .bucket
        .put_all((0..1500).map(|number| format!("many/{number:04}")), b"x");
    store.server().faults().inject(
        When::on(Operation::List).nth(2).for_ever(),
        Fault::Answer("AccessDenied"),
    );
    let done = shell.output(&["ls", "--json", "--recursive", &shell.at_key("many/")]);
    done.fails(4, "AccessDenied");
    assert!(serde_json::from_str::<Value>(&done.stdout).is_err());
    assert_eq!(done.stdout.lines().count(), 1001);
}

fn wrong_command_lines_are_told(store: &Store) {
    let shell = Shell::new(store);
    for (command, part) in [
        (&["ls", "--json", "bucket"][..], "s3://BUCKET"),
        (&["cat", "--json", "s3://bucket"], "is a bucket"),
        (&["get", "--json", "s3://bucket"], "cannot be a file's name"),
        (
            &["cat", "--json", "s3://bucket/k", "--encoding", "latin1"],
            "latin1",
        ),
        (
            &["cat", "--json", "s3://bucket/k", "--memory", "1M"],
            "at least 32MiB",
        ),
        (
            &["cat", "--json", "s3://bucket/k", "--stall-timeout", "0s"],
            "longer than nothing",
        ),
        (&["ls", "--json"], "required"),
    ] {
        let done = shell.output(command);
        done.fails(2, part);
        error_of(&done);
    }
    assert_eq!(store.server().counts().of(Operation::List), 0);
}

fn a_store_that_cannot_be_reached_is_told(_: &Store) {
    let nowhere = Shell::at("http://127.0.0.1:9", "bucket");
    let done = nowhere.output(&["cat", "--json", "--stall-timeout", "1s", "s3://bucket/key"]);
    done.fails(1, "--endpoint-url");
    let error = error_of(&done);
    assert_eq!(
        (&error["bucket"], &error["key"]),
        (&"bucket".into(), &"key".into())
    );
    assert_eq!((&error["code"], &error["status"]), (&"".into(), &0.into()));
}

fn credentials_that_are_missing_are_told(_: &Store) {
    let shell = Shell::at("http://127.0.0.1:9", "bucket");
    let script = "unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY; pailfs ls --json s3://bucket";
    let done = shell.script(script);
    done.fails(4, "no credentials");
    assert_eq!(error_of(&done)["exitCode"], 4);
}

/// A pipe without a reader, as `2>&1 | head` leaves it.
fn nobody_has_to_read_what_is_said(store: &Store) {
    store.bucket.put("here", b"x".to_vec());
    let shell = Shell::new(store);
    let done = shell.script(
        "mkfifo pipe; exec 3<>pipe 4>pipe 3<&-
        for command in \"cat s3://$BUCKET/missing\" \"cat --json s3://$BUCKET/missing\" 'no-such-command'; do
            code=0; pailfs $command 2>&4 || code=$?; echo $code
        done
        for command in conflicts 'conflicts list --json' 'cache status' 'cache clear' \"cat s3://$BUCKET/here\" --help; do
            pailfs $command >&4; echo $?
        done",
    );
    assert_eq!(done.success(), "3\n3\n2\n0\n0\n0\n0\n0\n0\n");
}
