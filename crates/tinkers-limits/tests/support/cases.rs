//! What is simulated, in groups, and what is asked of each.

use std::time::Duration;

use crate::sim::{Case, Outcome, Window};

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
    let mut next = || {
        let here = size as u32;
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        size = (size + (state >> 33) as i64 % 11 - 5).clamp(5, 80);
        here
    };
    Window {
        sizes: (0..600).map(|_| next()).collect(),
        each: Duration::from_secs(1),
        begun: Duration::ZERO,
    }
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
