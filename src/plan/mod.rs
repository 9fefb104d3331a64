//! Pure decisions: no I/O, no async, no clock.
pub mod copies;
pub mod cuts;
pub mod entries;
pub mod flat;
mod gap;
pub mod grid;
mod guesses;
pub mod leaps;
pub mod notifications;
pub mod parts;
pub mod ranges;
pub mod readahead;
pub mod room;
#[cfg(test)]
mod testing;
