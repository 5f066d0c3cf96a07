//! The journal of a server as a file: one JSON object in each line.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use tinkers::Moment;
use tinkers_local::Journal;

/// A file that exchanges are written to.
#[derive(Debug)]
pub(crate) struct JournalFile(File);

impl JournalFile {
    /// Makes the file, or empties it.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let file = File::create(path);
        let file =
            file.with_context(|| format!("the journal {} cannot be written", path.display()))?;
        Ok(Self(file))
    }

    /// A journal that writes each exchange down when it has ended, with times since `start`. Each line is there at once for
    /// whoever follows the file. A line that cannot be written is taken out again, and is the last.
    pub(crate) fn journal(self, start: Moment) -> Journal {
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
                    tracing::error!(%error, number = entry.number, "the journal cannot be written on");
                    // A file that cannot be cut, such as a pipe, keeps the part of a line.
                    let _ = open.set_len(*written);
                    *file = None;
                }
            }
        })
    }
}
