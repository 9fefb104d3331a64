//! The text form of what cannot be a file name, and how it is cut where it is longer than a name may be.
//!
//! Text is escaped character by character. A piece never ends inside a character, so each piece alone can be
//! turned back into text, and what a listing needs as its prefix is always valid UTF-8.

use crate::base::limits::MAX_NAME_BYTES;
use std::fmt::Write;

/// What every escaped name begins with.
pub(super) const MARK: &str = "~%";
/// What every piece but the last ends with. Escaped text has no `~`, so nothing else ends so.
pub(super) const MORE: char = '~';
/// Escaped bytes that fit into a piece that is not the last.
const MAX_PIECE_BYTES: usize = MAX_NAME_BYTES - MARK.len() - MORE.len_utf8();
/// Escaped bytes that fit into the last piece.
const MAX_LAST_PIECE_BYTES: usize = MAX_NAME_BYTES - MARK.len();
/// The longest escaped form of one character: four bytes of UTF-8, three letters each.
const MAX_ESCAPED_CHAR_BYTES: usize = 12;

fn stays_as_it_is(c: char) -> bool {
    matches!(c, ' '..='}') && c != '%' && c != '/'
}

fn escaped_len(c: char) -> usize {
    if stays_as_it_is(c) { 1 } else { 3 * c.len_utf8() }
}

/// Appends the escaped form of `text`: printable ASCII but `%`, `/` and `~` as it is, all other bytes as `%XX`.
fn escape_into(out: &mut String, text: &str) {
    for c in text.chars() {
        if stays_as_it_is(c) {
            out.push(c);
        } else {
            for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                // Writing into a String cannot fail.
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
}

/// The file name of a last piece.
pub(super) fn last_name(text: &str) -> String {
    let mut name = String::from(MARK);
    escape_into(&mut name, text);
    name
}

/// The file name of a piece after which more pieces come.
pub(super) fn partial_name(text: &str) -> String {
    let mut name = last_name(text);
    name.push(MORE);
    name
}

/// The text whose escaped form is exactly `escaped`; `None` where no text has that form.
pub(super) fn unescape(escaped: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(escaped.len());
    let mut rest = escaped.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let high = char::from(rest.next()?).to_digit(16)?;
            let low = char::from(rest.next()?).to_digit(16)?;
            bytes.push((high * 16 + low) as u8);
        } else {
            bytes.push(byte);
        }
    }
    let text = String::from_utf8(bytes).ok()?;
    let mut canonical = String::with_capacity(escaped.len());
    escape_into(&mut canonical, &text);
    (canonical == escaped).then_some(text)
}

/// The next piece of a text that is being cut.
pub(super) enum Piece<'a> {
    Partial(&'a str),
    Last(&'a str),
}

/// Where a piece that is not the last ends: before the first character that does not fit. `None`: all fits.
fn end_of_partial(text: &str) -> Option<usize> {
    let mut escaped_bytes = 0;
    for (at, c) in text.char_indices() {
        escaped_bytes += escaped_len(c);
        if escaped_bytes > MAX_PIECE_BYTES {
            return Some(at);
        }
    }
    None
}

fn fits_last(text: &str) -> bool {
    let mut escaped_bytes = 0;
    text.chars().all(|c| {
        escaped_bytes += escaped_len(c);
        escaped_bytes <= MAX_LAST_PIECE_BYTES
    })
}

fn next_piece(text: &str) -> Piece<'_> {
    match end_of_partial(text) {
        Some(end) if !fits_last(text) => Piece::Partial(&text[..end]),
        _ => Piece::Last(text),
    }
}

/// The piece of `text` that begins at byte `at`; `None` where none of its pieces begins there.
pub(super) fn piece_at(text: &str, at: usize) -> Option<Piece<'_>> {
    let mut begin = 0;
    loop {
        let piece = next_piece(&text[begin..]);
        if begin == at {
            return Some(piece);
        }
        match piece {
            Piece::Partial(part) if begin < at => begin += part.len(),
            _ => return None,
        }
    }
}

/// Whether some longer text can begin with the pieces `gathered` (one or several, or none) and then `part`, more
/// following. False means that nothing has such a path; true does not promise that anything has.
pub(super) fn may_be_partial(gathered: &str, part: &str) -> bool {
    let text = format!("{gathered}{part}");
    let mut begin = 0;
    while begin < gathered.len() {
        match end_of_partial(&text[begin..]) {
            Some(end) => begin += end,
            None => return false,
        }
    }
    let escaped_bytes: usize = part.chars().map(escaped_len).sum();
    begin == gathered.len()
        && escaped_bytes <= MAX_PIECE_BYTES
        && escaped_bytes > MAX_PIECE_BYTES - MAX_ESCAPED_CHAR_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_canonical_escapes_are_read() {
        for (text, escaped) in [
            ("", ""),
            ("a b", "a b"),
            ("a~%/", "a%7E%25%2F"),
            ("é\0", "%C3%A9%00"),
        ] {
            assert_eq!(last_name(text), format!("{MARK}{escaped}"));
            assert_eq!(unescape(escaped).as_deref(), Some(text));
        }
        for wrong in ["~", "%", "%4", "%zz", "%41", "%c3%a9", "%C3", "é", "/", "%+1"] {
            assert_eq!(unescape(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn pieces_fill_a_name_and_never_cut_a_character() {
        let text = "é".repeat(300);
        let Some(Piece::Partial(first)) = piece_at(&text, 0) else {
            panic!("1800 bytes fit into no name")
        };
        assert_eq!(partial_name(first).len(), MAX_NAME_BYTES);
        assert!(piece_at(&text, 2).is_none());
        assert!(may_be_partial("", first) && may_be_partial(first, first));
        assert!(!may_be_partial("", "short") && !may_be_partial("short", first));
        assert!(matches!(
            piece_at(&"x".repeat(MAX_LAST_PIECE_BYTES), 0),
            Some(Piece::Last(_))
        ));
    }
}
