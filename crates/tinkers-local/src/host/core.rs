//! The server: a lock around the protocol, held for one state transition. The effects of a transition are executed without the lock.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tinkers_core::{Clock, Jitter, Spawn, Task, Timestamp};
use tokio::sync::{Notify, oneshot};

use super::writer::{self, Writer};
use crate::config::LocalConfig;
use crate::engine::{Engine, EngineError, Job, JobCallback};
use crate::faults::Faults;
use crate::http::LazyResponse;
use crate::journal::Journal;
use crate::protocol::{Effect, Ended, ExchangeId, Protocol, Stamp};
use crate::quirks::Quirks;
use crate::read::AuthorizedCommand;
use crate::store::RecordStore;
use crate::window::WindowCounts;

/// A Tinker server without sockets. Clones are cheap and share the server. The server stops when the last clone is dropped.
///
/// Listen on a socket with [`serve`](crate::serve), or send requests through [`InProcess`](crate::InProcess).
#[derive(Clone)]
pub struct LocalServer {
    pub(super) shared: Arc<Shared>,
    /// The timer task, which wakes the server for timeouts and expiries. It is aborted when the last clone of the server is
    /// dropped.
    _timer: Arc<Task>,
}

pub(super) struct Shared {
    pub(super) config: Arc<LocalConfig>,
    pub(super) time: Arc<dyn Clock>,
    spawn: Arc<dyn Spawn>,
    pub(super) faults: Faults,
    pub(super) journal: Option<Journal>,
    pub(super) quirks: Quirks,
    /// It is dropped before the engine: the engine locks the data directory, and the store has to be closed when the lock is released.
    core: Mutex<Core>,
    engine: Arc<dyn Engine>,
    /// A signal that wakes the timer task after a deadline was added that is earlier than the deadline for which the task sleeps.
    earlier_deadline: Notify,
    own: Weak<Self>,
}

struct Core {
    protocol: Protocol,
    exchanges: u64,
    waiting: BTreeMap<ExchangeId, Waiting>,
    /// The engine jobs to start or cancel, in order. They are passed to the engine without the lock on the state.
    outbox: VecDeque<Effect>,
    /// Whether a thread is passing the jobs in `outbox` to the engine. Other threads then only add their jobs to `outbox`. So an
    /// engine that reports an outcome while it is started does not grow the stack.
    is_executing: bool,
    /// The deadline for which the timer task sleeps. `None` if there is no deadline.
    armed: Option<Timestamp>,
    /// The thread that stores the changes of records. `None` if they are not stored.
    writer: Option<Writer>,
}

/// The parts from which a [`LocalServer`] is built: the engine, the clock, the configuration and so on.
pub(super) struct Parts {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) time: Arc<dyn Clock>,
    pub(super) spawn: Arc<dyn Spawn>,
    pub(super) config: LocalConfig,
    pub(super) random: Arc<dyn Jitter>,
    pub(super) faults: Faults,
    pub(super) journal: Option<Journal>,
    pub(super) store: Option<Box<dyn RecordStore>>,
}

/// A connection that waits for a response.
struct Waiting {
    sender: oneshot::Sender<LazyResponse>,
    /// Whether the response is sent at once, because it reports nothing that has to be stored.
    is_direct: bool,
}

impl LocalServer {
    pub(super) fn start(parts: Parts) -> Result<Self, EngineError> {
        let checkpoints = parts.engine.checkpoints()?;
        let mut config = parts.config;
        for quirk in &config.quirks {
            quirk.apply(&mut config.dialect);
        }
        let quirks = Quirks::new(&config.quirks);
        let config = Arc::new(config);
        parts.faults.install(&parts.time);
        config.access.install(&parts.time);
        let at = stamp(&parts.time);
        let mut protocol = Protocol::new(
            Arc::clone(&config),
            parts.random,
            parts.engine.models(),
            parts.engine.losses(),
            checkpoints,
            at,
        );
        let writer = match parts.store {
            None => None,
            Some(mut store) => {
                let unreadable = |error| EngineError::server(writer::chain(&error));
                let stored = store.load().map_err(unreadable)?;
                protocol.restore(at, stored).map_err(unreadable)?;
                Some(Writer::start(store)?)
            }
        };
        let shared = Arc::new_cyclic(|own| Shared {
            config,
            time: parts.time,
            spawn: Arc::clone(&parts.spawn),
            faults: parts.faults,
            journal: parts.journal,
            quirks,
            engine: parts.engine,
            core: Mutex::new(Core {
                protocol,
                exchanges: 0,
                waiting: BTreeMap::new(),
                outbox: VecDeque::new(),
                is_executing: false,
                armed: None,
                writer,
            }),
            earlier_deadline: Notify::new(),
            own: Weak::clone(own),
        });
        let timer = parts.spawn.spawn(Box::pin(Arc::clone(&shared).keep_time()));
        Ok(Self {
            shared,
            _timer: Arc::new(timer),
        })
    }

