//! Objects that the store copies in parts: renamed, given other attributes, copied. The limits are small ones, so that no
//! test moves gigabytes.

use super::{bytes_of, open};
use crate::in_process::{Mount, Options, World};
use pailfs::base::limits::UploadLimits;
use pailfs::base::object::{Encryption, ObjectHeaders};
use pailfs::base::requests::{CustomerKey, RequestOptions, WriteEncryption};
use pailfs::embedded::{Fault, Operation, Quirks, When};
use pailfs::tree::node::ROOT;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

const LIMIT: u64 = 6 << 20;
/// Three parts of the limit, and a rest.
const LARGE: usize = 20 << 20;
const PARTS: u64 = 4;

fn large(seed: u32) -> Vec<u8> {
    (0..LARGE as u32 / 4)
        .flat_map(|word| (word ^ seed << 24).to_le_bytes())
        .collect()
}

/// A store that copies no more than the limit at once, and mounts that know it.
pub fn small_limits() -> World {
    small_limits_with(RequestOptions::default())
}

fn small_limits_with(requests: RequestOptions) -> World {
    let world = World::new(Options {
        requests,
        limits: UploadLimits {
            max_copy_bytes: LIMIT,
            max_part_bytes: LIMIT,
            ..UploadLimits::S3
        },
        ..Options::default()
    });
    world.store.set_quirks(Quirks {
        largest_copy_bytes: Some(LIMIT),
        ..Quirks::default()
    });
    world
}

/// As SSE-KMS, and as SSE-S3.
fn encryptions() -> [Encryption; 2] {
    let of = |algorithm: &str, key: Option<&str>| Encryption {
        algorithm: algorithm.to_owned(),
        kms_key_id: key.map(str::to_owned),
        bucket_key: None,
    };
    [of("aws:kms", Some("the-key")), of("AES256", None)]
}

fn headers(encryption: &Encryption) -> ObjectHeaders {
    ObjectHeaders {
        content_type: Some("video/mp4".to_owned()),
        cache_control: Some("no-cache".to_owned()),
        storage_class: Some("STANDARD_IA".to_owned()),
        encryption: Some(encryption.clone()),
        metadata: BTreeMap::from([("owner".to_owned(), "somebody".to_owned())]),
        ..ObjectHeaders::default()
    }
}

/// A mount of a bucket with a large object `f` that carries all that an object can; requests are counted from here.
fn with_large() -> (World, Mount) {
    let [kms, _] = encryptions();
    with_large_encrypted(&kms)
}

fn with_large_encrypted(encryption: &Encryption) -> (World, Mount) {
    let world = small_limits();
    world.remote.put_with("f", &large(0), headers(encryption));
    world.remote.tag("f", "team", "blue");
    let mount = world.mount();
    mount.run("look", mount.driver.stat("f")).expect("there");
    world.store.counts().reset();
    (world, mount)
}

#[track_caller]
fn expect_all_kept(world: &World, key: &str, bytes: &[u8]) {
    let [kms, _] = encryptions();
    expect_kept(world, key, bytes, &kms);
}

#[track_caller]
fn expect_kept(world: &World, key: &str, bytes: &[u8], encryption: &Encryption) {
    let stored = world.remote.get(key).expect("there");
    assert!(stored.bytes == bytes, "{key} has other bytes");
    let (found, expected) = (stored.info.headers, headers(encryption));
    assert_eq!(found.content_type, expected.content_type, "{key}");
    assert_eq!(found.cache_control, expected.cache_control, "{key}");
    assert_eq!(found.storage_class, expected.storage_class, "{key}");
    assert_eq!(found.encryption, expected.encryption, "{key}");
    assert_eq!(
        found.metadata.get("owner").map(String::as_str),
        Some("somebody"),
        "{key}"
    );
    assert_eq!(world.remote.tags(key).as_deref(), Some("team=blue"), "{key}");
}

fn no_uploads(world: &World) {
    assert_eq!(world.store.open_uploads(), Vec::<String>::new());
}

