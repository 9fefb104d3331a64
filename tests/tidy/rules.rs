//! The rules. Each takes what it looks at and returns one line of text per violation.

use crate::source::{Source, find_block_end, line_of};
use std::collections::{BTreeMap, BTreeSet};

/// Which layers each layer may import, besides itself. `cli` (and `main.rs`, `lib.rs`) may import all.
const LAYERS: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("rt", &["base"]),
    ("telemetry", &["base"]),
    ("plan", &["base"]),
    ("s3", &["base", "rt", "telemetry"]),
    ("spool", &["base", "rt", "telemetry"]),
    ("cache", &["base", "rt", "telemetry"]),
    ("embedded", &["base", "rt", "telemetry"]),
    (
        "object",
        &["plan", "cache", "s3", "spool", "base", "rt", "telemetry"],
    ),
    (
        "tree",
        &["plan", "cache", "s3", "spool", "base", "rt", "telemetry"],
    ),
    (
        "fs",
        &[
            "tree",
            "object",
            "plan",
            "cache",
            "s3",
            "spool",
            "base",
            "rt",
            "telemetry",
        ],
    ),
    ("fuse", &["fs", "base", "rt", "telemetry"]),
];

/// Words that only some layers may use outside their tests. A word that ends in `_` is a beginning.
const CONFINED: &[(&str, &[&str])] = &[
    ("tokio::spawn", &["rt"]),
    ("tokio::task::spawn", &["rt"]),
    ("spawn_blocking", &["rt"]),
    ("thread::spawn", &["rt"]),
    ("thread::Builder", &["rt"]),
    ("thread::sleep", &["rt"]),
    ("tokio::time", &["rt"]),
    ("Instant::now", &["rt"]),
    ("SystemTime::now", &["rt"]),
    ("fastrand", &["rt"]),
    ("aws_", &["s3"]),
    ("fuser", &["fuse"]),
    ("s3s", &["embedded"]),
    ("process::exit", &["cli"]),
    // They panic where nobody reads.
    ("println!", &[]),
    ("eprintln!", &[]),
    ("print!", &[]),
    ("eprint!", &[]),
    ("todo!", &[]),
    ("unimplemented!", &[]),
    ("dbg!", &[]),
];

/// The layer that a file under `src` belongs to; `None` for the crate's roots.
fn layer(path: &str) -> Option<&str> {
    let first = path.strip_prefix("src/")?.split('/').next()?;
    let name = first.strip_suffix(".rs").unwrap_or(first);
    (!matches!(name, "lib" | "main")).then_some(name)
}

