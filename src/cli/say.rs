//! Lines for whoever started a command. `println!` and `eprintln!` would panic where nobody reads.

use crate::cli::failure::Failure;
use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

/// Tells something beside what a command prints. Who does not read it misses nothing that the exit code does not say.
pub fn say(line: impl Display) {
    let _nobody_reads = writeln!(io::stderr(), "{line}");
}

/// Prints a line of what a command was asked for. A reader that is gone wanted no more.
///
/// # Errors
/// When it cannot be written for another reason, as on a full disk.
pub fn print(line: impl Display) -> Result<(), Failure> {
    let mut output = io::stdout();
    read_or_gone(writeln!(output, "{line}").and_then(|()| output.flush()))
}

/// # Errors
/// Those of writing to standard output, but that nobody reads it.
pub fn read_or_gone(written: io::Result<()>) -> Result<(), Failure> {
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|error| Failure::io(&error, "standard output")),
    }
}
