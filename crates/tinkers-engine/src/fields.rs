//! Typed access to the JSON files of a model directory, with errors that name the file and the field.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// The fields of a JSON file, or of an object in the file. A field whose value is `null` counts as missing.
#[derive(Debug)]
pub(crate) struct Fields {
    /// The prefix of error messages, such as `config.json: rope_scaling.`. It consists of the file name and, for a nested object,
    /// the path of the object.
    prefix: String,
    map: Map<String, Value>,
}

impl Fields {
    /// Parses `json`, the content of the file `name`.
    pub(crate) fn parse(name: &str, json: &[u8]) -> Result<Self> {
        let value = serde_json::from_slice(json)
            .map_err(|e| Error::Model(format!("{name} is not JSON: {e}")))?;
        let Value::Object(map) = value else {
            return Err(Error::Model(format!("{name} is not a JSON object")));
        };
        let prefix = format!("{name}: ");
        Ok(Self { prefix, map })
    }

    /// Reads a JSON file. Returns `None` if the file does not exist.
    pub(crate) fn open(dir: &Path, name: &str) -> Result<Option<Self>> {
        let path = dir.join(name);
        match std::fs::read(&path) {
            Ok(json) => Self::parse(name, &json).map(Some),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("cannot read", path)(e)),
        }
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// Returns whether the field is present and not `null`.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    pub(crate) fn string(&self, name: &str) -> Result<Option<String>> {
        self.read(name, "a string", |value| value.as_str().map(str::to_owned))
    }

    pub(crate) fn boolean(&self, name: &str) -> Result<Option<bool>> {
        self.read(name, "true or false", Value::as_bool)
    }

    pub(crate) fn number(&self, name: &str) -> Result<Option<f64>> {
        self.read(name, "a number", Value::as_f64)
    }

    /// Reads a non-negative integer. Also accepts integers such as `8.0`, because some tools write them.
    pub(crate) fn integer(&self, name: &str) -> Result<Option<usize>> {
        self.read(name, "a non-negative integer", |value| {
            let id = integer(value)?;
            usize::try_from(id).ok()
        })
    }

    /// Reads a non-negative integer that must be present.
    pub(crate) fn required(&self, name: &str) -> Result<usize> {
        self.integer(name)?
            .ok_or_else(|| self.error(name, "is missing, expected a non-negative integer"))
    }

    /// Reads a token id or a list of token ids. Returns an empty list if the field is missing.
    pub(crate) fn token_ids(&self, name: &str) -> Result<Vec<u32>> {
        let id = |value: &Value| u32::try_from(integer(value)?).ok();
        let ids = self.read(
            name,
            "a token id or a list of token ids",
            |value| match value {
                Value::Array(all) => all.iter().map(id).collect(),
                one => id(one).map(|one| vec![one]),
            },
        )?;
        Ok(ids.unwrap_or_default())
    }

    /// Reads a token. Its JSON form is either a string, or an object whose field `content` is the string.
    pub(crate) fn token(&self, name: &str) -> Result<Option<String>> {
        self.read(name, "a token string", |value| {
            let text = value.get("content").unwrap_or(value);
            text.as_str().map(str::to_owned)
        })
    }

    /// Reads a list of strings. Returns an empty list if the field is missing.
    pub(crate) fn strings(&self, name: &str) -> Result<Vec<String>> {
        let texts = self.read(name, "a list of strings", |value| {
            let all = value.as_array()?.iter();
            all.map(|text| text.as_str().map(str::to_owned)).collect()
        })?;
        Ok(texts.unwrap_or_default())
    }

    /// Reads a nested object.
    pub(crate) fn object(&self, name: &str) -> Result<Option<Self>> {
        let map = self.read(name, "an object", |value| value.as_object().cloned())?;
        let prefix = format!("{}{name}.", self.prefix);
        Ok(map.map(|map| Self { prefix, map }))
    }

    /// Returns the names of all fields.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.map.keys().map(String::as_str)
    }

    /// Returns the names of the fields that are objects.
    pub(crate) fn objects(&self) -> impl Iterator<Item = &str> {
        let objects = self.map.iter().filter(|(_, value)| value.is_object());
        objects.map(|(name, _)| name.as_str())
    }

    fn read<T>(
        &self,
        name: &str,
        expected: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        match read(value) {
            Some(read) => Ok(Some(read)),
            None => Err(self.error(name, &format!("is {value}, expected {expected}"))),
        }
    }

    /// Creates an error about the field `name`.
    pub(crate) fn error(&self, name: &str, what: &str) -> Error {
        Error::Model(format!("{}{name} {what}", self.prefix))
    }
}

fn integer(value: &Value) -> Option<u64> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "whole numbers from 0 to 2^53 convert exactly"
    )]
    let from_float = |number: f64| {
        let is_whole = number.fract() == 0.0 && (0.0..=9e15).contains(&number);
        is_whole.then_some(number as u64)
    };
    value
        .as_u64()
        .or_else(|| value.as_f64().and_then(from_float))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_field_counts_as_missing_and_errors_name_the_field() {
        let json =
            br#"{"a": null, "b": 8.0, "c": {"d": "x"}, "e": [1, 2], "f": {"content": "</s>"}}"#;
        let fields = Fields::parse("x.json", json).unwrap();
        assert_eq!(fields.number("a").unwrap(), None);
        assert_eq!(fields.integer("b").unwrap(), Some(8));
        assert_eq!(fields.token_ids("e").unwrap(), [1, 2]);
        assert_eq!(fields.token_ids("b").unwrap(), [8]);
        assert_eq!(fields.token("f").unwrap().as_deref(), Some("</s>"));
        let inner = fields.object("c").unwrap().unwrap();
        for (error, text) in [
            (
                inner.number("d").unwrap_err(),
                r#"x.json: c.d is "x", expected a number"#,
            ),
            (fields.required("a").unwrap_err(), "x.json: a is missing"),
            (fields.token_ids("f").unwrap_err(), "x.json: f is {"),
            (
                Fields::parse("x.json", b"[]").unwrap_err(),
                "x.json is not a JSON object",
            ),
            (
                Fields::parse("x.json", b"{").unwrap_err(),
                "x.json is not JSON",
            ),
        ] {
            assert!(error.to_string().contains(text), "{error}");
        }
    }
}