#[test]
fn a_rename_copies_parts_and_loses_nothing_of_the_object() {
    let (world, mount) = with_large();
    mount
        .run("rename", mount.driver.rename("f", "g", false))
        .expect("renamed");
    let count = |operation| world.store.counts().of(operation);
    assert_eq!(count(Operation::CreateUpload), 1);
    assert_eq!(count(Operation::UploadPartCopy), PARTS);
    assert_eq!(count(Operation::Complete), 1);
    assert_eq!(count(Operation::Delete), 1);
    let of_data = [
        Operation::Copy,
        Operation::UploadPart,
        Operation::Put,
        Operation::Get,
    ];
    assert_eq!(of_data.map(count), [0; 4]);
    assert_eq!(world.remote.keys(), ["g"]);
    expect_all_kept(&world, "g", &large(0));
}

#[test]
fn a_renamed_directory_takes_large_objects_along() {
    let (world, mount) = with_large();
    mount.run("mkdir", mount.driver.mkdir("d", 0o755)).expect("made");
    mount
        .run("rename", mount.driver.rename("f", "d/f", false))
        .expect("renamed");
    world.remote.put("d/small", b"small");
    mount
        .run("rename", mount.driver.rename("d", "e", false))
        .expect("renamed");
    assert_eq!(world.remote.keys(), ["e/", "e/f", "e/small"]);
    expect_all_kept(&world, "e/f", &large(0));
}

#[test]
fn a_change_of_attributes_and_an_edit_lose_nothing_of_the_object() {
    for encryption in encryptions() {
        let (world, mount) = with_large_encrypted(&encryption);
        edit_in_every_way(&world, &mount, &encryption);
    }
}

fn edit_in_every_way(world: &World, mount: &Mount, encryption: &Encryption) {
    let driver = &mount.driver;
    mount.run("chmod", driver.chmod("f", 0o640)).expect("changed");
    mount.sleep(Duration::from_secs(5));
    expect_kept(world, "f", &large(0), encryption);

    let mut expected = large(0);
    let file = open(mount, "f", libc::O_RDWR);
    mount
        .run("write", driver.write(&file, 7 << 20, b"edit"))
        .expect("written");
    expected[7 << 20..][..4].copy_from_slice(b"edit");
    mount.run("close", driver.close(file)).expect("closed");
    expect_kept(world, "f", &expected, encryption);

    let file = open(mount, "f", libc::O_WRONLY);
    mount
        .run("truncate", driver.ftruncate(&file, 19 << 20))
        .expect("truncated");
    expected.truncate(19 << 20);
    mount.run("close", driver.close(file)).expect("closed");
    expect_kept(world, "f", &expected, encryption);

    let file = open(mount, "f", libc::O_WRONLY | libc::O_APPEND);
    mount
        .run("append", driver.write(&file, 19 << 20, b"more"))
        .expect("appended");
    expected.extend_from_slice(b"more");
    mount.run("close", driver.close(file)).expect("closed");
    expect_kept(world, "f", &expected, encryption);
    assert_eq!(world.store.counts().of(Operation::Copy), 0);
    no_uploads(world);
}

#[test]
fn a_failure_in_the_middle_takes_everything_back() {
    for (nth, code) in [(1, "AccessDenied"), (3, "AccessDenied"), (4, "InternalError")] {
        let (world, mount) = with_large();
        let copies = When::on(Operation::UploadPartCopy).nth(nth).for_ever();
        world.store.faults().inject(copies, Fault::Answer(code));
        let renamed = mount.run("rename", mount.driver.rename("f", "g", false));
        assert!(renamed.is_err(), "{code} at {nth}");
        world.store.faults().clear();
        assert_eq!(world.remote.keys(), ["f"]);
        no_uploads(&world);
        expect_all_kept(&world, "f", &large(0));
        mount
            .run("rename", mount.driver.rename("f", "g", false))
            .expect("now it works");
        expect_all_kept(&world, "g", &large(0));
    }
}

