//! The fields of a fault script or of one of its rules. The parser takes each field once; fields left over are errors.

use std::time::Duration;

use toml::{Table, Value};

use super::position::line_and_column;

/// An error in a fault script.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidScript {
    /// The text is not valid TOML.
    #[error("the script is not TOML: {0}")]
    Syntax(String),
    /// A field outside of the fault rules, at the top level of the script, is missing, invalid or unknown.
    #[error("line {line}, column {column}: field {field}: expected {expected}")]
    Document {
        /// The line of the field in the script, counted from 1.
        line: usize,
        /// The column of the field in the line, counted from 1.
        column: usize,
        /// The name of the invalid or missing field.
        field: String,
        /// The expected value, followed by the actual value.
        expected: String,
    },
    /// A field of a fault rule is missing, invalid or unknown.
    #[error("line {line}, column {column}: rule {rule}, field {field}: expected {expected}")]
    Rule {
        /// The line of the field, or of the rule if the field is missing. Counted from 1.
        line: usize,
        /// The column in the line of the field or rule, counted from 1.
        column: usize,
        /// The number of the rule in the script, counted from 1.
        rule: usize,
        /// The name of the invalid or missing field.
        field: String,
        /// The expected value, followed by the actual value.
        expected: String,
    },
}

/// The fields of one table of a fault script: of a rule, or of the top level. Records which fields were read, so that unknown
/// fields can be reported.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    /// The text of the whole script, from which error messages compute the line and the column of a field.
    script: &'a str,
    /// The number of the rule that contains the fields, counted from 1. `None` for the fields at the top level of the script.
    rule: Option<usize>,
    table: Table,
    /// The names and values of the fields that were read so far, for error messages.
    taken: Vec<(&'static str, Option<Value>)>,
}

impl<'a> Fields<'a> {
    pub(super) fn of_document(script: &'a str, table: Table) -> Self {
        Self {
            script,
            rule: None,
            table,
            taken: Vec::new(),
        }
    }

    pub(super) fn of_rule(
        script: &'a str,
        number: usize,
        rule: Value,
    ) -> Result<Self, InvalidScript> {
        let Value::Table(table) = rule else {
            let (line, column) = line_and_column(script, None, Some("rule"));
            return Err(InvalidScript::Document {
                line,
                column,
                field: "rule".to_owned(),
                expected: "tables, each opened by [[rule]]".to_owned(),
            });
        };
        Ok(Self {
            script,
            rule: Some(number),
            table,
            taken: Vec::new(),
        })
    }

    pub(super) fn peek(&self, name: &str) -> Option<&Value> {
        self.table.get(name)
    }

    pub(super) fn take(&mut self, name: &'static str) -> Option<Value> {
        let value = self.table.remove(name);
        self.taken.push((name, value.clone()));
        value
    }

