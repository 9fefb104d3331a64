//! Every request of everything that programs do goes wrong once, in every way.
//!
//! For each scenario and each kind of failure the fault strikes request 1, 2, … until there is no such request any more.
//! Whatever happens: nothing hangs; success means exactly the new state; an error means that each object is as before or as
//! after, that the same works once the trouble is over, and that no upload is left lying about. Clocks stand still: a
//! hundred time-outs pass in a moment.

#[path = "../in_process/mod.rs"]
mod in_process;
mod scenarios;

use in_process::driver::Outcome;
use in_process::{Mount, Options, World};
use pailfs::base::limits::UploadLimits;
use pailfs::embedded::{Fault, Operation as Request, When};
use scenarios::{COPIED_AT_ONCE, Contents, Scenario};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// Longer than anything waits in the background between two attempts.
const LONG: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Demand {
    /// The user does not notice.
    Success,
    /// Success or an error, each with the state that belongs to it.
    Honesty,
}

struct Kind {
    name: &'static str,
    fault: Fault,
    for_ever: bool,
    /// Empty: requests of every kind.
    requests: &'static [Request],
    demand: Demand,
}

const fn once(name: &'static str, fault: Fault, demand: Demand) -> Kind {
    Kind {
        name,
        fault,
        for_ever: false,
        requests: &[],
        demand,
    }
}

/// The ways in which one request can fail.
fn kinds() -> Vec<Kind> {
    vec![
        once("503 once", Fault::Answer("SlowDown"), Demand::Success),
        once("500 once", Fault::Answer("InternalError"), Demand::Success),
        Kind {
            for_ever: true,
            ..once("500 for ever", Fault::Answer("InternalError"), Demand::Honesty)
        },
        Kind {
            for_ever: true,
            ..once("503 for ever", Fault::Answer("SlowDown"), Demand::Honesty)
        },
        once("a lost reply", Fault::LoseReply, Demand::Success),
        Kind {
            for_ever: true,
            ..once("lost replies for ever", Fault::LoseReply, Demand::Honesty)
        },
        once("a broken connection", Fault::Disconnect, Demand::Success),
        once(
            "a body cut short",
            Fault::CutBody { after_bytes: 20 },
            Demand::Success,
        ),
        Kind {
            for_ever: true,
            ..once(
                "bodies cut short for ever",
                Fault::CutBody { after_bytes: 20 },
                Demand::Honesty,
            )
        },
        // A read is given up soon enough to be sent again; a change may be slow, and waits for the whole time-out.
        Kind {
            requests: &[Request::Get, Request::Head, Request::List],
            ..once("no answer to a read", Fault::Stall, Demand::Success)
        },
        once("no answer", Fault::Stall, Demand::Honesty),
        Kind {
            for_ever: true,
            ..once("no answers", Fault::Stall, Demand::Honesty)
        },
        once(
            "a body that stops",
            Fault::StallBody { after_bytes: 10 },
            Demand::Success,
        ),
        // Not HEAD, whose answer has no body: its length would be believed.
        Kind {
            requests: &[
                Request::Get,
                Request::List,
                Request::Copy,
                Request::CreateUpload,
                Request::UploadPartCopy,
                Request::Complete,
            ],
            ..once("no XML", Fault::MalformedXml, Demand::Honesty)
        },
    ]
}

/// Bytes that change under way, the length and everything else staying as it was: only a checksum tells, and only answers
/// with whole objects carry one. `at_bytes`: which byte of each.
fn changed_bytes(at_bytes: u64) -> Vec<Kind> {
    let fault = Fault::FlipByte { at_bytes };
    vec![
        Kind {
            requests: &[Request::Get],
            ..once("a changed byte", fault.clone(), Demand::Success)
        },
        Kind {
            requests: &[Request::Get],
            for_ever: true,
            ..once("changed bytes for ever", fault, Demand::Honesty)
        },
    ]
}

fn options() -> Options {
    Options {
        stall_timeout: Duration::from_secs(6),
        limits: UploadLimits {
            max_copy_bytes: COPIED_AT_ONCE,
            max_part_bytes: COPIED_AT_ONCE,
            ..UploadLimits::S3
        },
        ..Options::default()
    }
}

/// One scenario under one fault at one request; false when there was no such request.
struct Trial<'a> {
    scenario: &'a Scenario,
    kind: &'a Kind,
    nth: u64,
    world: &'a World,
}

impl<'a> Trial<'a> {
    fn new(world: &'a World, scenario: &'a Scenario, kind: &'a Kind, nth: u64) -> Self {
        world.store.faults().clear();
        for key in world.remote.keys() {
            world.remote.delete(&key);
        }
        for (key, bytes) in &scenario.before {
            world.remote.put(key, bytes);
        }
        Self {
            scenario,
            kind,
            nth,
            world,
        }
    }

