//! Layout of text within the width of a terminal.

use comfy_table::{ColumnConstraint, ContentArrangement, Table, presets};

use crate::output::one_line;

/// Formats rows, each with a label and a text. Labels are indented by `indent` columns. Texts are wrapped so that the rows fit into
/// `width` columns.
pub(crate) fn labelled(rows: &[(&str, String)], indent: u16, width: usize) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        // Without a set width, the table would be as wide as its content.
        .set_width(u16::try_from(width).unwrap_or(u16::MAX));
    for (label, text) in rows {
        table.add_row([*label, &normalise_whitespace(text)]);
    }
    if let Some(labels) = table.column_mut(0) {
        labels
            .set_padding((indent, 2))
            .set_constraint(ColumnConstraint::ContentWidth);
    }
    if let Some(texts) = table.column_mut(1) {
        texts.set_padding((0, 0));
    }
    table.trim_fmt()
}

/// Indents a word that must not be wrapped. The indentation is four columns, or fewer columns if the word would otherwise exceed
/// `width`.
pub(crate) fn indent_word(word: &str, width: usize) -> String {
    let word = one_line(word);
    let indent = width.saturating_sub(word.chars().count()).min(4);
    format!("{:indent$}{word}", "")
}

/// Replaces control characters and runs of white space by single spaces.
pub(crate) fn normalise_whitespace(text: &str) -> String {
    let line = one_line(text);
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_is_wrapped_in_its_column() {
        let rows = [
            ("before", "and it came to pass in those days".to_owned()),
            ("after", "light".to_owned()),
        ];
        assert_eq!(
            labelled(&rows, 2, 28),
            "  before  and it came to\n          pass in those days\n  after   light"
        );
    }

    #[test]
    fn control_characters_in_tables_are_replaced() {
        let rows = [("a", "x\u{1b}[31m\r\n\n y".to_owned())];
        assert_eq!(labelled(&rows, 0, 80), "a  x [31m y");
        assert_eq!(indent_word("tinker://\u{1b}x", 80), "    tinker:// x");
    }

    #[test]
    fn indentation_shrinks_to_fit_a_long_word() {
        assert_eq!(indent_word("12345678", 20), "    12345678");
        assert_eq!(indent_word("12345678", 10), "  12345678");
        assert_eq!(indent_word("12345678", 4), "12345678");
    }
}
