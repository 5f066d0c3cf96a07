//! The adaptive limit on requests in flight. It learns from refusals how many requests the server accepts at once, and probes beyond that
//! number.

use std::time::Duration;

use crate::noise_filter::{NoiseFilter, ProbeFailure, RefusalMeaning};

/// An adaptive limit on the number of requests in flight. A plain value without synchronization: its owner reports refusals, accepted
/// requests and full windows, and applies [`AdaptiveLimit::limit`] to the window.
///
/// Before the first refusal the limit is unknown, and the ceiling applies. A refusal sets the learned limit, called *level*, to the number
/// of requests that the server had accepted at that time. Afterwards only limit probes exceed the learned limit; the interval between the
/// probes depends on the time for which a refusal leaves the window idle. Refusals that continue however few requests are in flight are
/// classified as random and do not lower the learned limit. `docs/decisions/0005-the-in-flight-window.md` has the reasons and measurements.
#[derive(Debug, Clone, PartialEq)]
pub struct AdaptiveLimit {
    floor: u32,
    ceiling: u32,
    level: Option<u32>,
    probe: Option<LimitProbe>,
    schedule: ProbeSchedule,
    noise: NoiseFilter,
}

/// A refusal (rate-limited response), and the state of the in-flight window at that time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefusalContext {
    /// The time of the refusal, measured from the clock's origin.
    pub now: Duration,
    /// Whether the refusal started a new congestion event. Concurrent refusals belong to one event.
    pub is_new_event: bool,
    /// The number of requests that the server had accepted and not finished.
    pub accepted: u32,
    /// The time for which the refusal closed the gate.
    pub closed_for: Duration,
}

/// The reason for a change of the in-flight limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitChange {
    /// The first refusal set the learned limit.
    Learned,
    /// A refusal without a limit probe showed that the server accepts fewer requests than the learned limit.
    Lowered,
    /// A limit probe started: for a while, more requests than the learned limit may be in flight.
    ProbeStarted,
    /// The server accepted enough requests beyond the learned limit, which rises to the limit of the probe.
    ProbeSucceeded,
    /// The server refused a request during a limit probe.
    ProbeFailed,
    /// Responses to earlier requests show that the server accepted more requests than the learned limit.
    Corrected,
    /// Refusals continued however few requests were in flight, so the limit before them was restored.
    Restored,
}

/// A limit probe in progress: its raised limit, and the number of requests that the server has accepted beyond the learned limit so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LimitProbe {
    target: u32,
    accepted_beyond: u32,
}

/// The time and the step size of the next limit probe.
#[derive(Debug, Clone, Copy, PartialEq)]
struct ProbeSchedule {
    step: u32,
    /// The earliest time of the next limit probe.
    next_probe_at: Duration,
    /// The earliest time at which the limit may recover from a large drop.
    recovery_at: Duration,
    /// The number of consecutive failed probes near the same learned limit.
    failures: u32,
    /// The learned limit at the last failed probe.
    failed_level: u32,
    /// The number of accepted requests, minus `ACCEPTED_PER_REFUSAL` for each refusal. While this number is negative there are no limit
    /// probes. This bounds the fraction of refused requests.
    credit: i64,
    /// Whether a refusal has closed the gate, and no response has opened it since.
    is_gate_closed: bool,
    /// Whether the probe interval after the last gate closure still has to be computed.
    is_interval_due: bool,
    /// The duration of the last gate closure.
    closed_for: Duration,
    /// The time since which the closed gate has held back requests for which the window had room.
    held_since: Option<Duration>,
    /// Whether the learned limit was lowered to leave capacity to other processes.
    has_yielded: bool,
    /// The average fraction of the window that was idle during the last gate closure.
    idle_fraction: f64,
}

