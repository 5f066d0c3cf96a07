//! A scripted engine that records how often it has applied each call, and counts calls that arrive
//! out of order.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tinkers::wire::{Datum, ModelInput, OptimStepResult, PassMode};
use tinkers_local::{
    BaseModel, CheckpointRecord, Engine, EngineError, Job, JobCallback, JobId, Outcome, Script,
    ScriptedEngine, Work,
};

use super::control::Control;

/// A wrapper of the scripted engine, which returns predictable results. It records how often and in
/// which order the server applies the clients' calls.
///
/// The contents of each call identify its number: the last token of a prompt, the first token of a
/// datum, or the learning rate in units of 1e-9. The calls of a model have increasing numbers.
#[derive(Debug)]
pub(crate) struct OrderedEngine {
    inner: Arc<ScriptedEngine>,
    control: Option<Control>,
    /// The number of jobs so far of the kind that the negative control (a deliberate bug) affects.
    /// The bug occurs in every tenth of them.
    affected: AtomicU64,
    record: Mutex<Record>,
}

#[derive(Debug, Default)]
struct Record {
    /// The number of times that the engine applied each call, by call number.
    applied: BTreeMap<u64, u64>,
    /// The number of the call that the engine applied last, for each model.
    last: BTreeMap<String, u64>,
    out_of_order: u64,
    /// The callbacks of samples that are never completed, because of the deliberate bug
    /// [`Control::LostReply`].
    lost: Vec<JobCallback>,
}

/// The maximum number of calls in a run. It is the number of tokens in the vocabulary, because each
/// call is identified by a token.
pub(crate) const MAX_CALLS: u32 = 1 << 24;

/// Returns the settings of the scripted engine, which returns predictable results. Its models have
/// a vocabulary of [`MAX_CALLS`] tokens.
pub(crate) fn script() -> Script {
    let mut script = Script::default();
    for model in &mut script.models {
        model.vocab_size = MAX_CALLS;
    }
    script
}

impl OrderedEngine {
    pub(crate) fn new(inner: Arc<ScriptedEngine>, control: Option<Control>) -> Self {
        Self {
            inner,
            control,
            affected: AtomicU64::new(0),
            record: Mutex::default(),
        }
    }

    /// Returns the number of times that the engine applied a call a second time or after a later
    /// call of the same model.
    pub(crate) fn out_of_order(&self) -> u64 {
        self.lock().out_of_order
    }

    /// Returns the number of times that the engine applied each call, as pairs of the call number
    /// and this number, in increasing order of call numbers.
    pub(crate) fn applied(&self) -> Vec<(u64, u64)> {
        let record = self.lock();
        record
            .applied
            .iter()
            .map(|(n, times)| (*n, *times))
            .collect()
    }

    fn note(&self, work: &Work) {
        let (model, number) = match work {
            Work::Pass {
                model,
                mode: PassMode::ForwardBackward,
                data,
                ..
            } => (Some(model), data.first().and_then(number)),
            Work::OptimStep { model, params } => (
                Some(model),
                Some((params.learning_rate * 1e9).round() as u64),
            ),
            Work::Sample { request, .. } => (None, last_token(&request.prompt)),
            _ => return,
        };
        let mut record = self.lock();
        // No call has the number 0, so the checks report it as a call that was never made.
        let number = number.unwrap_or(0);
        *record.applied.entry(number).or_default() += 1;
        let Some(model) = model else {
            return;
        };
        let last = record.last.entry(model.clone()).or_default();
        if number > *last {
            *last = number;
        } else {
            record.out_of_order += 1;
        }
    }

    /// Returns whether the negative control `control` (a deliberate bug) affects this job.
    fn is_affected(&self, control: Control, work: &Work) -> bool {
        let affects = match control {
            Control::DoubledStep | Control::SkippedStep => matches!(work, Work::OptimStep { .. }),
            Control::SwappedSample | Control::LostReply => matches!(work, Work::Sample { .. }),
        };
        affects && self.affected.fetch_add(1, Ordering::Relaxed) % 10 == 9
    }

    fn run_faulty(&self, control: Control, mut job: Job, done: JobCallback) {
        if control != Control::SkippedStep {
            self.note(&job.work);
        }
        match (control, &mut job.work) {
            (Control::DoubledStep, work) => {
                self.note(work);
                let twin = Job {
                    id: JobId(u64::MAX - job.id.0),
                    work: work.clone(),
                };
                self.inner.start(twin, JobCallback::new(drop));
                self.inner.start(job, done);
            }
            (Control::SkippedStep, _) => {
                done.finish(Ok(Outcome::Step(OptimStepResult::default())));
            }
            (Control::SwappedSample, Work::Sample { request, .. }) => {
                let other = token(last_token(&request.prompt).unwrap_or(0) + 1);
                request.prompt = vec![other].into();
                self.inner.start(job, done);
            }
            (Control::SwappedSample | Control::LostReply, _) => self.lock().lost.push(done),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns a training datum with `tokens` tokens. The first token identifies the call with the
/// number `number`.
pub(crate) fn datum(number: u64, tokens: usize) -> Datum {
    let mut all = vec![1; tokens.max(3)];
    all[0] = token(number);
    Datum::next_token(&all, vec![1.0; all.len() - 1]).expect("a datum of tokens")
}

/// Returns the token that identifies the call with the number `number`.
pub(crate) fn token(number: u64) -> u32 {
    let most = MAX_CALLS - 3;
    u32::try_from(number).unwrap_or(most).min(most)
}

fn number(datum: &Datum) -> Option<u64> {
    let first = datum.model_input.tokens()?.first().copied();
    first.map(u64::from)
}

fn last_token(prompt: &ModelInput) -> Option<u64> {
    let last = prompt.tokens()?.last().copied();
    last.map(u64::from)
}

impl Engine for OrderedEngine {
    fn models(&self) -> Vec<BaseModel> {
        self.inner.models()
    }

    fn checkpoints(&self) -> Result<Vec<CheckpointRecord>, EngineError> {
        self.inner.checkpoints()
    }

    fn start(&self, job: Job, done: JobCallback) {
        match self.control {
            Some(control) if self.is_affected(control, &job.work) => {
                self.run_faulty(control, job, done)
            }
            _ => {
                self.note(&job.work);
                self.inner.start(job, done);
            }
        }
    }

    fn cancel(&self, job: JobId) {
        self.inner.cancel(job);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engine_counts_calls_that_are_applied_twice_or_out_of_order() {
        let engine = OrderedEngine::new(Arc::default(), None);
        let pass = |call| Work::Pass {
            model: "m".to_owned(),
            mode: PassMode::ForwardBackward,
            data: vec![datum(call, 8)],
            loss: tinkers::LossFn::CrossEntropy.into(),
        };
        for (call, out_of_order) in [
            (1, 0),
            (300, 0),
            (70_000, 0),
            (70_000, 1),
            (2, 2),
            (70_001, 2),
        ] {
            engine.note(&pass(call));
            assert_eq!(engine.out_of_order(), out_of_order, "{call}");
        }
        assert_eq!(
            engine.applied(),
            [(1, 1), (2, 1), (300, 1), (70_000, 2), (70_001, 1)]
        );
    }
}
