//! Objects that are much larger than the memory that may be used for them.

use crate::on_the_embedded_store;
use crate::shell::Shell;
use crate::support::command::Running;
use crate::support::store::Store;
use crate::support::{is_nightly, pattern, poll};
use std::io::Write;
use std::time::Duration;

on_the_embedded_store!(a_large_object_takes_bounded_memory);

const MIB: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(1200);

/// Waits for the end; returns the most memory that the process had, in bytes.
fn peak_memory(mut running: Running) -> u64 {
    let mut peak = 0;
    let status = format!("/proc/{}/status", running.id());
    let ended = poll(LIMIT, || {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        peak = peak.max(kib.unwrap_or(0) << 10);
        running.has_ended().then_some(())
    });
    assert_eq!(ended, Some(()), "no end within {LIMIT:?}");
    running.wait().success();
    peak
}

fn a_large_object_takes_bounded_memory(store: &Store) {
    let shell = Shell::new(store);
    // 5 GiB with the memory that commands take unasked; in every run less of both.
    let (count, options, limit_bytes) = if is_nightly() {
        (5 * 1024 / 8, &[][..], 300 * MIB)
    } else {
        (200 / 8, &["--memory", "32M"][..], 110 * MIB)
    };
    let piece = pattern(8 << 20, 40);
    let mut file = std::fs::File::create(shell.work().join("large")).expect("made");
    for number in 0..count {
        // No two pieces are equal, so that none can take another's place.
        file.write_all(&u64::to_le_bytes(number)).expect("written");
        file.write_all(&piece[8..]).expect("written");
    }
    drop(file);
    let address = shell.at_key("large");
    for arguments in [&["put", "large", &address][..], &["get", &address, "back"]] {
        let tool = shell
            .tool(env!("CARGO_BIN_EXE_pailfs"))
            .args(arguments)
            .args(options);
        let peak = peak_memory(tool.start());
        eprintln!("{}: at most {} MiB", arguments[0], peak / MIB);
        assert!(
            peak > 0 && peak < limit_bytes,
            "{}: {} MiB",
            arguments[0],
            peak / MIB
        );
    }
    shell.script("cmp large back").success();
    assert_eq!(store.bucket.open_uploads(), Vec::<String>::new());
}