    pub(super) fn text(&mut self, name: &'static str) -> Result<Option<String>, InvalidScript> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.invalid(name, "a text in quotes")),
        }
    }

    /// Reads the value of a field that must be a whole number of at least `least`.
    pub(super) fn whole(
        &mut self,
        name: &'static str,
        least: u64,
    ) -> Result<Option<u64>, InvalidScript> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        let whole = value.as_integer().and_then(|n| u64::try_from(n).ok());
        match whole.filter(|n| *n >= least) {
            Some(n) => Ok(Some(n)),
            None => Err(self.invalid(name, format!("a whole number from {least}"))),
        }
    }

    pub(super) fn number(&mut self, name: &'static str) -> Result<Option<f64>, InvalidScript> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Float(number)) if number.is_finite() => Ok(Some(number)),
            // The conversion rounds numbers above 2^53; no field of a script is that large.
            Some(Value::Integer(number)) => Ok(Some(number as f64)),
            Some(_) => Err(self.invalid(name, "a number")),
        }
    }

    pub(super) fn seconds(
        &mut self,
        name: &'static str,
    ) -> Result<Option<Duration>, InvalidScript> {
        let Some(seconds) = self.number(name)? else {
            return Ok(None);
        };
        match Duration::try_from_secs_f64(seconds) {
            Ok(seconds) => Ok(Some(seconds)),
            Err(_) => Err(self.invalid(name, "a number of seconds from 0")),
        }
    }

    /// Checks that all fields were read. If not, returns the error for an unknown field. `what` is the name of the table in this
    /// error, for example "a script".
    pub(super) fn finish(self, what: &str) -> Result<(), InvalidScript> {
        let Some((name, _)) = self.table.iter().next() else {
            return Ok(());
        };
        let known: Vec<&str> = self.taken.iter().map(|(name, _)| *name).collect();
        let expected = format!("no such field: {what} has {}", known.join(", "));
        let meant = did_you_mean(name, known);
        Err(self.error(name, format!("{expected}{meant}")))
    }

    /// Returns an error for a field value that is not in the list `known`. The error suggests the most similar value of the list.
    pub(super) fn unknown<'w>(
        &self,
        name: &str,
        expected: impl Into<String>,
        known: impl IntoIterator<Item = &'w str>,
    ) -> InvalidScript {
        let given = self.given(name).and_then(Value::as_str).unwrap_or_default();
        let meant = did_you_mean(given, known);
        let got = self.got(name);
        self.error(name, format!("{}, got {got}{meant}", expected.into()))
    }

    /// Returns the error for a field whose value is missing or is not what `expected` describes.
    pub(super) fn invalid(&self, name: &str, expected: impl Into<String>) -> InvalidScript {
        let got = self.got(name);
        self.error(name, format!("{}, got {got}", expected.into()))
    }

    fn given(&self, name: &str) -> Option<&Value> {
        let given = self.taken.iter().rev().find(|(known, _)| *known == name);
        given
            .and_then(|(_, value)| value.as_ref())
            .or(self.peek(name))
    }

    /// Describes the actual value of a field for an error message. If the field is missing, the description names an unread field
    /// that may be a misspelling of it.
    fn got(&self, name: &str) -> String {
        match self.given(name) {
            None => match self.misspelling(name) {
                None => "nothing".to_owned(),
                Some(other) => format!("nothing; is {other:?} a misspelling of it?"),
            },
            Some(Value::Array(_)) => "an array".to_owned(),
            Some(Value::Table(_)) => "a table".to_owned(),
            Some(Value::String(text)) => format!("{text:?}"),
            Some(Value::Integer(number)) => number.to_string(),
            Some(Value::Float(number)) => number.to_string(),
            Some(Value::Boolean(flag)) => flag.to_string(),
            Some(Value::Datetime(date)) => date.to_string(),
        }
    }

    /// Returns an unread field of the script whose name may be a misspelling of `name`.
    fn misspelling(&self, name: &str) -> Option<&str> {
        nearest(name, self.table.keys().map(String::as_str))
    }

    fn error(&self, name: &str, expected: String) -> InvalidScript {
        let present = match self.given(name) {
            Some(_) => Some(name),
            None => self.misspelling(name),
        };
        let (line, column) = line_and_column(self.script, self.rule, present);
        let field = name.to_owned();
        match self.rule {
            None => InvalidScript::Document {
                line,
                column,
                field,
                expected,
            },
            Some(rule) => InvalidScript::Rule {
                line,
                column,
                rule,
                field,
                expected,
            },
        }
    }
}

/// The minimum similarity of two words, from 0 to 1, for the suggestion of one word in an error message about the other.
const MIN_SIMILARITY: f64 = 0.6;

fn did_you_mean<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let nearest = nearest(given, known);
    nearest.map_or_else(String::new, |word| format!("; did you mean {word}?"))
}

/// Returns the word of `known` that is most similar to `given`, as a suggestion for an error message. Returns `None` if no word is
/// similar enough.
fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let scored = known.into_iter().map(|word| {
        let score = strsim::normalized_damerau_levenshtein(&given.to_lowercase(), word);
        (score, word)
    });
    let similar = scored.filter(|(score, _)| *score >= MIN_SIMILARITY);
    similar
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, word)| word)
}
