//! The file in which `tinker auth login` stores API keys.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{ErrorKind as IoErrorKind, Write};
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use tempfile::NamedTempFile;
use tinkers_core::{BaseUrl, Error, ErrorKind, Result, Sent};
use zeroize::Zeroizing;

use crate::credential::Credential;

/// The file with stored API keys. The official SDK and its command-line program use the same file in the same format,
/// `~/.tinker/credentials.json`.
///
/// The file is replaced as a whole, so that readers never see a part of it. Only its owner may read it (mode 0600), and its directory has
/// mode 0700.
#[derive(Debug, Clone)]
pub struct CredentialStore {
    path: PathBuf,
}

impl CredentialStore {
    /// Returns the store in the file `path`. The file need not exist.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Returns the store of the user whose home directory is `home`: `.tinker/credentials.json`.
    pub fn in_home(home: &Path) -> Self {
        Self::new(home.join(".tinker").join("credentials.json"))
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the stored credentials. A missing file counts as empty.
    ///
    /// # Errors
    /// `Io` if the file cannot be read, and `Configuration` if it does not contain credentials in the expected format.
    pub fn load(&self) -> Result<StoredCredentials> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => Zeroizing::new(bytes),
            Err(error) if error.kind() == IoErrorKind::NotFound => {
                return Ok(StoredCredentials::default());
            }
            Err(error) => return Err(self.io_error("read", error)),
        };
        serde_json::from_slice(&bytes).map_err(|error| {
            // Without the text of the error, which may contain a part of a key.
            let message = format!(
                "cannot decode the stored credentials in {}, line {}, column {}; correct the file, or delete it and log in again",
                self.path.display(),
                error.line(),
                error.column()
            );
            Error::new(ErrorKind::Configuration, Sent::NotSent, message)
        })
    }

    /// Replaces the stored credentials.
    ///
    /// # Errors
    /// `Io` if the file or its directory cannot be written. The old file is then unchanged.
    pub fn save(&self, credentials: &StoredCredentials) -> Result<()> {
        let mut text = Zeroizing::new(Vec::with_capacity(16 << 10));
        serde_json::to_writer_pretty(&mut *text, credentials)
            .map_err(|error| self.io_error("encode", error))?;
        text.push(b'\n');
        self.replace(&text)
            .map_err(|error| self.io_error("write", error))
    }

    fn replace(&self, text: &[u8]) -> std::io::Result<()> {
        let directory = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(directory)?;
        set_mode(directory, 0o700)?;
        let mut file = NamedTempFile::new_in(directory)?;
        set_mode(file.path(), 0o600)?;
        file.write_all(text)?;
        file.as_file().sync_all()?;
        file.persist(&self.path)?;
        Ok(())
    }

    fn io_error(
        &self,
        action: &str,
        error: impl std::error::Error + Send + Sync + 'static,
    ) -> Error {
        let message = format!(
            "cannot {action} the stored credentials in {}",
            self.path.display()
        );
        Error::new(ErrorKind::Io, Sent::NotSent, message).with_source(error)
    }
}

#[cfg(unix)]
fn set_mode(path: &Path, mode: u32) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

#[cfg(not(unix))]
fn set_mode(_: &Path, _: u32) -> std::io::Result<()> {
    Ok(())
}

/// The stored API keys. Fields that this version does not know are kept when the file is written again.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StoredCredentials {
    /// The version of the format, always 1.
    #[serde(default = "version")]
    pub version: u64,
    /// The id of the key that is used if no other is given. The key may be missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// The keys by their ids, which the server has assigned.
    #[serde(default)]
    pub keys: BTreeMap<String, StoredKey>,
    #[serde(flatten)]
    other: Map<String, Value>,
}

fn version() -> u64 {
    1
}

impl Default for StoredCredentials {
    fn default() -> Self {
        Self {
            version: version(),
            default: None,
            keys: BTreeMap::new(),
            other: Map::new(),
        }
    }
}

impl StoredCredentials {
    /// Returns the default key, with its id.
    pub fn default_key(&self) -> Option<(&str, &StoredKey)> {
        let id = self.default.as_deref()?;
        Some((id, self.keys.get(id)?))
    }

    /// Returns the default key if it may be sent to the server at `address`. A key belongs to the server that is stored with it, or to the
    /// hosted service if none is stored. So no other server receives the key.
    pub fn default_key_for(&self, address: &BaseUrl) -> Option<&StoredKey> {
        let (_, key) = self.default_key()?;
        key.belongs_to(address).then_some(key)
    }

    /// Adds a key under `id`, and makes it the default.
    pub fn add_default(&mut self, id: impl Into<String>, key: StoredKey) {
        let id = id.into();
        self.default = Some(id.clone());
        self.keys.insert(id, key);
    }

    /// Removes the default key and returns it with its id.
    pub fn remove_default(&mut self) -> Option<(String, StoredKey)> {
        let id = self.default.take()?;
        let key = self.keys.remove(&id)?;
        Some((id, key))
    }
}

/// A stored API key and its description.
#[derive(Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StoredKey {
    /// How the key was created.
    #[serde(rename = "type")]
    pub kind: StoredKeyKind,
    #[serde(serialize_with = "expose", deserialize_with = "secret")]
    key: SecretString,
    /// The name of the key.
    #[serde(default)]
    pub name: String,
    /// A note of the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The description of the key by the server: its organization and its user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Value>,
    /// The base URL of the server that the key belongs to. `None` for the hosted service. The official program ignores this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_url: Option<String>,
    #[serde(flatten)]
    other: Map<String, Value>,
}

