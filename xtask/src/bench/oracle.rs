//! The oracle is an ideal client. It always knows the in-flight limit of the server, submits
//! without delay, and is never rejected.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A value of the server's limit on samples in flight, and the time in milliseconds from which the
/// value applies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Level {
    pub(crate) at_ms: f64,
    pub(crate) window: u64,
}

/// Returns the time in milliseconds at which the last of `samples` samples completes with an ideal
/// client. An ideal client always uses the whole in-flight limit of the server.
///
/// When the limit increases, new samples start at once. When it decreases, samples that are already
/// in flight still complete. `levels` contains the values of the limit; the last value applies
/// until all samples have completed.
///
/// Returns `None` if the samples never complete because the last limit is 0.
pub(crate) fn completion_ms(samples: u64, latency_ms: f64, levels: &[Level]) -> Option<f64> {
    let mut remaining = samples;
    let mut ends = BinaryHeap::new();
    let mut levels = levels.iter().peekable();
    let (mut now, mut window, mut last) = (0.0, 0, 0.0);
    loop {
        while let Some(level) = levels.next_if(|level| level.at_ms <= now) {
            window = level.window;
        }
        while remaining > 0 && (ends.len() as u64) < window {
            remaining -= 1;
            last = now + latency_ms;
            ends.push(Reverse(Ordered(last)));
        }
        if remaining == 0 {
            return Some(last);
        }
        let end = ends.peek().map(|Reverse(Ordered(end))| *end);
        let change = levels.peek().map(|level| level.at_ms);
        now = match (end, change) {
            (Some(end), Some(change)) => f64::min(end, change),
            (Some(time), None) | (None, Some(time)) => time,
            (None, None) => return None,
        };
        while ends.peek().is_some_and(|Reverse(Ordered(end))| *end <= now) {
            ends.pop();
        }
    }
}

/// A time in milliseconds with a total order, so that times can be sorted.
#[derive(Debug, PartialEq)]
struct Ordered(f64);

impl Eq for Ordered {}

impl PartialOrd for Ordered {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ordered {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels(levels: &[(f64, u64)]) -> Vec<Level> {
        let level = |(at_ms, window): &(f64, u64)| Level {
            at_ms: *at_ms,
            window: *window,
        };
        levels.iter().map(level).collect()
    }

    #[test]
    fn ideal_client_always_uses_a_fixed_in_flight_limit_fully() {
        let fixed = levels(&[(0.0, 20)]);
        assert_eq!(completion_ms(1000, 200.0, &fixed), Some(10_000.0));
        assert_eq!(completion_ms(1001, 200.0, &fixed), Some(10_200.0));
        assert_eq!(completion_ms(5, 200.0, &fixed), Some(200.0));
    }

    #[test]
    fn ideal_client_fills_a_raised_limit_and_obeys_a_lowered_limit() {
        // One sample starts at 0 and three start at 50. The first completes at 100, when the fifth
        // starts.
        let growing = levels(&[(0.0, 1), (50.0, 4)]);
        assert_eq!(completion_ms(4, 100.0, &growing), Some(150.0));
        assert_eq!(completion_ms(5, 100.0, &growing), Some(200.0));
        // Four samples start at 0. From 100 on, one sample runs at a time.
        let shrinking = levels(&[(0.0, 4), (50.0, 1)]);
        assert_eq!(completion_ms(6, 100.0, &shrinking), Some(300.0));
    }

    #[test]
    fn in_flight_limit_of_zero_delays_or_prevents_completion() {
        let closed = levels(&[(0.0, 0), (70.0, 1)]);
        assert_eq!(completion_ms(1, 100.0, &closed), Some(170.0));
        assert_eq!(completion_ms(1, 100.0, &levels(&[(0.0, 0)])), None);
        assert_eq!(
            completion_ms(2, 100.0, &levels(&[(0.0, 1), (10.0, 0)])),
            None
        );
    }
}
