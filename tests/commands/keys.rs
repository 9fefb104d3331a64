//! Keys that are hard to carry: through shells, URLs, XML, headers.

use crate::support::store::Store;

const ODD: &[&str] = &[
    "plain.txt",
    "a b",
    " blanks at both ends ",
    "a+b",
    "100%",
    "%41%2F",
    "a#b?c=d&e",
    "ü/日本語/😀.txt",
    "e\u{301}",
    "quotes'\"`$HOME",
    "~%escaped",
    "-option",
    "semi;colon,comma|pipe<>()[]{}!*@:=^",
    "tab\tand\u{1}\u{7f}\u{9b}",
];

/// moto finds no route for these.
const LINE_ENDS: &[&str] = &["line\nend"];

/// Those that only a flat key space has; SeaweedFS is a tree of directories, and takes `\` for another separator.
const FLAT: &[&str] = &["//two", "a//b", "./dot", "a/../b", "trailing/", "back\\slash\\"];

/// The keys that this store can hold.
pub fn odd(store: &Store) -> Vec<&'static str> {
    let line_ends = LINE_ENDS.iter().filter(|_| !store.is_moto());
    let flat = FLAT.iter().filter(|_| store.is_embedded());
    ODD.iter().chain(line_ends).chain(flat).copied().collect()
}
