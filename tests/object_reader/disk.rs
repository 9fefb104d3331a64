//! The reader with a cache on disk: what is kept there is right, and a disk that misbehaves costs little.

use super::lease::Lease;
use super::{World, data, part, read, read_through, run};
use pailfs::base::error::ErrorKind;
use pailfs::base::limits::{KIB, MIB};
use pailfs::base::object::{ObjectId, Version};
use pailfs::cache::blocks::{self, BLOCK_BYTES, BlockCache};
use pailfs::embedded::{Fault, Operation, When};
use pailfs::object::reader::{ReadStream, Reader};
use pailfs::rt;
use pailfs::s3::types::GetRequest;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const ENDPOINT: &str = "http://store";

fn cache(directory: &Path) -> Arc<BlockCache> {
    BlockCache::open(directory, 1 << 30, ENDPOINT).expect("the cache opens")
}

fn reader(world: &World, cache: &Arc<BlockCache>, id: &ObjectId, version: &Version) -> Arc<Reader> {
    let (client, budget) = (world.client.clone(), world.budget.clone());
    Reader::cached(client, budget, Some(cache.clone()), id.clone(), version.clone())
}

async fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    rt::timeout(super::STALL, async {
        while !is_so() {
            rt::sleep(Duration::from_millis(2)).await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("waited in vain until {what}"));
}

async fn wait_until_stored(cache: &Arc<BlockCache>, id: &ObjectId, version: &Version) {
    wait_until("all is stored", || {
        cache.has_all(&id.bucket, &id.key, version.etag.as_str(), version.size_bytes)
    })
    .await;
}

#[test]
fn what_came_damaged_is_not_kept() {
    run(async {
        let world = World::start(16 * MIB).await;
        let expected = data(1, 3 * MIB);
        let directory = tempfile::tempdir().expect("a directory");
        let cache = cache(directory.path());
        let (id, version) = world.put("object", &expected).await;
        world.server.counts().reset();
        let damage = Fault::FlipByte { at_bytes: 10 };
        let fault = world
            .server
            .faults()
            .inject(When::on(Operation::Get).for_ever(), damage);

        let request = GetRequest {
            id: id.clone(),
            range: None,
            if_match: None,
            version_id: None,
        };
        let reply = world.client.get(&request).await.expect("answered");
        let (client, budget) = (world.client.clone(), world.budget.clone());
        let first = Reader::from_reply(client, budget, Some(cache.clone()), id.clone(), reply);
        let stream = ReadStream::default();
        // No part of it, wherever it was damaged, and not in ways that do not show it either.
        for offset in [0, version.size_bytes - 10, 0, MIB] {
            let damaged = read(&first, &stream, offset, 10).await;
            assert_eq!(damaged.expect_err("told").kind(), ErrorKind::Corrupt);
        }
        assert_eq!(world.gets(), 3);
        world.server.faults().remove(fault);
        drop(first);
        assert_eq!(blocks::usage(directory.path()).expect("read").files, 0);

        for _ in 0..2 {
            let again = reader(&world, &cache, &id, &version);
            read_through(&again, &ReadStream::default(), &expected, 128 * KIB)
                .await
                .expect("right from now on");
            wait_until_stored(&cache, &id, &version).await;
        }
    });
}

#[test]
fn what_came_damaged_once_is_fetched_again_before_anybody_has_it() {
    run(async {
        let world = World::start(16 * MIB).await;
        // One of several pieces, one of one, and one that the client holds back by itself.
        for len in [3 * MIB, MIB, 200 * KIB, 100] {
            let expected = data(1, len);
            let (id, _) = world.put("object", &expected).await;
            world.server.counts().reset();
            let damage = Fault::FlipByte { at_bytes: 10 };
            world
                .server
                .faults()
                .inject(When::on(Operation::Get).times(2), damage);
            let reader = world.open(&id, None).await;
            read_through(&reader, &ReadStream::default(), &expected, 128 * KIB)
                .await
                .expect("right at last");
            assert_eq!(world.gets(), 3, "{len}");
        }
    });
}

#[test]
fn what_was_evicted_while_it_is_open_is_kept_anew() {
    run(async {
        let world = World::start(16 * MIB).await;
        let expected = data(1, 256 * BLOCK_BYTES);
        let directory = tempfile::tempdir().expect("a directory");
        let cache = cache(directory.path());
        let (id, version) = world.put("object", &expected).await;
        let reader = reader(&world, &cache, &id, &version);
        let stream = ReadStream::default();
        let mut places = (0..64).map(|place| (63 - place) * 4 * BLOCK_BYTES);
        let mut read_next = async || {
            let at = places.next().expect("kept before everything was read");
            let got = read(&reader, &stream, at, 2 * BLOCK_BYTES).await.expect("read");
            assert!(got == part(&expected, at, 2 * BLOCK_BYTES));
        };
        read_next().await;
        wait_until("something is stored", || cache.counts().stored_bytes > 0).await;
        blocks::clear(directory.path()).expect("cleared");
        while blocks::usage(directory.path()).expect("read").bytes == 0 {
            read_next().await;
            rt::sleep(Duration::from_millis(10)).await;
        }
    });
}

#[test]
fn a_disk_that_does_not_answer_is_not_waited_for() {
    run(async {
        let world = World::start(16 * MIB).await;
        let expected = data(1, 3 * BLOCK_BYTES);
        let directory = tempfile::tempdir().expect("a directory");
        let cache = cache(directory.path());
        let (id, version) = world.put("object", &expected).await;
        let stream = ReadStream::default();
        let first = reader(&world, &cache, &id, &version);
        read_through(&first, &stream, &expected, 128 * KIB)
            .await
            .expect("read");
        wait_until_stored(&cache, &id, &version).await;
        drop(first);

        let lease = Lease::on_the_only_file_below(directory.path());
        world.server.counts().reset();
        for _ in 0..3 {
            let hindered = reader(&world, &cache, &id, &version);
            read_through(&hindered, &ReadStream::default(), &expected, 128 * KIB)
                .await
                .expect("the store has it");
        }
        assert!(world.gets() >= 3, "{} requests", world.gets());
        drop(lease);

        // It answers again, and is asked again.
        wait_until_answered(&world, &cache, &id, &version, &expected).await;
    });
}

async fn wait_until_answered(
    world: &World,
    cache: &Arc<BlockCache>,
    id: &ObjectId,
    version: &Version,
    expected: &[u8],
) {
    for round in 0.. {
        world.server.counts().reset();
        let reader = reader(world, cache, id, version);
        read_through(&reader, &ReadStream::default(), expected, 128 * KIB)
            .await
            .expect("read");
        if world.gets() == 0 {
            return;
        }
        assert!(round < 1000, "the disk is not asked again");
        rt::sleep(Duration::from_millis(10)).await;
    }
}
