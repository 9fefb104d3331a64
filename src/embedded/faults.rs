//! Faults on demand, for tests: which requests go wrong, and how; and the ways in which poorer stores differ.
//!
//! 1. A test must hit exactly the request it means: a rule counts the requests that match it, and strikes at the
//!    Nth, once or from then on.
//! 2. A fault happens at one of three places: before the operation (refuse, stall, drop), after it (lose the
//!    reply), or in the answer's body. [`Fate`] carries the decision from the first place to the others.

use super::counts::Operation;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

type KeyPredicate = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// Which requests a fault strikes.
#[derive(Clone)]
pub struct When {
    operations: Vec<Operation>,
    key: Option<KeyPredicate>,
    nth: u64,
    times: u64,
}

impl When {
    /// Every operation.
    pub fn any() -> Self {
        Self {
            operations: Vec::new(),
            key: None,
            nth: 1,
            times: 1,
        }
    }

    pub fn on(operation: Operation) -> Self {
        Self::on_each(&[operation])
    }

    pub fn on_each(operations: &[Operation]) -> Self {
        Self {
            operations: operations.to_vec(),
            ..Self::any()
        }
    }

    pub fn key(self, key: &str) -> Self {
        let wanted = key.to_owned();
        self.key_where(move |key| key == wanted)
    }

    pub fn key_where(mut self, predicate: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        self.key = Some(Arc::new(predicate));
        self
    }

    /// Strikes first at the Nth matching request from now; the next one is the first.
    pub fn nth(mut self, nth: u64) -> Self {
        self.nth = nth.max(1);
        self
    }

    /// Strikes at this many requests in a row, instead of one.
    pub fn times(mut self, times: u64) -> Self {
        self.times = times;
        self
    }

    /// Strikes at every matching request from the Nth on.
    pub fn for_ever(self) -> Self {
        self.times(u64::MAX)
    }
}

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Answers this S3 error code, such as `SlowDown`, with its status; nothing is applied.
    Answer(&'static str),
    /// Closes the connection; nothing is applied.
    Disconnect,
    /// Applies the request, then closes the connection instead of answering.
    LoseReply,
    /// Applies the request, and answers so much later.
    DelayReply(Duration),
    /// Never answers; nothing is applied.
    Stall,
    /// Waits before it goes on.
    Delay(Duration),
    /// Closes the connection after this many bytes of the answer's body.
    CutBody { after_bytes: u64 },
    /// Sends this many bytes of the answer's body and then nothing more.
    StallBody { after_bytes: u64 },
    /// Ends the answer's body after this many bytes as if that were all, its length included.
    ShortenBody { to_bytes: u64 },
    /// Inverts the byte at this position of the answer's body, if it is that long.
    FlipByte { at_bytes: u64 },
    /// Answers with a body that is not XML.
    MalformedXml,
}

impl Fault {
    /// Strikes while the answer's body is sent.
    pub(super) fn is_of_body(&self) -> bool {
        match self {
            Self::CutBody { .. }
            | Self::StallBody { .. }
            | Self::ShortenBody { .. }
            | Self::FlipByte { .. } => true,
            Self::Answer(_)
            | Self::Disconnect
            | Self::LoseReply
            | Self::DelayReply(_)
            | Self::Stall
            | Self::Delay(_)
            | Self::MalformedXml => false,
        }
    }
}

struct Rule {
    id: u64,
    when: When,
    fault: Fault,
    seen: u64,
    struck: u64,
}

#[derive(Default)]
struct Rules {
    rules: Vec<Rule>,
    last_id: u64,
}

/// Names an injected fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultId(u64);

/// A handle on the faults of one store; clones share them.
#[derive(Clone, Default)]
pub struct Faults(Arc<Mutex<Rules>>);

impl Faults {
    pub fn inject(&self, when: When, fault: Fault) -> FaultId {
        let mut rules = self.rules();
        rules.last_id += 1;
        let id = rules.last_id;
        rules.rules.push(Rule {
            id,
            when,
            fault,
            seen: 0,
            struck: 0,
        });
        FaultId(id)
    }

