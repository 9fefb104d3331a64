//! Other programs that keep attributes in objects: s3fs and rclone. Each sees what the other stored.

use crate::support::command::{Tool, bash, has_program};
use crate::support::is_root;
use crate::support::mount::Place;
use crate::support::store::{ACCESS_KEY, SECRET_KEY, Store};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

crate::on_the_embedded_store!(s3fs_and_we_see_the_same);
crate::on_each_store!(rclone_and_we_see_the_same);

/// A mount by s3fs, which is gone when this is dropped.
struct S3fs {
    path: PathBuf,
}

impl S3fs {
    fn mount(store: &Store, place: &Place) -> Self {
        let path = place.work().join("s3fs");
        fs::create_dir_all(&path).expect("made");
        let keys = place.work().join("keys");
        fs::write(&keys, format!("{ACCESS_KEY}:{SECRET_KEY}")).expect("written");
        fs::set_permissions(&keys, fs::Permissions::from_mode(0o600)).expect("set");
        Tool::new("s3fs")
            .arg(&store.bucket.name)
            .arg(&path)
            .args([
                "-o",
                &format!("url={},passwd_file={}", store.endpoint_url, keys.display()),
            ])
            .args([
                "-o",
                "use_path_request_style,use_xattr,enable_noobj_cache,stat_cache_expire=1",
            ])
            .run();
        Self { path }
    }
}

impl Drop for S3fs {
    fn drop(&mut self) {
        Tool::new("umount").arg("-l").arg(&self.path).output();
    }
}

const MAKE: &str = "umask 022; mkdir DIR; cd DIR; echo hello > f; chmod 640 f; chown 12:34 f; mkdir d; chmod 750 d; ln -s f link; \
    python3 -c 'import os; os.setxattr(\"f\", \"user.colour\", b\"red\"); os.setxattr(\"d\", \"user.shape\", b\"round\")'; \
    ln -s 'no where' dangling; touch -d '2001-02-03 04:05:06.123456789Z' f";

/// What is to be the same, whoever looks.
fn seen(directory: &Path) -> String {
    bash(
        directory,
        "stat -c '%n %F %a %u %g %s' d f link dangling; stat -c '%.9Y' f; readlink link dangling; cat link; ls; \
         python3 -c 'import os; print(os.getxattr(\"f\", \"user.colour\"), os.getxattr(\"d\", \"user.shape\"))'",
    )
}

fn s3fs_and_we_see_the_same(store: &Store) {
    if !is_root() || !has_program("s3fs") {
        return;
    }
    let place = Place::new();
    let s3fs = S3fs::mount(store, &place);
    bash(&s3fs.path, &MAKE.replace("DIR", "theirs"));
    let mount = store.mount().at(&place).options("--metadata-format s3fs").start();
    let theirs = seen(&s3fs.path.join("theirs"));
    assert!(theirs.contains("f regular file 640 12 34 6\n"), "{theirs}");
    assert_eq!(seen(&mount.join("theirs")), theirs);
    let links = bash(&mount.path(), "find . -type l | sort");
    assert_eq!(links, "./theirs/dangling\n./theirs/link\n");

    bash(&mount.path(), &MAKE.replace("DIR", "ours"));
    // What they stored, we change.
    bash(
        &mount.path(),
        "chmod 604 theirs/f; touch -d '2003-02-03 04:05:06.5Z' theirs/f; mv theirs/d theirs/e; mv theirs/e theirs/d",
    );
    mount.unmount();
    let again = store.mount().at(&place).start();
    assert_eq!(seen(&again.join("ours")), theirs);
    drop(s3fs);
    let s3fs = S3fs::mount(store, &place);
    assert_eq!(seen(&s3fs.path.join("ours")), theirs);
    let changed = seen(&again.join("theirs"));
    assert!(changed.contains("f regular file 604 12 34 6\n"), "{changed}");
    assert_eq!(seen(&s3fs.path.join("theirs")), changed);
}

