//! What the documents say about errors, exit codes and options is what the program does.

use clap::CommandFactory;
use pailfs::cli::args::Cli;
use pailfs::cli::failure::EXIT_CODES_HELP;
use std::collections::BTreeSet;

fn read(path: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn every_errno_is_explained_to_users() {
    let code = read("src/base/error.rs");
    let code = code.split("#[cfg(test)]").next().unwrap_or_default();
    let name = |rest: &str| {
        rest.chars()
            .take_while(char::is_ascii_alphanumeric)
            .collect::<String>()
    };
    let errnos: BTreeSet<String> = code
        .split("libc::")
        .skip(1)
        .map(name)
        .filter(|name| name.starts_with('E'))
        .collect();
    assert!(errnos.len() > 15, "{errnos:?}");
    let document = read("docs/SEMANTICS.md");
    let missing: Vec<_> = errnos
        .iter()
        .filter(|errno| !document.contains(&format!("`{errno}`")))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn the_readme_has_the_exit_codes_of_the_help() {
    let readme = read("README.md");
    let lines: Vec<&str> = EXIT_CODES_HELP.lines().skip(1).collect();
    assert_eq!(lines.len(), 6);
    for line in lines {
        let (code, meaning) = line.trim().split_once("  ").expect("a code and its meaning");
        assert!(readme.contains(&format!("| {code} | {meaning} |")), "{line}");
    }
}

#[test]
fn every_option_that_documents_name_exists() {
    let mut options: BTreeSet<String> = ["help", "version"].map(str::to_owned).into();
    let mut waiting = vec![Cli::command()];
    while let Some(command) = waiting.pop() {
        options.extend(
            command
                .get_arguments()
                .filter_map(|argument| argument.get_long().map(str::to_owned)),
        );
        waiting.extend(command.get_subcommands().cloned());
    }
    // Of other programs, in examples and comparisons, and of scripts here.
    let of_others = ["vfs-cache-mode", "path", "nightly"];
    for document in [
        "README.md",
        "docs/SEMANTICS.md",
        "docs/ARCHITECTURE.md",
        "docs/DECISIONS.md",
    ] {
        for rest in read(document).split("--").skip(1) {
            let name: String = rest
                .chars()
                .take_while(|c| c.is_ascii_lowercase() || *c == '-')
                .collect();
            let name = name.trim_end_matches('-');
            let known = name.is_empty() || of_others.contains(&name) || options.contains(name);
            assert!(known, "{document}: --{name} does not exist");
        }
    }
}
