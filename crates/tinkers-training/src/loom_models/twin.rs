//! The order under test, and a copy of it that can have one fault, behind one trait.

use std::collections::VecDeque;
use std::sync::Arc;

use loom::sync::{Mutex, MutexGuard};
use tinkers_core::{Error, Result};

use super::Call;
use crate::poison::{Poison, Recovery};
use crate::submission_queue::{Order, Queued, SendPermit};

/// An order whose calls are sent one after the other.
pub(crate) trait TestedOrder: Send + Sync + Sized + 'static {
    type Permit: Send;

    fn new() -> Self;
    fn push(
        self: &Arc<Self>,
        count: u64,
        call: impl FnOnce(u64) -> Call,
    ) -> Result<Option<Self::Permit>>;
    fn next(permit: &mut Self::Permit) -> Option<Call>;
    fn poison(&self, poison: Poison);
    fn settle_recovery(&self, recovery: Recovery);
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

    fn poison(&self, poison: Poison) {
        self.poison(poison);
    }

    fn settle_recovery(&self, recovery: Recovery) {
        self.settle_recovery(recovery);
    }

    fn recover(&self) -> Result<()> {
        self.recover()
    }
}

/// The fault of a [`Twin`].
pub(crate) mod fault {
    pub(crate) const NONE: u8 = 0;
    /// Numbers are reserved under one lock, and the call is queued under another.
    pub(crate) const NUMBERS_APART: u8 = 1;
    /// The queue is found empty under one lock, and the permit ends under another.
    pub(crate) const END_APART: u8 = 2;
    /// The poison is checked under one lock, and the call is queued under another.
    pub(crate) const POISON_APART: u8 = 3;
    /// A dropped sender poisons under one lock, and its permit ends under another.
    pub(crate) const DROPPED_IN_TWO_STEPS: u8 = 4;
    /// A dropped sender does not poison.
    pub(crate) const DROPPED_WITHOUT_POISON: u8 = 5;
    /// The last cause is reported, and not the first.
    pub(crate) const LAST_CAUSE: u8 = 6;
}

pub(crate) struct Twin<const FAULT: u8> {
    state: Mutex<State>,
}

struct State {
    next_seq: u64,
    queue: VecDeque<Call>,
    sending: bool,
    poison: Option<Poison>,
}

pub(crate) struct Permit<const FAULT: u8> {
    twin: Arc<Twin<FAULT>>,
    ended: bool,
}

impl State {
    fn number(&mut self, count: u64) -> u64 {
        let first = self.next_seq;
        self.next_seq += count;
        first
    }

    fn check(&self) -> Result<()> {
        match &self.poison {
            Some(poison) => Err(poison.error()),
            None => Ok(()),
        }
    }
}

impl<const FAULT: u8> Twin<FAULT> {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics under it")
    }
}

fn fail(waiting: VecDeque<Call>, error: &Error) {
    for call in waiting {
        call.fail(error.clone());
    }
}

impl<const FAULT: u8> TestedOrder for Twin<FAULT> {
    type Permit = Permit<FAULT>;

    fn new() -> Self {
        Self {
            state: Mutex::new(State {
                next_seq: 1,
                queue: VecDeque::new(),
                sending: false,
                poison: None,
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
        if FAULT == fault::POISON_APART {
            drop(state);
            state = self.lock();
        }
        let first = state.number(count);
        if FAULT == fault::NUMBERS_APART {
            drop(state);
            state = self.lock();
        }
        state.queue.push_back(call(first));
        let idle = !std::mem::replace(&mut state.sending, true);
        Ok(idle.then(|| Permit {
            twin: Arc::clone(self),
            ended: false,
        }))
    }

    fn next(permit: &mut Self::Permit) -> Option<Call> {
        let mut state = permit.twin.lock();
        let next = state.queue.pop_front();
        if next.is_none() {
            permit.ended = true;
            if FAULT == fault::END_APART {
                drop(state);
                state = permit.twin.lock();
            }
            state.sending = false;
        }
        next
    }

    fn poison(&self, poison: Poison) {
        let mut state = self.lock();
        if FAULT == fault::LAST_CAUSE {
            state.poison = None;
        }
        let error = state.poison.get_or_insert(poison).error();
        let waiting = std::mem::take(&mut state.queue);
        drop(state);
        fail(waiting, &error);
    }

    fn settle_recovery(&self, recovery: Recovery) {
        if let Some(poison) = &mut self.lock().poison {
            poison.recovery = recovery;
        }
    }

    fn recover(&self) -> Result<()> {
        let mut state = self.lock();
        if let Some(poison) = &state.poison {
            let Recovery::From(seq) = poison.recovery else {
                return Err(poison.error());
            };
            state.next_seq = seq;
            state.poison = None;
        }
        Ok(())
    }
}

impl<const FAULT: u8> Drop for Permit<FAULT> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let poison = Poison {
            cause: super::error("given up"),
            recovery: Recovery::Never,
        };
        if FAULT == fault::DROPPED_WITHOUT_POISON {
            self.twin.lock().sending = false;
            return;
        }
        if FAULT == fault::DROPPED_IN_TWO_STEPS || FAULT == fault::LAST_CAUSE {
            self.twin.poison(poison);
            self.twin.lock().sending = false;
            return;
        }
        let mut state = self.twin.lock();
        let error = state.poison.get_or_insert(poison).error();
        let waiting = std::mem::take(&mut state.queue);
        state.sending = false;
        drop(state);
        fail(waiting, &error);
    }
}
