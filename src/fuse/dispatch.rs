//! Answers now or later.
//!
//! Each operation is a future. It is polled once on the kernel loop's own thread: what needs neither S3 nor disk is
//! finished then, without a task or a switch of threads (FACTS: +12 µs each). Otherwise it goes on as a task.

use crate::base::error::{Error, ErrorKind, Result};
use crate::rt::Handle;
use fuser::Errno;
use futures_util::FutureExt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// Runs `operation` and gives its result to `reply`, which is called exactly once.
pub(super) fn run<T, F, R>(runtime: &Handle, name: &'static str, operation: F, reply: R)
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
    R: FnOnce(Result<T, Errno>) + Send + 'static,
{
    let mut future: Pin<Box<_>> = Box::pin(AssertUnwindSafe(operation).catch_unwind());
    let guard = runtime.enter();
    let polled = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    drop(guard);
    match polled {
        Poll::Ready(outcome) => reply(answer(name, outcome)),
        Poll::Pending => {
            runtime.spawn(async move {
                let outcome = future.await;
                reply(answer(name, outcome));
            });
        }
    }
}

/// What `work` answers, which waits for nothing; `None` after a panic, which the log tells of.
pub(super) fn at_once<T>(runtime: &Handle, name: &'static str, work: impl FnOnce() -> T) -> Option<T> {
    let _guard = runtime.enter();
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(work));
    answer(name, outcome.map(Ok)).ok()
}

/// The errno for the kernel; the log gets everything else that is known.
fn answer<T>(name: &'static str, outcome: std::thread::Result<Result<T>>) -> Result<T, Errno> {
    let error = match outcome {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => error,
        Err(panic) => Error::new(ErrorKind::Internal, format!("a bug: {}", panic_text(&*panic))),
    };
    log(name, &error);
    Err(Errno::from_i32(error.errno()))
}

/// What every program meets every day is not worth a line by default.
fn log(name: &'static str, error: &Error) {
    match error.kind() {
        ErrorKind::NotFound
        | ErrorKind::Exists
        | ErrorKind::NotEmpty
        | ErrorKind::IsDirectory
        | ErrorKind::NotDirectory
        | ErrorKind::NameTooLong
        | ErrorKind::NameNotUtf8
        | ErrorKind::ReadOnly
        | ErrorKind::NotPermitted
        | ErrorKind::CrossDevice
        | ErrorKind::NoData
        | ErrorKind::NoAttribute
        | ErrorKind::BadHandle => tracing::debug!(operation = name, errno = error.errno(), "{error}"),
        // A program's mistake; but one that the store finds is ours or the store's.
        ErrorKind::Invalid if error.attempts() == 0 => {
            tracing::debug!(operation = name, errno = error.errno(), "{error}")
        }
        // The kernel looks the name up again and opens what is there now.
        ErrorKind::Stale if name == "open" => {
            tracing::debug!(operation = name, errno = error.errno(), "{error}")
        }
        // Programs try ACLs and other namespaces as a matter of course; who warms a cache is told that there is none.
        ErrorKind::Unsupported if name.ends_with("xattr") || name == "ioctl" => {
            tracing::debug!(operation = name, errno = error.errno(), "{error}")
        }
        ErrorKind::Internal => tracing::error!(operation = name, errno = error.errno(), "{error}"),
        _ => tracing::warn!(operation = name, errno = error.errno(), "{error}"),
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a message")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_panic_is_answered_as_an_error() {
        let runtime = crate::rt::build().expect("a runtime");
        let (answers, answered) = mpsc::channel();
        for is_late in [false, true] {
            let answers = answers.clone();
            let operation = async move {
                if is_late {
                    tokio::task::yield_now().await;
                }
                assert!(answered_never(), "{is_late}");
                Ok(())
            };
            run(runtime.handle(), "test", operation, move |result| {
                answers
                    .send(result.expect_err("it panicked").code())
                    .expect("waited for");
            });
        }
        for _ in 0..2 {
            assert_eq!(answered.recv().expect("an answer"), libc::EIO);
        }
    }

    fn answered_never() -> bool {
        std::hint::black_box(false)
    }
}
