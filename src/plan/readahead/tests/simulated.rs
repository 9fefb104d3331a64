//! Reading over links that are computed: latency, the rate of one connection, what all of them together can carry.

use super::super::link::GetSeen;
use super::*;
use crate::plan::testing::mixed;
use std::collections::VecDeque;

const TICK: Duration = Duration::from_micros(500);

#[derive(Clone, Copy, Debug)]
struct World {
    latency: Duration,
    connection_bytes_per_s: u64,
    /// Of all connections together.
    capacity_bytes_per_s: u64,
    reader_bytes_per_s: u64,
    budget_bytes: u64,
    share_bytes: u64,
}

/// What S3 looks like.
const FAR: World = World {
    latency: Duration::from_millis(20),
    connection_bytes_per_s: 90_000_000,
    capacity_bytes_per_s: u64::MAX,
    reader_bytes_per_s: 2_000_000_000,
    budget_bytes: 256 * MIB,
    share_bytes: u64::MAX,
};

struct Get {
    range: ByteRange,
    arrived: f64,
    begun: Duration,
    first_byte: Option<Duration>,
}

struct Outcome {
    time: Duration,
    /// The most that was held or on its way beyond what was read.
    most_ahead_bytes: u64,
    gets: usize,
}

impl Outcome {
    fn bytes_per_s(&self, bytes: u64) -> f64 {
        bytes as f64 / self.time.as_secs_f64()
    }
}

/// Reads `total` bytes in requests of `step`, from the beginning.
fn read(world: &World, total: u64, step: u64) -> Outcome {
    let limits = Limits::for_budget(world.budget_bytes);
    let (mut history, mut link) = (History::default(), Link::NEW);
    let mut gets: VecDeque<Get> = VecDeque::new();
    let (mut at, mut position, mut planned_until) = (Duration::ZERO, 0, 0);
    let (mut asked, mut allowance) = (false, 0.0);
    let mut outcome = Outcome {
        time: at,
        most_ahead_bytes: 0,
        gets: 0,
    };
    while position < total {
        assert!(at < Duration::from_secs(600), "no end in {world:?}");
        let request = ByteRange::new(position, (position + step).min(total));
        if !asked {
            asked = true;
            let now = Conditions {
                at,
                link,
                share_bytes: world.share_bytes,
            };
            let plan = history.plan(request, total, &limits, &now);
            let mut ranges = vec![plan.demand];
            ranges.extend(plan.ahead);
            for range in ranges {
                let missing = ByteRange::new(range.start.max(planned_until), range.end.max(planned_until));
                for get in divide(missing, plan.get_bytes, MIB) {
                    let range = ByteRange::new(get[0].start, get[get.len() - 1].end);
                    gets.push_back(Get {
                        range,
                        arrived: 0.0,
                        begun: at,
                        first_byte: None,
                    });
                    outcome.gets += 1;
                }
                planned_until = planned_until.max(range.end);
            }
            outcome.most_ahead_bytes = outcome.most_ahead_bytes.max(planned_until - request.start);
        }
        let here = gets.iter().find(|get| get.arrived < get.range.len() as f64);
        let arrived_until = here.map_or(planned_until, |get| get.range.start + get.arrived as u64);
        if arrived_until >= request.end && allowance >= request.len() as f64 {
            allowance -= request.len() as f64;
            position = request.end;
            asked = false;
            continue;
        }
        at += TICK;
        let takes = world.reader_bytes_per_s as f64 * TICK.as_secs_f64();
        allowance = (allowance + takes).min(2.0 * step as f64 + takes);
        deliver(world, &mut gets, &mut link, at);
        while gets.front().is_some_and(|get| get.range.end <= position) {
            gets.pop_front();
        }
    }
    outcome.time = at;
    outcome
}