    /// Prepares for shutdown: responds with "try again" to all polls that are held open, and holds no more polls open.
    pub fn drain(&self) {
        self.shared.transition(Protocol::drain);
    }

    /// Writes all changes of records, also those that may be written later, and blocks until they are stored. Returns, too, when they
    /// cannot be stored.
    ///
    /// # Panics
    ///
    /// If it is called in asynchronous code, which must not block.
    pub fn flush(&self) {
        self.shared.transition(Protocol::flush);
        let flushed = {
            let core = self.shared.lock();
            core.writer.as_ref().map(Writer::flush)
        };
        if let Some(flushed) = flushed {
            // The sender is dropped if the store has panicked.
            let _ = flushed.blocking_recv();
        }
    }

    /// Simulates a lack of capacity for `length`. During this time, the server accepts new requests but does not start their
    /// operations, and polls for single results report `paused_capacity`.
    pub fn pause_capacity(&self, length: Duration) {
        self.shared
            .transition(|protocol, at| protocol.pause_capacity(at, length));
    }

    /// Ends all sessions, as if the server had received no heartbeats.
    pub fn expire_sessions(&self) {
        self.shared
            .transition(|protocol, at| protocol.expire_sessions(at));
    }

    /// Simulates a restart of the server process: cuts the connections of all requests without a response, and deletes all
    /// sessions, models, samplers and results. Checkpoints and records are not deleted, and the port stays open.
    pub fn restart(&self) {
        let mut cut = BTreeMap::new();
        self.shared.step(|core, at| {
            std::mem::swap(&mut cut, &mut core.waiting);
            core.protocol.restart(at)
        });
    }

    /// Returns the statistics of the limit on samples in flight, or `None` if [`LocalConfig::window`] is not set.
    pub fn window_counts(&self) -> Option<WindowCounts> {
        let now = self.shared.time.now();
        self.shared.lock().protocol.window_counts(now)
    }

    /// Returns the configuration of the server.
    pub fn config(&self) -> &LocalConfig {
        &self.shared.config
    }

    /// Returns the spawner that runs the timer task of the server. Clients of this server can use the same spawner.
    pub fn spawner(&self) -> &Arc<dyn Spawn> {
        &self.shared.spawn
    }

    /// Returns the clock of the server.
    pub fn time(&self) -> &Arc<dyn Clock> {
        &self.shared.time
    }
}

impl Shared {
    /// Applies a parsed request to the state of the server. Returns a future that waits for the response. Dropping the future
    /// counts as a disconnect of the client.
    pub(super) fn apply(&self, command: AuthorizedCommand) -> PendingResponse {
        let (sender, receiver) = oneshot::channel();
        let is_direct = command.command.reports_no_records();
        let (exchange, is_refused) = {
            let mut core = self.lock();
            core.exchanges += 1;
            let exchange = ExchangeId(core.exchanges);
            core.waiting.insert(exchange, Waiting { sender, is_direct });
            let is_failing = core.writer.as_ref().is_some_and(Writer::is_failing);
            (exchange, is_failing && !is_direct)
        };
        // From here on, dropping the future (also by a panic) removes the exchange.
        let waiting = PendingResponse {
            shared: Weak::clone(&self.own),
            exchange,
            receiver,
        };
        if is_refused {
            // Nothing has been changed, so the client can send the request again without doubling anything.
            self.refuse(exchange);
        } else {
            self.transition(|protocol, at| protocol.apply(at, exchange, command));
        }
        waiting
    }

    /// Refuses a request because the records cannot be written.
    fn refuse(&self, exchange: ExchangeId) {
        if let Some(waiting) = self.lock().waiting.remove(&exchange) {
            // The client may have disconnected meanwhile.
            let _ = waiting.sender.send(writer::unwritable());
        }
    }

    /// Applies a change to the protocol state. Then sends the responses and passes the jobs to the engine that result from the
    /// change.
    fn transition(&self, step: impl FnOnce(&mut Protocol, Stamp) -> Vec<Effect>) {
        self.step(|core, at| step(&mut core.protocol, at));
    }

    /// Applies a change to the protocol state that causes no responses and no engine jobs.
    pub(super) fn change(&self, change: impl FnOnce(&mut Protocol, Stamp)) {
        self.transition(|protocol, at| {
            change(protocol, at);
            Vec::new()
        });
    }

