//! For programs without an executor.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

/// Runs `work` and blocks this thread for its result. All work of the SDK goes on on a runtime of its own meanwhile.
///
/// ```no_run
/// # fn main() -> tinkers::Result<()> {
/// let service = tinkers::block_on(tinkers::ServiceClient::from_env())?;
/// # drop(service); Ok(()) }
/// ```
pub fn block_on<F: Future>(work: F) -> F::Output {
    let mut work = pin!(work);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut cx = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(output) = work.as_mut().poll(&mut cx) {
            return output;
        }
        // A wake-up before this point is not lost: it leaves a token that makes the next park return at once.
        thread::park();
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