    /// No trial adopts what another one has left.
    fn mount(&self) -> Mount {
        self.world
            .mount_elsewhere(&format!("{} {} {}", self.scenario.name, self.kind.name, self.nth))
    }

    fn name(&self) -> String {
        format!(
            "{:?}, {} at request {}",
            self.scenario.name, self.kind.name, self.nth
        )
    }

    fn fail(&self, mount: &Mount, why: &str) -> ! {
        panic!(
            "{}: {why}\nlast error: {}",
            self.name(),
            mount.driver.last_error.borrow()
        );
    }

    fn act(&self, mount: &Mount) -> Outcome<()> {
        mount.run(&self.name(), (self.scenario.act)(&mount.driver))
    }

    fn bucket(&self) -> Contents {
        let found = self.world.remote.snapshot();
        found
            .into_iter()
            .map(|(key, stored)| (key, stored.bytes))
            .collect()
    }

    /// Returns whether the fault struck.
    fn run(&self) -> bool {
        let mount = self.mount();
        let faults = self.world.store.faults();
        let mut when = When::on_each(self.kind.requests).nth(self.nth);
        if self.kind.for_ever {
            when = when.for_ever();
        }
        let fault = faults.inject(when, self.kind.fault.clone());
        let outcome = self.act(&mount);
        let struck = faults.struck(fault) > 0;
        faults.clear();
        self.check_outcome(&mount, outcome, struck);
        self.repeat(&mount, outcome);
        let uploads = self.world.store.open_uploads();
        let unsent = mount.unmount();
        assert!(
            unsent.is_empty(),
            "{}: unsent at unmount: {unsent:?}",
            self.name()
        );
        if outcome.is_err() || !uploads.is_empty() {
            self.check_next_mount();
        }
        struck
    }

    fn check_outcome(&self, mount: &Mount, outcome: Outcome<()>, struck: bool) {
        let found = self.bucket();
        match outcome {
            Ok(()) if self.scenario.comes_later => {}
            Ok(()) => {
                if let Some(difference) = differs(&found, &self.scenario.after) {
                    self.fail(mount, &format!("success was reported, but {difference}"));
                }
            }
            Err(errno) => {
                if !struck || self.kind.demand == Demand::Success {
                    self.fail(
                        mount,
                        &format!("it failed: {}", std::io::Error::from_raw_os_error(errno)),
                    );
                }
                if let Some(mixed) = self.mixed(&found) {
                    self.fail(mount, &format!("an error was reported, and {mixed}"));
                }
            }
        }
    }

    /// What is neither old nor new.
    fn mixed(&self, found: &Contents) -> Option<String> {
        let (before, after) = (&self.scenario.before, &self.scenario.after);
        let keys = before.keys().chain(after.keys()).chain(found.keys());
        for key in keys {
            let now = found.get(key);
            let is_passing = self.scenario.passing == Some(key.as_str());
            if !is_passing && now != before.get(key) && now != after.get(key) {
                return Some(format!(
                    "{key:?} is neither as before nor as after: {:?}",
                    now.map(Vec::len)
                ));
            }
        }
        // Nothing is lost on the way: what was under an old name is under it or the new one.
        let lost = before.iter().find(|(key, bytes)| {
            let stays = after.get(*key) == Some(bytes);
            let moves = after.values().any(|other| other == *bytes);
            (stays || moves) && !found.values().any(|other| other == *bytes)
        });
        lost.map(|(key, _)| format!("the content of {key:?} is gone"))
    }

    /// The trouble is over: what failed is finished in the background, or works when it is asked for again.
    fn repeat(&self, mount: &Mount, outcome: Outcome<()>) {
        mount.sleep(LONG);
        if outcome.is_err() && differs(&self.bucket(), &self.scenario.after).is_some() {
            if !self.scenario.repeatable && self.bucket() != self.scenario.before {
                self.fail(mount, "what cannot be asked for again was done in part");
            }
            if let Err(errno) = self.act(mount) {
                let error = std::io::Error::from_raw_os_error(errno);
                self.fail(
                    mount,
                    &format!("asked for again, without any trouble, it fails: {error}"),
                );
            }
        }
        if let Some(difference) = differs(&self.bucket(), &self.scenario.after) {
            self.fail(mount, &format!("after the trouble {difference}"));
        }
        self.check_view(mount);
    }

    /// The mount shows what the bucket has.
    fn check_view(&self, mount: &Mount) {
        let symlink = self.scenario.name == "symlink";
        for (key, bytes) in &self.scenario.after {
            if key.ends_with('/') || symlink {
                continue;
            }
            let read = mount.run(&self.name(), mount.driver.read_file(key));
            if read.as_ref() != Ok(bytes) {
                self.fail(
                    mount,
                    &format!(
                        "{key:?} cannot be read as it is in the bucket: {:?}",
                        read.map(|b| b.len())
                    ),
                );
            }
        }
        for key in self
            .scenario
            .before
            .keys()
            .filter(|key| !self.scenario.after.contains_key(*key))
        {
            let path = key.trim_end_matches('/');
            if mount.run(&self.name(), mount.driver.stat(path)).map(drop) != Err(libc::ENOENT) {
                self.fail(mount, &format!("{key:?} is still shown"));
            }
        }
    }

