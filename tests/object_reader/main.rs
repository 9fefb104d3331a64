//! The reader, with the real client, over HTTP, against the embedded server.

mod ahead;
mod disk;
mod given_up;
#[path = "../support/lease.rs"]
mod lease;

use pailfs::base::checksum::Crc32c;
use pailfs::base::error::{ErrorKind, Result};
use pailfs::base::limits::{KIB, MIB};
use pailfs::base::object::{ByteRange, Condition, ObjectHeaders, ObjectId, Version};
use pailfs::embedded::{Fault, Operation, Server, Store, StoreOptions, When};
use pailfs::object::budget::Budget;
use pailfs::object::reader::{ReadStream, Reader};
use pailfs::rt;
use pailfs::s3::types::{GetRequest, PutRequest};
use pailfs::s3::{Client, ClientOptions, PathStyle, StaticCredentials};
use std::future::Future;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

const STALL: Duration = Duration::from_secs(20);
/// No test takes longer; one that hangs fails.
const DEADLINE: Duration = Duration::from_secs(100);
const BUCKET: &str = "bucket";

struct World {
    server: Server,
    client: Client,
    budget: Arc<Budget>,
}

impl World {
    async fn start(budget_bytes: u64) -> Self {
        let store = Store::open(StoreOptions::in_memory()).expect("a store in memory opens");
        let server = Server::serve(store, (Ipv4Addr::LOCALHOST, 0).into())
            .await
            .expect("a free port");
        let client = client_of(&server).await;
        client.create_bucket(BUCKET).await.expect("the bucket is made");
        Self {
            server,
            client,
            budget: Budget::new(budget_bytes, STALL),
        }
    }

    async fn put(&self, key: &str, data: &[u8]) -> (ObjectId, Version) {
        let id = ObjectId::new(BUCKET, key);
        let request = PutRequest {
            id: id.clone(),
            body: bytes::Bytes::copy_from_slice(data).into(),
            checksum: Crc32c::of(data),
            condition: Condition::None,
            headers: ObjectHeaders::default(),
        };
        let version = self.client.put(&request).await.expect("the object is stored");
        self.server.counts().reset();
        (id, version)
    }

    async fn reader(&self, key: &str, data: &[u8]) -> Arc<Reader> {
        let (id, version) = self.put(key, data).await;
        Reader::new(self.client.clone(), self.budget.clone(), id, version)
    }

    async fn open(&self, id: &ObjectId, range: Option<ByteRange>) -> Arc<Reader> {
        let request = GetRequest {
            id: id.clone(),
            range,
            if_match: None,
            version_id: None,
        };
        let reply = self.client.get(&request).await.expect("the object is there");
        Reader::from_reply(self.client.clone(), self.budget.clone(), None, id.clone(), reply)
    }

    fn gets(&self) -> u64 {
        self.server.counts().of(Operation::Get)
    }

    fn received_bytes(&self) -> u64 {
        self.client.metrics().received_bytes.load(Ordering::Relaxed)
    }

    /// Waits until all memory can be had at once.
    async fn expect_all_memory_free(&self) {
        rt::timeout(STALL, async {
            while self.budget.used_bytes() > 0 {
                rt::sleep(Duration::from_millis(2)).await;
            }
        })
        .await
        .unwrap_or_else(|_| panic!("{} bytes stay taken", self.budget.used_bytes()));
    }
}

async fn client_of(server: &Server) -> Client {
    let store = StoreOptions::in_memory();
    let options = ClientOptions {
        endpoint_url: Some(server.endpoint_url()),
        region: Some(store.region),
        path_style: PathStyle::Always,
        credentials: Some(StaticCredentials {
            access_key_id: store.access_key,
            secret_access_key: store.secret_key,
            session_token: None,
        }),
        stall_timeout: STALL,
        ..ClientOptions::default()
    };
    Client::connect(options, Arc::default())
        .await
        .expect("the options are right")
}

/// Data in which every aligned word tells its place and its version.
fn data(version: u64, len: u64) -> Vec<u8> {
    let mut data = vec![0; len.next_multiple_of(8) as usize];
    for (n, word) in data.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(
            &(n as u64 ^ (version << 40))
                .wrapping_mul(0x9E37_79B9_7F4A_7C15)
                .to_le_bytes(),
        );
    }
    data.truncate(len as usize);
    data
}

async fn read(reader: &Reader, stream: &ReadStream, offset: u64, len: u64) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    reader.read(stream, offset, len as usize, &mut out).await?;
    Ok(out)
}

