use super::*;
use crate::base::names::DirectoryKey;
use crate::rt;
use std::time::{Duration, UNIX_EPOCH};

fn seen(etag: &str, modified_ms: u64, headers: bool) -> Seen {
    Seen {
        version: Version {
            etag: ETag::new(etag),
            size_bytes: 1,
            version_id: headers.then(|| "v1".into()),
            last_modified: UNIX_EPOCH + Duration::from_millis(modified_ms),
        },
        kind: Kind::File,
        attributes: headers.then(Attributes::default),
        headers: headers.then(|| Arc::new(ObjectHeaders::default())),
        at: rt::now(),
    }
}

fn settled(table: &mut Table, seen: Seen) -> Node {
    let parent = DirectoryPlace {
        bucket: "b".into(),
        key: DirectoryKey::root(""),
    };
    let link = Link {
        parent,
        name: "f".into(),
    };
    let id = ObjectId::new("b", "f");
    table
        .settle_object(&id, link, seen, SystemTime::UNIX_EPOCH)
        .clone()
}

fn table() -> Table {
    Table::new(Place::Buckets, rt::now(), SystemTime::UNIX_EPOCH)
}

#[test]
fn a_listing_takes_no_version_id_away() {
    let mut table = table();
    settled(&mut table, seen("a", 5_000, true));
    let listed = settled(&mut table, seen("a", 5_700, false));
    assert!(listed.headers.is_some() && listed.attributes_known);
    assert_eq!(listed.version.expect("known").version_id, Some("v1".into()));
    let other = settled(&mut table, seen("b", 5_700, false));
    assert_eq!(other.version.expect("known").version_id, None);
}

#[test]
fn who_is_listed_with_a_later_second_was_put_again() {
    let mut table = table();
    let node = settled(&mut table, seen("a", 5_000, true));
    let at = |ms| UNIX_EPOCH + Duration::from_millis(ms);
    assert!(!node.is_put_again(at(5_999)) && !node.is_put_again(at(4_000)));
    assert!(node.is_put_again(at(6_000)));
    let listed = settled(&mut table, seen("a", 6_000, false));
    assert!(!listed.attributes_known && listed.headers.is_none());
    assert_eq!(listed.version.expect("known").version_id, None);
}

#[test]
fn a_store_that_lists_later_times_than_it_tells_is_not_asked_again_and_again() {
    let mut table = table();
    let node = settled(&mut table, seen("a", 5_000, true));
    let listed = UNIX_EPOCH + Duration::from_secs(6);
    table.note_listed_time(node.ino, &ETag::new("a"), listed);
    let node = settled(&mut table, seen("a", 5_000, true));
    assert!(!node.is_put_again(listed));
    assert!(node.is_put_again(listed + Duration::from_secs(1)));
}
