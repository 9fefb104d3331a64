//! How what is written is stored: encryption, storage class, and what the options of a mount say about them.

use crate::support::command::bash;
use crate::support::mount::Place;
use crate::support::store::Store;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

crate::on_the_embedded_store!(
    how_an_object_is_stored_survives_edits_and_renames,
    encryption_that_no_listing_shows_survives_the_first_rename,
    options_say_how_all_is_stored,
    a_key_of_ones_own,
);

/// Class and key of an object.
fn stored(store: &Store, key: &str) -> (String, String) {
    let head = store.bucket.head(key);
    let class = head.storage_class().map(|class| class.as_str().to_owned());
    (
        class.unwrap_or_else(|| "STANDARD".to_owned()),
        head.ssekms_key_id().unwrap_or("none").to_owned(),
    )
}

fn how_an_object_is_stored_survives_edits_and_renames(store: &Store) {
    let otherwise = ("STANDARD_IA".to_owned(), "the-key".to_owned());
    for key in ["edited", "moved", "appended", "dir/below"] {
        store.bucket.put_stored(key, "content", "STANDARD_IA", "the-key");
    }
    let mount = store.mount().start();
    bash(
        &mount.path(),
        "chmod 600 edited; echo more >> appended; mv moved moved-away; mv dir dir2; cp appended copied",
    );
    mount.unmount();
    for key in ["edited", "appended", "moved-away", "dir2/below"] {
        assert_eq!(stored(store, key), otherwise, "{key}");
    }
    // A new object is stored as the bucket says, whatever its bytes came from.
    assert_eq!(stored(store, "copied").0, "STANDARD");
}

fn encryption_that_no_listing_shows_survives_the_first_rename(store: &Store) {
    // What a mount looks at when it begins.
    for key in ["a1", "a2", "a3"] {
        store.bucket.put(key, "plain");
    }
    for key in ["moved", "dir/a", "dir/b", "waits"] {
        store.bucket.put_stored(key, "content", "STANDARD", "the-key");
    }
    let expected = ("STANDARD".to_owned(), "the-key".to_owned());
    for (change, key) in [
        ("mv moved moved-away", "moved-away"),
        ("mv dir dir2", "dir2/a"),
        ("chmod 600 waits; mv waits waited", "waited"),
    ] {
        let mount = store.mount().start();
        bash(&mount.path(), &format!("ls -l . dir* > /dev/null; {change}"));
        mount.unmount();
        assert_eq!(stored(store, key), expected, "{change}");
    }
    assert_eq!(stored(store, "dir2/b"), expected);
}

fn options_say_how_all_is_stored(store: &Store) {
    store
        .bucket
        .put_stored("edited", "content", "ONEZONE_IA", "old-key");
    store.bucket.put("moved", "content");
    let mount = store
        .mount()
        .options("--sse aws:kms --sse-kms-key-id the-key --storage-class STANDARD_IA --acl private")
        .start();
    bash(
        &mount.path(),
        "echo new > new; head -c 12000000 /dev/zero > large; mkdir dir; chmod 600 edited; mv moved dir/moved; cp large copied",
    );
    mount.unmount();
    for key in ["new", "large", "edited", "dir/moved", "dir/", "copied"] {
        assert_eq!(
            stored(store, key),
            ("STANDARD_IA".to_owned(), "the-key".to_owned()),
            "{key}"
        );
    }
}

fn key_file(place: &Place, name: &str, byte: u8) -> PathBuf {
    let path = place.work().join(name);
    fs::write(&path, [byte; 32]).expect("written");
    fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("set");
    path
}

fn a_key_of_ones_own(store: &Store) {
    let place = Place::new();
    let (key, other) = (key_file(&place, "key", 1), key_file(&place, "other", 2));
    let with = |key: &PathBuf| format!("--sse-c-key-file {}", key.display());
    store.bucket.put("before", "not encrypted with it");
    store.bucket.put("before-large", vec![b'x'; 6 << 20]);
    let mount = store.mount().at(&place).options(&with(&key)).start();
    bash(
        &mount.path(),
        "echo small > small; mkdir dir; seq 2000000 > dir/large; ln -s small link
         printf X | dd of=dir/large bs=1 seek=9000000 conv=notrunc status=none
         mv small dir/renamed; chmod 640 dir/renamed; mv dir dir2; cp dir2/large copied; echo more >> dir2/renamed; sync",
    );
    let before = "cat before; cp before copy-of-before; echo y >> before-large; mv before moved; cat moved copy-of-before";
    assert_eq!(bash(&mount.path(), before), "not encrypted with it".repeat(3));
    let sums =
        "cat dir2/renamed; md5sum < dir2/large; md5sum < copied; stat -c %a dir2/renamed; readlink link";
    let expected = bash(
        &place.work(),
        "seq 2000000 > large; printf X | dd of=large bs=1 seek=9000000 conv=notrunc status=none
         printf 'small\\nmore\\n'; md5sum < large; md5sum < large; echo 640; echo small",
    );
    assert_eq!(bash(&mount.path(), sums), expected);
    mount.unmount();
    let again = store.mount().at(&place).options(&with(&key)).start();
    assert_eq!(bash(&again.path(), sums), expected);
    again.unmount();

    for options in ["--sse AES256".to_owned(), with(&other)] {
        let wrong = store
            .mount()
            .at(&place)
            .options(&options)
            // It is shown as a file; reading it is refused.
            .expect_in_log("GetObject")
            .start();
        let read = bash(
            &wrong.path(),
            "if cat dir2/large > /dev/null 2>&1; then echo read; fi",
        );
        assert_eq!(read, "");
        wrong.unmount();
    }
    fs::set_permissions(&key, PermissionsExt::from_mode(0o644)).expect("set");
    let refused = store.mount().at(&place).options(&with(&key)).fail_to_start();
    refused.fails(2, "chmod 600");
}

/// A store that keeps what the options say, in its own way.
#[test]
fn what_options_say_reaches_another_store() {
    let Some(store) = Store::moto() else { return };
    let owner = "123456789012";
    let options = format!(
        "--sse aws:kms --sse-kms-key-id the-key --storage-class STANDARD_IA --acl public-read --requester-pays --expected-bucket-owner {owner}"
    );
    let mount = store.mount().options(&options);
    let mount = mount
        .expect_in_log("the endpoint does not do what S3 does")
        .start();
    bash(
        &mount.path(),
        "echo new > new; mkdir dir; chmod 600 new; mv new dir/moved; ln -s dir/moved link; head -c 9000000 /dev/zero > large",
    );
    mount.unmount();
    for key in ["dir/moved", "dir/", "link", "large"] {
        let (class, kms_key) = stored(&store, key);
        assert_eq!(class, "STANDARD_IA", "{key}");
        assert!(kms_key.ends_with("the-key"), "{key}: {kms_key}");
        assert!(store.bucket.is_public(key), "{key}");
    }
}
