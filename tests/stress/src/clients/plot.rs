//! SVG charts for the report: lines over time with marked intervals, and bars.

use std::fmt::Write as _;

pub(crate) const WIDTH: f64 = 880.0;
pub(crate) const HEIGHT: f64 = 230.0;
pub(crate) const LEFT: f64 = 64.0;
pub(crate) const RIGHT: f64 = 16.0;
pub(crate) const TOP: f64 = 14.0;
pub(crate) const BOTTOM: f64 = 38.0;

/// A line of a chart in the report.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) name: &'static str,
    pub(crate) points: Vec<(f64, f64)>,
    /// Whether the line is an upper bound of a measured value. Upper bounds are drawn dashed.
    pub(crate) is_bound: bool,
}

impl Line {
    fn class(&self, place: usize) -> String {
        match self.is_bound {
            true => "bound".to_owned(),
            false => format!("s{place}"),
        }
    }
}

/// Time intervals that are marked in a chart, such as the pauses of the rate limiter after 429
/// responses.
#[derive(Debug, Clone)]
pub(crate) struct Bands {
    pub(crate) name: &'static str,
    pub(crate) class: &'static str,
    pub(crate) is_strip: bool,
    pub(crate) intervals: Vec<(f64, f64)>,
}

/// A line chart of the report. Its horizontal axis is the time.
#[derive(Debug, Clone)]
pub(crate) struct Chart {
    pub(crate) title: &'static str,
    /// The unit of the vertical axis.
    pub(crate) unit: &'static str,
    /// The end of the time axis, in seconds.
    pub(crate) end: f64,
    pub(crate) lines: Vec<Line>,
    pub(crate) bands: Vec<Bands>,
}

