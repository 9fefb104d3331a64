//! The filesystem against a reference in memory, over the real SDK and the real store, by random operations.
//!
//! A failure prints the seed. `PAILFS_MODEL_SEED=7` runs that seed only, `PAILFS_MODEL_STEPS=10000` more steps of each.
//! Clocks stand still: hours of time-outs and cache lifetimes pass in seconds.

mod directories;
mod generate;
#[path = "../in_process/mod.rs"]
mod in_process;
mod operation;
mod races;
mod reference;
mod regressions;
mod simulation;

use generate::Generator;
use in_process::Options;
use pailfs::base::mount_config::OnConflict;
use pailfs::embedded::Operation as Request;
use pailfs::tree::node::Kind;
use simulation::{LONG, Simulation};

/// An eighth of it is the longest listing that is kept: three entries.
const SMALL_CACHE_BYTES: usize = 12_000;
/// A few files of the model, so that others are evicted.
const DISK_CACHE_BYTES: u64 = 2 << 20;

/// What happens beside plain operations, each once in so many steps; 0: never.
#[derive(Clone, Copy, Default)]
struct Mix {
    machines: usize,
    remote_changes: usize,
    lost_replies: usize,
    crashes: usize,
    crashes_inside: usize,
    unmounts: usize,
    races: usize,
    probing: bool,
    /// Copies between open files. One machine only: what copies may be in the bucket early.
    copies: bool,
    /// A cache of contents on disk, and harm to its files once in so many steps.
    cache_damages: usize,
    /// Attributes remembered on disk by all machines together, and harm to their files once in so many steps.
    attribute_damages: usize,
    on_conflict: OnConflict,
    /// Directories are mostly read a few names at a time.
    directories: bool,
    /// What is known is believed for ever, and mounts hear of what others change.
    news: bool,
    /// Few listings are kept, and none that are long.
    small_cache: bool,
}

fn seeds(default: &[u64]) -> Vec<u64> {
    match std::env::var("PAILFS_MODEL_SEED") {
        Ok(seed) => vec![seed.parse().expect("PAILFS_MODEL_SEED is a number")],
        Err(_) => default.to_vec(),
    }
}

fn steps(default: usize) -> usize {
    match std::env::var("PAILFS_MODEL_STEPS") {
        Ok(steps) => steps.parse().expect("PAILFS_MODEL_STEPS is a number"),
        Err(_) => default,
    }
}

fn run(mix: Mix, default_seeds: &[u64], default_steps: usize) {
    for seed in seeds(default_seeds) {
        println!("PAILFS_MODEL_SEED={seed}");
        let options = Options {
            probing: mix.probing,
            on_conflict: mix.on_conflict,
            disk_cache_bytes: (mix.cache_damages > 0).then_some(DISK_CACHE_BYTES),
            attributes_on_disk: mix.attribute_damages > 0,
            listing_capacity_bytes: if mix.small_cache {
                SMALL_CACHE_BYTES
            } else {
                Options::default().listing_capacity_bytes
            },
            metadata_ttl: (!mix.news).then_some(Options::default().metadata_ttl).flatten(),
            ..Options::default()
        };
        let mut simulation = Simulation::new(seed, mix.machines, options);
        let mut generator = Generator::new(8, mix.machines == 1 && mix.crashes == 0);
        generator.with_copies = mix.copies;
        generator.with_directories = mix.directories;
        for _ in 0..steps(default_steps) {
            simulation.begin_step();
            step(&mut simulation, &mut generator, mix);
        }
        for machine in 0..mix.machines {
            simulation.unmount(machine);
        }
        for machine in 0..mix.machines {
            simulation.wait_for_caches();
            simulation.compare_tree(machine);
        }
    }
}

