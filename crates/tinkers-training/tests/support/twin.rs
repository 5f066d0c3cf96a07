//! The order and a twin of it that can be given one fault, as the models use them.

use std::collections::VecDeque;
use std::sync::Arc;

use loom::sync::{Mutex, MutexGuard};
use tinkers_core::{Error, Result};

use crate::Call;
use crate::order::{Order, Sending, Waiting};
use crate::poison::{Poison, Recovery};

/// An order whose calls are submitted one after the other.
pub(crate) trait Line: Send + Sync + Sized + 'static {
    type Right: Send;

    fn new() -> Self;
    fn take(
        self: &Arc<Self>,
        count: u64,
        call: impl FnOnce(u64) -> Call,
    ) -> Result<Option<Self::Right>>;
    fn next(right: &mut Self::Right) -> Option<Call>;
    fn poison(&self, poison: Poison);
    fn decide(&self, recovery: Recovery);
    fn recover(&self) -> Result<()>;
}

impl Line for Order<Call> {
    type Right = Sending<Call>;

    fn new() -> Self {
        Self::new(1)
    }

    fn take(
        self: &Arc<Self>,
        count: u64,
        call: impl FnOnce(u64) -> Call,
    ) -> Result<Option<Self::Right>> {
        Self::take(self, count, None, call)
    }

    fn next(right: &mut Self::Right) -> Option<Call> {
        right.next()
    }

    fn poison(&self, poison: Poison) {
        self.poison(poison);
    }

    fn decide(&self, recovery: Recovery) {
        self.decide(recovery);
    }

    fn recover(&self) -> Result<()> {
        self.recover()
    }
}

/// What is wrong with a [`Twin`].
pub(crate) mod fault {
    pub(crate) const NONE: u8 = 0;
    /// Numbers are taken under one lock, and the place in the queue under another.
    pub(crate) const NUMBERS_APART: u8 = 1;
    /// The queue is found empty under one lock, and the right to send ends under another.
    pub(crate) const END_APART: u8 = 2;
    /// The poison is looked for under one lock, and the place in the queue is taken under another.
    pub(crate) const POISON_APART: u8 = 3;
    /// Whoever gives the sending up poisons under one lock, and its right ends under another.
    pub(crate) const GIVEN_UP_APART: u8 = 4;
    /// Whoever gives the sending up poisons nothing.
    pub(crate) const GIVEN_UP_IN_SILENCE: u8 = 5;
    /// The last cause is told, and not the first.
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

pub(crate) struct Right<const FAULT: u8> {
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

impl<const FAULT: u8> Line for Twin<FAULT> {
    type Right = Right<FAULT>;

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

    fn take(
        self: &Arc<Self>,
        count: u64,
        call: impl FnOnce(u64) -> Call,
    ) -> Result<Option<Self::Right>> {
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
        Ok(idle.then(|| Right {
            twin: Arc::clone(self),
            ended: false,
        }))
    }

    fn next(right: &mut Self::Right) -> Option<Call> {
        let mut state = right.twin.lock();
        let next = state.queue.pop_front();
        if next.is_none() {
            right.ended = true;
            if FAULT == fault::END_APART {
                drop(state);
                state = right.twin.lock();
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

    fn decide(&self, recovery: Recovery) {
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

impl<const FAULT: u8> Drop for Right<FAULT> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let poison = Poison {
            cause: crate::error("given up"),
            recovery: Recovery::Never,
        };
        if FAULT == fault::GIVEN_UP_IN_SILENCE {
            self.twin.lock().sending = false;
            return;
        }
        if FAULT == fault::GIVEN_UP_APART || FAULT == fault::LAST_CAUSE {
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
