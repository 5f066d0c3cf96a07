//! One thread that runs all tasks: which of them goes next is drawn, and the clock moves when none can go.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use tinkers_core::{BoxFuture, Clock, ManualClock, Spawn, Task, Timestamp};

use crate::chance::Chance;

/// Whose task it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// A user's program.
    Caller,
    /// The client library.
    Client,
    /// Server and network.
    Server,
}

/// So many polls without the clock moving are a loop that never ends.
const HOT: u64 = 2_000_000;

/// The executor. Clones are the same one.
#[derive(Clone)]
pub struct Executor {
    shared: Arc<Shared>,
}

struct Shared {
    clock: ManualClock,
    chance: Chance,
    tasks: Mutex<Tasks>,
    ready: Arc<Ready>,
    /// How late tasks of the client library are polled at most.
    late: Mutex<Duration>,
}

#[derive(Default)]
struct Tasks {
    next: u64,
    all: BTreeMap<u64, Slot>,
    /// Panics that came out of tasks of the client library: somebody was not told.
    escaped: u64,
}

struct Slot {
    owner: Owner,
    /// Out while it is being polled.
    work: Option<BoxFuture<'static, ()>>,
    waker: Arc<TaskWaker>,
    aborted: bool,
}

#[derive(Default)]
struct Ready(Mutex<Vec<u64>>);

struct TaskWaker {
    id: u64,
    queued: AtomicBool,
    ready: Arc<Ready>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::SeqCst) {
            lock(&self.ready.0).push(self.id);
        }
    }
}

/// Why a run stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// What was waited for is so.
    Reached,
    /// The clock came to the limit.
    Late,
    /// Nothing can go on and nobody sleeps.
    Stuck,
    /// Tasks wake each other for ever without any time passing.
    Hot,
}

impl Executor {
    /// An executor without tasks, whose choices come from `chance`.
    pub fn new(clock: ManualClock, chance: Chance) -> Self {
        Self {
            shared: Arc::new(Shared {
                clock,
                chance,
                tasks: Mutex::default(),
                ready: Arc::default(),
                late: Mutex::default(),
            }),
        }
    }

    /// The way to start tasks of `owner`.
    pub fn spawner(&self, owner: Owner) -> Arc<dyn Spawn> {
        Arc::new(Spawner {
            shared: Arc::downgrade(&self.shared),
            owner,
        })
    }

    /// Runs until `reached`, asked whenever nothing can go on without time passing, or until the clock comes to `limit`.
    pub fn run_until(&self, limit: Timestamp, mut reached: impl FnMut() -> bool) -> Stop {
        loop {
            let mut polls = 0;
            while let Some(id) = self.next() {
                if !self.is_delayed(id) {
                    self.poll(id);
                }
                polls += 1;
                if polls == HOT {
                    return Stop::Hot;
                }
            }
            if reached() {
                return Stop::Reached;
            }
            if self.shared.clock.now() >= limit {
                return Stop::Late;
            }
            if self.shared.clock.advance_to_next().is_none() {
                return Stop::Stuck;
            }
        }
    }

    /// Returns how many tasks of `owner` are not dropped yet. An aborted task counts until then, since it holds what its work holds.
    pub fn live(&self, owner: Owner) -> usize {
        let tasks = lock(&self.shared.tasks);
        let of_owner = |slot: &&Slot| slot.owner == owner;
        tasks.all.values().filter(of_owner).count()
    }

    /// How many panics came out of tasks of the client library.
    pub fn escaped_panics(&self) -> u64 {
        lock(&self.shared.tasks).escaped
    }

    /// Ends all tasks.
    pub fn clear(&self) {
        let all = std::mem::take(&mut lock(&self.shared.tasks).all);
        drop(all);
    }

    /// From now on some of the tasks of the client library that are woken are polled up to `longest` later, as on a busy runtime.
    pub fn delay_client(&self, longest: Duration) {
        *lock(&self.shared.late) = longest;
    }

    /// Puts off the poll of a task that was woken, sometimes.
    fn is_delayed(&self, id: u64) -> bool {
        let longest = *lock(&self.shared.late);
        if longest.is_zero() || !self.shared.chance.happens(0.1) {
            return false;
        }
        let waker = {
            let tasks = lock(&self.shared.tasks);
            let Some(slot) = tasks.all.get(&id) else {
                return false;
            };
            if slot.owner != Owner::Client {
                return false;
            }
            Arc::clone(&slot.waker)
        };
        let clock = &self.shared.clock;
        let until = clock
            .now()
            .after(self.shared.chance.time(Duration::ZERO, longest));
        let sleep = clock.sleep_until(until);
        let late = async move {
            sleep.await;
            // It counts as woken meanwhile, so nobody else has queued it.
            lock(&waker.ready.0).push(waker.id);
        };
        self.spawner(Owner::Server).spawn(Box::pin(late)).detach();
        true
    }

    fn next(&self) -> Option<u64> {
        let mut ready = lock(&self.shared.ready.0);
        if ready.is_empty() {
            return None;
        }
        let at = self.shared.chance.below(ready.len() as u64) as usize;
        Some(ready.swap_remove(at))
    }

