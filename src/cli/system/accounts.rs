//! User and group names to numbers, through the C library, so that directory services count too.

use std::ffi::CString;
use std::ptr;

/// The number of the user `name`; `None` when there is none (or its entry cannot be read).
#[must_use]
pub fn user_number(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    let mut buffer: Vec<libc::c_char> = vec![0; 64 << 10];
    let mut found: *mut libc::passwd = ptr::null_mut();
    // SAFETY: `passwd` is plain data for which all zero bytes are valid; the call fills it.
    let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
    // SAFETY: all pointers are to live values of this frame, and the buffer's length is its own (getpwnam_r(3)).
    let code = unsafe {
        libc::getpwnam_r(
            name.as_ptr(),
            &raw mut entry,
            buffer.as_mut_ptr(),
            buffer.len(),
            &raw mut found,
        )
    };
    (code == 0 && !found.is_null()).then_some(entry.pw_uid)
}

/// The number of the group `name`; `None` when there is none (or its entry cannot be read).
#[must_use]
pub fn group_number(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // A group's entry holds all its members.
    let mut buffer: Vec<libc::c_char> = vec![0; 1 << 20];
    let mut found: *mut libc::group = ptr::null_mut();
    // SAFETY: as above.
    let mut entry: libc::group = unsafe { std::mem::zeroed() };
    // SAFETY: as above (getgrnam_r(3)).
    let code = unsafe {
        libc::getgrnam_r(
            name.as_ptr(),
            &raw mut entry,
            buffer.as_mut_ptr(),
            buffer.len(),
            &raw mut found,
        )
    };
    (code == 0 && !found.is_null()).then_some(entry.gr_gid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_known_everywhere_and_nonsense_nowhere() {
        assert_eq!((user_number("root"), group_number("root")), (Some(0), Some(0)));
        assert_eq!(
            (user_number("no such user"), group_number("no such group")),
            (None, None)
        );
        assert_eq!(user_number("a\0b"), None);
    }
}
