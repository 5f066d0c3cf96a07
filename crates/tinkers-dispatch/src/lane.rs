//! One lane: a gate, and what a request takes.

use std::time::Duration;

use tinkers_core::{Moment, RouteClass, Settlement};
use tinkers_limits::{BackoffGate, Epoch};

use crate::pool::Pool;
use crate::settings::LaneSettings;

/// What a lane looks like at one moment, for logs and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneState {
    /// Requests that wait for admission.
    pub waiting: usize,
    /// Requests being sent.
    pub slots: u64,
    /// Bytes being sent.
    pub bytes: u64,
    /// Requests from admission to result, where the lane counts them.
    pub flights: u64,
    /// When the gate opens, or opened last.
    pub opens_at: Moment,
}

#[derive(Debug)]
pub(crate) struct Lane {
    class: RouteClass,
    pub(crate) gate: BackoffGate,
    pub(crate) pool: Pool,
    pub(crate) counts_flights: bool,
    max_hint: Duration,
}

impl Lane {
    /// How long the gate closes when the server gives no hint.
    const UNHINTED: Duration = Duration::from_secs(1);
    /// The same for a large request, which is likely what the server had no room for.
    const UNHINTED_LARGE: Duration = Duration::from_secs(5);
    /// A request above this is large, in bytes.
    const LARGE: u64 = 128 * 1024;

    pub(crate) fn new(class: RouteClass, settings: LaneSettings, max_hint: Duration) -> Self {
        Self {
            class,
            gate: BackoffGate::new(),
            pool: Pool::new(settings),
            counts_flights: class == RouteClass::Sample,
            max_hint,
        }
    }

    /// Ends an attempt that was admitted in `epoch`.
    pub(crate) fn settle(&self, outcome: Settlement, now: Moment, epoch: Epoch, bytes: u64) {
        if let Settlement::Refused { hint } = outcome {
            self.refused(hint, now, epoch, bytes);
        }
        // Only now: whoever is woken by it must find the gate closed.
        self.pool.end_attempt(bytes);
    }

    pub(crate) fn state(&self) -> LaneState {
        let usage = self.pool.usage();
        LaneState {
            waiting: usage.waiting,
            slots: usage.slots,
            bytes: usage.bytes,
            flights: usage.flights,
            opens_at: Moment::from_origin(self.gate.opens_at()),
        }
    }

    fn refused(&self, hint: Option<Duration>, now: Moment, epoch: Epoch, bytes: u64) {
        let unhinted = if bytes > Self::LARGE {
            Self::UNHINTED_LARGE
        } else {
            Self::UNHINTED
        };
        let pause = hint.unwrap_or(unhinted).min(self.max_hint);
        let closed = self.gate.close(now.after(pause).since_origin(), epoch);
        let opens_at = Moment::from_origin(closed.opens_at);
        if closed.first_of_its_event {
            let opens_in_ms = opens_at.since(now).as_millis() as u64;
            tracing::debug!(
                class = self.class.name(),
                opens_in_ms,
                hinted = hint.is_some(),
                "rate limited"
            );
        }
        self.pool.wake_hopeless(opens_at);
    }
}
