//! The cases of the simulation, in groups, with the results that they require.

use std::time::Duration;

use crate::clients::Policy;
use crate::sim::{self, Case, Noise, Outcome, Window};

/// A group of similar simulated cases, with the minimum results that the limiter must reach in them.
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) sample: Duration,
    pub(crate) hint: Duration,
    /// The cases of the group, one per seed.
    pub(crate) cases: Vec<Case>,
    /// The minimum number of finished samples, averaged over the cases, as a fraction of those that a client with full knowledge of the
    /// server would finish.
    pub(crate) min_share: f64,
    /// The minimum evenness between clients: the number of samples of the slowest client as a fraction of that of the fastest.
    pub(crate) min_evenness: f64,
}

/// The minimum number of accepted requests per refused request that the limiter must reach in each group of cases.
const ACCEPTED_PER_REFUSAL: f64 = 20.0;
/// The number of random seeds per group, each of which gives one simulated case. The seed determines when and how the
/// capacity of the simulated server changes.
const SEEDS: u64 = 8;

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// The retry delays that the simulated server sends with a refusal. The longer one is also the pause of the real limiter after a refusal
/// without a retry delay.
const HINTS: [Duration; 2] = [ms(200), ms(1_000)];
const SAMPLES: [Duration; 2] = [ms(200), ms(1_000)];

/// Returns cases with a server of constant capacity, in which the clients finish 50 samples per unit of capacity. If the server's retry
/// delay is 1 s and a sample takes 200 ms, one pause after a refusal takes so long that a client that learns from refusals finishes at most
/// a fraction of 0.92 of the possible samples.
pub(crate) fn fixed() -> Vec<Group> {
    let group = |size: u32, sample, hint| Group {
        name: format!("W = {size}"),
        sample,
        hint,
        cases: vec![case(
            Window::fixed(size),
            sample,
            hint,
            50 * u64::from(size),
        )],
        min_share: if is_short(sample, hint) { 0.95 } else { 0.91 },
        min_evenness: 0.0,
    };
    grid(&[20, 50, 500], group)
}

/// Returns cases in which the server capacity is 20, 50 and 10 requests in turn, for three minutes.
pub(crate) fn steps() -> Vec<Group> {
    let group = |each: u32, sample, hint| {
        let window = |seed: u64| Window {
            sizes: vec![20, 50, 10],
            each: Duration::from_secs(each.into()),
            begun: ms(seed * 1_700),
        };
        Group {
            name: format!("steps of {each} s"),
            sample,
            hint,
            cases: for_three_minutes(window, sample, hint),
            min_share: match (each, is_short(sample, hint)) {
                (30, true) => 0.85,
                (_, true) => 0.6,
                _ => 0.4,
            },
            min_evenness: 0.0,
        }
    };
    grid(&[10, 30], group)
}

/// Returns cases in which the server capacity is a random walk between 5 and 80 requests, for three minutes. Each second it changes by at
/// most 5.
pub(crate) fn walks() -> Vec<Group> {
    let group = |_, sample, hint| Group {
        name: "walk".to_owned(),
        sample,
        hint,
        cases: for_three_minutes(walk, sample, hint),
        min_share: if is_short(sample, hint) { 0.88 } else { 0.65 },
        min_evenness: 0.0,
    };
    grid(&[0], group)
}

/// Returns cases with two processes that share one API key for ten minutes, at a server capacity of 50 requests. The second process starts
/// five seconds or more after the first.
pub(crate) fn pairs() -> Vec<Group> {
    let group = |size: u32, sample: Duration, hint| {
        let samples = 600 * u64::from(size) * 1_000 / sample.as_millis() as u64;
        let window = Window::fixed(size);
        let begin = |seed: u64| vec![Duration::ZERO, ms(5_000 + seed * 370)];
        let one = |seed| Case {
            begin: begin(seed),
            ..case(window.clone(), sample, hint, samples)
        };
        Group {
            name: "two processes".to_owned(),
            sample,
            hint,
            cases: (0..SEEDS).map(one).collect(),
            min_share: 0.95,
            min_evenness: if is_short(sample, hint) { 0.5 } else { 0.0 },
        }
    };
    grid(&[50], group)
}

/// Returns whether the pause after a refusal, `hint`, is at most as long as the server needs for a sample.
fn is_short(sample: Duration, hint: Duration) -> bool {
    hint <= sample
}

fn grid(of: &[u32], group: impl Fn(u32, Duration, Duration) -> Group) -> Vec<Group> {
    let mut groups = Vec::new();
    for of in of {
        for sample in SAMPLES {
            groups.extend(HINTS.map(|hint| group(*of, sample, hint)));
        }
    }
    groups
}

fn case(window: Window, sample: Duration, hint: Duration, samples: u64) -> Case {
    Case {
        window,
        sample,
        hint,
        samples,
        begin: vec![Duration::ZERO],
        callers: u64::MAX,
        end: Duration::MAX,
        noise: None,
    }
}

