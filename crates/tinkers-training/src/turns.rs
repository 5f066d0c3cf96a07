//! The order of one model's requests: numbers are reserved when a method is called, and requests leave in that order.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use tinkers_core::nesting::Mark;
use tinkers_core::{
    ClientId, Error, ErrorKind, Moment, ProgressCell, Result, Sent, SessionContext, Setback,
    Setbacks,
};
use tinkers_futures::SubmissionQueue;
use tokio::sync::oneshot;

use crate::delivery::Taken;
use crate::order::{Order, Waiting};
use crate::parts::{Part, SavedName};
use crate::poison::{Poison, Recovery};
use crate::sender;
use crate::sync::{Mutex, lock};

/// A call's place in the order.
#[derive(Debug)]
pub(crate) struct Turn {
    pub(crate) first_seq: u64,
    pub(crate) parts: Vec<Arc<dyn Part>>,
    pub(crate) progress: Arc<ProgressCell>,
    pub(crate) operation: &'static str,
    /// When the method was called.
    pub(crate) taken_at: Moment,
    /// Whether a request under way made the call, such as in a transport layer.
    pub(crate) mark: Mark,
}

impl Turn {
    /// The number of a part.
    pub(crate) fn seq(&self, index: usize) -> u64 {
        self.first_seq + index as u64
    }
}

/// Where the outcome of a turn's submission goes: nobody may be waiting for it any more.
pub(crate) type Reply = oneshot::Sender<Result<Vec<Taken>>>;

/// A turn in the queue.
pub(crate) struct Queued {
    pub(crate) turn: Turn,
    pub(crate) reply: Reply,
    setbacks: Arc<Setbacks>,
}

impl Waiting for Queued {
    fn fail(self, error: Error) {
        if let Err(Err(error)) = self.reply.send(Err(error)) {
            self.setbacks.note(Setback::Undelivered, &error);
        }
    }

    fn move_up(&mut self, count: u64) {
        self.turn.first_seq -= count;
    }
}

/// The queue of one model's submissions.
///
/// A call takes its numbers and its place under one lock. One task at a time sends; it ends when the queue is empty, so an idle
/// model costs none. Who waits for a result has no say in the sending: dropping the handle leaves no hole in the order.
pub(crate) struct Turns {
    session: Arc<dyn SessionContext>,
    model_id: Arc<str>,
    client: ClientId,
    order: Arc<Order<Queued>>,
    /// The names of checkpoints that this model may have by now. It is the only writer of its run, so a name that is not here
    /// was never there.
    saved: Mutex<BTreeSet<SavedName>>,
    head: Mutex<Head>,
}

/// The call that is being submitted, as far as those behind it are concerned.
#[derive(Debug, Default)]
struct Head {
    /// When the one before it was done with.
    since: Moment,
    progress: Option<Arc<ProgressCell>>,
}

impl Turns {
    /// The first number of a model is 1: its creation counts as 0.
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

    /// Reserves the numbers of `parts` and queues them, in one step.
    ///
    /// A call that is made by a request under way may not wait behind another one, which may be that request's own: then neither
    /// would ever end. It is taken when it can be sent at once, and fails otherwise.
    pub(crate) fn take(
        self: &Arc<Self>,
        operation: &'static str,
        parts: Vec<Arc<dyn Part>>,
        progress: Arc<ProgressCell>,
    ) -> Result<oneshot::Receiver<Result<Vec<Taken>>>> {
        self.session.check_open()?;
        let taken_at = self.session.caller().time.now();
        let (reply, receiver) = oneshot::channel();
        let count = parts.len() as u64;
        let mark = Mark::here();
        let busy = mark.is_inside().then(|| busy(operation));
        let sending = self.order.take(count, busy, |first_seq| {
            // From here on it is sent whether anybody waits or not.
            progress.will_be_sent();
            let turn = Turn {
                first_seq,
                parts,
                progress,
                operation,
                taken_at,
                mark,
            };
            Queued {
                turn,
                reply,
                setbacks: Arc::clone(&self.session.caller().setbacks),
            }
        })?;
        if let Some(sending) = sending {
            sender::start(self, sending);
        }
        Ok(receiver)
    }

    /// Lets calls go on after a refusal that left nothing on the server.
    pub(crate) fn recover(&self) -> Result<()> {
        self.order.recover()
    }

    /// Fails everything queued and everything to come with `poison`, unless an earlier one is there.
    pub(crate) fn poison(&self, poison: Poison) {
        self.order.poison(poison);
    }

    /// The call that is being sent is on the server.
    pub(crate) fn delivered(&self) {
        self.order.delivered();
    }

    /// The call that is being sent left its `count` numbers free.
    pub(crate) fn release(&self, count: u64) {
        self.order.release(count);
    }

    /// All requests of the call that poisoned this model have ended: whether there is a way back is known.
    pub(crate) fn decide(&self, recovery: Recovery) {
        self.order.decide(recovery);
    }

    /// Whether a checkpoint of this name may be there.
    pub(crate) fn may_have_saved(&self, name: &SavedName) -> bool {
        lock(&self.saved).contains(name)
    }

    /// The next call is being submitted: `progress` is its own.
    pub(crate) fn begins(&self, progress: &Arc<ProgressCell>) {
        *lock(&self.head) = Head {
            since: self.session.caller().time.now(),
            progress: Some(Arc::clone(progress)),
        };
    }

    /// A save under this name was tried.
    pub(crate) fn tried_to_save(&self, name: SavedName) {
        lock(&self.saved).insert(name);
    }
}

fn busy(operation: &str) -> Error {
    let message = format!(
        "cannot submit {operation} from inside a request that is under way, such as in a transport layer: the model's submission \
         queue is busy, perhaps with that request itself; make the call outside of the request"
    );
    Error::new(ErrorKind::Unsupported, Sent::NotSent, message)
}

impl SubmissionQueue for Turns {
    fn moved(&self) -> Option<Moment> {
        let (since, progress) = {
            let head = lock(&self.head);
            (head.since, head.progress.clone())
        };
        let news = progress.map(|progress| progress.last_news());
        Some(since).max(news)
    }
}

impl fmt::Debug for Turns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turns")
            .field("model_id", &self.model_id)
            .field("order", &self.order)
            .finish_non_exhaustive()
    }
}
