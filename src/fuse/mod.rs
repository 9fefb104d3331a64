//! The kernel's requests: converted, passed to `fs`, answered.
//!
//! Difficulties, and who solves them:
//! 1. What is in memory is answered at once on the loop's thread; only what must wait becomes a task ([`dispatch`]).
//! 2. A panic in a callback would end a loop silently: it is caught, logged, and answered with EIO ([`dispatch`]).
//! 3. Notifications to the kernel can deadlock on a request's thread: they have a thread of their own
//!    ([`notify`]).
//! 4. The kernel's buffers are borrowed: what outlives the callback is copied once ([`handlers`]).
//! 5. A mount is made by root and by others in different ways ([`device`]).

mod buffers;
mod convert;
mod device;
mod directories;
mod dispatch;
mod handlers;
mod ioctl;
mod notify;
mod replies;
mod session;
mod xattrs;

pub use session::{Mounted, mount};
