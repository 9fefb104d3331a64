//! A killed owner of a spool. Apart from the other tests, because a process that is being started has all open files of this
//! one for a moment, also those that other tests have just closed.

use pailfs::spool::{
    Conflict, ConflictForm, Leftovers, OpenUpload, RecordedBase, RecordedHeaders, Spool, SpoolFile,
    UnsentFile, conflicts,
};
use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::Duration;

const SOURCE: &str = "https://s3.example.com s3://bucket/prefix";
/// Far more than anything here takes.
const DEADLINE: Duration = Duration::from_mins(2);
const CHILD_STATE_DIR: &str = "PAILFS_TEST_SPOOL_CHILD";

fn open(state_dir: &Path) -> (Arc<Spool>, Leftovers) {
    Spool::open(state_dir, SOURCE).unwrap()
}

fn unsent(file: &SpoolFile, size_bytes: u64) -> UnsentFile {
    UnsentFile {
        bucket: "bucket".to_owned(),
        key: format!("key of {}", file.file_name()),
        base: RecordedBase::Absent,
        file_name: file.file_name().to_owned(),
        size_bytes,
        headers: RecordedHeaders::default(),
        transaction: "t".to_owned(),
        changes: None,
    }
}

fn whole(file: &SpoolFile, size_bytes: u64) -> Conflict {
    Conflict {
        bucket: "bucket".to_owned(),
        key: "k".to_owned(),
        found_unix_ms: 5,
        base_etag: None,
        theirs_etag: None,
        size_bytes,
        form: ConflictForm::Whole {
            file_name: file.file_name().to_owned(),
        },
    }
}

fn upload(n: u64) -> OpenUpload {
    OpenUpload {
        bucket: "bucket".to_owned(),
        key: "k".to_owned(),
        upload_id: n.to_string(),
    }
}

fn instance_dirs(state_dir: &Path) -> HashSet<PathBuf> {
    let entries = std::fs::read_dir(state_dir.join("instances")).unwrap();
    entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect()
}

/// Not a test of its own: what [`a_killed_owner_loses_nothing_that_was_recorded`] starts and kills.
#[test]
fn child_that_records_until_it_is_killed() {
    let Some(state_dir) = std::env::var_os(CHILD_STATE_DIR) else {
        return;
    };
    let (spool, _leftovers) = open(Path::new(&state_dir));
    say(&format!("open {}", spool.instance_dir().display()));
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let spool = &spool;
            scope.spawn(move || record_for_ever(spool, thread));
        }
    });
}

/// One line of its own, whatever the test harness prints meanwhile.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\n@{line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

fn content(name: &str) -> Vec<u8> {
    name.repeat(100).into_bytes()
}

fn record_for_ever(spool: &Arc<Spool>, thread: u64) {
    for n in 0.. {
        let file = spool.create_file().unwrap();
        let name = file.file_name().to_owned();
        let bytes = content(&name);
        file.write_at(0, &bytes).unwrap();
        let record = spool.record_unsent(&unsent(&file, bytes.len() as u64)).unwrap();
        say(&format!("recorded {name}"));
        match (n + thread) % 4 {
            0 => {
                say(&format!("forgetting {name}"));
                spool.forget(record).unwrap();
                say(&format!("forgotten {name}"));
            }
            1 => {
                say(&format!("fighting {name}"));
                spool.record_conflict(&whole(&file, bytes.len() as u64)).unwrap();
                say(&format!("fought {name}"));
            }
            _ => {
                let upload = spool.record_upload(&upload(n)).unwrap();
                spool.forget(upload).unwrap();
            }
        }
    }
}

fn start_child(state_dir: &Path) -> (Child, mpsc::Receiver<String>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_records_until_it_is_killed", "--nocapture"])
        .env(CHILD_STATE_DIR, state_dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (sender, lines) = mpsc::channel();
    let out = BufReader::new(child.stdout.take().unwrap());
    std::thread::spawn(move || {
        let said = out
            .lines()
            .map_while(Result::ok)
            .filter_map(|line| line.strip_prefix('@').map(str::to_owned));
        said.for_each(|line| {
            // The test has given up when nobody listens.
            let _ = sender.send(line);
        });
    });
    (child, lines)
}

#[test]
fn a_killed_owner_loses_nothing_that_was_recorded() {
    let state = tempfile::tempdir().unwrap();
    // The last word on each file.
    let mut files: HashMap<String, String> = HashMap::new();
    let mut instance = None;
    for round in 0..6 {
        let (mut child, lines) = start_child(state.path());
        for line in 0..20 + 7 * round {
            let said = lines
                .recv_timeout(DEADLINE)
                .expect("the child says something in time");
            hear(&said, &mut files, &mut instance);
            if line == 5 {
                // The living child's directory is left alone.
                let (ours, leftovers) = open(state.path());
                assert_ne!(Some(ours.instance_dir().to_owned()), instance);
                assert!(leftovers.uploads.is_empty() && leftovers.unsent.is_empty());
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        while let Ok(said) = lines.recv_timeout(DEADLINE) {
            hear(&said, &mut files, &mut instance);
        }
    }
    assert!(files.len() > 20, "the children did too little");

    let (spool, leftovers) = open(state.path());
    assert_eq!(instance_dirs(state.path()).len(), 1);
    let mut found = HashSet::new();
    for (_, unsent) in &leftovers.unsent {
        let name = &unsent.file_name;
        let mut bytes = vec![0; unsent.size_bytes as usize];
        spool.open_file(name).unwrap().read_at(0, &mut bytes).unwrap();
        assert_eq!(bytes, content(name));
        assert!(found.insert(name.clone()), "{name} is there twice");
    }
    let kept: HashSet<Vec<u8>> = spool
        .conflicts()
        .unwrap()
        .into_iter()
        .map(|(id, _)| conflicts::open(state.path(), &conflicts::id_of(id).unwrap()).unwrap())
        .map(|kept| std::fs::read(kept.bytes.unwrap()).unwrap())
        .collect();
    for (name, last) in &files {
        let (is_unsent, is_kept) = (found.contains(name), kept.contains(&content(name)));
        let right = match last.as_str() {
            "recorded" => is_unsent && !is_kept,
            "forgotten" => !is_unsent && !is_kept,
            "forgetting" => !is_kept,
            "fought" => is_kept && !is_unsent,
            "fighting" => is_kept != is_unsent,
            other => panic!("{other}?"),
        };
        assert!(right, "{name}: last {last}, unsent {is_unsent}, kept {is_kept}");
    }
    // Nothing but what is recorded takes up space.
    let on_disk = std::fs::read_dir(spool.instance_dir().join("files"))
        .unwrap()
        .count();
    assert_eq!(on_disk, leftovers.unsent.len());
}

fn hear(said: &str, files: &mut HashMap<String, String>, instance: &mut Option<PathBuf>) {
    let (what, name) = said.split_once(' ').unwrap();
    if what == "open" {
        *instance = Some(PathBuf::from(name));
    } else {
        files.insert(name.to_owned(), what.to_owned());
    }
}