fn part(data: &[u8], offset: u64, len: u64) -> &[u8] {
    let end = (offset + len).min(data.len() as u64);
    &data[offset.min(end) as usize..end as usize]
}

/// Reads all in steps and compares; the first error ends it.
async fn read_through(reader: &Reader, stream: &ReadStream, expected: &[u8], step: u64) -> Result<()> {
    let mut offset = 0;
    while offset < expected.len() as u64 {
        let got = read(reader, stream, offset, step).await?;
        assert!(got == part(expected, offset, step), "wrong bytes at {offset}");
        offset += step;
    }
    Ok(())
}

/// Runs a test on several threads, within the deadline.
fn run<F: Future<Output = ()>>(test: F) {
    let runtime = rt::build().expect("threads");
    runtime.block_on(async { rt::timeout(DEADLINE, test).await.expect("the test does not hang") });
}

#[test]
fn random_reads_return_the_objects_bytes() {
    run(async {
        let world = World::start(16 * MIB).await;
        let expected = data(1, 9 * MIB + 4321);
        let reader = world.reader("object", &expected).await;
        let streams = [ReadStream::default(), ReadStream::default()];
        let mut random = Random(7);
        let mut position = 0;
        for _ in 0..400 {
            // Mixed: somewhere, on from the last place, a little back.
            position = match random.below(4) {
                0 => random.below(expected.len() as u64 + 100_000),
                1 => position.saturating_sub(random.below(300_000)),
                _ => position,
            };
            let len = [1, 4096, 128 * KIB, MIB, 3 * MIB][random.below(5) as usize] + random.below(3);
            let stream = &streams[random.below(2) as usize];
            let got = read(&reader, stream, position, len)
                .await
                .expect("the read succeeds");
            assert!(
                got == part(&expected, position, len),
                "wrong bytes at {position}+{len}"
            );
            position += len;
        }
    });
}

#[test]
fn an_empty_object_and_reads_beyond_the_end_send_no_request() {
    run(async {
        let world = World::start(16 * MIB).await;
        let stream = ReadStream::default();
        let empty = world.reader("empty", b"").await;
        assert!(
            read(&empty, &stream, 0, 4096)
                .await
                .expect("an empty read")
                .is_empty()
        );
        let reader = world.reader("short", b"0123456789").await;
        assert!(
            read(&reader, &stream, 10, 4096)
                .await
                .expect("an empty read")
                .is_empty()
        );
        assert!(
            read(&reader, &stream, u64::MAX, 4096)
                .await
                .expect("an empty read")
                .is_empty()
        );
        assert!(
            read(&reader, &stream, 3, 0)
                .await
                .expect("an empty read")
                .is_empty()
        );
        assert_eq!(world.gets(), 0);
        assert_eq!(
            read(&reader, &stream, 7, 4096).await.expect("the read succeeds"),
            b"789"
        );
        assert_eq!(world.gets(), 1);
    });
}

#[test]
fn a_small_file_needs_no_request_but_the_one_that_opened_it() {
    run(async {
        let world = World::start(16 * MIB).await;
        for len in [1, 4096, 300 * KIB, 3 * MIB] {
            let expected = data(1, len);
            let (id, _) = world.put("small", &expected).await;
            let reader = world.open(&id, None).await;
            read_through(&reader, &ReadStream::default(), &expected, 128 * KIB)
                .await
                .expect("the read succeeds");
            assert_eq!(world.gets(), 1, "for {len} bytes");
        }
    });
}

#[test]
fn what_the_first_answer_does_not_cover_is_fetched_once() {
    run(async {
        let world = World::start(64 * MIB).await;
        let expected = data(1, 12 * MIB + 77);
        let (id, _) = world.put("object", &expected).await;
        let before = world.received_bytes();
        let reader = world.open(&id, Some(ByteRange::new(0, 256 * KIB))).await;
        read_through(&reader, &ReadStream::default(), &expected, 128 * KIB)
            .await
            .expect("the read succeeds");
        assert_eq!(world.received_bytes() - before, expected.len() as u64);
        // It doubles its way up from 256 KiB.
        assert!(world.gets() <= 16, "{} requests", world.gets());
    });
}

#[test]
fn readers_of_the_same_range_share_one_request() {
    run(async {
        let world = World::start(64 * MIB).await;
        let expected = data(1, 4 * MIB);
        let reader = world.reader("object", &expected).await;
        let reads = (0..32).map(|n| {
            let (reader, expected) = (reader.clone(), expected.clone());
            rt::spawn(async move {
                let offset = MIB + n * 1000;
                let got = read(&reader, &ReadStream::default(), offset, 1000)
                    .await
                    .expect("the read succeeds");
                assert!(got == part(&expected, offset, 1000));
            })
        });
        for outcome in futures_util::future::join_all(reads).await {
            outcome.expect("the bytes are right");
        }
        assert_eq!(world.gets(), 1);
    });
}