fn deliver(world: &World, gets: &mut VecDeque<Get>, link: &mut Link, at: Duration) {
    let is_arriving =
        |get: &Get| at.saturating_sub(get.begun) >= world.latency && get.arrived < get.range.len() as f64;
    let active = gets.iter().filter(|get| is_arriving(get)).count().max(1);
    let rate = world
        .connection_bytes_per_s
        .min(world.capacity_bytes_per_s / active as u64) as f64;
    for get in gets.iter_mut().filter(|get| is_arriving(get)) {
        let first_byte = *get.first_byte.get_or_insert(at);
        get.arrived += rate * TICK.as_secs_f64();
        if get.arrived >= get.range.len() as f64 {
            let seen = GetSeen {
                first_byte: first_byte.saturating_sub(get.begun),
                body: at.saturating_sub(first_byte),
                bytes: get.range.len(),
            };
            link.note(at, &seen);
        }
    }
}

#[test]
fn a_far_store_is_read_at_many_times_one_connections_rate() {
    let outcome = read(&FAR, GIB, 256 * KIB);
    let times = outcome.bytes_per_s(GIB) / FAR.connection_bytes_per_s as f64;
    assert!(times >= 7.0, "{times} times one connection's rate");
    assert!(outcome.gets <= 170, "{} requests", outcome.gets);
}

#[test]
fn a_slow_reader_and_a_near_store_take_little_memory() {
    let slow = World {
        reader_bytes_per_s: 5_000_000,
        ..FAR
    };
    let near = World {
        latency: Duration::from_millis(1),
        connection_bytes_per_s: 1_000_000_000,
        capacity_bytes_per_s: 2_000_000_000,
        ..FAR
    };
    for world in [slow, near] {
        let outcome = read(&world, 512 * MIB, 256 * KIB);
        assert!(
            outcome.most_ahead_bytes <= 40 * MIB,
            "{} ahead in {world:?}",
            outcome.most_ahead_bytes
        );
        assert!(outcome.gets <= 90, "{} requests", outcome.gets);
    }
}

#[test]
fn a_full_link_is_not_filled_with_ever_more_requests() {
    let full = World {
        capacity_bytes_per_s: 100_000_000,
        ..FAR
    };
    let outcome = read(&full, GIB, 256 * KIB);
    assert!(
        outcome.most_ahead_bytes <= 80 * MIB,
        "{} ahead",
        outcome.most_ahead_bytes
    );
    assert!(outcome.bytes_per_s(GIB) >= 0.9 * full.capacity_bytes_per_s as f64);
}

#[test]
fn a_share_of_the_memory_is_kept_to() {
    for share_bytes in [512 * KIB, 2 * MIB, 16 * MIB] {
        let outcome = read(&World { share_bytes, ..FAR }, 128 * MIB, 256 * KIB);
        assert!(
            outcome.most_ahead_bytes <= share_bytes + 2 * 256 * KIB,
            "{} ahead with a share of {share_bytes}",
            outcome.most_ahead_bytes
        );
        let window_per_get = share_bytes as f64 / 0.025;
        assert!(
            outcome.bytes_per_s(128 * MIB) >= 0.3 * window_per_get.min(4e8),
            "{share_bytes}"
        );
    }
}

/// Reads short pieces at places that have no order, one after the other.
struct Places {
    /// Beyond the latency of each request.
    transfer: Duration,
    bytes: u64,
    gets: u64,
}

fn read_places(world: &World, places: impl IntoIterator<Item = u64>, len: u64, size_bytes: u64) -> Places {
    const UNIT_BYTES: u64 = 4 * KIB;
    let limits = Limits::for_budget(world.budget_bytes);
    let mut history = History::default();
    // What was read in part is kept, the newest 32 MiB of it.
    let mut kept: VecDeque<u64> = VecDeque::new();
    let (mut bytes, mut gets) = (0, 0);
    for place in places {
        let plan = history.plan(ByteRange::new(place, place + len), size_bytes, &limits, &NOW);
        let mut is_one_get = false;
        for range in std::iter::once(plan.demand).chain(plan.ahead) {
            for unit in range.start / UNIT_BYTES..range.end.div_ceil(UNIT_BYTES) {
                if kept.contains(&unit) {
                    is_one_get = false;
                    continue;
                }
                gets += u64::from(!is_one_get);
                is_one_get = true;
                bytes += UNIT_BYTES;
                kept.push_back(unit);
            }
            is_one_get = false;
        }
        let too_many = kept.len().saturating_sub((32 * MIB / UNIT_BYTES) as usize);
        kept.drain(..too_many);
    }
    Places {
        transfer: Duration::from_secs_f64(bytes as f64 / world.connection_bytes_per_s as f64),
        bytes,
        gets,
    }
}

