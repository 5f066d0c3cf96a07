//! Captures the warnings and errors that the client logs by default.

use tinkers_e2e::LogBuffer;
use tracing::subscriber::DefaultGuard;

/// The warnings and errors that this thread has logged.
#[derive(Clone, Default)]
pub(crate) struct Log(LogBuffer);

impl Log {
    /// Captures the log of this thread until the returned guard is dropped.
    pub(crate) fn start() -> (Self, DefaultGuard) {
        let log = Self::default();
        let writer = log.0.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::WARN)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    /// Returns the captured lines that contain `text`.
    pub(crate) fn lines_with(&self, text: &str) -> Vec<String> {
        let log = self.0.text();
        let lines = log.lines().filter(|line| line.contains(text));
        lines.map(str::to_owned).collect()
    }
}
