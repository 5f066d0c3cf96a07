//! The order of one model's requests: numbers are reserved when a method is called, and requests leave in that order.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tinkers_core::{ClientId, Moment, ProgressCell, Result, SessionContext};
use tokio::sync::oneshot;

use crate::delivery::Taken;
use crate::parts::{Part, SavedName};
use crate::poison::{Poison, Recovery};
use crate::sender::Sender;

/// A call's place in the order.
#[derive(Debug)]
pub(crate) struct Turn {
    pub(crate) first_seq: u64,
    pub(crate) parts: Vec<Arc<dyn Part>>,
    pub(crate) progress: Arc<ProgressCell>,
    pub(crate) operation: &'static str,
    /// When the method was called.
    pub(crate) taken_at: Moment,
}

impl Turn {
    /// The number of a part.
    pub(crate) fn seq(&self, index: usize) -> u64 {
        self.first_seq + index as u64
    }
}

/// Where the outcome of a turn's submission goes: nobody may be waiting for it any more.
pub(crate) type Reply = oneshot::Sender<Result<Vec<Taken>>>;

/// The queue of one model's submissions.
///
/// A call takes its numbers and its place under one lock. One task at a time sends; it ends when the queue is empty, so an idle
/// model costs none. Who waits for a result has no say in the sending: dropping the handle leaves no hole in the order.
pub(crate) struct Turns {
    session: Arc<dyn SessionContext>,
    model_id: Arc<str>,
    client: ClientId,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next_seq: u64,
    queue: VecDeque<(Turn, Reply)>,
    sending: bool,
    poison: Option<Poison>,
    /// The names of checkpoints that this model may have by now. It is the only writer of its run, so a name that is not here
    /// was never there.
    saved: BTreeSet<SavedName>,
}

impl Turns {
    /// The first number of a model is 1: its creation counts as 0.
    pub(crate) fn new(session: Arc<dyn SessionContext>, model_id: Arc<str>) -> Arc<Self> {
        let client = session.next_client();
        let state = Mutex::new(State {
            next_seq: 1,
            ..State::default()
        });
        Arc::new(Self {
            session,
            model_id,
            client,
            state,
        })
    }

    pub(crate) fn session(&self) -> &Arc<dyn SessionContext> {
        &self.session
    }

    pub(crate) fn model_id(&self) -> &Arc<str> {
        &self.model_id
    }

    pub(crate) fn client(&self) -> ClientId {
        self.client
    }

    /// Reserves the numbers of `parts` and queues them, in one step.
    pub(crate) fn take(
        self: &Arc<Self>,
        operation: &'static str,
        parts: Vec<Arc<dyn Part>>,
        progress: Arc<ProgressCell>,
    ) -> Result<oneshot::Receiver<Result<Vec<Taken>>>> {
        self.session.check_open()?;
        let taken_at = self.session.caller().time.now();
        let (reply, receiver) = oneshot::channel();
        let mut state = self.lock();
        if let Some(poison) = &state.poison {
            return Err(poison.error());
        }
        // From here on it is sent whether anybody waits or not.
        progress.will_be_sent();
        let first_seq = state.next_seq;
        state.next_seq += parts.len() as u64;
        let turn = Turn {
            first_seq,
            parts,
            progress,
            operation,
            taken_at,
        };
        state.queue.push_back((turn, reply));
        let idle = !std::mem::replace(&mut state.sending, true);
        drop(state);
        // Without the lock: on a runtime that has ended the task is dropped inside `spawn`, and its guard takes the lock.
        if idle {
            Sender::start(self);
        }
        Ok(receiver)
    }

    /// Lets calls go on after a refusal that left nothing on the server.
    pub(crate) fn recover(&self) -> Result<()> {
        let mut state = self.lock();
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

    /// Fails everything queued and everything to come with `poison`, unless an earlier one is there.
    pub(crate) fn poison(&self, poison: Poison) {
        let (waiting, error) = {
            let mut state = self.lock();
            let error = state.poison.get_or_insert(poison).error();
            (std::mem::take(&mut state.queue), error)
        };
        for (_, reply) in waiting {
            let _ = reply.send(Err(error.clone()));
        }
    }

    /// All requests of the call that poisoned this model have ended: whether there is a way back is known.
    pub(crate) fn decide(&self, recovery: Recovery) {
        if let Some(poison) = &mut self.lock().poison
            && poison.recovery == Recovery::Undecided
        {
            poison.recovery = recovery;
        }
    }

    /// The next turn; when there is none, the sending ends, under the same lock as a call that would start it anew.
    pub(crate) fn next(&self) -> Option<(Turn, Reply)> {
        let mut state = self.lock();
        let next = state.queue.pop_front();
        state.sending = next.is_some();
        next
    }

    /// The task that sends is gone without having emptied the queue.
    pub(crate) fn sending_ended(&self) {
        self.lock().sending = false;
    }

    /// Whether a checkpoint of this name may be there.
    pub(crate) fn may_have_saved(&self, name: &SavedName) -> bool {
        self.lock().saved.contains(name)
    }

    /// A save under this name was tried.
    pub(crate) fn tried_to_save(&self, name: SavedName) {
        self.lock().saved.insert(name);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Turns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Turns")
            .field("model_id", &self.model_id)
            .field("next_seq", &state.next_seq)
            .field("queued", &state.queue.len())
            .field("poisoned", &state.poison.is_some())
            .finish_non_exhaustive()
    }
}
