use super::*;
use crate::base::error::ErrorKind;
use crate::base::read_bytes::ReadBytes;
use std::os::unix::fs::FileExt;

const ENDPOINT: &str = "http://store";

fn open(directory: &Path, limit_bytes: u64) -> Arc<BlockCache> {
    BlockCache::open(directory, limit_bytes, ENDPOINT).expect("opened")
}

fn data(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 251 + seed) as u8).collect()
}

fn read(cache: &BlockCache, file: &CachedFile, offset: u64, len: usize) -> Option<Vec<u8>> {
    let mut buffer = vec![0; len];
    cache.read(file, offset, &mut buffer).then_some(buffer)
}

fn version_directory(file: &CachedFile) -> PathBuf {
    file.path().parent().expect("a directory").to_owned()
}

#[test]
fn what_was_stored_is_there_for_the_next_mount_and_for_others_at_the_same_time() {
    let directory = tempfile::tempdir().expect("a directory");
    let len = 3 * BLOCK_BYTES as usize + 100;
    let content = data(1, len);
    let cache = open(directory.path(), 1 << 30);
    let file = cache.file("b", "k", "e", len as u64).expect("a file");
    assert_eq!(read(&cache, &file, 0, 10), None);
    // Only whole blocks are kept, and the last one, which is short.
    cache.store(&file, 10, &content[10..]);
    assert_eq!(read(&cache, &file, 0, 20), None);
    let from = BLOCK_BYTES as usize;
    assert_eq!(
        read(&cache, &file, BLOCK_BYTES, len - from).as_deref(),
        Some(&content[from..])
    );
    assert!(!cache.has_all("b", "k", "e", len as u64));

    let other = open(directory.path(), 1 << 30);
    let same = other.file("b", "k", "e", len as u64).expect("a file");
    other.store(&same, 0, &content[..from]);
    assert_eq!(read(&cache, &file, 5, len - 5).as_deref(), Some(&content[5..]));
    assert!(cache.has_all("b", "k", "e", len as u64));
    assert_eq!(cache.counts().damaged_blocks, 0);
}

#[test]
fn every_part_of_the_identity_counts() {
    let directory = tempfile::tempdir().expect("a directory");
    let cache = open(directory.path(), 1 << 30);
    let file = cache.file("b", "k", "e", 5).expect("a file");
    cache.store(&file, 0, b"hello");
    assert!(cache.has_all("b", "k", "e", 5));
    for (bucket, key, etag, size) in [
        ("b2", "k", "e", 5),
        ("b", "k2", "e", 5),
        ("b", "k", "e2", 5),
        ("b", "k", "e", 6),
    ] {
        assert!(!cache.has_all(bucket, key, etag, size));
    }
    let elsewhere = BlockCache::open(directory.path(), 1 << 30, "http://other").expect("opened");
    assert!(!elsewhere.has_all("b", "k", "e", 5));
}

#[test]
fn a_file_that_is_not_what_its_name_says_is_not_used() {
    let directory = tempfile::tempdir().expect("a directory");
    let cache = open(directory.path(), 1 << 30);
    let one = cache.file("b", "one", "e", 5).expect("a file");
    cache.store(&one, 0, b"hello");
    let two = cache.file("b", "two", "e", 5).expect("a file");
    cache.store(&two, 0, b"HELLO");
    let (from, to) = (version_directory(&one), version_directory(&two));
    drop(two);
    std::fs::remove_dir_all(&to).expect("removed");
    std::fs::rename(from, &to).expect("renamed");
    assert!(!cache.has_all("b", "two", "e", 5));
    let two = cache.file("b", "two", "e", 5).expect("a new file");
    assert_eq!(read(&cache, &two, 0, 5), None);
    cache.store(&two, 0, b"HELLO");
    assert!(cache.has_all("b", "two", "e", 5));
}

