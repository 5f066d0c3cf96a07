//! The loss curve, drawn in characters.

use rasciigraph::Config;

/// Lines of the curve.
const HEIGHT: u32 = 10;

/// Columns that the scale on the left may take.
const SCALE: usize = 12;

/// The curve over the steps in at most `width` columns. `None` where there is nothing to draw: less than two values, or no
/// difference between them that could be seen.
pub(crate) fn curve(loss: &[f64], width: usize) -> Option<String> {
    let smallest = loss.iter().copied().fold(f64::INFINITY, f64::min);
    let largest = loss.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let range = largest - smallest;
    // Below this the scale would show one number on every line.
    if loss.len() < 2 || !range.is_finite() || range < 0.01 {
        return None;
    }
    let columns = width.saturating_sub(SCALE).clamp(16, 96);
    let drawn = rasciigraph::plot(
        loss.to_vec(),
        Config::default()
            .with_height(HEIGHT)
            // The library stretches and shrinks to the width, between neighbours.
            .with_width(columns as u32),
    );
    let lines: Vec<&str> = drawn.lines().map(str::trim_end).collect();
    // How wide the scale came out is known by the line that it ends with.
    let is_edge = |c| matches!(c, '┤' | '┼');
    let scale = lines[0].chars().position(is_edge)?;
    let steps = format!(
        "{:>scale$} {:<half$}{:>half$}",
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
    fn a_falling_curve_starts_high_and_ends_low() {
        let loss: Vec<f64> = (0..50).map(|i| 3.0 - f64::from(i) * 0.04).collect();
        let drawn = curve(&loss, 80).unwrap();
        let lines: Vec<&str> = drawn.lines().collect();
        assert!(lines.len() >= 10, "{drawn}");
        assert!(lines[0].contains("3.0"), "{drawn}");
        assert!(lines[lines.len() - 2].contains("1.0"), "{drawn}");
        let ends = |line: &str| line.chars().count();
        assert!(ends(lines[0]) < ends(lines[lines.len() - 2]), "{drawn}");
        assert!(lines.iter().all(|line| ends(line) <= 80), "{drawn}");
        assert!(lines.last().unwrap().ends_with("50"), "{drawn}");
    }

    #[test]
    fn what_cannot_be_seen_is_not_drawn() {
        assert_eq!(curve(&[], 80), None);
        assert_eq!(curve(&[2.0], 80), None);
        assert_eq!(curve(&[2.0; 9], 80), None);
        assert_eq!(curve(&[2.0, f64::NAN, f64::INFINITY], 80), None);
        assert!(curve(&[2.0, 1.0], 10).is_some());
    }
}