#[test]
fn no_byte_is_fetched_twice_for_readers_side_by_side() {
    run(async {
        let world = World::start(64 * MIB).await;
        let expected = Arc::new(data(1, 24 * MIB));
        let reader = world.reader("object", &expected).await;
        let before = world.received_bytes();
        let streams: Vec<_> = (0..6).map(|_| Arc::new(ReadStream::default())).collect();
        for step in 0..24 {
            let reads = streams.iter().map(|stream| {
                let (reader, stream, expected) = (reader.clone(), stream.clone(), expected.clone());
                rt::spawn(async move {
                    let got = read(&reader, &stream, step * MIB, MIB)
                        .await
                        .expect("the read succeeds");
                    assert!(got == part(&expected, step * MIB, MIB));
                })
            });
            for outcome in futures_util::future::join_all(reads).await {
                outcome.expect("the bytes are right");
            }
        }
        assert_eq!(world.received_bytes() - before, expected.len() as u64);
    });
}

#[test]
fn overtaken_requests_of_one_stream_fetch_nothing_twice() {
    run(async {
        let world = World::start(64 * MIB).await;
        let expected = data(1, 32 * MIB);
        let reader = world.reader("object", &expected).await;
        let before = world.received_bytes();
        let stream = ReadStream::default();
        let blocks = expected.len() as u64 / (256 * KIB);
        for group in 0..blocks / 4 {
            for block in [2, 0, 3, 1] {
                let offset = (group * 4 + block) * 256 * KIB;
                let got = read(&reader, &stream, offset, 256 * KIB)
                    .await
                    .expect("the read succeeds");
                assert!(got == part(&expected, offset, 256 * KIB));
            }
        }
        assert_eq!(world.received_bytes() - before, expected.len() as u64);
        assert!(world.gets() <= 24, "{} requests", world.gets());
    });
}

#[test]
fn a_long_sequential_read_stays_within_a_small_budget() {
    run(async {
        let world = World::start(4 * MIB).await;
        let expected = data(1, 48 * MIB);
        let reader = world.reader("object", &expected).await;
        let before = world.received_bytes();
        read_through(&reader, &ReadStream::default(), &expected, 256 * KIB)
            .await
            .expect("the read succeeds");
        assert_eq!(world.received_bytes() - before, expected.len() as u64);
    });
}

#[test]
fn random_reads_fetch_little_more_than_they_want() {
    run(async {
        let world = World::start(64 * MIB).await;
        let expected = data(1, 64 * MIB);
        let reader = world.reader("object", &expected).await;
        let before = world.received_bytes();
        let stream = ReadStream::default();
        for n in 0..60 {
            let offset = (n * 37 % 60) * MIB + 5000;
            let got = read(&reader, &stream, offset, 4096)
                .await
                .expect("the read succeeds");
            assert!(got == part(&expected, offset, 4096));
        }
        assert_eq!(world.gets(), 60);
        // Until it is clear that the reads are scattered, more of what is around them.
        assert!(world.received_bytes() - before <= 60 * 16 * KIB + 8 * 64 * KIB);
    });
}

#[test]
fn bytes_of_a_newer_version_are_never_returned() {
    run(async {
        let world = World::start(16 * MIB).await;
        let expected = data(1, 8 * MIB);
        let reader = world.reader("object", &expected).await;
        let stream = ReadStream::default();
        read(&reader, &stream, 0, 64 * KIB)
            .await
            .expect("the version is still there");
        world.put("object", &data(2, 8 * MIB)).await;
        let error = read(&reader, &stream, 5 * MIB, MIB)
            .await
            .expect_err("the version is gone");
        assert_eq!(error.kind(), ErrorKind::Stale);
        assert_eq!((error.bucket(), error.key()), (Some(BUCKET), Some("object")));
        let error = read_through(&reader, &stream, &expected, 128 * KIB)
            .await
            .expect_err("the version is gone");
        assert_eq!(error.kind(), ErrorKind::Stale);
        world
            .client
            .delete(&ObjectId::new(BUCKET, "object"), None)
            .await
            .expect("the object is deleted");
        let error = read(&reader, &stream, 6 * MIB, MIB)
            .await
            .expect_err("the object is gone");
        assert_eq!(error.kind(), ErrorKind::Stale);
        assert!(
            read(&reader, &stream, 0, 1000)
                .await
                .is_ok_and(|got| got == part(&expected, 0, 1000))
        );
    });
}