    pub fn remove(&self, id: FaultId) {
        self.rules().rules.retain(|rule| rule.id != id.0);
    }

    pub fn clear(&self) {
        self.rules().rules.clear();
    }

    /// How many requests the fault has struck.
    pub fn struck(&self, id: FaultId) -> u64 {
        self.rules()
            .rules
            .iter()
            .find(|rule| rule.id == id.0)
            .map_or(0, |rule| rule.struck)
    }

    /// Counts a request against every rule, and says what befalls it.
    pub(super) fn fate_of(&self, operation: Operation, key: &str) -> Vec<Fault> {
        let mut rules = self.rules();
        let mut fate = Vec::new();
        for rule in &mut rules.rules {
            let is_meant = rule.when.operations.is_empty() || rule.when.operations.contains(&operation);
            if !is_meant || rule.when.key.as_ref().is_some_and(|predicate| !predicate(key)) {
                continue;
            }
            rule.seen += 1;
            if rule.seen >= rule.when.nth && rule.seen - rule.when.nth < rule.when.times {
                rule.struck += 1;
                fate.push(rule.fault.clone());
            }
        }
        fate
    }

    fn rules(&self) -> MutexGuard<'_, Rules> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the rest of one request's way through the server has to know. Travels in the request's extensions.
#[derive(Clone, Debug, Default)]
pub(super) struct Fate(Arc<Mutex<Vec<Fault>>>);

impl Fate {
    pub fn set(&self, faults: Vec<Fault>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = faults;
    }

    pub fn find<T>(&self, select: impl Fn(&Fault) -> Option<T>) -> Option<T> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .find_map(select)
    }

    pub fn has(&self, fault: &Fault) -> bool {
        self.find(|other| (other == fault).then_some(())).is_some()
    }
}

/// Ways in which other stores fall short of S3, each seen in one that people use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quirks {
    pub ignore_put_conditions: bool,
    pub ignore_complete_conditions: bool,
    /// Conditions on the destination of a copy; those on its source hold.
    pub ignore_copy_conditions: bool,
    pub ignore_delete_conditions: bool,
    pub no_checksum_algorithms_in_listings: bool,
    /// Entries of a page come in another order.
    pub unordered_listings: bool,
    /// User metadata and headers of keys that end in `/` are dropped.
    pub forget_metadata_of_markers: bool,
    /// ETags are arbitrary, and new for each write or copy, also of the same bytes (as with SSE-KMS on AWS). This
    /// spares the server the MD5, the largest part of what a PUT costs it.
    pub opaque_etags: bool,
    /// Copying larger objects at once is answered `InvalidRequest`, as S3 does it above 5 GiB.
    pub largest_copy_bytes: Option<u64>,
    /// Bodies with trailing checksums are answered `NotImplemented`.
    pub reject_checksum_trailers: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_strikes_the_nth_matching_request_once() {
        let faults = Faults::default();
        let id = faults.inject(
            When::on(Operation::Put).key("k").nth(2),
            Fault::Answer("SlowDown"),
        );
        let struck: Vec<bool> = [
            (Operation::Put, "k"),
            (Operation::Get, "k"),
            (Operation::Put, "other"),
            (Operation::Put, "k"),
            (Operation::Put, "k"),
        ]
        .map(|(operation, key)| !faults.fate_of(operation, key).is_empty())
        .into();
        assert_eq!(struck, [false, false, false, true, false]);
        assert_eq!(faults.struck(id), 1);
    }

    #[test]
    fn a_lasting_fault_strikes_until_it_is_removed() {
        let faults = Faults::default();
        let id = faults.inject(When::any().for_ever(), Fault::Disconnect);
        assert_eq!(faults.fate_of(Operation::Get, "a"), [Fault::Disconnect]);
        assert_eq!(faults.fate_of(Operation::List, ""), [Fault::Disconnect]);
        faults.remove(id);
        assert!(faults.fate_of(Operation::Get, "a").is_empty());
    }
}