#[test]
fn a_damaged_block_is_counted_and_can_be_stored_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let cache = open(directory.path(), 1 << 30);
    let len = 2 * BLOCK_BYTES as usize;
    let content = data(7, len);
    let file = cache.file("b", "k", "e", len as u64).expect("a file");
    cache.store(&file, 0, &content);
    let on_disk = std::fs::File::options()
        .write(true)
        .open(file.path())
        .expect("opened");
    let end = on_disk.metadata().expect("there").len();
    on_disk.write_at(b"x", end - 10).expect("damaged");
    assert_eq!(read(&cache, &file, 0, 100).as_deref(), Some(&content[..100]));
    assert_eq!(read(&cache, &file, 0, len), None);
    assert_eq!(cache.counts().damaged_blocks, 1);
    assert!(!file.is_whole());
    // Now it is absent.
    assert_eq!(read(&cache, &file, 0, len), None);
    assert_eq!(cache.counts().damaged_blocks, 1);
    cache.store(&file, 0, &content);
    assert_eq!(read(&cache, &file, 0, len), Some(content));
}

#[test]
fn a_scan_does_not_drive_out_what_is_used_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let limit_bytes = 64 * BLOCK_BYTES;
    let cache = open(directory.path(), limit_bytes);
    let len = 4 * BLOCK_BYTES;
    let fill = |key: &str| {
        let file = cache.file("b", key, "e", len).expect("a file");
        cache.store(&file, 0, &data(3, len as usize));
    };
    for used in 0..4 {
        fill(&format!("used{used}"));
        // Opened again, it is off probation.
        assert!(cache.file("b", &format!("used{used}"), "e", len).is_some());
    }
    for scanned in 0..100 {
        fill(&format!("scanned{scanned}"));
        let usage = usage(directory.path()).expect("usage");
        assert!(
            usage.bytes <= limit_bytes + limit_bytes / RESCAN_PART + len,
            "{usage:?}"
        );
    }
    for used in 0..4 {
        assert!(cache.has_all("b", &format!("used{used}"), "e", len), "used{used}");
    }
    assert!(usage(directory.path()).expect("usage").files > 8);
    assert!(clear(directory.path()).expect("cleared").files > 8);
    assert_eq!(usage(directory.path()).expect("usage").files, 0);
}

#[test]
fn looking_for_a_version_makes_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let cache = open(directory.path(), 1 << 30);
    assert!(cache.find("b", "k", "e", 5).is_none());
    assert_eq!(usage(directory.path()).expect("usage"), Usage::default());
    let file = cache.file("b", "k", "e", 5).expect("a file");
    assert!(cache.find("b", "k", "e", 5).is_some());
    assert_eq!(
        usage(directory.path()).expect("usage").kept_bytes,
        0,
        "nothing is in it"
    );
    cache.store(&file, 0, b"hello");
    assert!(cache.find("b", "k", "e", 5).is_some());
    let usage = usage(directory.path()).expect("usage");
    assert!(usage.kept_bytes >= 3 * 4096, "{usage:?}");
}

#[test]
fn only_whole_blocks_are_worth_a_place() {
    const B: u64 = BLOCK_BYTES;
    for (start, end, size_bytes, expected) in [
        (0, B, 3 * B, true),
        (0, B - 1, 3 * B, false),
        (1, 2 * B - 1, 3 * B, false),
        (1, 2 * B, 3 * B, true),
        (2 * B, 2 * B + 5, 2 * B + 5, true),
        (2 * B, 2 * B + 4, 2 * B + 5, false),
        (2 * B + 1, 2 * B + 5, 2 * B + 5, false),
        (0, 5, 5, true),
    ] {
        let range = ByteRange::new(start, end);
        assert_eq!(
            has_a_block(range, size_bytes),
            expected,
            "{range:?} of {size_bytes}"
        );
    }
}

#[test]
fn what_is_too_large_for_the_cache_is_not_cached() {
    let directory = tempfile::tempdir().expect("a directory");
    let cache = open(directory.path(), 1 << 20);
    assert!(cache.file("b", "k", "e", (1 << 18) + 1).is_none());
    assert!(cache.file("b", "k", "e", 0).is_none());
}

#[test]
fn the_data_is_the_object_and_nothing_else() {
    let directory = tempfile::tempdir().expect("a directory");
    let cache = open(directory.path(), 1 << 30);
    for len in [1, BLOCK_BYTES as usize, 3 * BLOCK_BYTES as usize + 100] {
        let content = data(5, len);
        let file = cache.file("b", "k", "e", len as u64).expect("a file");
        assert_eq!(std::fs::metadata(file.path()).expect("there").len(), len as u64);
        cache.store(&file, 0, &content);
        assert!(std::fs::read(file.path()).expect("read") == content, "{len}");
    }
}

