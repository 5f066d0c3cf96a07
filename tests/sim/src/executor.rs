//! A single-threaded executor. It polls ready tasks in random order, and advances the clock when no
//! task is ready.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use tinkers_core::{BoxFuture, Clock, ManualClock, Spawn, Task, Timestamp};

use crate::rng::Rng;

/// The part of the simulated system that has spawned a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// The task belongs to the simulated program of a user.
    Program,
    /// The task belongs to the client library.
    Client,
    /// The task belongs to the server, the network or the harness of the simulation.
    Server,
}

/// The number of polls of tasks after which the executor reports a livelock if the clock has not
/// advanced meanwhile.
const MAX_POLLS: u64 = 2_000_000;

/// A deterministic executor with one thread. Clones share their tasks.
#[derive(Clone)]
pub struct Executor {
    shared: Arc<Shared>,
}

struct Shared {
    clock: ManualClock,
    rng: Rng,
    tasks: Mutex<Tasks>,
    ready: Arc<ReadyTasks>,
    /// The longest time for which the executor delays the poll of a client library task that is
    /// ready.
    max_delay: Mutex<Duration>,
}

#[derive(Default)]
struct Tasks {
    last_id: u64,
    by_id: BTreeMap<u64, TaskState>,
    /// The number of tasks of the client library that panicked, because the library did not catch
    /// the panic.
    escaped_panics: u64,
}

struct TaskState {
    owner: Owner,
    /// The future of the task. `None` while the task is being polled.
    future: Option<BoxFuture<'static, ()>>,
    waker: Arc<TaskWaker>,
    is_aborted: bool,
}

/// The ids of the tasks that are ready to be polled.
#[derive(Default)]
struct ReadyTasks(Mutex<Vec<u64>>);

struct TaskWaker {
    id: u64,
    is_ready: AtomicBool,
    ready: Arc<ReadyTasks>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_ready.swap(true, Ordering::SeqCst) {
            lock(&self.ready.0).push(self.id);
        }
    }
}

/// The reason why [`Executor::run_until`] stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// The condition `is_met` returned `true`.
    ConditionMet,
    /// The clock has reached the time limit of the run.
    TimeLimit,
    /// No task is ready, and no task waits for the clock, so nothing can happen any more.
    Deadlock,
    /// Tasks wake each other again and again, so that the clock never advances.
    Livelock,
}

impl Executor {
    /// Creates an executor without tasks. Random numbers from `rng` decide which ready task is
    /// polled next.
    pub fn new(clock: ManualClock, rng: Rng) -> Self {
        Self {
            shared: Arc::new(Shared {
                clock,
                rng,
                tasks: Mutex::default(),
                ready: Arc::default(),
                max_delay: Mutex::default(),
            }),
        }
    }

    /// Returns a spawner whose tasks belong to `owner`.
    pub fn spawner(&self, owner: Owner) -> Arc<dyn Spawn> {
        Arc::new(Spawner {
            shared: Arc::downgrade(&self.shared),
            owner,
        })
    }

    /// Runs tasks until `is_met` returns `true` or the clock reaches `limit`. Calls `is_met`
    /// whenever no task is ready.
    pub fn run_until(&self, limit: Timestamp, mut is_met: impl FnMut() -> bool) -> StopReason {
        loop {
            let mut polls = 0;
            while let Some(id) = self.next_ready() {
                if !self.delay_poll(id) {
                    self.poll(id);
                }
                polls += 1;
                if polls == MAX_POLLS {
                    return StopReason::Livelock;
                }
            }
            if is_met() {
                return StopReason::ConditionMet;
            }
            if self.shared.clock.now() >= limit {
                return StopReason::TimeLimit;
            }
            if self.shared.clock.advance_to_next().is_none() {
                return StopReason::Deadlock;
            }
        }
    }

    /// Returns the number of tasks that belong to `owner` and still exist. An aborted task is
    /// counted until its future has been dropped.
    pub fn task_count(&self, owner: Owner) -> usize {
        let tasks = lock(&self.shared.tasks);
        let is_owned = |task: &&TaskState| task.owner == owner;
        tasks.by_id.values().filter(is_owned).count()
    }

