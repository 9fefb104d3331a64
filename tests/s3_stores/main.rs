//! The S3 edge against stores: the embedded one (in memory, the clock paused) and, on request, a real server.

mod embedded;
mod real;
mod suite;