fn rclone_and_we_see_the_same(store: &Store) {
    if !is_root() || !has_program("rclone") {
        return;
    }
    let place = Place::new();
    let rclone = |words: &[&str]| {
        Tool::new("rclone")
            .args(["--config", "/dev/null", "--metadata"])
            .args(words)
            .env("RCLONE_CONFIG_R_TYPE", "s3")
            .env("RCLONE_CONFIG_R_PROVIDER", "Other")
            .env("RCLONE_CONFIG_R_ENDPOINT", &store.endpoint_url)
            .env("RCLONE_CONFIG_R_REGION", "us-east-1")
            .env("RCLONE_CONFIG_R_ACCESS_KEY_ID", ACCESS_KEY)
            .env("RCLONE_CONFIG_R_SECRET_ACCESS_KEY", SECRET_KEY)
            .current_dir(place.work())
            .run()
    };
    let bucket = format!("r:{}", store.bucket.name);
    let make = "mkdir -p DIR; echo hello > DIR/f; chmod 4640 DIR/f; chown 12:34 DIR/f; chmod 4640 DIR/f; touch -d '2001-02-03 04:05:06.123456789Z' DIR/f; \
        python3 -c 'import os; os.setxattr(\"DIR/f\", \"user.colour\", b\"red\")' || true";
    let seen = |path: &Path| bash(path, "stat -c '%n %a %u %g %s %.9Y' f; cat f");
    let expected = "f 4640 12 34 6 981173106.123456789\nhello\n";
    bash(&place.work(), &make.replace("DIR", "local"));
    fs::create_dir(place.work().join("local/empty")).expect("made");
    let directories = ["--create-empty-src-dirs", "--s3-directory-markers"];
    let theirs = format!("{bucket}/theirs");
    rclone(
        &[
            &directories[..],
            &["copy", "local", &theirs, "--metadata-set", "colour=blue"],
        ]
        .concat(),
    );
    let mount = store
        .mount()
        .at(&place)
        .options("-o suid --metadata-format s3fs")
        .start();
    assert_eq!(seen(&mount.join("theirs")), expected);
    assert_eq!(bash(&mount.join("theirs"), "ls -p"), "empty/\nf\n");
    bash(&mount.path(), &make.replace("DIR", "ours"));
    bash(&mount.path(), "mkdir -p ours/none ours/d; echo x > ours/d/x");
    mount.unmount();
    rclone(&[&directories[..], &["copy", &format!("{bucket}/ours"), "back"]].concat());
    // rclone reads the mode in octal, and other programs' decimal one not at all.
    let back = bash(
        &place.work().join("back"),
        "stat -c '%.9Y %u %g' f; cat f d/x; ls -p",
    );
    assert_eq!(back, "981173106.123456789 12 34\nhello\nx\nd/\nf\nnone/\n");
    // The other way, of what it stored and we changed.
    for (format, mtime) in [("s3fs", "1044245106.500000000"), ("aws", "1044245107.250000000")] {
        let options = format!("-o suid --metadata-format {format}");
        let mount = store.mount().at(&place).options(&options).start();
        assert_eq!(seen(&mount.join("ours")), expected);
        bash(
            &mount.path(),
            &format!("touch -d @{mtime} theirs/f; chmod 600 theirs/f"),
        );
        mount.unmount();
        let again = store.mount().at(&place).start();
        assert_eq!(
            seen(&again.join("theirs")),
            format!("f 600 12 34 6 {mtime}\nhello\n")
        );
        again.unmount();
        // What it said of the object besides stays; times of the other family it does not know.
        let told = rclone(&["lsjson", &theirs, "--files-only"]);
        let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
        assert_eq!(told[0]["Metadata"]["colour"], "blue", "{told}");
        rclone(&["copyto", &format!("{theirs}/f"), "changed"]);
        let changed = bash(&place.work(), "cat changed; stat -c %.9Y changed; rm changed");
        assert!(changed.starts_with("hello\n"), "{changed}");
        assert_eq!(changed.contains(mtime), format == "s3fs", "{changed}");
    }
}
