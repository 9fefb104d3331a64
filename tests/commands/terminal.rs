//! What a person at a terminal sees, and is asked.

use crate::on_the_embedded_store;
use crate::shell::Shell;
use crate::support::command::{Done, has_program};
use crate::support::pattern;
use crate::support::store::Store;
use pailfs::embedded::{Fault, Operation, When};
use std::time::Duration;

on_the_embedded_store!(
    a_transfer_shows_how_far_it_is,
    deleting_a_directory_asks,
    names_cannot_move_the_cursor,
);

fn on_a_terminal(shell: &Shell, answer: &str, arguments: &[&str]) -> Done {
    shell
        .tool("pailfs")
        .args(arguments)
        .on_a_terminal(answer)
        .output()
}

fn a_transfer_shows_how_far_it_is(store: &Store) {
    if !has_program("python3") {
        return;
    }
    let shell = Shell::new(store);
    shell.write("large", &pattern(40 << 20, 30));
    let slow = || Fault::Delay(Duration::from_millis(250));
    for operation in [Operation::UploadPart, Operation::Get] {
        store
            .server()
            .faults()
            .inject(When::on(operation).for_ever(), slow());
    }
    let address = shell.at_key("large");
    for arguments in [
        &["put", "--memory", "32M", "large", &address][..],
        &["get", "--memory", "32M", &address, "back"],
    ] {
        let seen = on_a_terminal(&shell, "", arguments).success();
        for part in ["/40.00 MiB", "/s", "left"] {
            assert!(seen.contains(part), "{arguments:?}: {seen:?}");
        }
        // In a pipe there is nothing: `run` looks at standard error.
        shell.run(arguments);
    }
}

fn deleting_a_directory_asks(store: &Store) {
    if !has_program("python3") {
        return;
    }
    let shell = Shell::new(store);
    for key in ["dir/a", "dir/b"] {
        store.bucket.put(key, "data");
    }
    let address = shell.at_key("dir");
    let seen = on_a_terminal(&shell, "n\n", &["rm", "--recursive", &address]);
    assert_eq!(seen.status.code(), Some(1), "{seen:?}");
    assert!(
        seen.stdout.contains("everything below s3://test/dir/? [y/N]"),
        "{seen:?}"
    );
    assert!(seen.stdout.contains("nothing was deleted"), "{seen:?}");
    assert_eq!(store.bucket.keys("").len(), 2);
    on_a_terminal(&shell, "y\n", &["rm", "--recursive", &address]).success();
    assert_eq!(store.bucket.keys("").len(), 0);
}

fn names_cannot_move_the_cursor(store: &Store) {
    if !has_program("python3") {
        return;
    }
    let shell = Shell::new(store);
    store.bucket.put("evil\u{1b}[2J\nname", "data");
    let seen = on_a_terminal(&shell, "", &["ls", &shell.at_key("")]).success();
    assert_eq!(seen.trim_end(), "evil\\u{1b}[2J\\nname");
}