impl AdaptiveLimit {
    /// The probe interval after a failed probe, as a multiple of the idle time: the time for which the refusal of the probe left the window
    /// idle.
    const COSTS_PER_INTERVAL: u32 = 20;
    /// The minimum probe interval, as a multiple of the duration of the last gate closure.
    const MIN_CLOSURES_PER_INTERVAL: u32 = 2;
    /// The delay before the recovery from a large drop, as a multiple of the time for which the last refusal left the window idle.
    const COSTS_BEFORE_RECOVERY: u32 = 4;
    /// The maximum idle time that counts for the delay before a recovery, as a multiple of the last gate closure. The maximum applies if
    /// several gate closures follow each other before the window is full.
    const MAX_CLOSURES_OF_COST: u32 = 2;
    /// The maximum probe interval.
    const MAX_INTERVAL: Duration = Duration::from_secs(60);
    /// The maximum number of times that consecutive failures double the probe interval.
    const MAX_DOUBLINGS: u32 = 2;
    /// Two failed probes count as consecutive if the learned limit changed by at most 1 / this number from one to the other.
    const SAME_LEVEL_DIVISOR: u32 = 8;
    /// The step of a probe is at most the learned limit divided by this number, which bounds the number of refusals when the probe fails.
    const MAX_STEP_DIVISOR: u32 = 8;
    /// A probe succeeds after the server has accepted enough requests beyond the learned limit: at least the learned limit divided by this
    /// number. If fewer requests were enough, this client would take all the capacity that another process leaves free while the gate of
    /// that process is closed.
    const SUCCESS_DIVISOR: u32 = 12;
    /// Replaces [`Self::SUCCESS_DIVISOR`] if the window was empty at the end of a gate closure. The other process then has no requests in
    /// flight either.
    const EMPTY_WINDOW_SUCCESS_DIVISOR: u32 = 9;
    /// The maximum number of accepted requests beyond the learned limit that a probe needs to succeed.
    const MAX_REQUIRED_SUCCESSES: u32 = 3;
    /// The number of accepted requests that offset one refusal.
    const ACCEPTED_PER_REFUSAL: i64 = 25;
    /// The maximum of the field `credit`, in accepted requests.
    const MAX_CREDIT: i64 = 500;
    /// The lower bound of the field `credit` is minus this number, minus a multiple of the learned limit.
    const BASE_NEGATIVE_CREDIT: i64 = 8;
    /// The factor of the learned limit in the lower bound of the field `credit`.
    const NEGATIVE_CREDIT_PER_UNIT: i64 = 4;
    /// The divisor of the decrease after a refusal at exactly the learned limit: the learned limit is lowered by 1/7, although the server
    /// had accepted that many requests before.
    const DECREASE_DIVISOR: u32 = 7;
    /// The number of consecutive failed probes after which the client lowers the learned limit for one interval, to leave capacity to other
    /// processes.
    const FAILURES_TO_YIELD: u32 = 4;
    /// The divisor of the decrease that leaves capacity to other processes: the learned limit is lowered by 1/6.
    const YIELD_DIVISOR: u32 = 6;

    /// Creates a limit that has learned nothing yet. The limit stays between `floor` (at least 1) and `ceiling`.
    pub fn new(floor: u32, ceiling: u32) -> Self {
        let floor = floor.max(1);
        Self {
            floor,
            ceiling: ceiling.max(floor),
            level: None,
            probe: None,
            schedule: ProbeSchedule::new(),
            noise: NoiseFilter::new(),
        }
    }

    /// Returns the maximum number of requests in flight.
    pub fn limit(&self) -> u32 {
        match (self.level, self.probe) {
            (None, _) => self.ceiling,
            (Some(level), None) => level,
            (Some(_), Some(probe)) => probe.target,
        }
    }

    /// Returns the learned limit, or `None` before the first refusal.
    pub const fn level(&self) -> Option<u32> {
        self.level
    }

    /// Changes the maximum of the limit, for example to the maximum in a server's configuration.
    pub fn set_ceiling(&mut self, ceiling: u32) {
        self.ceiling = ceiling.max(self.floor);
        if let Some(level) = self.level {
            self.level = Some(level.min(self.ceiling));
        }
        self.probe = None;
    }

    /// Records a refusal. Returns the reason if the limit has changed.
    pub fn on_refusal(&mut self, refusal: RefusalContext) -> Option<LimitChange> {
        let max_negative_credit = Self::BASE_NEGATIVE_CREDIT
            + Self::NEGATIVE_CREDIT_PER_UNIT * i64::from(self.level.unwrap_or(u32::MAX));
        self.schedule.credit =
            (self.schedule.credit - Self::ACCEPTED_PER_REFUSAL).max(-max_negative_credit);
        if !refusal.is_new_event {
            return None;
        }
        self.schedule.is_gate_closed = true;
        self.schedule.is_interval_due = true;
        self.schedule.closed_for = refusal.closed_for;
        let probe = self.probe.take();
        if refusal.accepted == 0 {
            // The client had no accepted requests, so other clients have filled the server, and its capacity for this client
            // remains unknown.
            return probe.map(|_| LimitChange::ProbeFailed);
        }
        let accepted = self.bounded(refusal.accepted);
        let is_probe_refusal = probe.is_some() && self.level.is_some_and(|level| accepted >= level);
        if is_probe_refusal {
            return Some(self.probe_refused(accepted));
        }
        match self.noise.on_refusal(self.level, accepted) {
            RefusalMeaning::Capacity => self.refusal_without_probe(accepted, probe.is_some()),
            RefusalMeaning::Noise => {
                self.schedule.is_interval_due = false;
                None
            }
            RefusalMeaning::Restored(level) => {
                self.level = level.map(|level| self.bounded(level));
                self.schedule.clear_failures();
                Some(LimitChange::Restored)
            }
            RefusalMeaning::Confirmed(level) => {
                self.level = Some(self.bounded(level));
                self.schedule.record_failure(level);
                Some(LimitChange::Lowered)
            }
        }
    }

