//! The oracle: a client that knows the window at every moment, submits in no time and is never refused.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// One level of the window: from when on, in milliseconds, and how many samples it takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Level {
    pub(crate) at_ms: f64,
    pub(crate) window: u64,
}

/// When the last of `samples` ends, in milliseconds, if the window is kept full at every moment: what runs is never cut, a
/// level that falls lets nothing in until enough has ended, one that rises is filled at once. The last level goes on for ever.
///
/// `None` where that never comes, since the last level takes nothing.
pub(crate) fn ends_at_ms(samples: u64, latency_ms: f64, levels: &[Level]) -> Option<f64> {
    let mut left = samples;
    let mut ends = BinaryHeap::new();
    let mut levels = levels.iter().peekable();
    let (mut now, mut window, mut last) = (0.0, 0, 0.0);
    loop {
        while let Some(level) = levels.next_if(|level| level.at_ms <= now) {
            window = level.window;
        }
        while left > 0 && (ends.len() as u64) < window {
            left -= 1;
            last = now + latency_ms;
            ends.push(Reverse(Ordered(last)));
        }
        if left == 0 {
            return Some(last);
        }
        let end = ends.peek().map(|Reverse(Ordered(end))| *end);
        let change = levels.peek().map(|level| level.at_ms);
        now = match (end, change) {
            (Some(end), Some(change)) => f64::min(end, change),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => return None,
        };
        while ends.peek().is_some_and(|Reverse(Ordered(end))| *end <= now) {
            ends.pop();
        }
    }
}

/// Times have an order: none of them is no number.
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
    fn a_fixed_window_is_filled_round_by_round() {
        let fixed = levels(&[(0.0, 20)]);
        assert_eq!(ends_at_ms(1000, 200.0, &fixed), Some(10_000.0));
        assert_eq!(ends_at_ms(1001, 200.0, &fixed), Some(10_200.0));
        assert_eq!(ends_at_ms(5, 200.0, &fixed), Some(200.0));
    }

    #[test]
    fn a_rising_window_is_filled_and_a_falling_one_cuts_nothing() {
        // 1 at 0 and 3 more at 50, of which the first ends at 100 and makes room for the fifth.
        let rising = levels(&[(0.0, 1), (50.0, 4)]);
        assert_eq!(ends_at_ms(4, 100.0, &rising), Some(150.0));
        assert_eq!(ends_at_ms(5, 100.0, &rising), Some(200.0));
        // 4 at 0; at 100 there is room for 1 at a time.
        let falling = levels(&[(0.0, 4), (50.0, 1)]);
        assert_eq!(ends_at_ms(6, 100.0, &falling), Some(300.0));
    }

    #[test]
    fn a_closed_window_is_waited_out_or_never_opens() {
        let closed = levels(&[(0.0, 0), (70.0, 1)]);
        assert_eq!(ends_at_ms(1, 100.0, &closed), Some(170.0));
        assert_eq!(ends_at_ms(1, 100.0, &levels(&[(0.0, 0)])), None);
        assert_eq!(ends_at_ms(2, 100.0, &levels(&[(0.0, 1), (10.0, 0)])), None);
    }
}
