//! Name resolution that hands out all of an endpoint's addresses in turn, so that connections spread over
//! them. (S3 answers with several addresses, each a different front end: AWS "Performance design patterns for
//! Amazon S3".)

use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use tower_service::Service;

#[derive(Clone)]
pub(super) struct RotatingResolver {
    system: GaiResolver,
    turn: Arc<AtomicUsize>,
}

impl RotatingResolver {
    pub(super) fn new() -> Self {
        Self {
            system: GaiResolver::new(),
            turn: Arc::default(),
        }
    }
}

impl Service<Name> for RotatingResolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.system.poll_ready(context)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let lookup = self.system.call(name);
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move { Ok(rotated(lookup.await?.collect(), turn).into_iter()) })
    }
}

/// The same addresses, beginning with another one at each turn.
fn rotated(mut addresses: Vec<SocketAddr>, turn: usize) -> Vec<SocketAddr> {
    if !addresses.is_empty() {
        let first = turn % addresses.len();
        addresses.rotate_left(first);
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_comes_first_once() {
        let all: Vec<SocketAddr> = (1..=3).map(|n| SocketAddr::from(([10, 0, 0, n], 0))).collect();
        let firsts: Vec<SocketAddr> = (0..3).map(|turn| rotated(all.clone(), turn)[0]).collect();
        assert_eq!(firsts, all);
        assert!(rotated(Vec::new(), 7).is_empty());
    }
}
