//! Programs that ask much of a filesystem.

use crate::support::command::{Tool, bash, has_program, script_tool};
use crate::support::mount::Mount;
use crate::support::store::Store;
use pailfs::embedded::Operation;
use std::path::Path;

crate::on_each_store!(
    a_tar_archive_unpacks_identically,
    git_clones_and_checks,
    copies_keep_everything,
    rsync_goes_both_ways,
    rsync_appends_in_place,
    sqlite_keeps_its_databases,
    sqlite_with_a_write_ahead_log,
    children_share_a_descriptor,
);

/// A small tree with what trees have: depth, empty files and directories, executables, links, odd names, some size.
const MAKE_TREE: &str = r#"
    mkdir -p tree/deep/er/est tree/empty "tree/with space"
    for i in $(seq 40); do echo "file $i" > tree/f$i; done
    head -c 300000 /dev/urandom > tree/deep/er/est/random
    : > tree/nothing
    echo 'echo hi' > "tree/with space/script"
    chmod 755 "tree/with space/script"
    chmod 600 tree/f1
    chmod 444 tree/f2
    ln -s ../f1 tree/deep/link
    ln -s missing tree/dangling
    echo ü > 'tree/ünï ¢ode'
    touch -d '2010-01-02 03:04:05.678 UTC' tree/f3 tree/deep
"#;

/// Says nothing when both trees are equal in content, type, permissions, owner and modification time.
fn compare(source: &Path, target: &Path) -> String {
    let tool = Tool::new("rsync").args(["-n", "-a", "--checksum", "--itemize-changes", "--delete"]);
    tool.arg(format!("{}/", source.display()))
        .arg(format!("{}/", target.display()))
        .run()
}

/// As [`compare`], for files and links only: what a remount must keep.
fn compare_files(source: &Path, target: &Path) -> Vec<String> {
    let differences = compare(source, target);
    let is_file = |line: &&str| !line.starts_with(".d");
    differences.lines().filter(is_file).map(str::to_owned).collect()
}

fn remount(store: &Store, mount: Mount) -> Mount {
    mount.unmount();
    store.mount().start()
}

fn a_tar_archive_unpacks_identically(store: &Store) {
    let mount = store.mount().start();
    let work = mount.work();
    bash(&work, &format!("{MAKE_TREE} tar cf tree.tar tree"));
    bash(&mount.path(), &format!("tar xf {}/tree.tar", work.display()));
    bash(
        &work,
        &format!("diff -r --no-dereference tree {}/tree", mount.path().display()),
    );
    bash(&mount.path(), "tar cf again.tar tree; tar df again.tar");
    let place = mount.place.clone();
    let mount = remount(store, mount);
    bash(
        &place.work(),
        &format!("diff -r --no-dereference tree {}/tree", mount.path().display()),
    );
}

fn git_clones_and_checks(store: &Store) {
    if !has_program("git") {
        return;
    }
    let mount = store.mount().start();
    let work = mount.work();
    let git = |directory: &Path, script: &str| {
        let tool = script_tool(directory, script)
            .env("HOME", &work)
            .env("GIT_CONFIG_NOSYSTEM", "1");
        let tool = tool
            .env("GIT_AUTHOR_NAME", "A")
            .env("GIT_AUTHOR_EMAIL", "a@example.org");
        tool.env("GIT_COMMITTER_NAME", "A")
            .env("GIT_COMMITTER_EMAIL", "a@example.org")
            .run()
    };
    git(
        &work,
        r#"
        git init -q -b main origin && cd origin
        for n in 1 2 3; do
            mkdir -p dir$n/sub
            for i in $(seq 12); do echo "content $n $i" > dir$n/sub/file$i; done
            ln -sf sub/file1 dir$n/link
            git add -A && git commit -q -m "commit $n"
        done
        "#,
    );
    git(
        &mount.path(),
        &format!(
            r#"
            git clone -q --no-hardlinks {}/origin clone
            cd clone
            test -z "$(git status --porcelain)"
            git fsck --strict
            echo changed >> dir1/sub/file1
            git commit -q -a -m change
            git gc -q
            git fsck --strict
            git log --oneline | wc -l | grep -qx 4
            "#,
            work.display()
        ),
    );
    let place = mount.place.clone();
    let mount = remount(store, mount);
    git(
        &mount.path(),
        &format!(
            "cd clone; git fsck --strict; test -z \"$(git status --porcelain)\"; ls {} > /dev/null",
            place.work().display()
        ),
    );
}

