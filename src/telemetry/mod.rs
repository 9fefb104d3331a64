//! What the program tells about itself: every metric's name, unit and meaning (`metrics`), and the log (`log`).
pub mod log;
mod metrics;
pub use metrics::{Metrics, RequestClass};
