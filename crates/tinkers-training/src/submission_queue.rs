//! The submission queue of one model: sequence numbers, queued training calls, and the permit of the task that sends them in order.

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

use crate::model_failure::{ModelFailure, Recovery};
use crate::requests::{Request, SavedName};
use crate::submit::Submitted;
use crate::sync::{Mutex, lock};

/// A training call in the submission queue. The requests of the call have consecutive sequence numbers.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) first_seq: u64,
    pub(crate) requests: Vec<Arc<dyn Request>>,
    pub(crate) progress: Arc<ProgressCell>,
    pub(crate) operation: &'static str,
    pub(crate) called_at: Timestamp,
    /// A flag that tells whether the call was made while another request was being sent, for example by a transport layer that handles this
    /// other request.
    pub(crate) mark: NestedMark,
}

impl Submission {
    /// Returns the sequence number of the request at `index` in the call.
    pub(crate) fn seq(&self, index: usize) -> u64 {
        self.first_seq + index as u64
    }
}

/// The sending half of the channel through which a caller learns whether the server has accepted its training call. The caller may have dropped
/// the receiving half.
pub(crate) type OutcomeSender = oneshot::Sender<Result<Vec<Submitted>>>;

/// The receiving half of the channel through which a caller learns whether the server has accepted its training call.
pub(crate) type OutcomeReceiver = oneshot::Receiver<Result<Vec<Submitted>>>;

/// A queue of the training calls of one model, which are sent in the order of their sequence numbers.
///
/// A call reserves its sequence numbers and its queue position under one lock. One task at a time sends the queued calls. The task ends when the
/// queue is empty, so an idle model has no task. Dropping the future of a call does not remove the call from the queue, since the server would
/// wait for the missing sequence numbers.
pub(crate) struct SubmissionQueue {
    session: Arc<dyn SessionContext>,
    model_id: Arc<str>,
    client: ClientId,
    order: Arc<Order<Entry>>,
    /// The names under which this client has tried to save checkpoints. Under any other name no checkpoint of the training run exists, since no
    /// other client saves to this run.
    saved: Mutex<BTreeSet<SavedName>>,
    head: Mutex<Head>,
}

/// The training call that is being sent. As long as it makes progress, the calls that wait behind it do not count as stalled.
#[derive(Debug, Default)]
struct Head {
    since: Timestamp,
    progress: Option<Arc<ProgressCell>>,
}

impl SubmissionQueue {
    /// Creates the queue of a new model. The first sequence number of the queue is 1, since the creation of the model has sequence number
    /// 0.
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

    /// Reserves the sequence numbers of `requests` and queues the requests, in one step. Returns the receiver of the outcome. If no task sends
    /// the queued calls, also returns the permit to send them.
    ///
    /// A call that is made while another request is being sent, for example by a transport layer, is queued only if it can be sent at once.
    /// Otherwise the call fails: it might wait in the queue behind the other request, which in turn might wait for the call.
    pub(crate) fn push(
        &self,
        operation: &'static str,
        requests: Vec<Arc<dyn Request>>,
        progress: Arc<ProgressCell>,
    ) -> Result<(OutcomeReceiver, Option<SendPermit<Entry>>)> {
        self.session.check_open()?;
        let called_at = self.session.caller().time.now();
        let (reply, outcome) = oneshot::channel();
        let count = requests.len() as u64;
        let mark = NestedMark::here();
        let busy = mark.is_inside().then(|| busy(operation));
        let permit = self.order.push(count, busy, |first_seq| {
            // From here on the submission is sent even if the caller drops its future.
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

    /// Lets the model accept calls again after a failed call, if the server applied no part of that call. See [`Order::recover`].
    pub(crate) fn recover(&self) -> Result<()> {
        self.order.recover()
    }

    /// Fails all queued and all later calls because of `failure`. If the model has failed before, later calls still report the first
    /// failure.
    pub(crate) fn fail_model(&self, failure: ModelFailure) {
        self.order.fail_model(failure);
    }

    /// Records that the server has accepted the training call that is being sent. From then on, a call that is made inside another request, and
    /// so must not wait, can be queued again.
    pub(crate) fn mark_head_accepted(&self) {
        self.order.mark_head_accepted();
    }

    /// Makes the `count` sequence numbers of the training call that is being sent available again, because the server has used none of these.
    /// The queued calls are renumbered and use them.
    pub(crate) fn free_numbers(&self, count: u64) {
        self.order.free_numbers(count);
    }

    /// Records whether the failed model may accept calls again. Called when all requests of the failed call have ended.
    pub(crate) fn decide_recovery(&self, recovery: Recovery) {
        self.order.decide_recovery(recovery);
    }

    /// Returns whether this client may have saved a checkpoint of this name.
    pub(crate) fn may_have_saved(&self, name: &SavedName) -> bool {
        lock(&self.saved).contains(name)
    }

    /// Records that this client has tried to save a checkpoint of this name.
    pub(crate) fn record_save_attempt(&self, name: SavedName) {
        lock(&self.saved).insert(name);
    }

    /// Records the progress of the training call that is being sent. As long as it makes progress, the calls that wait behind it do not count as
    /// stalled.
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

/// A training call in the queue, with the channel through which its outcome is sent to the caller.
pub(crate) struct Entry {
    pub(crate) submission: Submission,
    pub(crate) reply: OutcomeSender,
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

/// An entry of the queue of an [`Order`], normally a training call. The trait allows loom models to use simpler entries.
pub(crate) trait Queued {
    /// Reports `error` to the caller of the entry. The entry will not be sent.
    fn fail(self, error: Error);

    /// Lowers the sequence numbers of the entry by `freed`, the number of sequence numbers that an earlier call did not use.
    fn renumber(&mut self, freed: u64);
}

/// The state that decides in which order the training calls of a model are sent: sequence numbers, queue, failure of the model, and whether a
/// sender exists. All of this state changes under one lock.
///
/// One sender at a time takes the entries in the order of their sequence numbers. The loom models in `loom_models.rs` check this in all
/// interleavings of concurrent threads.
pub(crate) struct Order<T> {
    state: Mutex<State<T>>,
}

struct State<T> {
    next_seq: u64,
    queue: VecDeque<T>,
    /// Whether a [`SendPermit`] exists, so that a task sends the queued entries.
    has_sender: bool,
    /// Whether an entry was taken out of the queue to be sent, and the server has not accepted the entry yet.
    is_head_pending: bool,
    failure: Option<ModelFailure>,
}

/// The permit to send the entries of an [`Order`]. At most one permit exists at a time.
///
/// The permit ends when its holder finds the queue empty. If the permit is dropped earlier, it fails all queued and all later calls, so that no
/// call waits without a sender.
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
                has_sender: false,
                is_head_pending: false,
                failure: None,
            }),
        }
    }

