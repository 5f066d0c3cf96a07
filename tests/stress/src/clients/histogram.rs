//! Histograms of the latencies of samples. All histograms of a report have the same logarithmic
//! time axis.

use std::fmt::Write as _;

use hdrhistogram::Histogram;

use super::plot::{Axis, BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, figure, frame};

/// The number of histogram bars per factor of ten on the logarithmic latency axis.
const BARS: f64 = 12.0;

/// The quantiles of the latency that are marked in each histogram, with their labels.
const QUANTILES: [(&str, f64); 3] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)];

/// A histogram of latencies in microseconds, with its title, to be drawn in the report.
pub(crate) struct Part<'a> {
    pub(crate) title: &'static str,
    pub(crate) times: &'a Histogram<u64>,
}

/// Returns the HTML of all histograms that are not empty. All histograms have the same time axis.
pub(crate) fn html(parts: &[Part<'_>]) -> String {
    let filled = || parts.iter().filter(|part| !part.times.is_empty());
    let (low, high) = filled().fold((f64::MAX, 0.0_f64), |(low, high), part| {
        let (least, most) = (ms(part.times.min()), ms(part.times.max()));
        (low.min(least), high.max(most))
    });
    filled()
        .map(|part| part.html(low.log10().floor(), high.log10().ceil()))
        .collect()
}

impl Part<'_> {
    /// Returns the HTML of this histogram. The latency axis extends from 10^`low` to 10^`high`
    /// milliseconds.
    fn html(&self, low: f64, high: f64) -> String {
        let high = high.max(low + 1.0);
        let place = |ms: f64| {
            let part = (ms.log10() - low) / (high - low);
            LEFT + (WIDTH - LEFT - RIGHT) * part.clamp(0.0, 1.0)
        };
        let edge = |i: u32| 10_f64.powf(low + f64::from(i) / BARS);
        let bars = self.bars(low, ((high - low) * BARS).round() as usize);
        let highest = bars.iter().copied().max().unwrap_or(0);
        let axis = Axis::vertical(highest as f64);
        let mut svg = frame(self.title);
        axis.draw_vertical(&mut svg, "samples");
        for (i, samples) in (0..).zip(&bars) {
            let (from, to) = (place(edge(i)), place(edge(i + 1)));
            let top = axis.place(*samples as f64);
            let _ = write!(
                svg,
                r#"<rect class="bar" x="{:.1}" y="{top:.1}" width="{:.1}" height="{:.1}"><title>{:.3} to {:.3} ms: {samples}</title></rect>"#,
                from + 0.5,
                to - from - 1.0,
                HEIGHT - BOTTOM - top,
                edge(i),
                edge(i + 1),
            );
        }
        for power in low as i32..=high as i32 {
            let value = 10_f64.powi(power);
            // The last label is right-aligned, so that it fits into the figure.
            let (anchor, beyond) = match power == high as i32 {
                true => ("end", RIGHT / 2.0),
                false => ("middle", 0.0),
            };
            let _ = write!(
                svg,
                r#"<text class="tick" x="{:.1}" y="{:.1}" text-anchor="{anchor}">{value}</text>"#,
                place(value) + beyond,
                HEIGHT - BOTTOM + 16.0
            );
        }
        let _ = write!(
            svg,
            r#"<text class="unit" x="{:.1}" y="{:.1}" text-anchor="end">milliseconds</text>"#,
            WIDTH - RIGHT,
            HEIGHT - 5.0
        );
        self.draw_marks(&mut svg, place);
        svg.push_str("</svg>");
        figure(self.title, &self.keys(), &svg)
    }

    fn bars(&self, low: f64, count: usize) -> Vec<u64> {
        let mut bars = vec![0; count];
        for step in self.times.iter_recorded() {
            let at = (ms(step.value_iterated_to()).log10() - low) * BARS;
            bars[(at.max(0.0) as usize).min(count - 1)] += step.count_at_value();
        }
        bars
    }

    /// Draws a vertical line at each quantile of the latencies. Draws no labels at the lines,
    /// because they could overlap. The values are in the caption.
    fn draw_marks(&self, svg: &mut String, place: impl Fn(f64) -> f64) {
        for (i, (_, quantile)) in QUANTILES.iter().enumerate() {
            let x = place(ms(self.times.value_at_quantile(*quantile)));
            let _ = write!(
                svg,
                r#"<line class="mark m{i}" x1="{x:.1}" x2="{x:.1}" y1="{TOP}" y2="{:.1}"/>"#,
                HEIGHT - BOTTOM
            );
        }
    }

    fn keys(&self) -> String {
        let mut keys = String::new();
        for (i, (name, quantile)) in QUANTILES.iter().enumerate() {
            let value = shown(ms(self.times.value_at_quantile(*quantile)));
            let _ = write!(
                keys,
                r#"<span><i class="key m{i}"></i>{name} {value} ms</span>"#
            );
        }
        let most = shown(ms(self.times.max()));
        let _ = write!(keys, "<span>max {most} ms</span>");
        keys
    }
}

fn ms(micros: u64) -> f64 {
    micros.max(1) as f64 / 1000.0
}

fn shown(ms: f64) -> String {
    match ms {
        small if small < 1.0 => format!("{small:.2}"),
        middle if middle < 100.0 => format!("{middle:.1}"),
        large => format!("{large:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recorded_latency_is_in_a_histogram_bar() {
        let mut times = Histogram::new_with_bounds(1, 1 << 40, 3).expect("valid bounds");
        for micros in [1, 9, 10, 1000, 1001, 999_999] {
            times.record(micros).expect("within the bounds");
        }
        let page = html(&[Part {
            title: "Times",
            times: &times,
        }]);
        let counts = page.split(" ms: ").skip(1);
        let counted: u64 = counts
            .filter_map(|rest| rest.split('<').next()?.parse::<u64>().ok())
            .sum();
        assert_eq!(counted, 6);
        assert_eq!(page.matches("class=\"mark").count(), 3);
        assert_eq!(html(&[]), "");
    }
}
