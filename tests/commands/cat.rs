//! `pailfs cat`.

use crate::keys;
use crate::on_all_stores;
use crate::on_the_embedded_store;
use crate::schema;
use crate::shell::Shell;
use crate::support::pattern;
use crate::support::store::Store;

on_all_stores!(
    every_object_is_printed,
    parts_of_an_object_are_printed,
    content_becomes_json,
    content_that_is_not_what_it_should_be_is_refused,
);
on_the_embedded_store!(large_content_needs_memory);

fn every_object_is_printed(store: &Store) {
    let shell = Shell::new(store);
    for key in keys::odd(store) {
        store.bucket.put(key, format!("content of {key}"));
        assert_eq!(
            shell.run(&["cat", &shell.at_key(key)]),
            format!("content of {key}")
        );
        let document = shell.json(&["cat", "--json", &shell.at_key(key)]);
        assert_eq!(document["name"], key);
    }
    let bytes = pattern(9 << 20, 1);
    store.bucket.put("binary", bytes.clone());
    store.bucket.put("empty", "");
    shell
        .script("pailfs cat s3://$BUCKET/binary > binary; pailfs cat s3://$BUCKET/empty > empty")
        .success();
    assert!(shell.read("binary") == bytes);
    assert!(shell.read("empty").is_empty());
    assert_eq!(
        shell.run(&["cat", "--encoding", "base64", &shell.at_key("empty")]),
        "\n"
    );
    let text = shell.script("pailfs cat --encoding base64 s3://$BUCKET/binary | base64 -d | cmp - binary");
    assert_eq!(text.success(), "");
}

fn parts_of_an_object_are_printed(store: &Store) {
    let shell = Shell::new(store);
    let key = shell.at_key("digits");
    store.bucket.put("digits", "0123456789");
    for (range, part) in [
        ("0-0", "0"),
        ("2-4", "234"),
        ("7-", "789"),
        ("7-100", "789"),
        ("-3", "789"),
        ("-100", "0123456789"),
    ] {
        assert_eq!(shell.run(&["cat", "--range", range, &key]), part, "{range}");
    }
    let document = shell.json(&["cat", "--json", "--range", "2-4", &key]);
    assert_eq!(
        (&document["length"], &document["data"]),
        (&3.into(), &"234".into())
    );
    let done = shell.output(&["cat", "--range", "10-", &key]);
    done.fails(1, "begins at byte 10, and the object has 10");
    shell.output(&["cat", "--range", "5", &key]).fails(2, "A-B");
    let bytes = pattern(20 << 20, 2);
    store.bucket.put("large", bytes.clone());
    shell
        .script("pailfs cat --range 1000-19000000 s3://$BUCKET/large > part")
        .success();
    assert!(shell.read("part") == bytes[1000..=19_000_000]);
    store.bucket.put("empty", "");
    assert_eq!(shell.run(&["cat", "--range", "0-", &shell.at_key("empty")]), "");
    assert_eq!(shell.run(&["cat", "--range", "-5", &shell.at_key("empty")]), "");
}

fn content_becomes_json(store: &Store) {
    let shell = Shell::new(store);
    let text = "say \"hé\"\n\u{1}\u{2028}";
    store.bucket.put("text", text);
    let document = shell.json(&["cat", "--json", &shell.at_key("text")]);
    schema::check("cat", &document);
    assert_eq!(document["data"], text);
    assert_eq!(document["length"], text.len());
    store.bucket.put("binary", vec![0xff, 0x00, 0x80]);
    let document = shell.json(&["cat", "--json", "--encoding", "base64", &shell.at_key("binary")]);
    schema::check("cat", &document);
    assert_eq!(document["data"], "/wCA");
    assert_eq!(document["length"], 3);
    // The document as it stands: no number loses a digit, no key its double.
    let json = "{\"n\": 12345678901234567890.10,\n \"a\": [1, {}], \"a\": null}";
    store.bucket.put("document", json);
    let printed = shell.run(&["cat", "--json", "--encoding", "json", &shell.at_key("document")]);
    assert!(printed.contains(&format!("\"data\":{json}}}")), "{printed}");
    schema::check("cat", &serde_json::from_str(&printed).expect("JSON"));
    let alone = shell.run(&["cat", "--encoding", "json", &shell.at_key("document")]);
    assert_eq!(alone.trim_end(), json);
}

fn content_that_is_not_what_it_should_be_is_refused(store: &Store) {
    let shell = Shell::new(store);
    let key = shell.at_key("broken");
    store.bucket.put("broken", b"abc\xc3(".to_vec());
    for arguments in [
        &["cat", "--json", &key][..],
        &["cat", "--encoding", "utf8", &key],
        &["cat", "--encoding", "json", &key],
    ] {
        let done = shell.output(arguments);
        done.fails(1, "invalid UTF-8 at byte 3");
        assert!(
            done.stderr.contains(&key) && done.stderr.contains("base64"),
            "{done:?}"
        );
        assert_eq!(done.stdout, "");
    }
    store.bucket.put("broken", "{\"a\": nothing}");
    for arguments in [
        &["cat", "--json", "--encoding", "json", &key][..],
        &["cat", "--encoding", "json", &key],
    ] {
        let done = shell.output(arguments);
        done.fails(1, "invalid JSON");
        assert!(done.stderr.contains("at byte 7"), "{done:?}");
        assert_eq!(done.stdout, "");
    }
}

fn large_content_needs_memory(store: &Store) {
    let shell = Shell::new(store);
    store.bucket.put("large", vec![b'x'; 33 << 20]);
    let key = shell.at_key("large");
    let done = shell.output(&["cat", "--json", "--memory", "32M", &key]);
    done.fails(1, "--memory");
    let piped = shell.script("pailfs cat --encoding utf8 --memory 32M s3://$BUCKET/large | wc -c");
    assert_eq!(piped.success().trim(), (33 << 20).to_string());
}
