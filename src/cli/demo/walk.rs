//! What `pailfs demo --once` does: ordinary commands on the mount, each shown with its result and checked.

use self::Expected::{Failure as Refused, Output, Success, SuccessOf};
use super::samples::LIBRARY;
use crate::base::object::ObjectId;
use crate::cli::failure::Failure;
use crate::s3::Client;
use crate::s3::types::GetRequest;
use std::io::{Write, stdout};
use std::path::Path;
use std::process::{Command, Stdio};

/// No step takes longer on a working mount.
const STEP_LIMIT_SECONDS: u32 = 120;
/// Of a step's output, this much is shown.
const SHOWN_LINES: usize = 6;

/// One command, and what its output must be.
struct Step {
    says: &'static str,
    /// Run by `sh -eu` in the mount point.
    command: &'static str,
    expected: Expected,
}

enum Expected {
    Success,
    Failure,
    Output(&'static str),
    /// A program that is not installed everywhere; without it, the step is left out.
    SuccessOf(&'static str),
}

const STEPS: &[Step] = &[
    step("Buckets are directories", "ls", Output("library\nmeasurements\n")),
    step(
        "Objects are files",
        "ls -l library library/letters/2024/05",
        Success,
    ),
    step(
        "Read one",
        "cat library/README.txt",
        Output("Every file here is an object in a bucket of that name, byte for byte.\n"),
    ),
    step(
        "Any name can be typed",
        "cat 'library/odd names/naïve – Straße – 日本語 – 🪣.txt'",
        Output("In any script.\n"),
    ),
    step(
        "An object beside a directory of its name",
        "cat 'library/~%report' && ls library/report",
        Success,
    ),
    step(
        "Count lines in a year of tables",
        "cat measurements/2024/*/*.csv | wc -l",
        Output("3480\n"),
    ),
    step(
        "Write a file",
        "echo hello > library/hello.txt && cat library/hello.txt",
        Output("hello\n"),
    ),
    step(
        "Append to it",
        "echo again >> library/hello.txt && cat library/hello.txt",
        Output("hello\nagain\n"),
    ),
    step(
        "Change its beginning",
        "printf J | dd of=library/hello.txt conv=notrunc status=none && cat library/hello.txt",
        Output("Jello\nagain\n"),
    ),
    step(
        "Make it shorter",
        "truncate -s 5 library/hello.txt && cat library/hello.txt",
        Output("Jello"),
    ),
    step(
        "Who creates first, wins",
        "set -C; echo other > library/hello.txt",
        Refused,
    ),
    step(
        "Copy a tree",
        "cp -r library/books library/copy && diff -r library/books library/copy && find library/copy -type f | wc -l",
        Output("72\n"),
    ),
    step(
        "Rename a file",
        "mv library/hello.txt 'library/copy/good bye.txt' && cat 'library/copy/good bye.txt'",
        Output("Jello"),
    ),
    step(
        "Rename a directory",
        "mv library/copy library/moved && find library/moved -type f | wc -l && ! ls library/copy",
        Output("73\n"),
    ),
    step(
        "Make and remove a directory",
        "mkdir library/empty && ls -A library/empty && rmdir library/empty && ! ls library/empty",
        Output(""),
    ),
    step("A full directory is not removed", "rmdir library/moved", Refused),
    step(
        "Pack and unpack",
        "tar cf measurements/2024.tar -C measurements 2024 && mkdir measurements/unpacked && \
         tar xf measurements/2024.tar -C measurements/unpacked && \
         diff -r measurements/2024 measurements/unpacked/2024",
        Output(""),
    ),
    step(
        "Read something large",
        "wc -c < measurements/archive/readings-2023.bin",
        Output("50331648\n"),
    ),
    step(
        "Write something large, and read it back",
        "f=$(mktemp) && trap 'rm -f \"$f\"' EXIT && dd if=/dev/urandom of=\"$f\" bs=1M count=64 status=none && \
         dd if=\"$f\" of=measurements/large.bin bs=1M status=none && cmp \"$f\" measurements/large.bin && echo equal",
        Output("equal\n"),
    ),
    step(
        "A repository on a bucket",
        "git init -q library/repository && cd library/repository && cp ../README.txt . && git add . && \
         git -c user.name=demo -c user.email=demo@localhost commit -q -m First && git clone -q . ../clone && \
         git -C ../clone fsck && git -C ../clone log --oneline | wc -l",
        SuccessOf("git"),
    ),
    step(
        "Remove trees",
        "rm -rf library/moved library/repository library/clone measurements/unpacked measurements/large.bin && ls library",
        Success,
    ),
    step(
        "What is there in the end",
        "echo 'kept as an object' > library/last.txt && stat -c '%s %F' library/last.txt",
        Output("18 regular file\n"),
    ),
];

const fn step(says: &'static str, command: &'static str, expected: Expected) -> Step {
    Step {
        says,
        command,
        expected,
    }
}

/// Runs every step in `mount_point`, then looks at the bucket without the mount.
///
/// # Errors
/// When any of them did not do what it should; all are run nonetheless.
pub fn walk(
    mount_point: &Path,
    in_bucket: impl FnOnce(&ObjectId) -> Result<Vec<u8>, Failure>,
) -> Result<(), Failure> {
    let mut wrong = Vec::new();
    let count = STEPS.len() + 1;
    for step in STEPS {
        if let Err(problem) = run(step, mount_point) {
            say(&format!("   WRONG: {problem}\n"));
            wrong.push(step.says.to_owned());
        }
    }
    let last = ObjectId::new(LIBRARY, "last.txt");
    say(&format!("\n{count}. And the store itself says: {last}\n"));
    match in_bucket(&last) {
        Ok(body) if body == b"kept as an object\n" => say("   kept as an object\n"),
        Ok(body) => wrong.push(format!("{last} has {:?}", String::from_utf8_lossy(&body))),
        Err(failure) => wrong.push(format!("{last}: {failure}")),
    }
    if wrong.is_empty() {
        say(&format!("\nAll {count} steps did what they should.\n"));
        return Ok(());
    }
    Err(Failure::failed(format!(
        "{} of {count} steps went wrong: {}",
        wrong.len(),
        wrong.join("; ")
    )))
}

/// The whole object, past the mount.
///
/// # Errors
/// What the store says.
pub async fn read_object(client: &Client, id: &ObjectId) -> Result<Vec<u8>, Failure> {
    let request = GetRequest {
        id: id.clone(),
        range: None,
        if_match: None,
        version_id: None,
    };
    let mut reply = client.get(&request).await?;
    let mut whole = Vec::new();
    while let Some(piece) = reply.body.next().await? {
        whole.extend_from_slice(&piece);
    }
    Ok(whole)
}

fn run(step: &Step, mount_point: &Path) -> Result<(), String> {
    if let Expected::SuccessOf(program) = step.expected
        && !is_installed(program)
    {
        say(&format!(
            "\n{} (left out: {program} is not installed)\n",
            step.says
        ));
        return Ok(());
    }
    say(&format!("\n{}\n   $ {}\n", step.says, step.command));
    // Its own deadline: whatever hangs is ended, and reported as the failure that it is.
    let mut command = Command::new("timeout");
    command.args([
        "--kill-after=5",
        &STEP_LIMIT_SECONDS.to_string(),
        "sh",
        "-euc",
        step.command,
    ]);
    let command = command
        .current_dir(mount_point)
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null());
    let output = command
        .output()
        .map_err(|error| format!("could not be run: {error}"))?;
    let (text, errors) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    show(&text);
    show(&errors);
    match &step.expected {
        Expected::Failure if output.status.success() => Err("it should have been refused".into()),
        Expected::Failure if output.status.code() == Some(124) => Err("it did not end".into()),
        Expected::Failure => Ok(()),
        _ if !output.status.success() => Err(format!("{}", output.status)),
        Expected::Output(expected) if *expected != text => Err(format!("expected {expected:?}")),
        _ => Ok(()),
    }
}

fn is_installed(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|directory| directory.join(program).is_file())
}

