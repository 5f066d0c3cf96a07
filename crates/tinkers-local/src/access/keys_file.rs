//! Reads API keys from the TOML text of `tinkers serve --keys`, strictly. No error contains a key.

use tinkers_wire::check_api_key;
use toml::{Table, Value};

use super::AccessControl;
use super::grant::{AccessKey, Permission};

/// The fields of a key in the file.
const FIELDS: [&str; 5] = ["key", "key_env", "owner", "organization", "permissions"];

/// An error in a file of API keys. Its text contains no values of the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidKeys {
    /// The text is not valid TOML.
    #[error("line {line}: the file of API keys is not TOML: {reason}")]
    Syntax {
        /// The line of the error, counted from 1.
        line: usize,
        /// The reason, without the text of the line, which may contain a key.
        reason: String,
    },
    /// A field outside of the keys is missing, invalid or unknown.
    #[error("field {field}: expected {expected}")]
    Document {
        /// The name of the field.
        field: String,
        /// The expected value.
        expected: String,
    },
    /// A field of a key is missing, invalid or unknown.
    #[error("key {number}, field {field}: expected {expected}")]
    Key {
        /// The number of the key in the file, counted from 1.
        number: usize,
        /// The name of the field.
        field: String,
        /// The expected value.
        expected: String,
    },
}

