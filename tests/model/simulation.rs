//! A run: machines with mounts, a bucket, and the reference, kept in step.
//!
//! 1. A failure must say how it came about: the seed, the step, the last operations ([`Simulation::fail`]).
//! 2. Machines believe their caches for a while: before another one acts, the clock of each passes that while
//!    ([`Simulation::wait_for_caches`]). What holds without waiting is tested by `races`.
//! 3. What a crash cut off may have happened or not: the reference follows what the bucket shows, if that is one of
//!    the two ([`Simulation::settle_cut_off`]).

use super::operation::{Descriptors, Operation, Value, execute};
use super::reference::{Entry, Reference, parent_of};
use crate::in_process::driver::Outcome;
use crate::in_process::random::Random;
use crate::in_process::remote::Stored;
use crate::in_process::{BUCKET, Mount, Options, World};
use pailfs::base::attributes::{Attributes, MetadataFormat};
use pailfs::base::object::ObjectHeaders;
use pailfs::embedded::{Fault, Operation as Request, When};
use pailfs::plan::notifications::Change;
use pailfs::spool::conflicts::{self, KeptConflict};
use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// Longer than any cache is believed and any background work waits.
pub const LONG: Duration = Duration::from_secs(30);
/// What was modified so long ago has its attributes remembered.
const RACY: Duration = Duration::from_millis(2_100);
const MOUNTS_OF_THE_AGED: usize = 12;
/// How many operations a failure tells; all, with their requests, with `PAILFS_MODEL_TRACE`.
const TRACE: usize = 60;

pub struct Machine {
    pub mount: Option<Mount>,
    descriptors: Descriptors,
    name: String,
}

impl Machine {
    pub fn mount(&self) -> &Mount {
        self.mount
            .as_ref()
            .expect("every machine has its mount but for the moment of a crash")
    }
}

pub struct Simulation {
    pub world: World,
    pub machines: Vec<Machine>,
    pub reference: Reference,
    pub random: Random,
    seed: u64,
    step: usize,
    trace: Vec<String>,
    is_traced: bool,
    last_machine: usize,
    /// Requests whose replies are lost in the meantime.
    lossy: bool,
}

impl Simulation {
    pub fn new(seed: u64, machines: usize, options: Options) -> Self {
        let world = World::new(options);
        let is_traced = std::env::var_os("PAILFS_MODEL_TRACE").is_some();
        world.store.counts().set_logging(is_traced);
        let machine = |number: usize| {
            let name = format!("machine-{number}");
            Machine {
                mount: Some(world.mount_elsewhere(&name)),
                descriptors: Descriptors::default(),
                name,
            }
        };
        let machines: Vec<Machine> = (0..machines).map(machine).collect();
        Self {
            reference: Reference::new(machines.len()),
            machines,
            world,
            random: Random::new(seed),
            seed,
            step: 0,
            trace: Vec::new(),
            is_traced,
            last_machine: 0,
            lossy: false,
        }
    }

    pub fn begin_step(&mut self) {
        self.step += 1;
    }

    pub fn note(&mut self, text: String) {
        self.trace.push(format!("{:>5} {text}", self.step));
        if self.is_traced {
            let counts = self.world.store.counts();
            let requests = counts
                .log()
                .into_iter()
                .map(|(operation, key)| format!("        {operation:?} {key}"));
            self.trace.extend(requests);
            counts.reset();
        } else if self.trace.len() > TRACE {
            self.trace.remove(0);
        }
    }

    /// Ends the run with all that is needed to understand why.
    pub fn fail(&self, why: &str) -> ! {
        let machine = &self.machines[self.last_machine];
        let error = machine
            .mount
            .as_ref()
            .map(|mount| mount.driver.last_error.borrow().clone());
        panic!(
            "PAILFS_MODEL_SEED={} step {}: {why}\nlast error of the mount: {}\n{}",
            self.seed,
            self.step,
            error.unwrap_or_default(),
            self.trace.join("\n")
        );
    }

