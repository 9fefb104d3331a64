//! Pure decisions: no I/O, no async, no clock.
pub mod copies;
pub mod entries;
pub mod flat;
pub mod grid;
pub mod notifications;
pub mod parts;
pub mod readahead;
