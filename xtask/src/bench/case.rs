//! The cases of `cargo xtask bench goodput`. A case sets the in-flight limit of the server, the
//! latency of samples, and the form of retry delays.

/// A case of the goodput benchmark: clients request samples from a server that responds with 429 if
/// too many samples are in flight. Goodput is the number of completed samples per second.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) shape: Shape,
    pub(crate) latency_ms: u64,
    pub(crate) hint: Hint,
    /// The number of client processes. They use the same API key. The samples of the case are
    /// divided among them.
    pub(crate) processes: u64,
}

/// How the server's limit on samples in flight changes during a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Fixed(u64),
    /// The limit cycles through 20, 50 and 10. Each value lasts for ten times the latency of a
    /// sample.
    Steps,
    /// The limit is a random walk between 5 and 80. It changes after every five times the latency
    /// of a sample.
    Walk,
}

/// The retry delay of a 429 response, and the form in which the response contains it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hint {
    Milliseconds(u64),
    Seconds(u64),
    Date(u64),
    None,
}

const SHAPES: [Shape; 4] = [
    Shape::Fixed(20),
    Shape::Fixed(50),
    Shape::Steps,
    Shape::Walk,
];

/// The retry delays of 429 responses in the benchmark cases: 0.2 s and 1 s in milliseconds and as a
/// date, 1 s in whole seconds, and no delay. Whole seconds cannot express 0.2 s.
const HINTS: [Hint; 6] = [
    Hint::Milliseconds(200),
    Hint::Milliseconds(1000),
    Hint::Seconds(1000),
    Hint::Date(200),
    Hint::Date(1000),
    Hint::None,
];

/// The approximate duration of a case with an ideal client (which always uses the whole in-flight
/// limit), as a multiple of the latency of a sample.
const ORACLE_LATENCIES: u64 = 50;

impl Case {
    /// Returns all cases of the goodput benchmark, or a subset if `quick` is true. Cases with a
    /// short sample latency come first.
    pub(crate) fn all(quick: bool) -> Vec<Self> {
        let latencies: &[u64] = if quick { &[200] } else { &[200, 1000] };
        let hints: &[Hint] = if quick {
            &[Hint::Milliseconds(200), Hint::None]
        } else {
            &HINTS
        };
        let mut cases = Vec::new();
        for latency_ms in latencies {
            for shape in SHAPES {
                cases.extend(hints.iter().map(|hint| Self {
                    shape,
                    latency_ms: *latency_ms,
                    hint: *hint,
                    processes: 1,
                }));
            }
            cases.push(Self {
                shape: Shape::Fixed(50),
                latency_ms: *latency_ms,
                hint: Hint::Milliseconds(200),
                processes: 2,
            });
        }
        cases
    }

    pub(crate) fn name(&self) -> String {
        let shape = match self.shape {
            Shape::Fixed(window) => format!("fixed-{window}"),
            Shape::Steps => "steps".to_owned(),
            Shape::Walk => "walk".to_owned(),
        };
        let hint = match self.hint {
            Hint::Milliseconds(ms) => format!("ms-{ms}"),
            Hint::Seconds(ms) => format!("seconds-{}", ms.div_ceil(1000)),
            Hint::Date(ms) => format!("date-{ms}"),
            Hint::None => "none".to_owned(),
        };
        let pair = if self.processes > 1 { "/pair" } else { "" };
        format!("{shape}/{}ms/{hint}{pair}", self.latency_ms)
    }

    /// Returns the number of samples that the clients request in this case: 50 times the mean limit
    /// on samples in flight.
    pub(crate) fn samples(&self) -> u64 {
        match self.shape {
            Shape::Fixed(window) => ORACLE_LATENCIES * window,
            Shape::Steps => ORACLE_LATENCIES * (20 + 50 + 10) / 3,
            Shape::Walk => ORACLE_LATENCIES * (5 + 80) / 2,
        }
    }

    /// Returns the approximate duration of the case with an ideal client, which always uses the
    /// whole in-flight limit, in milliseconds.
    pub(crate) fn oracle_estimate_ms(&self) -> u64 {
        ORACLE_LATENCIES * self.latency_ms
    }

    /// Returns the goodput (completed samples per second) that the client must reach, as a fraction
    /// of the goodput of an ideal client.
    pub(crate) fn target(&self) -> f64 {
        match self.shape {
            Shape::Walk => 0.90,
            _ => 0.95,
        }
    }

    /// Returns the command-line options of the server for this case.
    pub(crate) fn server_options(&self) -> String {
        let seconds = |latencies: u64| self.latency_ms as f64 * latencies as f64 / 1000.0;
        let window = match self.shape {
            Shape::Fixed(window) => format!("--window {window}"),
            Shape::Steps => format!("--window-steps 20,50,10 --window-every {}", seconds(10)),
            Shape::Walk => format!("--window-walk 5,80 --window-every {}", seconds(5)),
        };
        let hint = match self.hint {
            Hint::Milliseconds(ms) => format!("--hint-form ms --hint-ms {ms}"),
            Hint::Seconds(ms) => format!("--hint-form seconds --hint-ms {ms}"),
            Hint::Date(ms) => format!("--hint-form date --hint-ms {ms}"),
            Hint::None => "--hint-form none".to_owned(),
        };
        format!("--latency {} {window} {hint}", self.latency_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn benchmark_case_names_are_unique_and_quick_cases_are_a_subset() {
        let all = Case::all(false);
        let mut names: Vec<String> = all.iter().map(Case::name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all.len());
        assert!(Case::all(true).iter().all(|case| all.contains(case)));
        assert!(names.contains(&"fixed-50/1000ms/ms-200/pair".to_owned()));
    }

    #[test]
    fn server_options_match_the_benchmark_case() {
        let case = Case {
            shape: Shape::Walk,
            latency_ms: 200,
            hint: Hint::Date(200),
            processes: 1,
        };
        assert_eq!(
            case.server_options(),
            "--latency 200 --window-walk 5,80 --window-every 1 --hint-form date --hint-ms 200"
        );
        assert_eq!(
            (case.samples(), case.oracle_estimate_ms(), case.target()),
            (2125, 10_000, 0.90)
        );
    }
}