fn copies_keep_everything(store: &Store) {
    if !has_program("rsync") {
        return;
    }
    let mount = store.mount().start();
    let work = mount.work();
    bash(
        &work,
        &format!("{MAKE_TREE} cp -a tree {}/", mount.path().display()),
    );
    assert_eq!(compare(&work.join("tree"), &mount.join("tree")), "");
    bash(&mount.path(), "cp -a tree second");
    assert_eq!(compare(&work.join("tree"), &mount.join("second")), "");
    let place = mount.place.clone();
    let mount = remount(store, mount);
    let differences = compare_files(&place.work().join("tree"), &mount.join("tree"));
    assert!(differences.is_empty(), "{differences:#?}");
}

fn rsync_goes_both_ways(store: &Store) {
    if !has_program("rsync") {
        return;
    }
    let mount = store.mount().start();
    let (work, mounted) = (mount.work(), mount.path());
    bash(
        &work,
        &format!("{MAKE_TREE} rsync -a tree/ {}/tree/", mounted.display()),
    );
    assert_eq!(compare(&work.join("tree"), &mount.join("tree")), "");
    bash(
        &work,
        &format!(
            "rsync -a {}/tree/ back/; diff -r --no-dereference tree back",
            mounted.display()
        ),
    );
    assert_eq!(compare(&mount.join("tree"), &work.join("back")), "");
    bash(
        &work,
        &format!(
            "echo more >> tree/f5; rm tree/f6; echo new > tree/deep/new
             rsync -a --delete tree/ {0}/tree/
             rsync -a --delete --inplace tree/ {0}/tree/",
            mounted.display()
        ),
    );
    assert_eq!(compare(&work.join("tree"), &mount.join("tree")), "");
}

fn rsync_appends_in_place(store: &Store) {
    if !has_program("rsync") {
        return;
    }
    let mount = store.mount().start();
    let (work, mounted) = (mount.work(), mount.path());
    bash(
        &work,
        &format!(
            "head -c 3000000 /dev/urandom > log; rsync --inplace log {0}/log
             for i in 1 2 3; do
                 head -c 700000 /dev/urandom >> log
                 rsync --inplace --append log {0}/log
                 cmp log {0}/log
             done
             printf x | dd of=log bs=1 seek=1000000 conv=notrunc status=none
             rsync --inplace --no-whole-file --ignore-times log {0}/log
             cmp log {0}/log",
            mounted.display()
        ),
    );
    assert!(store.bucket.get("log") == std::fs::read(work.join("log")).expect("read"));
}

/// A descriptor that is inherited is flushed by every child that ends.
fn children_share_a_descriptor(store: &Store) {
    const CHILDREN: usize = 100;
    let mount = store.mount().start();
    bash(&mount.path(), "echo x > first");
    if store.is_embedded() {
        store.server().counts().reset();
    }
    bash(
        &mount.path(),
        &format!("for i in $(seq {CHILDREN}); do /bin/echo \"line $i\"; done > log"),
    );
    let lines: Vec<String> = (1..=CHILDREN).map(|n| format!("line {n}")).collect();
    assert_eq!(store.bucket.text("log").lines().collect::<Vec<_>>(), lines);
    let uploads = || {
        let counts = store.server().counts();
        counts.of(Operation::Put) + counts.of(Operation::Complete)
    };
    if store.is_embedded() {
        // Each has written something, and one flush comes before that.
        assert!(
            uploads() <= CHILDREN as u64 + 2,
            "{:?}",
            store.server().counts().all()
        );
        store.server().counts().reset();
    }
    bash(
        &mount.path(),
        &format!("for i in $(seq {CHILDREN}); do /bin/true; done > nothing"),
    );
    assert_eq!(store.bucket.text("nothing"), "");
    if store.is_embedded() {
        assert!(uploads() <= 1, "{:?}", store.server().counts().all());
    }
}