#[test]
fn a_source_that_is_replaced_while_it_is_copied_is_never_mixed() {
    let (world, mount) = with_large();
    // The first half of the parts is copied from the old version, and the other half finds the new one.
    let slowly = Fault::Delay(Duration::from_secs(5));
    let late = When::on(Operation::UploadPartCopy).nth(3).times(2);
    world.store.faults().inject(late, slowly);
    let fs = mount.fs.clone();
    let mut renaming = None;
    mount.run("begin", async {
        renaming = Some(tokio::spawn(async move {
            fs.rename(ROOT, "f", ROOT, "g", false).await
        }));
    });
    mount.sleep(Duration::from_secs(2));
    assert_eq!(world.store.counts().of(Operation::UploadPartCopy), PARTS);
    world.remote.put("f", &large(9));
    let renamed = mount
        .run("rename", renaming.expect("begun"))
        .expect("not cancelled");
    renamed.expect("the newer one is renamed");
    no_uploads(&world);
    assert!(bytes_of(&world, "g").expect("renamed") == large(9));
    assert_eq!(world.remote.keys(), ["g"]);
}

#[test]
fn what_a_crash_cuts_off_is_aborted_by_the_next_mount() {
    let (world, mount) = with_large();
    let slowly = Fault::Delay(Duration::from_mins(5));
    world
        .store
        .faults()
        .inject(When::on(Operation::UploadPartCopy).for_ever(), slowly);
    let renamed = mount.run_for(
        "rename",
        Duration::from_secs(3),
        mount.driver.rename("f", "g", false),
    );
    assert_eq!(renamed, None, "it is still copying");
    assert_eq!(world.store.open_uploads().len(), 1);
    mount.crash();
    world.store.faults().clear();
    let mount = world.mount();
    no_uploads(&world);
    assert_eq!(world.remote.keys(), ["f"]);
    mount.crash();
}

#[test]
fn attributes_that_are_set_while_a_large_file_is_sent_are_kept() {
    let world = small_limits();
    let mount = world.mount();
    let driver = &mount.driver;
    let file = open(&mount, "f", libc::O_WRONLY | libc::O_CREAT);
    let bytes = large(1);
    mount
        .run("write", driver.write(&file, 0, &bytes))
        .expect("written");
    mount.sleep(Duration::from_secs(1));
    let mtime = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    assert!(
        world.store.counts().of(Operation::CreateUpload) > 0,
        "parts are on their way, with the former attributes"
    );
    mount.run("utimes", driver.set_mtime("f", mtime)).expect("set");
    mount.run("close", driver.close(file)).expect("closed");
    mount.sleep(Duration::from_secs(5));
    let stored = world.remote.get("f").expect("there");
    assert!(stored.bytes == bytes);
    assert_eq!(stored.attributes().mtime, Some(mtime));
    assert_eq!(world.store.counts().of(Operation::UploadPartCopy), PARTS);
    no_uploads(&world);
}

#[test]
fn a_copy_of_a_large_file_is_parts_and_no_data() {
    let (world, mount) = with_large();
    let driver = &mount.driver;
    let from = open(&mount, "f", libc::O_RDONLY);
    let to = open(&mount, "copy", libc::O_WRONLY | libc::O_CREAT);
    world.store.counts().reset();
    let copied = mount.run("copy", driver.copy_range((&from, 0), (&to, 0), LARGE));
    assert_eq!(copied, Ok(LARGE));
    mount.run("close", driver.close(to)).expect("closed");
    let count = |operation| world.store.counts().of(operation);
    assert_eq!(count(Operation::UploadPartCopy), PARTS);
    assert_eq!(
        [Operation::Copy, Operation::UploadPart, Operation::Put].map(count),
        [0; 3]
    );
    mount.run("close", driver.close(from)).expect("closed");
    assert!(bytes_of(&world, "copy").expect("copied") == large(0));
}

