//! Being asked to end: Ctrl-C, and SIGTERM where there is one.

use std::io;

/// The work was stopped from outside.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("interrupted")]
pub(crate) struct Interrupted;

/// From its making on, the signals no longer end the process by themselves.
pub(crate) struct Signals {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

/// Sent where a file would grow beyond the limit of the process (`ulimit -f`).
#[cfg(unix)]
const FILE_TOO_LARGE: std::ffi::c_int = 25;

#[cfg(unix)]
impl Signals {
    /// Starts to listen, inside a runtime.
    pub(crate) fn listen() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        // With a handler the write fails, as on a full disk; without one the process ends in the middle of it. Where the number
        // means something else nothing is lost.
        let _ = signal(SignalKind::from_raw(FILE_TOO_LARGE));
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for the next request to end. Cancel-safe: one that comes meanwhile is not lost.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            biased;
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(not(unix))]
impl Signals {
    /// Starts to listen, inside a runtime.
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self {})
    }

    /// Waits for the next request to end.
    pub(crate) async fn next(&mut self) {
        // Where Ctrl-C cannot be heard it ends the process, as if nobody listened.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Runs `work` until a signal comes.
///
/// # Errors
/// [`Interrupted`] when it came first.
pub(crate) async fn interruptible<T>(
    signals: &mut Signals,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    tokio::select! {
        biased;
        () = signals.next() => Err(Interrupted.into()),
        done = work => done,
    }
}