    /// Records that the closed gate holds back a request for which the window has room.
    pub fn on_held_back(&mut self, now: Duration) {
        if self.schedule.is_gate_closed && self.schedule.is_interval_due {
            self.schedule.held_since.get_or_insert(now);
        }
    }

    /// Records that the gate has opened again, and that `in_flight` requests were still in flight at that time.
    pub fn on_reopened(&mut self, in_flight: u32) {
        self.schedule.is_gate_closed = false;
        self.schedule.idle_fraction = idle_fraction(self.level.unwrap_or(0), in_flight);
    }

    /// Records that the gate was found open. A refusal may be recorded after the response that opened the gate; without this correction
    /// the gate would then count as closed forever.
    pub fn on_gate_seen_open(&mut self, in_flight: u32) {
        if self.schedule.is_gate_closed {
            self.on_reopened(in_flight);
        }
    }

    /// Records an accepted request. Call it for requests that were sent before the last refusal (`is_straggler`), and for all requests
    /// while others wait. `accepted` is the number of accepted requests in flight. Returns the reason if the limit has changed.
    pub fn on_accepted(&mut self, accepted: u32, is_straggler: bool) -> Option<LimitChange> {
        self.schedule.credit = (self.schedule.credit + 1).min(Self::MAX_CREDIT);
        self.noise.on_accepted(self.level, accepted);
        let level = self.level?;
        if accepted <= level {
            return None;
        }
        if is_straggler {
            self.level = Some(self.bounded(accepted));
            return Some(LimitChange::Corrected);
        }
        let probe = self.probe.as_mut()?;
        probe.accepted_beyond += 1;
        let required = (level / self.schedule.success_divisor()).min(Self::MAX_REQUIRED_SUCCESSES);
        if probe.accepted_beyond < required.max(probe.target - level) {
            return None;
        }
        self.level = Some(probe.target);
        self.probe = None;
        self.schedule.record_success();
        self.noise.probe_succeeded();
        Some(LimitChange::ProbeSucceeded)
    }

    /// Records that a request waits because the window is full. Starts a limit probe if one is due.
    pub fn on_window_full(&mut self, now: Duration) -> Option<LimitChange> {
        let level = self.level?;
        self.schedule.start_interval(now);
        let is_probe_blocked =
            self.schedule.is_gate_closed || self.probe.is_some() || self.noise.is_noisy();
        if is_probe_blocked || level >= self.ceiling {
            return None;
        }
        let step = match self
            .noise
            .recovery_target(level, now >= self.schedule.recovery_at)
        {
            Some(target) => self.schedule.step.min(target - level),
            None if now < self.schedule.next_probe_at || self.schedule.credit < 0 => return None,
            None => self
                .schedule
                .step
                .min((level / Self::MAX_STEP_DIVISOR).max(1)),
        };
        let target = level.saturating_add(step).min(self.ceiling);
        self.probe = Some(LimitProbe {
            target,
            accepted_beyond: 0,
        });
        Some(LimitChange::ProbeStarted)
    }

    /// Handles the refusal of a limit probe while the server had accepted at least as many requests as the learned limit.
    fn probe_refused(&mut self, accepted: u32) -> LimitChange {
        let failure = self.noise.probe_failed();
        let level = self.level.unwrap_or(accepted);
        // The server accepts exactly this many requests.
        self.level = Some(accepted);
        if failure == ProbeFailure::Recovery {
            self.schedule.step = 1;
            self.schedule.is_interval_due = false;
            return LimitChange::ProbeFailed;
        }
        self.schedule.record_failure(accepted);
        if accepted == level
            && self
                .schedule
                .failures
                .is_multiple_of(Self::FAILURES_TO_YIELD)
        {
            self.level = Some(self.bounded(level - level / Self::YIELD_DIVISOR));
            self.schedule.has_yielded = true;
        }
        LimitChange::ProbeFailed
    }

