//! The signals that shut a command down: Ctrl-C, and on Unix also SIGTERM and SIGHUP.

use std::io;

/// The error of a command that was interrupted by a signal.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("interrupted")]
pub(crate) struct Interrupted;

/// The signal handlers. As long as this value exists, the signals that it handles do not terminate the process.
pub(crate) struct Signals {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    /// The handler of SIGHUP. `None` if SIGHUP was ignored when the process started, as under `nohup`.
    #[cfg(unix)]
    hangup: Option<tokio::signal::unix::Signal>,
}

/// The number of SIGXFSZ. The operating system raises this signal when a file would exceed the file size limit of the process
/// (`ulimit -f`).
#[cfg(unix)]
const FILE_TOO_LARGE: std::ffi::c_int = 25;

#[cfg(unix)]
impl Signals {
    /// Installs the signal handlers. Must be called inside a tokio runtime.
    pub(crate) fn listen() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        // With a handler, the write fails with an error, as on a full disk. Without one, the signal kills the process. On a system
        // where the number means another signal, the handler does no harm.
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

    /// Waits for the next signal. Cancel-safe: a signal that arrives between two calls is not lost.
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

/// Returns whether to handle SIGHUP. A handler would override `nohup`, so no handler must be installed if SIGHUP is ignored. On
/// systems without `/proc`, this cannot be determined, so no handler is installed either.
#[cfg(unix)]
fn handles_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    ignored_signals(&status).is_some_and(|mask| mask & HANGUP_BIT == 0)
}

/// The bit of SIGHUP in a signal mask. SIGHUP is signal 1.
#[cfg(unix)]
const HANGUP_BIT: u64 = 1;

/// Parses the mask of ignored signals in `/proc/<pid>/status`.
#[cfg(unix)]
fn ignored_signals(status: &str) -> Option<u64> {
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

#[cfg(not(unix))]
impl Signals {
    /// Installs the signal handlers. Must be called inside a tokio runtime.
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self {})
    }

    /// Waits for the next Ctrl-C.
    pub(crate) async fn next(&mut self) {
        // If no handler can be installed, Ctrl-C terminates the process.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Runs the future `work` until it completes or a signal arrives.
///
/// # Errors
///
/// [`Interrupted`] if a signal arrives first, or else the error of `work`.
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
