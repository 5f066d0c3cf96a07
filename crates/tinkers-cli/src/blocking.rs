//! Blocking work on a separate thread, during which the runtime can handle signals.

use anyhow::{Context, Result};
use tokio::sync::oneshot;

/// Runs the closure `work` on a new thread and returns its result.
///
/// Dropping the future does not cancel `work`: the thread continues, and its result is dropped.
///
/// # Errors
///
/// If the thread cannot be started, or `work` panics.
pub(crate) async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    let (sender, receiver) = oneshot::channel();
    std::thread::Builder::new()
        .name("tinkers-blocking".to_owned())
        .spawn(move || drop(sender.send(work())))
        .context("cannot start a thread")?;
    receiver.await.context("a background thread panicked")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T>(work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(work)
    }

    #[test]
    fn blocking_work_runs_on_another_thread() {
        let id = run(run_blocking(|| std::thread::current().id())).unwrap();
        assert_ne!(id, std::thread::current().id());
    }

    #[test]
    fn panic_in_blocking_work_is_returned_as_an_error() {
        let error = run(run_blocking(|| assert_eq!(1, 2, "on purpose"))).unwrap_err();
        assert!(error.to_string().contains("panicked"), "{error}");
    }
}
