//! The interface to the storage of the server's records.

mod database;

use std::fmt;

use bytes::Bytes;

pub use database::Database;

/// A storage for the records of a server, such as sessions and training runs. Checkpoints are stored by the engine.
///
/// All methods block. The server calls them on a thread of their own.
pub trait RecordStore: Send + fmt::Debug + 'static {
    /// Returns all records. The server calls this method once, when it starts.
    ///
    /// # Errors
    ///
    /// If the storage cannot be read.
    fn load(&mut self) -> Result<Vec<StoredRecord>, StoreError>;

    /// Applies changes. When this method returns, either all changes survive a crash of the process and of the machine, or none has
    /// been made.
    ///
    /// # Errors
    ///
    /// If the changes cannot be written. The server repeats them in its next call.
    fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError>;
}

/// A record in a [`RecordStore`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "stores make and read it")]
pub struct StoredRecord {
    /// The name of the table, such as `sessions`.
    pub table: String,
    /// The key of the record in its table.
    pub key: String,
    /// The record as JSON.
    pub value: Bytes,
}

/// A change of one record in a [`RecordStore`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "stores read it")]
pub struct Change {
    /// The name of the table, such as `sessions`.
    pub table: &'static str,
    /// The key of the record in its table.
    pub key: String,
    /// The new record as JSON, or `None` to delete the record.
    pub value: Option<Bytes>,
}

/// The failure of a [`RecordStore`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The storage cannot be read or written, for example because the disk is full.
    #[error("cannot use the database of the server")]
    Io(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Another server uses the storage.
    #[error("another server uses the database; stop it, or choose another data directory")]
    InUse,
    /// The storage contains something that this version cannot read.
    #[error("the database of the server cannot be read: {0}")]
    Invalid(String),
}