    fn step(&self, step: impl FnOnce(&mut Core, Stamp) -> Vec<Effect>) {
        let at = stamp(&self.time);
        let (responses, is_earlier, execute) = {
            let mut guard = self.lock();
            let core = &mut *guard;
            let (mut responses, mut delayed, mut changes) = (Vec::new(), Vec::new(), Vec::new());
            for effect in step(core, at) {
                match effect {
                    Effect::Respond(exchange, response) => {
                        let Some(waiting) = core.waiting.remove(&exchange) else {
                            continue;
                        };
                        let to = match waiting.is_direct {
                            true => &mut responses,
                            false => &mut delayed,
                        };
                        to.push((waiting.sender, response));
                    }
                    Effect::Store(all) => changes = all,
                    engine => core.outbox.push_back(engine),
                }
            }
            // With the lock, so that responses are sent in the order of the transitions.
            responses.extend(match &core.writer {
                Some(writer) => writer.deliver(changes, delayed),
                None => delayed,
            });
            let next = core.protocol.next_deadline();
            let is_earlier = next.is_some_and(|next| core.armed.is_none_or(|armed| next < armed));
            let execute = !core.is_executing && !core.outbox.is_empty();
            core.is_executing |= execute;
            (responses, is_earlier, execute)
        };
        for (sender, response) in responses {
            // The client may have disconnected meanwhile.
            let _ = sender.send(response);
        }
        if is_earlier {
            self.earlier_deadline.notify_one();
        }
        if execute {
            self.execute_outbox();
        }
    }

    /// Passes the jobs in `outbox` to the engine. Only one thread does so at a time, so the engine gets the jobs in order.
    fn execute_outbox(&self) {
        loop {
            let effect = {
                let mut core = self.lock();
                match core.outbox.pop_front() {
                    Some(effect) => effect,
                    None => {
                        core.is_executing = false;
                        return;
                    }
                }
            };
            let executed = catch_unwind(AssertUnwindSafe(|| match effect {
                Effect::Start(job) => self.start_job(job),
                Effect::Cancel(job) => self.engine.cancel(job),
                Effect::Respond(..) | Effect::Store(_) => {}
            }));
            if executed.is_err() {
                // The job has failed already: its `JobCallback` was dropped.
                tracing::error!("the engine panicked while it was given a job");
            }
        }
    }

    fn start_job(&self, job: Job) {
        let (id, own) = (job.id, Weak::clone(&self.own));
        let done = JobCallback::new(move |outcome| {
            if let Some(shared) = own.upgrade() {
                // Results are encoded here, on the engine's thread and without the lock.
                let dialect = &shared.config.dialect;
                let ended = Ended::from(outcome.map(|outcome| dialect.adapt(outcome)));
                shared.transition(|protocol, at| protocol.outcome(at, id, ended));
            }
        });
        self.engine.start(job, done);
    }

    /// Runs the timer task: sleeps until the next deadline, such as the timeout of a poll, and lets the protocol handle it. Never
    /// returns.
    async fn keep_time(self: Arc<Self>) {
        loop {
            let next = {
                let mut core = self.lock();
                core.armed = core.protocol.next_deadline();
                core.armed
            };
            let Some(next) = next else {
                self.earlier_deadline.notified().await;
                continue;
            };
            tokio::select! {
                biased;
                () = self.time.sleep_until(next) => self.transition(Protocol::tick),
                () = self.earlier_deadline.notified() => {}
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stamp(time: &Arc<dyn Clock>) -> Stamp {
    Stamp {
        now: time.now(),
        wall: time.wall(),
    }
}

/// Writes the changes of records that could be written later.
impl Drop for Shared {
    fn drop(&mut self) {
        let at = stamp(&self.time);
        let core = self.core.get_mut().unwrap_or_else(PoisonError::into_inner);
        let Some(writer) = &core.writer else {
            return;
        };
        for effect in core.protocol.flush(at) {
            if let Effect::Store(changes) = effect {
                writer.deliver(changes, Vec::new());
            }
        }
    }
}

/// A future that waits for the response to a request. Dropping it before the response counts as a disconnect of the client.
pub(super) struct PendingResponse {
    shared: Weak<Shared>,
    exchange: ExchangeId,
    receiver: oneshot::Receiver<LazyResponse>,
}

impl PendingResponse {
    /// Waits for the response; returns `None` if a restart of the server cuts the connection.
    pub(super) async fn response(mut self) -> Option<LazyResponse> {
        (&mut self.receiver).await.ok()
    }
}

impl Drop for PendingResponse {
    fn drop(&mut self) {
        let Some(shared) = self.shared.upgrade() else {
            return;
        };
        // An exchange with a response was removed before.
        shared.step(|core, at| match core.waiting.remove(&self.exchange) {
            Some(_) => core.protocol.disconnected(at, self.exchange),
            None => Vec::new(),
        });
    }
}

impl fmt::Debug for LocalServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalServer")
            .field("engine", &self.shared.engine)
            .field("config", &self.shared.config)
            .finish_non_exhaustive()
    }
}