fn step(simulation: &mut Simulation, generator: &mut Generator, mix: Mix) {
    let machine = simulation.random.below(mix.machines);
    let mut now = |one_in: usize| one_in > 0 && simulation.random.one_in(one_in);
    if now(mix.crashes) {
        return simulation.crash(machine);
    }
    if now(mix.unmounts) {
        return simulation.unmount(machine);
    }
    if now(mix.cache_damages) {
        return simulation.damage(machine);
    }
    if now(mix.attribute_damages) {
        return simulation.damage_attributes();
    }
    if mix.attribute_damages > 0 && now(100) {
        return simulation.age(machine);
    }
    if now(mix.races) {
        return races::meet(simulation, machine);
    }
    if now(mix.remote_changes) {
        return change_remotely(simulation, mix);
    }
    if now(150) {
        simulation.compare_bucket();
        simulation.switch_to(machine);
        return simulation.compare_tree(machine);
    }
    if now(60) {
        let pause = LONG.mul_f64(simulation.random.below(100) as f64 / 100.0);
        simulation.note(format!("machine-{machine} sleeps for {pause:?}"));
        return simulation.machines[machine].mount().sleep(pause);
    }
    let cut_off = now(mix.crashes_inside);
    let lossy = now(mix.lost_replies);
    let operation = generator.next(&mut simulation.random, &simulation.reference, machine);
    let paths = Generator::paths_of(&operation);
    let is_haunted = |path: &&str| simulation.reference.is_haunted(machine, path);
    if paths.iter().any(is_haunted)
        || paths.iter().any(|path| is_in_implied(simulation, machine, path))
        || simulation.machines.len() > 1 && simulation.reference.may_stream(machine, &operation)
        || takes_a_hidden_name(simulation, &operation)
        || meets_others(simulation, mix, machine, &operation)
    {
        return;
    }
    if cut_off && !Generator::paths_of(&operation).is_empty() && !opens(&operation) {
        let nth = simulation.random.within(1..8) as u64;
        return simulation.crash_during(machine, &operation, nth);
    }
    if lossy {
        let mutations = [
            Request::Put,
            Request::Put,
            Request::Copy,
            Request::Delete,
            Request::CreateUpload,
            Request::UploadPart,
            Request::Complete,
        ];
        let request = mutations[simulation.random.below(mutations.len())];
        let nth = simulation.random.within(1..3) as u64;
        return simulation.both_losing_a_reply(machine, &operation, request, nth);
    }
    let _ = simulation.both(machine, &operation);
}

/// Whoever changes something there makes a directory of it that stays: that is the business of nobody.
fn is_in_implied(simulation: &Simulation, machine: usize, path: &str) -> bool {
    let ways = path.match_indices('/').map(|(at, _)| &path[..at]);
    ways.chain([path])
        .any(|way| simulation.reference.is_implied(machine, way))
}

fn opens(operation: &operation::Operation) -> bool {
    matches!(
        operation,
        operation::Operation::Open { .. } | operation::Operation::OpenDirectory { .. }
    )
}

/// A directory where the bucket still has an object that another machine has unlinked: it has both then.
fn takes_a_hidden_name(simulation: &Simulation, operation: &operation::Operation) -> bool {
    match operation {
        operation::Operation::Mkdir { path } | operation::Operation::Rename { to: path, .. } => {
            simulation.machines.len() > 1 && simulation.reference.is_hidden_anywhere(path)
        }
        _ => false,
    }
}

fn meets_others(simulation: &Simulation, mix: Mix, machine: usize, operation: &operation::Operation) -> bool {
    Generator::meets_others(&simulation.reference, mix.machines, machine, operation)
}

/// A change of the bucket that every mount learns of in its own time; nothing that anybody has open.
fn change_remotely(simulation: &mut Simulation, mix: Mix) {
    let machines = simulation.machines.len();
    let path = Generator::path(&mut simulation.random, &simulation.reference, 0);
    let is_copied_from = simulation.reference.is_copied_from(&path);
    let used = is_copied_from
        || (0..machines).any(|machine| is_in_implied(simulation, machine, &path))
        || (0..machines).any(|machine| {
            simulation.reference.is_in_use(machine, &path)
                || simulation
                    .reference
                    .paths_in_use(machine)
                    .iter()
                    .any(|used| reference::is_below(&path, used))
        });
    if used {
        return;
    }
    // So that what was emptied a moment ago has its marker, and what was changed is stored.
    simulation.wait_for_caches();
    let kind = simulation.reference.kind(0, &path);
    if kind == Some(Kind::File) && simulation.may_vanish(&path) && simulation.random.one_in(3) {
        simulation.remote_delete(&path);
    } else if kind == Some(Kind::File) || kind.is_none() && parents_are_directories(simulation, &path) {
        simulation.remote_put(&path);
        if mix.attribute_damages > 0 || mix.news && simulation.random.one_in(2) {
            simulation.remote_set_mode(&path);
        }
    }
    if !mix.news {
        simulation.wait_for_caches();
    }
}

