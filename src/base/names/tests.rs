use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn root() -> DirectoryKey {
    DirectoryKey::root("")
}

fn resolved(directory: &DirectoryKey, name: &str) -> Result<Resolved, NameError> {
    resolve(directory, OsStr::new(name))
}

fn file_key(directory: &DirectoryKey, name: &str) -> Option<(String, FileRule)> {
    resolved(directory, name)
        .ok()?
        .file
        .map(|file| (file.key, file.rule))
}

/// Follows a path of names whose last is a file.
fn walk_to_file(path: &[String]) -> (String, FileRule) {
    let (last, above) = path.split_last().expect("a path has a name");
    let mut directory = root();
    for name in above {
        directory = resolved(&directory, name).unwrap().directory.unwrap();
    }
    file_key(&directory, last).unwrap()
}

#[test]
fn paths_are_as_documented() {
    let cases: [(&str, bool, &[&str]); 13] = [
        ("a/b", false, &["a", "b"]),
        ("a", true, &["~%a"]),
        ("dir/", false, &["dir", "~%"]),
        ("a//b", false, &["a", "~%%2F", "b"]),
        ("/", false, &["~%%2F", "~%"]),
        ("/a", false, &["~%%2F", "a"]),
        (".", false, &["~%."]),
        ("..", true, &["~%.."]),
        ("./x", false, &["~%.%2F", "x"]),
        ("~%x", false, &["~%%7E%25x"]),
        ("a\0", false, &["~%a%00"]),
        ("note~", true, &["~%note%7E"]),
        ("tab\there é", false, &["tab\there é"]),
    ];
    for (key, beside, path) in cases {
        assert_eq!(path_of_file(&root(), key, beside).unwrap(), path, "{key:?}");
        assert_eq!(
            walk_to_file(&path.iter().map(ToString::to_string).collect::<Vec<_>>()).0,
            key
        );
    }
}

#[test]
fn a_plain_name_is_a_file_or_a_directory() {
    let directory = DirectoryKey::root("p/q");
    let resolved = resolved(&directory, "a").unwrap();
    assert_eq!(
        resolved.file,
        Some(FileCandidate {
            key: "p/q/a".into(),
            rule: FileRule::UnlessDirectory
        })
    );
    assert_eq!(resolved.directory.unwrap().prefix(), "p/q/a/");
}

#[test]
fn rules_say_when_an_escaped_name_counts() {
    assert_eq!(
        file_key(&root(), "~%a"),
        Some(("a".into(), FileRule::BesideDirectory))
    );
    assert_eq!(file_key(&root(), "~%."), Some((".".into(), FileRule::Always)));
    assert_eq!(
        file_key(&DirectoryKey::root("d"), "~%"),
        Some(("d/".into(), FileRule::MarkerWithData))
    );
    assert_eq!(
        resolved(&root(), "~%.%2F").unwrap().directory.unwrap().prefix(),
        "./"
    );
}

#[test]
fn what_nothing_is_called_is_refused() {
    let names = [
        "", ".", "..", "a/b", "a\0", "~%", "~%a%2F", "~%a%2Fb", "~%%41", "~%é", "~%%2f", "~%a~", "~%~",
    ];
    for name in names {
        assert_eq!(resolved(&root(), name), Err(NameError::NoSuchName), "{name:?}");
    }
    // A piece with a `/` in its middle, and one that leaves room for more.
    for part in [format!("{}%2F", "x".repeat(245)), "x".repeat(240)] {
        assert_eq!(
            resolved(&root(), &format!("~%{part}~")),
            Err(NameError::NoSuchName),
            "{part}"
        );
    }
    assert_eq!(resolved(&root(), &"x".repeat(256)), Err(NameError::NameTooLong));
    let deep = DirectoryKey::root(&"x/".repeat(500));
    assert_eq!(resolved(&deep, &"x".repeat(25)), Err(NameError::NameTooLong));
    let at_limit = resolved(&deep, &"x".repeat(24)).unwrap();
    assert!(at_limit.file.is_some() && at_limit.directory.is_none());
    let not_utf8 = std::os::unix::ffi::OsStrExt::from_bytes(b"\xff");
    assert_eq!(resolve(&root(), not_utf8), Err(NameError::NameNotUtf8));
}

#[test]
fn a_long_component_becomes_nested_directories() {
    let long = "x".repeat(600);
    let path = path_of_file(&root(), &long, false).unwrap();
    assert_eq!(path.iter().map(String::len).collect::<Vec<_>>(), [255, 255, 98]);
    let partial = resolved(&root(), &path[0]).unwrap().directory.unwrap();
    assert!(partial.is_partial() && partial.marker_key().is_none());
    assert_eq!(partial.listing_prefix(), "x".repeat(252));
    assert_eq!(resolved(&partial, "plain"), Err(NameError::NoSuchName));
    assert_eq!(resolved(&partial, "~%"), Err(NameError::NoSuchName));
    assert_eq!(walk_to_file(&path), (long.clone(), FileRule::Always));

    let below = path_of_file(&root(), &format!("{long}/b"), false).unwrap();
    assert_eq!(
        (below.len(), below[2].as_str(), below[3].as_str()),
        (4, &*format!("{}%2F", path[2]), "b")
    );
    assert_eq!(walk_to_file(&below).0, format!("{long}/b"));
    assert_eq!(
        path_of_directory(&root(), &format!("{long}/")).unwrap(),
        below[..3]
    );
}

