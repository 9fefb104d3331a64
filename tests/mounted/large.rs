//! Files larger than memory should be: content, and the daemon's peak of memory.

use crate::support::command::{Tool, bash};
use crate::support::files;
use crate::support::processes;
use crate::support::store::Store;
use crate::support::{is_nightly, pattern};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::time::Duration;

crate::on_each_store!(a_large_file_goes_both_ways, a_large_file_is_changed_in_the_middle);
crate::on_the_embedded_store!(memory_is_bounded);

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