    /// From now on `machine` acts.
    pub fn switch_to(&mut self, machine: usize) {
        if machine != self.last_machine {
            self.wait_for_caches();
            self.last_machine = machine;
        }
    }

    /// Lets every mount finish its background work, then forget what it knew of the bucket.
    pub fn wait_for_caches(&mut self) {
        for _ in 0..2 {
            for mount in self.machines.iter().filter_map(|machine| machine.mount.as_ref()) {
                mount.sleep(LONG);
            }
        }
    }

    /// Carries out an operation on a mount, whatever comes of it.
    pub fn execute(&mut self, machine: usize, operation: &Operation) -> Outcome<Value> {
        self.switch_to(machine);
        let actor = &self.machines[machine];
        let what = format!("seed {} step {}: {operation:?}", self.seed, self.step);
        let mount = actor.mount();
        let outcome = mount.run(&what, execute(&mount.driver, &actor.descriptors, operation));
        let shown = match &outcome {
            Ok(value) => format!("{value:?}"),
            Err(errno) => errno_name(*errno),
        };
        let lossy = if self.lossy { " (reply lost)" } else { "" };
        self.note(format!(
            "{}: {operation:?} = {shown}{lossy}",
            self.machines[machine].name
        ));
        outcome
    }

    /// Carries out an operation on a mount and the reference, which must agree.
    pub fn both(&mut self, machine: usize, operation: &Operation) -> Outcome<Value> {
        let outcome = self.execute(machine, operation);
        if let Operation::ReadEntries {
            handle,
            from_the_beginning,
            ..
        } = operation
        {
            let entries = match &outcome {
                Ok(Value::Entries(entries)) => Ok(&entries[..]),
                Ok(_) => Ok(&[][..]),
                Err(errno) => Err(*errno),
            };
            let noted = self
                .reference
                .note_entries(machine, *handle, *from_the_beginning, entries);
            if let Err(why) = noted {
                self.fail(&format!("{operation:?}: {why}"));
            }
            return outcome;
        }
        let expected = self.reference.apply(machine, operation);
        let agree = match (&outcome, &expected) {
            (Ok(value), Ok(expected)) => value.is_as_expected(expected),
            (Err(errno), Err(expected)) => errno == expected,
            _ => false,
        };
        if !agree {
            let expected = expected.map_err(errno_name);
            self.fail(&format!(
                "{operation:?}: expected {expected:?}, got {:?}",
                outcome.map_err(errno_name)
            ));
        }
        outcome
    }

    /// As [`Self::both`] while the store loses the reply of the `nth` request of the kind.
    pub fn both_losing_a_reply(&mut self, machine: usize, operation: &Operation, request: Request, nth: u64) {
        self.switch_to(machine);
        let faults = self.world.store.faults().clone();
        let fault = faults.inject(When::on(request).nth(nth), Fault::LoseReply);
        self.lossy = true;
        let outcome = self.both(machine, operation);
        self.lossy = false;
        if faults.struck(fault) > 0 {
            self.note(format!(
                "  the reply of {request:?} number {nth} was lost, and {outcome:?}"
            ));
        }
        faults.remove(fault);
    }

    /// Kills a mount and mounts again.
    pub fn crash(&mut self, machine: usize) {
        self.switch_to(machine);
        self.note(format!("{} crashes", self.machines[machine].name));
        let before = self.reference.clone();
        self.kill(machine);
        self.reference.crash(machine);
        self.adopt_early(&before);
        self.compare_bucket();
    }

    /// What was in the bucket before anybody committed it stays there, as it was.
    fn adopt_early(&mut self, before: &Reference) {
        self.wait_for_caches();
        for (path, stored) in self.world.remote.snapshot() {
            if before.may_be_early(&path, &stored.bytes) {
                self.adopt(&path, &stored);
            }
        }
    }

    /// The reference takes over an object that nobody's operation has made.
    pub fn adopt(&mut self, path: &str, stored: &Stored) {
        adopt(&mut self.reference, path, stored);
    }