#[test]
fn files_of_an_older_layout_are_not_read_and_go() {
    let directory = tempfile::tempdir().expect("a directory");
    let older = || {
        for place in ["kept", "probation"] {
            let place = directory.path().join(place);
            std::fs::create_dir_all(&place).expect("made");
            std::fs::write(
                place.join("00112233445566778899aabbccddeeff"),
                b"pailfsB1 and more",
            )
            .expect("written");
        }
    };
    older();
    assert_eq!(usage(directory.path()).expect("usage").files, 2);
    assert_eq!(clear(directory.path()).expect("cleared").files, 2);
    assert_eq!(usage(directory.path()).expect("usage").files, 0);
    older();
    let cache = open(directory.path(), 1 << 30);
    assert_eq!(usage(directory.path()).expect("usage").files, 0);
    let file = cache.file("b", "k", "e", 5).expect("a file");
    // One in the very place of a version, too.
    let place = version_directory(&file);
    std::fs::remove_dir_all(&place).expect("removed");
    std::fs::write(&place, b"pailfsB1 and more").expect("written");
    let file = cache.file("b", "k", "e", 5).expect("a file");
    cache.store(&file, 0, b"hello");
    assert!(cache.has_all("b", "k", "e", 5));
}

#[test]
fn what_a_power_cut_left_of_a_version_is_made_anew() {
    let directory = tempfile::tempdir().expect("a directory");
    let cache = open(directory.path(), 1 << 30);
    let len = 2 * BLOCK_BYTES;
    let content = data(9, len as usize);
    let harms: [fn(&Path); 5] = [
        |version| std::fs::remove_file(version.join("table")).expect("removed"),
        |version| std::fs::remove_file(version.join("data")).expect("removed"),
        |version| std::fs::write(version.join("table"), b"").expect("emptied"),
        |version| std::fs::write(version.join("data"), b"short").expect("cut"),
        |version| {
            std::fs::write(version.join("data"), vec![0; 3 * BLOCK_BYTES as usize]).expect("lengthened")
        },
    ];
    for (number, harm) in harms.into_iter().enumerate() {
        let file = cache.file("b", "k", "e", len).expect("a file");
        cache.store(&file, 0, &content);
        assert!(cache.has_all("b", "k", "e", len), "harm {number}");
        // Where it is now: opened again, it is kept.
        let file = cache.file("b", "k", "e", len).expect("a file");
        let version = directory.path().join("kept").join(file.name());
        drop(file);
        harm(&version);
        assert!(!cache.has_all("b", "k", "e", len), "harm {number}");
        let file = cache.file("b", "k", "e", len).expect("a new file");
        assert_eq!(read(&cache, &file, 0, 5), None, "harm {number}");
        cache.store(&file, 0, &content);
        assert_eq!(
            read(&cache, &file, 0, len as usize),
            Some(content.clone()),
            "harm {number}"
        );
        clear(directory.path()).expect("cleared");
    }
    assert_eq!(cache.counts().damaged_blocks, 0);
}

#[test]
fn what_a_kill_left_is_swept_out_and_what_is_being_made_is_not() {
    let directory = tempfile::tempdir().expect("a directory");
    drop(open(directory.path(), 1 << 30));
    let at = |path: &str| directory.path().join(path);
    for path in ["leaving/a", "arriving/new", "arriving/old"] {
        std::fs::create_dir(at(path)).expect("made");
        std::fs::write(at(path).join("data"), b"x").expect("written");
    }
    let long_ago = rt::wall_clock() - Duration::from_secs(3600);
    let old = std::fs::File::open(at("arriving/old")).expect("opened");
    old.set_times(std::fs::FileTimes::new().set_modified(long_ago))
        .expect("aged");
    drop(open(directory.path(), 1 << 30));
    assert!(!at("leaving/a").exists());
    assert!(!at("arriving/old").exists());
    assert!(at("arriving/new").exists());
}

/// A version long enough to be given away.
const WHOLE_LEN: u64 = WHOLE_FROM_BYTES + BLOCK_BYTES + 5;

fn whole(cache: &Arc<BlockCache>) -> Option<Whole> {
    cache.whole("b", "k", "e", WHOLE_LEN)
}

