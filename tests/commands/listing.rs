//! `pailfs buckets` and `pailfs ls`.

use crate::keys;
use crate::on_all_stores;
use crate::on_the_embedded_store;
use crate::schema;
use crate::shell::Shell;
use crate::support::store::Store;
use crate::support::{is_nightly, poll};
use pailfs::embedded::Operation;
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Duration;

on_all_stores!(
    buckets_are_listed,
    every_key_is_listed_as_it_is,
    directories_end_in_a_slash,
    listings_can_be_cut_short,
);
on_the_embedded_store!(
    many_keys_are_listed_page_by_page,
    a_reader_that_has_enough_ends_a_listing,
    nothing_is_found_below_a_prefix_without_keys,
);

fn names(listing: &Value) -> Vec<String> {
    let entries = listing.as_array().expect("an array");
    let name = |entry: &Value| entry["name"].as_str().expect("a name").to_owned();
    entries.iter().map(name).collect()
}

fn buckets_are_listed(store: &Store) {
    let shell = Shell::new(store);
    let listing = shell.json(&["buckets", "--json"]);
    schema::check("buckets", &listing);
    assert!(names(&listing).contains(&store.bucket.name), "{listing}");
    let lines = shell.run(&["buckets"]);
    assert!(lines.lines().any(|line| line == store.bucket.name), "{lines}");
    let long = shell.run(&["buckets", "--long"]);
    let line = long
        .lines()
        .find(|line| line.ends_with(&format!("  {}", store.bucket.name)));
    assert!(line.expect("the bucket").starts_with("20"), "{long}");
}

fn every_key_is_listed_as_it_is(store: &Store) {
    let shell = Shell::new(store);
    let keys = keys::odd(store);
    for key in &keys {
        store.bucket.put(key, *key);
    }
    let bucket = shell.at_key("");
    let listing = shell.json(&["ls", "--json", "--recursive", &bucket]);
    schema::check("ls", &listing);
    let expected: BTreeSet<String> = keys.iter().map(|key| (*key).to_owned()).collect();
    assert_eq!(names(&listing).into_iter().collect::<BTreeSet<_>>(), expected);
    for entry in listing.as_array().expect("an array") {
        let name = entry["name"].as_str().expect("a name");
        assert_eq!(entry["size"], name.len(), "{entry}");
        assert_eq!(entry["signedUrl"], "", "{entry}");
        let url = entry["url"].as_str().expect("an address");
        assert!(url.starts_with(&format!("{}/{}/", store.endpoint_url, store.bucket.name)));
        assert!(url.bytes().all(|byte| byte.is_ascii_graphic()), "{url}");
        // As a prefix it names itself.
        let itself = shell.json(&["ls", "--json", "--recursive", &shell.at_key(name)]);
        assert!(names(&itself).contains(&name.to_owned()), "{name:?}: {itself}");
    }
    let lines = shell.run(&["ls", "--recursive", &bucket]);
    for key in keys {
        assert!(lines.contains(&format!("{key}\n")), "{key:?}: {lines}");
    }
}

fn directories_end_in_a_slash(store: &Store) {
    let shell = Shell::new(store);
    for key in [
        "a.txt",
        "photos/1.jpg",
        "photos/2.jpg",
        "photos/2026/3.jpg",
        "z z/y",
    ] {
        store.bucket.put(key, "data");
    }
    let listing = shell.json(&["ls", "--json", &shell.at_key("")]);
    schema::check("ls", &listing);
    assert_eq!(names(&listing), ["a.txt", "photos/", "z z/"]);
    assert_eq!(listing[1]["lastModified"], "");
    assert_eq!(listing[1]["size"], 0);
    assert!(
        listing[2]["url"]
            .as_str()
            .expect("an address")
            .ends_with("/z%20z/")
    );
    let inside = shell.run(&["ls", &shell.at_key("photos/")]);
    assert_eq!(inside, "photos/1.jpg\nphotos/2.jpg\nphotos/2026/\n");
    let long = shell.run(&["ls", "--long", &shell.at_key("photos/")]);
    let lines: Vec<&str> = long.lines().collect();
    assert!(
        lines[0].starts_with("              4  20") && lines[0].ends_with("Z  photos/1.jpg"),
        "{long}"
    );
    assert!(
        lines[2].starts_with("              -  -") && lines[2].ends_with("  photos/2026/"),
        "{long}"
    );
    assert_eq!(lines[0].find("photos"), lines[2].find("photos"));
}

fn listings_can_be_cut_short(store: &Store) {
    let shell = Shell::new(store);
    for key in ["1", "2", "3/x", "4"] {
        store.bucket.put(key, "data");
    }
    for (limit, expected) in [
        ("1", &["1"][..]),
        ("3", &["1", "2", "3/"]),
        ("9", &["1", "2", "3/", "4"]),
    ] {
        let listing = shell.json(&["ls", "--json", "--limit", limit, &shell.at_key("")]);
        assert_eq!(names(&listing), expected);
    }
    shell
        .output(&["ls", "--limit", "0", &shell.at_key("")])
        .fails(2, "--limit");
}

fn many_keys_are_listed_page_by_page(store: &Store) {
    let shell = Shell::new(store);
    let count = if is_nightly() { 100_000 } else { 5_000 };
    store
        .bucket
        .put_all((0..count).map(|number| format!("keys/{number:06}")), b"x");
    store.server().counts().reset();
    let lines = shell.run(&["ls", "--recursive", &shell.at_key("")]);
    assert_eq!(store.server().counts().of(Operation::List), count / 1000);
    assert_eq!(store.server().counts().total(), count / 1000);
    assert!(
        lines
            .lines()
            .eq((0..count).map(|number| format!("keys/{number:06}")))
    );
    let listing = shell.json(&[
        "ls",
        "--json",
        "--signed-url",
        "--limit",
        "1500",
        &shell.at_key("keys/"),
    ]);
    schema::check("ls", &listing);
    assert_eq!(names(&listing).len(), 1500);
}

fn a_reader_that_has_enough_ends_a_listing(store: &Store) {
    let shell = Shell::new(store);
    store.bucket.put_all(
        (0..2500).map(|number| format!("{number:04}-{}", "x".repeat(200))),
        b"x",
    );
    let done = shell.script("pailfs ls s3://$BUCKET | head -n 1 | cut -c1-4");
    assert_eq!(done.stderr, "");
    assert_eq!(done.success(), "0000\n");
    // Each page is printed when it is there.
    let mut first = shell
        .tool("bash")
        .args(["-c", "pailfs ls s3://$BUCKET | (head -n 1; sleep 1)"])
        .start();
    assert_eq!(
        poll(Duration::from_secs(30), || first.has_ended().then_some(())),
        Some(())
    );
}

fn nothing_is_found_below_a_prefix_without_keys(store: &Store) {
    let shell = Shell::new(store);
    store.bucket.put("a", "data");
    assert_eq!(shell.run(&["ls", &shell.at_key("b")]), "");
    assert_eq!(shell.run(&["ls", "--json", &shell.at_key("b")]), "[]\n");
}