fn sqlite_with_a_write_ahead_log(store: &Store) {
    let mount = store.mount().start();
    let script = r#"
import sqlite3, sys
def connect():
    return sqlite3.connect("wal.db", timeout=60)
db = connect()
assert db.execute("pragma journal_mode=wal").fetchone()[0] == "wal"
db.execute("create table t(id integer primary key, text text)")
reader = connect()
for batch in range(4):
    with db:
        db.executemany("insert into t(text) values(?)", ((f"row {batch} {i}" * 20,) for i in range(100)))
    assert reader.execute("select count(*) from t").fetchone()[0] == 100 * (batch + 1)
db.execute("pragma wal_checkpoint(truncate)")
with db:
    db.execute("update t set text = 'changed' where id % 10 = 0")
assert reader.execute("pragma integrity_check").fetchone()[0] == "ok"
reader.close()
if "leave" in sys.argv:
    import os
    # The log is not brought into the database.
    os._exit(0)
db.close()
"#;
    let check = r#"
import sqlite3
db = sqlite3.connect("wal.db")
assert db.execute("pragma integrity_check").fetchone()[0] == "ok"
assert db.execute("select count(*) from t where text = 'changed'").fetchone()[0] == 40
db.close()
"#;
    let run = |mount: &Mount, script: &str, argument: &str| {
        let python = Tool::new("python3").arg("-c").arg(script).arg(argument);
        python.current_dir(mount.path()).run();
    };
    run(&mount, script, "leave");
    let mount = remount(store, mount);
    run(&mount, check, "");
    bash(&mount.path(), "rm wal.db*");
    run(&mount, script, "");
    let mount = remount(store, mount);
    run(&mount, check, "");
}

fn sqlite_keeps_its_databases(store: &Store) {
    let mount = store.mount().start();
    let script = r#"
import sqlite3, sys
for mode in ["delete", "truncate", "persist"]:
    path = f"{mode}.db"
    db = sqlite3.connect(path, timeout=60)
    assert db.execute(f"pragma journal_mode={mode}").fetchone()[0] == mode
    db.execute("create table t(id integer primary key, text text)")
    for batch in range(4):
        with db:
            db.executemany("insert into t(text) values(?)", ((f"row {batch} {i}" * 20,) for i in range(100)))
    try:
        with db:
            db.execute("delete from t")
            raise RuntimeError("roll back")
    except RuntimeError:
        pass
    with db:
        db.execute("update t set text = 'changed' where id % 10 = 0")
    db.execute("vacuum")
    assert db.execute("pragma integrity_check").fetchone()[0] == "ok"
    assert db.execute("select count(*) from t").fetchone()[0] == 400
    db.close()
"#;
    Tool::new("python3")
        .arg("-c")
        .arg(script)
        .current_dir(mount.path())
        .run();
    let mount = remount(store, mount);
    let check = r#"
import sqlite3
for mode in ["delete", "truncate", "persist"]:
    db = sqlite3.connect(f"{mode}.db")
    assert db.execute("pragma integrity_check").fetchone()[0] == "ok"
    assert db.execute("select count(*) from t where text = 'changed'").fetchone()[0] == 40
"#;
    Tool::new("python3")
        .arg("-c")
        .arg(check)
        .current_dir(mount.path())
        .run();
}