fn contents(whole: &Whole) -> Vec<u8> {
    let file = std::fs::File::from(whole.as_fd().try_clone_to_owned().expect("cloned"));
    let len = file.metadata().expect("there").len();
    let mut contents = vec![0; len as usize];
    file.read_exact_at(&mut contents, 0).expect("read");
    contents
}

#[test]
fn a_version_is_given_away_once_this_mount_found_every_block_right() {
    let directory = tempfile::tempdir().expect("a directory");
    let content = data(1, WHOLE_LEN as usize);
    let cache = open(directory.path(), 1 << 30);
    let file = cache.file("b", "k", "e", WHOLE_LEN).expect("a file");
    assert!(whole(&cache).is_none());
    cache.store(&file, 0, &content[..(2 * BLOCK_BYTES) as usize]);
    assert!(whole(&cache).is_none());
    cache.store(&file, 2 * BLOCK_BYTES, &content[(2 * BLOCK_BYTES) as usize..]);
    assert!(contents(&whole(&cache).expect("it has stored all")) == content);

    let next = open(directory.path(), 1 << 30);
    assert!(next.has_all("b", "k", "e", WHOLE_LEN));
    assert!(whole(&next).is_none(), "nobody has looked at it");
    let file = next.file("b", "k", "e", WHOLE_LEN).expect("a file");
    assert!(read(&next, &file, BLOCK_BYTES, (WHOLE_LEN - BLOCK_BYTES) as usize).is_some());
    assert!(whole(&next).is_none(), "nobody has looked at its beginning");
    drop(file);
    // Handles come and go, what was found stays.
    let file = next.file("b", "k", "e", WHOLE_LEN).expect("a file");
    assert!(read(&next, &file, 10, 10).is_some());
    assert!(contents(&whole(&next).expect("it has read all")) == content);

    // Short versions are not.
    let short = next.file("b", "short", "e", 100).expect("a file");
    next.store(&short, 0, &content[..100]);
    assert!(next.whole("b", "short", "e", 100).is_none());
}

#[test]
fn a_damaged_version_is_not_given_away() {
    let directory = tempfile::tempdir().expect("a directory");
    let content = data(2, WHOLE_LEN as usize);
    let cache = open(directory.path(), 1 << 30);
    let file = cache.file("b", "k", "e", WHOLE_LEN).expect("a file");
    cache.store(&file, 0, &content);
    let on_disk = std::fs::File::options()
        .write(true)
        .open(file.path())
        .expect("opened");
    on_disk.write_at(b"x", 3 * BLOCK_BYTES + 7).expect("damaged");
    let next = open(directory.path(), 1 << 30);
    let file = next.file("b", "k", "e", WHOLE_LEN).expect("a file");
    assert_eq!(read(&next, &file, 0, WHOLE_LEN as usize), None);
    assert!(whole(&next).is_none());
    assert!(
        read(
            &next,
            &file,
            4 * BLOCK_BYTES,
            (WHOLE_LEN - 4 * BLOCK_BYTES) as usize
        )
        .is_some()
    );
    assert!(whole(&next).is_none(), "one block is absent");
    // Another mount brings it back; this one has not looked at it.
    cache.store(
        &cache.file("b", "k", "e", WHOLE_LEN).expect("a file"),
        0,
        &content,
    );
    assert!(next.has_all("b", "k", "e", WHOLE_LEN));
    assert!(whole(&next).is_none());
    assert_eq!(read(&next, &file, 0, WHOLE_LEN as usize).as_ref(), Some(&content));
    assert!(contents(&whole(&next).expect("found right")) == content);
}

#[test]
fn what_comes_although_it_is_there_shows_whether_that_is_right() {
    let directory = tempfile::tempdir().expect("a directory");
    let content = data(4, WHOLE_LEN as usize);
    let cache = open(directory.path(), 1 << 30);
    let file = cache.file("b", "k", "e", WHOLE_LEN).expect("a file");
    cache.store(&file, 0, &content);
    let on_disk = std::fs::File::options()
        .write(true)
        .open(file.path())
        .expect("opened");
    on_disk.write_at(b"x", 7).expect("damaged");
    let next = open(directory.path(), 1 << 30);
    let file = next.file("b", "k", "e", WHOLE_LEN).expect("a file");
    next.store(&file, 0, &content);
    assert_eq!(next.counts().stored_bytes, BLOCK_BYTES, "the damaged one");
    assert!(contents(&whole(&next).expect("found right")) == content);
}