fn for_three_minutes(
    window: impl Fn(u64) -> Window,
    sample: Duration,
    hint: Duration,
) -> Vec<Case> {
    let one = |seed| {
        let window = window(seed);
        let possible = window.mean(ms(180_000)) * 180.0 / sample.as_secs_f64();
        case(window, sample, hint, possible as u64)
    };
    (0..SEEDS).map(one).collect()
}

fn walk(seed: u64) -> Window {
    let mut state = seed.wrapping_add(0x9e37);
    let mut size: i64 = 40;
    let mut draw = || {
        let here = size as u32;
        state = next(state);
        size = (size + (state >> 33) as i64 % 11 - 5).clamp(5, 80);
        here
    };
    Window {
        sizes: (0..600).map(|_| draw()).collect(),
        each: Duration::from_secs(1),
        begun: Duration::ZERO,
    }
}

/// Returns the next state of a random number generator. Only the upper half of a state is used as a random number.
pub(crate) const fn next(state: u64) -> u64 {
    state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407)
}

/// A simulated case with random refusals, which do not depend on the requests in flight. They occur for the whole simulation, or only in a
/// burst.
pub(crate) struct NoiseCase {
    pub(crate) per_mille: u64,
    /// The number of requests that the server accepts at once, or `None` if it is unlimited.
    pub(crate) window: Option<u32>,
    /// The maximum number of samples that the client runs at once.
    pub(crate) callers: u64,
    pub(crate) sample: Duration,
    pub(crate) hint: Duration,
    /// Whether the random refusals come in one burst and then end. Otherwise they last for the whole simulation.
    pub(crate) is_burst: bool,
}

/// The result of a simulated case with random refusals.
pub(crate) struct NoiseOutcome {
    /// The number of samples finished during the random refusals, as a fraction of those of a comparison client. That client has the same
    /// gate and gradual increase, but knows the server's capacity from the beginning.
    pub(crate) during: f64,
    /// The finished samples as a fraction of the possible ones, from two seconds after the end of the burst of random refusals until the
    /// end. An average over the seeds. `None` without a burst.
    pub(crate) after: Option<f64>,
    /// The finished samples as a fraction of the possible ones, from two seconds after the end of the burst of random refusals until the
    /// end, for the seed with the worst result. `None` without a burst.
    pub(crate) worst_after: Option<f64>,
    pub(crate) refused_per_accepted: f64,
}

impl NoiseCase {
    /// The start and the end of the burst of random refusals, measured from the start of the simulation.
    const BURST: [Duration; 2] = [ms(10_000), ms(20_000)];
    const END: Duration = ms(40_000);
    /// The seeds of the random number generator. None of these seeds was used to choose the constants of the algorithm.
    const SEEDS: std::ops::RangeInclusive<u64> = 101..=120;
    const SETTLED: Duration = ms(2_000);
    /// The minimum of [`NoiseOutcome::during`]: the samples finished during the random refusals, as a fraction of those of a client that
    /// knows the server's capacity.
    const MIN_DURING: f64 = 0.7;
    /// The minimum of [`NoiseOutcome::after`]: the samples finished after the burst of random refusals as a fraction of the possible ones,
    /// on average over the seeds.
    const MIN_AFTER: f64 = 0.88;
    /// The minimum of [`NoiseOutcome::worst_after`]: the samples finished after the burst of random refusals as a fraction of the possible
    /// ones, for the worst seed.
    const MIN_AFTER_WORST: f64 = 0.45;
    /// The maximum number of refusals per accepted request, not counting the expected number of random refusals.
    const MAX_REFUSALS: f64 = 0.1;

    fn case(&self, seed: u64) -> Case {
        let window = Window::fixed(self.window.unwrap_or(u32::MAX));
        let [from, to] = self.span();
        Case {
            callers: self.callers,
            end: Self::END,
            noise: Some(Noise {
                per_mille: self.per_mille,
                from: from + ms(seed * 37),
                to,
                seed,
            }),
            ..case(window, self.sample, self.hint, u64::MAX)
        }
    }

    fn span(&self) -> [Duration; 2] {
        if self.is_burst {
            Self::BURST
        } else {
            [Duration::ZERO, Self::END]
        }
    }

    /// Returns the maximum number of samples that run at the same time: the smaller of the limits of the server and the client.
    fn max_concurrency(&self) -> u32 {
        self.window.unwrap_or(u32::MAX).min(self.callers as u32)
    }

    /// Returns a description of each required minimum that the outcome misses.
    pub(crate) fn failures(&self, outcome: &NoiseOutcome) -> Vec<String> {
        let mut failures = Vec::new();
        let mut require = |share: f64, least: f64, what: &str| {
            if share < least {
                let name = self.name();
                let (sample, hint) = (self.sample, self.hint);
                failures.push(format!(
                    "{name}, sample {sample:?}, hint {hint:?}: {share:.2} {what}"
                ));
            }
        };
        require(outcome.during, Self::MIN_DURING, "during the noise");
        require(
            outcome.after.unwrap_or(1.0),
            Self::MIN_AFTER,
            "after the random refusals",
        );
        require(
            outcome.worst_after.unwrap_or(1.0),
            Self::MIN_AFTER_WORST,
            "after the random refusals, with the worst seed",
        );
        let refused = self.per_mille as f64 / 1_000.0;
        let most = refused / (1.0 - refused) + Self::MAX_REFUSALS;
        require(
            most,
            outcome.refused_per_accepted,
            "allowed refusals per accepted request",
        );
        failures
    }

