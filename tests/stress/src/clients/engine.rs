//! The scripted engine, which notices what comes twice or out of order.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tinkers::wire::{Datum, PassMode};
use tinkers_local::{
    BaseModel, CheckpointRecord, Done, Engine, EngineError, Job, JobId, ScriptedEngine, Work,
};

/// Each call of a model bears a number, and the numbers rise.
#[derive(Debug)]
pub(crate) struct OrderedEngine {
    inner: Arc<ScriptedEngine>,
    last: Mutex<BTreeMap<String, u64>>,
    disorder: AtomicU64,
}

impl OrderedEngine {
    pub(crate) fn new(inner: Arc<ScriptedEngine>) -> Self {
        Self {
            inner,
            last: Mutex::default(),
            disorder: AtomicU64::new(0),
        }
    }

    /// How often something came twice, or after what was called later.
    pub(crate) fn disorder(&self) -> u64 {
        self.disorder.load(Ordering::SeqCst)
    }

    fn look(&self, work: &Work) {
        let (model, number) = match work {
            Work::Pass {
                model,
                mode: PassMode::ForwardBackward,
                data,
                ..
            } => (model, data.first().and_then(number)),
            Work::OptimStep { model, params } => {
                (model, Some((params.learning_rate * 1e9).round() as u64))
            }
            _ => return,
        };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let last = last.entry(model.clone()).or_default();
        match number {
            Some(number) if number > *last => *last = number,
            _ => {
                self.disorder.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
}

/// A datum of so many tokens that bears the number of its call.
pub(crate) fn datum(number: u64, tokens: usize) -> Datum {
    let digit = |place: u32| (number / 250_u64.pow(place) % 250) as u32;
    let mut all = vec![digit(3), digit(2), digit(1), digit(0)];
    all.resize(tokens.max(5), 1);
    Datum::next_token(&all, vec![1.0; all.len() - 1]).expect("a datum of small tokens")
}

fn number(datum: &Datum) -> Option<u64> {
    let tokens = datum.model_input.tokens()?;
    let digits = tokens.get(..4)?.iter();
    Some(digits.fold(0, |number, digit| number * 250 + u64::from(*digit)))
}

impl Engine for OrderedEngine {
    fn models(&self) -> Vec<BaseModel> {
        self.inner.models()
    }

    fn checkpoints(&self) -> Result<Vec<CheckpointRecord>, EngineError> {
        self.inner.checkpoints()
    }

    fn start(&self, job: Job, done: Done) {
        self.look(&job.work);
        self.inner.start(job, done);
    }

    fn cancel(&self, job: JobId) {
        self.inner.cancel(job);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_twice_or_late_is_noticed() {
        let engine = OrderedEngine::new(Arc::default());
        let pass = |call| Work::Pass {
            model: "m".to_owned(),
            mode: PassMode::ForwardBackward,
            data: vec![datum(call, 8)],
            loss: tinkers::LossFn::CrossEntropy.into(),
        };
        for (call, disorder) in [
            (1, 0),
            (300, 0),
            (70_000, 0),
            (70_000, 1),
            (2, 2),
            (70_001, 2),
        ] {
            engine.look(&pass(call));
            assert_eq!(engine.disorder(), disorder, "{call}");
        }
    }
}
