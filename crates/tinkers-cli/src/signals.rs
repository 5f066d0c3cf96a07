//! Signals that end a command in order: Ctrl-C, and on Unix SIGTERM and SIGHUP.

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
    /// `None` where SIGHUP was ignored when the process started, as under `nohup`.
    #[cfg(unix)]
    hangup: Option<tokio::signal::unix::Signal>,
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
            hangup: match handles_hangup() {
                true => Some(signal(SignalKind::hangup())?),
                false => None,
            },
        })
    }

    /// Waits for the next request to end. Cancel-safe: one that comes meanwhile is not lost.
    pub(crate) async fn next(&mut self) {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = hangup => {}
        }
    }
}

/// Returns whether SIGHUP should end the command. A handler would undo `nohup`, so where the signal is ignored, or that cannot be
/// read (systems without `/proc`), none is set.
#[cfg(unix)]
fn handles_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    ignored_signals(&status).is_some_and(|mask| mask & HANGUP_BIT == 0)
}

/// SIGHUP is signal 1, the lowest bit.
#[cfg(unix)]
const HANGUP_BIT: u64 = 1;

/// Reads the mask of ignored signals from the text of `/proc/<pid>/status`.
#[cfg(unix)]
fn ignored_signals(status: &str) -> Option<u64> {
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
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