    /// Returns the name of the case: the percentage and duration of the random refusals, and the capacity of the server.
    pub(crate) fn name(&self) -> String {
        let lasts = if self.is_burst { " for 10 s" } else { "" };
        let window = self
            .window
            .map_or("none".to_owned(), |size| format!("W = {size}"));
        format!("{} %{lasts}, {window}", self.per_mille / 10)
    }

    /// Simulates the case once with each seed. Returns averages over the seeds, and the worst result.
    pub(crate) fn run(&self, policy: Policy) -> NoiseOutcome {
        let [from, to] = self.span();
        let settled = to + Self::SETTLED;
        let (mut during, mut known, mut after, mut refused) = (0, 0, Vec::new(), 0.0);
        let time = Self::END.saturating_sub(settled).as_secs_f64();
        // After each sample, one unit of capacity is idle until the next request arrives.
        let each = self.sample + sim::LATENCY * 2;
        let possible = f64::from(self.max_concurrency()) * time / each.as_secs_f64();
        for seed in Self::SEEDS {
            let case = self.case(seed);
            let outcome = sim::run(&case, policy);
            during += outcome.finished_in(from, to);
            known +=
                sim::run(&case, Policy::KnownWindow(self.max_concurrency())).finished_in(from, to);
            after.push(outcome.finished_in(settled, Self::END) as f64 / possible);
            refused += outcome.refused_per_accepted();
        }
        let seeds = after.len() as f64;
        let mean = after.iter().sum::<f64>() / seeds;
        let worst = after.iter().copied().fold(f64::INFINITY, f64::min);
        NoiseOutcome {
            during: during as f64 / known as f64,
            after: self.is_burst.then_some(mean),
            worst_after: self.is_burst.then_some(worst),
            refused_per_accepted: refused / seeds,
        }
    }
}

/// Returns cases with 3 %, 10 % and 30 % of random refusals, with and without a limited capacity of the server.
pub(crate) fn noise() -> Vec<NoiseCase> {
    let mut noise_cases = Vec::new();
    for is_burst in [false, true] {
        for per_mille in [30, 100, 300] {
            for has_window in [false, true] {
                for (callers, sample, hint) in [
                    (50, ms(20), ms(300)),
                    (100, ms(200), ms(200)),
                    (100, ms(200), ms(1_000)),
                ] {
                    noise_cases.push(NoiseCase {
                        per_mille,
                        window: has_window.then_some(callers as u32 / 2),
                        callers,
                        sample,
                        hint,
                        is_burst,
                    });
                }
            }
        }
    }
    noise_cases
}

/// The outcomes of all simulated cases of a group, from which averages are computed.
pub(crate) struct Figures {
    pub(crate) outcomes: Vec<Outcome>,
}

impl Figures {
    fn mean(&self, of: impl Fn(&Outcome) -> f64) -> f64 {
        self.outcomes.iter().map(of).sum::<f64>() / self.outcomes.len() as f64
    }

    pub(crate) fn share(&self) -> f64 {
        self.mean(Outcome::share)
    }

    pub(crate) fn worst_share(&self) -> f64 {
        let shares = self.outcomes.iter().map(Outcome::share);
        shares.fold(f64::INFINITY, f64::min)
    }

    pub(crate) fn refused_per_accepted(&self) -> f64 {
        self.mean(Outcome::refused_per_accepted)
    }

    pub(crate) fn refused_per_event(&self) -> f64 {
        self.mean(Outcome::refused_per_event)
    }

    /// Returns the smallest evenness between clients in any case of the group. Evenness is the number of samples of the slowest client as a
    /// fraction of that of the fastest.
    pub(crate) fn evenness(&self) -> f64 {
        let all = self.outcomes.iter().map(Outcome::evenness);
        all.fold(f64::INFINITY, f64::min)
    }
}

impl Group {
    /// Returns a description of each required minimum that these figures miss.
    pub(crate) fn failures(&self, figures: &Figures) -> Vec<String> {
        let mut failures = Vec::new();
        let mut require = |is_met: bool, what: String| {
            if !is_met {
                let Self {
                    name, sample, hint, ..
                } = self;
                failures.push(format!("{name}, sample {sample:?}, hint {hint:?}: {what}"));
            }
        };
        let share = figures.share();
        require(share >= self.min_share, format!("share {share:.3}"));
        let refused = figures.refused_per_accepted();
        require(
            refused <= 1.0 / ACCEPTED_PER_REFUSAL,
            format!("{refused:.3} refusals per accepted request"),
        );
        let even = figures.evenness();
        require(even >= self.min_evenness, format!("evenness {even:.2}"));
        for event in figures.outcomes.iter().flat_map(|outcome| &outcome.events) {
            require(event.refused <= event.in_flight, format!("{event:?}"));
        }
        failures
    }
}
