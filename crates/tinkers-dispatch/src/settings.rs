//! How much each lane lets through.

use std::time::Duration;

/// Limits of one lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneSettings {
    /// Requests being sent at once. At least 1; a zero is taken for it.
    pub slots: u64,
    /// Bytes being sent at once; the last one admitted may overshoot. `None` is without limit.
    pub bytes: Option<u64>,
    /// Requests from admission to result at once. `None` is without limit.
    pub flights: Option<u64>,
}

impl LaneSettings {
    /// A lane that limits the requests being sent, and nothing else.
    pub const fn slots(slots: u64) -> Self {
        Self {
            slots,
            bytes: None,
            flights: None,
        }
    }
}

/// Limits of every lane that has any; the control lane has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimiterSettings {
    /// Sampling submissions.
    pub sample: LaneSettings,
    /// Training submissions.
    pub train: LaneSettings,
    /// Polls.
    pub poll: LaneSettings,
    /// Listings and management.
    pub rest: LaneSettings,
    /// A lane is never closed for longer than this by one refusal, whatever the server says.
    pub max_hint: Duration,
}

impl Default for LimiterSettings {
    /// What the official SDK does where it has a limit: 400 samples and 10 MiB of prompts being submitted, 2000 samples in
    /// flight, 50 MB of passes being submitted.
    fn default() -> Self {
        Self {
            sample: LaneSettings {
                slots: 400,
                bytes: Some(10_485_760),
                flights: Some(2000),
            },
            train: LaneSettings {
                slots: 32,
                bytes: Some(50_000_000),
                flights: None,
            },
            poll: LaneSettings::slots(4000),
            rest: LaneSettings::slots(16),
            max_hint: Duration::from_secs(15 * 60),
        }
    }
}
