//! Random operations on one file, against a vector of bytes, with a budget small enough for everything to happen.

use super::*;
use pailfs::base::error::{Error, ErrorKind};
use pailfs::base::object::ByteRange;
use pailfs::embedded::{Fault, When};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

#[derive(Clone, Debug)]
enum Step {
    Write {
        at: f64,
        len: u64,
    },
    Append {
        len: u64,
    },
    Read {
        at: f64,
        len: u64,
    },
    Truncate {
        at: f64,
    },
    Zero {
        at: f64,
        len: u64,
        keep_size: bool,
    },
    /// Bytes of another object, from a place in it.
    Copy {
        at: f64,
        from: f64,
        len: u64,
    },
    /// The other object changes by this mount.
    ChangeSource,
    Commit,
    CommitBehindWrite {
        at: f64,
        len: u64,
    },
    SetAttributes,
    KeepLocal,
    Persist,
    /// Others want memory.
    Pressure,
    Reopen,
    /// The store fails: this operation, this way.
    Fault {
        operation: Operation,
        fault: Fault,
    },
}

fn steps(longest: u64, count: usize) -> impl Strategy<Value = Vec<Step>> {
    let place = 0.0..1.2f64;
    let one = prop_oneof![
        6 => (place.clone(), 1..longest).prop_map(|(at, len)| Step::Write { at, len }),
        4 => (1..longest).prop_map(|len| Step::Append { len }),
        4 => (place.clone(), 1..longest).prop_map(|(at, len)| Step::Read { at, len }),
        1 => place.clone().prop_map(|at| Step::Truncate { at }),
        1 => (place.clone(), 1..longest, any::<bool>())
            .prop_map(|(at, len, keep_size)| Step::Zero { at, len, keep_size }),
        2 => (place.clone(), 0.0..1.0f64, 1..longest * 4)
            .prop_map(|(at, from, len)| Step::Copy { at, from, len }),
        1 => Just(Step::ChangeSource),
        2 => Just(Step::Commit),
        2 => (place, 1..longest).prop_map(|(at, len)| Step::CommitBehindWrite { at, len }),
        1 => Just(Step::SetAttributes),
        1 => Just(Step::KeepLocal),
        1 => Just(Step::Persist),
        3 => Just(Step::Pressure),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(one, 1..count)
}

/// The same with a store that fails now and then, sometimes after it did what it was asked.
fn steps_with_faults(longest: u64, count: usize) -> impl Strategy<Value = Vec<Step>> {
    let operation = proptest::sample::select(vec![
        Operation::Put,
        Operation::Head,
        Operation::Copy,
        Operation::CreateUpload,
        Operation::UploadPart,
        Operation::UploadPartCopy,
        Operation::Complete,
    ]);
    let fault = proptest::sample::select(vec![
        Fault::Answer("AccessDenied"),
        Fault::Answer("InvalidRequest"),
        Fault::Disconnect,
        Fault::LoseReply,
        Fault::MalformedXml,
    ]);
    let fault = (operation, fault).prop_map(|(operation, fault)| vec![Step::Fault { operation, fault }]);
    let some = prop_oneof![2 => steps(longest, 6), 1 => fault];
    proptest::collection::vec(some, 1..count / 3).prop_map(|runs| runs.concat())
}

struct Model {
    world: World,
    /// Requests may fail: a commit is then tried until it works.
    has_faults: bool,
    file: Arc<File>,
    content: Vec<u8>,
    source: Arc<File>,
    source_content: Vec<u8>,
    written: u64,
}

impl Model {
    fn place(&self, at: f64) -> u64 {
        (self.content.len() as f64 * at) as u64
    }

    async fn write(&mut self, offset: u64, len: u64) {
        self.written += 1;
        let piece = data(self.written, len);
        // Where parts are needed again a write commits first, and that may fail.
        while let Err(error) = self.file.write(offset, &piece).await {
            self.expect_failure(&error);
        }
        let end = (offset + len) as usize;
        if self.content.len() < end {
            self.content.resize(end, 0);
        }
        self.content[offset as usize..end].copy_from_slice(&piece);
    }

    fn expect_failure(&self, error: &Error) {
        let is_conflict = matches!(error.kind(), ErrorKind::Stale | ErrorKind::Exists);
        assert!(self.has_faults && !is_conflict, "{error:?}");
    }

    async fn check(&self, offset: u64, len: u64) {
        let end = self.content.len().min((offset + len) as usize);
        let start = (offset as usize).min(end);
        let stream = ReadStream::default();
        let mut out = ReadBytes::default();
        while let Err(error) = self.file.read(&stream, offset, len as usize, &mut out).await {
            self.expect_failure(&error);
        }
        assert_same(out.as_slice(), &self.content[start..end]);
    }

    /// A commit that may fail, if requests may.
    async fn try_commit(file: &Arc<File>, has_faults: bool) -> bool {
        match file.commit().await {
            Ok(_) => true,
            Err(error) => {
                let is_conflict = matches!(error.kind(), ErrorKind::Stale | ErrorKind::Exists);
                assert!(has_faults && !is_conflict, "{error:?}");
                false
            }
        }
    }

    async fn commit(&self) {
        while !Self::try_commit(&self.file, self.has_faults).await {
            self.check(0, self.content.len() as u64).await;
        }
        assert!(!self.file.is_dirty());
        self.world.server.faults().clear();
        assert_same(&self.world.stored("a").await, &self.content);
    }

    async fn copy(&mut self, to: u64, from: f64, len: u64) {
        let size_bytes = self.source_content.len() as u64;
        let start = (size_bytes as f64 * from) as u64;
        let range = ByteRange::new(start, size_bytes.min(start + len));
        let copied = loop {
            let hold = Arc::new(());
            match self.file.take_copy(to, &self.source, range, hold).await {
                Ok(copied) => break copied as usize,
                Err(error) => self.expect_failure(&error),
            }
        };
        let (to, start) = (to as usize, start as usize);
        if copied > 0 && self.content.len() < to + copied {
            self.content.resize(to + copied, 0);
        }
        let piece = &self.source_content[start..start + copied];
        self.content[to..to + copied].copy_from_slice(piece);
    }

    async fn apply(&mut self, step: Step) {
        match step {
            Step::Write { at, len } => self.write(self.place(at), len).await,
            Step::Append { len } => self.write(self.content.len() as u64, len).await,
            Step::Read { at, len } => self.check(self.place(at), len).await,
            Step::Truncate { at } => {
                let size = self.place(at);
                while let Err(error) = self.file.truncate(size).await {
                    self.expect_failure(&error);
                }
                self.content.resize(size as usize, 0);
            }
            Step::Zero { at, len, keep_size } => {
                let start = self.place(at);
                let range = ByteRange::new(start, start + len);
                while let Err(error) = self.file.zero(range, keep_size).await {
                    self.expect_failure(&error);
                }
                if !keep_size && self.content.len() < range.end as usize {
                    self.content.resize(range.end as usize, 0);
                }
                let end = self.content.len().min(range.end as usize);
                self.content[end.min(start as usize)..end].fill(0);
            }
            Step::Copy { at, from, len } => self.copy(self.place(at), from, len).await,
            Step::ChangeSource => {
                self.written += 1;
                let piece = data(self.written, 1_000);
                let at = self.source_content.len() / 3;
                self.source.write(at as u64, &piece).await.expect("written");
                self.source_content[at..at + piece.len()].copy_from_slice(&piece);
                while !Self::try_commit(&self.source, self.has_faults).await {}
            }
            Step::Commit => self.commit().await,
            Step::CommitBehindWrite { at, len } => {
                let before = self.content.clone();
                let file = self.file.clone();
                let has_faults = self.has_faults;
                let commit = rt::spawn(async move { Self::try_commit(&file, has_faults).await });
                tokio::task::yield_now().await;
                self.write(self.place(at), len).await;
                let is_committed = commit.await.expect("no panic");
                self.world.server.faults().clear();
                // Either the commit was sealed before the write or after it.
                if is_committed && self.world.exists("a").await {
                    let stored = self.world.stored("a").await;
                    assert!(
                        stored == before || stored == self.content,
                        "neither before nor after"
                    );
                }
            }
            Step::Fault { operation, fault } => {
                self.world.server.faults().inject(When::on(operation), fault);
            }
            Step::SetAttributes => {
                let mode = Some(0o100_600 + (self.written % 8) as u32);
                self.file.set_attributes(Attributes {
                    mode,
                    ..self.file.attributes()
                });
            }
            Step::KeepLocal => {
                while let Err(error) = self.file.keep_local().await {
                    self.expect_failure(&error);
                }
            }
            Step::Persist => {
                while let Err(error) = self.file.persist().await {
                    self.expect_failure(&error);
                }
            }
            Step::Pressure => {
                let budget = &self.world.context.budget;
                let claim = budget.acquire(budget.limit_bytes() - 2 * MIB).await;
                drop(claim.expect("everything can be moved out of memory"));
            }
            Step::Reopen => {
                self.commit().await;
                let version = self.world.head("a").await.version;
                self.file = self.world.open("a", version);
            }
        }
    }
}

async fn play(budget_mib: u64, start_bytes: u64, script: Vec<Step>) {
    let has_faults = script.iter().any(|step| matches!(step, Step::Fault { .. }));
    let world = World::start(budget_mib * MIB).await;
    let content = data(0, start_bytes);
    let file = if start_bytes > 0 {
        world.existing("a", &content).await
    } else {
        world.new_file("a")
    };
    let source_content = data(1_000_000, 14 * MIB);
    let source = world.existing("source", &source_content).await;
    let mut model = Model {
        world,
        has_faults,
        file,
        content,
        source,
        source_content,
        written: 0,
    };
    for step in script {
        model.apply(step).await;
    }
    model.check(0, model.content.len() as u64 + 10).await;
    model.commit().await;
    let Model {
        world, file, source, ..
    } = model;
    drop((file, source));
    if !has_faults {
        // A creation whose reply was lost leaves an empty upload that nobody knows of.
        world.expect_no_uploads().await;
    }
    world.expect_all_memory_free().await;
    assert!(world.conflicts().is_empty());
    let (leftovers, ..) = world.leftovers().await;
    assert!(leftovers.uploads.is_empty() && leftovers.unsent.is_empty());
}

fn explore(cases: u32, start: impl Strategy<Value = u64>, script: impl Strategy<Value = Vec<Step>>) {
    let times = if std::env::var_os("PAILFS_TEST_LONG").is_some() {
        20
    } else {
        1
    };
    let config = Config {
        cases: cases * times,
        max_shrink_iters: 60,
        ..Config::default()
    };
    let result = TestRunner::new(config).run(&(start, script), |(start_bytes, script)| {
        run(play(24, start_bytes, script));
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

#[test]
fn a_small_file_is_what_was_written_to_it() {
    let start = prop_oneof![Just(0u64), 1..300_000u64];
    explore(20, start, steps(60_000, 40));
}

#[test]
fn a_large_file_is_what_was_written_to_it() {
    let start = prop_oneof![Just(0u64), Just(20 * MIB), 1..30 * MIB];
    explore(8, start, steps(6 * MIB, 30));
}

#[test]
fn a_small_file_survives_a_store_that_fails() {
    let start = prop_oneof![Just(0u64), 1..300_000u64];
    explore(20, start, steps_with_faults(60_000, 40));
}

#[test]
fn a_large_file_survives_a_store_that_fails() {
    let start = prop_oneof![Just(0u64), Just(20 * MIB), 1..30 * MIB];
    explore(8, start, steps_with_faults(6 * MIB, 30));
}

#[test]
fn found_a_lost_reply_and_a_look_that_failed_behind_a_write() {
    let fault = |operation, fault| Step::Fault { operation, fault };
    let script = vec![
        fault(Operation::Put, Fault::LoseReply),
        fault(Operation::Head, Fault::MalformedXml),
        Step::CommitBehindWrite { at: 0.0, len: 5351 },
        Step::Commit,
        Step::Write {
            at: 0.932_181_671_075_671_2,
            len: 24581,
        },
    ];
    run(play(24, 0, script));
}

#[test]
fn found_a_changed_beginning_that_needs_more_parts_than_numbers_were_kept_for_it() {
    let start_bytes = 23 * MIB - 1;
    let mut script: Vec<Step> = (0..3).map(|_| Step::Append { len: 6 * MIB }).collect();
    // The parts of what was appended are now only in the upload: their numbers are fixed.
    script.push(Step::Pressure);
    script.extend((0..22).map(|mib| Step::Write {
        at: f64::from(mib) / 41.0,
        len: MIB / 2,
    }));
    script.push(Step::Commit);
    run(play(24, start_bytes, script));
}
