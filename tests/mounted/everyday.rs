//! The commands that people type, and what the bucket then holds.

use crate::support::command::{bash, has_program};
use crate::support::files;
use crate::support::pattern;
use crate::support::store::Store;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

crate::on_each_store!(
    files_and_directories_come_and_go,
    writing_in_the_middle_and_at_the_end,
    truncation_by_path_and_by_handle,
    editors_save_by_renaming,
    links_are_symbolic_only,
    sparse_files_read_as_zeros,
    an_empty_file_is_an_empty_object,
    attributes_survive_a_remount,
    renames_replace_or_refuse,
    directories_are_renamed_with_all_that_is_in_them,
);

fn files_and_directories_come_and_go(store: &Store) {
    let mount = store.mount().start();
    bash(
        &mount.path(),
        r#"
        test -z "$(ls -A)"
        mkdir -p a/b
        echo hello > a/b/one
        cp a/b/one two
        test "$(cat two)" = hello
        mv two a/three
        test "$(ls a)" = $'b\nthree'
        ls -la a > /dev/null
        test ! -e two
        ! rmdir a 2> /dev/null
        rm a/three
        mkdir empty
        test -d empty
        cp -r a copy
        diff -r a copy
        rm -r copy
        mkdir gone
        rmdir gone
        test ! -e gone
        "#,
    );
    assert_eq!(store.bucket.text("a/b/one"), "hello\n");
    mount.unmount();
    let mut keys = store.bucket.keys("");
    keys.sort();
    assert_eq!(keys, ["a/", "a/b/", "a/b/one", "empty/"]);
}

fn writing_in_the_middle_and_at_the_end(store: &Store) {
    let mount = store.mount().start();
    bash(
        &mount.path(),
        r#"
        printf 'line %s\n' 1 2 3 > file
        sed -i 's/line 2/second/' file
        echo 'line 4' >> file
        printf 'LINE' | dd of=file conv=notrunc bs=1 seek=0 status=none
        test "$(cat file)" = $'LINE 1\nsecond\nline 3\nline 4'
        for i in 1 2 3 4 5; do echo "appended $i" >> file; done
        test "$(tail -n 1 file)" = 'appended 5'
        "#,
    );
    let appended = "appended 1\nappended 2\nappended 3\nappended 4\nappended 5\n";
    assert_eq!(
        store.bucket.text("file"),
        format!("LINE 1\nsecond\nline 3\nline 4\n{appended}")
    );
}

fn truncation_by_path_and_by_handle(store: &Store) {
    store.bucket.put("foreign", "0123456789");
    let mount = store.mount().start();
    bash(
        &mount.path(),
        r#"
        truncate -s 4 foreign
        test "$(cat foreign)" = 0123
        truncate -s 6 foreign
        test "$(od -An -tx1 foreign | tr -d ' \n')" = 303132330000
        python3 -c 'import os; os.truncate("foreign", 2)'
        test "$(cat foreign)" = 01
        test "$(stat -c %s foreign)" = 2
        echo new > made
        python3 -c 'import os; os.truncate("made", 1)'
        echo x > foreign
        "#,
    );
    assert_eq!(store.bucket.text("made"), "n");
    assert_eq!(store.bucket.text("foreign"), "x\n");
}

fn editors_save_by_renaming(store: &Store) {
    let mount = store.mount().start();
    bash(
        &mount.path(),
        "for i in $(seq 200); do echo \"line $i\"; done > file",
    );
    bash(
        &mount.path(),
        r#"
        python3 - <<'END'
import os
for version in range(5):
    with open("file.tmp", "w") as file:
        file.write(f"version {version}\n")
        file.flush()
        os.fsync(file.fileno())
        file.write("after the fsync\n")
    os.rename("file.tmp", "file")
    directory = os.open(".", os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)
    assert open("file").read() == f"version {version}\nafter the fsync\n"
END
        test "$(ls -A)" = file
        "#,
    );
    assert_eq!(store.bucket.text("file"), "version 4\nafter the fsync\n");
    if has_program("vim") {
        // Once by a backup that is renamed, once by writing in place, both with a swap file beside the file.
        for (copy, word) in [("no", "renamed"), ("yes", "in place")] {
            bash(
                &mount.path(),
                &format!(
                    "vim -u NONE -i NONE -es -c 'set backup swapfile directory=. backupdir=. backupcopy={copy}' \
                     -c '%s/^version.*/{word}/' -c 'wq' file < /dev/null
                     rm -f file~"
                ),
            );
            assert_eq!(store.bucket.text("file"), format!("{word}\nafter the fsync\n"));
            bash(&mount.path(), "sed -i 's/^in place\\|^renamed/version x/' file");
        }
    }
    mount.unmount();
    assert_eq!(store.bucket.keys(""), ["file"]);
}

