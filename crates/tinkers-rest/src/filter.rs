//! Conditions on checkpoints, for the deletion of many.

use std::time::{Duration, SystemTime};

use tinkers_core::{Error, Result};
use tinkers_wire::{Checkpoint, CheckpointKind, CheckpointType, since_epoch};

/// A condition on checkpoints. All parts that are set must hold.
///
/// ```
/// use tinkers_rest::CheckpointFilter;
/// use tinkers_wire::CheckpointKind;
///
/// let old_samplers = CheckpointFilter::new()
///     .run_id("a1b2:train:0")
///     .kind(CheckpointKind::Sampler)
///     .name_prefix("step-");
/// # let _ = old_samplers;
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CheckpointFilter {
    pub(crate) run_id: Option<String>,
    kind: Option<CheckpointKind>,
    saved_before: Option<SystemTime>,
    saved_after: Option<SystemTime>,
    name_prefix: Option<String>,
}

impl CheckpointFilter {
    /// Creates a filter without conditions, which matches every checkpoint.
    pub fn new() -> Self {
        Self::default()
    }

    /// Matches only the checkpoints of a training run.
    #[must_use]
    pub fn run_id(mut self, run_id: impl Into<String>) -> Self {
        self.run_id = Some(run_id.into());
        self
    }

    /// Matches only the checkpoints of a kind.
    #[must_use]
    pub fn kind(mut self, kind: CheckpointKind) -> Self {
        self.kind = Some(kind);
        self
    }

    /// Matches only the checkpoints that were saved before a time.
    #[must_use]
    pub fn saved_before(mut self, time: SystemTime) -> Self {
        self.saved_before = Some(time);
        self
    }

    /// Matches only the checkpoints that were saved at a time or later.
    #[must_use]
    pub fn saved_after(mut self, time: SystemTime) -> Self {
        self.saved_after = Some(time);
        self
    }

    /// Matches only the checkpoints whose name begins with a prefix. Methods that take a filter refuse an empty prefix.
    #[must_use]
    pub fn name_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.name_prefix = Some(prefix.into());
        self
    }

    /// Returns whether a checkpoint matches. A checkpoint without a known time matches no condition on the time.
    pub fn matches(&self, checkpoint: &Checkpoint) -> bool {
        let run = checkpoint.tinker_path.strip_prefix("tinker://");
        let run = run.and_then(|rest| rest.split('/').next());
        let name = checkpoint
            .checkpoint_id
            .rsplit('/')
            .next()
            .unwrap_or_default();
        let saved = || {
            let since: Duration = since_epoch(&checkpoint.time)?;
            SystemTime::UNIX_EPOCH.checked_add(since)
        };
        self.run_id.as_deref().is_none_or(|id| run == Some(id))
            && self
                .kind
                .is_none_or(|kind| checkpoint.checkpoint_type == CheckpointType::Known(kind))
            && self
                .saved_before
                .is_none_or(|time| saved().is_some_and(|saved| saved < time))
            && self
                .saved_after
                .is_none_or(|time| saved().is_some_and(|saved| saved >= time))
            && self
                .name_prefix
                .as_deref()
                .is_none_or(|prefix| name.starts_with(prefix))
    }

    /// Checks that the prefix of names, if there is one, is not empty: it would match every checkpoint.
    pub(crate) fn check_name_prefix(&self) -> Result<()> {
        if self.name_prefix.as_deref() == Some("") {
            let expected = "at least one character; set no prefix to match all names";
            return Err(Error::invalid("name_prefix", expected));
        }
        Ok(())
    }

    /// Checks that the filter has a condition, so that a deletion by filter cannot delete everything by mistake.
    pub(crate) fn check_not_empty(&self) -> Result<()> {
        if *self == Self::default() {
            return Err(Error::invalid("filter", "at least one condition"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint(kind: CheckpointKind, name: &str, time: &str) -> Checkpoint {
        let id = format!("{}/{name}", kind.segment());
        let path = format!("tinker://run/{id}");
        Checkpoint::new(id, kind, time, path)
    }

    #[test]
    fn all_conditions_of_a_filter_must_hold() {
        let noon = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_435_200);
        let one = checkpoint(CheckpointKind::Sampler, "step-10", "2026-11-23T12:00:00");
        let filter = CheckpointFilter::new;
        for (filter, expected) in [
            (filter(), true),
            (filter().run_id("run").kind(CheckpointKind::Sampler), true),
            (filter().run_id("run").kind(CheckpointKind::Training), false),
            (filter().run_id("ru"), false),
            (filter().name_prefix("step-"), true),
            (filter().name_prefix("sampler"), false),
            (filter().saved_after(noon), true),
            (filter().saved_before(noon), false),
            (filter().saved_before(noon + Duration::from_millis(1)), true),
        ] {
            assert_eq!(filter.matches(&one), expected, "{filter:?}");
        }
        let undated = checkpoint(CheckpointKind::Sampler, "a", "yesterday");
        assert!(!filter().saved_before(noon).matches(&undated));
        assert_eq!(
            filter().check_not_empty().unwrap_err().field(),
            Some("filter")
        );
        assert_eq!(
            filter()
                .name_prefix("")
                .check_name_prefix()
                .unwrap_err()
                .field(),
            Some("name_prefix")
        );
    }
}
