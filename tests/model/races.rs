//! Meetings: somebody changes an object while a mount believes its caches or has the file open.
//!
//! What must hold without any waiting: an open sees the newest version; operations on a path act on what is there now;
//! a commit never overwrites what it did not start from; a handle reads one version, or says that it is gone.
//!
//! Where the answer depends on which of two things the store saw first, in whole seconds, both answers are allowed, but
//! only with the state of the bucket that belongs to them.

use super::operation::{Operation, Value};
use super::reference::{Entry, parent_of};
use super::simulation::{Simulation, errno_name};
use crate::in_process::driver::Outcome;
use pailfs::base::mount_config::OnConflict;
use pailfs::spool::ConflictForm;
use pailfs::spool::conflicts::KeptConflict;

const HANDLE: u64 = 1;
const COPY: u64 = 2;
/// Meetings leave files behind. With more of them than this, some are removed before the next one, so that a long run is not
/// a walk through what former ones left.
const MAX_LEFT: usize = 30;

/// What others copy from stays what it is: what becomes of the copy else has a meeting of its own.
fn unused(simulation: &Simulation, path: &str) -> bool {
    let reference = &simulation.reference;
    !reference.is_copied_from(path)
        && (0..simulation.machines.len()).all(|machine| !reference.is_in_use(machine, path))
}

fn some_file(simulation: &mut Simulation) -> Option<String> {
    let files: Vec<String> = simulation
        .reference
        .bucket
        .iter()
        .filter(|(path, entry)| matches!(entry, Entry::File(_)) && unused(simulation, path))
        .map(|(path, _)| path.clone())
        .collect();
    simulation.random.pick(&files).cloned()
}

fn some_directory(simulation: &mut Simulation) -> String {
    let directories: Vec<String> = simulation
        .reference
        .bucket
        .iter()
        .filter(|(_, entry)| **entry == Entry::Directory)
        .map(|(path, _)| path.clone())
        .collect();
    simulation.random.pick(&directories).cloned().unwrap_or_default()
}

/// A name that nothing has.
fn fresh_name(simulation: &mut Simulation, directory: &str) -> String {
    loop {
        let name = format!("new{}", simulation.random.below(100_000));
        let path = if directory.is_empty() {
            name
        } else {
            format!("{directory}/{name}")
        };
        if !simulation.reference.bucket.contains_key(&path) && unused(simulation, &path) {
            return path;
        }
    }
}

/// Makes the mount believe something about a path.
fn warm_up(simulation: &mut Simulation, machine: usize, path: &str) {
    for _ in 0..simulation.random.below(3) {
        let operation = match simulation.random.below(4) {
            0 => Operation::Stat {
                path: path.to_owned(),
            },
            1 => Operation::List {
                path: parent_of(path).to_owned(),
                with_attributes: true,
            },
            2 => Operation::List {
                path: parent_of(path).to_owned(),
                with_attributes: false,
            },
            _ => Operation::ReadFile {
                path: path.to_owned(),
            },
        };
        let _ = simulation.both(machine, &operation);
    }
}

fn expect(simulation: &Simulation, what: &str, outcome: &Outcome<Value>, allowed: &[Outcome<Value>]) {
    if !allowed.contains(outcome) {
        let shown = |outcome: &Outcome<Value>| outcome.clone().map_err(errno_name);
        let allowed: Vec<_> = allowed.iter().map(shown).collect();
        simulation.fail(&format!("{what}: {:?} is none of {allowed:?}", shown(outcome)));
    }
}

/// One meeting of `machine` with somebody else.
pub fn meet(simulation: &mut Simulation, machine: usize) {
    simulation.wait_for_caches();
    tidy_up(simulation, machine);
    match simulation.random.below(9) {
        0 | 1 => overwritten(simulation, machine),
        6 => appended_to_while_open(simulation, machine),
        2 => deleted(simulation, machine),
        3 => created(simulation, machine),
        4 => overwritten_while_open(simulation, machine),
        7 => changed_and_back(simulation, machine),
        8 => source_replaced_before_its_copy(simulation, machine),
        _ => directory_filled(simulation, machine),
    }
    simulation.wait_for_caches();
    if simulation.world.options.on_conflict == OnConflict::Copy {
        adopt_copies(simulation);
    }
    simulation.compare_bucket();
    simulation.compare_tree(machine);
}

