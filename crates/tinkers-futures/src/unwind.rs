//! Converts panics in background tasks into errors of their operations.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use tinkers_core::{Error, ErrorKind, Result, Sent};

/// Runs `work` and converts a panic in it into an `Aborted` error with the message of the panic.
///
/// `work` is boxed, so the returned future has the size of a pointer. `work` is never polled again after a panic.
pub fn catch_unwind<T>(
    work: impl Future<Output = Result<T>> + Send,
) -> impl Future<Output = Result<T>> + Send + Unpin {
    let work = AssertUnwindSafe(work).catch_unwind();
    Box::pin(work.map(|outcome| outcome.unwrap_or_else(|panic| Err(panic_error(&*panic)))))
}

/// Returns the error of an operation whose background task panicked, with the message of the panic.
pub fn panic_error(panic: &(dyn Any + Send)) -> Error {
    let message = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let message = message.unwrap_or("without a message");
    let message = format!("the background task panicked: {message}");
    Error::new(ErrorKind::Aborted, Sent::MaybeSent, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panic_is_returned_as_an_error_with_the_panic_message() {
        let work = async {
            if std::hint::black_box(true) {
                panic!("boom");
            }
            Ok(())
        };
        let error = catch_unwind(work)
            .now_or_never()
            .expect("a panic ends the work")
            .expect_err("a panic is an error");
        assert_eq!(error.kind(), ErrorKind::Aborted);
        assert!(error.to_string().contains("boom"), "{error}");
    }
}
