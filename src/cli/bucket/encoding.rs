//! Text, base64 and JSON in streams, strictly: what is wrong is told with the byte at which it is.
//!
//! 1. Pieces end anywhere: in the middle of a character ([`Utf8Check`]) or of a group of four ([`Base64Decoder`]).
//! 2. Base64 is that of RFC 4648, section 4, with its padding and nothing but zeroes in the bits that are not used;
//!    white space is skipped, and counted.

use base64::DecodeError;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::fmt;

/// What is wrong with the input, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadInput {
    /// From 0.
    pub at_byte: u64,
    pub what: String,
}

impl fmt::Display for BadInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}", self.what, self.at_byte)
    }
}

/// Checks that pieces together are UTF-8.
#[derive(Debug, Default)]
pub struct Utf8Check {
    /// The beginning of a character that goes on in the next piece.
    begun: Vec<u8>,
    checked_bytes: u64,
}

impl Utf8Check {
    /// # Errors
    /// The first byte that is wrong.
    pub fn piece(&mut self, piece: &[u8]) -> Result<(), BadInput> {
        let mut rest = piece;
        // At most three times: a character has four bytes.
        while !self.begun.is_empty() {
            let Some((first, after)) = rest.split_first() else {
                return Ok(());
            };
            rest = after;
            self.begun.push(*first);
            match std::str::from_utf8(&self.begun) {
                Ok(_) => {
                    self.checked_bytes += self.begun.len() as u64;
                    self.begun.clear();
                }
                Err(error) if error.error_len().is_none() => {}
                Err(_) => return Err(self.wrong(0)),
            }
        }
        match std::str::from_utf8(rest) {
            Ok(_) => self.checked_bytes += rest.len() as u64,
            Err(error) if error.error_len().is_some() => return Err(self.wrong(error.valid_up_to())),
            Err(error) => {
                self.checked_bytes += error.valid_up_to() as u64;
                self.begun = rest[error.valid_up_to()..].to_vec();
            }
        }
        Ok(())
    }

    /// # Errors
    /// The beginning of a character that does not end.
    pub fn end(&self) -> Result<(), BadInput> {
        if self.begun.is_empty() {
            Ok(())
        } else {
            Err(self.wrong(0))
        }
    }

    fn wrong(&self, behind: usize) -> BadInput {
        BadInput {
            at_byte: self.checked_bytes + behind as u64,
            what: "invalid UTF-8".into(),
        }
    }
}

/// # Errors
/// The first byte that no JSON document (RFC 8259) can have there.
pub fn check_json(text: &str) -> Result<Box<serde_json::value::RawValue>, BadInput> {
    serde_json::from_str(text).map_err(|error| {
        let line_begin = text
            .split_inclusive('\n')
            .take(error.line().saturating_sub(1))
            .map(str::len)
            .sum::<usize>();
        // Columns count bytes from 1; at the end of the input they name the last one there is.
        let at_byte = if error.is_eof() {
            text.len()
        } else {
            (line_begin + error.column().saturating_sub(1)).min(text.len())
        };
        let message = error.to_string();
        let what = message.split(" at line ").next().unwrap_or("syntax").to_owned();
        BadInput {
            at_byte: at_byte as u64,
            what: format!("invalid JSON: {what}"),
        }
    })
}

/// Decodes base64 piece by piece.
#[derive(Debug, Default)]
pub struct Base64Decoder {
    /// Fewer than four characters, and where each was.
    carried: Vec<(u8, u64)>,
    read_bytes: u64,
    is_padded: bool,
}

impl Base64Decoder {
    /// # Errors
    /// The first byte that is wrong.
    pub fn piece(&mut self, piece: &[u8]) -> Result<Vec<u8>, BadInput> {
        let begin = self.read_bytes;
        self.read_bytes += piece.len() as u64;
        let is_white = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0x0b;
        let mut characters: Vec<u8> = self.carried.iter().map(|(character, _)| *character).collect();
        characters.extend(piece.iter().filter(|byte| !is_white(byte)));
        // Where in the input the character with this index is: looked up for the rare case only.
        let place = |index: usize| {
            if let Some((_, place)) = self.carried.get(index) {
                return *place;
            }
            let mut others = piece.iter().enumerate().filter(|(_, byte)| !is_white(byte));
            let found = others.nth(index - self.carried.len());
            begin + found.map_or(piece.len(), |(place, _)| place) as u64
        };
        if self.is_padded && !characters.is_empty() {
            return Err(BadInput {
                at_byte: place(0),
                what: "invalid base64: something follows the padding".into(),
            });
        }
        let whole = characters.len() / 4 * 4;
        let decoded = STANDARD
            .decode(&characters[..whole])
            .map_err(|error| explain(&error, whole, &place))?;
        let carried = (whole..characters.len())
            .map(|index| (characters[index], place(index)))
            .collect();
        self.is_padded = whole > 0 && characters[whole - 1] == b'=';
        self.carried = carried;
        Ok(decoded)
    }

