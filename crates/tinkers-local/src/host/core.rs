//! The shared core: a lock around the protocol, held for a transition; what comes of it is done without the lock.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tinkers_core::{Jitter, Moment, Spawn, Task, Time};
use tokio::sync::{Notify, oneshot};

use crate::config::LocalConfig;
use crate::engine::{Done, Engine, EngineError, Job};
use crate::faults::Faults;
use crate::http::Answer;
use crate::journal::Journal;
use crate::protocol::{Effect, Ended, ExchangeId, Protocol, Stamp};
use crate::read::Command;
use crate::window::WindowCounts;

/// A Tinker server without sockets. Cheap to clone; clones are the same server, which ends with the last of them.
///
/// Give it sockets with [`serve`](crate::serve), or talk to it through [`InProcess`](crate::InProcess).
#[derive(Clone)]
pub struct LocalServer {
    pub(super) shared: Arc<Shared>,
    /// Ends the timer with the last clone.
    _timer: Arc<Task>,
}

pub(super) struct Shared {
    pub(super) config: Arc<LocalConfig>,
    pub(super) time: Arc<dyn Time>,
    spawn: Arc<dyn Spawn>,
    pub(super) faults: Faults,
    pub(super) journal: Option<Journal>,
    engine: Arc<dyn Engine>,
    core: Mutex<Core>,
    /// There is something to do earlier than the timer thinks.
    sooner: Notify,
    own: Weak<Self>,
}

struct Core {
    protocol: Protocol,
    exchanges: u64,
    waiting: BTreeMap<ExchangeId, oneshot::Sender<Answer>>,
    /// What the engine is to be told, in order.
    outbox: VecDeque<Effect>,
    /// Somebody is at the outbox. An engine that reports at once thus never makes the stack grow.
    telling: bool,
    /// When the timer will look again.
    armed: Option<Moment>,
}

/// What a [`LocalServer`] is made of.
pub(super) struct Parts {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) time: Arc<dyn Time>,
    pub(super) spawn: Arc<dyn Spawn>,
    pub(super) config: LocalConfig,
    pub(super) chance: Arc<dyn Jitter>,
    pub(super) faults: Faults,
    pub(super) journal: Option<Journal>,
}

impl LocalServer {
    pub(super) fn start(parts: Parts) -> Result<Self, EngineError> {
        let checkpoints = parts.engine.checkpoints()?;
        let config = Arc::new(parts.config);
        parts.faults.install(&parts.time);
        let at = stamp(&parts.time);
        let protocol = Protocol::new(
            Arc::clone(&config),
            parts.chance,
            parts.engine.models(),
            parts.engine.losses(),
            checkpoints,
            at,
        );
        let shared = Arc::new_cyclic(|own| Shared {
            config,
            time: parts.time,
            spawn: Arc::clone(&parts.spawn),
            faults: parts.faults,
            journal: parts.journal,
            engine: parts.engine,
            core: Mutex::new(Core {
                protocol,
                exchanges: 0,
                waiting: BTreeMap::new(),
                outbox: VecDeque::new(),
                telling: false,
                armed: None,
            }),
            sooner: Notify::new(),
            own: Weak::clone(own),
        });
        let timer = parts.spawn.spawn(Box::pin(Arc::clone(&shared).keep_time()));
        Ok(Self {
            shared,
            _timer: Arc::new(timer),
        })
    }

    /// The server is about to stop: held polls are told to try again, and none is held from now on.
    pub fn drain(&self) {
        self.shared.transition(|protocol, _| protocol.drain());
    }

    /// For `length` from now on no work is started for want of capacity: what comes is accepted and waits, and polls for one
    /// result are told so, as `paused_capacity`.
    pub fn pause_capacity(&self, length: Duration) {
        self.shared
            .transition(|protocol, at| protocol.pause_capacity(at, length));
    }

    /// Ends all sessions as if none had sent a heartbeat for too long.
    pub fn expire_sessions(&self) {
        self.shared
            .transition(|protocol, at| protocol.expire_sessions(at));
    }

    /// Cuts all exchanges under way and forgets sessions, models, samplers and results, as a process does that ends and is started
    /// again. Checkpoints stay, and the port stays open.
    pub fn restart(&self) {
        let mut cut = BTreeMap::new();
        self.shared.step(|core, at| {
            std::mem::swap(&mut cut, &mut core.waiting);
            core.protocol.restart(at)
        });
    }

    /// What its window saw so far; `None` without a [`LocalConfig::window`].
    pub fn window_counts(&self) -> Option<WindowCounts> {
        let now = self.shared.time.now();
        self.shared.lock().protocol.window_counts(now)
    }

    /// Its limits and times.
    pub fn config(&self) -> &LocalConfig {
        &self.shared.config
    }

