//! The adaptive limit on requests in flight. It learns from refusals how many requests the server accepts at once, and probes beyond that
//! number.

use std::time::Duration;

use crate::noise_filter::{NoiseFilter, ProbeFailure, RefusalMeaning};

/// An adaptive limit on the number of requests in flight. A plain value without synchronization: its owner reports refusals, accepted
/// requests and full windows, and applies [`AdaptiveLimit::limit`] to the window.
///
/// Before the first refusal the capacity of the server is unknown, and the ceiling is the limit. A refusal sets the learned limit, called
/// *level*, to the number of requests that the server had accepted at that time. Afterwards only limit probes exceed the learned limit: for
/// a while, a few more requests are sent, to find out whether the server accepts them. The interval between probes depends on the time for
/// which a refusal leaves the window idle. Refusals that continue however few requests are in flight are classified as random and do not
/// lower the learned limit. `docs/decisions/0005-the-in-flight-window.md` has the reasons and measurements.
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
    /// Whether the refusal started a new congestion event. A congestion event is a group of refusals of requests that were in flight at the
    /// same time.
    pub is_new_event: bool,
    /// The number of requests that the server had accepted and not finished at the time of the refusal.
    pub accepted: u32,
    /// The time for which the refusal closed the gate.
    pub closed_for: Duration,
}

/// The reason for a change of the in-flight limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitChange {
    /// The first refusal set the learned limit.
    Learned,
    /// A refusal while no limit probe was in progress showed that the server accepts fewer requests than the learned limit.
    Lowered,
    /// A limit probe started: for a while, more requests than the learned limit may be in flight.
    ProbeStarted,
    /// A limit probe succeeded: the server accepted enough requests beyond the learned limit, so the learned limit rises to the limit of
    /// the probe.
    ProbeSucceeded,
    /// The server refused a request during a limit probe.
    ProbeFailed,
    /// Responses to requests that were sent before the last refusal showed that the server accepts more requests than the learned limit,
    /// which rises to their number.
    Corrected,
    /// Refusals continued however few requests were in flight, so they are random. The limit that applied before these refusals was
    /// restored.
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
    /// The earliest time at which the limit may begin to recover from a large drop by quickly rising steps.
    recovery_at: Duration,
    /// The number of consecutive failed probes near the same learned limit.
    failures: u32,
    /// The learned limit at the last failed probe.
    failed_level: u32,
    /// The number of accepted requests, minus `ACCEPTED_PER_REFUSAL` for each refusal. While this number is negative no limit probe starts,
    /// which bounds the fraction of refused requests.
    credit: i64,
    /// Whether a refusal has closed the gate, and no response has opened the gate since.
    is_gate_closed: bool,
    /// Whether the interval until the next limit probe still has to be computed. That happens when the window is full for the first time
    /// after the gate closure.
    is_interval_due: bool,
    /// The duration of the last gate closure.
    closed_for: Duration,
    /// The time since which the closed gate has held back requests although the window had room for them.
    held_since: Option<Duration>,
    /// Whether the learned limit was lowered after failed probes, to leave capacity to other processes.
    has_yielded: bool,
    /// The average fraction of the window that was idle during the last gate closure.
    idle_fraction: f64,
}

