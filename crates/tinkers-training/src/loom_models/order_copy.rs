//! A trait for the order under test, and a copy of the order into which one fault can be planted.

use std::collections::VecDeque;
use std::sync::Arc;

use loom::sync::{Mutex, MutexGuard};
use tinkers_core::{Error, Result};

use super::Call;
use crate::model_failure::{ModelFailure, Recovery};
use crate::submission_queue::{Order, Queued, SendPermit};

/// A submission queue that can be tested with loom: the real one, or a copy with a planted fault, which loom must detect (negative control).
pub(crate) trait TestedOrder: Send + Sync + Sized + 'static {
    type Permit: Send;

    fn new() -> Self;
    fn push(
        self: &Arc<Self>,
        count: u64,
        call: impl FnOnce(u64) -> Call,
    ) -> Result<Option<Self::Permit>>;
    fn next(permit: &mut Self::Permit) -> Option<Call>;
    fn fail_model(&self, failure: ModelFailure);
    fn decide_recovery(&self, recovery: Recovery);
    fn recover(&self) -> Result<()>;
}

impl TestedOrder for Order<Call> {
    type Permit = SendPermit<Call>;

    fn new() -> Self {
        Self::new(1)
    }

    fn push(
        self: &Arc<Self>,
        count: u64,
        call: impl FnOnce(u64) -> Call,
    ) -> Result<Option<Self::Permit>> {
        Self::push(self, count, None, call)
    }

    fn next(permit: &mut Self::Permit) -> Option<Call> {
        permit.next()
    }

    fn fail_model(&self, failure: ModelFailure) {
        self.fail_model(failure);
    }

    fn decide_recovery(&self, recovery: Recovery) {
        self.decide_recovery(recovery);
    }

    fn recover(&self) -> Result<()> {
        self.recover()
    }
}

/// The faults that can be planted into an [`OrderCopy`]. The tests check that loom detects each of them (negative controls).
pub(crate) mod fault {
    pub(crate) const NONE: u8 = 0;
    /// The fault that a call reserves its sequence numbers under one lock, and enters the queue under another.
    pub(crate) const SEPARATE_NUMBERING: u8 = 1;
    /// The fault that the sender (the task that sends the queued calls) finds the queue empty under one lock, and gives its permit back under
    /// another.
    pub(crate) const SEPARATE_SENDER_END: u8 = 2;
    /// The fault that a call checks under one lock whether the model has failed, and enters the queue under another.
    pub(crate) const SEPARATE_FAILURE_CHECK: u8 = 3;
    /// The fault that a dropped sender (the task that sends the queued calls) fails these calls under one lock, and gives its permit back under
    /// another.
    pub(crate) const DROP_IN_TWO_STEPS: u8 = 4;
    /// The fault that queued and later calls do not fail when the sender (the task that sends the queued calls) is dropped.
    pub(crate) const DROP_WITHOUT_FAILURE: u8 = 5;
    /// The fault that later calls report the last failure of the model. The real queue reports the first.
    pub(crate) const LAST_FAILURE_REPORTED: u8 = 6;
}

pub(crate) struct OrderCopy<const FAULT: u8> {
    state: Mutex<State>,
}

struct State {
    next_seq: u64,
    queue: VecDeque<Call>,
    has_sender: bool,
    failure: Option<ModelFailure>,
}

pub(crate) struct Permit<const FAULT: u8> {
    order: Arc<OrderCopy<FAULT>>,
    ended: bool,
}

impl State {
    fn number(&mut self, count: u64) -> u64 {
        let first = self.next_seq;
        self.next_seq += count;
        first
    }

    fn check(&self) -> Result<()> {
        match &self.failure {
            Some(failure) => Err(failure.error()),
            None => Ok(()),
        }
    }
}

impl<const FAULT: u8> OrderCopy<FAULT> {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics under it")
    }
}

fn fail(waiting: VecDeque<Call>, error: &Error) {
    for call in waiting {
        call.fail(error.clone());
    }
}

impl<const FAULT: u8> TestedOrder for OrderCopy<FAULT> {
    type Permit = Permit<FAULT>;

    fn new() -> Self {
        Self {
            state: Mutex::new(State {
                next_seq: 1,
                queue: VecDeque::new(),
                has_sender: false,
                failure: None,
            }),
        }
    }

    fn push(
        self: &Arc<Self>,
        count: u64,
        call: impl FnOnce(u64) -> Call,
    ) -> Result<Option<Self::Permit>> {
        let mut state = self.lock();
        state.check()?;
        if FAULT == fault::SEPARATE_FAILURE_CHECK {
            drop(state);
            state = self.lock();
        }
        let first = state.number(count);
        if FAULT == fault::SEPARATE_NUMBERING {
            drop(state);
            state = self.lock();
        }
        state.queue.push_back(call(first));
        let idle = !std::mem::replace(&mut state.has_sender, true);
        Ok(idle.then(|| Permit {
            order: Arc::clone(self),
            ended: false,
        }))
    }

    fn next(permit: &mut Self::Permit) -> Option<Call> {
        let mut state = permit.order.lock();
        let next = state.queue.pop_front();
        if next.is_none() {
            permit.ended = true;
            if FAULT == fault::SEPARATE_SENDER_END {
                drop(state);
                state = permit.order.lock();
            }
            state.has_sender = false;
        }
        next
    }

    fn fail_model(&self, failure: ModelFailure) {
        let mut state = self.lock();
        if FAULT == fault::LAST_FAILURE_REPORTED {
            state.failure = None;
        }
        let error = state.failure.get_or_insert(failure).error();
        let waiting = std::mem::take(&mut state.queue);
        drop(state);
        fail(waiting, &error);
    }

    fn decide_recovery(&self, recovery: Recovery) {
        if let Some(failure) = &mut self.lock().failure {
            failure.recovery = recovery;
        }
    }

    fn recover(&self) -> Result<()> {
        let mut state = self.lock();
        if let Some(failure) = &state.failure {
            let Recovery::From(seq) = failure.recovery else {
                return Err(failure.error());
            };
            state.next_seq = seq;
            state.failure = None;
        }
        Ok(())
    }
}

impl<const FAULT: u8> Drop for Permit<FAULT> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let failure = ModelFailure {
            cause: super::error("the sender was dropped"),
            recovery: Recovery::Never,
        };
        if FAULT == fault::DROP_WITHOUT_FAILURE {
            self.order.lock().has_sender = false;
            return;
        }
        if FAULT == fault::DROP_IN_TWO_STEPS || FAULT == fault::LAST_FAILURE_REPORTED {
            self.order.fail_model(failure);
            self.order.lock().has_sender = false;
            return;
        }
        let mut state = self.order.lock();
        let error = state.failure.get_or_insert(failure).error();
        let waiting = std::mem::take(&mut state.queue);
        state.has_sender = false;
        drop(state);
        fail(waiting, &error);
    }
}
