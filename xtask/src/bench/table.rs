//! Markdown tables with aligned columns.

/// A Markdown table. Each column is as wide as its widest cell.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(head: &[&str]) -> Self {
        Self {
            rows: vec![head.iter().map(|cell| (*cell).to_owned()).collect()],
        }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        let columns = self.rows[0].len();
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut lines: Vec<String> = self.rows.iter().map(|row| line(row, &widths)).collect();
        let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
        lines.insert(1, line(&rule, &widths));
        lines
    }
}

fn line(cells: &[String], widths: &[usize]) -> String {
    let padded = cells.iter().zip(widths).map(|(cell, width)| {
        let pad = width.saturating_sub(cell.chars().count());
        format!("{cell}{}", " ".repeat(pad))
    });
    format!("| {} |", padded.collect::<Vec<_>>().join(" | "))
}

/// Returns the median. For an even number of values, returns the lower one of the two middle
/// values. Returns `None` if there are no values.
pub(crate) fn median(numbers: &[f64]) -> Option<f64> {
    quantile(numbers, 0.5)
}

/// Returns the quantile `quantile` of the numbers: the smallest number such that at least this
/// fraction of all numbers is not larger. Returns `None` if there are no numbers.
pub(crate) fn quantile(numbers: &[f64], quantile: f64) -> Option<f64> {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (quantile * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_columns_are_aligned() {
        let mut table = Table::new(&["a", "long"]);
        table.row(vec!["wide ü".to_owned(), "1".to_owned()]);
        assert_eq!(
            table.lines(),
            [
                "| a      | long |",
                "| ------ | ---- |",
                "| wide ü | 1    |"
            ]
        );
    }

    #[test]
    fn quantile_is_one_of_the_measured_values() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.0));
        let numbers: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(quantile(&numbers, 0.99), Some(99.0));
        assert_eq!(quantile(&numbers, 1.0), Some(100.0));
        assert_eq!(quantile(&numbers, 0.0), Some(1.0));
    }
}
