//! Runs a loom model and collects the faults of all interleavings instead of stopping at the first.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The faults that a loom model has found in the code under test.
#[derive(Debug)]
pub(crate) struct Findings {
    /// Descriptions of the faults found in all interleavings, sorted, without duplicates.
    pub(crate) faults: Vec<String>,
}

/// Runs `model` under every interleaving of its threads with at most `bound` preemptions, or fewer if `LOOM_MAX_PREEMPTIONS` is lower. The
/// model returns descriptions of the faults that it finds in each execution.
///
/// Panics if loom detects a deadlock or a data race. Also panics if there was only one interleaving, since such a model proves nothing.
#[expect(
    clippy::print_stdout,
    reason = "the number of interleavings is part of the proof"
)]
pub(crate) fn explore(
    name: &str,
    bound: usize,
    model: impl Fn() -> Vec<String> + Send + Sync + 'static,
) -> Findings {
    let faults = Arc::new(Mutex::new(BTreeSet::new()));
    let runs = Arc::new(AtomicU64::new(0));
    {
        let (faults, runs) = (Arc::clone(&faults), Arc::clone(&runs));
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(builder.preemption_bound.unwrap_or(bound).min(bound));
        builder.check(move || {
            let found = model();
            runs.fetch_add(1, Ordering::Relaxed);
            faults
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .extend(found);
        });
    }
    let runs = runs.load(Ordering::Relaxed);
    println!("model {name}: {runs} interleavings");
    assert!(runs > 1, "{name}: nothing was interleaved");
    let mut faults = faults.lock().unwrap_or_else(PoisonError::into_inner);
    Findings {
        faults: std::mem::take(&mut *faults).into_iter().collect(),
    }
}

impl Findings {
    /// Panics with the list of all faults, if there are any.
    pub(crate) fn assert_none(&self) {
        assert!(self.faults.is_empty(), "{:?}", self.faults);
    }
}