    /// What a machine has kept of versions that lost, oldest first.
    pub fn conflicts(&self, machine: usize) -> Vec<KeptConflict> {
        let listing = conflicts::list(self.machines[machine].mount().state_dir());
        let listing = listing.expect("kept conflicts are listed");
        assert!(listing.unreadable.is_empty(), "{:?}", listing.unreadable);
        listing.conflicts
    }

    /// Something happens to a file of a mount's cache on disk.
    pub fn damage(&mut self, machine: usize) {
        let files = self.machines[machine].mount().cached_files();
        let Some(path) = self.random.pick(&files).cloned() else {
            return;
        };
        let len = std::fs::metadata(&path).map_or(0, |metadata| metadata.len() as usize);
        let options = || std::fs::OpenOptions::new().write(true).open(&path);
        let at = self.random.below(len + 1);
        let what = self.random.below(4);
        let done = match what {
            0 => std::fs::remove_file(&path),
            1 => options().and_then(|file| file.set_len(at as u64)),
            2 => options().and_then(|file| file.write_all_at(&[0; 4096], at as u64)),
            _ => {
                let noise = self.random.bytes(100);
                options().and_then(|file| file.write_all_at(&noise, at as u64))
            }
        };
        self.note(format!(
            "damage {what} of a cached file at {at} of {len}: {done:?}"
        ));
    }

    /// Something happens to a file in which attributes are remembered.
    pub fn damage_attributes(&mut self) {
        let files = self.world.attribute_files();
        let (Some(path), Some(other)) = (self.random.pick(&files), self.random.pick(&files)) else {
            return;
        };
        let text = std::fs::read(path).unwrap_or_default();
        let foreign = std::fs::read(other).unwrap_or_default();
        let line_of = |random: &mut Random, text: &[u8]| {
            let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
            random.pick(&lines).map(|line| line.to_vec()).unwrap_or_default()
        };
        let at = self.random.below(text.len() + 1);
        let what = self.random.below(10);
        let damaged = match what {
            // Cut off, at any place.
            0 => text[..at].to_vec(),
            // Other bytes, which may be no text.
            1 => {
                let mut text = text.clone();
                let noise = self.random.bytes(20);
                text.splice(at..text.len().min(at + 20), noise);
                text
            }
            // What was true once, again.
            2 => [&text[..], &line_of(&mut self.random, &text)].concat(),
            // What is true elsewhere.
            3 => [&text[..], &line_of(&mut self.random, &foreign)].concat(),
            // The beginning of a line.
            4 => {
                let line = line_of(&mut self.random, &text);
                [&text[..], &line[..line.len() / 2]].concat()
            }
            5 => foreign,
            6 => Vec::new(),
            // Text that still looks right, but for one digit of somebody's mode.
            7 | 8 => {
                let mut text = text.clone();
                let is_mode = |window: &[u8]| window == b"\"m\":";
                let mode = text[at..]
                    .windows(4)
                    .position(is_mode)
                    .map_or(at, |found| at + found);
                let mut digits = text[mode..].iter_mut().filter(|byte| byte.is_ascii_digit());
                if let Some(digit) = digits.nth(self.random.below(5)) {
                    *digit = b'0' + (*digit - b'0' + 1) % 10;
                }
                text
            }
            _ => {
                self.note(format!(
                    "{} is removed: {:?}",
                    path.display(),
                    std::fs::remove_file(path)
                ));
                return;
            }
        };
        let done = std::fs::write(path, damaged);
        self.note(format!(
            "damage {what} of {} at {at} of {}: {done:?}",
            path.display(),
            text.len()
        ));
    }

    /// The store tells times in whole seconds, and what is young is not remembered: everything becomes older, and is looked at
    /// by mounts that know nothing else of it than what is on disk, and was harmed there.
    pub fn age(&mut self, machine: usize) {
        self.note("time passes".to_owned());
        std::thread::sleep(RACY);
        for _ in 0..MOUNTS_OF_THE_AGED {
            self.unmount(machine);
            self.compare_tree(machine);
            for _ in 0..self.random.below(4) {
                self.damage_attributes();
            }
        }
    }

