//! pjdfstest, a suite of POSIX filesystem tests (crate `pjdfstest`; `scripts/test` installs the version that is meant).
//!
//! Difficulties, and what solves each:
//! 1. Some of its tests need what no object can be: each is in `exclusions`, with the reason. One that is there and passes
//!    fails this test, and one that is not there and does not pass does too.
//! 2. The list must be easy to keep: `PAILFS_TEST_WRITE_EXCLUSIONS=1` writes it anew, keeps the reasons, and leaves it to
//!    somebody to give the new ones theirs; an entry without one fails.

use crate::support::command::Tool;
use crate::support::server::find_tool;
use crate::support::store::Store;
use crate::support::{is_nightly, is_root};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

crate::on_the_embedded_store!(everything_passes_but_what_no_object_can_be);

const EXCLUSIONS: &str = include_str!("exclusions");
const EXCLUSIONS_PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/mounted/pjdfstest/exclusions");
/// How many tests must pass at least: a suite that runs nothing does not pass.
const LEAST_PASSES: usize = 334;
const LIMIT: Duration = Duration::from_mins(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Passes,
    Fails,
    Skipped,
    /// Only expected, never found: it depends on what the kernel does first.
    Varies,
}

fn everything_passes_but_what_no_object_can_be(store: &Store) {
    if !is_root() {
        return;
    }
    let Some(program) = find_tool("PAILFS_TEST_PJDFSTEST", "pjdfstest") else {
        return;
    };
    let mount = store
        .mount()
        .options("--allow-other -o suid -o dev")
        .limit(LIMIT)
        // Some tests kill programs that the kernel asks something for.
        .expect_in_log("Failed to send FUSE reply: No such file or directory")
        .start();
    // The second filesystem, for what must not work across two.
    let configuration = mount.work().join("pjdfstest.toml");
    fs::write(&configuration, configured()).expect("written");
    let done = Tool::new(program)
        .arg("-c")
        .arg(&configuration)
        .arg("-s")
        .arg(mount.work())
        .arg("-p")
        .arg(mount.path())
        .current_dir(mount.path())
        .limit(LIMIT)
        .output();
    let found = verdicts(&done.stdout);
    let passes = found.values().filter(|verdict| **verdict == Verdict::Passes);
    assert!(passes.count() >= LEAST_PASSES, "{}\n{}", done.stdout, done.stderr);
    let expected = exclusions();
    if std::env::var_os("PAILFS_TEST_WRITE_EXCLUSIONS").is_some() {
        fs::write(EXCLUSIONS_PATH, written(&found, &expected)).expect("the sources can be written");
        return;
    }
    let mut wrong = Vec::new();
    for (name, verdict) in &found {
        let wanted = expected.get(name).map_or(Verdict::Passes, |(wanted, _)| *wanted);
        if *verdict != wanted && wanted != Verdict::Varies {
            wrong.push(format!(
                "{name}: {verdict:?}, not {wanted:?}\n{}",
                said_of(name, &done.stdout)
            ));
        }
    }
    let unknown = expected.keys().filter(|name| !found.contains_key(*name));
    wrong.extend(unknown.map(|name| format!("{name} is excluded and does not exist")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_exclusion_has_its_reason() {
    for (name, (verdict, reason)) in exclusions() {
        assert!(
            reason.len() > 3 && verdict != Verdict::Passes,
            "{name}: {reason:?}"
        );
    }
}

fn configured() -> String {
    let nap_seconds = if is_nightly() { "1.0" } else { "0.02" };
    let groups = fs::read_to_string("/etc/group").expect("readable");
    let nobodys_group = if groups.contains("\nnogroup:") {
        "nogroup"
    } else {
        "nobody"
    };
    format!(
        "[features]\nposix_fallocate = {{}}\nutime_now = {{}}\nutimensat = {{}}\nrename_ctime = {{}}\n[settings]\nnaptime = {nap_seconds}\n\
         [dummy_auth]\nentries = [[\"nobody\", \"{nobodys_group}\"], [\"daemon\", \"daemon\"]]\n"
    )
}

/// What the suite said of each test: a line with its name and the verdict, and indented lines with the reason.
fn verdicts(output: &str) -> BTreeMap<String, Verdict> {
    let verdict = |line: &str| {
        let mut words = line.split_whitespace();
        let name = words.next().filter(|name| name.contains("::"))?;
        let verdict = match words.next()? {
            "ok" => Verdict::Passes,
            "FAILED" => Verdict::Fails,
            "skipped" => Verdict::Skipped,
            _ => return None,
        };
        (words.next().is_none() && !line.starts_with(char::is_whitespace)).then(|| (name.to_owned(), verdict))
    };
    output.lines().filter_map(verdict).collect()
}

fn said_of(name: &str, output: &str) -> String {
    let lines = output
        .lines()
        .skip_while(|line| line.split_whitespace().next() != Some(name));
    let said: Vec<&str> = lines
        .skip(1)
        .take_while(|line| line.starts_with(char::is_whitespace))
        .take(4)
        .collect();
    said.join("\n")
}

fn exclusions() -> BTreeMap<String, (Verdict, String)> {
    let entry = |line: &str| {
        let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
        let (verdict, reason) = rest.trim().split_once(' ').unwrap_or((rest.trim(), ""));
        let verdict = match verdict {
            "fails" => Verdict::Fails,
            "skipped" => Verdict::Skipped,
            "varies" => Verdict::Varies,
            _ => panic!("{}: {line:?}", Path::new(EXCLUSIONS_PATH).display()),
        };
        (name.to_owned(), (verdict, reason.trim().to_owned()))
    };
    let lines = EXCLUSIONS
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty());
    lines.map(entry).collect()
}

fn written(found: &BTreeMap<String, Verdict>, expected: &BTreeMap<String, (Verdict, String)>) -> String {
    let comments = EXCLUSIONS.lines().filter(|line| line.starts_with('#'));
    let mut text: String = comments.flat_map(|line| [line, "\n"]).collect();
    for (name, verdict) in found {
        let word = match verdict {
            _ if expected
                .get(name)
                .is_some_and(|(wanted, _)| *wanted == Verdict::Varies) =>
            {
                "varies"
            }
            Verdict::Passes | Verdict::Varies => continue,
            Verdict::Fails => "fails",
            Verdict::Skipped => "skipped",
        };
        let reason = expected.get(name).map_or("?", |(_, reason)| reason);
        writeln!(text, "{name:<48} {word:<8} {reason}").expect("memory");
    }
    text
}
