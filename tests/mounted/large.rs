//! Files larger than memory should be: content, and the daemon's peak of memory.

use crate::support::command::{Tool, bash};
use crate::support::files;
use crate::support::processes;
use crate::support::store::Store;
use crate::support::{is_nightly, pattern};
use pailfs::embedded::Operation;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::time::Duration;

crate::on_each_store!(a_large_file_goes_both_ways, a_large_file_is_changed_in_the_middle);
crate::on_the_embedded_store!(
    memory_is_bounded,
    edits_of_a_huge_object_move_little,
    headers_that_are_rewritten_at_the_end_commit_nothing_early,
);

const MIB: usize = 1 << 20;

fn a_large_file_goes_both_ways(store: &Store) {
    let data = pattern(48 * MIB + 4321, 7);
    let mount = store.mount().options("--memory 64MiB").start();
    let local = mount.work().join("local");
    fs::write(&local, &data).expect("written");
    Tool::new("cp").arg(&local).arg(mount.join("large")).run();
    assert!(store.bucket.get("large") == data);
    Tool::new("cmp").arg(&local).arg(mount.join("large")).run();
    let place = mount.place.clone();
    mount.unmount();
    assert_eq!(store.bucket.open_uploads(), [""; 0]);
    let mount = store.mount().options("--memory 64MiB").start();
    Tool::new("cmp")
        .arg(place.work().join("local"))
        .arg(mount.join("large"))
        .run();
    // Here and there, backwards too.
    let file = fs::File::open(mount.join("large")).expect("opened");
    for offset in [40 * MIB, 3, 20 * MIB + 1, 48 * MIB, 0] {
        let mut seen = vec![0; 4000];
        file.read_exact_at(&mut seen, offset as u64).expect("read");
        assert!(seen == data[offset..offset + 4000], "at {offset}");
    }
}

fn a_large_file_is_changed_in_the_middle(store: &Store) {
    let mut data = pattern(24 * MIB, 8);
    store.bucket.put("large", data.clone());
    let mount = store.mount().options("--memory 64MiB").start();
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(mount.join("large"))
        .expect("opened");
    file.write_all_at(b"changed", 10 * MIB as u64).expect("written");
    data[10 * MIB..10 * MIB + 7].copy_from_slice(b"changed");
    let mut seen = [0; 11];
    file.read_exact_at(&mut seen, 10 * MIB as u64 - 2).expect("read");
    assert_eq!(seen, data[10 * MIB - 2..10 * MIB + 9]);
    files::close(file).expect("committed");
    assert!(store.bucket.get("large") == data);
    bash(&mount.path(), "echo appended >> large; truncate -s +5 large");
    data.extend_from_slice(b"appended\n\0\0\0\0\0");
    assert!(store.bucket.get("large") == data);
    assert!(fs::read(mount.join("large")).expect("read") == data);
}

/// 10 GiB every night.
fn edits_of_a_huge_object_move_little(store: &Store) {
    const PIECE: usize = 32 * MIB;
    let times: u64 = if is_nightly() { 320 } else { 20 };
    let piece = pattern(PIECE, 9);
    store.bucket.put("piece", piece.clone());
    store.bucket.repeat("piece", times as i32, "huge");
    let mount = store.mount().limit(Duration::from_mins(25)).start();
    files::write(
        &mount.join("first"),
        b"the first write may find out what the store can do",
    )
    .expect("written");
    let counts = store.server().counts().clone();
    let size = PIECE as u64 * times;
    let edits = [
        format!(
            "printf '!' | dd of=huge bs=1 seek={} conv=notrunc status=none",
            size / 2
        ),
        "printf '!' >> huge".to_owned(),
        format!("truncate -s {} huge", size - 1_000),
    ];
    for edit in &edits {
        counts.reset();
        bash(&mount.path(), edit);
        let (up, down) = (counts.received_bytes(), counts.sent_bytes());
        println!(
            "{size} bytes, {edit}: {up} up, {down} down, {} requests",
            counts.total()
        );
        let most = 20 * MIB as u64;
        assert!(
            up <= most && down <= most,
            "{edit}: {up} up, {down} down: {:?}",
            counts.all()
        );
    }
    let file = fs::File::open(mount.join("huge")).expect("opened");
    assert_eq!(file.metadata().expect("stat").len(), size - 1_000);
    for (offset, changed) in [(size / 2 - 500, 500), (size - 2_000, usize::MAX), (0, usize::MAX)] {
        let mut seen = vec![0; 1_000];
        file.read_exact_at(&mut seen, offset).expect("read");
        let at = |n: usize| piece[(offset as usize + n) % PIECE];
        let expected = (0..1_000).map(|n| if n == changed { b'!' } else { at(n) });
        assert!(seen.iter().copied().eq(expected), "at {offset}");
    }
}

