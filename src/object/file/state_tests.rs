//! The decisions of [`super::state`] that need no store.

use super::Creation;
use super::state::{Base, State, Written};
use super::upload::{Link, Upload};
use crate::base::attributes::Attributes;
use crate::base::extents::Backing;
use crate::base::limits::{KIB, MIB, UploadLimits};
use crate::base::object::{ByteRange, Condition, ETag, ObjectHeaders, ObjectId, ObjectInfo, Version};
use crate::object::budget::{Budget, Buffer};
use crate::plan::parts::UploadPolicy;
use crate::s3::types::UploadedPart;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn state() -> State {
    let id = ObjectId::new("b", "k");
    State::new(id, ObjectHeaders::default(), Attributes::default(), at(1000))
}

fn budget() -> Arc<Budget> {
    Budget::new(256 * MIB, Duration::from_secs(1))
}

/// Writes with as much memory as it takes; returns the sizes of the new buffers.
fn write(state: &mut State, budget: &Arc<Budget>, offset: u64, data: &[u8]) -> Vec<u64> {
    let policy = UploadPolicy::for_budget(budget.limit_bytes(), UploadLimits::S3);
    let mut spare: Vec<Buffer> = Vec::new();
    match state.write(offset, data, &mut spare, &policy) {
        Written::Done => Vec::new(),
        Written::NeedsCommit => panic!("a commit is needed"),
        Written::NeedsBuffers(sizes) => {
            let buffer = |bytes: &u64| {
                // A test: its budget is larger than all that it writes.
                budget
                    .try_acquire(*bytes)
                    // unwrap: a test may panic.
                    .expect("the budget is large")
                    .into_buffer()
            };
            spare.extend(sizes.iter().map(buffer));
            assert!(matches!(
                state.write(offset, data, &mut spare, &policy),
                Written::Done
            ));
            assert!(spare.is_empty());
            sizes
        }
    }
}

/// An upload in which part `number` was sent.
fn sent(state: &mut State, number: u32, range: ByteRange) {
    let link = Link::new(
        state.id.clone(),
        state.tags_of(),
        String::new(),
        ObjectHeaders::default(),
        Attributes::default(),
        6,
    );
    let mut upload = state.upload.take().unwrap_or_else(|| Upload::new(link));
    upload.begin(number, range, true);
    upload.arrived(UploadedPart {
        number,
        etag: ETag::new("e"),
        checksum: None,
        len_bytes: range.len(),
    });
    state.upload = Some(upload);
}

#[test]
fn chunks_of_a_sequence_grow_and_end_at_mebibytes() {
    let (mut state, budget) = (state(), budget());
    let mut sizes = Vec::new();
    for page in 0..640 {
        sizes.extend(write(&mut state, &budget, page * 4 * KIB, &[1; 4096]));
    }
    let in_kib: Vec<u64> = sizes.iter().map(|bytes| bytes / KIB).collect();
    assert_eq!(in_kib, [16, 32, 64, 128, 256, 512, 16, 1024, 1024]);
    assert_eq!(state.map.iter().count(), sizes.len(), "one extent for each chunk");
}

#[test]
fn scattered_writes_take_little_memory_and_are_rewritten_in_place() {
    let (mut state, budget) = (state(), budget());
    state.truncate(100 * MIB);
    assert_eq!(write(&mut state, &budget, 10 * MIB, &[1; 100]), [4 * KIB]);
    assert_eq!(write(&mut state, &budget, 10 * MIB + 50, &[2; 100]), [0; 0]);
    assert_eq!(write(&mut state, &budget, 50 * MIB, &[1; 5000]), [8 * KIB]);
    assert_eq!(budget.used_bytes(), 12 * KIB);
}