    /// Returns the number of tasks of the client library that have panicked, because the library
    /// did not catch the panic.
    pub fn escaped_panics(&self) -> u64 {
        lock(&self.shared.tasks).escaped_panics
    }

    /// Drops all tasks. The executor is not locked while their futures are dropped.
    pub fn clear(&self) {
        let tasks = std::mem::take(&mut lock(&self.shared.tasks).by_id);
        drop(tasks);
    }

    /// From now on, delays some polls of the client library's tasks by up to `max_delay`, as a busy
    /// runtime would. Zero ends the delays.
    pub fn delay_client_tasks(&self, max_delay: Duration) {
        *lock(&self.shared.max_delay) = max_delay;
    }

    /// Decides at random whether the executor delays the poll of a ready task. If so, schedules the
    /// poll for later and returns `true`.
    fn delay_poll(&self, id: u64) -> bool {
        let max_delay = *lock(&self.shared.max_delay);
        if max_delay.is_zero() || !self.shared.rng.gen_bool(0.1) {
            return false;
        }
        let waker = {
            let tasks = lock(&self.shared.tasks);
            let is_delayable = |task: &&TaskState| task.owner == Owner::Client;
            let Some(task) = tasks.by_id.get(&id).filter(is_delayable) else {
                return false;
            };
            Arc::clone(&task.waker)
        };
        let clock = &self.shared.clock;
        let delay = self.shared.rng.duration(Duration::ZERO, max_delay);
        let sleep = clock.sleep_until(clock.now().after(delay));
        let make_ready = async move {
            sleep.await;
            // The waker's flag is still set, so no wake-up has added the task to the ready tasks in
            // the meantime.
            lock(&waker.ready.0).push(waker.id);
        };
        self.spawner(Owner::Server)
            .spawn(Box::pin(make_ready))
            .detach();
        true
    }

    fn next_ready(&self) -> Option<u64> {
        let mut ready = lock(&self.shared.ready.0);
        if ready.is_empty() {
            return None;
        }
        let index = self.shared.rng.below(ready.len() as u64) as usize;
        Some(ready.swap_remove(index))
    }

    fn poll(&self, id: u64) {
        let next = {
            let mut tasks = lock(&self.shared.tasks);
            let Some(task) = tasks.by_id.get_mut(&id) else {
                return;
            };
            task.waker.is_ready.store(false, Ordering::SeqCst);
            if task.is_aborted {
                tasks.by_id.remove(&id).map(NextAction::Drop)
            } else {
                let waker = Waker::from(Arc::clone(&task.waker));
                let future = task.future.take();
                future.map(|future| NextAction::Poll(future, waker))
            }
        };
        // The lock is not held while futures are polled or dropped, because they may spawn or abort
        // tasks.
        let (mut future, waker) = match next {
            None => return,
            Some(NextAction::Drop(task)) => return drop(task),
            Some(NextAction::Poll(future, waker)) => (future, waker),
        };
        let polled = catch_unwind(AssertUnwindSafe(|| {
            future.as_mut().poll(&mut Context::from_waker(&waker))
        }));
        match polled {
            Ok(Poll::Pending) => {
                let mut tasks = lock(&self.shared.tasks);
                if let Some(task) = tasks.by_id.get_mut(&id) {
                    task.future = Some(future);
                }
                return;
            }
            Ok(Poll::Ready(())) => {}
            Err(_) => {
                let mut tasks = lock(&self.shared.tasks);
                let is_of_client = |task: &TaskState| task.owner == Owner::Client;
                if tasks.by_id.get(&id).is_some_and(is_of_client) {
                    tasks.escaped_panics += 1;
                }
            }
        }
        drop(future);
        let task = lock(&self.shared.tasks).by_id.remove(&id);
        drop(task);
    }
}

