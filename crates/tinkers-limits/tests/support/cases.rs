//! What is simulated, in groups, and what is asked of each.

use std::time::Duration;

use crate::clients::Policy;
use crate::sim::{self, Case, Outcome, Weather, Window};

/// Cases of one kind, and the least that they must reach.
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) sample: Duration,
    pub(crate) hint: Duration,
    /// For each seed one.
    pub(crate) cases: Vec<Case>,
    /// The share of an oracle, on average.
    pub(crate) least_share: f64,
    /// How even clients share, at least.
    pub(crate) least_evenness: f64,
}

/// One refusal for so many accepted requests, at most.
const ACCEPTED_PER_REFUSAL: f64 = 20.0;
/// Walks and steps begin differently for each.
const SEEDS: u64 = 8;

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A refusal without a hint closes for one second, as the longer of these.
const HINTS: [Duration; 2] = [ms(200), ms(1_000)];
const SAMPLES: [Duration; 2] = [ms(200), ms(1_000)];

/// A server that always takes the same, and 50 samples for each place. A single closure of one second costs so much of them, where
/// a sample takes a fifth of it, that nobody who learns by a refusal gets further than 0.92.
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
        least_share: if is_short(sample, hint) { 0.95 } else { 0.91 },
        least_evenness: 0.0,
    };
    grid(&[20, 50, 500], group)
}

/// 20, 50, 10, for so many seconds each, over three minutes.
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
            least_share: match (each, is_short(sample, hint)) {
                (30, true) => 0.85,
                (_, true) => 0.6,
                _ => 0.4,
            },
            least_evenness: 0.0,
        }
    };
    grid(&[10, 30], group)
}

/// Up to five more or fewer each second, from 5 to 80, over three minutes.
pub(crate) fn walks() -> Vec<Group> {
    let group = |_, sample, hint| Group {
        name: "walk".to_owned(),
        sample,
        hint,
        cases: for_three_minutes(walk, sample, hint),
        least_share: if is_short(sample, hint) { 0.88 } else { 0.65 },
        least_evenness: 0.0,
    };
    grid(&[0], group)
}

/// Two processes of one key for ten minutes, at a server that takes 50; the second begins five seconds late.
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
            least_share: 0.95,
            least_evenness: if is_short(sample, hint) { 0.5 } else { 0.0 },
        }
    };
    grid(&[50], group)
}

/// A refusal closes for no longer than a sample takes.
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
        weather: None,
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

/// The next state of a generator of numbers; its upper half is what is drawn.
pub(crate) const fn next(state: u64) -> u64 {
    state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407)
}

/// Refusals whatever is in flight, for all time or for a while.
pub(crate) struct Storm {
    pub(crate) per_mille: u64,
    /// What the server takes besides; `None` is more than anybody asks for.
    pub(crate) window: Option<u32>,
    /// So many want to sample at once.
    pub(crate) callers: u64,
    pub(crate) sample: Duration,
    pub(crate) hint: Duration,
    /// Whether it ends.
    pub(crate) is_burst: bool,
}

/// What came of a storm.
pub(crate) struct Weathered {
    /// Samples finished while it went on, as a part of what a client finishes that knows the window and has the same gate and ramp.
    pub(crate) during: f64,
    /// Of a storm that ended, from two seconds after it on: the share of what is possible.
    pub(crate) after: Option<f64>,
    /// The same of the seed in which it was least.
    pub(crate) worst_after: Option<f64>,
    pub(crate) refused_per_accepted: f64,
}

impl Storm {
    /// When a burst begins, and when it ends.
    const BURST: [Duration; 2] = [ms(10_000), ms(20_000)];
    const END: Duration = ms(40_000);
    /// None of them was looked at while the constants of the law were chosen.
    const SEEDS: std::ops::RangeInclusive<u64> = 101..=120;
    const SETTLED: Duration = ms(2_000);
    /// Of what a client finishes that knows the window.
    const LEAST_DURING: f64 = 0.7;
    /// Of what is possible, on average and with each seed.
    const LEAST_AFTER: f64 = 0.88;
    const LEAST_EVER_AFTER: f64 = 0.45;
    /// For each accepted request, besides those of the weather.
    const MOST_REFUSED: f64 = 0.1;