/// How a stored API key was created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum StoredKeyKind {
    /// The user created the key in the console, and pasted it.
    Manual,
    /// A program created the key. A logout revokes it on the server.
    Generated,
    /// A kind that this version does not know.
    #[serde(untagged)]
    Other(String),
}

impl StoredKey {
    /// Creates the entry of a key that the user has created in the console.
    pub fn manual(key: &Credential, name: impl Into<String>) -> Self {
        Self {
            kind: StoredKeyKind::Manual,
            key: key.secret.clone(),
            name: name.into(),
            note: None,
            details: None,
            base_url: None,
            other: Map::new(),
        }
    }

    /// Returns the key as a credential.
    pub fn credential(&self) -> Credential {
        Credential::api_key(self.key.expose_secret())
    }

    /// Returns whether the key may be sent to the server at `address`.
    pub fn belongs_to(&self, address: &BaseUrl) -> bool {
        match &self.base_url {
            Some(own) => BaseUrl::parse(own).is_ok_and(|own| own == *address),
            None => address.is_hosted_service(),
        }
    }
}

impl fmt::Debug for StoredKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredKey")
            .field("kind", &self.kind)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

fn expose<S: Serializer>(key: &SecretString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(key.expose_secret())
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SecretString, D::Error> {
    String::deserialize(deserializer).map(SecretString::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file as the official program writes it, with fields of a later version.
    const OFFICIAL: &str = r#"{
  "version": 1,
  "default": "1234",
  "theme": "dark",
  "keys": {
    "1234": {
      "type": "generated",
      "key": "tml-hush",
      "name": "tinker-cli-host",
      "details": {"org_details": {"name": "Example Org"}, "user_details": {"email": "user@example.com"}},
      "scopes": ["train"]
    }
  }
}"#;

    fn store(text: &str) -> (tempfile::TempDir, CredentialStore) {
        let home = tempfile::tempdir().expect("a directory");
        let store = CredentialStore::in_home(home.path());
        fs::create_dir_all(store.path().parent().expect("a parent")).expect("created");
        fs::write(store.path(), text).expect("written");
        (home, store)
    }

    #[test]
    fn stored_file_keeps_unknown_fields_when_it_is_rewritten() {
        let (_home, store) = store(OFFICIAL);
        let credentials = store.load().expect("valid");
        let (id, key) = credentials.default_key().expect("a default");
        assert_eq!((id, key.name.as_str()), ("1234", "tinker-cli-host"));
        assert_eq!(key.kind, StoredKeyKind::Generated);
        assert_eq!(key.credential().expose(), "tml-hush");
        assert!(!format!("{credentials:?}").contains("hush"));
        store.save(&credentials).expect("written");
        let written: Value =
            serde_json::from_slice(&fs::read(store.path()).expect("a file")).expect("JSON");
        let expected: Value = serde_json::from_str(OFFICIAL).expect("JSON");
        assert_eq!(written, expected);
    }

    #[cfg(unix)]
    #[test]
    fn stored_file_and_directory_are_readable_by_their_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let home = tempfile::tempdir().expect("a directory");
        let store = CredentialStore::in_home(home.path());
        let mut credentials = store.load().expect("a missing file is empty");
        credentials.add_default(
            "7",
            StoredKey::manual(&Credential::api_key("tml-hush"), "n"),
        );
        store.save(&credentials).expect("written");
        let mode = |path: &Path| fs::metadata(path).expect("exists").permissions().mode() & 0o777;
        assert_eq!(mode(store.path()), 0o600);
        assert_eq!(mode(store.path().parent().expect("a parent")), 0o700);
        assert_eq!(
            fs::read_dir(store.path().parent().expect("a parent"))
                .expect("read")
                .count(),
            1
        );
        assert_eq!(
            store
                .load()
                .expect("valid")
                .default_key()
                .expect("a default")
                .0,
            "7"
        );
    }

    #[test]
    fn default_that_names_no_key_is_no_default() {
        let (_home, store) = store(r#"{"version": 1, "default": "9", "keys": {}}"#);
        let mut credentials = store.load().expect("valid");
        assert!(credentials.default_key().is_none());
        assert!(credentials.remove_default().is_none());
        assert_eq!(credentials.default, None);
    }

    #[test]
    fn stored_key_is_sent_to_its_own_server_only() {
        let hosted = BaseUrl::parse("https://tinker.thinkingmachines.dev/services/tinker-prod");
        let hosted = hosted.expect("valid");
        let own = BaseUrl::parse("http://127.0.0.1:8000").expect("valid");
        let mut credentials = StoredCredentials::default();
        credentials.add_default("1", StoredKey::manual(&Credential::api_key("tml-x"), "n"));
        assert!(credentials.default_key_for(&hosted).is_some());
        assert!(credentials.default_key_for(&own).is_none());
        let mut key = StoredKey::manual(&Credential::api_key("tml-y"), "n");
        key.base_url = Some("http://127.0.0.1:8000/".to_owned());
        credentials.add_default("2", key);
        assert!(credentials.default_key_for(&hosted).is_none());
        assert!(credentials.default_key_for(&own).is_some());
    }

    #[test]
    fn error_of_an_invalid_stored_file_contains_no_key() {
        for text in [
            r#"{"keys": {"1": {"type": "manual", "key": "tml-hush", "name": "#,
            r#"{"keys": "tml-hush"}"#,
            r#"{"keys": {"1": {"type": "manual", "key": ["tml-hush"]}}}"#,
        ] {
            let (_home, store) = store(text);
            let error = store.load().expect_err("invalid");
            assert_eq!(error.kind(), ErrorKind::Configuration);
            let shown = format!("{error} {error:?}");
            assert!(shown.contains("credentials.json"), "{shown}");
            assert!(!shown.contains("hush"), "{shown}");
        }
    }
}
