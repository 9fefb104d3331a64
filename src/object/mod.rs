//! The bytes of one file: reader, writer, upload, the memory budget.
pub mod budget;
pub mod file;
pub mod outcome;
pub mod reader;
pub mod sharing;
pub mod special;
