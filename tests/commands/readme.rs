//! The README's examples of commands without a mount, run as they stand there.

use crate::on_all_stores;
use crate::shell::Shell;
use crate::support::command::has_program;
use crate::support::store::Store;

on_all_stores!(every_example_works);

/// The commands of the section's example, in order.
fn examples() -> Vec<String> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(path).expect("README.md");
    let section = readme.split("## Without a mount\n").nth(1).expect("the section");
    let section = section.split("\n## ").next().unwrap_or_default();
    let blocks = section.split("```console\n").skip(1);
    let lines = blocks.flat_map(|block| block.split("```").next().unwrap_or_default().lines());
    lines
        .filter_map(|line| line.strip_prefix("$ "))
        .map(str::to_owned)
        .collect()
}

fn every_example_works(store: &Store) {
    if !has_program("curl") {
        return;
    }
    let shell = Shell::new(store);
    store.bucket.put("notes.txt", "four words are here\n");
    store.bucket.put("photos/1.jpg", vec![0xff; 300]);
    let examples = examples();
    for command in ["buckets", "ls", "cat", "get", "put", "rm", "url"] {
        assert!(
            examples
                .iter()
                .any(|line| line.contains(&format!("pailfs {command} "))
                    || line.ends_with(&format!("pailfs {command}"))),
            "no example of {command}"
        );
    }
    for line in examples {
        let done = shell.script(&line.replace("my-bucket", &store.bucket.name));
        assert_eq!(done.stderr, "", "{line}");
        let printed = done.success();
        if line.contains("wc -w") {
            assert_eq!(printed.trim(), "4", "{line}");
        }
    }
    assert_eq!(shell.read("copy.jpg"), vec![0xff; 300]);
    assert_eq!(shell.read("1.jpg"), shell.read("copy.jpg"));
    assert_eq!(store.bucket.keys(""), ["notes.txt", "photos/1.jpg"]);
}
