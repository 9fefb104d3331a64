//! The examples in `docs/SEMANTICS.md` do what they show: two shells, each on a mount of its own of one bucket.
//!
//! `A$ ` and `B$ ` begin a command of one shell, what follows is all that it prints; `…` stands for anything.

use crate::support::command::starting;
use crate::support::mount::{Mount, Place};
use crate::support::store::Store;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

crate::on_the_embedded_store!(the_examples_are_true);

const DOCUMENT: &str = include_str!("../../docs/SEMANTICS.md");
/// For one command.
const LIMIT: Duration = Duration::from_secs(60);
const END: &str = "-- end of the command --";

/// Commands come line by line, and what they change (descriptors, options) lasts.
const LOOP: &str = r#"exec 2>&1; while IFS= read -r line; do eval "$line"; echo "$END"; done"#;

#[derive(Debug)]
struct Step {
    shell: char,
    command: String,
    output: Vec<String>,
}

/// The blocks of the section "Examples".
fn examples() -> Vec<Vec<Step>> {
    let section = DOCUMENT
        .split("\n## ")
        .find(|section| section.starts_with("Examples\n"))
        .expect("a section with examples");
    let blocks = section.split("\n```\n").skip(1).step_by(2);
    blocks
        .map(|block| {
            let mut steps: Vec<Step> = Vec::new();
            for line in block.lines() {
                let command = ['A', 'B']
                    .into_iter()
                    .find_map(|shell| Some((shell, line.strip_prefix(&format!("{shell}$ "))?)));
                match (command, steps.last_mut()) {
                    (Some((shell, command)), _) => steps.push(Step {
                        shell,
                        command: command.to_owned(),
                        output: Vec::new(),
                    }),
                    (None, Some(step)) => step.output.push(line.to_owned()),
                    (None, None) => panic!("an example begins with a command, not with {line:?}"),
                }
            }
            steps
        })
        .collect()
}

/// True when `text` is `pattern`, in which `…` stands for anything.
fn matches(pattern: &str, text: &str) -> bool {
    let mut pieces = pattern.split('…');
    let Some(mut rest) = text.strip_prefix(pieces.next().unwrap_or_default()) else {
        return false;
    };
    let pieces: Vec<&str> = pieces.collect();
    for (index, piece) in pieces.iter().enumerate() {
        if index + 1 == pieces.len() {
            return rest.ends_with(piece);
        }
        let Some(at) = rest.find(piece) else { return false };
        rest = &rest[at + piece.len()..];
    }
    rest.is_empty()
}

/// A bash in a mount. Killed when dropped.
struct Shell {
    process: Child,
    lines: mpsc::Receiver<String>,
}

impl Shell {
    fn start(mount: &Mount, place: &Place) -> Self {
        let program = std::path::Path::new(env!("CARGO_BIN_EXE_pailfs"));
        let path = format!(
            "{}:{}",
            program.parent().expect("in a directory").display(),
            std::env::var("PATH").unwrap_or_default()
        );
        let _starting = starting();
        let mut process = Command::new("bash")
            .args(["--noprofile", "--norc", "-c", LOOP])
            .env("END", END)
            .env("PATH", path)
            .env("LC_ALL", "C.UTF-8")
            .env("PAILFS_STATE_DIR", place.state())
            .current_dir(mount.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("bash");
        let output = BufReader::new(process.stdout.take().expect("piped"));
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { process, lines }
    }

    fn run(&mut self, command: &str) -> Vec<String> {
        let input = self.process.stdin.as_mut().expect("piped");
        writeln!(input, "{command}").expect("bash reads");
        let mut printed = Vec::new();
        loop {
            match self.lines.recv_timeout(LIMIT) {
                Ok(line) if line == END => return printed,
                Ok(line) => printed.push(line),
                Err(error) => panic!("{command}: {error}; printed so far: {printed:?}"),
            }
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // It may be gone already.
        let _killed = self.process.kill();
        let _status = self.process.wait();
    }
}

fn the_examples_are_true(store: &Store) {
    let places = [Place::new(), Place::new()];
    let mounts = [0, 1].map(|i| store.mount().at(&places[i]).expect_in_log("").start());
    let examples = examples();
    assert!(examples.len() >= 4, "{examples:#?}");
    for example in examples {
        let mut shells = [0, 1].map(|i| Shell::start(&mounts[i], &places[i]));
        for step in &example {
            let printed = shells[usize::from(step.shell == 'B')].run(&step.command);
            let as_shown = printed.len() == step.output.len()
                && printed
                    .iter()
                    .zip(&step.output)
                    .all(|(text, pattern)| matches(pattern, text));
            assert!(as_shown, "{step:#?} printed {printed:#?}");
        }
    }
    for mount in mounts {
        mount.unmount();
    }
}

#[test]
fn dots_stand_for_anything() {
    assert!(matches("a … c…", "a b c") && matches("…", "") && matches("abc", "abc"));
    assert!(!matches("a…c", "ab") && !matches("ab", "abc") && !matches("…b…d", "a b c"));
}
