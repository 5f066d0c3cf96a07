//! Laying text out within the width of a terminal.

use comfy_table::{ColumnConstraint, ContentArrangement, Table, presets};

use crate::output::one_line;

/// Labels behind `indent` columns and what belongs to each, broken between words to fit `width` columns.
pub(crate) fn labelled(rows: &[(&str, String)], indent: u16, width: usize) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        // A width that is set is a promise; the library would take any that the content asks for.
        .set_width(u16::try_from(width).unwrap_or(u16::MAX));
    for (label, text) in rows {
        table.add_row([*label, &flow(text)]);
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

/// One word that is to be copied whole: in at most four columns from the left, fewer where it would not fit then.
pub(crate) fn whole(word: &str, width: usize) -> String {
    let word = one_line(word);
    let indent = width.saturating_sub(word.chars().count()).min(4);
    format!("{:indent$}{word}", "")
}

/// Text from elsewhere as words with one space between them.
pub(crate) fn flow(text: &str) -> String {
    let line = one_line(text);
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_goes_on_below_itself() {
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
    fn what_comes_from_elsewhere_cannot_steer_the_terminal() {
        let rows = [("a", "x\u{1b}[31m\r\n\n y".to_owned())];
        assert_eq!(labelled(&rows, 0, 80), "a  x [31m y");
        assert_eq!(whole("tinker://\u{1b}x", 80), "    tinker:// x");
    }

    #[test]
    fn a_word_to_copy_moves_left_before_it_is_broken() {
        assert_eq!(whole("12345678", 20), "    12345678");
        assert_eq!(whole("12345678", 10), "  12345678");
        assert_eq!(whole("12345678", 4), "12345678");
    }
}