impl AdaptiveLimit {
    /// The interval from one failed limit probe to the next probe, as a multiple of the idle time that the failed probe caused: the time
    /// for which its refusal left the window idle.
    const COSTS_PER_INTERVAL: u32 = 20;
    /// The minimum interval between limit probes, as a multiple of the duration of the last gate closure.
    const MIN_CLOSURES_PER_INTERVAL: u32 = 2;
    /// The delay before the limit begins to recover from a large drop, as a multiple of the time for which the last refusal left the window
    /// idle.
    const COSTS_BEFORE_RECOVERY: u32 = 4;
    /// The maximum idle time from which the delay before a recovery is computed, as a multiple of the duration of the last gate closure.
    /// The idle time is longer than that if several gate closures follow each other before the window is full.
    const MAX_CLOSURES_OF_COST: u32 = 2;
    /// The maximum interval between limit probes.
    const MAX_INTERVAL: Duration = Duration::from_secs(60);
    /// The interval between limit probes doubles with each further consecutive failure of a probe, but at most this many times.
    const MAX_DOUBLINGS: u32 = 2;
    /// Two failed probes count as consecutive if the learned limit changed by at most 1 / this number from one to the other.
    const SAME_LEVEL_DIVISOR: u32 = 8;
    /// A limit probe raises the limit by at most the learned limit divided by this number, which bounds the number of refusals when the
    /// probe fails.
    const MAX_STEP_DIVISOR: u32 = 8;
    /// A limit probe succeeds after the server has accepted enough requests beyond the learned limit: at least the learned limit divided by
    /// this number. If fewer requests were enough, this client would take all the capacity that another process leaves free while the gate
    /// of that process is closed.
    const SUCCESS_DIVISOR: u32 = 12;
    /// Replaces [`Self::SUCCESS_DIVISOR`] if this client had no requests in flight any more when the gate opened. Another process that was
    /// refused at the same time then has no requests in flight either.
    const EMPTY_WINDOW_SUCCESS_DIVISOR: u32 = 9;
    /// The maximum number of accepted requests beyond the learned limit that a limit probe needs to succeed, whatever the learned limit is.
    const MAX_REQUIRED_SUCCESSES: u32 = 3;
    /// The number of accepted requests that offset one refusal.
    const ACCEPTED_PER_REFUSAL: i64 = 25;
    /// The maximum of the field `credit`, in accepted requests.
    const MAX_CREDIT: i64 = 500;
    /// The field `credit` never falls below -(`BASE_NEGATIVE_CREDIT` + `NEGATIVE_CREDIT_PER_UNIT` × learned limit).
    const BASE_NEGATIVE_CREDIT: i64 = 8;
    /// The field `credit` never falls below -(`BASE_NEGATIVE_CREDIT` + `NEGATIVE_CREDIT_PER_UNIT` × learned limit).
    const NEGATIVE_CREDIT_PER_UNIT: i64 = 4;
    /// A refusal at exactly the learned limit lowers the learned limit by 1/7: although the server had accepted that many requests before,
    /// other processes now use a part of its capacity.
    const DECREASE_DIVISOR: u32 = 7;
    /// The number of consecutive failed probes after which the client lowers the learned limit for one interval, to leave capacity to other
    /// processes.
    const FAILURES_TO_YIELD: u32 = 4;
    /// The learned limit is lowered by 1 / this number to leave capacity to other processes.
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

    /// Changes the ceiling, which the limit never exceeds, for example to the maximum in a server's configuration.
    pub fn set_ceiling(&mut self, ceiling: u32) {
        self.ceiling = ceiling.max(self.floor);
        if let Some(level) = self.level {
            self.level = Some(level.min(self.ceiling));
        }
        self.probe = None;
    }

    /// Records a refusal. If the refusal has changed the limit, returns the reason of the change.
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

    /// Records that the closed gate holds back a request although the window has room for it.
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

    /// Corrects the recorded state of the gate after the gate was found open. If a refusal is recorded later than the response that opened
    /// the gate, the gate would otherwise count as closed forever.
    pub fn on_gate_seen_open(&mut self, in_flight: u32) {
        if self.schedule.is_gate_closed {
            self.on_reopened(in_flight);
        }
    }

    /// Records that the server accepted a request. Call this method for all requests while others wait, and always for requests that were
    /// sent before the last refusal (`is_straggler`). `accepted` is the number of accepted requests in flight. If the limit has changed,
    /// returns the reason of the change.
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

    /// Records that a request waits because the window is full. If a limit probe is due, starts the probe, which raises the limit.
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

    /// Handles a refusal that no limit probe caused. `accepted`, the number of accepted requests at that time, is taken as the server's
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

/// Returns the average fraction of the window that was idle while the gate was closed. The number of requests in flight is assumed to fall
/// at a constant rate, from `level` at the start of the closure to `in_flight` at its end.
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

    /// Returns the number by which the learned limit is divided to get the number of accepted requests that a limit probe needs to succeed.
    fn success_divisor(&self) -> u32 {
        if self.idle_fraction < 1.0 {
            AdaptiveLimit::SUCCESS_DIVISOR
        } else {
            AdaptiveLimit::EMPTY_WINDOW_SUCCESS_DIVISOR
        }
    }

    /// Records a failed limit probe at `level`. The failure counts as consecutive, which lengthens the probe interval, if the learned limit
    /// is near that of the previous failure.
    fn record_failure(&mut self, level: u32) {
        let is_consecutive =
            level.abs_diff(self.failed_level) <= (level / AdaptiveLimit::SAME_LEVEL_DIVISOR).max(1);
        self.failures = if is_consecutive { self.failures + 1 } else { 1 };
        self.failed_level = level;
        self.step = 1;
    }

    /// Computes the interval until the next limit probe from the time for which the last gate closure left the window idle. Has an effect
    /// only at the first call after the gate has opened, when the window is full again.
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

    /// Forgets the failed limit probes and allows a new probe at once, since the refusals were random.
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