#[test]
fn what_is_sealed_does_not_change_and_memory_lives_while_it_is_needed() {
    let (mut state, budget) = (state(), budget());
    write(&mut state, &budget, 0, b"before");
    state.seal();
    assert_eq!(
        write(&mut state, &budget, 0, b"AFTER "),
        [4 * KIB],
        "sealed bytes are not overwritten"
    );
    // A test: nothing moved it anywhere else.
    let sealed = state.memory_of(ByteRange::new(0, 6)).expect("in memory");
    assert_eq!(sealed[0].bytes, b"before"[..]);
    drop(sealed);
    assert!(budget.used_bytes() > 4 * KIB);
    state.unseal();
    assert_eq!(budget.used_bytes(), 4 * KIB);
    assert!(state.is_dirty());
}

#[test]
fn only_whole_sent_parts_lose_their_memory() {
    let (mut state, budget) = (state(), budget());
    for n in 0..24 {
        write(&mut state, &budget, n * MIB, &vec![n as u8; MIB as usize]);
    }
    let (second, third) = (
        ByteRange::new(8 * MIB, 16 * MIB),
        ByteRange::new(16 * MIB, 24 * MIB),
    );
    assert_eq!(
        state.cells_to_send(ByteRange::new(15 * MIB, 16 * MIB)),
        [(2, second)]
    );
    assert_eq!(
        state.cells_to_send(ByteRange::new(23 * MIB, 24 * MIB)),
        [],
        "the last stays"
    );
    sent(&mut state, 2, second);
    assert_eq!(state.evict(1), 8 * MIB);
    assert_eq!(
        state.map.at(9 * MIB).map(|extent| extent.backing),
        Some(Backing::Part { number: 2, offset: 0 })
    );
    let policy = UploadPolicy::for_budget(budget.limit_bytes(), UploadLimits::S3);
    let over = state.write(9 * MIB, b"x", &mut Vec::new(), &policy);
    assert!(matches!(over, Written::NeedsCommit));
    assert!(!state.truncate(9 * MIB), "half of a part cannot be kept");
    assert!(state.truncate(16 * MIB), "a whole one can");
    sent(&mut state, 3, third);
    state.keeps_parts = true;
    assert_eq!(state.evict(1), 0);
}

#[test]
fn a_write_into_a_sent_part_has_it_sent_again() {
    let (mut state, budget) = (state(), budget());
    for n in 0..24 {
        write(&mut state, &budget, n * MIB, &vec![n as u8; MIB as usize]);
    }
    sent(&mut state, 2, ByteRange::new(8 * MIB, 16 * MIB));
    write(&mut state, &budget, 9 * MIB, b"x");
    assert!(!state.upload.as_ref().is_some_and(|upload| upload.has(2)));
    sent(&mut state, 2, ByteRange::new(8 * MIB, 16 * MIB));
    state.seal();
    write(&mut state, &budget, 9 * MIB, b"y");
    assert!(
        state.upload.as_ref().is_some_and(|upload| upload.has(2)),
        "it is what was sealed"
    );
    state.unseal();
    assert!(
        !state.upload.as_ref().is_some_and(|upload| upload.has(2)),
        "it is not what is there now"
    );
}

#[test]
fn a_truncating_open_replaces_only_what_is_certainly_older() {
    let found = |modified: u64| ObjectInfo {
        version: Version {
            etag: ETag::new("theirs"),
            size_bytes: 1,
            version_id: None,
            last_modified: at(modified),
        },
        headers: ObjectHeaders::default(),
    };
    let mut state = state();
    state.base = Base::Absent;
    for (creation, modified, expected) in [
        (Creation::Truncating, 999, true),
        (Creation::Truncating, 1000, false),
        (Creation::Truncating, 1001, false),
        (Creation::Plain, 999, false),
        (Creation::Exclusive, 999, false),
    ] {
        state.creation = Some(creation);
        let condition = state.replaceable(Some(&found(modified)));
        let theirs = Condition::Matches(ETag::new("theirs"));
        assert_eq!(condition, expected.then_some(theirs), "{creation:?} {modified}");
    }
    state.creation = Some(Creation::Truncating);
    assert_eq!(state.replaceable(None), Some(Condition::Absent));
    state.creation = None;
    assert_eq!(state.replaceable(None), None);
}