fn parents_are_directories(simulation: &Simulation, path: &str) -> bool {
    path.match_indices('/').all(|(at, _)| {
        matches!(
            simulation.reference.kind(0, &path[..at]),
            None | Some(Kind::Directory)
        )
    })
}

#[test]
fn one_mount_behaves_as_the_reference() {
    let mix = Mix {
        machines: 1,
        unmounts: 300,
        ..Mix::default()
    };
    run(mix, &[1, 2, 3], 500);
}

#[test]
fn two_mounts_and_another_tool_see_each_others_changes() {
    let mix = Mix {
        machines: 2,
        remote_changes: 12,
        unmounts: 200,
        ..Mix::default()
    };
    run(mix, &[11, 12], 400);
}

#[test]
fn directories_are_read_while_they_change() {
    let mix = Mix {
        machines: 1,
        remote_changes: 20,
        unmounts: 300,
        directories: true,
        ..Mix::default()
    };
    run(mix, &[101, 102], 400);
    let small_cache = true;
    run(Mix { small_cache, ..mix }, &[103], 400);
}

#[test]
fn what_is_believed_for_ever_is_what_the_news_say() {
    let mix = Mix {
        machines: 1,
        remote_changes: 5,
        unmounts: 300,
        directories: true,
        news: true,
        ..Mix::default()
    };
    run(mix, &[111, 112], 400);
    let small_cache = true;
    run(Mix { small_cache, ..mix }, &[113], 400);
}

#[test]
fn lost_replies_change_nothing() {
    let mix = Mix {
        machines: 1,
        lost_replies: 2,
        ..Mix::default()
    };
    run(mix, &[21, 22], 400);
}

#[test]
fn a_crash_loses_what_was_not_committed_and_nothing_else() {
    let mix = Mix {
        machines: 2,
        remote_changes: 40,
        crashes: 25,
        crashes_inside: 6,
        ..Mix::default()
    };
    run(mix, &[31, 32], 300);
}

#[test]
fn caches_and_open_files_never_win_against_the_bucket() {
    let mix = Mix {
        machines: 1,
        races: 3,
        ..Mix::default()
    };
    run(mix, &[41, 42], 150);
}

#[test]
fn copies_between_open_files_are_copies_whatever_becomes_of_the_source() {
    let mix = Mix {
        machines: 1,
        copies: true,
        remote_changes: 30,
        races: 60,
        lost_replies: 6,
        crashes: 80,
        unmounts: 150,
        ..Mix::default()
    };
    run(mix, &[61, 62], 400);
}

#[test]
fn a_cache_on_disk_never_changes_what_is_read() {
    let mix = Mix {
        machines: 2,
        remote_changes: 15,
        races: 12,
        unmounts: 60,
        crashes: 120,
        cache_damages: 4,
        ..Mix::default()
    };
    run(mix, &[71, 72], 300);
}

#[test]
fn attributes_on_disk_are_right_whatever_becomes_of_their_files() {
    for (seed, machines) in [(91, 1), (92, 2)] {
        let mix = Mix {
            machines,
            remote_changes: 12,
            unmounts: 20,
            crashes: if machines > 1 { 60 } else { 0 },
            attribute_damages: 4,
            ..Mix::default()
        };
        run(mix, &[seed], 250);
    }
}

#[test]
fn who_loses_is_told_what_became_of_it() {
    for (seed, on_conflict) in (81..).zip([OnConflict::Copy, OnConflict::Fail, OnConflict::Overwrite]) {
        let mix = Mix {
            machines: 1,
            races: 3,
            on_conflict,
            ..Mix::default()
        };
        run(mix, &[seed], 150);
    }
}

#[test]
fn an_endpoint_that_has_to_be_probed_behaves_the_same() {
    let mix = Mix {
        machines: 1,
        remote_changes: 20,
        crashes: 60,
        races: 30,
        probing: true,
        ..Mix::default()
    };
    run(mix, &[51], 300);
}
