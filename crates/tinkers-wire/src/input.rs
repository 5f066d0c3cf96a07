//! An argument that is wrong, found before anything is sent.

use std::fmt;

/// The name of a field and what was expected of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {field}: expected {expected}")]
pub struct InvalidInput {
    field: String,
    expected: String,
}

impl InvalidInput {
    /// `expected` continues "expected ..." and says what was given.
    pub fn new(field: impl Into<String>, expected: impl fmt::Display) -> Self {
        Self {
            field: field.into(),
            expected: expected.to_string(),
        }
    }

    /// The name of the field, with the way to it, such as `data[3].loss_fn_inputs.weights`.
    pub fn field(&self) -> &str {
        &self.field
    }

    /// What was expected.
    pub fn expected(&self) -> &str {
        &self.expected
    }

    /// The same error below `prefix`, which must end in what separates it from a name.
    #[must_use]
    pub fn within(mut self, prefix: impl fmt::Display) -> Self {
        self.field = format!("{prefix}{}", self.field);
        self
    }
}

/// Checks that a key can be sent in a header. The error does not contain the key.
///
/// # Errors
/// Names `api_key`.
pub fn check_api_key(key: &str) -> Result<(), InvalidInput> {
    if !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(());
    }
    let expected = "visible ASCII characters, without spaces or line breaks";
    Err(InvalidInput::new("api_key", expected))
}

/// Fails unless `value` is finite.
pub(crate) fn finite(field: &str, value: f64) -> Result<(), InvalidInput> {
    if value.is_finite() {
        Ok(())
    } else {
        Err(InvalidInput::new(
            field,
            format_args!("a finite number, got {value}"),
        ))
    }
}

/// Fails unless `value` lies in `range`, given as text for the message.
pub(crate) fn within(field: &str, value: f64, ok: bool, range: &str) -> Result<(), InvalidInput> {
    finite(field, value)?;
    if ok {
        Ok(())
    } else {
        Err(InvalidInput::new(
            field,
            format_args!("{range}, got {value}"),
        ))
    }
}