/// Removes what meetings have left, from the leaves on.
fn tidy_up(simulation: &mut Simulation, machine: usize) {
    let is_left = |path: &String| {
        ["new", "theirs", ".conflict-"]
            .iter()
            .any(|part| path.contains(part))
    };
    let mut left: Vec<String> = simulation.reference.bucket.keys().cloned().collect();
    left.retain(is_left);
    if left.len() <= MAX_LEFT {
        return;
    }
    for path in left.into_iter().rev() {
        if !unused(simulation, &path) || simulation.reference.is_haunted(machine, &path) {
            continue;
        }
        let operation = match simulation.reference.bucket.get(&path) {
            Some(Entry::Directory) => Operation::Rmdir { path },
            _ => Operation::Unlink { path },
        };
        let _ = simulation.both(machine, &operation);
    }
}

/// What lost is beside the object that it lost against.
fn adopt_copies(simulation: &mut Simulation) {
    for (key, stored) in simulation.world.remote.snapshot() {
        if key.contains(".conflict-") && !simulation.reference.bucket.contains_key(&key) {
            simulation.adopt(&key, &stored);
        }
    }
}

/// Operations on a path whose object was replaced behind the mount's back: as if the mount had known.
fn overwritten(simulation: &mut Simulation, machine: usize) {
    let Some(path) = some_file(simulation) else { return };
    warm_up(simulation, machine, &path);
    let theirs = simulation.remote_put(&path);
    let len = simulation.random.below(3_000);
    let data = simulation.random.bytes(len);
    let to = fresh_name(simulation, parent_of(&path));
    let operation = match simulation.random.below(9) {
        0 => Operation::ReadFile { path },
        1 => Operation::Unlink { path },
        2 => Operation::Rename {
            from: path,
            to,
            no_replace: false,
        },
        3 => Operation::Rename {
            from: path,
            to,
            no_replace: true,
        },
        4 => Operation::WriteFile {
            path,
            flags: libc::O_APPEND,
            data,
        },
        5 => Operation::Truncate {
            path,
            size: theirs.len() / 2,
        },
        6 => Operation::Chmod { path, mode: 0o600 },
        7 => Operation::WriteFile { path, flags: 0, data },
        _ => {
            let flags = if simulation.random.one_in(2) {
                libc::O_CREAT
            } else {
                0
            };
            return write_truncating(simulation, machine, path, flags, data);
        }
    };
    let _ = simulation.both(machine, &operation);
}

/// Another version comes and goes: what is there then has the ETag of what was there before, and is another object.
fn changed_and_back(simulation: &mut Simulation, machine: usize) {
    let Some(path) = some_file(simulation) else { return };
    // A plain one: parts make another ETag of the same bytes, and other metadata are not noticed under one ETag.
    simulation.remote_put(&path);
    simulation.wait_for_caches();
    warm_up(simulation, machine, &path);
    let is_open = simulation.random.one_in(2);
    if is_open {
        let flags = libc::O_RDWR;
        let open = Operation::Open {
            handle: HANDLE,
            path: path.clone(),
            flags,
        };
        let opened = simulation.execute(machine, &open);
        expect(simulation, "an open", &opened, &[Ok(Value::Nothing)]);
    }
    let old = simulation.reference.bytes(machine, &path).unwrap_or_default();
    simulation.remote_put(&path);
    if !is_open && simulation.random.one_in(2) {
        let _ = simulation.both(machine, &Operation::ReadFile { path: path.clone() });
    }
    simulation.remote_put_bytes(&path, &old);
    let len = simulation.random.within(1..3_000);
    let data = simulation.random.bytes(len);
    if is_open {
        let mut mine = old;
        overwrite(simulation, machine, &mut mine, &data);
        let closed = simulation.execute(machine, &Operation::Close { handle: HANDLE });
        expect(
            simulation,
            "closing what is as it was",
            &closed,
            &[Ok(Value::Nothing)],
        );
        return adopt_committed(simulation, &path, &mine);
    }
    let to = fresh_name(simulation, parent_of(&path));
    let operation = match simulation.random.below(5) {
        0 => Operation::ReadFile { path },
        1 => Operation::Unlink { path },
        2 => Operation::Rename {
            from: path,
            to,
            no_replace: false,
        },
        3 => Operation::Truncate {
            path,
            size: old.len() / 2,
        },
        _ => Operation::WriteFile {
            path,
            flags: libc::O_APPEND,
            data,
        },
    };
    let _ = simulation.both(machine, &operation);
}

