//! The position of a field in the text of a fault script, for error messages.

use toml::de::{DeTable, DeValue};

/// Returns the line and the column of a field in the fault script, both counted from 1. `rule` is the number of the rule that
/// contains the field, counted from 1, or `None` for a field at the top level. If `field` is `None`, returns the position of the
/// rule.
pub(super) fn line_and_column(
    text: &str,
    rule: Option<usize>,
    field: Option<&str>,
) -> (usize, usize) {
    let document = DeTable::parse(text).ok();
    let offset = document.and_then(|document| byte_offset(document.get_ref(), rule, field));
    let before = text.get(..offset.unwrap_or(0)).unwrap_or_default();
    let line = before.rsplit('\n').next().unwrap_or_default();
    (before.matches('\n').count() + 1, line.chars().count() + 1)
}

/// Returns the byte offset of a field in the fault script, or of the rule if `field` is `None`.
fn byte_offset(document: &DeTable<'_>, rule: Option<usize>, field: Option<&str>) -> Option<usize> {
    let Some(number) = rule else {
        return find_key(document, field?).map(|(start, _)| start);
    };
    let (_, rules) = find_key(document, "rule")?;
    let rule = rules.as_array()?.get(number.checked_sub(1)?)?;
    let found = field.and_then(|field| find_key(rule.get_ref().as_table()?, field));
    Some(found.map_or_else(|| rule.span().start, |(start, _)| start))
}

/// Returns the value of the key `name` and its byte offset in the text.
fn find_key<'t, 'text>(
    table: &'t DeTable<'text>,
    name: &str,
) -> Option<(usize, &'t DeValue<'text>)> {
    let mut entries = table.iter();
    let (key, value) = entries.find(|(key, _)| key.get_ref() == name)?;
    Some((key.span().start, value.get_ref()))
}