#[test]
fn replacing_while_reading_gives_old_bytes_or_stale() {
    run(async {
        for round in 0..10 {
            let world = World::start(8 * MIB).await;
            let expected = data(1, 12 * MIB);
            let reader = world.reader("object", &expected).await;
            let reading = rt::spawn({
                let (reader, expected) = (reader.clone(), expected.clone());
                async move { read_through(&reader, &ReadStream::default(), &expected, 128 * KIB).await }
            });
            rt::sleep(Duration::from_millis(round)).await;
            world.put("object", &data(2, 12 * MIB)).await;
            if let Err(error) = reading.await.expect("the bytes are right") {
                assert_eq!(error.kind(), ErrorKind::Stale);
            }
        }
    });
}

#[test]
fn connections_that_break_in_the_middle_of_bodies_do_no_harm() {
    run(async {
        let world = World::start(32 * MIB).await;
        let expected = data(1, 20 * MIB);
        let reader = world.reader("object", &expected).await;
        let faults = world.server.faults();
        let mut injected = Vec::new();
        for n in 1..=8 {
            let fault = Fault::CutBody {
                after_bytes: n * 9_999,
            };
            injected.push(faults.inject(When::on(Operation::Get).nth(2 * n), fault));
        }
        read_through(&reader, &ReadStream::default(), &expected, 128 * KIB)
            .await
            .expect("the read succeeds");
        assert!(injected.iter().all(|fault| faults.struck(*fault) == 1));
    });
}

#[test]
fn an_error_goes_to_the_reads_that_wait_and_the_next_read_asks_again() {
    run(async {
        let world = World::start(32 * MIB).await;
        let expected = data(1, 2 * MIB);
        let reader = world.reader("object", &expected).await;
        world
            .server
            .faults()
            .inject(When::on(Operation::Get), Fault::Answer("AccessDenied"));
        let mut out = b"before".to_vec();
        let stream = ReadStream::default();
        let outcome = reader.read(&stream, 0, 1000, &mut out).await;
        assert_eq!(outcome.map_err(|error| error.kind()), Err(ErrorKind::Denied));
        assert_eq!(out, b"before");
        reader
            .read(&stream, 0, 1000, &mut out)
            .await
            .expect("the fault is over");
        assert!(out[6..] == *part(&expected, 0, 1000));
    });
}

#[test]
fn many_readers_share_a_small_budget_and_all_get_on() {
    run(async {
        let world = World::start(2 * MIB).await;
        let expected = Arc::new(data(1, 3 * MIB));
        let mut readers = Vec::new();
        for n in 0..24 {
            readers.push(world.reader(&format!("object{n}"), &expected).await);
        }
        // Handles that read ahead and then stay idle: what they hold must not keep the others from reading.
        let idle: Vec<_> = (0..8).map(|_| ReadStream::default()).collect();
        for (reader, stream) in readers.iter().zip(&idle) {
            for n in 0..4 {
                read(reader, stream, n * 64 * KIB, 64 * KIB)
                    .await
                    .expect("the read succeeds");
            }
        }
        let reads = readers
            .iter()
            .flat_map(|reader| [reader.clone(), reader.clone()])
            .map(|reader| {
                let expected = expected.clone();
                rt::spawn(
                    async move { read_through(&reader, &ReadStream::default(), &expected, 100_000).await },
                )
            });
        for outcome in futures_util::future::join_all(reads).await {
            outcome.expect("the bytes are right").expect("no read fails");
        }
    });
}

#[test]
fn streams_that_are_short_of_memory_do_not_take_away_each_others_data() {
    run(async {
        let world = World::start(8 * MIB).await;
        let expected = Arc::new(data(1, 6 * MIB));
        let mut reads = Vec::new();
        for n in 0..8 {
            let (reader, expected) = (
                world.reader(&format!("object{n}"), &expected).await,
                expected.clone(),
            );
            reads.push(
                async move { read_through(&reader, &ReadStream::default(), &expected, 128 * KIB).await },
            );
        }
        let before = world.received_bytes();
        for outcome in futures_util::future::join_all(reads.into_iter().map(rt::spawn)).await {
            outcome.expect("the bytes are right").expect("no read fails");
        }
        let fetched = world.received_bytes() - before;
        assert!(
            fetched <= 60 * MIB,
            "{fetched} bytes were fetched for {} that were read",
            48 * MIB
        );
    });
}

