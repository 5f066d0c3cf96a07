//! The loss curve as a text plot.

use rasciigraph::Config;

/// The height of the plot in lines.
const HEIGHT: u32 = 10;

/// The number of columns reserved for the labels of the y-axis.
const LABEL_WIDTH: usize = 12;

/// Plots the loss over the steps in at most `width` columns. Returns `None` if there are fewer than two losses, or if the losses
/// hardly differ.
pub(crate) fn curve(loss: &[f64], width: usize) -> Option<String> {
    let smallest = loss.iter().copied().fold(f64::INFINITY, f64::min);
    let largest = loss.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let range = largest - smallest;
    // In a smaller range, all labels of the y-axis would be equal.
    if loss.len() < 2 || !range.is_finite() || range < 0.01 {
        return None;
    }
    let columns = width.saturating_sub(LABEL_WIDTH).clamp(16, 96);
    let drawn = rasciigraph::plot(
        loss.to_vec(),
        Config::default()
            .with_height(HEIGHT)
            // Interpolates the values to the width.
            .with_width(columns as u32),
    );
    let lines: Vec<&str> = drawn.lines().map(str::trim_end).collect();
    // The y-axis is drawn directly after the labels.
    let is_axis = |c| matches!(c, '┤' | '┼');
    let label_width = lines[0].chars().position(is_axis)?;
    let steps = format!(
        "{:>label_width$} {:<half$}{:>half$}",
        "step",
        1,
        loss.len(),
        half = (columns - 1) / 2
    );
    Some(format!("{}\n{steps}", lines.join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decreasing_loss_is_plotted_from_top_to_bottom() {
        let loss: Vec<f64> = (0..50).map(|i| 3.0 - f64::from(i) * 0.04).collect();
        let drawn = curve(&loss, 80).unwrap();
        let lines: Vec<&str> = drawn.lines().collect();
        assert!(lines.len() >= 10, "{drawn}");
        assert!(lines[0].contains("3.0"), "{drawn}");
        assert!(lines[lines.len() - 2].contains("1.0"), "{drawn}");
        let width = |line: &str| line.chars().count();
        assert!(width(lines[0]) < width(lines[lines.len() - 2]), "{drawn}");
        assert!(lines.iter().all(|line| width(line) <= 80), "{drawn}");
        assert!(lines.last().unwrap().ends_with("50"), "{drawn}");
    }

    #[test]
    fn constant_or_non_finite_loss_is_not_plotted() {
        assert_eq!(curve(&[], 80), None);
        assert_eq!(curve(&[2.0], 80), None);
        assert_eq!(curve(&[2.0; 9], 80), None);
        assert_eq!(curve(&[2.0, f64::NAN, f64::INFINITY], 80), None);
        assert!(curve(&[2.0, 1.0], 10).is_some());
    }
}
