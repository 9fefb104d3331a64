//! What the way to the store is like, and how much has to be on it to keep a reader supplied.
//!
//! Difficulties, and who solves them:
//! 1. A link that is shared, or full, makes every request slow: taken at their word, slow requests would ask for more of
//!    them at a time, which makes them slower still. So the best that was seen counts, not the average ([`Best`]).
//! 2. What came while nobody looked seems to come at once: on a busy machine a short body can seem to have come at many times
//!    the connection's rate. So bodies count from the request on, less the latency that is known in the end ([`Best::body_time`]).
//! 3. A route changes, a network becomes slow for good: what was seen is forgotten after a while ([`Link::note`]).
//! 4. A reader's pace is what it takes, pauses included, but one pause is not a slower reader. What arrives together is taken
//!    at once, which is not the pace either: it is looked at over a whole window ([`Pace`]).

use std::time::Duration;

/// What was seen is believed for between one and two of these.
const GENERATION: Duration = Duration::from_secs(30);
/// A shorter body says nothing about a connection's rate: most of it is in a buffer when its first byte is looked at.
const TELLING_BODY_BYTES: u64 = 512 << 10;
/// GETs are told apart up to 16 times that length.
const OCTAVES: usize = 5;
/// A pace is taken over at least this time.
const SHORTEST_LOOK: Duration = Duration::from_millis(5);
/// What is on its way is this many times what just suffices: a faster reader shows only if it is let.
const HEADROOM: u32 = 2;

/// How one GET went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GetSeen {
    /// From the request to the first byte.
    pub first_byte: Duration,
    /// From the first byte to the last.
    pub body: Duration,
    pub bytes: u64,
}

/// What GETs of a mount were like lately.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    current: Best,
    former: Best,
    since: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Best {
    latency: Option<Duration>,
    /// The fastest GET of each length, in octaves from [`TELLING_BODY_BYTES`] on: how fast one is, compared with a longer one,
    /// depends on the latency.
    fastest: [Option<Fastest>; OCTAVES],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fastest {
    bytes: u64,
    /// From the request to the last byte.
    time: Duration,
}

impl Best {
    const NONE: Self = Self {
        latency: None,
        fastest: [None; OCTAVES],
    };

    fn note(&mut self, get: &GetSeen) {
        let latency = self.latency.unwrap_or(get.first_byte).min(get.first_byte);
        self.latency = Some(latency);
        let Some(octave) = (get.bytes / TELLING_BODY_BYTES).checked_ilog2() else {
            return;
        };
        let seen = Fastest {
            bytes: get.bytes,
            time: get.first_byte + get.body,
        };
        let known = &mut self.fastest[(octave as usize).min(OCTAVES - 1)];
        if known.is_none_or(|known| seen.seconds_a_byte(latency) < known.seconds_a_byte(latency)) {
            *known = Some(seen);
        }
    }

    /// How long the body of a GET of `bytes` takes on a connection of its own.
    fn body_time(&self, bytes: u64, latency: Duration) -> Option<Duration> {
        let fastest = self
            .fastest
            .iter()
            .flatten()
            .map(|get| get.seconds_a_byte(latency));
        let seconds_a_byte = fastest.min_by(f64::total_cmp)?;
        Some(Duration::from_secs_f64(seconds_a_byte * bytes as f64))
    }
}

impl Fastest {
    fn seconds_a_byte(&self, latency: Duration) -> f64 {
        self.time.saturating_sub(latency).as_secs_f64() / self.bytes as f64
    }
}

impl Default for Link {
    fn default() -> Self {
        Self::NEW
    }
}

impl Link {
    /// Nothing was seen yet.
    pub const NEW: Self = Self {
        current: Best::NONE,
        former: Best::NONE,
        since: Duration::ZERO,
    };

    /// `at` is measured from any moment, always the same.
    pub fn note(&mut self, at: Duration, get: &GetSeen) {
        let age = at.saturating_sub(self.since);
        if age >= GENERATION {
            let is_worth_keeping = age < 2 * GENERATION;
            self.former = if is_worth_keeping {
                self.current
            } else {
                Best::NONE
            };
            self.current = Best::NONE;
            self.since = at;
        }
        self.current.note(get);
    }

    /// How long a GET of `bytes` takes on a connection of its own; `None` while too little was seen.
    #[must_use]
    pub fn get_time(&self, bytes: u64) -> Option<Duration> {
        let latency = match (self.current.latency, self.former.latency) {
            (Some(one), Some(other)) => one.min(other),
            (one, other) => one.or(other)?,
        };
        let known = [self.current, self.former];
        let body_time = known
            .iter()
            .filter_map(|best| best.body_time(bytes, latency))
            .min()?;
        Some(latency + body_time)
    }

    /// How much has to be on its way, in GETs of `get_bytes`, so that whoever takes `bytes_per_s` never waits; `None` while
    /// too little was seen.
    #[must_use]
    pub fn bytes_on_the_way(&self, bytes_per_s: u64, get_bytes: u64) -> Option<u64> {
        let get_time = self.get_time(get_bytes)? * HEADROOM;
        Some((bytes_per_s as f64 * get_time.as_secs_f64()) as u64)
    }
}

fn bytes_per_s(bytes: u64, time: Duration) -> u64 {
    (bytes as f64 / time.as_secs_f64().max(1e-6)) as u64
}

/// How fast somebody reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    since: Option<Duration>,
    bytes: u64,
    bytes_per_s: u64,
}

