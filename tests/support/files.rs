//! File operations that the standard library does not have, or whose errors it hides.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::IntoRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// `close(2)` with its result, which dropping a file hides.
pub fn close(file: File) -> io::Result<()> {
    // SAFETY: the descriptor is ours, and not used afterwards.
    check(unsafe { libc::close(file.into_raw_fd()) })
}

/// Creates exclusively, writes and closes: the three may each say that somebody else was first.
pub fn create_exclusively(path: &Path, data: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    let written = file.write_all(data);
    let closed = close(file);
    written.and(closed)
}

/// Writes a whole file, and reports what `close` says.
pub fn write(path: &Path, data: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(data)?;
    close(file)
}

/// `renameat2(2)` that does not replace.
pub fn rename_without_replacing(from: &Path, to: &Path) -> io::Result<()> {
    let text = |path: &Path| CString::new(path.as_os_str().as_bytes()).expect("no NUL in a path");
    let (from, to) = (text(from), text(to));
    // SAFETY: both are NUL-terminated strings that live through the call.
    let result = unsafe {
        libc::renameat2(
            libc::AT_FDCWD,
            from.as_ptr(),
            libc::AT_FDCWD,
            to.as_ptr(),
            libc::RENAME_NOREPLACE,
        )
    };
    check(result)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The error number of what must fail.
#[track_caller]
pub fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> i32 {
    let error = result.expect_err("must fail");
    error
        .raw_os_error()
        .unwrap_or_else(|| panic!("not from the system: {error:?}"))
}