/// A copy whose source is replaced before the store copies it: all of the former version, or an error and nothing.
fn source_replaced_before_its_copy(simulation: &mut Simulation, machine: usize) {
    let Some(path) = some_file(simulation) else { return };
    let mut mine = simulation.reference.bytes(machine, &path).unwrap_or_default();
    let target = fresh_name(simulation, parent_of(&path));
    let opens = [
        (HANDLE, &path, libc::O_RDONLY),
        (COPY, &target, libc::O_RDWR | libc::O_CREAT),
    ];
    for (handle, path, flags) in opens {
        let open = Operation::Open {
            handle,
            path: path.clone(),
            flags,
        };
        let opened = simulation.execute(machine, &open);
        expect(simulation, "an open", &opened, &[Ok(Value::Nothing)]);
    }
    let copy = Operation::Copy {
        from: HANDLE,
        from_offset: 0,
        to: COPY,
        to_offset: 0,
        len: usize::MAX / 2,
    };
    let copied = simulation.execute(machine, &copy);
    match copied {
        Ok(Value::Count(count)) if count <= mine.len() => mine.truncate(count),
        other => simulation.fail(&format!("a copy: {other:?}")),
    }
    if simulation.random.one_in(2) {
        simulation.remote_put(&path);
    } else if simulation.may_vanish(&path) {
        simulation.remote_delete(&path);
    }
    let closed = simulation.execute(machine, &Operation::Close { handle: COPY });
    expect(
        simulation,
        "closing a copy of what was replaced",
        &closed,
        &[Ok(Value::Nothing), Err(libc::ESTALE)],
    );
    if closed.is_ok() {
        adopt_committed(simulation, &target, &mine);
    }
    let closed = simulation.execute(machine, &Operation::Close { handle: HANDLE });
    expect(simulation, "closing the source", &closed, &[Ok(Value::Nothing)]);
}

/// O_TRUNC over a version that is newer than what the mount knew, but older than the open: ours, unless the store's
/// clock (whole seconds) cannot tell.
fn write_truncating(simulation: &mut Simulation, machine: usize, path: String, flags: i32, data: Vec<u8>) {
    let operation = Operation::WriteFile {
        path: path.clone(),
        flags: flags | libc::O_TRUNC,
        data: data.clone(),
    };
    let outcome = simulation.execute(machine, &operation);
    expect(
        simulation,
        "O_TRUNC over a newer object",
        &outcome,
        &[Ok(Value::Nothing), Err(libc::ESTALE)],
    );
    if outcome.is_ok() {
        // With the attributes of the version that the open knew.
        adopt_committed(simulation, &path, &data);
    }
}

/// Operations on a path whose object was deleted behind the mount's back.
fn deleted(simulation: &mut Simulation, machine: usize) {
    let Some(path) = some_file(simulation).filter(|path| simulation.may_vanish(path)) else {
        return;
    };
    warm_up(simulation, machine, &path);
    simulation.remote_delete(&path);
    let len = simulation.random.within(1..3_000);
    let data = simulation.random.bytes(len);
    let to = fresh_name(simulation, parent_of(&path));
    let operation = match simulation.random.below(8) {
        0 => Operation::ReadFile { path },
        1 => Operation::Unlink { path },
        2 => Operation::Rename {
            from: path,
            to,
            no_replace: false,
        },
        3 => Operation::WriteFile {
            path,
            flags: libc::O_APPEND,
            data,
        },
        4 => Operation::Truncate { path, size: 10 },
        5 => Operation::Chmod { path, mode: 0o600 },
        6 => Operation::Rename {
            from: path,
            to,
            no_replace: true,
        },
        _ => {
            // With O_CREAT the name may be taken again; a mount that notices only at the commit may refuse.
            let created = path.clone();
            let operation = Operation::WriteFile {
                path,
                flags: libc::O_CREAT | libc::O_TRUNC,
                data,
            };
            let outcome = simulation.execute(machine, &operation);
            let allowed = [Ok(Value::Nothing), Err(libc::ESTALE), Err(libc::ENOENT)];
            expect(simulation, "O_TRUNC over a deleted object", &outcome, &allowed);
            if outcome.is_ok() {
                let _ = simulation.reference.apply(machine, &operation);
                // A new file, or the old one's successor with what it had.
                let bytes = simulation.reference.bytes(machine, &created).unwrap_or_default();
                adopt_committed(simulation, &created, &bytes);
            }
            return;
        }
    };
    let outcome = simulation.execute(machine, &operation);
    let mut allowed = vec![Err(libc::ENOENT)];
    if matches!(operation, Operation::Chmod { .. }) {
        // Changed later, which then fails: the log tells.
        allowed.push(Ok(Value::Nothing));
    }
    expect(simulation, "an operation on a deleted object", &outcome, &allowed);
}

