//! The journal of a server as a file of JSON lines.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use tinkers::Timestamp;
use tinkers_local::Journal;

/// The file to which a server writes its journal, the record of its HTTP exchanges.
#[derive(Debug)]
pub(crate) struct JournalFile(File);

impl JournalFile {
    /// Creates the journal file, or truncates an existing file.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let file = File::create(path);
        let file = file.with_context(|| format!("cannot write the journal {}", path.display()))?;
        Ok(Self(file))
    }

    /// Creates a journal that writes each completed HTTP exchange to the file at once, as one line. The times in a line are
    /// relative to `start`. If a line cannot be written completely, its beginning is removed from the file, and no further lines
    /// are written.
    pub(crate) fn journal(self, start: Timestamp) -> Journal {
        let file = Mutex::new(Some((self.0, 0)));
        Journal::read_by(move |entry| {
            let mut line = entry.to_json_line(start);
            line.push('\n');
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            let Some((open, written)) = file.as_mut() else {
                return;
            };
            match open.write_all(line.as_bytes()) {
                Ok(()) => *written += line.len() as u64,
                Err(error) => {
                    tracing::error!(%error, number = entry.number, "cannot write the journal; later exchanges are not recorded");
                    // A pipe cannot be truncated, so it ends with a partial line.
                    let _ = open.set_len(*written);
                    *file = None;
                }
            }
        })
    }
}