enum NextAction {
    Poll(BoxFuture<'static, ()>, Waker),
    Drop(TaskState),
}

struct Spawner {
    shared: std::sync::Weak<Shared>,
    owner: Owner,
}

impl Spawn for Spawner {
    fn spawn(&self, future: BoxFuture<'static, ()>) -> Task {
        let Some(shared) = self.shared.upgrade() else {
            return Task::new(|| ());
        };
        let (id, waker) = {
            let mut tasks = lock(&shared.tasks);
            tasks.last_id += 1;
            let id = tasks.last_id;
            let waker = Arc::new(TaskWaker {
                id,
                is_ready: AtomicBool::new(false),
                ready: Arc::clone(&shared.ready),
            });
            tasks.by_id.insert(
                id,
                TaskState {
                    owner: self.owner,
                    future: Some(future),
                    waker: Arc::clone(&waker),
                    is_aborted: false,
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
            if let Some(task) = lock(&shared.tasks).by_id.get_mut(&id) {
                task.is_aborted = true;
            }
            // As in other runtimes, the future is dropped when the task would be polled next.
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
    use std::collections::BTreeSet;

    use super::*;

    fn executor(seed: u64) -> (Executor, ManualClock) {
        let clock = ManualClock::new();
        (Executor::new(clock.clone(), Rng::new(seed)), clock)
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_origin(Duration::from_secs(seconds))
    }

    #[test]
    fn clock_advances_when_no_task_is_ready_and_seed_sets_task_order() {
        let order = |seed| {
            let (executor, clock) = executor(seed);
            let completed = Arc::new(Mutex::new(Vec::new()));
            let spawner = executor.spawner(Owner::Program);
            for i in 0..6 {
                let (clock, completed) = (clock.clone(), Arc::clone(&completed));
                let work = async move {
                    clock.sleep_until(at(i % 2 + 1)).await;
                    lock(&completed).push(i);
                };
                spawner.spawn(Box::pin(work)).detach();
            }
            let reason = executor.run_until(at(10), || executor.task_count(Owner::Program) == 0);
            assert_eq!(reason, StopReason::ConditionMet);
            assert_eq!(clock.now(), at(2));
            lock(&completed).clone()
        };
        assert_eq!(order(1), order(1));
        let orders: BTreeSet<Vec<u64>> = (1..9).map(order).collect();
        assert_ne!(orders.len(), 1);
        assert!(order(1)[..3].iter().all(|i| i % 2 == 0));
    }

    #[test]
    fn aborted_task_is_counted_until_its_future_is_dropped() {
        for seed in 0..50 {
            let (executor, clock) = executor(seed);
            executor.delay_client_tasks(Duration::from_secs(1));
            let held = Arc::new(());
            let guard = Arc::clone(&held);
            let work = async move {
                clock.sleep_until(at(9)).await;
                drop(guard);
            };
            let task = executor.spawner(Owner::Client).spawn(Box::pin(work));
            drop(task);
            let reason = executor.run_until(at(5), || executor.task_count(Owner::Client) == 0);
            assert_eq!(reason, StopReason::ConditionMet);
            assert_eq!(Arc::strong_count(&held), 1, "seed {seed}");
        }
    }

    #[test]
    fn aborted_task_is_dropped_and_panic_of_a_client_task_is_counted() {
        let (executor, clock) = executor(1);
        let held = Arc::new(());
        let guard = Arc::clone(&held);
        let sleeper = clock.clone();
        let work = async move {
            sleeper.sleep_until(at(5)).await;
            drop(guard);
        };
        let task = executor.spawner(Owner::Client).spawn(Box::pin(work));
        let panic = async { std::panic::resume_unwind(Box::new("on purpose")) };
        executor
            .spawner(Owner::Client)
            .spawn(Box::pin(panic))
            .detach();
        drop(task);
        let reason = executor.run_until(at(1), || executor.task_count(Owner::Client) == 0);
        assert_eq!(reason, StopReason::ConditionMet);
        assert_eq!(Arc::strong_count(&held), 1);
        assert_eq!(executor.escaped_panics(), 1);
        assert_eq!(executor.run_until(at(1), || false), StopReason::Deadlock);
    }
}