    fn kill(&mut self, machine: usize) {
        self.machines[machine].descriptors.clear();
        if let Some(mount) = self.machines[machine].mount.take() {
            mount.crash();
        }
        self.remount(machine);
    }

    fn remount(&mut self, machine: usize) {
        let mount = self.world.mount_elsewhere(&self.machines[machine].name);
        mount.sleep(LONG);
        self.machines[machine].mount = Some(mount);
    }

    /// Ends a mount in order, with all handles closed, and mounts again.
    pub fn unmount(&mut self, machine: usize) {
        for (handle, _, _) in self.reference.handles(machine) {
            let _ = self.both(machine, &Operation::Close { handle });
        }
        let directories: Vec<_> = self.reference.directories(machine).keys().copied().collect();
        for handle in directories {
            let _ = self.both(machine, &Operation::CloseDirectory { handle });
        }
        self.note(format!("{} unmounts", self.machines[machine].name));
        let Some(mount) = self.machines[machine].mount.take() else {
            return;
        };
        let unsent = mount.unmount();
        if !unsent.is_empty() {
            self.fail(&format!("unsent at unmount: {unsent:?}"));
        }
        self.compare_bucket();
        self.remount(machine);
    }

    /// Begins an operation and kills the mount at its `nth` request from now, or after the operation.
    pub fn crash_during(&mut self, machine: usize, operation: &Operation, nth: u64) {
        self.switch_to(machine);
        let before = self.reference.clone();
        let faults = self.world.store.faults().clone();
        let fault = faults.inject(When::any().nth(nth).for_ever(), Fault::Stall);
        let actor = &self.machines[machine];
        let what = format!("seed {} step {}: {operation:?}, cut off", self.seed, self.step);
        let work = execute(&actor.mount().driver, &actor.descriptors, operation);
        let outcome = actor.mount().run_for(&what, Duration::from_secs(2), work);
        let shown = outcome.as_ref().map(|outcome| format!("{outcome:?}"));
        self.note(format!("{operation:?} and a crash at request {nth}: {shown:?}"));
        self.machines[machine].descriptors.clear();
        if let Some(mount) = self.machines[machine].mount.take() {
            mount.crash();
        }
        faults.remove(fault);
        self.remount(machine);
        let expected = self.reference.apply(machine, operation);
        let after = self.reference.clone();
        let happened = match (&outcome, &expected) {
            (None, _) => None,
            (Some(Ok(value)), Ok(expected)) if value.is_as_expected(expected) => Some(true),
            (Some(Err(errno)), Err(expected)) if errno == expected => Some(true),
            _ => self.fail(&format!("expected {expected:?}")),
        };
        self.reference.crash(machine);
        if happened.is_none() {
            self.settle_cut_off(machine, operation, before);
        } else {
            self.adopt_early(&after);
        }
        self.compare_bucket();
    }

    /// The reference becomes what the bucket shows, which must be a state before or after the operation, or for a rename
    /// one in between: what was unsent is committed first; a file's rename is a copy and a delete.
    fn settle_cut_off(&mut self, machine: usize, operation: &Operation, before: Reference) {
        self.wait_for_caches();
        let found = self.world.remote.snapshot();
        let unsent = before.clone();
        let mut candidates = vec![self.reference.clone()];
        if let Operation::Rename { from, to, .. } = operation {
            let mut committed = before.clone();
            committed.commit_below(machine, from);
            for mut start in [before.clone(), committed] {
                start.crash(machine);
                candidates.push(start.clone());
                if let Some(entry) = start.bucket.get(from).filter(|entry| **entry != Entry::Directory) {
                    let entry = entry.clone();
                    start.bucket.insert(to.clone(), entry);
                    candidates.push(start);
                }
            }
        } else {
            let mut before = before;
            before.crash(machine);
            candidates.push(before);
        }
        let mut differences = Vec::new();
        let early: Vec<_> = found
            .iter()
            .filter(|(path, stored)| unsent.may_be_early(path, &stored.bytes))
            .collect();
        for mut candidate in candidates {
            for (path, stored) in &early {
                adopt(&mut candidate, path, stored);
            }
            match self.difference(&candidate, &found) {
                None => {
                    self.reference = candidate;
                    return;
                }
                Some(difference) => differences.push(difference),
            }
        }
        self.fail(&format!(
            "cut off, the bucket is in no state on the way: {differences:#?}"
        ));
    }

