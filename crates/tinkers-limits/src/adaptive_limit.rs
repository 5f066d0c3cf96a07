//! The adaptive limit on requests in flight. It learns from refusals how many requests the server accepts at once, and probes beyond that
//! number.

use std::time::Duration;

use crate::noise_filter::{NoiseFilter, ProbeFailure, RefusalMeaning};

/// An adaptive limit on the number of requests in flight, learned from the responses of the server. The caller reports each refusal (429
/// response) and accepted request, and when the limit is reached. The caller also enforces [`AdaptiveLimit::limit`]; this type only
/// computes it.
///
/// Before the first refusal the capacity of the server is unknown, and the configured maximum is the limit. A refusal sets the learned
/// limit, called *level*, to the number of requests that the server had accepted at that time. Afterwards only limit probes exceed the
/// learned limit: for a while, a few more requests are sent, to find out whether the server accepts them. The more capacity stays unused
/// because of a refusal, the longer is the interval until the next probe. Refusals that continue however few requests are in flight are
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

/// A refusal (429 response) that is reported to an [`AdaptiveLimit`], with the number of accepted requests at that time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefusalContext {
    /// The time of the refusal, measured from the clock's origin.
    pub now: Duration,
    /// Whether this is the first refusal of a congestion event: a group of refusals of requests that were in flight at the same time. The
    /// other refusals of the group do not change the limit.
    pub is_new_event: bool,
    /// The number of requests that the server had accepted and not finished at the time of the refusal.
    pub accepted: u32,
    /// The length of the pause after the refusal. During the pause the gate is closed, so no new requests are sent.
    pub closed_for: Duration,
}

/// The reason for a change of the adaptive limit on the number of requests in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitChange {
    /// A refusal (429 response) set the limit, which was unknown before, to the number of requests that the server had accepted.
    Learned,
    /// A refusal (429 response) lowered the limit, because it showed that the server accepts fewer requests than the learned limit. No
    /// limit probe (a temporary increase of the limit) caused this refusal.
    Lowered,
    /// A limit probe started: for a while, more requests than the learned limit may be in flight, to find out whether the server accepts
    /// them.
    ProbeStarted,
    /// A limit probe (a temporary increase of the limit) succeeded: the server accepted enough of the additional requests, so the increased
    /// limit becomes the learned limit.
    ProbeSucceeded,
    /// A limit probe (a temporary increase of the limit) failed: the server refused a request, so the increase ends.
    ProbeFailed,
    /// The learned limit was too low and has risen: of the requests that were in flight at the last refusal, the server accepted more than
    /// the learned limit.
    Corrected,
    /// The server kept refusing requests however far the limit was lowered, so the refusals are random. The limit that applied before these
    /// refusals was restored.
    Restored,
}

/// A limit probe in progress, which tests whether the server accepts more requests than the learned limit. Consists of the temporarily
/// raised limit, and the number of requests accepted beyond the learned limit so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LimitProbe {
    target: u32,
    accepted_beyond: u32,
}

/// The schedule of the next limit probe (a temporary increase of the in-flight limit): its step size, its earliest time, and the state from
/// which both are computed.
#[derive(Debug, Clone, Copy, PartialEq)]
struct ProbeSchedule {
    step: u32,
    /// The earliest time of the next limit probe (a temporary increase of the in-flight limit), measured from the clock's origin.
    next_probe_at: Duration,
    /// The earliest time at which the limit, after it has dropped to half or less, may begin to rise back to its previous value by quickly
    /// growing steps.
    recovery_at: Duration,
    /// The number of consecutive refusals (429 responses) at about the same learned limit, for example of limit probes. With each of them,
    /// the interval until the next limit probe (temporary increase of the limit) grows.
    failures: u32,
    /// The learned limit at the last recorded refusal (429 response). If the next refusal occurs at about the same learned limit, both
    /// count as consecutive.
    failed_level: u32,
    /// The number of accepted requests, minus `ACCEPTED_PER_REFUSAL` for each refusal (429 response). While this number is negative no
    /// limit probe (temporary increase of the limit) starts, which bounds the fraction of refused requests.
    credit: i64,
    /// Whether the gate is closed: a refusal (429 response) has stopped new requests, and no later response has permitted them again.
    is_gate_closed: bool,
    /// Whether `next_probe_at` still has to be computed after the last refusal. It is computed once the gate is open again and the
    /// in-flight limit is reached.
    is_interval_due: bool,
    /// The duration of the last pause: the time for which a refusal (429 response) stopped new requests by closing the gate.
    closed_for: Duration,
    /// The first time in the last pause at which the closed gate held back a request that the in-flight limit would have admitted, so that
    /// capacity was unused from then on. `None` if no request was held back.
    held_since: Option<Duration>,
    /// Whether the learned limit was lowered after several failed limit probes, to leave capacity of the server to other processes. In this
    /// case the interval until the next limit probe is not lengthened.
    has_yielded: bool,
    /// The unused fraction (0 to 1) of the in-flight limit, as an average over the last pause after a refusal (429 response).
    idle_fraction: f64,
}

