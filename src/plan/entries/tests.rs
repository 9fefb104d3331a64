use super::*;
use crate::base::names::{path_of_directory, path_of_file, resolve};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;

/// All keys of a bucket with their sizes.
type Bucket = BTreeMap<String, u64>;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Listed {
    Object(String, u64),
    Prefix(String),
}

fn object(key: &str, size_bytes: u64) -> PageObject {
    PageObject {
        key: key.to_owned(),
        size_bytes,
        etag: ETag::new("e"),
        last_modified: SystemTime::UNIX_EPOCH,
        checksum_algorithm: None,
        storage_class: None,
    }
}

fn bucket(keys: &[&str]) -> Bucket {
    keys.iter().map(|key| ((*key).to_owned(), 0)).collect()
}

/// What S3 lists under a prefix with delimiter `/`, in byte order.
fn list(bucket: &Bucket, prefix: &str) -> Vec<Listed> {
    let mut items = Vec::new();
    for (key, size) in bucket.iter().filter(|(key, _)| key.starts_with(prefix)) {
        let item = match key[prefix.len()..].find('/') {
            Some(slash) => Listed::Prefix(key[..=prefix.len() + slash].to_owned()),
            None => Listed::Object(key.clone(), *size),
        };
        if items.last() != Some(&item) {
            items.push(item);
        }
    }
    items
}

fn push(state: &mut DirectoryEntries, page: &[Listed], is_last: bool) -> Vec<Entry> {
    let mut objects = Vec::new();
    let mut prefixes = Vec::new();
    for item in page {
        match item {
            Listed::Object(key, size) => objects.push(object(key, *size)),
            Listed::Prefix(prefix) => prefixes.push(prefix.clone()),
        }
    }
    state.push_page(objects, prefixes, is_last)
}

fn entries_of(
    bucket: &Bucket,
    directory: &DirectoryKey,
    page_items: usize,
) -> (Vec<Entry>, DirectoryEntries) {
    let items = list(bucket, &directory.listing_prefix());
    let mut state = DirectoryEntries::new(directory.clone(), ListingOrder::Bytes);
    let mut entries = Vec::new();
    for page in items.chunks(page_items) {
        entries.extend(push(&mut state, page, false));
    }
    // The last page may be empty.
    entries.extend(push(&mut state, &[], true));
    (entries, state)
}

fn names(bucket: &Bucket, prefix: &str, page_items: usize) -> Vec<String> {
    let (entries, _) = entries_of(bucket, &DirectoryKey::root(prefix), page_items);
    let mut names: Vec<String> = entries
        .into_iter()
        .map(|entry| match entry.kind {
            EntryKind::File(_) => entry.name,
            EntryKind::Directory(_) => entry.name + "/",
        })
        .collect();
    names.sort_unstable();
    names
}

#[test]
fn a_file_beside_its_directory_is_found_out_pages_later() {
    let bucket = bucket(&["a", "a!", "a-b", "a-b/c", "a.txt", "a/x", "b"]);
    for page_items in 1..8 {
        assert_eq!(
            names(&bucket, "", page_items),
            ["a!", "a-b/", "a.txt", "a/", "b", "~%a", "~%a-b"]
        );
    }
}

#[test]
fn what_cannot_change_any_more_is_given_out_at_once() {
    let mut state = DirectoryEntries::new(DirectoryKey::root(""), ListingOrder::Bytes);
    let page = ["a", "b", "c"].map(|key| Listed::Object(key.to_owned(), 0));
    let given: Vec<String> = push(&mut state, &page, false)
        .into_iter()
        .map(|entry| entry.name)
        .collect();
    assert_eq!(given, ["a", "b"]);
    assert_eq!(push(&mut state, &[], true).len(), 1);
}

#[test]
fn the_marker_is_an_entry_only_with_data() {
    let root = DirectoryKey::root("d");
    for (size, expected) in [(0, 0), (3, 1)] {
        let bucket = Bucket::from([("d/".to_owned(), size)]);
        let (entries, state) = entries_of(&bucket, &root, 10);
        assert_eq!(entries.len(), expected);
        assert!(entries.iter().all(|entry| entry.name == "~%"));
        assert!(state.exists());
        assert_eq!(state.marker().map(|marker| marker.size_bytes), Some(size));
    }
    let (_, state) = entries_of(&bucket(&["e/"]), &root, 10);
    assert!(!state.exists() && state.marker().is_none());
}