#[test]
fn what_was_removed_and_stored_again_has_to_be_found_right_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let content = data(3, WHOLE_LEN as usize);
    let cache = open(directory.path(), 1 << 30);
    cache.store(
        &cache.file("b", "k", "e", WHOLE_LEN).expect("a file"),
        0,
        &content,
    );
    let given = whole(&cache).expect("it has stored all");
    clear(directory.path()).expect("cleared");
    assert!(whole(&cache).is_none());
    assert!(contents(&given) == content, "who has it open reads it to its end");
    let other = open(directory.path(), 1 << 30);
    other.store(
        &other.file("b", "k", "e", WHOLE_LEN).expect("a file"),
        0,
        &content,
    );
    assert!(cache.has_all("b", "k", "e", WHOLE_LEN));
    assert!(whole(&cache).is_none());
}

#[test]
fn what_is_given_away_is_not_evicted_by_this_mount() {
    let directory = tempfile::tempdir().expect("a directory");
    let limit_bytes = 8 * WHOLE_LEN;
    let cache = open(directory.path(), limit_bytes);
    let fill = |key: &str| {
        let file = cache.file("b", key, "e", WHOLE_LEN).expect("a file");
        cache.store(&file, 0, &data(3, WHOLE_LEN as usize));
    };
    fill("k");
    let given = whole(&cache).expect("it has stored all");
    for other in 0..16 {
        fill(&format!("other{other}"));
        // Twice: all of them are kept, and this is the one that was used longest ago.
        fill(&format!("other{other}"));
    }
    assert!(cache.has_all("b", "k", "e", WHOLE_LEN));
    drop(given);
    for other in 16..32 {
        fill(&format!("other{other}"));
        fill(&format!("other{other}"));
    }
    assert!(!cache.has_all("b", "k", "e", WHOLE_LEN));
}

const PATIENCE: Duration = Duration::from_secs(60);

async fn warm(cache: &Arc<BlockCache>, key: &str, len: u64) -> crate::base::error::Result<Warming> {
    cache
        .warm(("b".into(), key.into()), "e".to_owned(), len, PATIENCE)
        .await
}

fn bytes(data: &[u8]) -> ReadBytes {
    ReadBytes::behind(data.to_vec())
}

#[tokio::test]
async fn who_warms_a_version_waits_for_the_disk_as_readers_do_not() {
    let directory = tempfile::tempdir().expect("a directory");
    let cache = open(directory.path(), 1 << 30);
    let len = 3 * BLOCK_BYTES + 100;
    let content = data(1, len as usize);
    let busy = cache.slots.clone().acquire_many_owned(STORES_AT_ONCE as u32);
    let busy = busy.await.expect("the disk is busy");
    assert!(cache.slot().await.is_none());
    let warming = warm(&cache, "k", len).await.expect("begun");
    let all = ByteRange::new(0, len);
    assert!(!warming.has(all).await.expect("answered"));
    let storing = rt::spawn({
        let content = bytes(&content);
        async move { warming.store(0, content).await.map(|()| warming) }
    });
    drop(busy);
    let warming = storing.await.expect("no panic").expect("stored");
    assert!(warming.has(all).await.expect("answered"));
    assert!(cache.has_all("b", "k", "e", len));
}

#[tokio::test]
async fn why_a_version_is_not_there_is_told() {
    let directory = tempfile::tempdir().expect("a directory");
    let cache = open(directory.path(), 64 * BLOCK_BYTES);
    let too_large = warm(&cache, "k", 17 * BLOCK_BYTES).await.err();
    assert_eq!(too_large.map(|error| error.kind()), Some(ErrorKind::TooLarge));
    let warming = warm(&cache, "k", 2 * BLOCK_BYTES).await.expect("begun");
    let block = data(2, BLOCK_BYTES as usize);
    warming.store(0, bytes(&block)).await.expect("stored");
    clear(directory.path()).expect("cleared");
    let gone = warming.store(BLOCK_BYTES, bytes(&block)).await.err();
    assert_eq!(
        gone.map(|error| error.kind()),
        Some(ErrorKind::LocalIo(libc::ENOSPC))
    );
    assert!(!cache.has_all("b", "k", "e", 2 * BLOCK_BYTES));
}

