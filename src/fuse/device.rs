//! Makes a mount, and with it the descriptor over which the kernel speaks.
//!
//! Difficulties, and what solves each:
//! 1. fuser could mount by itself, but drops the subtype when root mounts, and at the end unmounts by path once more, which
//!    hits whatever is mounted there by then. So it is given a descriptor that is mounted already ([`mount`]).
//! 2. Only root may call mount(2); for others the set-user-id program fusermount3 does it and passes the descriptor back
//!    over a socket, whose number it finds in its environment ([`by_helper`]; libfuse, `util/fusermount.c`).
//! 3. Names in the mount table are part of comma-separated options: `cli` lets no commas through.

use crate::base::mount_config::{KernelFlag, MountConfig};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

const DEVICE: &str = "/dev/fuse";
const HELPERS: [&str; 2] = ["fusermount3", "fusermount"];
const SOCKET_VARIABLE: &str = "_FUSE_COMMFD";

/// Mounts at `config.mount_point`; the kernel's requests are to be read from what is returned.
///
/// # Errors
/// What mount(2) says, or fusermount3 in its own words.
pub(super) fn mount(config: &MountConfig) -> io::Result<OwnedFd> {
    match by_system_call(config) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES)) => by_helper(config),
        result => result,
    }
}

/// Undoes [`mount`] when nothing has answered the kernel yet.
pub(super) fn unmount(mount_point: &Path) {
    let Ok(path) = CString::new(mount_point.as_os_str().as_bytes()) else {
        return;
    };
    // SAFETY: `path` is a NUL-terminated string that lives through the call.
    if unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW) } == 0 {
        return;
    }
    for program in HELPERS {
        let status = Command::new(program)
            .args(["-u", "-z", "--"])
            .arg(mount_point)
            .status();
        if status.is_ok_and(|status| status.success()) {
            return;
        }
    }
}

fn open_device() -> io::Result<OwnedFd> {
    let named = |error: io::Error| match error.raw_os_error() {
        Some(libc::ENOENT) => io::Error::new(error.kind(), format!("{DEVICE} is missing (modprobe fuse)")),
        _ => error,
    };
    let mut options = std::fs::OpenOptions::new();
    let device = options
        .read(true)
        .write(true)
        .custom_flags(libc::O_CLOEXEC)
        .open(DEVICE);
    device.map(OwnedFd::from).map_err(named)
}

fn by_system_call(config: &MountConfig) -> io::Result<OwnedFd> {
    let device = open_device()?;
    let metadata = std::fs::metadata(&config.mount_point)?;
    // SAFETY: these two calls have no preconditions and cannot fail (credentials(7)).
    let (uid, gid) = unsafe { (libc::getuid(), libc::getgid()) };
    let (descriptor, root_mode) = (device.as_raw_fd(), metadata.mode() & libc::S_IFMT);
    let mut data = format!("fd={descriptor},rootmode={root_mode:o},user_id={uid},group_id={gid}");
    for option in access_options(config) {
        data.push(',');
        data.push_str(option);
    }
    let mut flags = if config.access.read_only {
        libc::MS_RDONLY
    } else {
        0
    };
    for flag in &config.kernel_flags {
        flags |= system_flag(*flag);
    }
    let source = CString::new(config.fsname.as_str())?;
    let target = CString::new(config.mount_point.as_os_str().as_bytes())?;
    let kind = CString::new(format!("fuse.{}", config.subtype))?;
    let data = CString::new(data)?;
    // SAFETY: all are NUL-terminated strings that live through the call.
    let result = unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            kind.as_ptr(),
            flags,
            data.as_ptr().cast(),
        )
    };
    if result == 0 {
        Ok(device)
    } else {
        Err(io::Error::last_os_error())
    }
}

fn access_options(config: &MountConfig) -> Vec<&'static str> {
    let access = &config.access;
    let wanted = [
        (access.default_permissions, "default_permissions"),
        (access.allow_other, "allow_other"),
    ];
    wanted
        .into_iter()
        .filter_map(|(is_wanted, option)| is_wanted.then_some(option))
        .collect()
}