fn is_word_character(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Where `word` stands in `code` as a word of its own.
fn find_word(code: &str, word: &str) -> Vec<usize> {
    let bytes = code.as_bytes();
    let free_before = |at: usize| at == 0 || !is_word_character(bytes[at - 1]);
    let free_after = |at: usize| {
        word.ends_with(['_', '!', '(', ')'])
            || bytes
                .get(at + word.len())
                .is_none_or(|byte| !is_word_character(*byte))
    };
    code.match_indices(word)
        .map(|(at, _)| at)
        .filter(|at| free_before(*at) && free_after(*at))
        .collect()
}

/// The first path segments behind `crate::`, with groups (`crate::{a::b, c}`) taken apart.
fn imported_layers(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, prefix) in code.match_indices("crate::") {
        if at > 0 && is_word_character(code.as_bytes()[at - 1]) {
            continue;
        }
        let rest = &code[at + prefix.len()..];
        let name = |text: &str| {
            text.trim_start()
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect::<String>()
        };
        if !rest.starts_with('{') {
            found.push((line_of(code, at), name(rest)));
            continue;
        }
        let mut depth = 0;
        let mut item_start = true;
        for (index, c) in rest.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => item_start = true,
                c if item_start && depth == 1 && !c.is_whitespace() => {
                    found.push((line_of(code, at + prefix.len() + index), name(&rest[index..])));
                    item_start = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    found
}

/// Imports point down only; siblings never import each other. Tests may use the embedded store.
pub fn layers(source: &Source) -> Vec<String> {
    let Some(own) = layer(&source.path) else {
        return Vec::new();
    };
    if own == "cli" {
        return Vec::new();
    }
    let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == own) else {
        return vec![format!("{}: {own} is not one of the layers", source.path)];
    };
    let mut found = Vec::new();
    for (line, target) in imported_layers(&source.code) {
        let is_test = source.is_test.get(line - 1).copied().unwrap_or(false);
        let is_layer = LAYERS.iter().any(|(name, _)| *name == target) || target == "cli";
        let is_allowed =
            target == own || allowed.contains(&target.as_str()) || (is_test && target == "embedded");
        if is_layer && !is_allowed {
            found.push(format!("{}:{line}: {own} must not import {target}", source.path));
        }
    }
    found.extend(climbing_out(source));
    found
}

/// `super::super::…` that leaves the layer would get around the rule.
fn climbing_out(source: &Source) -> Vec<String> {
    let inside = source
        .path
        .trim_start_matches("src/")
        .trim_end_matches(".rs")
        .trim_end_matches("/mod");
    let depth = inside.split('/').count();
    let mut found = Vec::new();
    for (number, code, _, is_test) in source.lines() {
        let allowed = depth - 1 + usize::from(is_test);
        if code.contains(&"super::".repeat(allowed + 1)) {
            found.push(format!(
                "{}:{number}: leaves its layer through super",
                source.path
            ));
        }
    }
    found
}

/// Words that belong to one layer, or to none.
pub fn confined_words(source: &Source) -> Vec<String> {
    let own = layer(&source.path).unwrap_or("main");
    let mut found = Vec::new();
    for (number, code, _, is_test) in source.lines() {
        for (word, owners) in CONFINED {
            let unconditional = owners.is_empty();
            if (unconditional || (!is_test && !owners.contains(&own))) && !find_word(code, word).is_empty() {
                let owners = if unconditional {
                    "nowhere".into()
                } else {
                    format!("only in {}", owners.join(", "))
                };
                found.push(format!("{}:{number}: {word} {owners}", source.path));
            }
        }
    }
    found
}

/// A panic needs a reason why it cannot happen, in a comment.
pub fn unexplained_panics(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    for (number, code, _, is_test) in source.lines() {
        let panics = code.contains(".unwrap()") || code.contains(".expect(");
        if panics && !is_test && !source.has_comment_at(number) {
            found.push(format!(
                "{}:{number}: unwrap or expect without a comment that says why",
                source.path
            ));
        }
    }
    found
}

/// Silenced lints and tests need a reason.
pub fn unexplained_exceptions(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    for (number, code, text, _) in source.lines() {
        if code.contains("#[ignore]") {
            found.push(format!("{}:{number}: ignored test without a reason", source.path));
        }
        let silences = code.contains("#[allow(") || code.contains("#![allow(");
        if silences && !text.contains("reason") && !source.has_comment_at(number) {
            found.push(format!("{}:{number}: allow without a reason", source.path));
        }
    }
    found
}

/// A module opens by saying what it is; modules of unit tests are about the module that they test.
pub fn missing_module_docs(source: &Source) -> Vec<String> {
    let is_unit_tests = source.path.starts_with("src/") && source.is_test.iter().all(|is_test| *is_test);
    if is_unit_tests || source.text.starts_with("//!") {
        return Vec::new();
    }
    vec![format!("{}: does not open with a //! comment", source.path)]
}

/// Lines with code, tests left out.
pub fn code_lines(source: &Source) -> usize {
    source
        .lines()
        .filter(|(_, code, _, is_test)| !is_test && !code.trim().is_empty())
        .count()
}

/// Name and length in lines of every function outside tests.
pub fn functions(source: &Source) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for at in find_word(&source.code, "fn") {
        let first = line_of(&source.code, at);
        if source.is_test.get(first - 1).copied().unwrap_or(false) {
            continue;
        }
        let rest = &source.code[at + 2..];
        let name: String = rest
            .trim_start()
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect();
        // `fn(u32) -> u32` is a type.
        if let (false, Some(end)) = (name.is_empty(), find_block_end(source.code.as_bytes(), at)) {
            found.push((name, line_of(&source.code, end) - first + 1));
        }
    }
    found
}