impl AccessControl {
    /// Parses API keys in TOML, the format of `tinkers serve --keys`: any number of `[[key]]`s with these fields. `variable` returns the
    /// value of an environment variable.
    ///
    /// | field | meaning |
    /// |---|---|
    /// | `key` | the API key: visible ASCII characters |
    /// | `key_env` | the environment variable that contains the API key; either this or `key` |
    /// | `owner` | the owner of all that requests with the key create: letters, digits, and `.`, `_`, `@`, `-`. Keys of the same owner share everything |
    /// | `organization` | the organization in the description of the key and in its tokens; default `local` |
    /// | `permissions` | a list of `train`, `sample`, `read` and `manage` (delete, expire, publish, copy and move); default all |
    ///
    /// ```
    /// # use tinkers_local::AccessControl;
    /// let access = AccessControl::from_keys(
    ///     r#"
    ///     [[key]]
    ///     key_env = "ALICE_KEY"
    ///     owner = "alice"
    ///
    ///     [[key]]
    ///     key = "tml-bob"
    ///     owner = "bob"
    ///     permissions = ["sample", "read"]
    ///     "#,
    ///     |name| (name == "ALICE_KEY").then(|| "tml-alice".to_owned()),
    /// )?;
    /// assert!(access.needs_key());
    /// # Ok::<(), tinkers_local::InvalidKeys>(())
    /// ```
    ///
    /// # Errors
    /// If the text is not TOML, or a field is missing, invalid or unknown. The error names the number of the key and the field, and
    /// contains no key.
    pub fn from_keys(
        text: &str,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, InvalidKeys> {
        let mut document: Table = text.parse().map_err(|error| syntax(text, &error))?;
        let keys = document.remove("key");
        if let Some(field) = document.keys().next() {
            return Err(InvalidKeys::Document {
                field: harmless(field).to_owned(),
                expected: "no such field: a file of API keys has [[key]] only".to_owned(),
            });
        }
        let keys = match keys {
            Some(Value::Array(keys)) if !keys.is_empty() => keys,
            _ => {
                return Err(InvalidKeys::Document {
                    field: "key".to_owned(),
                    expected: "at least one [[key]]".to_owned(),
                });
            }
        };
        let mut parsed: Vec<AccessKey> = Vec::new();
        for (i, value) in keys.into_iter().enumerate() {
            let mut fields = Fields::of(i + 1, value)?;
            let (field, key) = parse(&mut fields, &variable)?;
            let mut before = parsed.iter();
            if let Some(other) = before.position(|other| other.secret == key.secret) {
                let expected = format!("a key of its own, not that of key {}", other + 1);
                return Err(fields.expected(field, expected));
            }
            parsed.push(key);
        }
        let none = Self::default();
        Ok(parsed.into_iter().fold(none, Self::with_access_key))
    }
}

/// Parses a key. Returns the name of the field from which it comes, too.
fn parse(
    fields: &mut Fields,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<(&'static str, AccessKey), InvalidKeys> {
    let (field, secret) = match (fields.text("key")?, fields.text("key_env")?) {
        (Some(key), None) => ("key", key),
        (None, Some(name)) => match variable(&name).filter(|key| !key.is_empty()) {
            Some(key) => ("key_env", key),
            None => {
                let expected = format!(
                    "the name of an environment variable that is set, got {:?}",
                    harmless(&name)
                );
                return Err(fields.expected("key_env", expected));
            }
        },
        (Some(_), Some(_)) => {
            return Err(fields.expected("key_env", "either this or key, not both"));
        }
        (None, None) => {
            return Err(
                fields.expected("key", "an API key, or its environment variable in key_env")
            );
        }
    };
    check_api_key(&secret).map_err(|error| fields.expected(field, error.expected()))?;
    let is_name = |name: &String| {
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || "._@-".contains(c);
        !name.is_empty() && name.chars().all(is_allowed)
    };
    let Some(owner) = fields.text("owner")?.filter(is_name) else {
        return Err(fields.expected("owner", "a name of letters, digits, and . _ @ -"));
    };
    let mut key = AccessKey::new(secret, &owner);
    if let Some(organization) = fields.text("organization")? {
        key = key.with_organization(organization);
    }
    if let Some(permissions) = fields.permissions()? {
        key = key.with_permissions(permissions);
    }
    fields.finish()?;
    Ok((field, key))
}

/// The fields of a key that have not been read yet.
struct Fields {
    number: usize,
    table: Table,
}

impl Fields {
    fn of(number: usize, value: Value) -> Result<Self, InvalidKeys> {
        match value {
            Value::Table(table) => Ok(Self { number, table }),
            _ => Err(InvalidKeys::Document {
                field: "key".to_owned(),
                expected: "tables, each opened by [[key]]".to_owned(),
            }),
        }
    }

    fn text(&mut self, field: &'static str) -> Result<Option<String>, InvalidKeys> {
        match self.table.remove(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.expected(field, "a text in quotes")),
        }
    }

    fn permissions(&mut self) -> Result<Option<Vec<Permission>>, InvalidKeys> {
        let Some(value) = self.table.remove("permissions") else {
            return Ok(None);
        };
        let names = value.as_array().map(Vec::as_slice);
        let permissions = names.into_iter().flatten().map(|name| {
            let mut all = Permission::ALL.into_iter();
            all.find(|one| Some(one.name()) == name.as_str())
        });
        let permissions: Option<Vec<Permission>> = permissions.collect();
        match permissions.filter(|_| names.is_some()) {
            Some(permissions) => Ok(Some(permissions)),
            None => {
                let known = Permission::ALL.map(|one| format!("{:?}", one.name()));
                let expected = format!("a list of {}", known.join(", "));
                Err(self.expected("permissions", expected))
            }
        }
    }

    /// Checks that all fields were read.
    fn finish(&self) -> Result<(), InvalidKeys> {
        let Some(name) = self.table.keys().next() else {
            return Ok(());
        };
        let expected = format!("no such field: a key has {}", FIELDS.join(", "));
        Err(self.expected(harmless(name), expected))
    }

    fn expected(&self, field: &str, expected: impl Into<String>) -> InvalidKeys {
        InvalidKeys::Key {
            number: self.number,
            field: field.to_owned(),
            expected: expected.into(),
        }
    }
}

/// Returns a name of the file for an error text, or a placeholder if the name looks like an API key or a token in the wrong place.
fn harmless(name: &str) -> &str {
    let is_secret = name.starts_with("tml-") || name.starts_with("eyJ") || name.len() > 40;
    if is_secret { "(a hidden name)" } else { name }
}

fn syntax(text: &str, error: &toml::de::Error) -> InvalidKeys {
    let at = error.span().map_or(0, |span| span.start);
    let before = text.get(..at).unwrap_or_default();
    InvalidKeys::Syntax {
        line: before.matches('\n').count() + 1,
        reason: error.message().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        let variable = |name: &str| (name == "KEY").then(|| "tml-hush-env".to_owned());
        let error = AccessControl::from_keys(text, variable).unwrap_err();
        let text = error.to_string();
        assert!(!format!("{error:?} {text}").contains("hush"), "{text}");
        text
    }

    #[test]
    fn invalid_file_of_keys_is_refused_with_key_and_field() {
        let with = |fields: &str| {
            error(&format!(
                "[[key]]\nkey = \"tml-hush-a\"\nowner = \"a\"\n[[key]]\n{fields}"
            ))
        };
        for (fields, parts) in [
            ("owner = \"b\"", &["key 2, field key:", "key_env"][..]),
            ("key = \"tml-hush-b\"", &["key 2, field owner:"]),
            (
                "key = \"tml-hush-b\"\nowner = \"\"",
                &["key 2, field owner:"],
            ),
            (
                "key = \"tml-hush-b\"\nowner = \"b c\"",
                &["key 2, field owner:"],
            ),
            (
                "key = \"hush hush\"\nowner = \"b\"",
                &["key 2, field key:", "visible"],
            ),
            ("key = 7\nowner = \"b\"", &["key 2, field key:", "quotes"]),
            (
                "key = \"tml-hush-a\"\nowner = \"b\"",
                &["key 2, field key:", "key 1"],
            ),
            (
                "key_env = \"OTHER\"\nowner = \"b\"",
                &["key 2, field key_env:", "OTHER"],
            ),
            (
                "key_env = \"KEY\"\nkey = \"tml-hush-b\"",
                &["key 2, field key_env:", "both"],
            ),
            (
                "key = \"tml-hush-b\"\nowner = \"b\"\npermisions = [\"read\"]",
                &["key 2, field permisions:", "permissions"],
            ),
            (
                "key = \"tml-hush-b\"\nowner = \"b\"\npermissions = \"read\"",
                &["key 2, field permissions:", "\"manage\""],
            ),
            (
                "key = \"tml-hush-b\"\nowner = \"b\"\npermissions = [\"write\"]",
                &["key 2, field permissions:", "\"train\""],
            ),
        ] {
            let text = with(fields);
            for part in parts {
                assert!(text.contains(part), "{part}: {text}");
            }
        }
        assert!(error("").contains("at least one [[key]]"));
        assert!(error("key = [1]").contains("[[key]]"));
        assert!(error("keys = 1\n[[key]]").contains("field keys:"));
        assert!(error("tml-hush-a = 1\n[[key]]").contains("hidden"));
        assert!(with("key_env = \"tml-hush-c\"\nowner = \"b\"").contains("hidden"));
        assert!(with("key = \"tml-b\"\nowner = \"b\"\ntml-hush-d = 1").contains("hidden"));
        assert!(error("[[key]]\nkey = \"tml-hush").contains("line 2"));
    }

    #[test]
    fn key_from_the_environment_is_accepted() {
        let text =
            "[[key]]\nkey_env = \"KEY\"\nowner = \"a\"\norganization = \"o\"\npermissions = []";
        let access = AccessControl::from_keys(text, |_| Some("tml-hush-env".to_owned())).unwrap();
        assert!(access.revoke_key("tml-hush-env"));
        assert!(access.needs_key());
    }
}
