//! A disk that does not answer: who opens a file under a lease waits until its holder gives it back (fcntl(2)).

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

/// Given back when it is dropped, or by the kernel after `/proc/sys/fs/lease-break-time` (45 s).
pub struct Lease(#[expect(dead_code, reason = "closed when it is dropped")] File);

impl Lease {
    /// On the data of the only version in a directory of the disk cache.
    pub fn on_the_only_file_below(directory: &Path) -> Self {
        let paths = ["kept", "probation"]
            .iter()
            .flat_map(|place| std::fs::read_dir(directory.join(place)).expect("a directory"))
            .map(|entry| entry.expect("an entry").path().join("data"))
            .collect::<Vec<_>>();
        let [path] = &paths[..] else { panic!("{paths:?}") };
        // SAFETY: no handler is installed; the kernel's news of a broken lease would end the process.
        unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
        let file = File::options().read(true).write(true).open(path).expect("opened");
        // A descriptor that another thread's child has inherited for a moment stands in the way, or one that is not closed yet.
        for _ in 0..1000 {
            // SAFETY: the descriptor is open.
            if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK) } == 0 {
                return Self(file);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("no lease: {}", std::io::Error::last_os_error());
    }
}