/// What is over `limit` must be in `known` with exactly its size: a larger one fails, and a smaller one has to be
/// written down, so that it can only shrink.
pub fn ratchet(measured: &BTreeMap<String, usize>, limit: usize, known: &[(&str, usize)]) -> Vec<String> {
    let mut found = Vec::new();
    for (name, size) in measured.iter().filter(|(_, size)| **size > limit) {
        match known.iter().find(|(known, _)| known == name) {
            None => found.push(format!("{name}: {size} lines, the limit is {limit}")),
            Some((_, allowed)) if size > allowed => {
                found.push(format!(
                    "{name}: grew from {allowed} to {size} lines, the limit is {limit}"
                ));
            }
            Some((_, allowed)) if size < allowed => {
                found.push(format!(
                    "{name}: shrank to {size} lines; write that down in its exception"
                ));
            }
            Some(_) => {}
        }
    }
    for (name, _) in known {
        if measured.get(*name).is_none_or(|size| *size <= limit) {
            found.push(format!("{name}: needs no exception any more"));
        }
    }
    found
}

/// Files under `src` that no `mod` declaration reaches.
pub fn dead_files(sources: &[Source]) -> Vec<String> {
    let by_path: BTreeMap<&str, &Source> = sources
        .iter()
        .map(|source| (source.path.as_str(), source))
        .collect();
    let mut reached = BTreeSet::new();
    let mut waiting = vec!["src/lib.rs".to_owned(), "src/main.rs".to_owned()];
    while let Some(path) = waiting.pop() {
        let Some(source) = by_path.get(path.as_str()) else {
            continue;
        };
        if !reached.insert(path.clone()) {
            continue;
        }
        let stem = path.trim_end_matches(".rs");
        let directory = match stem.rsplit_once('/') {
            Some((directory, "lib" | "main" | "mod")) => directory,
            _ => stem,
        };
        for at in find_word(&source.code, "mod") {
            let rest = source.code[at + 3..].trim_start();
            let name: String = rest
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            if rest[name.len()..].trim_start().starts_with(';') {
                waiting.push(format!("{directory}/{name}.rs"));
                waiting.push(format!("{directory}/{name}/mod.rs"));
            }
        }
    }
    let dead = sources
        .iter()
        .filter(|source| source.path.starts_with("src/") && !reached.contains(&source.path));
    dead.map(|source| format!("{}: no module declares it", source.path))
        .collect()
}

