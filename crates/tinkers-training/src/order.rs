//! The lock of a model's order: numbers, queue, poison and the right to send change together. Its models are in `tests/loom.rs`.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use tinkers_core::{Error, ErrorKind, Result, Sent};

use crate::poison::{Poison, Recovery};
use crate::sync::{Mutex, lock};

/// What waits in the order until it is sent.
pub(crate) trait Waiting {
    /// It will not be sent.
    fn fail(self, error: Error);

    /// Its numbers are lower by `count`: a call before it has left its own free.
    fn move_up(&mut self, count: u64);
}

/// Who comes when, and who sends. What is queued is given out in the order of its numbers, by one at a time.
pub(crate) struct Order<T> {
    state: Mutex<State<T>>,
}

struct State<T> {
    next_seq: u64,
    queue: VecDeque<T>,
    /// Whether somebody has the right to send.
    sending: bool,
    /// Whether a call that was taken out of the queue is still being sent.
    delivering: bool,
    poison: Option<Poison>,
}

/// The right to send, which one at a time has. It ends when the queue is found empty; given up before that, it fails everything
/// queued and everything to come, so that nobody is left waiting.
pub(crate) struct Sending<T: Waiting> {
    order: Arc<Order<T>>,
    ended: bool,
}

impl<T: Waiting> Order<T> {
    pub(crate) fn new(first_seq: u64) -> Self {
        Self {
            state: Mutex::new(State {
                next_seq: first_seq,
                queue: VecDeque::new(),
                sending: false,
                delivering: false,
                poison: None,
            }),
        }
    }

    /// Reserves `count` numbers and queues what `place` makes of the first of them, in one step. Who is given the right to send
    /// has to use it.
    ///
    /// # Errors
    /// What the poison says, or `busy`, where that is given, while another call is queued or being sent. `place` is not asked then.
    pub(crate) fn take(
        self: &Arc<Self>,
        count: u64,
        busy: Option<Error>,
        place: impl FnOnce(u64) -> T,
    ) -> Result<Option<Sending<T>>> {
        let mut state = lock(&self.state);
        if let Some(poison) = &state.poison {
            return Err(poison.error());
        }
        if let Some(busy) = busy
            && (state.delivering || !state.queue.is_empty())
        {
            return Err(busy);
        }
        let first_seq = state.next_seq;
        state.next_seq += count;
        state.queue.push_back(place(first_seq));
        let idle = !std::mem::replace(&mut state.sending, true);
        drop(state);
        Ok(idle.then(|| Sending {
            order: Arc::clone(self),
            ended: false,
        }))
    }

    /// Lets calls go on after a refusal that left nothing on the server.
    ///
    /// # Errors
    /// What the poison says, when there is no way back, or it is not known yet.
    pub(crate) fn recover(&self) -> Result<()> {
        let mut state = lock(&self.state);
        let Some(poison) = &state.poison else {
            return Ok(());
        };
        let Recovery::From(seq) = poison.recovery else {
            return Err(poison.error());
        };
        state.next_seq = seq;
        state.poison = None;
        Ok(())
    }

    /// The call that was being sent is on the server, so that a call which comes now does not wait for it.
    pub(crate) fn delivered(&self) {
        lock(&self.state).delivering = false;
    }

    /// Frees the `count` numbers of the call that is being sent, of which the server has taken none: what is queued moves up, so that
    /// no number is left out. For the one that sends.
    pub(crate) fn release(&self, count: u64) {
        let mut state = lock(&self.state);
        state.next_seq -= count;
        state.queue.iter_mut().for_each(|next| next.move_up(count));
    }

    /// Fails everything queued and everything to come with `poison`, unless an earlier one is there.
    pub(crate) fn poison(&self, poison: Poison) {
        let failed = lock(&self.state).close(poison);
        failed.tell();
    }

    /// All requests of the call that poisoned this model have ended: whether there is a way back is known.
    pub(crate) fn decide(&self, recovery: Recovery) {
        if let Some(poison) = &mut lock(&self.state).poison
            && poison.recovery == Recovery::Undecided
        {
            poison.recovery = recovery;
        }
    }
}

impl<T: Waiting> Sending<T> {
    /// What is to be sent next. When there is nothing the right ends, under the same lock as a call that would be given it anew.
    pub(crate) fn next(&mut self) -> Option<T> {
        if self.ended {
            return None;
        }
        let mut state = lock(&self.order.state);
        let next = state.queue.pop_front();
        state.sending = next.is_some();
        state.delivering = next.is_some();
        self.ended = next.is_none();
        next
    }
}

impl<T: Waiting> Drop for Sending<T> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        // The runtime ended, or the task was aborted.
        let message =
            "the task that sends this model's requests was aborted; its runtime has ended";
        let poison = Poison {
            cause: Error::new(ErrorKind::Aborted, Sent::MaybeSent, message),
            recovery: Recovery::Never,
        };
        // In one step: an earlier poison may have a way back, and whoever goes it in between would wait for a sender that is gone.
        let failed = {
            let mut state = lock(&self.order.state);
            state.sending = false;
            state.delivering = false;
            state.close(poison)
        };
        failed.tell();
    }
}

/// Those that a poison found waiting; they are told without the lock.
struct Failed<T> {
    waiting: VecDeque<T>,
    error: Error,
}

impl<T: Waiting> Failed<T> {
    fn tell(self) {
        for waiting in self.waiting {
            waiting.fail(self.error.clone());
        }
    }
}

impl<T> State<T> {
    fn close(&mut self, poison: Poison) -> Failed<T> {
        let error = self.poison.get_or_insert(poison).error();
        let waiting = std::mem::take(&mut self.queue);
        Failed { waiting, error }
    }
}

impl<T> fmt::Debug for Order<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = lock(&self.state);
        f.debug_struct("Order")
            .field("next_seq", &state.next_seq)
            .field("queued", &state.queue.len())
            .field("poisoned", &state.poison.is_some())
            .finish_non_exhaustive()
    }
}
