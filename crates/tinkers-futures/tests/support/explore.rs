//! Runs a model and gathers what its interleavings found wrong, instead of ending at the first.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What a model found.
#[derive(Debug)]
pub(crate) struct Findings {
    /// Each fault once.
    pub(crate) faults: Vec<String>,
}

/// Runs `model` under every interleaving with at most `bound` forced switches, or fewer where `LOOM_MAX_PREEMPTIONS` says
/// so; the model says what was wrong in each.
///
/// What loom itself refuses (a deadlock, a race on plain memory) is a panic, as ever. A model without a choice to make proves nothing and
/// is a panic too.
#[expect(
    clippy::print_stdout,
    reason = "how much was explored is part of the proof"
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
    /// A panic with every fault, where there is one.
    pub(crate) fn assert_none(&self) {
        assert!(self.faults.is_empty(), "{:?}", self.faults);
    }
}