fn links_are_symbolic_only(store: &Store) {
    let mount = store.mount().start();
    bash(
        &mount.path(),
        r#"
        mkdir dir
        echo data > dir/file
        ln -s dir/file link
        ln -s nowhere broken
        test "$(readlink link)" = dir/file
        test "$(cat link)" = data
        test -L broken
        ! cat broken 2> /dev/null
        ! ln dir/file hard 2> error
        grep -q 'not permitted' error
        rm broken error
        "#,
    );
    mount.unmount();
    let mount = store.mount().start();
    assert_eq!(
        bash(&mount.path(), "readlink link; cat link; ls -l link | cut -c1"),
        "dir/file\ndata\nl\n"
    );
}

fn sparse_files_read_as_zeros(store: &Store) {
    let mount = store.mount().start();
    bash(
        &mount.path(),
        r#"
        printf end | dd of=sparse bs=1 seek=3000000 status=none
        test "$(stat -c %s sparse)" = 3000003
        cmp -n 3000000 sparse /dev/zero
        test "$(tail -c 3 sparse)" = end
        "#,
    );
    let stored = store.bucket.get("sparse");
    assert_eq!(stored.len(), 3_000_003);
    assert!(stored[..3_000_000].iter().all(|byte| *byte == 0) && stored.ends_with(b"end"));
}

fn an_empty_file_is_an_empty_object(store: &Store) {
    let mount = store.mount().start();
    bash(&mount.path(), "touch a; : > b; cp /dev/null c");
    for key in ["a", "b", "c"] {
        assert_eq!(store.bucket.get(key), b"", "{key}");
    }
    assert_eq!(bash(&mount.path(), "cat a b c; wc -c < a").trim(), "0");
}

fn attributes_survive_a_remount(store: &Store) {
    let mount = store.mount().start();
    bash(
        &mount.path(),
        r"
        echo x > file
        chmod 640 file
        touch -d '2001-02-03 04:05:06.123456789 UTC' file
        mkdir dir
        chmod 2750 dir
        echo y > script
        chmod +x script
        ./script 2> /dev/null || true
        ",
    );
    let look = "stat -c '%n %a %Y %y %s' file; stat -c '%n %a' script";
    let before = bash(&mount.path(), look);
    assert_eq!(bash(&mount.path(), "stat -c %a dir"), "2750\n");
    mount.unmount();
    let mount = store.mount().start();
    let after = bash(&mount.path(), look);
    assert!(
        before.contains("file 640 981173106 2001-02-03") && before.contains(".123456789"),
        "{before}"
    );
    assert!(before.contains("script 755"), "{before}");
    assert_eq!(after, before);
    assert_eq!(store.bucket.text("file"), "x\n");
}

fn renames_replace_or_refuse(store: &Store) {
    let mount = store.mount().start();
    let old = pattern(100_000, 1);
    let new = pattern(200_000, 2);
    files::write(&mount.join("old"), &old).expect("written");
    files::write(&mount.join("new"), &new).expect("written");
    fs::set_permissions(mount.join("new"), fs::Permissions::from_mode(0o600)).expect("changed");
    let refused = files::rename_without_replacing(&mount.join("new"), &mount.join("old"));
    assert_eq!(files::errno(refused), libc::EEXIST);
    let number = fs::metadata(mount.join("new")).expect("there").ino();
    fs::rename(mount.join("new"), mount.join("old")).expect("replaced");
    let seen = fs::metadata(mount.join("old")).expect("there");
    assert_eq!(
        (seen.len(), seen.mode() & 0o777, seen.ino()),
        (200_000, 0o600, number)
    );
    assert_eq!(fs::read(mount.join("old")).expect("read"), new);
    files::rename_without_replacing(&mount.join("old"), &mount.join("free")).expect("nobody is there");
    assert_eq!(store.bucket.keys(""), ["free"]);
    assert!(store.bucket.get("free") == new);
    fs::create_dir(mount.join("dir")).expect("made");
    assert_eq!(
        files::errno(fs::rename(mount.join("free"), mount.join("dir"))),
        libc::EISDIR
    );
    assert_eq!(
        files::errno(fs::rename(mount.join("dir"), mount.join("free"))),
        libc::ENOTDIR
    );
}

fn directories_are_renamed_with_all_that_is_in_them(store: &Store) {
    let keys = (0..30).map(|i| format!("tree/d{}/f{i}", i % 3));
    store.bucket.put_all(keys, b"data");
    let mount = store.mount().start();
    bash(
        &mount.path(),
        r#"
        mkdir tree/empty target
        mv tree moved
        test ! -e tree
        test "$(find moved -type f | wc -l)" = 30
        test -d moved/empty
        mv moved target/
        test "$(cat target/moved/d1/f1)" = data
        mkdir full other
        touch full/x
        ! mv -T other full 2> /dev/null
        mv -T target/moved other
        test "$(find other -type f | wc -l)" = 30
        "#,
    );
    mount.unmount();
    assert_eq!(store.bucket.keys("tree"), [""; 0]);
    let files = store
        .bucket
        .keys("other/")
        .into_iter()
        .filter(|key| !key.ends_with('/'));
    assert_eq!(files.count(), 30);
}
