//! What a mount has asked of the store, as a line for the log.

use crate::base::prices::{self, Priced, RequestPrices};
use crate::telemetry::{Metrics, RequestClass};
use std::fmt::Write as _;
use std::sync::atomic::Ordering;

/// Requests by class (each attempt counted), bytes, and the cost where prices are known.
#[must_use]
pub fn describe(metrics: &Metrics, known_prices: Option<&RequestPrices>) -> String {
    let mut text = String::new();
    for class in RequestClass::ALL {
        if metrics.requests(class) > 0 {
            let _infallible = write!(text, "{}={} ", class.name(), metrics.requests(class));
        }
    }
    let failed: u64 = RequestClass::ALL
        .iter()
        .map(|class| metrics.failures(*class))
        .sum();
    let received_bytes = metrics.received_bytes.load(Ordering::Relaxed);
    let sent_bytes = metrics.sent_bytes.load(Ordering::Relaxed);
    let _infallible = write!(
        text,
        "failed_attempts={failed} received_bytes={received_bytes} sent_bytes={sent_bytes}"
    );
    if let Some(known) = known_prices {
        let of_requests = RequestClass::ALL
            .iter()
            .map(|class| known.of_requests(priced(*class), metrics.requests(*class)));
        let cost = of_requests.sum::<u128>() + known.of_received(received_bytes);
        let _infallible = write!(text, " cost={}", prices::show(cost));
    }
    text
}

/// As S3's price list has it.
fn priced(class: RequestClass) -> Priced {
    match class {
        RequestClass::Put
        | RequestClass::Copy
        | RequestClass::Multipart
        | RequestClass::UploadPart
        | RequestClass::UploadPartCopy => Priced::Put,
        RequestClass::Get | RequestClass::Head | RequestClass::Other => Priced::Get,
        RequestClass::List => Priced::List,
        RequestClass::Delete => Priced::Delete,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_cost_are_told_together() {
        let metrics = Metrics::default();
        for _ in 0..3 {
            metrics.count_request(RequestClass::Get);
        }
        metrics.count_request(RequestClass::Copy);
        metrics.count_failure(RequestClass::Get);
        metrics.received_bytes.store(1_000_000_000, Ordering::Relaxed);
        let text = describe(&metrics, None);
        assert_eq!(
            text,
            "get=3 copy=1 failed_attempts=1 received_bytes=1000000000 sent_bytes=0"
        );
        let prices = RequestPrices::parse("put=0.005,get=0.0004,received=0.09").expect("prices");
        let text = describe(&metrics, Some(&prices));
        assert!(text.ends_with(" cost=0.090006"), "{text}");
    }
}