    /// The next mount has nothing to repair, or repairs it.
    fn check_next_mount(&self) {
        let next = self.mount();
        next.sleep(LONG);
        let left = self.world.store.open_uploads();
        // An upload whose number was lost with the reply can only be found by listing all that are open.
        let loses_replies = matches!(
            self.kind.fault,
            Fault::LoseReply | Fault::CutBody { .. } | Fault::StallBody { .. } | Fault::MalformedXml
        );
        assert!(
            loses_replies || left.is_empty(),
            "{}: uploads were left behind: {left:?}",
            self.name()
        );
        if let Some(difference) = differs(&self.bucket(), &self.scenario.after) {
            self.fail(&next, &format!("after a remount {difference}"));
        }
    }
}

fn differs(found: &Contents, expected: &Contents) -> Option<String> {
    for key in expected.keys().chain(found.keys()) {
        let (now, wanted) = (found.get(key), expected.get(key));
        if now != wanted {
            let [now, wanted] = [now, wanted].map(|bytes| bytes.map(Vec::len));
            return Some(format!(
                "{key:?} is {now:?} bytes where {wanted:?} are expected (or of other content)"
            ));
        }
    }
    None
}

/// Safety net: no scenario has so many requests.
const MAX_REQUESTS: u64 = 200;

/// All failures at once, one for each scenario and kind.
fn try_all(scenarios: &[Scenario]) {
    try_kinds(scenarios, |_| true);
}

fn try_kinds(scenarios: &[Scenario], wanted: impl Fn(&Kind) -> bool) {
    try_each(scenarios, || kinds().into_iter().filter(&wanted).collect());
}

fn try_each(scenarios: &[Scenario], kinds: impl Fn() -> Vec<Kind>) {
    let only = std::env::var("PAILFS_FAULTS_ONLY").ok();
    let mut failures = Vec::new();
    for scenario in scenarios {
        for kind in kinds() {
            let name = format!("{}, {}", scenario.name, kind.name);
            if only.as_ref().is_some_and(|only| !name.contains(only)) {
                continue;
            }
            match catch_unwind(AssertUnwindSafe(|| requests_struck(scenario, &kind))) {
                Ok(struck) => println!("{name}: {struck} requests"),
                Err(panic) => {
                    let text = panic.downcast_ref::<String>().cloned();
                    failures.push(text.unwrap_or(name));
                }
            }
        }
    }
    assert!(
        failures.is_empty(),
        "{} failures:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

fn requests_struck(scenario: &Scenario, kind: &Kind) -> usize {
    let world = World::new(options());
    let struck = (1..MAX_REQUESTS)
        .take_while(|nth| Trial::new(&world, scenario, kind, *nth).run())
        .count();
    assert!(
        struck > 0 || !kind.requests.is_empty(),
        "{:?} sends no request",
        scenario.name
    );
    struck
}

#[test]
fn writing_survives_every_failed_request() {
    try_all(&scenarios::writing());
}

#[test]
fn large_files_survive_every_failed_request() {
    // Each trial moves megabytes: the whole list of faults is for the long run.
    let is_long = std::env::var_os("PAILFS_TEST_LONG").is_some();
    try_kinds(&scenarios::large(), |kind| {
        is_long || ["500 once", "a lost reply"].contains(&kind.name)
    });
}

#[test]
fn what_is_copied_in_parts_survives_every_failed_request() {
    let is_long = std::env::var_os("PAILFS_TEST_LONG").is_some();
    try_kinds(&scenarios::copied_in_parts(), |kind| {
        is_long || ["500 once", "a lost reply"].contains(&kind.name)
    });
}

#[test]
fn files_that_lose_their_name_while_they_are_open_survive_every_failed_request() {
    try_all(&scenarios::open_files());
}

#[test]
fn changing_names_survives_every_failed_request() {
    try_all(&scenarios::names());
}

#[test]
fn reading_survives_every_failed_request() {
    try_all(&scenarios::reading());
}

#[test]
fn a_byte_that_changes_on_its_way_is_noticed_in_small_files() {
    for at_bytes in [0, 1_000, 90_000] {
        try_each(&[scenarios::read_of(100_000)], || changed_bytes(at_bytes));
    }
    // Larger than what the client holds back, or what the kernel reads at a time.
    for at_bytes in [1_000, 650_000] {
        try_each(&[scenarios::read_of(700_000)], || changed_bytes(at_bytes));
    }
}