/// The same each time, and in no order.
fn places(count: u64, of_pages: u64) -> impl Iterator<Item = u64> {
    (1..=count).map(move |n| mixed(n) % of_pages * 4 * KIB)
}

#[test]
fn scattered_reads_take_little_longer_than_the_latency() {
    let count = 500;
    let read = read_places(&FAR, places(count, GIB / (4 * KIB)), 4 * KIB, GIB);
    // A few are beside another: the rest of that block is fetched in two parts then.
    assert!(read.gets <= count + 5, "{} requests", read.gets);
    assert!(read.bytes <= count * 20 * KIB, "{} bytes", read.bytes);
    let each = read.transfer / count as u32;
    assert!(
        each <= Duration::from_micros(230),
        "{each:?} for the transfer of each"
    );
}

#[test]
fn reads_of_a_busy_part_fetch_each_block_once() {
    // As a database does that has one small table beside large ones, and now and then reads one of these.
    let busy = 8 * MIB;
    let reads = places(4_000, busy / (4 * KIB)).enumerate().map(|(n, place)| {
        let is_elsewhere = n % 16 == 15;
        if is_elsewhere {
            place * 61 % GIB / (4 * KIB) * (4 * KIB)
        } else {
            512 * MIB + place
        }
    });
    let read = read_places(&FAR, reads, 4 * KIB, GIB);
    // It takes a few to tell. With 16 KiB each they would be 750.
    assert!(read.gets <= 128 + 250 + 32, "{} requests", read.gets);
}

proptest! {
    #![proptest_config(Config { cases: 24, ..repeatable() })]

    #[test]
    fn what_link_reader_and_memory_allow_is_reached(
        latency_ms in 1..150u64,
        connection_mb_per_s in 20..300u64,
        capacity_mb_per_s in 50..2_000u64,
        reader_mb_per_s in 20..1_500u64,
        step in prop::sample::select(vec![128 * KIB, 256 * KIB, MIB]),
    ) {
        let world = World {
            latency: Duration::from_millis(latency_ms),
            connection_bytes_per_s: connection_mb_per_s * 1_000_000,
            capacity_bytes_per_s: capacity_mb_per_s * 1_000_000,
            reader_bytes_per_s: reader_mb_per_s * 1_000_000,
            ..FAR
        };
        let total = GIB;
        let outcome = read(&world, total, step);
        let limits = Limits::for_budget(world.budget_bytes);
        let get_s = latency_ms as f64 / 1e3
            + limits.max_get_bytes as f64 / world.connection_bytes_per_s as f64;
        let possible = (limits.max_window_bytes as f64 / get_s)
            .min(world.capacity_bytes_per_s as f64)
            .min(world.reader_bytes_per_s as f64);
        // While the window grows, a round trip each time it is tripled.
        let start_s = 10.0 * latency_ms as f64 / 1e3 + 4.0 * get_s;
        let reached = total as f64 / (outcome.time.as_secs_f64() - start_s).max(1e-3);
        prop_assert!(reached >= 0.7 * possible, "{reached} of {possible} in {world:?}");
        prop_assert!(outcome.most_ahead_bytes <= limits.max_window_bytes + 2 * MIB);
        // Not more than is of use: twice what is on the way, or the floor. Where the link is full from the beginning on, no
        // connection is ever seen to be faster than its part.
        let is_full = capacity_mb_per_s < 8 * connection_mb_per_s && capacity_mb_per_s <= reader_mb_per_s;
        let useful = if is_full { f64::MAX } else { 2.0 * possible * get_s };
        prop_assert!(
            outcome.most_ahead_bytes as f64 <= useful.max((4 * limits.max_get_bytes) as f64) * 1.3 + 2e6,
            "{} ahead, of use {useful} in {world:?}", outcome.most_ahead_bytes
        );
    }
}