    /// The bucket must hold exactly what the reference has committed.
    pub fn compare_bucket(&mut self) {
        // What was emptied a moment ago gets its marker.
        self.wait_for_caches();
        let found = self.world.remote.snapshot();
        if let Some(difference) = self.difference(&self.reference, &found) {
            self.fail(&format!("the bucket is not as expected: {difference}"));
        }
    }

    fn difference(&self, reference: &Reference, found: &BTreeMap<String, Stored>) -> Option<String> {
        for (path, entry) in &reference.bucket {
            let may_be_gone = (0..self.machines.len()).any(|machine| reference.hides_below(machine, path));
            let difference = match (entry, found.get(path)) {
                (Entry::Directory, _) => {
                    let prefix = format!("{path}/");
                    let exists = found.keys().any(|key| key.starts_with(&prefix));
                    (!exists).then(|| "the directory is gone".to_owned())
                }
                (_, None) if may_be_gone => None,
                (_, Some(stored)) if reference.may_be_early(path, &stored.bytes) => None,
                (Entry::File(_), Some(_)) if reference.may_be_put_unlinked(path) => None,
                (_, None) => Some("missing".to_owned()),
                (Entry::File(file), Some(stored)) => {
                    // Whether attributes of an open file wait for its commit is for the filesystem to say.
                    let is_open = (0..self.machines.len()).any(|machine| reference.is_in_use(machine, path));
                    differs(file, stored, !is_open)
                }
                (Entry::Symlink(target), Some(stored)) => {
                    (stored.bytes != target.as_bytes()).then(|| "another target".to_owned())
                }
            };
            if let Some(difference) = difference {
                return Some(format!("{path:?}: {difference}"));
            }
        }
        for (key, stored) in found {
            let expected = match key.strip_suffix('/') {
                Some(directory) => reference.bucket.get(directory) == Some(&Entry::Directory),
                None => reference.bucket.contains_key(key),
            };
            let is_early = || reference.may_be_early(key, &stored.bytes);
            let is_hidden = || (0..self.machines.len()).any(|machine| reference.hides_below(machine, key));
            if !expected
                && !is_early()
                && !is_hidden()
                && !reference.is_copied_from(key)
                && !key.contains(".pailfs-probe")
            {
                return Some(format!("{key:?} should not be there"));
            }
        }
        None
    }

    /// The tree as a machine sees it, all of it, must be what the reference says.
    pub fn compare_tree(&mut self, machine: usize) {
        let mut waiting = vec![String::new()];
        while let Some(directory) = waiting.pop() {
            let with_attributes = self.random.one_in(2);
            let list = Operation::List {
                path: directory.clone(),
                with_attributes,
            };
            let Ok(Value::Names(names)) = self.both(machine, &list) else {
                self.fail("a directory cannot be listed")
            };
            for (name, kind) in names {
                let path = if directory.is_empty() {
                    name
                } else {
                    format!("{directory}/{name}")
                };
                let _ = self.both(machine, &Operation::Stat { path: path.clone() });
                let _ = match kind {
                    pailfs::tree::node::Kind::Directory => {
                        waiting.push(path);
                        Ok(Value::Nothing)
                    }
                    pailfs::tree::node::Kind::Symlink => self.both(machine, &Operation::Readlink { path }),
                    _ => self.both(machine, &Operation::ReadFile { path }),
                };
            }
        }
    }