/// Creating what somebody else has created a moment ago: their object stays, and the loser is told.
fn created(simulation: &mut Simulation, machine: usize) {
    let directory = some_directory(simulation);
    let path = fresh_name(simulation, &directory);
    if simulation.random.one_in(2) {
        let _ = simulation.both(
            machine,
            &Operation::List {
                path: directory,
                with_attributes: true,
            },
        );
    }
    let _ = simulation.both(machine, &Operation::Stat { path: path.clone() });
    simulation.remote_put(&path);
    let len = simulation.random.within(1..3_000);
    let data = simulation.random.bytes(len);
    let source = some_file(simulation).filter(|source| *source != path);
    let (operation, allowed) = match simulation.random.below(5) {
        0 => {
            let flags = libc::O_CREAT | libc::O_EXCL;
            (
                Operation::WriteFile { path, flags, data },
                vec![Err(libc::EEXIST)],
            )
        }
        1 => {
            // A mount that had nothing to believe has looked, and writes into their file.
            let operation = Operation::WriteFile {
                path,
                flags: libc::O_CREAT,
                data,
            };
            let outcome = simulation.execute(machine, &operation);
            let allowed = [Ok(Value::Nothing), Err(libc::ESTALE), Err(libc::EEXIST)];
            expect(
                simulation,
                "O_CREAT of what another has created",
                &outcome,
                &allowed,
            );
            if outcome.is_ok() {
                let Operation::WriteFile { path, data, .. } = &operation else {
                    return;
                };
                let stored = simulation.world.remote.get(path).map(|stored| stored.bytes);
                let is_overwritten = simulation.world.options.on_conflict == OnConflict::Overwrite
                    && stored.as_ref() == Some(data);
                if is_overwritten {
                    simulation.reference.put(path, data);
                } else {
                    let _ = simulation.reference.apply(machine, &operation);
                }
            }
            return;
        }
        2 => return write_truncating(simulation, machine, path, libc::O_CREAT, data),
        3 => (
            Operation::Symlink {
                path,
                target: "target".to_owned(),
            },
            vec![Err(libc::EEXIST)],
        ),
        _ => {
            let Some(from) = source else { return };
            if simulation.random.one_in(2) {
                let operation = Operation::Rename {
                    from,
                    to: path,
                    no_replace: false,
                };
                let _ = simulation.both(machine, &operation);
                return;
            }
            (
                Operation::Rename {
                    from,
                    to: path,
                    no_replace: true,
                },
                vec![Err(libc::EEXIST)],
            )
        }
    };
    let outcome = simulation.execute(machine, &operation);
    expect(
        simulation,
        "creating what another has created",
        &outcome,
        &allowed,
    );
}