    fn poll(&self, id: u64) {
        let taken = {
            let mut tasks = lock(&self.shared.tasks);
            let Some(slot) = tasks.all.get_mut(&id) else {
                return;
            };
            slot.waker.queued.store(false, Ordering::SeqCst);
            if slot.aborted {
                tasks.all.remove(&id).map(Taken::Aborted)
            } else {
                let waker = Waker::from(Arc::clone(&slot.waker));
                slot.work.take().map(|work| Taken::Due(work, waker))
            }
        };
        // Work is polled and dropped without the lock: it may start or end other tasks.
        let (mut work, waker) = match taken {
            None => return,
            Some(Taken::Aborted(slot)) => return drop(slot),
            Some(Taken::Due(work, waker)) => (work, waker),
        };
        let polled = catch_unwind(AssertUnwindSafe(|| {
            work.as_mut().poll(&mut Context::from_waker(&waker))
        }));
        let ended = match polled {
            Ok(Poll::Pending) => {
                let mut tasks = lock(&self.shared.tasks);
                if let Some(slot) = tasks.all.get_mut(&id) {
                    slot.work = Some(work);
                }
                return;
            }
            Ok(Poll::Ready(())) => work,
            Err(_) => {
                let mut tasks = lock(&self.shared.tasks);
                let of_client = |slot: &Slot| slot.owner == Owner::Client;
                if tasks.all.get(&id).is_some_and(of_client) {
                    tasks.escaped += 1;
                }
                work
            }
        };
        drop(ended);
        let slot = lock(&self.shared.tasks).all.remove(&id);
        drop(slot);
    }
}

enum Taken {
    Due(BoxFuture<'static, ()>, Waker),
    Aborted(Slot),
}

struct Spawner {
    shared: std::sync::Weak<Shared>,
    owner: Owner,
}

impl Spawn for Spawner {
    fn spawn(&self, work: BoxFuture<'static, ()>) -> Task {
        let Some(shared) = self.shared.upgrade() else {
            return Task::new(|| ());
        };
        let (id, waker) = {
            let mut tasks = lock(&shared.tasks);
            tasks.next += 1;
            let id = tasks.next;
            let waker = Arc::new(TaskWaker {
                id,
                queued: AtomicBool::new(false),
                ready: Arc::clone(&shared.ready),
            });
            tasks.all.insert(
                id,
                Slot {
                    owner: self.owner,
                    work: Some(work),
                    waker: Arc::clone(&waker),
                    aborted: false,
                },
            );
            (id, waker)
        };
        waker.wake_by_ref();
        let shared = std::sync::Weak::clone(&self.shared);
        Task::new(move || {
            let Some(shared) = shared.upgrade() else {
                return;
            };
            if let Some(slot) = lock(&shared.tasks).all.get_mut(&id) {
                slot.aborted = true;
            }
            // The executor drops it when its turn comes, as a runtime does.
            waker.wake_by_ref();
        })
    }
}

impl fmt::Debug for Spawner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spawner")
            .field("owner", &self.owner)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Executor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Executor").finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn executor(seed: u64) -> (Executor, ManualClock) {
        let clock = ManualClock::new();
        (Executor::new(clock.clone(), Chance::new(seed)), clock)
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_origin(Duration::from_secs(seconds))
    }

    #[test]
    fn time_moves_when_nothing_else_can_and_a_seed_picks_the_order() {
        let order = |seed| {
            let (executor, clock) = executor(seed);
            let seen = Arc::new(Mutex::new(Vec::new()));
            let spawner = executor.spawner(Owner::Caller);
            for i in 0..6 {
                let (clock, seen) = (clock.clone(), Arc::clone(&seen));
                let work = async move {
                    clock.sleep_until(at(i % 2 + 1)).await;
                    lock(&seen).push(i);
                };
                spawner.spawn(Box::pin(work)).detach();
            }
            let done = executor.run_until(at(10), || executor.live(Owner::Caller) == 0);
            assert_eq!(done, Stop::Reached);
            assert_eq!(clock.now(), at(2));
            lock(&seen).clone()
        };
        assert_eq!(order(1), order(1));
        assert_ne!(
            (1..9)
                .map(order)
                .collect::<std::collections::BTreeSet<_>>()
                .len(),
            1
        );
        assert!(order(1)[..3].iter().all(|i| i % 2 == 0));
    }

    #[test]
    fn aborted_task_of_a_busy_runtime_lives_until_it_is_dropped() {
        for seed in 0..50 {
            let (executor, clock) = executor(seed);
            executor.delay_client(Duration::from_secs(1));
            let held = Arc::new(());
            let kept = Arc::clone(&held);
            let work = async move {
                clock.sleep_until(at(9)).await;
                drop(kept);
            };
            let task = executor.spawner(Owner::Client).spawn(Box::pin(work));
            drop(task);
            let done = executor.run_until(at(5), || executor.live(Owner::Client) == 0);
            assert_eq!(done, Stop::Reached);
            assert_eq!(Arc::strong_count(&held), 1, "seed {seed}");
        }
    }

    #[test]
    fn an_aborted_task_is_dropped_and_a_panic_of_the_client_is_counted() {
        let (executor, clock) = executor(1);
        let held = Arc::new(());
        let kept = Arc::clone(&held);
        let sleeper = clock.clone();
        let work = async move {
            sleeper.sleep_until(at(5)).await;
            drop(kept);
        };
        let task = executor.spawner(Owner::Client).spawn(Box::pin(work));
        let panic = async { std::panic::resume_unwind(Box::new("on purpose")) };
        executor
            .spawner(Owner::Client)
            .spawn(Box::pin(panic))
            .detach();
        drop(task);
        let done = executor.run_until(at(1), || executor.live(Owner::Client) == 0);
        assert_eq!(done, Stop::Reached);
        assert_eq!(Arc::strong_count(&held), 1);
        assert_eq!(executor.escaped_panics(), 1);
        assert_eq!(executor.run_until(at(1), || false), Stop::Stuck);
    }
}
