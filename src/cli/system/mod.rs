//! What the operating system knows and does: mounts, accounts, memory limits, directories. Blocking, Linux only.
pub mod accounts;
pub mod directories;
pub mod memory;
pub mod mount_table;
pub mod mounts;
pub mod users_of_mount;