impl Chart {
    pub(crate) fn html(&self) -> String {
        let highest = self.lines.iter().flat_map(|line| &line.points);
        let highest = highest.fold(0.0_f64, |most, (_, y)| most.max(*y));
        let axis = Axis::vertical(highest);
        let time = Axis::horizontal(self.end);
        let mut svg = frame(self.title);
        for bands in &self.bands {
            // Short intervals are drawn as a strip at the top and long ones behind the lines, so
            // that no interval hides a line.
            let height = if bands.is_strip {
                7.0
            } else {
                HEIGHT - TOP - BOTTOM
            };
            for (from, to) in &bands.intervals {
                let (x, end) = (time.place(*from), time.place(*to));
                let _ = write!(
                    svg,
                    r#"<rect class="{}" x="{x:.1}" y="{TOP}" width="{:.1}" height="{height:.1}"/>"#,
                    bands.class,
                    (end - x).max(1.0),
                );
            }
        }
        axis.draw_vertical(&mut svg, self.unit);
        time.draw_horizontal(&mut svg, "seconds");
        for (i, line) in self.lines.iter().enumerate() {
            let mut path = String::new();
            for (n, (x, y)) in line.points.iter().enumerate() {
                let command = if n == 0 { 'M' } else { 'L' };
                let _ = write!(path, "{command}{:.1} {:.1}", time.place(*x), axis.place(*y));
            }
            let class = line.class(i);
            let _ = write!(svg, r#"<path class="line {class}" d="{path}"/>"#);
        }
        svg.push_str("</svg>");
        let mut keys = String::new();
        for (i, line) in self.lines.iter().enumerate() {
            let _ = write!(
                keys,
                r#"<span><i class="key {}"></i>{}</span>"#,
                line.class(i),
                line.name
            );
        }
        for bands in self
            .bands
            .iter()
            .filter(|bands| !bands.intervals.is_empty())
        {
            let _ = write!(
                keys,
                r#"<span><i class="key {}"></i>{}</span>"#,
                bands.class, bands.name
            );
        }
        figure(self.title, &keys, &svg)
    }
}

/// A bar chart of the report.
#[derive(Debug, Clone)]
pub(crate) struct Bars {
    pub(crate) title: String,
    pub(crate) unit: &'static str,
    /// The label below the horizontal axis of the bar chart.
    pub(crate) below: &'static str,
    pub(crate) bars: Vec<(String, f64)>,
}

impl Bars {
    pub(crate) fn html(&self) -> String {
        let highest = self.bars.iter().fold(0.0_f64, |most, (_, y)| most.max(*y));
        let axis = Axis::vertical(highest);
        let mut svg = frame(&self.title);
        axis.draw_vertical(&mut svg, self.unit);
        let step = ((WIDTH - LEFT - RIGHT) / self.bars.len().max(1) as f64).min(70.0);
        // If the labels would overlap, only some of the bars get a label.
        let every = (46.0 / step).ceil().max(1.0) as usize;
        for (i, (name, y)) in self.bars.iter().enumerate() {
            let (x, top) = (LEFT + i as f64 * step, axis.place(*y));
            let _ = write!(
                svg,
                r#"<rect class="bar" x="{:.1}" y="{top:.1}" width="{:.1}" height="{:.1}"><title>{name}: {y:.0}</title></rect>"#,
                x + step * 0.08,
                step * 0.84,
                HEIGHT - BOTTOM - top
            );
            if i % every == 0 {
                let _ = write!(
                    svg,
                    r#"<text class="tick" x="{:.1}" y="{:.1}" text-anchor="middle">{name}</text>"#,
                    x + step / 2.0,
                    HEIGHT - BOTTOM + 16.0
                );
            }
        }
        let _ = write!(
            svg,
            r#"<text class="unit" x="{:.1}" y="{:.1}" text-anchor="end">{}</text></svg>"#,
            WIDTH - RIGHT,
            HEIGHT - 5.0,
            self.below
        );
        figure(&self.title, "", &svg)
    }
}

pub(crate) fn frame(title: &str) -> String {
    format!(r#"<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">"#)
}

pub(crate) fn figure(title: &str, keys: &str, svg: &str) -> String {
    format!("<figure><figcaption><b>{title}</b>{keys}</figcaption>{svg}</figure>\n")
}

/// An axis of a chart. It begins at 0 and has round tick values.
pub(crate) struct Axis {
    highest: f64,
    step: f64,
    from: f64,
    to: f64,
}

impl Axis {
    pub(crate) fn vertical(highest: f64) -> Self {
        let step = round_step(highest / 4.0);
        // The axis is a little longer, so that the highest line does not touch the frame.
        let highest = (highest * 1.04 / step).ceil().max(1.0) * step;
        Self {
            highest,
            step,
            from: HEIGHT - BOTTOM,
            to: TOP,
        }
    }

    fn horizontal(end: f64) -> Self {
        Self {
            highest: end.max(0.1),
            step: round_step(end / 10.0),
            from: LEFT,
            to: WIDTH - RIGHT,
        }
    }

    pub(crate) fn place(&self, value: f64) -> f64 {
        self.from + (self.to - self.from) * (value / self.highest).clamp(0.0, 1.0)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> + '_ {
        let count = (self.highest / self.step + 1e-6).floor() as u32;
        (0..=count).map(|i| f64::from(i) * self.step)
    }

    pub(crate) fn draw_vertical(&self, svg: &mut String, unit: &str) {
        for tick in self.ticks() {
            let y = self.place(tick);
            let _ = write!(
                svg,
                r#"<line class="grid" x1="{LEFT}" x2="{:.1}" y1="{y:.1}" y2="{y:.1}"/><text class="tick" x="{:.1}" y="{:.1}" text-anchor="end">{}</text>"#,
                WIDTH - RIGHT,
                LEFT - 8.0,
                y + 4.0,
                short(tick, self.step)
            );
        }
        let middle = (TOP + HEIGHT - BOTTOM) / 2.0;
        let _ = write!(
            svg,
            r#"<text class="unit" transform="translate(14 {middle:.1}) rotate(-90)" text-anchor="middle">{unit}</text>"#
        );
    }

    fn draw_horizontal(&self, svg: &mut String, unit: &str) {
        for tick in self.ticks() {
            let _ = write!(
                svg,
                r#"<text class="tick" x="{:.1}" y="{:.1}" text-anchor="middle">{}</text>"#,
                self.place(tick),
                HEIGHT - BOTTOM + 16.0,
                short(tick, self.step)
            );
        }
        let _ = write!(
            svg,
            r#"<text class="unit" x="{:.1}" y="{:.1}" text-anchor="end">{unit}</text>"#,
            WIDTH - RIGHT,
            HEIGHT - 5.0
        );
    }
}

/// Returns the smallest number that is at least `about` and is 1, 2 or 5 times a power of ten.
fn round_step(about: f64) -> f64 {
    if about <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(about.log10().floor());
    let times = about / power;
    let round = [1.0, 2.0, 5.0].into_iter().find(|round| times <= *round);
    round.unwrap_or(10.0) * power
}

/// Formats the number `value` as the label of a tick, for an axis whose ticks are `step` apart.
fn short(value: f64, step: f64) -> String {
    if value >= 1e6 {
        return format!("{} M", value / 1e6);
    }
    if value >= 10_000.0 {
        return format!("{} k", value / 1e3);
    }
    let places = (-step.log10()).ceil().clamp(0.0, 6.0) as usize;
    format!("{value:.places$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axis_ticks_are_round_and_cover_the_highest_value() {
        for (highest, step, top) in [
            (0.0, 1.0, 1.0),
            (7.0, 2.0, 8.0),
            (40.0, 10.0, 50.0),
            (4100.0, 2000.0, 6000.0),
        ] {
            let axis = Axis::vertical(highest);
            assert_eq!((axis.step, axis.highest), (step, top), "{highest}");
        }
        assert_eq!(short(0.25, 0.05), "0.25");
        assert_eq!(short(25_000.0, 5000.0), "25 k");
    }
}