    /// Reserves `count` sequence numbers and queues an entry, in one step. `entry` builds the entry from the first of these sequence numbers. If
    /// a permit is returned, the caller must send the queued entries, since no other task sends them.
    ///
    /// # Errors
    /// If the model has failed, the error of the failure. If `busy` is given, and another entry is queued or is being sent, the error `busy`. In
    /// both cases `entry` is not called.
    pub(crate) fn push(
        self: &Arc<Self>,
        count: u64,
        busy: Option<Error>,
        entry: impl FnOnce(u64) -> T,
    ) -> Result<Option<SendPermit<T>>> {
        let mut state = lock(&self.state);
        if let Some(failure) = &state.failure {
            return Err(failure.error());
        }
        if let Some(busy) = busy
            && (state.is_head_pending || !state.queue.is_empty())
        {
            return Err(busy);
        }
        let first_seq = state.next_seq;
        state.next_seq += count;
        state.queue.push_back(entry(first_seq));
        let idle = !std::mem::replace(&mut state.has_sender, true);
        drop(state);
        Ok(idle.then(|| SendPermit {
            order: Arc::clone(self),
            ended: false,
        }))
    }

    /// Lets a failed model accept calls again, if the server applied nothing of the failed call. Does nothing if the model has not failed.
    ///
    /// # Errors
    /// The error of the failed model, if a part of the failed call may have been applied or some of its requests are in flight.
    pub(crate) fn recover(&self) -> Result<()> {
        let mut state = lock(&self.state);
        let Some(failure) = &state.failure else {
            return Ok(());
        };
        let Recovery::From(seq) = failure.recovery else {
            return Err(failure.error());
        };
        state.next_seq = seq;
        state.failure = None;
        Ok(())
    }

    /// Records that the server has accepted the entry that is being sent.
    pub(crate) fn mark_head_accepted(&self) {
        lock(&self.state).is_head_pending = false;
    }

    /// Makes the `count` sequence numbers of the entry that is being sent available again, because the server has used none of these
    /// sequence numbers. The sequence numbers of queued entries are lowered, so that there is no gap. Only the holder of the permit may
    /// call this method.
    pub(crate) fn free_numbers(&self, count: u64) {
        let mut state = lock(&self.state);
        state.next_seq -= count;
        state.queue.iter_mut().for_each(|next| next.renumber(count));
    }

    /// Fails all queued and all later calls because of `failure`. If the model has failed before, later calls still report the first
    /// failure.
    pub(crate) fn fail_model(&self, failure: ModelFailure) {
        let failed = lock(&self.state).fail_model(failure);
        failed.notify();
    }

    /// Records whether the failed model may accept calls again, if this is still undecided.
    pub(crate) fn decide_recovery(&self, recovery: Recovery) {
        if let Some(failure) = &mut lock(&self.state).failure
            && failure.recovery == Recovery::Undecided
        {
            failure.recovery = recovery;
        }
    }
}

impl<T: Queued> SendPermit<T> {
    /// Returns the next entry to send. If the queue is empty, ends the permit under the same lock, so that the next call that is queued receives
    /// a new permit and is sent.
    pub(crate) fn next(&mut self) -> Option<T> {
        if self.ended {
            return None;
        }
        let mut state = lock(&self.order.state);
        let next = state.queue.pop_front();
        state.has_sender = next.is_some();
        state.is_head_pending = next.is_some();
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
        let failure = ModelFailure {
            cause: Error::new(ErrorKind::Aborted, Sent::MaybeSent, message),
            recovery: Recovery::Never,
        };
        // Under one lock: if another thread could recover in between, its next call would wait for a sender that does not exist.
        let failed = {
            let mut state = lock(&self.order.state);
            state.has_sender = false;
            state.is_head_pending = false;
            state.fail_model(failure)
        };
        failed.notify();
    }
}

/// The queue entries that fail because the model has failed. Their callers are notified after the lock of the queue is released.
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
    fn fail_model(&mut self, failure: ModelFailure) -> Failed<T> {
        let error = self.failure.get_or_insert(failure).error();
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
            .field("failed", &state.failure.is_some())
            .finish_non_exhaustive()
    }
}