#[test]
fn a_name_that_becomes_too_long_only_by_its_escape_is_cut_too() {
    let key = "x".repeat(254);
    assert_eq!(
        path_of_file(&root(), &key, false).unwrap(),
        std::slice::from_ref(&key)
    );
    let path = path_of_file(&root(), &key, true).unwrap();
    assert_eq!(path.len(), 2);
    assert_eq!(walk_to_file(&path), (key, FileRule::BesideDirectory));
}

#[test]
fn a_partial_directory_takes_only_its_own() {
    let long = "x".repeat(600);
    let Some(Named::Within {
        directory: partial, ..
    }) = name_of_file(&root(), &long, false)
    else {
        panic!("600 bytes fit into no name")
    };
    assert!(name_of_file(&partial, &"x".repeat(253), false).is_none());
    assert!(name_of_directory(&partial, &format!("{}/", "x".repeat(253))).is_none());
    assert!(name_of_file(&partial, &"x".repeat(252), false).is_none());
    assert!(name_of_file(&partial, &"y".repeat(600), false).is_none());
    assert!(matches!(
        name_of_file(&partial, &"x".repeat(254), true),
        Some(Named::Here(_))
    ));
}

#[test]
fn folder_markers_of_hadoop_name_their_directory() {
    assert_eq!(legacy_folder_marker("a/dir_$folder$").as_deref(), Some("a/dir/"));
    assert_eq!(legacy_folder_marker("_$folder$"), None);
    assert_eq!(legacy_folder_marker("a/_$folder$"), None);
    assert_eq!(legacy_folder_marker("a/dir"), None);
}

/// Components that provoke the mapping: short ones of dangerous characters, and long ones.
fn component() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[ab~%./\0é\n]{0,4}".prop_map(|text| text.replace('/', "")),
        1 => Just("~%".to_owned()),
        1 => "[a-z]{1,12}",
        2 => ("[a~%é\u{1F600}\u{1}]", 60..300usize, "[a~%é/]{0,3}")
            .prop_map(|(unit, count, tail)| unit.repeat(count) + &tail.replace('/', "")),
        1 => (248..260usize).prop_map(|count| "x".repeat(count)),
    ]
}

fn key() -> impl Strategy<Value = String> {
    proptest::collection::vec(component(), 1..5)
        .prop_map(|components| {
            let mut key = components.join("/");
            while key.len() > MAX_KEY_BYTES {
                key.pop();
            }
            key
        })
        .prop_filter("a key has a byte", |key| !key.is_empty())
}

fn is_good_name(name: &str) -> bool {
    let printable = name.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    (1..=MAX_NAME_BYTES).contains(&name.len())
        && !matches!(name, "." | "..")
        && !name.contains(['/', '\0'])
        && (printable || !name.starts_with(MARK))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn every_key_has_a_path_of_its_own_and_it_leads_back(
        keys in proptest::collection::btree_set(key(), 1..12),
    ) {
        let mut paths = BTreeSet::new();
        for key in &keys {
            let below = format!("{key}/");
            let beside = keys.range(below.clone()..).next().is_some_and(|next| next.starts_with(&below));
            let path = path_of_file(&root(), key, beside).expect("every key has a path");
            prop_assert!(path.iter().all(|name| is_good_name(name)), "{path:?}");
            let (back, rule) = walk_to_file(&path);
            prop_assert_eq!(&back, key);
            let rule_fits = match rule {
                FileRule::UnlessDirectory => !beside,
                FileRule::BesideDirectory => beside,
                FileRule::Always => true,
                FileRule::MarkerWithData => key.ends_with('/'),
            };
            prop_assert!(rule_fits, "{rule:?}");
            for depth in 1..path.len() {
                paths.insert((path[..depth].to_vec(), "directory"));
            }
            prop_assert!(paths.insert((path, "file")), "two keys under one path");
        }
        let names: BTreeSet<_> = paths.iter().map(|(path, _)| path).collect();
        prop_assert_eq!(names.len(), paths.len(), "a file and a directory under one path");
    }

    #[test]
    fn a_name_is_what_its_candidates_are_called(
        above in proptest::collection::vec(component(), 0..3),
        name in prop_oneof![component(), component().prop_map(|text| format!("~%{text}")),
            "~%([a.]|%[0-9A-F]{2}){0,4}"],
    ) {
        let directory = DirectoryKey::root(&above.join("/"));
        if let Ok(resolved) = resolved(&directory, &name) {
            prop_assert!(resolved.file.is_some() || resolved.directory.is_some());
            if let Some(file) = resolved.file {
                let beside = file.rule == FileRule::BesideDirectory;
                prop_assert!(file.key.len() <= MAX_KEY_BYTES);
                prop_assert_eq!(
                    name_of_file(&directory, &file.key, beside), Some(Named::Here(name.as_str().into())));
            }
            match resolved.directory {
                Some(below) if !below.is_partial() => prop_assert_eq!(
                    name_of_directory(&directory, below.prefix()), Some(Named::Here(name.as_str().into()))),
                _ => {}
            }
        }
    }

    #[test]
    fn escaping_is_reversible(text in any::<String>()) {
        let name = escape::last_name(&text);
        prop_assert_eq!(escape::unescape(&name[MARK.len()..]), Some(text));
    }
}