    /// Somebody else's change of the bucket, behind the back of all mounts.
    pub fn remote_put(&mut self, path: &str) -> Vec<u8> {
        let len = self.random.below(5_000);
        let bytes = self.random.bytes(len);
        self.remote_put_bytes(path, &bytes);
        bytes
    }

    pub fn remote_put_bytes(&mut self, path: &str, bytes: &[u8]) {
        self.note(format!("remote: put {path:?} {} bytes", bytes.len()));
        self.world.remote.put(path, bytes);
        self.reference.put(path, bytes);
        self.tell(path);
    }

    /// As a tool that keeps attributes.
    pub fn remote_set_mode(&mut self, path: &str) {
        let mode = [0o600, 0o640, 0o755][self.random.below(3)];
        let bytes = self.reference.bytes(0, path).unwrap_or_default();
        let mut headers = ObjectHeaders::default();
        let attributes = Attributes {
            mode: Some(libc::S_IFREG | mode),
            ..Attributes::default()
        };
        attributes.write(MetadataFormat::Aws, &mut headers.metadata);
        self.note(format!("remote: put {path:?} again, with mode {mode:o}"));
        self.world.remote.put_with(path, &bytes, headers);
        self.reference.set_mode(path, mode);
        self.tell(path);
    }

    pub fn remote_delete(&mut self, path: &str) {
        self.note(format!("remote: delete {path:?}"));
        self.world.remote.delete(path);
        self.reference.bucket.remove(path);
        self.reference.follow_directories();
        self.tell(path);
    }

    /// Mounts that believe what they know for ever hear of each change.
    fn tell(&mut self, path: &str) {
        if self.world.options.metadata_ttl.is_some() {
            return;
        }
        let version = self.world.remote.get(path).map(|stored| stored.info.version);
        let change = Change {
            bucket: BUCKET.to_owned(),
            key: path.to_owned(),
            is_removal: version.is_none(),
            at: version.as_ref().map(|version| version.last_modified),
            etag: version.map(|version| version.etag),
        };
        for mount in self.machines.iter().filter_map(|machine| machine.mount.as_ref()) {
            // Moments are those of the mount's clock.
            mount.run("news", async { mount.fs.tree().heard_of(&change) });
        }
    }

    /// True when nobody but the remote would notice if the object went: its directory has other entries.
    pub fn may_vanish(&self, path: &str) -> bool {
        let parent = parent_of(path);
        parent.is_empty()
            || self.reference.bucket.keys().any(|other| {
                other != path && parent_of(other) == parent && !self.reference.is_hidden_anywhere(other)
            })
    }
}

fn adopt(reference: &mut Reference, path: &str, stored: &Stored) {
    let mode = stored.attributes().mode.map(|mode| mode & 0o7777);
    reference.adopt(path, &stored.bytes, mode);
}

fn differs(file: &super::reference::File, stored: &Stored, with_attributes: bool) -> Option<String> {
    if stored.bytes != *file.bytes {
        let first = stored
            .bytes
            .iter()
            .zip(file.bytes.iter())
            .position(|(a, b)| a != b);
        return Some(format!(
            "{} bytes instead of {}, the first other one at {first:?}",
            stored.bytes.len(),
            file.bytes.len()
        ));
    }
    if !with_attributes {
        return None;
    }
    let attributes = stored.attributes();
    let mode = attributes.mode.map(|mode| mode & 0o7777);
    if file.mode.is_some() && mode != file.mode {
        return Some(format!("mode {mode:?} instead of {:?}", file.mode));
    }
    if file.mtime.is_some() && attributes.mtime != file.mtime {
        return Some(format!(
            "mtime {:?} instead of {:?}",
            attributes.mtime, file.mtime
        ));
    }
    None
}

pub fn errno_name(errno: i32) -> String {
    std::io::Error::from_raw_os_error(errno).to_string()
}