impl AdaptiveLimit {
    /// The interval from a failed limit probe (a temporary increase of the in-flight limit) to the next probe, as a multiple of the cost of
    /// the failure: the time for which capacity was unused because of the refusal.
    const COSTS_PER_INTERVAL: u32 = 20;
    /// The minimum interval between limit probes (temporary increases of the in-flight limit), as a multiple of the last pause after a
    /// refusal (429 response), in which no requests were admitted.
    const MIN_CLOSURES_PER_INTERVAL: u32 = 2;
    /// The delay before the limit begins to rise back after a large drop, as a multiple of the cost of the last refusal (429 response): the
    /// time for which capacity was unused because of it.
    const COSTS_BEFORE_RECOVERY: u32 = 4;
    /// Caps the cost of a refusal in the computation of the delay before the limit recovers from a large drop, as a multiple of the last
    /// pause after a refusal (429 response). The cost is the time for which capacity was unused. Without the cap, several pauses in a row
    /// would delay the recovery too long.
    const MAX_CLOSURES_OF_COST: u32 = 2;
    /// The maximum interval between limit probes (temporary increases of the in-flight limit).
    const MAX_INTERVAL: Duration = Duration::from_secs(60);
    /// The maximum number of times that the interval between limit probes (temporary increases of the in-flight limit) doubles. It doubles
    /// with each probe that fails after another failed one.
    const MAX_DOUBLINGS: u32 = 2;
    /// Two failed limit probes count as consecutive, which lengthens the interval until the next probe, if the learned limit changed by at
    /// most 1 / this number from one to the other.
    const SAME_LEVEL_DIVISOR: u32 = 8;
    /// A limit probe temporarily raises the in-flight limit by at most the learned limit divided by this number, but by at least 1. This
    /// bounds the number of refusals when the probe fails.
    const MAX_STEP_DIVISOR: u32 = 8;
    /// A limit probe (a temporary increase of the in-flight limit) succeeds after the server has accepted enough requests beyond the
    /// learned limit: the learned limit divided by this number, but at most `MAX_REQUIRED_SUCCESSES`. If fewer requests were enough, this
    /// client would take all the capacity that another process leaves free during its pause after a refusal.
    const SUCCESS_DIVISOR: u32 = 12;
    /// The divisor in place of [`Self::SUCCESS_DIVISOR`] if all requests of this client ended during the last pause after a refusal. A limit
    /// probe then needs more accepted requests to succeed. The requests of another process that paused at the same time have probably ended
    /// too, so that capacity seems to be free which that process will soon use again.
    const EMPTY_WINDOW_SUCCESS_DIVISOR: u32 = 9;
    /// The maximum number of accepted requests beyond the learned limit that a limit probe (a temporary increase of the in-flight limit)
    /// needs to succeed, even if the learned limit is large. Exception: a probe that raises the limit by a larger number needs that many.
    const MAX_REQUIRED_SUCCESSES: u32 = 3;
    /// The number of accepted requests that offset one refusal (429 response). Limit probes start only if all refusals are offset.
    const ACCEPTED_PER_REFUSAL: i64 = 25;
    /// The maximum of the field `credit`, which is increased by 1 for each accepted request. Further accepted requests do not offset later
    /// refusals (429 responses).
    const MAX_CREDIT: i64 = 500;
    /// The constant part of the lower bound of the field `credit`, which is -(`BASE_NEGATIVE_CREDIT` + `NEGATIVE_CREDIT_PER_UNIT` × learned
    /// limit). The bound limits how long a series of refusals (429 responses) can delay the next limit probe.
    const BASE_NEGATIVE_CREDIT: i64 = 8;
    /// The variable part of the lower bound of the field `credit`, which is -(`BASE_NEGATIVE_CREDIT` + `NEGATIVE_CREDIT_PER_UNIT` × learned
    /// limit). The bound limits how long a series of refusals (429 responses) can delay the next limit probe.
    const NEGATIVE_CREDIT_PER_UNIT: i64 = 4;
    /// A refusal (429 response) while exactly as many requests as the learned limit are accepted lowers the learned limit by 1 / this
    /// number. The server accepted that many requests before, so other processes now use a part of its capacity.
    const DECREASE_DIVISOR: u32 = 7;
    /// The number of consecutive failed limit probes (temporary increases of the in-flight limit) after which the client lowers the learned
    /// limit, to leave capacity to other processes until the next probe.
    const FAILURES_TO_YIELD: u32 = 4;
    /// The learned in-flight limit is lowered by 1 / this number to leave capacity to other processes, after several failed attempts to
    /// raise it.
    const YIELD_DIVISOR: u32 = 6;