    fn case(&self, seed: u64) -> Case {
        let window = Window::fixed(self.window.unwrap_or(u32::MAX));
        let [from, to] = self.span();
        Case {
            callers: self.callers,
            end: Self::END,
            weather: Some(Weather {
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

    /// At once, what the server takes of what is asked for.
    fn most(&self) -> u32 {
        self.window.unwrap_or(u32::MAX).min(self.callers as u32)
    }

    /// What its outcome lacks.
    pub(crate) fn lacks(&self, seen: &Weathered) -> Vec<String> {
        let mut lacks = Vec::new();
        let mut ask = |share: f64, least: f64, what: &str| {
            if share < least {
                let name = self.name();
                let (sample, hint) = (self.sample, self.hint);
                lacks.push(format!(
                    "{name}, sample {sample:?}, hint {hint:?}: {share:.2} {what}"
                ));
            }
        };
        ask(seen.during, Self::LEAST_DURING, "meanwhile");
        ask(seen.after.unwrap_or(1.0), Self::LEAST_AFTER, "afterwards");
        ask(
            seen.worst_after.unwrap_or(1.0),
            Self::LEAST_EVER_AFTER,
            "afterwards with one seed",
        );
        let refused = self.per_mille as f64 / 1_000.0;
        let most = refused / (1.0 - refused) + Self::MOST_REFUSED;
        ask(
            most,
            seen.refused_per_accepted,
            "may be refused for one accepted",
        );
        lacks
    }

    /// How much is refused, for how long, and by what besides.
    pub(crate) fn name(&self) -> String {
        let lasts = if self.is_burst { " for 10 s" } else { "" };
        let window = self
            .window
            .map_or("none".to_owned(), |size| format!("W = {size}"));
        format!("{} %{lasts}, {window}", self.per_mille / 10)
    }

    /// Over all seeds.
    pub(crate) fn run(&self, policy: Policy) -> Weathered {
        let [from, to] = self.span();
        let settled = to + Self::SETTLED;
        let (mut during, mut known, mut after, mut refused) = (0, 0, Vec::new(), 0.0);
        let time = Self::END.saturating_sub(settled).as_secs_f64();
        // A place is free until the next request is there.
        let each = self.sample + sim::WAY * 2;
        let possible = f64::from(self.most()) * time / each.as_secs_f64();
        for seed in Self::SEEDS {
            let case = self.case(seed);
            let outcome = sim::run(&case, policy);
            during += outcome.finished_in(from, to);
            known += sim::run(&case, Policy::Knows(self.most())).finished_in(from, to);
            after.push(outcome.finished_in(settled, Self::END) as f64 / possible);
            refused += outcome.refused_per_accepted();
        }
        let seeds = after.len() as f64;
        let mean = after.iter().sum::<f64>() / seeds;
        let worst = after.iter().copied().fold(f64::INFINITY, f64::min);
        Weathered {
            during: during as f64 / known as f64,
            after: self.is_burst.then_some(mean),
            worst_after: self.is_burst.then_some(worst),
            refused_per_accepted: refused / seeds,
        }
    }
}

/// Three, ten and thirty in a hundred, with a window besides and without.
pub(crate) fn storms() -> Vec<Storm> {
    let mut storms = Vec::new();
    for is_burst in [false, true] {
        for per_mille in [30, 100, 300] {
            for has_window in [false, true] {
                for (callers, sample, hint) in [
                    (50, ms(20), ms(300)),
                    (100, ms(200), ms(200)),
                    (100, ms(200), ms(1_000)),
                ] {
                    storms.push(Storm {
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
    storms
}

/// The outcomes of a group.
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

    /// Of the least even one.
    pub(crate) fn evenness(&self) -> f64 {
        let all = self.outcomes.iter().map(Outcome::evenness);
        all.fold(f64::INFINITY, f64::min)
    }
}

impl Group {
    /// What these figures lack of what is asked for.
    pub(crate) fn lacks(&self, figures: &Figures) -> Vec<String> {
        let mut lacks = Vec::new();
        let mut ask = |is_met: bool, what: String| {
            if !is_met {
                let Self {
                    name, sample, hint, ..
                } = self;
                lacks.push(format!("{name}, sample {sample:?}, hint {hint:?}: {what}"));
            }
        };
        let share = figures.share();
        ask(share >= self.least_share, format!("share {share:.3}"));
        let refused = figures.refused_per_accepted();
        ask(
            refused <= 1.0 / ACCEPTED_PER_REFUSAL,
            format!("{refused:.3} refused for one accepted"),
        );
        let even = figures.evenness();
        ask(even >= self.least_evenness, format!("evenness {even:.2}"));
        for event in figures.outcomes.iter().flat_map(|outcome| &outcome.events) {
            ask(event.refused <= event.in_flight, format!("{event:?}"));
        }
        lacks
    }
}