    /// Handles a refusal that no limit probe caused. Takes `accepted`, the number of accepted requests at that time, as the server's
    /// capacity.
    fn refusal_without_probe(&mut self, accepted: u32, is_probing: bool) -> Option<LimitChange> {
        let Some(level) = self.level else {
            self.level = Some(accepted);
            self.schedule.record_failure(accepted);
            return Some(LimitChange::Learned);
        };
        if accepted < level {
            // The server accepts exactly this many requests.
            self.level = Some(accepted);
            self.schedule.record_failure(accepted);
            return Some(if is_probing {
                LimitChange::ProbeFailed
            } else {
                LimitChange::Lowered
            });
        }
        self.schedule.record_failure(level);
        if accepted > level {
            // The learned limit was higher when these requests were accepted, so their number says nothing about the current learned limit.
            return None;
        }
        // The server has accepted this many requests before, so other processes use it as well.
        self.level = Some(self.bounded(level - level.div_ceil(Self::DECREASE_DIVISOR)));
        Some(LimitChange::Lowered)
    }

    fn bounded(&self, level: u32) -> u32 {
        level.clamp(self.floor, self.ceiling)
    }
}

/// Returns the average fraction of the window that was idle during a gate closure. Assumes that the number of requests in flight fell at a
/// constant rate, from `level` to `in_flight`.
fn idle_fraction(level: u32, in_flight: u32) -> f64 {
    if in_flight == 0 {
        return 1.0;
    }
    let remaining = f64::from(in_flight) / f64::from(level.max(1));
    (1.0 - remaining).max(0.0) / 2.0
}

impl ProbeSchedule {
    const fn new() -> Self {
        Self {
            step: 1,
            next_probe_at: Duration::ZERO,
            recovery_at: Duration::ZERO,
            failures: 0,
            failed_level: 0,
            credit: 0,
            is_gate_closed: false,
            is_interval_due: false,
            closed_for: Duration::ZERO,
            held_since: None,
            has_yielded: false,
            idle_fraction: 1.0,
        }
    }

    /// Returns the divisor of the learned limit that gives the number of accepted requests for a successful probe.
    fn success_divisor(&self) -> u32 {
        if self.idle_fraction < 1.0 {
            AdaptiveLimit::SUCCESS_DIVISOR
        } else {
            AdaptiveLimit::EMPTY_WINDOW_SUCCESS_DIVISOR
        }
    }

    /// Records a failed probe at `level`. The failure counts as consecutive if the learned limit is near that of the previous failure.
    fn record_failure(&mut self, level: u32) {
        let is_consecutive =
            level.abs_diff(self.failed_level) <= (level / AdaptiveLimit::SAME_LEVEL_DIVISOR).max(1);
        self.failures = if is_consecutive { self.failures + 1 } else { 1 };
        self.failed_level = level;
        self.step = 1;
    }

    /// Computes the next probe interval from the time for which the last gate closure left the window idle. Has an effect only when the
    /// window is full for the first time after the gate closure.
    fn start_interval(&mut self, now: Duration) {
        if self.is_gate_closed || !std::mem::take(&mut self.is_interval_due) {
            return;
        }
        let held_since = self.held_since.take().unwrap_or(now);
        let idle = now.saturating_sub(held_since).mul_f64(self.idle_fraction);
        let doublings = if std::mem::take(&mut self.has_yielded) {
            0
        } else {
            self.failures
                .saturating_sub(1)
                .min(AdaptiveLimit::MAX_DOUBLINGS)
        };
        let min_interval = self
            .closed_for
            .saturating_mul(AdaptiveLimit::MIN_CLOSURES_PER_INTERVAL);
        let interval = idle
            .saturating_mul(AdaptiveLimit::COSTS_PER_INTERVAL)
            .max(min_interval)
            .saturating_mul(1 << doublings)
            .min(AdaptiveLimit::MAX_INTERVAL);
        self.next_probe_at = now.saturating_add(interval);
        let cost = idle.min(
            self.closed_for
                .saturating_mul(AdaptiveLimit::MAX_CLOSURES_OF_COST),
        );
        let cost = cost.saturating_mul(AdaptiveLimit::COSTS_BEFORE_RECOVERY);
        self.recovery_at = now.saturating_add(cost);
    }

    /// Cancels the probe interval and forgets the failed probes, since the refusals were random.
    fn clear_failures(&mut self) {
        self.is_interval_due = false;
        self.held_since = None;
        self.next_probe_at = Duration::ZERO;
        self.failures = 0;
        self.step = 1;
    }

    fn record_success(&mut self) {
        self.step = self.step.saturating_mul(2);
        self.next_probe_at = Duration::ZERO;
    }
}

#[cfg(all(test, not(tinkers_loom)))]
#[path = "adaptive_limit_tests.rs"]
mod tests;
