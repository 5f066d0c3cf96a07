//! The scripted engine, which writes down what it applied, and notices what comes out of order.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tinkers::wire::{Datum, ModelInput, OptimStepResult, PassMode};
use tinkers_local::{
    BaseModel, CheckpointRecord, Done, Engine, EngineError, Job, JobId, Outcome, Script,
    ScriptedEngine, Work,
};

use super::control::Control;

/// Each call bears a number, which is the last token of its prompt, the first of its datum, or its learning rate in billionths. Those
/// of a model rise.
#[derive(Debug)]
pub(crate) struct OrderedEngine {
    inner: Arc<ScriptedEngine>,
    control: Option<Control>,
    /// Jobs that the control concerns.
    concerned: AtomicU64,
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    /// How often each call was applied.
    applied: BTreeMap<u64, u64>,
    /// The last call of each model.
    last: BTreeMap<String, u64>,
    disorder: u64,
    /// Never reported.
    lost: Vec<Done>,
}

/// Calls above this have no token of their own.
pub(crate) const MOST_CALLS: u32 = 1 << 24;

/// What the scripted engine is to offer, so that each call has a token of its own.
pub(crate) fn script() -> Script {
    let mut script = Script::default();
    for model in &mut script.models {
        model.vocab_size = MOST_CALLS;
    }
    script
}

impl OrderedEngine {
    pub(crate) fn new(inner: Arc<ScriptedEngine>, control: Option<Control>) -> Self {
        Self {
            inner,
            control,
            concerned: AtomicU64::new(0),
            book: Mutex::default(),
        }
    }

    /// How often something of a model came twice, or after what was called later.
    pub(crate) fn disorder(&self) -> u64 {
        self.lock().disorder
    }

    /// The calls that were applied and how often, rising.
    pub(crate) fn applied(&self) -> Vec<(u64, u64)> {
        let book = self.lock();
        book.applied.iter().map(|(n, times)| (*n, *times)).collect()
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
        let mut book = self.lock();
        // What bears no number is a call that nobody made.
        let number = number.unwrap_or(0);
        *book.applied.entry(number).or_default() += 1;
        let Some(model) = model else {
            return;
        };
        let last = book.last.entry(model.clone()).or_default();
        if number > *last {
            *last = number;
        } else {
            book.disorder += 1;
        }
    }

    /// Whether this job is one that the control spoils.
    fn is_spoilt(&self, control: Control, work: &Work) -> bool {
        let concerns = match control {
            Control::DoubledStep | Control::SkippedStep => matches!(work, Work::OptimStep { .. }),
            Control::SwappedSample | Control::LostReply => matches!(work, Work::Sample { .. }),
        };
        concerns && self.concerned.fetch_add(1, Ordering::Relaxed) % 10 == 9
    }

    fn spoil(&self, control: Control, mut job: Job, done: Done) {
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
                self.inner.start(twin, Done::new(drop));
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

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A datum of so many tokens that bears the number of its call.
pub(crate) fn datum(number: u64, tokens: usize) -> Datum {
    let mut all = vec![1; tokens.max(3)];
    all[0] = token(number);
    Datum::next_token(&all, vec![1.0; all.len() - 1]).expect("a datum of tokens")
}

/// The token of a call.
pub(crate) fn token(number: u64) -> u32 {
    let most = MOST_CALLS - 3;
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

    fn start(&self, job: Job, done: Done) {
        match self.control {
            Some(control) if self.is_spoilt(control, &job.work) => self.spoil(control, job, done),
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
    fn what_comes_twice_or_late_is_noticed() {
        let engine = OrderedEngine::new(Arc::default(), None);
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
            engine.note(&pass(call));
            assert_eq!(engine.disorder(), disorder, "{call}");
        }
        assert_eq!(
            engine.applied(),
            [(1, 1), (2, 1), (300, 1), (70_000, 2), (70_001, 1)]
        );
    }
}
