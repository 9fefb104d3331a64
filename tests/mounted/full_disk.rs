//! A state directory on a disk that is full.

use crate::support::files;
use crate::support::mount::Place;
use crate::support::pattern;
use crate::support::store::Store;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

crate::on_the_embedded_store!(a_stream_needs_no_disk_and_other_writes_say_so);

const MIB: usize = 1 << 20;

/// A small file system in memory.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` for who may not mount one.
    pub fn at(path: &Path, size_bytes: usize) -> Option<Self> {
        fs::create_dir_all(path).expect("made");
        let target = CString::new(path.to_str().expect("UTF-8")).expect("no NUL");
        let size = CString::new(format!("size={size_bytes}")).expect("no NUL");
        // SAFETY: all strings are NUL-terminated and live through the call.
        let mounted = unsafe {
            libc::mount(
                c"tmpfs".as_ptr(),
                target.as_ptr(),
                c"tmpfs".as_ptr(),
                0,
                size.as_ptr().cast(),
            )
        };
        (mounted == 0).then(|| Self(path.to_owned()))
    }

    fn fill(&self) {
        let mut file = File::create(self.0.join("ballast")).expect("made");
        while file.write_all(&[0; 4096]).is_ok() {}
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let target = CString::new(self.0.to_str().expect("UTF-8")).expect("no NUL");
        // SAFETY: the string is NUL-terminated and lives through the call.
        unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
    }
}

fn a_stream_needs_no_disk_and_other_writes_say_so(store: &Store) {
    let place = Place::new();
    let Some(disk) = SmallDisk::at(&place.work().join("disk"), 8 * MIB) else {
        eprintln!("skipped: only root may mount a tmpfs");
        return;
    };
    let mount = store
        .mount()
        .at(&place)
        .options("--memory 32MiB --stall-timeout 20s --state-dir")
        .options(disk.0.to_str().expect("UTF-8"))
        .expect_in_log("No space left on device")
        .start();
    disk.fill();
    let data = pattern(200 * MIB, 21);
    let mut stream = File::create(mount.join("stream")).expect("made");
    for piece in data.chunks(MIB) {
        stream.write_all(piece).expect("written");
    }
    files::close(stream).expect("committed");
    assert!(store.bucket.get("stream") == data);

    // Half of each block, so that no part is ever whole and nothing can be sent ahead.
    let file = File::create(mount.join("random")).expect("made");
    let mut expected = vec![0; 128 * MIB];
    file.set_len(128 * MIB as u64).expect("a sparse file");
    let mut refused = None;
    for block in (0..128).rev() {
        let piece = pattern(MIB / 2, 100 + block as u64);
        if let Err(error) = file.write_all_at(&piece, (block * MIB) as u64) {
            refused = error.raw_os_error();
            break;
        }
        expected[block * MIB..][..MIB / 2].copy_from_slice(&piece);
    }
    // A commit of the kernel's own may have made room.
    assert!(matches!(refused, None | Some(libc::ENOSPC)), "{refused:?}");
    files::close(file).expect("committed");
    assert!(
        store.bucket.get("random") == expected,
        "what was written is there"
    );
    mount.unmount();
    drop(disk);
}