#[test]
fn folder_markers_of_hadoop_are_directories_and_hidden() {
    assert_eq!(names(&bucket(&["a_$folder$"]), "", 1), ["a/"]);
    assert_eq!(names(&bucket(&["a/x", "a_$folder$"]), "", 1), ["a/"]);
    assert_eq!(names(&bucket(&["a", "a!", "a_$folder$"]), "", 1), ["a", "a!"]);
    assert_eq!(
        names(&Bucket::from([("a_$folder$".to_owned(), 1)]), "", 1),
        ["a_$folder$"]
    );
    assert_eq!(names(&bucket(&["a/_$folder$"]), "a", 1), ["_$folder$"]);
}

#[test]
fn empty_components_are_directories() {
    assert_eq!(names(&bucket(&["/", "//x", "x"]), "", 1), ["x", "~%%2F/"]);
    assert_eq!(
        names(&bucket(&["a/", "a//b", "a//", "a/b"]), "a", 1),
        ["b", "~%%2F/"]
    );
}

#[test]
fn a_partial_directory_comes_once_though_its_keys_are_apart() {
    // The two with a character that takes three letters end their first piece before it; that of `a` ends behind it.
    let keys = ["\u{1}", "a", "é"].map(|next| format!("{}{next}{}", "x".repeat(251), "y".repeat(30)));
    let bucket = bucket(&keys.each_ref().map(String::as_str));
    for page_items in 1..4 {
        assert_eq!(
            names(&bucket, "", page_items),
            [
                format!("~%{}a~/", "x".repeat(251)),
                format!("~%{}~/", "x".repeat(251))
            ]
        );
    }
}

#[test]
fn a_partial_directory_exists_only_by_its_own_entries() {
    let long = "x".repeat(600);
    let path = path_of_file(&DirectoryKey::root(""), &long, false).unwrap();
    let partial = resolve(&DirectoryKey::root(""), OsStr::new(&path[0]))
        .unwrap()
        .directory
        .unwrap();
    for (key, exists) in [
        (long, true),
        ("x".repeat(252), false),
        ("x".repeat(253) + "/b", false),
    ] {
        let (entries, state) = entries_of(&bucket(&[&key]), &partial, 1);
        assert_eq!((entries.len(), state.exists()), (usize::from(exists), exists));
    }
}

#[test]
fn what_is_not_in_the_directory_is_passed_over() {
    let mut state = DirectoryEntries::new(DirectoryKey::root("d"), ListingOrder::Bytes);
    let objects = vec![object("c", 1), object("e/f", 1)];
    let prefixes = vec!["a/".to_owned(), "d/".to_owned(), "e/".to_owned()];
    assert_eq!(state.push_page(objects, prefixes, true), []);
    assert!(!state.exists());
}

/// Components that meet each other: prefixes of one another, markers, special and over-long ones.
fn component() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => proptest::sample::select(
            ["a", "aa", "a!", "a-", "a0", "a_", "a_$folder$", "aa_$folder$", "_$folder$", "b"].as_slice()
        ).prop_map(str::to_owned),
        2 => proptest::sample::select(["", ".", "..", "~%", "~%a", "a~", "\0"].as_slice()).prop_map(str::to_owned),
        1 => (250..258usize, "[a\u{1}é]{0,2}(_\\$folder\\$)?").prop_map(|(count, tail)| "x".repeat(count) + &tail),
        1 => (0..2usize, 80..100usize).prop_map(|(x, count)| "x".repeat(x) + &"é".repeat(count)),
    ]
}

fn any_bucket() -> impl Strategy<Value = Bucket> {
    let key = proptest::collection::vec(component(), 1..4).prop_map(|components| components.join("/"));
    proptest::collection::btree_map(
        key.prop_filter("a key has a byte", |key| !key.is_empty()),
        0..2u64,
        1..16,
    )
}

type Tree = BTreeSet<(Vec<String>, Option<String>)>;