/// A file that is open while another version takes its place.
fn overwritten_while_open(simulation: &mut Simulation, machine: usize) {
    let Some(path) = some_file(simulation) else { return };
    let old = simulation.reference.bytes(machine, &path).unwrap_or_default();
    let writes = simulation.random.one_in(2);
    let flags = if writes { libc::O_RDWR } else { libc::O_RDONLY };
    if simulation
        .execute(
            machine,
            &Operation::Open {
                handle: HANDLE,
                path: path.clone(),
                flags,
            },
        )
        .is_err()
    {
        simulation.fail("the file cannot be opened");
    }
    if simulation.random.one_in(2) {
        let read = simulation.execute(
            machine,
            &Operation::Read {
                handle: HANDLE,
                offset: 0,
                len: 100,
            },
        );
        expect(
            simulation,
            "a read",
            &read,
            &[Ok(Value::Bytes(old[..old.len().min(100)].to_vec()))],
        );
    }
    let written = writes && simulation.random.one_in(2);
    let mut mine = old.clone();
    let data = simulation.random.bytes(50);
    if written {
        overwrite(simulation, machine, &mut mine, &data);
    }
    simulation.remote_put(&path);
    if !written && simulation.random.one_in(3) {
        // The newest version, though this mount has an older one open.
        let _ = simulation.both(machine, &Operation::ReadFile { path: path.clone() });
    }
    let offset = simulation.random.below(old.len() + 1);
    let read = simulation.execute(
        machine,
        &Operation::Read {
            handle: HANDLE,
            offset,
            len: usize::MAX,
        },
    );
    let expected = Ok(Value::Bytes(mine[offset..].to_vec()));
    expect(
        simulation,
        "a read of a replaced version",
        &read,
        &[expected, Err(libc::ESTALE)],
    );
    let changes = written || (writes && simulation.random.one_in(2));
    if changes && !written {
        overwrite(simulation, machine, &mut mine, &data);
    }
    if !changes {
        let closed = simulation.execute(machine, &Operation::Close { handle: HANDLE });
        return expect(
            simulation,
            "closing what was only read",
            &closed,
            &[Ok(Value::Nothing)],
        );
    }
    if commit_over_a_newer_object(simulation, machine, &path, &mine) {
        let closed = simulation.execute(machine, &Operation::Close { handle: HANDLE });
        return expect(
            simulation,
            "closing what overwrote",
            &closed,
            &[Ok(Value::Nothing)],
        );
    }
    if simulation.random.one_in(2) {
        // What is written after that has no place in the bucket either, and must not be called safe.
        let write = Operation::Write {
            handle: HANDLE,
            offset: 0,
            data: simulation.random.bytes(20),
        };
        let written = simulation.execute(machine, &write);
        expect(
            simulation,
            "writing to a lost file",
            &written,
            &[Err(libc::ESTALE)],
        );
        let closed = simulation.execute(machine, &Operation::Close { handle: HANDLE });
        expect(
            simulation,
            "closing a lost file with new data",
            &closed,
            &[Err(libc::ESTALE)],
        );
    } else {
        let closed = simulation.execute(machine, &Operation::Close { handle: HANDLE });
        expect(
            simulation,
            "closing a lost file",
            &closed,
            &[Ok(Value::Nothing), Err(libc::ESTALE)],
        );
    }
}

/// The commit of `mine`, which began with a version that was replaced: refused, with what was written kept as the user
/// wants it. True when it replaced the newer object, as the user may want too.
fn commit_over_a_newer_object(simulation: &mut Simulation, machine: usize, path: &str, mine: &[u8]) -> bool {
    let on_conflict = simulation.world.options.on_conflict;
    let before = simulation.conflicts(machine);
    let synced = simulation.execute(machine, &Operation::Sync { handle: HANDLE });
    if synced == Ok(Value::Nothing) && on_conflict == OnConflict::Overwrite {
        adopt_committed(simulation, path, mine);
        return true;
    }
    expect(
        simulation,
        "committing over a newer object",
        &synced,
        &[Err(libc::ESTALE)],
    );
    let kept = simulation.conflicts(machine);
    let mut new = kept.iter().filter(|kept| !before.contains(kept));
    let (first, second) = (new.next(), new.next());
    if on_conflict == OnConflict::Fail {
        if first.is_some() {
            simulation.fail("kept though it was to be dropped");
        }
        return false;
    }
    let (Some(new), None) = (first, second) else {
        simulation.fail(&format!("not one conflict was kept: {first:?} {second:?}"))
    };
    check_kept(simulation, new, mine);
    let is_whole = matches!(new.conflict.form, ConflictForm::Whole { .. });
    if on_conflict == OnConflict::Copy {
        let is_new = |key: &String| {
            parent_of(key) == parent_of(path)
                && key.contains(".conflict-")
                && !simulation.reference.bucket.contains_key(key)
        };
        let copy = simulation.world.remote.keys().into_iter().find(is_new);
        match copy.map(|key| (simulation.world.remote.get(&key), key)) {
            Some((Some(stored), key)) if stored.bytes == mine => simulation.adopt(&key, &stored),
            None if !is_whole => {}
            _ => simulation.fail("what lost is not beside the object"),
        }
    }
    false
}

/// The bucket must have these bytes; which attributes it has depends on whose version they came behind.
fn adopt_committed(simulation: &mut Simulation, path: &str, bytes: &[u8]) {
    match simulation.world.remote.get(path) {
        Some(stored) if stored.bytes == bytes => simulation.adopt(path, &stored),
        other => simulation.fail(&format!(
            "{path:?}: {:?} bytes instead of the {} that were committed",
            other.map(|stored| stored.bytes.len()),
            bytes.len()
        )),
    }
}