    /// Creates an adaptive limit that has learned nothing yet, so it starts at `ceiling`. It always stays between `floor` (at least 1) and
    /// `ceiling`.
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

    /// Returns the current maximum number of requests in flight. This is the learned limit, or the raised limit of a limit probe in
    /// progress, or the ceiling if no limit is known.
    pub fn limit(&self) -> u32 {
        match (self.level, self.probe) {
            (None, _) => self.ceiling,
            (Some(level), None) => level,
            (Some(_), Some(probe)) => probe.target,
        }
    }

    /// Returns the learned limit on requests in flight, or `None` if no limit is known, as before the first refusal (429 response).
    pub const fn level(&self) -> Option<u32> {
        self.level
    }

    /// Changes the ceiling, which the adaptive limit never exceeds, for example to the maximum in a server's configuration. Ends a limit
    /// probe (a temporary increase of the limit) that is in progress.
    pub fn set_ceiling(&mut self, ceiling: u32) {
        self.ceiling = ceiling.max(self.floor);
        if let Some(level) = self.level {
            self.level = Some(level.min(self.ceiling));
        }
        self.probe = None;
    }

    /// Records a refusal (429 response), which may change the limit. Returns the reason for the change, or `None` if the limit stays the
    /// same.
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

    /// Records that the closed gate holds back a request which the in-flight limit would admit. From this time on capacity is unused, which
    /// lengthens the interval until the next limit probe.
    pub fn on_held_back(&mut self, now: Duration) {
        if self.schedule.is_gate_closed && self.schedule.is_interval_due {
            self.schedule.held_since.get_or_insert(now);
        }
    }

    /// Records that the gate has opened again after a rate-limit pause, and that `in_flight` requests from before the pause were still in
    /// flight at that time.
    pub fn on_reopened(&mut self, in_flight: u32) {
        self.schedule.is_gate_closed = false;
        self.schedule.idle_fraction = idle_fraction(self.level.unwrap_or(0), in_flight);
    }

    /// Records that the gate is open, if the last report said that it is closed. This happens if a refusal is reported later than the
    /// response that opened the gate. Without this correction, no limit probe would ever start again. `in_flight` is the number of requests
    /// in flight.
    pub fn on_gate_seen_open(&mut self, in_flight: u32) {
        if self.schedule.is_gate_closed {
            self.on_reopened(in_flight);
        }
    }

    /// Records that the server accepted a request, at a time when `accepted` requests in flight were accepted. Only needed while other
    /// requests wait for admission. `is_straggler` says that the request was sent before the last refusal (429 response). Returns the
    /// reason if the limit changes.
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

    /// Records that a request waits because the in-flight limit is reached. If a limit probe is due, starts it: the limit rises for a
    /// while, and [`LimitChange::ProbeStarted`] is returned.
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

    /// Ends a limit probe (a temporary increase of the in-flight limit), since the server refused a request. The number of requests that
    /// the server had accepted, which is not lower than the learned limit, becomes the learned limit.
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

    /// Handles a refusal (429 response) that was not caused by a limit probe, although one may be in progress (`is_probing`). `accepted`,
    /// the number of accepted requests at that time, is taken as the server's capacity.
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

/// Returns the fraction (0 to 1) of the in-flight limit `level` that was unused on average during a pause after a refusal. The number of
/// requests in flight is assumed to fall at a constant rate, from `level` at the start of the pause to `in_flight` at its end.
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

    /// Returns the number by which the learned limit is divided to get the number of accepted requests that a limit probe (a temporary
    /// increase of the in-flight limit) needs to succeed.
    fn success_divisor(&self) -> u32 {
        if self.idle_fraction < 1.0 {
            AdaptiveLimit::SUCCESS_DIVISOR
        } else {
            AdaptiveLimit::EMPTY_WINDOW_SUCCESS_DIVISOR
        }
    }

    /// Records a failed limit probe, or another refusal (429 response), at the learned limit `level`. If that is near the learned limit of
    /// the previous failure, the failures count as consecutive, which lengthens the interval until the next probe.
    fn record_failure(&mut self, level: u32) {
        let is_consecutive =
            level.abs_diff(self.failed_level) <= (level / AdaptiveLimit::SAME_LEVEL_DIVISOR).max(1);
        self.failures = if is_consecutive { self.failures + 1 } else { 1 };
        self.failed_level = level;
        self.step = 1;
    }

    /// Computes the time of the next limit probe after a refusal: the more capacity was unused because of the refusal, the later. To be
    /// called when the in-flight limit is reached. Only the first call after the gate has opened has an effect.
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

    /// Forgets the failed limit probes (temporary increases of the in-flight limit) and allows a new probe at once, since the refusals were
    /// random.
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