/// All paths by looking at all keys at once: files with their key, directories without.
fn oracle(bucket: &Bucket) -> Tree {
    let root = DirectoryKey::root("");
    let has_below = |prefix: &str| bucket.keys().any(|key| key.starts_with(prefix));
    let is_hidden =
        |key: &str, size: u64| size == 0 && (key.ends_with('/') || legacy_folder_marker(key).is_some());
    let mut tree = Tree::new();
    let mut add = |path: Vec<String>, key: Option<String>| {
        for depth in 1..path.len() {
            tree.insert((path[..depth].to_vec(), None));
        }
        tree.insert((path, key));
    };
    for (key, size) in bucket {
        for (slash, _) in key.match_indices('/') {
            add(path_of_directory(&root, &key[..=slash]).unwrap(), None);
        }
        if !is_hidden(key, *size) {
            add(
                path_of_file(&root, key, has_below(&format!("{key}/"))).unwrap(),
                Some(key.clone()),
            );
        } else if let Some(prefix) = legacy_folder_marker(key) {
            let stem = &prefix[..prefix.len() - 1];
            if bucket.get(stem).is_none_or(|size| is_hidden(stem, *size)) {
                add(path_of_directory(&root, &prefix).unwrap(), None);
            }
        }
    }
    tree
}

/// All paths by listing directory after directory, each entry checked on the way.
fn walk(bucket: &Bucket, directory: &DirectoryKey, above: &[String], page_items: usize, tree: &mut Tree) {
    let (entries, state) = entries_of(bucket, directory, page_items);
    let has_keys = bucket.keys().any(|key| key.starts_with(directory.prefix()));
    assert_eq!(
        state.exists(),
        if directory.is_partial() {
            !entries.is_empty()
        } else {
            has_keys
        }
    );
    for entry in entries {
        let path = [above, std::slice::from_ref(&entry.name)].concat();
        let resolved = resolve(directory, OsStr::new(&entry.name)).unwrap();
        match entry.kind {
            EntryKind::File(object) => {
                assert_eq!(resolved.file.unwrap().key, object.key);
                assert!(tree.insert((path, Some(object.key))), "twice: {}", entry.name);
            }
            EntryKind::Directory(below) => {
                assert_eq!(resolved.directory, Some(below.clone()));
                walk(bucket, &below, &path, page_items, tree);
                assert!(tree.insert((path, None)), "twice: {}", entry.name);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, ..ProptestConfig::default() })]

    #[test]
    fn the_tree_of_listings_is_that_of_all_keys(bucket in any_bucket(), page_items in 1..6usize) {
        let mut tree = Tree::new();
        walk(&bucket, &DirectoryKey::root(""), &[], page_items, &mut tree);
        prop_assert_eq!(tree, oracle(&bucket));
    }

    #[test]
    fn without_order_a_page_is_exact_and_no_name_is_wrong(
        (bucket, shuffled) in any_bucket().prop_flat_map(|bucket| {
            let items = list(&bucket, "");
            (Just(bucket), Just(items).prop_shuffle())
        }),
        page_items in 1..6usize,
    ) {
        let root = DirectoryKey::root("");
        let key_of = |entry: &Entry| format!("{entry:?}");
        let ordered: BTreeSet<_> = entries_of(&bucket, &root, 1000).0.iter().map(key_of).collect();
        let mut at_once = DirectoryEntries::new(root.clone(), ListingOrder::None);
        let unordered: BTreeSet<_> = push(&mut at_once, &shuffled, true).iter().map(key_of).collect();
        prop_assert_eq!(unordered, ordered);

        let mut paged = DirectoryEntries::new(root.clone(), ListingOrder::None);
        let mut files = BTreeSet::new();
        for page in shuffled.chunks(page_items) {
            for entry in push(&mut paged, page, false) {
                let resolved = resolve(&root, OsStr::new(&entry.name)).unwrap();
                match entry.kind {
                    EntryKind::File(object) => {
                        prop_assert_eq!(&resolved.file.unwrap().key, &object.key);
                        prop_assert!(files.insert(object.key), "a file came twice");
                    }
                    EntryKind::Directory(below) => prop_assert_eq!(resolved.directory, Some(below)),
                }
            }
        }
        prop_assert_eq!(push(&mut paged, &[], true), vec![]);
    }

    #[test]
    fn only_a_chain_of_prefixes_is_held_back(bucket in any_bucket()) {
        let mut state = DirectoryEntries::new(DirectoryKey::root(""), ListingOrder::Bytes);
        for item in list(&bucket, "") {
            push(&mut state, std::slice::from_ref(&item), false);
            let (Listed::Object(current, _) | Listed::Prefix(current)) = &item;
            prop_assert!(state.open.iter().all(|open| current.starts_with(open.stem())));
            prop_assert!(state.open.windows(2).all(|pair| pair[0].stem().len() < pair[1].stem().len()));
        }
    }
}
