//! A panic in a background task becomes an error of the operation that it worked for.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind as catch};
use std::task::Poll;

use tinkers_core::{Error, ErrorKind, Result, Sent};

/// Runs `work`; a panic in it gives an `Aborted` error that carries the panic's words.
///
/// It takes up a pointer: the work itself is on the heap.
pub fn catch_unwind<T>(
    work: impl Future<Output = Result<T>> + Send,
) -> impl Future<Output = Result<T>> + Send + Unpin {
    let mut work = Box::pin(work);
    std::future::poll_fn(move |cx| {
        // After a panic the future is never polled again, so that no broken state of it is seen.
        match catch(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
            Ok(poll) => poll,
            Err(panic) => Poll::Ready(Err(aborted(&*panic))),
        }
    })
}

/// Makes the error of an operation whose background task panicked, with the message of the panic.
pub fn aborted(panic: &(dyn Any + Send)) -> Error {
    let words = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let message = format!(
        "the background task panicked: {}",
        words.unwrap_or("without words")
    );
    Error::new(ErrorKind::Aborted, Sent::MaybeSent, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::{Context, Waker};

    #[test]
    fn a_panic_becomes_an_error_with_its_words() {
        let mut cx = Context::from_waker(Waker::noop());
        let mut work = pin!(catch_unwind(async {
            if std::hint::black_box(true) {
                panic!("boom");
            }
            Ok(())
        }));
        let Poll::Ready(Err(error)) = work.as_mut().poll(&mut cx) else {
            panic!("a panic ends the work")
        };
        assert_eq!(error.kind(), ErrorKind::Aborted);
        assert!(error.to_string().contains("boom"), "{error}");
    }
}