    /// # Errors
    /// Input that ends within a group of four characters.
    pub fn end(&self) -> Result<(), BadInput> {
        if self.carried.is_empty() {
            return Ok(());
        }
        Err(BadInput {
            at_byte: self.read_bytes,
            what: "invalid base64: the input ends within a group of four characters (is padding missing?)"
                .into(),
        })
    }
}

fn explain(error: &DecodeError, len: usize, place: &impl Fn(usize) -> u64) -> BadInput {
    let (index, what) = match error {
        DecodeError::InvalidByte(index, byte) => (*index, format!("{:?}", char::from(*byte))),
        DecodeError::InvalidLastSymbol { offset, symbol, .. } => (
            *offset,
            format!("{:?} has bits that belong to no byte", char::from(*symbol)),
        ),
        DecodeError::InvalidLength(_) | DecodeError::InvalidPadding => {
            (len.saturating_sub(1), "wrong padding".to_owned())
        }
    };
    BadInput {
        at_byte: place(index),
        what: format!("invalid base64: {what}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(pieces: &[&[u8]]) -> Result<Vec<u8>, BadInput> {
        let mut decoder = Base64Decoder::default();
        let mut out = Vec::new();
        for piece in pieces {
            out.extend(decoder.piece(piece)?);
        }
        decoder.end().map(|()| out)
    }

    #[test]
    fn base64_is_strict() {
        assert_eq!(decode(&[b""]), Ok(vec![]));
        assert_eq!(decode(&[b" YW\r\nJj\tZA=", b"=\n"]), Ok(b"abcd".to_vec()));
        for (text, at_byte) in [
            ("YWJjZA", 6),       // no padding
            ("YWJj ZA=\n", 9),   // half of it
            ("YW-j", 2),         // the alphabet of URLs
            ("YWJj\nZ!==", 6),   // no character of it
            ("YWJjZB==", 5),     // bits that are not zero
            ("YWJjZA==YWJj", 8), // padding in the middle
            ("YWJjZA==\n=", 9),
            ("Y===", 1),
        ] {
            for cut in 0..text.len() {
                let (first, second) = text.as_bytes().split_at(cut);
                let error = decode(&[first, second]).expect_err(text);
                assert!(error.what.contains("base64"), "{error}");
                // What follows the padding is noticed at the padding itself when both come in one piece.
                assert!(
                    error.at_byte.abs_diff(at_byte) <= 2,
                    "{text:?} cut at {cut}: {error}"
                );
            }
        }
        assert_eq!(decode(&[b"YW-j"]).expect_err("not in the alphabet").at_byte, 2);
        assert_eq!(
            decode(&[b"YWJj\n", b"Z!=="])
                .expect_err("not in the alphabet")
                .at_byte,
            6
        );
    }

    #[test]
    fn invalid_text_is_told_with_its_place() {
        let check = |pieces: &[&[u8]]| {
            let mut check = Utf8Check::default();
            pieces.iter().try_for_each(|piece| check.piece(piece))?;
            check.end()
        };
        assert_eq!(check(&["aé€😀".as_bytes()]), Ok(()));
        for (bytes, at_byte) in [
            (&b"ab\xff"[..], 2),
            (b"ab\xc3", 2),
            (b"\xe2\x82", 0),
            (b"abc\xed\xa0\x80", 3),
            (b"ab\xc3\xa9\xc3(", 4),
        ] {
            for cut in 0..bytes.len() {
                let (first, second) = bytes.split_at(cut);
                assert_eq!(
                    check(&[first, second]).expect_err("invalid").at_byte,
                    at_byte,
                    "{bytes:?}"
                );
            }
        }
    }

    #[test]
    fn invalid_json_is_told_with_its_place() {
        for (text, at_byte) in [
            ("", 0),
            ("{\"a\": 1", 7),
            ("{\"a\": x}", 6),
            ("[1,\n2,\n é]", 8),
            ("[1] 2", 4),
        ] {
            let error = check_json(text).expect_err(text);
            assert_eq!(error.at_byte, at_byte, "{text:?}: {error}");
        }
        let exact = "[1e400, 12345678901234567890123, {\"a\":1,\"a\":2}]";
        assert_eq!(check_json(exact).expect("valid").get(), exact);
        let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
        assert!(check_json(&deep).is_ok());
    }

    proptest! {
        #[test]
        fn what_was_encoded_comes_back_however_it_is_cut(data: Vec<u8>, cuts: Vec<usize>, breaks: bool) {
            let mut text = STANDARD.encode(&data);
            if breaks {
                text = text.chars().flat_map(|c| [c, '\n']).collect();
            }
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut % (text.len() + 1)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|ends| &text.as_bytes()[ends[0]..ends[1]]).collect();
            prop_assert_eq!(decode(&pieces), Ok(data));
        }

        #[test]
        fn text_is_text_however_it_is_cut(text: String, cut: usize) {
            let (first, second) = text.as_bytes().split_at(cut % (text.len() + 1));
            let mut check = Utf8Check::default();
            prop_assert!(check.piece(first).and_then(|()| check.piece(second)).and_then(|()| check.end()).is_ok());
        }
    }
}
