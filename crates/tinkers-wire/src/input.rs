//! The error for invalid arguments, which are rejected before anything is sent.

use std::fmt;

/// The error for an invalid argument. It contains the path of the invalid field, and a description of the values that are valid there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {field}: expected {expected}")]
pub struct InvalidInput {
    field: String,
    expected: String,
}

impl InvalidInput {
    /// Creates an error for a field. `expected` completes the error message `invalid <field>: expected …`. It describes the valid values
    /// and should include the value that was found, as in `at least 1, got 0`.
    pub fn new(field: impl Into<String>, expected: impl fmt::Display) -> Self {
        Self {
            field: field.into(),
            expected: expected.to_string(),
        }
    }

    /// Returns the full path of the field, such as `data[3].loss_fn_inputs.weights`.
    pub fn field(&self) -> &str {
        &self.field
    }

    /// Returns the part of the error message that describes the valid values, such as `at least 1, got 0`.
    pub fn expected(&self) -> &str {
        &self.expected
    }

    /// Prepends `prefix` to the path of the field, such as the path of the object that contains the field. The prefix ends with a separator, as
    /// in `data[3].`.
    #[must_use]
    pub fn within(mut self, prefix: impl fmt::Display) -> Self {
        self.field = format!("{prefix}{}", self.field);
        self
    }
}

/// Checks that an API key can be sent in a header: it is not empty and consists of visible ASCII characters.
///
/// # Errors
/// The error names the field `api_key`. The message does not contain the API key.
pub fn check_api_key(key: &str) -> Result<(), InvalidInput> {
    if !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(());
    }
    let expected = "visible ASCII characters, without spaces or line breaks";
    Err(InvalidInput::new("api_key", expected))
}

/// Returns an error for `field` unless `value` is finite.
pub(crate) fn check_finite(field: &str, value: f64) -> Result<(), InvalidInput> {
    if value.is_finite() {
        Ok(())
    } else {
        Err(InvalidInput::new(
            field,
            format_args!("a finite number, got {value}"),
        ))
    }
}

/// Returns an error for `field` unless `value` is finite and `is_in_range` is true. The error message contains `range`, a description of
/// the valid range.
pub(crate) fn check_range(
    field: &str,
    value: f64,
    is_in_range: bool,
    range: &str,
) -> Result<(), InvalidInput> {
    check_finite(field, value)?;
    if is_in_range {
        Ok(())
    } else {
        Err(InvalidInput::new(
            field,
            format_args!("{range}, got {value}"),
        ))
    }
}
