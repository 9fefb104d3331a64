//! The project's own rules, as tests: they hold without anybody remembering them. The rules and their own tests are in
//! `tests/tidy/`; here they are applied to all files, and the exceptions are listed.

#[path = "tidy/rules.rs"]
mod rules;
#[path = "tidy/source.rs"]
mod source;

use source::Source;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const MAX_CODE_LINES: usize = 600;
const MAX_FUNCTION_LINES: usize = 70;

/// Larger files, with their code lines. Only ever shorten this list.
const LARGE_FILES: &[(&str, usize)] = &[];

/// Longer functions (`path name`), with their lines. Only ever shorten this list.
const LONG_FUNCTIONS: &[(&str, usize)] = &[
    ("src/embedded/operations/copy.rs object", 71),
    ("src/embedded/state.rs apply", 74),
];

/// Directories and files that are not the project's text.
const NOT_OURS: &[&str] = &[".git", "target", "Cargo.lock", "LICENSE"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All files of the project that are text, as (path, text).
fn texts() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut waiting = vec![root()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).expect("a readable directory") {
            let path = entry.expect("a readable entry").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if NOT_OURS.contains(&name.as_ref()) {
                continue;
            }
            if path.is_dir() {
                waiting.push(path);
            } else if let Ok(text) = fs::read_to_string(&path) {
                found.push((relative(&path), text));
            }
        }
    }
    found.sort();
    found
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root())
        .expect("below the root")
        .to_string_lossy()
        .into_owned()
}

/// Rust files below one of the project's directories.
fn sources(below: &str) -> Vec<Source> {
    let is_rust =
        |path: &str| path.starts_with(below) && Path::new(path).extension().is_some_and(|kind| kind == "rs");
    let found: Vec<Source> = texts()
        .iter()
        .filter(|(path, _)| is_rust(path))
        .map(|(path, text)| Source::new(path, text))
        .collect();
    assert!(!found.is_empty(), "no sources below {below}");
    found
}

fn assert_none(violations: &[String]) {
    assert!(
        violations.is_empty(),
        "{} violations:\n{}",
        violations.len(),
        violations.join("\n")
    );
}

fn all(below: &str, rule: impl Fn(&Source) -> Vec<String>) {
    let violations: Vec<String> = sources(below).iter().flat_map(rule).collect();
    assert_none(&violations);
}

#[test]
fn imports_point_down() {
    all("src/", rules::layers);
}

#[test]
fn spawning_clocks_and_foreign_crates_stay_in_their_layers() {
    all("src/", rules::confined_words);
}

#[test]
fn panics_have_reasons() {
    all("src/", rules::unexplained_panics);
}

#[test]
fn silenced_lints_and_tests_have_reasons() {
    all("src/", rules::unexplained_exceptions);
    all("tests/", rules::unexplained_exceptions);
}

#[test]
fn modules_say_what_they_are() {
    all("src/", rules::missing_module_docs);
    all("tests/", rules::missing_module_docs);
}

#[test]
fn every_file_belongs_to_a_module() {
    assert_none(&rules::dead_files(&sources("src/")));
}

#[test]
fn files_stay_small() {
    let sizes = sources("src/")
        .iter()
        .map(|source| (source.path.clone(), rules::code_lines(source)))
        .collect();
    assert_none(&rules::ratchet(&sizes, MAX_CODE_LINES, LARGE_FILES));
}

#[test]
fn functions_stay_short() {
    let mut sizes: BTreeMap<String, usize> = BTreeMap::new();
    for source in sources("src/") {
        for (name, lines) in rules::functions(&source) {
            // Functions of one name in one file: the longest counts.
            let size = sizes.entry(format!("{} {name}", source.path)).or_default();
            *size = lines.max(*size);
        }
    }
    assert_none(&rules::ratchet(&sizes, MAX_FUNCTION_LINES, LONG_FUNCTIONS));
}

/// Put together here, so that this file does not contain what it looks for.
#[test]
fn the_project_speaks_only_of_itself() {
    let forbidden = [["issue", " #"], ["/wo", "rk/"], ["/w", "t/"]].map(|parts| parts.concat());
    let violations: Vec<String> = texts()
        .iter()
        .flat_map(|(path, text)| rules::forbidden_texts(path, text, &forbidden))
        .collect();
    assert_none(&violations);
}

#[test]
fn nothing_ends_processes_by_name() {
    let forbidden = [["pki", "ll"], ["kill", "all"]].map(|parts| parts.concat());
    let violations: Vec<String> = texts()
        .iter()
        .flat_map(|(path, text)| rules::forbidden_texts(path, text, &forbidden))
        .collect();
    assert_none(&violations);
}