/// Texts that must not stand in a file of the project.
pub fn forbidden_texts(path: &str, text: &str, forbidden: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for word in forbidden {
            if line.to_lowercase().contains(word.as_str()) {
                found.push(format!("{path}:{}: {word:?} does not belong here", index + 1));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source::new(path, text)
    }

    #[test]
    fn an_import_that_points_up_or_sideways_is_found() {
        for (path, text) in [
            ("src/base/x.rs", "use crate::rt::now;"),
            ("src/s3/x.rs", "use crate::spool::Spool;"),
            ("src/rt.rs", "fn f() { crate::telemetry::log() }"),
            ("src/tree/x.rs", "use crate::{base::error, object::File};"),
            (
                "src/tree/x.rs",
                "use crate::{\n    base::{error, limits},\n    fs,\n};",
            ),
            ("src/s3/a/b.rs", "use super::super::super::spool;"),
            ("src/plan/mod.rs", "use super::rt;"),
            ("src/misc/x.rs", ""),
        ] {
            assert_eq!(layers(&source(path, text)).len(), 1, "{path}: {text}");
        }
    }

    #[test]
    fn imports_that_point_down_are_fine() {
        for (path, text) in [
            (
                "src/s3/x.rs",
                "use crate::{base::{error, limits}, rt, s3::types};",
            ),
            ("src/fs/x.rs", "use crate::tree::Tree; // crate::fuse::x"),
            ("src/cli/x.rs", "use crate::fuse::mount;"),
            ("src/lib.rs", "use crate::fuse::mount;"),
            (
                "src/s3/x.rs",
                "use super::types;\n#[cfg(test)]\nmod tests {\n use super::super::types;\n use crate::embedded::Server;\n}\n",
            ),
            ("src/base/x.rs", "let text = \"crate::rt\";"),
        ] {
            assert_eq!(
                layers(&source(path, text)),
                Vec::<String>::new(),
                "{path}: {text}"
            );
        }
    }

    #[test]
    fn confined_words_are_found_outside_their_layer() {
        for (path, text) in [
            ("src/fs/x.rs", "tokio::spawn(f);"),
            ("src/fs/x.rs", "use aws_sdk_s3::Client;"),
            ("src/cli/x.rs", "use fuser::Session;"),
            ("src/rt.rs", "todo!()"),
            (
                "src/base/x.rs",
                "#[cfg(test)]\nmod tests {\n fn f() { dbg!(1); }\n}",
            ),
            ("src/tree/x.rs", "let t = std::time::Instant::now();"),
        ] {
            assert_eq!(confined_words(&source(path, text)).len(), 1, "{path}: {text}");
        }
        for (path, text) in [
            ("src/rt.rs", "tokio::spawn(f); std::thread::sleep(d);"),
            ("src/fuse/x.rs", "use fuser::Session;"),
            (
                "src/fs/x.rs",
                "// tokio::spawn\nlet fuserx = 1; let a = \"dbg!\";",
            ),
            (
                "src/fs/x.rs",
                "#[cfg(test)]\nmod tests {\n fn f() { std::thread::spawn(g); }\n}",
            ),
        ] {
            assert_eq!(
                confined_words(&source(path, text)),
                Vec::<String>::new(),
                "{path}: {text}"
            );
        }
    }

    #[test]
    fn panics_and_exceptions_need_reasons() {
        let panics = "a.unwrap();\n// It is there: see above.\nb.unwrap();\nc.expect(\"x\"); // why\nd.expect(\"y\");\n";
        assert_eq!(unexplained_panics(&source("src/x.rs", panics)).len(), 2);
        let exceptions = "#[ignore]\n#[ignore = \"why\"]\n#[allow(dead_code)]\n#[allow(x, reason = \"y\")]\n// why\n#[allow(z)]\n";
        assert_eq!(unexplained_exceptions(&source("src/x.rs", exceptions)).len(), 2);
        assert_eq!(missing_module_docs(&source("src/x.rs", "use a;")).len(), 1);
        assert!(missing_module_docs(&source("src/x.rs", "//! A.\n")).is_empty());
    }

    #[test]
    fn sizes_are_counted_without_comments_and_tests() {
        let text = "//! A.\n\nfn a() {\n    b();\n}\n\n// c\nfn d() { let f: fn(u8) = g; }\n#[cfg(test)]\nmod tests {\n fn e() {\n }\n}\n";
        let source = source("src/x.rs", text);
        assert_eq!(code_lines(&source), 4);
        assert_eq!(functions(&source), [("a".to_owned(), 3), ("d".to_owned(), 1)]);
    }

    #[test]
    fn a_ratchet_only_turns_one_way() {
        let measured = |size| BTreeMap::from([("f".to_owned(), size)]);
        assert!(ratchet(&measured(80), 70, &[("f", 80)]).is_empty());
        assert!(ratchet(&measured(60), 70, &[]).is_empty());
        for (size, known) in [
            (80, &[][..]),
            (81, &[("f", 80)]),
            (79, &[("f", 80)]),
            (70, &[("f", 80)]),
            (60, &[("g", 80)]),
        ] {
            assert_eq!(ratchet(&measured(size), 70, known).len(), 1, "{size} {known:?}");
        }
    }

    #[test]
    fn files_that_nobody_declares_are_dead() {
        let sources = [
            source("src/lib.rs", "pub mod a; mod b { }"),
            source("src/main.rs", ""),
            source("src/a/mod.rs", "mod c;"),
            source("src/a/c.rs", "mod d;"),
            source("src/a/c/d.rs", "// mod e;"),
            source("src/a/c/e.rs", ""),
            source("src/b.rs", ""),
        ];
        let dead = dead_files(&sources);
        assert_eq!(dead.len(), 2, "{dead:?}");
        assert!(dead[0].starts_with("src/a/c/e.rs") && dead[1].starts_with("src/b.rs"));
    }

    #[test]
    fn forbidden_texts_are_found_whatever_their_case() {
        let found = forbidden_texts("README.md", "a\nsee Secret Place\n", &["secret".to_owned()]);
        assert_eq!(found, ["README.md:2: \"secret\" does not belong here"]);
    }
}
