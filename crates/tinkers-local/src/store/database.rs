//! The database of a server: a file in its data directory.

use std::io::ErrorKind;
use std::panic::catch_unwind;
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

/// The name of the file while it is being created.
const UNFINISHED_FILE: &str = "records.redb.new";

/// The memory in bytes for parts of the file. All records are in the memory of the server anyway.
const CACHE: usize = 4 << 20;

/// A [`RecordStore`] in one file of a directory.
///
/// The file is created if it does not exist. It is locked while it is open, so that only one server uses it.
#[derive(Debug)]
pub struct Database {
    path: PathBuf,
    /// `None` after a write has failed: a database refuses all writes after a failed one, until it is opened again.
    file: Option<redb::Database>,
}

impl Database {
    /// Opens the file `records.redb` in a directory, or creates it.
    ///
    /// # Errors
    ///
    /// If another process has opened the file, if it cannot be read or written, if it is damaged, or if a newer version has written it.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let path = directory.join(FILE);
        if !path.try_exists().map_err(failed)? {
            create(directory, &path)?;
        }
        let file = Some(open(&path)?);
        Ok(Self { path, file })
    }

    /// Returns the database, and opens it again if a write has failed before.
    fn file(&mut self) -> Result<&redb::Database, StoreError> {
        let file = match self.file.take() {
            Some(file) => file,
            None => open(&self.path)?,
        };
        Ok(self.file.insert(file))
    }

    fn write(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        // The default durability: the commit returns when the changes are on the disk.
        let transaction = self.file()?.begin_write().map_err(failed)?;
        {
            let mut table = transaction.open_table(RECORDS).map_err(failed)?;
            for change in changes {
                let key = (change.table, change.key.as_str());
                match &change.value {
                    Some(value) => table.insert(key, &**value).map_err(failed)?,
                    None => table.remove(key).map_err(failed)?,
                };
            }
        }
        transaction.commit().map_err(failed)
    }
}

/// Creates a database. It is complete when it gets its name, so that a process that is killed meanwhile leaves no damaged file.
fn create(directory: &Path, path: &Path) -> Result<(), StoreError> {
    let unfinished = directory.join(UNFINISHED_FILE);
    match std::fs::remove_file(&unfinished) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let database = builder().create(&unfinished).map_err(failed)?;
    let transaction = database.begin_write().map_err(failed)?;
    let mut table = transaction.open_table(RECORDS).map_err(failed)?;
    table.insert(FORMAT, CURRENT_FORMAT).map_err(failed)?;
    drop(table);
    transaction.commit().map_err(failed)?;
    drop(database);
    std::fs::rename(&unfinished, path).map_err(failed)?;
    // The name, too, has to survive a crash of the machine.
    #[cfg(unix)]
    std::fs::File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(failed)?;
    Ok(())
}

/// Opens a database and checks the number of its format.
fn open(path: &Path) -> Result<redb::Database, StoreError> {
    let damaged = || {
        StoreError::Invalid(format!(
            "{} is damaged; restore it from a copy, or remove it, which loses all records: sessions, usage, and changes of checkpoints since \
             they were saved, also of their expiry",
            path.display()
        ))
    };
    // The library panics for a file that was cut.
    let opened = catch_unwind(|| builder().open(path));
    let database = opened
        .map_err(|_| damaged())?
        .map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => StoreError::InUse,
            DatabaseError::Storage(redb::StorageError::Corrupted(_)) => damaged(),
            DatabaseError::Storage(redb::StorageError::Io(cause))
                if cause.kind() == ErrorKind::InvalidData =>
            {
                damaged()
            }
            other => failed(other),
        })?;
    let transaction = database.begin_read().map_err(failed)?;
    let table = transaction.open_table(RECORDS).map_err(failed)?;
    let found = table.get(FORMAT).map_err(failed)?;
    let found = found
        .map(|format| format.value().to_vec())
        .unwrap_or_default();
    drop((table, transaction));
    match found == CURRENT_FORMAT {
        true => Ok(database),
        false => Err(StoreError::Invalid(format!(
            "{} has the format {:?}, which a newer version has written",
            path.display(),
            String::from_utf8_lossy(&found)
        ))),
    }
}

fn builder() -> redb::Builder {
    let mut builder = redb::Builder::new();
    builder.set_cache_size(CACHE);
    builder
}

impl RecordStore for Database {
    fn load(&mut self) -> Result<Vec<StoredRecord>, StoreError> {
        let transaction = self.file()?.begin_read().map_err(failed)?;
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
        let written = self.write(changes);
        if written.is_err() {
            self.file = None;
        }
        written
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
        let transaction = database.file.as_ref().unwrap().begin_write().unwrap();
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
        let other = Database::open(&path).unwrap_err().to_string();
        assert!(other.contains("is damaged"), "{other}");
        std::fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn cut_file_is_refused_with_advice() {
        let path = directory("cut");
        let mut database = Database::open(&path).unwrap();
        database.commit(&[change("a", Some("1"))]).unwrap();
        drop(database);
        let file = std::fs::File::options()
            .write(true)
            .open(path.join(FILE))
            .unwrap();
        file.set_len(6000).unwrap();
        let error = Database::open(&path).unwrap_err().to_string();
        assert!(error.contains("restore it from a copy"), "{error}");
        std::fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn file_that_was_not_finished_is_created_anew() {
        let path = directory("unfinished");
        std::fs::write(path.join(UNFINISHED_FILE), "half").unwrap();
        let mut database = Database::open(&path).unwrap();
        assert_eq!(database.load().unwrap(), []);
        assert!(!path.join(UNFINISHED_FILE).exists());
        std::fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn database_is_opened_again_after_a_failed_write() {
        let path = directory("again");
        let mut database = Database::open(&path).unwrap();
        database.commit(&[change("a", Some("1"))]).unwrap();
        // Without its file, the database cannot be opened again.
        database.file = None;
        let (file, hidden) = (path.join(FILE), path.join("hidden"));
        std::fs::rename(&file, &hidden).unwrap();
        database.commit(&[change("b", Some("2"))]).unwrap_err();
        std::fs::rename(&hidden, &file).unwrap();
        database.commit(&[change("b", Some("2"))]).unwrap();
        assert_eq!(database.load().unwrap().len(), 2);
        std::fs::remove_dir_all(&path).unwrap();
    }
}
