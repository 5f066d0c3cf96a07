//! A filter for random refusals, which do not depend on the number of requests in flight.

/// A filter that tells refusals (429 responses) for lack of capacity from random refusals, called noise. Refusals for lack of capacity end
/// when the client lowers its limit, while random ones continue at any limit. [`AdaptiveLimit`](crate::AdaptiveLimit) contains this filter.
///
/// If the learned limit is correct, the server only refuses limit probes (temporary increases of the limit). Therefore the filter has a
/// score, the suspicion that refusals are random. Each refusal without a limit probe raises this score, and each accepted request lowers
/// it. Above a threshold the refusals are classified as random: the limit that applied before them is restored, and further refusals do not
/// lower it. This ends if several refusals follow each other while the server accepts no more requests than at the lowest of them, which
/// confirms a real limit. After random refusals or a large drop, the limit recovers to its previous value by steps that double.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct NoiseFilter {
    /// The learned limit that applied before the recent refusals, to be restored if these refusals are random. [`NoiseFilter::UNKNOWN`] if
    /// no limit was known then. `None` if there were no recent refusals.
    restore_level: Option<u32>,
    /// The score for the suspicion that the refusals (429 responses) are random. Each refusal raises the score, and each accepted request
    /// lowers it by 1.
    suspicion: u32,
    is_noisy: bool,
    /// Whether refusals were classified as random, and the limit has not risen back to its previous value since.
    was_noisy: bool,
    /// The number of recent refusals (429 responses) that indicate the same real limit. It is reset when the server accepts clearly more
    /// requests than the field `lowest`. If the number is large enough, the limit is confirmed.
    confirmations: u32,
    /// The smallest number of accepted requests in flight at any of the refusals that the field `confirmations` counts.
    lowest: u32,
    /// The number of requests that the server accepted since the last refusal (429 response).
    accepted_since_refusal: u32,
    /// Whether the limit is rising back, in steps that double, to its value before the recent refusals.
    is_recovering: bool,
    /// The number of limit probes (temporary increases of the limit) that the server refused in a row while the limit was below its
    /// previous value.
    failed_probes: u32,
    /// The maximum number of accepted requests in flight while no limit was known. After a drop, the limit recovers to this number:
    /// otherwise a refusal of the first few requests after a rate-limit pause would set a limit that is far too low.
    peak: u32,
}

/// The interpretation of a refusal (429 response) that no limit probe (temporary increase of the in-flight limit) caused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RefusalMeaning {
    /// The server lacks capacity: it accepts only as many requests as it had accepted at the time of the refusal (429 response).
    Capacity,
    /// The recent refusals are classified as random from now on. The limit that applied before them is to be restored; `None` means that no
    /// limit was known.
    Restored(Option<u32>),
    /// The refusal is random and does not change the limit.
    Noise,
    /// The recent refusals were classified as random, but now they confirm a real limit: the server accepts only this many requests.
    Confirmed(u32),
}

/// The kind of a failed limit probe (a temporary increase of the in-flight limit, during which the server refused a request).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProbeFailure {
    /// The probe tested whether the server accepts more requests than the learned limit. Its failure delays the next probe.
    Regular,
    /// The probe was a step in the recovery of the limit to its value before the recent refusals. Its failure does not delay the next
    /// probe.
    Recovery,
}

impl NoiseFilter {
    const UNKNOWN: u32 = u32::MAX;
    /// The amount by which one refusal (429 response) raises the score of suspicion that refusals are random.
    const SUSPICION_PER_REFUSAL: u32 = 80;
    /// The score of suspicion from which refusals count as random. Three refusals within 40 accepted requests reach it.
    const NOISE_THRESHOLD: u32 = 200;
    const MAX_SUSPICION: u32 = 240;
    /// While refusals (429 responses) count as random, this many of them in a row confirm a real limit, if the server never accepts clearly
    /// more requests between them. Right after the detection of random refusals, one more refusal is enough, since the refusals before the
    /// detection count too.
    const MAX_CONFIRMATIONS: u32 = 4;
    /// The server counts as accepting more requests than at the time of a refusal only if their number is larger by more than 1 / this
    /// number. Smaller differences do not count, since responses arrive out of order.
    const BEYOND_DIVISOR: u32 = 8;
    /// The limit begins to recover to its previous value only after the server has accepted at least this many requests without a refusal,
    /// and at least as many as the learned limit.
    const MIN_ACCEPTED: u32 = 8;
    /// A drop of the learned limit is large if the limit falls to its previous value divided by this number, or to less.
    const LARGE_DROP_DIVISOR: u32 = 2;
    /// The minimum for the field `peak`, the maximum number of accepted requests in flight while no limit was known. Smaller numbers are
    /// not recorded.
    const MIN_PEAK: u32 = 8;
    /// After random refusals, the limit stops recovering to its previous value when the server refuses this many limit probes (temporary
    /// increases of the limit) in a row.
    const FAILED_PROBES_TO_END_RECOVERY: u32 = 2;

    pub(crate) const fn new() -> Self {
        Self {
            restore_level: None,
            suspicion: 0,
            is_noisy: false,
            was_noisy: false,
            confirmations: 0,
            lowest: 0,
            accepted_since_refusal: 0,
            is_recovering: false,
            failed_probes: 0,
            peak: 0,
        }
    }