#[tokio::test]
async fn what_is_damaged_is_not_taken_for_there_by_who_warms() {
    for len in [2 * BLOCK_BYTES, 2 * WHOLE_FROM_BYTES] {
        let directory = tempfile::tempdir().expect("a directory");
        let content = data(3, len as usize);
        let first = open(directory.path(), 1 << 30);
        let file = first.file("b", "k", "e", len).expect("a file");
        first.store(&file, 0, &content);
        let on_disk = std::fs::File::options().write(true).open(file.path());
        on_disk.expect("opened").write_at(b"x", 10).expect("damaged");
        // Another mount, which has seen nothing of it.
        let cache = open(directory.path(), 1 << 30);
        let warming = warm(&cache, "k", len).await.expect("begun");
        let has = async |start, end| warming.has(ByteRange::new(start, end)).await.expect("answered");
        assert!(!has(0, len).await);
        assert!(has(BLOCK_BYTES, len).await);
        warming
            .store(0, bytes(&content[..BLOCK_BYTES as usize]))
            .await
            .expect("stored");
        assert!(has(0, len).await);
    }
}

#[tokio::test]
async fn a_version_is_not_evicted_for_its_own_blocks() {
    let directory = tempfile::tempdir().expect("a directory");
    let limit_bytes = 64 * BLOCK_BYTES;
    let cache = open(directory.path(), limit_bytes);
    for n in 0..8 {
        let (key, len) = (format!("kept{n}"), 7 * BLOCK_BYTES);
        for _ in 0..2 {
            let file = cache.file("b", &key, "e", len).expect("a file");
            cache.store(&file, 0, &data(n, len as usize));
        }
    }
    // More than a fifth of the limit, alone on probation.
    let len = 15 * BLOCK_BYTES;
    let content = data(9, len as usize);
    let warming = warm(&cache, "k", len).await.expect("begun");
    for (index, run) in content.chunks(BLOCK_BYTES as usize).enumerate() {
        let at = index as u64 * BLOCK_BYTES;
        warming.store(at, bytes(run)).await.expect("stored");
    }
    assert!(cache.evictions() > 0);
    assert!(cache.has_all("b", "k", "e", len));
}

/// What is taken on the disk at and below `path`.
fn du_bytes(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    // Eviction may be at work.
    let Ok(metadata) = std::fs::symlink_metadata(path) else {
        return 0;
    };
    let below = if metadata.is_dir() {
        places::below(path).expect("a directory")
    } else {
        Vec::new()
    };
    metadata.blocks() * 512 + below.iter().map(|path| du_bytes(path)).sum::<u64>()
}

#[test]
fn small_files_take_no_more_room_than_the_cache_may() {
    const LIMIT_BYTES: u64 = 8 << 20;
    const FILES: usize = 4_000;
    let directory = tempfile::tempdir().expect("a directory");
    let fill = |cache: &Arc<BlockCache>, number: usize| {
        let file = cache.file("b", &number.to_string(), "e", 100).expect("a file");
        cache.store(&file, 0, &data(number, 100));
    };
    let check = |number: usize| {
        let (taken_bytes, usage) = (
            du_bytes(directory.path()),
            usage(directory.path()).expect("usage"),
        );
        // Besides what versions take there are the directories that have them.
        let beside_bytes = LIMIT_BYTES / 32;
        assert!(
            taken_bytes <= LIMIT_BYTES + beside_bytes && taken_bytes <= usage.bytes + beside_bytes,
            "{taken_bytes} on the disk, {usage:?}, after {number}"
        );
    };
    let mut cache = open(directory.path(), LIMIT_BYTES);
    for number in 0..FILES {
        if number == FILES / 2 {
            // Another mount goes on.
            cache = open(directory.path(), LIMIT_BYTES);
        }
        fill(&cache, number);
        if number % 100 == 99 {
            check(number);
        }
    }
    assert!(cache.has_all("b", &(FILES - 1).to_string(), "e", 100));
    assert_eq!(cache.counts().stored_bytes, FILES as u64 / 2 * 100);
}
