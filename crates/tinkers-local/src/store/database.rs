//! The database of a server: a file in its data directory.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use redb::{DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};

use super::{Change, RecordStore, StoreError, StoredRecord};

/// All records. A key consists of the name of the table of the record and its key in this table.
const RECORDS: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("records");

/// The key of the number of the format, a record of no table.
const FORMAT: (&str, &str) = ("", "format");

/// The format that this version reads and writes.
const CURRENT_FORMAT: &[u8] = b"1";

/// The name of the file in the data directory.
const FILE: &str = "records.redb";

/// The memory in bytes for parts of the file. All records are in the memory of the server anyway.
const CACHE: usize = 4 << 20;

/// A [`RecordStore`] in one file of a directory.
///
/// The file is created if it does not exist. It is locked while it is open, so that only one server uses it.
#[derive(Debug)]
pub struct Database {
    path: PathBuf,
    database: redb::Database,
}

impl Database {
    /// Opens the file `records.redb` in a directory, or creates it.
    ///
    /// # Errors
    ///
    /// If another process has opened the file, if it cannot be read or written, or if a newer version has written it.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let path = directory.join(FILE);
        let opened = redb::Builder::new().set_cache_size(CACHE).create(&path);
        let database = opened.map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => StoreError::InUse,
            other => failed(other),
        })?;
        let database = Self { path, database };
        database.check_format()?;
        Ok(database)
    }

    /// Checks the number of the format, and writes it into a new file.
    fn check_format(&self) -> Result<(), StoreError> {
        let transaction = self.database.begin_write().map_err(failed)?;
        {
            let mut table = transaction.open_table(RECORDS).map_err(failed)?;
            let found = table.get(FORMAT).map_err(failed)?;
            let found = found.map(|format| format.value().to_vec());
            match found.as_deref() {
                Some(CURRENT_FORMAT) => return Ok(()),
                Some(other) => {
                    let other = String::from_utf8_lossy(other);
                    let reason = format!(
                        "{} has the format {other:?}, which a newer version has written",
                        self.path.display()
                    );
                    return Err(StoreError::Invalid(reason));
                }
                None => table.insert(FORMAT, CURRENT_FORMAT).map_err(failed)?,
            };
        }
        transaction.commit().map_err(failed)
    }
}

impl RecordStore for Database {
    fn load(&mut self) -> Result<Vec<StoredRecord>, StoreError> {
        let transaction = self.database.begin_read().map_err(failed)?;
        let table = transaction.open_table(RECORDS).map_err(failed)?;
        let mut records = Vec::new();
        for entry in table.iter().map_err(failed)? {
            let (key, value) = entry.map_err(failed)?;
            if key.value() == FORMAT {
                continue;
            }
            let (table, key) = key.value();
            records.push(StoredRecord {
                table: table.to_owned(),
                key: key.to_owned(),
                value: Bytes::copy_from_slice(value.value()),
            });
        }
        Ok(records)
    }

    fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        // The default durability: the commit returns when the file is on the disk.
        let transaction = self.database.begin_write().map_err(failed)?;
        {
            let mut table = transaction.open_table(RECORDS).map_err(failed)?;
            for Change {
                table: of,
                key,
                value,
            } in changes
            {
                let key = (*of, key.as_str());
                match value {
                    Some(value) => table.insert(key, &**value).map_err(failed)?,
                    None => table.remove(key).map_err(failed)?,
                };
            }
        }
        transaction.commit().map_err(failed)
    }
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::Io(Box::new(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(key: &str, value: Option<&'static str>) -> Change {
        Change {
            table: "sessions",
            key: key.to_owned(),
            value: value.map(|value| Bytes::from_static(value.as_bytes())),
        }
    }

    fn directory(name: &str) -> PathBuf {
        let name = format!("tinkers-database-{}-{name}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        directory
    }

    #[test]
    fn changes_are_in_the_file_after_a_commit() {
        let path = directory("commit");
        let mut database = Database::open(&path).unwrap();
        assert_eq!(database.load().unwrap(), []);
        let changes = [change("a", Some("1")), change("b", Some("2"))];
        database.commit(&changes).unwrap();
        let changes = [change("a", Some("3")), change("b", None), change("c", None)];
        database.commit(&changes).unwrap();
        drop(database);
        let stored = Database::open(&path).unwrap().load().unwrap();
        let expected = StoredRecord {
            table: "sessions".to_owned(),
            key: "a".to_owned(),
            value: Bytes::from_static(b"3"),
        };
        assert_eq!(stored, [expected]);
        std::fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn file_that_another_server_uses_is_refused() {
        let path = directory("lock");
        let database = Database::open(&path).unwrap();
        let second = Database::open(&path).unwrap_err();
        assert!(matches!(second, StoreError::InUse), "{second:?}");
        drop(database);
        assert!(Database::open(&path).is_ok());
        std::fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn file_of_a_newer_version_or_of_another_kind_is_refused() {
        let path = directory("format");
        let database = Database::open(&path).unwrap();
        let transaction = database.database.begin_write().unwrap();
        transaction
            .open_table(RECORDS)
            .unwrap()
            .insert(FORMAT, &b"2"[..])
            .unwrap();
        transaction.commit().unwrap();
        drop(database);
        let newer = Database::open(&path).unwrap_err().to_string();
        assert!(newer.contains("a newer version has written"), "{newer}");
        std::fs::write(path.join(FILE), "no database").unwrap();
        let other = Database::open(&path).unwrap_err();
        assert!(matches!(other, StoreError::Io(_)), "{other:?}");
        std::fs::remove_dir_all(&path).unwrap();
    }
}
