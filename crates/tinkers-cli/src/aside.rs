//! Work that blocks, on a thread of its own, so that signals are heard meanwhile.

use anyhow::{Context, Result};
use tokio::sync::oneshot;

/// Runs `work` and waits for what it gives.
///
/// Not cancelled with this future: the thread then works on, and what it gives is dropped there, or goes with the process.
///
/// # Errors
/// When there is no thread for it, or it panics.
pub(crate) async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    let (sender, receiver) = oneshot::channel();
    std::thread::Builder::new()
        .name("tinkers-aside".to_owned())
        .spawn(move || drop(sender.send(work())))
        .context("no thread can be started")?;
    receiver.await.context("the work ended in a panic")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T>(work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(work)
    }

    #[test]
    fn the_work_is_done_on_another_thread() {
        let there = run(aside(|| std::thread::current().id())).unwrap();
        assert_ne!(there, std::thread::current().id());
    }

    #[test]
    fn a_panic_is_an_error() {
        let error = run(aside(|| assert_eq!(1, 2, "on purpose"))).unwrap_err();
        assert!(error.to_string().contains("panic"), "{error}");
    }
}