    /// Returns whether refusals (429 responses) are classified as random at present. No limit probe starts then, since its result would
    /// reveal nothing.
    pub(crate) const fn is_noisy(&self) -> bool {
        self.is_noisy
    }

    /// Records and interprets a refusal (429 response) that no limit probe caused. `level` is the learned limit, and `accepted` the number
    /// of accepted requests in flight, at least 1.
    pub(crate) fn on_refusal(&mut self, level: Option<u32>, accepted: u32) -> RefusalMeaning {
        let level = level.unwrap_or(Self::UNKNOWN);
        let restore_level = self
            .restore_level
            .map_or(level, |restore_level| restore_level.max(level));
        self.restore_level = Some(restore_level);
        self.suspicion = (self.suspicion + Self::SUSPICION_PER_REFUSAL).min(Self::MAX_SUSPICION);
        self.accepted_since_refusal = 0;
        self.is_recovering = false;
        self.lowest = match self.confirmations {
            0 => accepted,
            _ => self.lowest.min(accepted),
        };
        self.confirmations = (self.confirmations + 1).min(Self::MAX_CONFIRMATIONS);
        match (self.is_noisy, self.suspicion >= Self::NOISE_THRESHOLD) {
            (false, false) => RefusalMeaning::Capacity,
            (false, true) => {
                self.is_noisy = true;
                self.was_noisy = true;
                self.failed_probes = 0;
                RefusalMeaning::Restored((restore_level != Self::UNKNOWN).then_some(restore_level))
            }
            (true, _) if self.confirmations < Self::MAX_CONFIRMATIONS => RefusalMeaning::Noise,
            (true, _) => {
                self.end_noise();
                RefusalMeaning::Confirmed(self.lowest)
            }
        }
    }

    /// Records that the server accepted a request. `level` is the learned limit, and `accepted` the number of accepted requests in flight.
    pub(crate) fn on_accepted(&mut self, level: Option<u32>, accepted: u32) {
        self.accepted_since_refusal = self.accepted_since_refusal.saturating_add(1);
        self.suspicion = self.suspicion.saturating_sub(1);
        if level.is_none() && accepted >= Self::MIN_PEAK {
            self.peak = self.peak.max(accepted);
        }
        if accepted > self.lowest + (self.lowest / Self::BEYOND_DIVISOR).max(1) {
            self.confirmations = 0;
        }
        if self.suspicion == 0 {
            self.end_noise();
        }
        let is_kept = |level: u32| {
            self.was_noisy || self.is_recovering || self.suspicion > 0 || self.is_large_drop(level)
        };
        let is_restorable = |level: u32| self.is_below(level) && is_kept(level);
        if !self.is_noisy && !level.is_some_and(is_restorable) {
            self.reset_recovery();
        }
    }

    /// Records that the server refused a request during a limit probe (temporary increase of the limit), which shows that the limit is
    /// real. Returns the kind of the failed probe.
    pub(crate) fn probe_failed(&mut self) -> ProbeFailure {
        self.accepted_since_refusal = 0;
        self.failed_probes += 1;
        let was_recovering = std::mem::take(&mut self.is_recovering);
        if !self.was_noisy || self.failed_probes >= Self::FAILED_PROBES_TO_END_RECOVERY {
            self.reset_recovery();
        }
        if was_recovering {
            ProbeFailure::Recovery
        } else {
            ProbeFailure::Regular
        }
    }

    /// Records that a limit probe succeeded: the server accepted more requests than the learned limit. Ends a series of failed probes.
    pub(crate) fn probe_succeeded(&mut self) {
        self.failed_probes = 0;
    }

    /// Returns the limit before the recent refusals if the current limit `level` may rise back to it now, and otherwise `None`. The rise
    /// may begin at once after random refusals, and otherwise only after a large drop and if `is_due`.
    pub(crate) fn recovery_target(&mut self, level: u32, is_due: bool) -> Option<u32> {
        if self.is_noisy || !self.is_below(level) {
            return None;
        }
        if !self.is_recovering {
            let is_wanted = self.was_noisy || is_due && self.is_large_drop(level);
            self.is_recovering =
                is_wanted && self.accepted_since_refusal >= level.max(Self::MIN_ACCEPTED);
        }
        self.target().filter(|_| self.is_recovering)
    }

    /// Returns the limit that a recovery restores: the limit before the recent refusals. If no limit was known and the refusals were not
    /// random, returns the largest number of accepted requests so far.
    fn target(&self) -> Option<u32> {
        self.restore_level.map(|restore_level| match restore_level {
            Self::UNKNOWN if !self.was_noisy => self.peak,
            restore_level => restore_level,
        })
    }

    fn is_below(&self, level: u32) -> bool {
        self.target().is_some_and(|target| level < target)
    }

    fn is_large_drop(&self, level: u32) -> bool {
        let known = self.target().filter(|target| *target != Self::UNKNOWN);
        known.is_some_and(|target| target / Self::LARGE_DROP_DIVISOR >= level)
    }

    fn end_noise(&mut self) {
        self.is_noisy = false;
        self.suspicion = 0;
        self.confirmations = 0;
    }

    fn reset_recovery(&mut self) {
        self.restore_level = None;
        self.was_noisy = false;
        self.is_recovering = false;
        self.failed_probes = 0;
    }
}

#[cfg(all(test, not(tinkers_loom)))]
#[path = "noise_filter_tests.rs"]
mod tests;