fn system_flag(flag: KernelFlag) -> libc::c_ulong {
    match flag {
        KernelFlag::NoDev => libc::MS_NODEV,
        KernelFlag::NoSuid => libc::MS_NOSUID,
        KernelFlag::NoExec => libc::MS_NOEXEC,
        KernelFlag::Sync => libc::MS_SYNCHRONOUS,
        KernelFlag::DirSync => libc::MS_DIRSYNC,
        KernelFlag::NoAtime => libc::MS_NOATIME,
        KernelFlag::Dev | KernelFlag::Suid | KernelFlag::Exec | KernelFlag::Async | KernelFlag::Atime => 0,
    }
}

fn option_of_flag(flag: KernelFlag) -> &'static str {
    match flag {
        KernelFlag::Dev => "dev",
        KernelFlag::NoDev => "nodev",
        KernelFlag::Suid => "suid",
        KernelFlag::NoSuid => "nosuid",
        KernelFlag::Exec => "exec",
        KernelFlag::NoExec => "noexec",
        KernelFlag::Sync => "sync",
        KernelFlag::Async => "async",
        KernelFlag::DirSync => "dirsync",
        KernelFlag::Atime => "atime",
        KernelFlag::NoAtime => "noatime",
    }
}

fn by_helper(config: &MountConfig) -> io::Result<OwnedFd> {
    let mut options = vec![
        format!("fsname={}", config.fsname),
        format!("subtype={}", config.subtype),
        if config.access.read_only { "ro" } else { "rw" }.to_owned(),
    ];
    options.extend(access_options(config).into_iter().map(str::to_owned));
    options.extend(
        config
            .kernel_flags
            .iter()
            .map(|flag| option_of_flag(*flag).to_owned()),
    );
    let options = options.join(",");
    for program in HELPERS {
        match run_helper(program, &options, &config.mount_point) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => return result,
        }
    }
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        "fusermount3 is not installed (package fuse3)",
    ))
}

fn run_helper(program: &str, options: &str, mount_point: &Path) -> io::Result<OwnedFd> {
    let (ours, its) = UnixStream::pair()?;
    let its_number = its.as_raw_fd();
    let mut command = Command::new(program);
    command.args(["-o", options, "--"]).arg(mount_point);
    command
        .env(SOCKET_VARIABLE, its_number.to_string())
        .env("LC_ALL", "C");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    // SAFETY: one system call, which may be made between fork and exec.
    unsafe { command.pre_exec(move || stay_open_across_exec(its_number)) };
    let child = command.spawn()?;
    // So that the end of the child is the end of the stream.
    drop(its);
    let received = receive_descriptor(&ours);
    drop(ours);
    let output = child.wait_with_output()?;
    match received? {
        Some(device) => Ok(device),
        None => Err(io::Error::other(
            String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        )),
    }
}

fn stay_open_across_exec(descriptor: RawFd) -> io::Result<()> {
    // SAFETY: no memory is involved.
    if unsafe { libc::fcntl(descriptor, libc::F_SETFD, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The descriptor that comes over `socket`; `None` when the other side closes it without sending one.
fn receive_descriptor(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0_u8; 1];
    let mut data = libc::iovec {
        iov_base: byte.as_mut_ptr().cast(),
        iov_len: byte.len(),
    };
    // Room for one header and one descriptor, aligned as headers are.
    let mut control = [0_u64; 8];
    // SAFETY: all zeros is a valid message without anything.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut data;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    loop {
        // SAFETY: the message points to buffers of the lengths that it says, which outlive the call.
        let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
        if received >= 0 {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    // SAFETY: the kernel filled in the message; the macro's function stays within its control buffer.
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message).as_ref() };
    let Some(header) = header.filter(|header| header.cmsg_type == libc::SCM_RIGHTS) else {
        return Ok(None);
    };
    // SAFETY: a message of this type carries at least one descriptor, which is ours from now on.
    unsafe {
        let descriptor = libc::CMSG_DATA(header).cast::<RawFd>().read_unaligned();
        Ok(Some(OwnedFd::from_raw_fd(descriptor)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_closes_brings_no_descriptor() {
        let (ours, its) = UnixStream::pair().expect("a pair");
        drop(its);
        assert!(receive_descriptor(&ours).expect("no error").is_none());
    }

    #[test]
    fn what_the_helper_says_is_the_error() {
        let missing = Path::new("/no/such/directory");
        let error = run_helper("sh", "true", missing).expect_err("not a helper");
        assert!(!error.to_string().is_empty(), "{error}");
        let error = run_helper("no-such-program", "", missing).expect_err("no program");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
