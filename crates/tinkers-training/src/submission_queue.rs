//! The submission queue of one model: sequence numbers, waiting calls, and the task that sends them in order.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;

use tinkers_core::nesting::NestedMark;
use tinkers_core::{
    ClientId, Error, ErrorKind, ProgressCell, RecoveredError, RecoveredErrors, Result, Sent,
    SessionContext, Timestamp,
};
use tinkers_futures::QueueActivity;
use tokio::sync::oneshot;

use crate::poison::{Poison, Recovery};
use crate::requests::{Request, SavedName};
use crate::submit::Submitted;
use crate::sync::{Mutex, lock};

/// A training call in the queue: its requests, which have consecutive sequence numbers.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) first_seq: u64,
    pub(crate) requests: Vec<Arc<dyn Request>>,
    pub(crate) progress: Arc<ProgressCell>,
    pub(crate) operation: &'static str,
    pub(crate) called_at: Timestamp,
    /// Whether the call was made inside another request, such as in a transport layer.
    pub(crate) mark: NestedMark,
}

impl Submission {
    /// Returns the sequence number of a request.
    pub(crate) fn seq(&self, index: usize) -> u64 {
        self.first_seq + index as u64
    }
}

/// Reports the outcome of a submission to the future that the caller holds, which may have been dropped.
pub(crate) type Reply = oneshot::Sender<Result<Vec<Submitted>>>;

/// The receiver of the outcome of a submission.
pub(crate) type Outcome = oneshot::Receiver<Result<Vec<Submitted>>>;

/// The queue of one model's submissions.
///
/// A call reserves its numbers and its position under one lock. One task at a time sends, and ends when the queue is empty, so
/// that an idle model costs no task. Dropping the caller's future does not remove the submission: a gap in the numbers would stop
/// the model.
pub(crate) struct SubmissionQueue {
    session: Arc<dyn SessionContext>,
    model_id: Arc<str>,
    client: ClientId,
    order: Arc<Order<Entry>>,
    /// Names of checkpoints that this model may have. No other client writes to its run, so a name that is not here is free.
    saved: Mutex<BTreeSet<SavedName>>,
    head: Mutex<Head>,
}

/// The submission that is being sent.
#[derive(Debug, Default)]
struct Head {
    since: Timestamp,
    progress: Option<Arc<ProgressCell>>,
}

impl SubmissionQueue {
    /// Creates the queue of a new model, whose first number is 1: its creation counts as 0.
    pub(crate) fn new(session: Arc<dyn SessionContext>, model_id: Arc<str>) -> Arc<Self> {
        let client = session.next_client();
        Arc::new(Self {
            session,
            model_id,
            client,
            order: Arc::new(Order::new(1)),
            saved: Mutex::new(BTreeSet::new()),
            head: Mutex::default(),
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

    /// Reserves the sequence numbers of `requests` and queues them, in one step. Returns the receiver of the outcome, and the permit
    /// to send unless a task has it.
    ///
    /// A call that is made inside another request must not wait for a call of this queue, which may be that request: neither would
    /// ever end. It is queued only if it can be sent at once, and fails otherwise.
    pub(crate) fn push(
        &self,
        operation: &'static str,
        requests: Vec<Arc<dyn Request>>,
        progress: Arc<ProgressCell>,
    ) -> Result<(Outcome, Option<SendPermit<Entry>>)> {
        self.session.check_open()?;
        let called_at = self.session.caller().time.now();
        let (reply, outcome) = oneshot::channel();
        let count = requests.len() as u64;
        let mark = NestedMark::here();
        let busy = mark.is_inside().then(|| busy(operation));
        let permit = self.order.push(count, busy, |first_seq| {
            // From here on it is sent even if the caller drops its future.
            progress.mark_queued();
            let submission = Submission {
                first_seq,
                requests,
                progress,
                operation,
                called_at,
                mark,
            };
            Entry {
                submission,
                reply,
                recovered_errors: Arc::clone(&self.session.caller().recovered_errors),
            }
        })?;
        Ok((outcome, permit))
    }

    /// Lifts the poison after a refusal that left nothing on the server.
    pub(crate) fn recover(&self) -> Result<()> {
        self.order.recover()
    }

    /// Fails all queued and all later calls with `poison`, unless the queue is poisoned already.
    pub(crate) fn poison(&self, poison: Poison) {
        self.order.poison(poison);
    }

    /// Marks the submission that is being sent as accepted: a call that arrives now does not wait for it.
    pub(crate) fn head_is_delivered(&self) {
        self.order.head_is_delivered();
    }

    /// Frees the `count` numbers of the submission that is being sent.
    pub(crate) fn release(&self, count: u64) {
        self.order.release(count);
    }

    /// Settles whether calls may go on, once all requests of the submission that poisoned the queue have ended.
    pub(crate) fn settle_recovery(&self, recovery: Recovery) {
        self.order.settle_recovery(recovery);
    }

    /// Returns whether this model may have saved a checkpoint of this name.
    pub(crate) fn may_have_saved(&self, name: &SavedName) -> bool {
        lock(&self.saved).contains(name)
    }

    /// Records that a save under this name was tried.
    pub(crate) fn tried_to_save(&self, name: SavedName) {
        lock(&self.saved).insert(name);
    }

    /// Records the submission that is being sent.
    pub(crate) fn set_head(&self, progress: &Arc<ProgressCell>) {
        *lock(&self.head) = Head {
            since: self.session.caller().time.now(),
            progress: Some(Arc::clone(progress)),
        };
    }
}

fn busy(operation: &str) -> Error {
    let message = format!(
        "cannot submit {operation} from inside another request, such as in a transport layer: the model's submission queue is \
         busy, perhaps with that request; make the call outside of the request"
    );
    Error::new(ErrorKind::Unsupported, Sent::NotSent, message)
}

impl QueueActivity for SubmissionQueue {
    fn last_activity(&self) -> Option<Timestamp> {
        let (since, progress) = {
            let head = lock(&self.head);
            (head.since, head.progress.clone())
        };
        let news = progress.map(|progress| progress.last_news());
        Some(since).max(news)
    }
}

impl fmt::Debug for SubmissionQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubmissionQueue")
            .field("model_id", &self.model_id)
            .field("order", &self.order)
            .finish_non_exhaustive()
    }
}

/// A queued submission and where its outcome goes.
pub(crate) struct Entry {
    pub(crate) submission: Submission,
    pub(crate) reply: Reply,
    recovered_errors: Arc<RecoveredErrors>,
}

impl Queued for Entry {
    fn fail(self, error: Error) {
        if let Err(Err(error)) = self.reply.send(Err(error)) {
            self.recovered_errors
                .record(RecoveredError::Undelivered, &error);
        }
    }