#[test]
fn a_read_longer_than_the_budget_is_served() {
    run(async {
        let world = World::start(MIB).await;
        let expected = data(1, 6 * MIB);
        let reader = world.reader("object", &expected).await;
        let got = read(&reader, &ReadStream::default(), 0, 6 * MIB)
            .await
            .expect("the read succeeds");
        assert!(got == expected);
    });
}

#[test]
fn memory_that_others_hold_is_waited_for() {
    run(async {
        let world = World::start(MIB).await;
        let expected = data(1, 2 * MIB);
        let reader = world.reader("object", &expected).await;
        let all = world.budget.try_acquire(MIB).expect("nobody else has any");
        let reading = rt::spawn({
            let expected = expected.clone();
            async move { read_through(&reader, &ReadStream::default(), &expected, 128 * KIB).await }
        });
        rt::sleep(Duration::from_millis(50)).await;
        assert!(!reading.is_finished() && world.gets() == 0);
        drop(all);
        reading
            .await
            .expect("the bytes are right")
            .expect("the read succeeds");
    });
}

#[test]
fn dropping_the_reader_frees_all_memory_and_ends_its_requests() {
    run(async {
        let world = World::start(64 * MIB).await;
        let reader = world.reader("object", &data(1, 40 * MIB)).await;
        let stream = ReadStream::default();
        // From the third GET on nothing arrives: they are in flight when the reader goes.
        let stalled = Fault::StallBody { after_bytes: 1000 };
        world
            .server
            .faults()
            .inject(When::on(Operation::Get).nth(4).for_ever(), stalled);
        for n in 0..4 {
            read(&reader, &stream, n * 128 * KIB, 128 * KIB)
                .await
                .expect("the read succeeds");
        }
        assert!(world.budget.used_bytes() > 0);
        drop(reader);
        world.expect_all_memory_free().await;
    });
}

#[test]
fn closing_a_handle_gives_up_what_was_fetched_ahead_for_it() {
    run(async {
        let world = World::start(64 * MIB).await;
        let reader = world.reader("object", &data(1, 40 * MIB)).await;
        let stream = ReadStream::default();
        for n in 0..16 {
            read(&reader, &stream, n * 128 * KIB, 128 * KIB)
                .await
                .expect("the read succeeds");
        }
        let before = world.budget.used_bytes();
        assert!(before > 3 * MIB, "{before} bytes are read or fetched ahead");
        drop(stream);
        // What was read (2 MiB) may stay, and the rest of a piece that was read in part.
        assert!(
            world.budget.used_bytes() <= 3 * MIB,
            "{} bytes stay",
            world.budget.used_bytes()
        );
    });
}

#[test]
fn a_seek_gives_up_what_was_fetched_ahead_at_the_old_place() {
    run(async {
        let world = World::start(64 * MIB).await;
        let reader = world.reader("object", &data(1, 60 * MIB)).await;
        let stream = ReadStream::default();
        for n in 0..24 {
            read(&reader, &stream, n * 128 * KIB, 128 * KIB)
                .await
                .expect("the read succeeds");
        }
        assert!(world.budget.used_bytes() > 6 * MIB);
        for n in 0..20 {
            read(&reader, &stream, 20 * MIB + n * 2 * MIB, 4096)
                .await
                .expect("the read succeeds");
        }
        let used = world.budget.used_bytes();
        assert!(used <= 4 * MIB + 20 * 64 * KIB, "{used} bytes stay");
    });
}

/// They are looked through after each read.
#[test]
fn scattered_reads_leave_few_pieces() {
    run(async {
        let world = World::start(256 * MIB).await;
        let expected = data(1, 64 * MIB);
        let reader = world.reader("object", &expected).await;
        let stream = ReadStream::default();
        let mut blocks: Vec<u64> = (0..1024).collect();
        let mut random = Random(7);
        for left in (1..blocks.len()).rev() {
            blocks.swap(left, random.below(left as u64 + 1) as usize);
        }
        for block in &blocks[..700] {
            let offset = block * 64 * KIB + 20_000;
            let got = read(&reader, &stream, offset, 4096).await;
            assert!(got.expect("the read succeeds") == part(&expected, offset, 4096));
        }
        let used = world.budget.used_bytes();
        assert!(used <= 512 * 16 * KIB + 20 * 64 * KIB, "{used} bytes stay");
    });
}

/// A small generator with a fixed seed: the same reads in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}