fn show(text: &str) {
    let lines: Vec<&str> = text.lines().collect();
    for line in lines.iter().take(SHOWN_LINES) {
        say(&format!("   {line}\n"));
    }
    if lines.len() > SHOWN_LINES {
        say(&format!("   … {} more lines\n", lines.len() - SHOWN_LINES));
    }
}

/// Output that nobody reads is no reason to stop.
fn say(text: &str) {
    let mut output = stdout().lock();
    let _nobody_reads = output.write_all(text.as_bytes()).and_then(|()| output.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_checked() {
        let here = tempfile::tempdir().expect("a temporary directory");
        let run = |command, expected| run(&step("a step", command, expected), here.path());
        assert_eq!(run("echo a", Expected::Output("a\n")), Ok(()));
        assert!(run("echo b", Expected::Output("a\n")).is_err());
        assert!(run("false; true", Expected::Success).is_err());
        assert_eq!(run("false", Expected::Failure), Ok(()));
        assert!(run("true", Expected::Failure).is_err());
        assert_eq!(run("exit 1", Expected::SuccessOf("no-such-program")), Ok(()));
        assert!(run("exit 1", Expected::SuccessOf("sh")).is_err());
    }

    #[test]
    fn the_steps_know_the_samples() {
        let size = format!("{}\n", super::super::samples::LARGE_OBJECT_BYTES);
        assert!(
            STEPS
                .iter()
                .any(|step| matches!(step.expected, Output(text) if text == size))
        );
    }

    /// The steps hold on any directory with the samples in it: so they do not test what no filesystem does.
    #[test]
    fn the_walk_passes_on_a_local_directory() {
        let here = tempfile::tempdir().expect("a temporary directory");
        for sample in super::super::samples::samples() {
            // Beside a directory of its name, an object has the escaped one.
            let name = if sample.key == "report" {
                "~%report".to_owned()
            } else {
                sample.key.clone()
            };
            let path = here.path().join(sample.bucket).join(name);
            std::fs::create_dir_all(path.parent().expect("has one")).expect("made");
            std::fs::write(path, sample.body.pieces().concat()).expect("written");
        }
        let in_bucket = |id: &ObjectId| {
            let path = here.path().join(&*id.bucket).join(&*id.key);
            std::fs::read(path).map_err(|error| Failure::io(&error, "object"))
        };
        assert_eq!(walk(here.path(), in_bucket), Ok(()));
    }
}