impl Pace {
    /// `bytes` more are asked for, so that what was asked for before has been taken, while up to `window_bytes` are on their
    /// way.
    pub fn note(&mut self, at: Duration, bytes: u64, window_bytes: u64) {
        let since = *self.since.get_or_insert(at);
        let time = at.saturating_sub(since);
        if time >= SHORTEST_LOOK && self.bytes >= window_bytes {
            let seen = bytes_per_s(self.bytes, time);
            self.bytes_per_s = seen.max(self.bytes_per_s - self.bytes_per_s / 8);
            self.since = Some(at);
            self.bytes = 0;
        }
        self.bytes += bytes;
    }

    #[must_use]
    pub fn bytes_per_s(&self) -> u64 {
        self.bytes_per_s
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn get(first_byte_ms: u32, body_ms: u32, bytes: u64) -> GetSeen {
        GetSeen {
            first_byte: MS * first_byte_ms,
            body: MS * body_ms,
            bytes,
        }
    }

    #[test]
    fn the_best_that_was_seen_counts_and_is_forgotten_in_time() {
        let mut link = Link::default();
        assert_eq!(link.get_time(1), None);
        link.note(MS, &get(20, 100, 10_000_000));
        // A full link: eight times slower.
        link.note(2 * MS, &get(160, 800, 10_000_000));
        assert_eq!(link.get_time(10_000_000), Some(120 * MS));
        assert_eq!(link.bytes_on_the_way(100_000_000, 10_000_000), Some(24_000_000));
        link.note(GENERATION + MS, &get(160, 800, 10_000_000));
        assert_eq!(link.get_time(10_000_000), Some(120 * MS));
        link.note(2 * GENERATION + 2 * MS, &get(160, 800, 10_000_000));
        assert_eq!(link.get_time(10_000_000), Some(960 * MS));
        link.note(9 * GENERATION, &get(30, 200, 10_000_000));
        assert_eq!(link.get_time(10_000_000), Some(230 * MS));
    }

    #[test]
    fn short_bodies_tell_the_latency_only() {
        let mut link = Link::default();
        link.note(MS, &get(5, 0, 4096));
        assert_eq!(link.get_time(1), None);
        link.note(MS, &get(20, 100, 10_000_000));
        assert_eq!(link.get_time(10_000_000), Some(120 * MS));
    }

    #[test]
    fn a_body_that_was_looked_at_late_does_not_make_a_connection_fast() {
        let mut link = Link::default();
        // The first one seemed to come at ten times the rate, as nobody looked for the first 9 ms of its body.
        link.note(MS, &get(29, 1, 1_000_000));
        link.note(MS, &get(20, 10, 1_000_000));
        assert_eq!(link.get_time(10_000_000), Some(120 * MS));
        // Nor does that of the first after a while, when the latency is known.
        link.note(GENERATION + MS, &get(29, 1, 1_000_000));
        assert_eq!(link.get_time(10_000_000), Some(120 * MS));
    }

    #[test]
    fn a_pause_is_not_a_slower_reader_but_slowness_is() {
        let mut pace = Pace::default();
        for n in 0..100 {
            pace.note(MS * (10 * n), 1_000_000, 0);
        }
        assert_eq!(pace.bytes_per_s(), 100_000_000);
        pace.note(Duration::from_secs(61), 1_000_000, 0);
        assert!(pace.bytes_per_s() > 80_000_000);
        for n in 0..100 {
            pace.note(Duration::from_secs(61) + MS * (100 * n), 1_000_000, 0);
        }
        assert_eq!(pace.bytes_per_s(), 10_000_000);
    }
}
