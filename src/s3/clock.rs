//! The server's clock, estimated from the `Date` headers of its answers.

use crate::rt;
use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const UNKNOWN: i64 = i64::MIN;

/// How far the server's clock is ahead of ours. A header has whole seconds, so the estimate may be a second
/// behind.
pub(super) struct ServerClock {
    ahead_ms: AtomicI64,
    sampled_ms: AtomicI64,
}

impl Default for ServerClock {
    fn default() -> Self {
        Self {
            ahead_ms: AtomicI64::new(UNKNOWN),
            sampled_ms: AtomicI64::new(UNKNOWN),
        }
    }
}

impl ServerClock {
    /// Learns from a `Date` header that has just arrived; at most one a second is looked at.
    pub(super) fn observe(&self, date_header: &str) {
        let local_ms = unix_ms(rt::wall_clock());
        let sampled_ms = self.sampled_ms.load(Ordering::Relaxed);
        if sampled_ms != UNKNOWN && (local_ms - sampled_ms).abs() < 1000 {
            return;
        }
        if let Some(server) = parse_http_date(date_header) {
            self.ahead_ms.store(unix_ms(server) - local_ms, Ordering::Relaxed);
            self.sampled_ms.store(local_ms, Ordering::Relaxed);
        }
    }

    /// The server's time now, in whole seconds; ours as long as no answer has come.
    pub(super) fn now(&self) -> SystemTime {
        let ahead_ms = match self.ahead_ms.load(Ordering::Relaxed) {
            UNKNOWN => 0,
            known => known,
        };
        let seconds = (unix_ms(rt::wall_clock()) + ahead_ms).max(0) / 1000;
        UNIX_EPOCH + Duration::from_secs(seconds as u64)
    }
}

/// Reads an HTTP date (RFC 9110, section 5.6.7).
pub(super) fn parse_http_date(text: &str) -> Option<SystemTime> {
    SystemTime::try_from(DateTime::from_str(text, Format::HttpDate).ok()?).ok()
}

fn unix_ms(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_millis() as i64,
        Err(before) => -(before.duration().as_millis() as i64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_an_hour_ahead_is_noticed() {
        let clock = ServerClock::default();
        let ahead = rt::wall_clock() + Duration::from_hours(1);
        let header = DateTime::from(ahead)
            .fmt(Format::HttpDate)
            .expect("a date of this century");
        clock.observe(&header);
        let error_ms = unix_ms(clock.now()) - unix_ms(ahead);
        assert!((-3_000..=3_000).contains(&error_ms), "{error_ms} ms");
    }

    #[test]
    fn nonsense_in_the_header_changes_nothing() {
        let clock = ServerClock::default();
        clock.observe("yesterday");
        assert_eq!(clock.ahead_ms.load(Ordering::Relaxed), UNKNOWN);
    }
}
