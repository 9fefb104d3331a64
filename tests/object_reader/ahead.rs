//! What is fetched ahead: how much at a time, in which order, for whom.

use super::{World, data, part, read, run};
use pailfs::base::limits::{KIB, MIB};
use pailfs::embedded::{Fault, Operation, When};
use pailfs::object::reader::ReadStream;
use pailfs::rt;
use std::time::Duration;

async fn wait_until_gets(world: &World, at_least: u64) {
    rt::timeout(super::STALL, async {
        while world.gets() < at_least {
            rt::sleep(Duration::from_millis(2)).await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("{} requests came of {at_least}", world.gets()));
}

#[test]
fn a_sequential_reader_has_several_requests_on_their_way() {
    run(async {
        let world = World::start(64 * MIB).await;
        let expected = data(1, 48 * MIB);
        let reader = world.reader("object", &expected).await;
        let stream = ReadStream::default();
        for n in 0..16 {
            read(&reader, &stream, n * 256 * KIB, 256 * KIB)
                .await
                .expect("the read succeeds");
        }
        // From here on nothing arrives: what is asked for meanwhile is on its way at the same time.
        let before = world.gets();
        let stalled = Fault::StallBody { after_bytes: 0 };
        world
            .server
            .faults()
            .inject(When::on(Operation::Get).for_ever(), stalled);
        let reading = rt::spawn(async move {
            for n in 16.. {
                if read(&reader, &stream, n * 256 * KIB, 256 * KIB).await.is_err() {
                    break;
                }
            }
        });
        wait_until_gets(&world, before + 4).await;
        reading.abort();
    });
}

#[test]
fn a_file_that_is_read_backwards_comes_in_long_requests_and_once() {
    run(async {
        let world = World::start(64 * MIB).await;
        let expected = data(1, 24 * MIB + 333);
        let reader = world.reader("object", &expected).await;
        let before = world.received_bytes();
        let stream = ReadStream::default();
        let mut end = expected.len() as u64;
        while end > 0 {
            let start = end.saturating_sub(96 * KIB);
            let got = read(&reader, &stream, start, end - start)
                .await
                .expect("the read succeeds");
            assert!(
                got == part(&expected, start, end - start),
                "wrong bytes at {start}"
            );
            end = start;
        }
        assert_eq!(world.received_bytes() - before, expected.len() as u64);
        assert!(world.gets() <= 40, "{} requests", world.gets());
    });
}

#[test]
fn elements_at_equal_distances_are_fetched_side_by_side_and_nothing_between_them() {
    run(async {
        let world = World::start(64 * MIB).await;
        let expected = data(1, 60 * MIB);
        let reader = world.reader("object", &expected).await;
        let before = world.received_bytes();
        let stream = ReadStream::default();
        for n in 0..20 {
            let offset = n * MIB + 64 * KIB;
            let got = read(&reader, &stream, offset, 64 * KIB)
                .await
                .expect("the read succeeds");
            assert!(got == part(&expected, offset, 64 * KIB));
        }
        // How many depends on how fast they were read.
        let ahead = world.gets() - 20;
        assert!((1..=40).contains(&ahead), "{ahead} requests ahead");
        // All the bytes that were asked for are of elements.
        rt::timeout(super::STALL, async {
            while world.received_bytes() - before < world.gets() * 64 * KIB {
                rt::sleep(Duration::from_millis(2)).await;
            }
        })
        .await
        .expect("what was asked for arrives");
        assert_eq!(world.received_bytes() - before, world.gets() * 64 * KIB);
    });
}

#[test]
fn a_stream_that_comes_late_gets_its_share_of_the_memory() {
    run(async {
        let world = World::start(16 * MIB).await;
        let early = data(1, 96 * MIB);
        let late = data(2, 8 * MIB);
        let early_reader = world.reader("early", &early).await;
        let late_reader = world.reader("late", &late).await;
        // Each of these alone may have half of the memory.
        let early_streams: Vec<_> = (0..4).map(|_| ReadStream::default()).collect();
        let late_stream = ReadStream::default();
        let read_early = async |n: u64| {
            for (index, stream) in early_streams.iter().enumerate() {
                let offset = index as u64 * 24 * MIB + n * 256 * KIB;
                let got = read(&early_reader, stream, offset, 256 * KIB).await;
                assert!(got.expect("the read succeeds") == part(&early, offset, 256 * KIB));
            }
        };
        for n in 0..48 {
            read_early(n).await;
        }
        world.server.counts().set_logging(true);
        for n in 0..64 {
            if n % 2 == 0 {
                read_early(48 + n / 2).await;
            }
            let got = read(&late_reader, &late_stream, n * 128 * KIB, 128 * KIB).await;
            assert!(got.expect("the read succeeds") == part(&late, n * 128 * KIB, 128 * KIB));
        }
        let of_late = |(_, key): &(Operation, String)| key == "late";
        let gets = world
            .server
            .counts()
            .log()
            .iter()
            .filter(|entry| of_late(entry))
            .count();
        // It has 64 requests if nothing is fetched ahead.
        assert!(gets <= 24, "{gets} requests for the late one");
    });
}

#[test]
fn what_was_fetched_ahead_for_a_handle_that_stays_idle_does_not_keep_others_from_reading_ahead() {
    run(async {
        let world = World::start(8 * MIB).await;
        let expected = data(1, 16 * MIB);
        let idle_reader = world.reader("idle", &expected).await;
        let reader = world.reader("object", &expected).await;
        let (idle_stream, stream) = (ReadStream::default(), ReadStream::default());
        for n in 0..8 {
            read(&idle_reader, &idle_stream, n * 256 * KIB, 256 * KIB)
                .await
                .expect("the read succeeds");
        }
        world.server.counts().set_logging(true);
        for n in 0..128 {
            let got = read(&reader, &stream, n * 128 * KIB, 128 * KIB).await;
            assert!(got.expect("the read succeeds") == part(&expected, n * 128 * KIB, 128 * KIB));
        }
        let log = world.server.counts().log();
        let gets = log.iter().filter(|(_, key)| key == "object").count();
        assert!(gets <= 50, "{gets} requests");
    });
}