/// As mp4, wav and zip files are written: a stream, and then sizes into its first bytes and others behind its last.
fn headers_that_are_rewritten_at_the_end_commit_nothing_early(store: &Store) {
    let mut data = pattern(100 * MIB, 10);
    let mount = store.mount().options("--memory 32MiB").start();
    // Finds out what the store can do with uploads in parts.
    files::write(&mount.join("first"), &data[..24 * MIB]).expect("written");
    let counts = store.server().counts().clone();
    counts.reset();
    let mut file = fs::File::create(mount.join("film")).expect("made");
    for piece in data.chunks(MIB) {
        file.write_all(piece).expect("written");
    }
    let end = data.len() - 100;
    for (offset, text) in [(4, &b"size"[..]), (40, b"more"), (end, b"trailer")] {
        file.write_all_at(text, offset as u64).expect("written");
        data[offset..offset + text.len()].copy_from_slice(text);
    }
    files::close(file).expect("committed");
    assert!(store.bucket.get("film") == data);
    let uploads = [Operation::CreateUpload, Operation::Complete].map(|operation| counts.of(operation));
    assert_eq!(uploads, [1, 1], "{:?}", counts.all());
    assert!(counts.of(Operation::UploadPart) <= 14, "{:?}", counts.all());
    let up = counts.received_bytes();
    assert!(
        up < data.len() as u64 + MIB as u64,
        "each byte goes up once: {up}"
    );
}

fn memory_is_bounded(store: &Store) {
    const MEMORY_MIB: u64 = 64;
    let size_mib = if is_nightly() { 2_048 } else { 512 };
    let limit = Duration::from_mins(if is_nightly() { 20 } else { 6 });
    let options = format!("--memory {MEMORY_MIB}MiB");
    let mount = store.mount().options(&options).limit(limit).start();
    let local = mount.work().join("local");
    let dd = |from: &std::path::Path, to: &std::path::Path, count: u64| {
        let argument = |name: &str, path: &std::path::Path| format!("{name}={}", path.display());
        let tool = Tool::new("dd")
            .arg(argument("if", from))
            .arg(argument("of", to))
            .limit(limit);
        tool.args(["bs=1M", "iflag=fullblock", "status=none"])
            .arg(format!("count={count}"))
            .run();
    };
    dd("/dev/urandom".as_ref(), &local, size_mib);
    dd(&local, &mount.join("large"), size_mib);
    let written = processes::peak_memory_bytes(mount.process_id);
    let mount_again = store.mount().options(&options).limit(limit).start();
    Tool::new("cmp")
        .arg(&local)
        .arg(mount_again.join("large"))
        .limit(limit)
        .run();
    let back = mount.work().join("back");
    fs::remove_file(&local).expect("room");
    dd(&mount_again.join("large"), &back, size_mib);
    assert_eq!(fs::metadata(&back).expect("there").len(), size_mib << 20);
    let read = processes::peak_memory_bytes(mount_again.process_id);
    let allowed = (MEMORY_MIB + 100) << 20;
    assert!(
        written <= allowed && read <= allowed,
        "{} MiB writing, {} MiB reading",
        written >> 20,
        read >> 20
    );
}