/// With a key that the store does not keep, every request about an object has to bring it: for what is written, and for what
/// is copied from, which a large object from before may not be encrypted with.
#[test]
fn large_objects_are_edited_and_renamed_with_a_key_of_ones_own() {
    for is_from_before in [false, true] {
        let key = CustomerKey::from_file(&[7; 32]).expect("a key");
        let world = small_limits_with(RequestOptions {
            encryption: Some(WriteEncryption::Customer(key)),
            ..RequestOptions::default()
        });
        let stranger = world.stranger();
        let owner = if is_from_before { &stranger } else { &world.remote };
        owner.put("f", &large(0));
        owner.put("g", &large(0));
        assert_eq!(stranger.may_look_at("f"), is_from_before);
        let mount = world.mount();
        let driver = &mount.driver;
        mount
            .run("rename", driver.rename("f", "renamed", false))
            .expect("renamed");
        mount.run("chmod", driver.chmod("g", 0o600)).expect("changed");
        mount.sleep(Duration::from_secs(5));
        assert!(bytes_of(&world, "g").expect("there") == large(0));
        assert!(!stranger.may_look_at("g"), "what is copied is encrypted");

        let mut expected = large(0);
        let file = open(&mount, "renamed", libc::O_RDWR);
        mount
            .run("write", driver.write(&file, 7 << 20, b"edit"))
            .expect("written");
        expected[7 << 20..][..4].copy_from_slice(b"edit");
        mount.run("fsync", driver.fsync(&file)).expect("in the bucket");
        mount
            .run("truncate", driver.ftruncate(&file, 19 << 20))
            .expect("truncated");
        expected.truncate(19 << 20);
        mount.run("close", driver.close(file)).expect("closed");
        let copy = open(&mount, "copy", libc::O_WRONLY | libc::O_CREAT);
        let from = open(&mount, "renamed", libc::O_RDONLY);
        let copied = mount.run("copy", driver.copy_range((&from, 0), (&copy, 0), 19 << 20));
        assert_eq!(copied, Ok(19 << 20));
        mount.run("close", driver.close(copy)).expect("closed");
        mount.run("close", driver.close(from)).expect("closed");
        for key in ["renamed", "copy"] {
            assert!(bytes_of(&world, key).expect("there") == expected, "{key}");
            assert!(!stranger.may_look_at(key), "{key} is encrypted");
        }
        assert_eq!(world.store.counts().of(Operation::Copy), 0);
        assert_eq!(world.remote.keys(), ["copy", "g", "renamed"]);
        no_uploads(&world);
        assert_eq!(mount.unmount(), Vec::<String>::new());
    }
}

#[test]
fn a_large_file_is_streamed_with_a_key_of_ones_own() {
    let key = CustomerKey::from_file(&[7; 32]).expect("a key");
    let world = small_limits_with(RequestOptions {
        encryption: Some(WriteEncryption::Customer(key)),
        ..RequestOptions::default()
    });
    let mount = world.mount();
    let driver = &mount.driver;
    let file = open(&mount, "f", libc::O_WRONLY | libc::O_CREAT);
    mount
        .run("write", driver.write(&file, 0, &large(3)))
        .expect("written");
    mount.run("close", driver.close(file)).expect("closed");
    assert!(world.store.counts().of(Operation::UploadPart) > 0);
    assert!(bytes_of(&world, "f").expect("there") == large(3));
    assert!(!world.stranger().may_look_at("f"));
}

/// Its end was streamed and is in parts only, whose numbers are fixed; what is before it is then changed at more places than there
/// are numbers left.
#[test]
fn a_large_file_is_changed_at_more_places_than_an_upload_has_parts() {
    let world = World::new(Options {
        limits: UploadLimits {
            max_parts: 16,
            ..UploadLimits::S3
        },
        // Parts of 5 MiB: eight of them are kept for what is before the stream.
        memory_bytes: 20 << 20,
        ..Options::default()
    });
    world.store.set_quirks(Quirks {
        opaque_etags: true,
        ..Quirks::default()
    });
    let mut expected: Vec<u8> = [large(1), large(2), large(3)].concat();
    world.remote.put("f", &expected);
    let mount = world.mount();
    let driver = &mount.driver;
    let file = open(&mount, "f", libc::O_RDWR);
    let end = [large(4), vec![5; 10 << 20]].concat();
    let streaming = driver.write(&file, expected.len(), &end);
    mount.run("stream", streaming).expect("written");
    assert!(
        world.store.counts().of(Operation::UploadPart) > 0,
        "parts are sent while it is written"
    );
    for offset in (0..expected.len()).step_by(4 << 20) {
        mount
            .run("write", driver.write(&file, offset, b"changed"))
            .expect("written");
        expected[offset..][..7].copy_from_slice(b"changed");
    }
    mount.run("close", driver.close(file)).expect("stored");
    expected.extend_from_slice(&end);
    assert!(bytes_of(&world, "f").expect("there") == expected);
    no_uploads(&world);
}