    fn renumber(&mut self, freed: u64) {
        self.submission.first_seq -= freed;
    }
}

/// What an [`Order`] holds until it is sent.
pub(crate) trait Queued {
    /// Fails it: it will not be sent.
    fn fail(self, error: Error);

    /// Lowers its numbers by those that an earlier call left free.
    fn renumber(&mut self, freed: u64);
}

/// Numbers, queue, poison and the permit to send, which change together under one lock. Entries are handed out in the order of
/// their numbers to one sender at a time. Every interleaving is checked in `loom_models.rs`.
pub(crate) struct Order<T> {
    state: Mutex<State<T>>,
}

struct State<T> {
    next_seq: u64,
    queue: VecDeque<T>,
    /// Whether a [`SendPermit`] exists.
    sending: bool,
    /// Whether an entry that was taken out of the queue is not accepted yet.
    delivering: bool,
    poison: Option<Poison>,
}

/// The permit to send, of which there is at most one. It ends when the queue is found empty; dropped before that, it fails all
/// queued and all later calls, so that none waits for a sender that does not exist.
pub(crate) struct SendPermit<T: Queued> {
    order: Arc<Order<T>>,
    ended: bool,
}

impl<T: Queued> Order<T> {
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

    /// Reserves `count` numbers and queues what `entry` makes of the first of them, in one step. A caller that receives the
    /// permit must send.
    ///
    /// # Errors
    /// That of the poison, or `busy` if it is given and another entry is queued or being delivered; `entry` is not called then.
    pub(crate) fn push(
        self: &Arc<Self>,
        count: u64,
        busy: Option<Error>,
        entry: impl FnOnce(u64) -> T,
    ) -> Result<Option<SendPermit<T>>> {
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
        state.queue.push_back(entry(first_seq));
        let idle = !std::mem::replace(&mut state.sending, true);
        drop(state);
        Ok(idle.then(|| SendPermit {
            order: Arc::clone(self),
            ended: false,
        }))
    }

    /// Lifts the poison after a refusal that left nothing on the server.
    ///
    /// # Errors
    /// That of the poison, where something may have been applied or requests are still under way.
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

    /// Marks the entry that is being sent as accepted.
    pub(crate) fn head_is_delivered(&self) {
        lock(&self.state).delivering = false;
    }

    /// Frees the `count` numbers of the entry that is being sent, of which the server has taken none: queued entries move up, so
    /// that no number is left out. To be called by the holder of the permit.
    pub(crate) fn release(&self, count: u64) {
        let mut state = lock(&self.state);
        state.next_seq -= count;
        state.queue.iter_mut().for_each(|next| next.renumber(count));
    }

    /// Fails all queued and all later calls with `poison`, unless there is an earlier poison.
    pub(crate) fn poison(&self, poison: Poison) {
        let failed = lock(&self.state).poison(poison);
        failed.notify();
    }

    /// Settles whether calls may go on after the poison, once that is known.
    pub(crate) fn settle_recovery(&self, recovery: Recovery) {
        if let Some(poison) = &mut lock(&self.state).poison
            && poison.recovery == Recovery::Undecided
        {
            poison.recovery = recovery;
        }
    }
}

impl<T: Queued> SendPermit<T> {
    /// Returns the next entry to send. If there is none the permit ends, under the lock under which a call would receive it anew.
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

impl<T: Queued> Drop for SendPermit<T> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        // The runtime has shut down, or the task was aborted.
        let message = "the task that sends this model's requests was aborted by the end of its runtime; create a client from \
                       the last checkpoint";
        let poison = Poison {
            cause: Error::new(ErrorKind::Aborted, Sent::MaybeSent, message),
            recovery: Recovery::Never,
        };
        // In one step: after an earlier poison that can be lifted, a call in between would wait for a sender that is gone.
        let failed = {
            let mut state = lock(&self.order.state);
            state.sending = false;
            state.delivering = false;
            state.poison(poison)
        };
        failed.notify();
    }
}

/// Entries that a poison removed from the queue, to be notified without the lock.
struct Failed<T> {
    entries: VecDeque<T>,
    error: Error,
}

impl<T: Queued> Failed<T> {
    fn notify(self) {
        for entry in self.entries {
            entry.fail(self.error.clone());
        }
    }
}

impl<T> State<T> {
    fn poison(&mut self, poison: Poison) -> Failed<T> {
        let error = self.poison.get_or_insert(poison).error();
        let entries = std::mem::take(&mut self.queue);
        Failed { entries, error }
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
