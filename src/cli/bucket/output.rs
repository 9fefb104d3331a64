//! What these commands print.
//!
//! 1. A reader that has seen enough (`head`) closes the pipe: that ends a command, and is no failure ([`Stop`]).
//! 2. Keys may hold any character. A terminal does what control characters say, so it is shown them escaped; a pipe and a
//!    file get the bytes as they are. Scripts that must tell apart keys with line ends use `--json`.
//! 3. An array of any length in bounded memory: [`Array`] prints element by element. If something fails half-way it
//!    stays open, so that nobody takes the beginning for the whole.

use crate::cli::failure::Failure;
use serde::Serialize;
use std::borrow::Cow;
use std::io::{self, BufWriter, ErrorKind, IsTerminal, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Why a command prints no more.
#[derive(Debug)]
pub enum Stop {
    ReaderGone,
    Failed(Failure),
}

impl<E: Into<Failure>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// What a command that stopped tells its caller.
///
/// # Errors
/// The failure, if it was one.
pub fn ended(result: Result<(), Stop>) -> Result<(), Failure> {
    match result {
        Ok(()) | Err(Stop::ReaderGone) => Ok(()),
        Err(Stop::Failed(failure)) => Err(failure),
    }
}

/// Standard output, buffered.
pub struct Output {
    to: BufWriter<Box<dyn Write>>,
    is_terminal: bool,
}

impl Output {
    #[must_use]
    pub fn stdout() -> Self {
        let stdout = io::stdout();
        let is_terminal = stdout.is_terminal();
        // Past the standard library's own buffer, which would be flushed at each line.
        let to: Box<dyn Write> = match duplicate(&stdout) {
            Ok(file) => Box::new(file),
            Err(_) => Box::new(stdout),
        };
        Self {
            to: BufWriter::with_capacity(64 << 10, to),
            is_terminal,
        }
    }

    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        written(self.to.write_all(bytes))
    }

    pub fn line(&mut self, line: &str) -> Result<(), Stop> {
        self.bytes(line.as_bytes())?;
        self.bytes(b"\n")
    }

    pub fn json(&mut self, value: &impl Serialize) -> Result<(), Stop> {
        written(serde_json::to_writer(&mut self.to, value).map_err(io::Error::from))
    }

    /// One document, with the end of its line.
    pub fn json_line(&mut self, value: &impl Serialize) -> Result<(), Stop> {
        self.json(value)?;
        self.bytes(b"\n")
    }

    pub fn flush(&mut self) -> Result<(), Stop> {
        written(self.to.flush())
    }

    /// A name as this output can show it.
    #[must_use]
    pub fn name<'a>(&self, name: &'a str) -> Cow<'a, str> {
        if self.is_terminal {
            printable(name)
        } else {
            Cow::Borrowed(name)
        }
    }
}

fn duplicate(stdout: &io::Stdout) -> io::Result<std::fs::File> {
    use std::os::fd::AsFd;
    Ok(stdout.as_fd().try_clone_to_owned()?.into())
}

fn written(result: io::Result<()>) -> Result<(), Stop> {
    result.map_err(|error| {
        if error.kind() == ErrorKind::BrokenPipe {
            Stop::ReaderGone
        } else {
            Stop::Failed(Failure::io(&error, "standard output"))
        }
    })
}

/// The text with control characters escaped.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let shown = text.chars().map(|c| {
        if c.is_control() {
            c.escape_default().to_string()
        } else {
            c.to_string()
        }
    });
    Cow::Owned(shown.collect())
}

/// A JSON array that is printed while its elements come.
pub struct Array {
    is_empty: bool,
}

impl Array {
    pub fn begin(output: &mut Output) -> Result<Self, Stop> {
        output.bytes(b"[")?;
        Ok(Self { is_empty: true })
    }

    pub fn element(&mut self, output: &mut Output, value: &impl Serialize) -> Result<(), Stop> {
        output.bytes(if self.is_empty { b"\n" } else { b",\n" })?;
        self.is_empty = false;
        output.json(value)
    }

    pub fn end(self, output: &mut Output) -> Result<(), Stop> {
        output.bytes(if self.is_empty { b"]\n" } else { b"\n]\n" })
    }
}

/// 9999-12-31T23:59:59.999Z: the last moment that RFC 3339 can name.
const LAST_TIME: Duration = Duration::from_millis(253_402_300_799_999);

/// RFC 3339 in UTC with milliseconds. Times that it has no words for become the nearest that it has.
#[must_use]
pub fn rfc3339(time: SystemTime) -> String {
    let time = time.clamp(UNIX_EPOCH, UNIX_EPOCH + LAST_TIME);
    humantime::format_rfc3339_millis(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_milliseconds_whatever_they_are() {
        let at = |millis| rfc3339(UNIX_EPOCH + Duration::from_millis(millis));
        assert_eq!(at(1_700_000_000_000), "2023-11-14T22:13:20.000Z");
        assert_eq!(at(1), "1970-01-01T00:00:00.001Z");
        assert_eq!(at(u64::MAX / 2), "9999-12-31T23:59:59.999Z");
        assert_eq!(
            rfc3339(UNIX_EPOCH - Duration::from_secs(5)),
            "1970-01-01T00:00:00.000Z"
        );
    }

    #[test]
    fn a_terminal_is_told_no_control_characters() {
        assert_eq!(printable("a b+é"), "a b+é");
        assert_eq!(printable("a\n\u{1b}[2J\u{9b}"), "a\\n\\u{1b}[2J\\u{9b}");
    }
}