    /// What runs its timer, and can run clients of it beside that.
    pub fn spawner(&self) -> &Arc<dyn Spawn> {
        &self.shared.spawn
    }

    /// Its clock.
    pub fn time(&self) -> &Arc<dyn Time> {
        &self.shared.time
    }
}

impl Shared {
    /// Applies a command; the answer comes through the receiver, which ends the exchange when dropped.
    pub(super) fn apply(&self, command: Command) -> Waiting {
        let (answer, receiver) = oneshot::channel();
        let exchange = {
            let mut core = self.lock();
            core.exchanges += 1;
            let exchange = ExchangeId(core.exchanges);
            core.waiting.insert(exchange, answer);
            exchange
        };
        // From here on a panic or a drop takes the exchange out again.
        let waiting = Waiting {
            shared: Weak::clone(&self.own),
            exchange,
            receiver,
        };
        self.transition(|protocol, at| protocol.apply(at, exchange, command));
        waiting
    }

    /// One transition and what comes of it.
    fn transition(&self, step: impl FnOnce(&mut Protocol, Stamp) -> Vec<Effect>) {
        self.step(|core, at| step(&mut core.protocol, at));
    }

    /// A change that nothing comes of at once.
    pub(super) fn change(&self, change: impl FnOnce(&mut Protocol, Stamp)) {
        self.transition(|protocol, at| {
            change(protocol, at);
            Vec::new()
        });
    }

    fn step(&self, step: impl FnOnce(&mut Core, Stamp) -> Vec<Effect>) {
        let at = stamp(&self.time);
        let mut answers = Vec::new();
        let (sooner, tell) = {
            let mut guard = self.lock();
            let core = &mut *guard;
            for effect in step(core, at) {
                match effect {
                    Effect::Respond(exchange, answer) => {
                        answers.extend(core.waiting.remove(&exchange).map(|to| (to, answer)));
                    }
                    engine => core.outbox.push_back(engine),
                }
            }
            let next = core.protocol.next_deadline();
            let sooner = next.is_some_and(|next| core.armed.is_none_or(|armed| next < armed));
            let tell = !core.telling && !core.outbox.is_empty();
            core.telling |= tell;
            (sooner, tell)
        };
        for (to, answer) in answers {
            // Whoever asked may have gone meanwhile.
            let _ = to.send(answer);
        }
        if sooner {
            self.sooner.notify_one();
        }
        if tell {
            self.tell_engine();
        }
    }

    /// Works off the outbox. One thread at a time, so that the engine hears things in order.
    fn tell_engine(&self) {
        loop {
            let effect = {
                let mut core = self.lock();
                match core.outbox.pop_front() {
                    Some(effect) => effect,
                    None => {
                        core.telling = false;
                        return;
                    }
                }
            };
            let told = catch_unwind(AssertUnwindSafe(|| match effect {
                Effect::Start(job) => self.start_job(job),
                Effect::Cancel(job) => self.engine.cancel(job),
                Effect::Respond(..) => {}
            }));
            if told.is_err() {
                // The job's own way back has reported it already.
                tracing::error!("the engine panicked while it was given a job");
            }
        }
    }

    fn start_job(&self, job: Job) {
        let (id, own) = (job.id, Weak::clone(&self.own));
        let done = Done::new(move |outcome| {
            if let Some(shared) = own.upgrade() {
                // Results are encoded here, on the engine's thread and without the lock.
                let dialect = &shared.config.dialect;
                let ended = Ended::from(outcome.map(|outcome| dialect.put(outcome)));
                shared.transition(|protocol, at| protocol.outcome(at, id, ended));
            }
        });
        self.engine.start(job, done);
    }

    /// Ticks the protocol whenever something is due, for as long as the server lives.
    async fn keep_time(self: Arc<Self>) {
        loop {
            let next = {
                let mut core = self.lock();
                core.armed = core.protocol.next_deadline();
                core.armed
            };
            let Some(next) = next else {
                self.sooner.notified().await;
                continue;
            };
            tokio::select! {
                biased;
                () = self.time.sleep_until(next) => self.transition(Protocol::tick),
                () = self.sooner.notified() => {}
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stamp(time: &Arc<dyn Time>) -> Stamp {
    Stamp {
        now: time.now(),
        wall: time.wall(),
    }
}

/// The answer to come. Dropping it tells the protocol that nobody waits.
pub(super) struct Waiting {
    shared: Weak<Shared>,
    exchange: ExchangeId,
    receiver: oneshot::Receiver<Answer>,
}

impl Waiting {
    /// The answer; `None` when the server ended without one.
    pub(super) async fn answer(mut self) -> Option<Answer> {
        (&mut self.receiver).await.ok()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Some(shared) = self.shared.upgrade() else {
            return;
        };
        // An exchange that was answered is out already.
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