/// All that was written must be in what was kept.
fn check_kept(simulation: &Simulation, kept: &KeptConflict, mine: &[u8]) {
    let bytes = kept.bytes.as_ref().map(std::fs::read);
    let Some(Ok(bytes)) = bytes else {
        simulation.fail(&format!("the kept bytes cannot be read: {bytes:?}"))
    };
    let is_right = match &kept.conflict.form {
        ConflictForm::Whole { .. } => bytes == mine,
        ConflictForm::Patch { runs, .. } => {
            let mut rest = &bytes[..];
            runs.iter().all(|(start, len)| {
                let (run, behind) = rest.split_at((*len as usize).min(rest.len()));
                rest = behind;
                mine.get(*start as usize..(*start + *len) as usize) == Some(run)
            })
        }
        ConflictForm::OpenUpload { .. } => false,
    };
    if !is_right {
        simulation.fail("what was kept is not what was written");
    }
}

/// Another version, longer or shorter, takes the place of one that a handle appends to: the appended bytes come behind it.
fn appended_to_while_open(simulation: &mut Simulation, machine: usize) {
    let Some(path) = some_file(simulation) else { return };
    let flags = libc::O_RDWR | libc::O_APPEND;
    let open = Operation::Open {
        handle: HANDLE,
        path: path.clone(),
        flags,
    };
    if simulation.execute(machine, &open).is_err() {
        simulation.fail("the file cannot be opened");
    }
    let mut all = Vec::new();
    for _ in 0..simulation.random.within(1..4) {
        let len = simulation.random.within(1..3_000);
        let data = simulation.random.bytes(len);
        let write = Operation::Write {
            handle: HANDLE,
            offset: 0,
            data: data.clone(),
        };
        let written = simulation.execute(machine, &write);
        expect(simulation, "an append", &written, &[Ok(Value::Nothing)]);
        if simulation.random.one_in(2) {
            all = simulation.remote_put(&path);
        } else if all.is_empty() {
            all = simulation.reference.bytes(machine, &path).unwrap_or_default();
        }
        all.extend_from_slice(&data);
        let synced = simulation.execute(machine, &Operation::Sync { handle: HANDLE });
        expect(
            simulation,
            "an append that is committed",
            &synced,
            &[Ok(Value::Nothing)],
        );
        adopt_committed(simulation, &path, &all);
        let read = simulation.execute(
            machine,
            &Operation::Read {
                handle: HANDLE,
                offset: 0,
                len: usize::MAX,
            },
        );
        expect(
            simulation,
            "reading what was appended",
            &read,
            &[Ok(Value::Bytes(all.clone()))],
        );
    }
    let closed = simulation.execute(machine, &Operation::Close { handle: HANDLE });
    expect(simulation, "closing", &closed, &[Ok(Value::Nothing)]);
}

fn overwrite(simulation: &mut Simulation, machine: usize, mine: &mut Vec<u8>, data: &[u8]) {
    let operation = Operation::Write {
        handle: HANDLE,
        offset: 0,
        data: data.to_vec(),
    };
    let written = simulation.execute(machine, &operation);
    expect(simulation, "a write", &written, &[Ok(Value::Nothing)]);
    if mine.len() < data.len() {
        mine.resize(data.len(), 0);
    }
    mine[..data.len()].copy_from_slice(data);
}

/// A directory that a mount knows as empty is not.
fn directory_filled(simulation: &mut Simulation, machine: usize) {
    let path = fresh_name(simulation, "");
    if simulation
        .both(machine, &Operation::Mkdir { path: path.clone() })
        .is_err()
    {
        return;
    }
    let _ = simulation.both(
        machine,
        &Operation::List {
            path: path.clone(),
            with_attributes: true,
        },
    );
    simulation.remote_put(&format!("{path}/theirs"));
    let empty = fresh_name(simulation, "");
    let operation = if simulation.random.one_in(2) {
        Operation::Rmdir { path }
    } else {
        if simulation
            .both(machine, &Operation::Mkdir { path: empty.clone() })
            .is_err()
        {
            return;
        }
        Operation::Rename {
            from: empty,
            to: path,
            no_replace: false,
        }
    };
    let _ = simulation.both(machine, &operation);
}
