//! A filter for refusals that do not depend on the number of requests in flight.

/// Distinguishes refusals that end at a lower level from noise, which continues at any level. A plain value inside of
/// [`AdaptiveLimit`](crate::AdaptiveLimit).
///
/// At the correct level only limit probes are refused. Therefore each unprompted refusal (without a limit probe) adds
/// suspicion, which accepted requests remove. Above a threshold the refusals are classified as noise: the level before
/// them is restored, and further refusals do not lower it, unless several consecutive refusals arrive without more
/// accepted requests than at the lowest of them, which confirms a real limit. After noise or a large drop, the limit
/// recovers to the previous level by steps that double.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct NoiseFilter {
    /// The level before the unprompted refusals; [`NoiseFilter::UNKNOWN`] if there was none.
    restore_level: Option<u32>,
    /// The suspicion, in accepted requests until it is zero.
    suspicion: u32,
    is_noisy: bool,
    /// Whether there was noise since the restore level was left.
    was_noisy: bool,
    /// Consecutive refusals without more accepted requests than at the lowest of them, and the number accepted at that
    /// one.
    confirmations: u32,
    lowest: u32,
    /// Requests accepted since the last refusal.
    accepted_since_refusal: u32,
    /// Whether the limit is recovering to the restore level.
    is_recovering: bool,
    /// Consecutive failed limit probes since the restore level was left.
    failed_probes: u32,
    /// The maximum number of accepted requests while no level was known. Without it, a refusal of the first few
    /// requests after a pause would set a level far too low.
    peak: u32,
}

/// The interpretation of an unprompted refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RefusalMeaning {
    /// The server accepts only as many requests as at that time.
    Capacity,
    /// Noise was detected: restore this level, or no level.
    Restored(Option<u32>),
    /// Noise: ignore the refusal.
    Noise,
    /// Noise has ended or was a misclassification: the server accepts this many requests.
    Confirmed(u32),
}

/// The kind of a failed limit probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProbeFailure {
    /// A probe beyond the learned level.
    Regular,
    /// A step of a recovery, which starts no new interval.
    Recovery,
}

impl NoiseFilter {
    const UNKNOWN: u32 = u32::MAX;
    /// The suspicion that one refusal adds.
    const SUSPICION_PER_REFUSAL: u32 = 80;
    /// The suspicion from which refusals are noise: three refusals within 40 accepted requests.
    const NOISE_THRESHOLD: u32 = 200;
    const MAX_SUSPICION: u32 = 240;
    /// The number of confirmations of a limit during noise. One is enough right after noise was detected.
    const MAX_CONFIRMATIONS: u32 = 4;
    /// Only more than 1/8 above a refusal counts as beyond it, because responses arrive out of order.
    const BEYOND_DIVISOR: u32 = 8;
    /// A recovery starts after this many requests, and as many as the level, were accepted without a refusal.
    const MIN_ACCEPTED: u32 = 8;
    /// A drop to 1/2 or less is large.
    const LARGE_DROP_DIVISOR: u32 = 2;
    /// The minimum number of accepted requests that counts as a peak.
    const MIN_PEAK: u32 = 8;
    /// After noise, the limit stops recovering to the previous level when this many limit probes fail in a row.
    const MAX_FAILED_PROBES: u32 = 2;

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

    /// Returns whether refusals are currently noise, so that limit probes would reveal nothing.
    pub(crate) const fn is_noisy(&self) -> bool {
        self.is_noisy
    }

    /// Classifies an unprompted refusal, with `accepted` (not 0) requests accepted.
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

    /// Records an accepted request; `accepted` is the number of accepted requests in flight.
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

    /// Records a failed limit probe, which proves a real limit.
    pub(crate) fn probe_failed(&mut self) -> ProbeFailure {
        self.accepted_since_refusal = 0;
        self.failed_probes += 1;
        let was_recovering = std::mem::take(&mut self.is_recovering);
        if !self.was_noisy || self.failed_probes >= Self::MAX_FAILED_PROBES {
            self.reset_recovery();
        }
        if was_recovering {
            ProbeFailure::Recovery
        } else {
            ProbeFailure::Regular
        }
    }

    /// Records a successful limit probe.
    pub(crate) fn probe_succeeded(&mut self) {
        self.failed_probes = 0;
    }

    /// Returns the target of the recovery from `level`, starting a recovery if possible. Without noise, it starts only
    /// from a large drop and if `is_due`.
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

    /// Returns the target of a recovery: the restore level, or the peak if no level was known and there was no noise.
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
