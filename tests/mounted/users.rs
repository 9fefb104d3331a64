//! An ordinary user mounts through fusermount3. Where the tests run as an ordinary user, all others show this too.

use crate::support::command::script_tool;
use crate::support::is_root;
use crate::support::mount::NOBODY;
use crate::support::store::Store;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::{Mutex, MutexGuard, PoisonError};

const DEVICE: &str = "/dev/fuse";

crate::on_each_store!(an_ordinary_user_mounts, root_lets_others_in_only_when_told);

/// Some machines give the device to root only; everywhere else it is everybody's. For the time of a test it is so here.
pub struct DeviceForEverybody {
    former: fs::Permissions,
    _alone: MutexGuard<'static, ()>,
}

impl DeviceForEverybody {
    pub fn new() -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let former = fs::metadata(DEVICE).expect("the device is there").permissions();
        fs::set_permissions(DEVICE, fs::Permissions::from_mode(0o666)).expect("root may");
        Self {
            former,
            _alone: alone,
        }
    }
}

impl Drop for DeviceForEverybody {
    fn drop(&mut self) {
        fs::set_permissions(DEVICE, self.former.clone()).expect("root may");
    }
}

fn an_ordinary_user_mounts(store: &Store) {
    if !is_root() {
        return;
    }
    let _device = DeviceForEverybody::new();
    let mount = store.mount().user(NOBODY).start();
    let script =
        "echo x > file; mkdir dir; cp file dir/; chmod 600 file; ls -la; rm -r dir; stat -c '%u %a' file";
    let said = script_tool(&mount.work(), &format!("cd {}; {script}", mount.path().display()))
        .user(NOBODY)
        .run();
    assert_eq!(said.lines().last(), Some(format!("{NOBODY} 600").as_str()));
    // FUSE keeps even root out of what a user mounted for himself.
    assert!(fs::metadata(mount.path()).is_err());
    mount.unmount();
    assert_eq!(store.bucket.text("file"), "x\n");

    let mut mount = store.mount().user(NOBODY).start();
    mount.kill();
    crate::support::wait_until("the dead mount is detached", || !mount.is_mounted());
}

fn root_lets_others_in_only_when_told(store: &Store) {
    if !is_root() {
        return;
    }
    store.bucket.put("file", "x");
    let mount = store.mount().start();
    let read = |path: std::path::PathBuf| {
        script_tool("/".as_ref(), &format!("cat {}", path.display()))
            .user(NOBODY)
            .output()
    };
    read(mount.join("file")).fails(1, "denied");
    mount.unmount();
    let mount = store.mount().options("--allow-other").start();
    assert_eq!(read(mount.join("file")).success(), "x");
    fs::write(mount.join("secret"), "s").expect("written");
    script_tool(&mount.path(), "chmod 600 secret").run();
    read(mount.join("secret")).fails(1, "denied");
    assert_eq!(fs::metadata(mount.join("secret")).expect("there").uid(), 0);
}
