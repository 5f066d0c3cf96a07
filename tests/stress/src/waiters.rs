//! Runs of many waiters for the permits of one limiter under test. Each waiter ends as planned.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tinkers_core::{BoxFuture, Clock, ManualClock, SplitMix};

use crate::check::Observations;
use crate::executor;
use crate::log::Log;
use crate::plan::{Fate, Plan, StartWhen, Waiter};
use crate::subject::{Permit, PermitOutcome, RetryStateOf, Subject};
use crate::tasks::{Aborts, Finished, Tasks};

/// The time that one unit of a waiter's work takes on a manual clock. A waiter works while it holds
/// a permit.
const WORK: Duration = Duration::from_millis(10);

/// Runs the waiters of `plan` on a multi-threaded runtime. For each client, a thread queues the
/// waiters of this client.
pub fn on_threads<S: Subject>(plan: Plan, tasks: &Tasks) -> Observations {
    let fixture = Fixture::<S>::new(&plan, None, tasks.aborts());
    let arrived = AtomicUsize::new(0);
    let (total, expected) = (plan.all().count(), spawned(&plan));
    let needed = match plan.shape.start_when {
        StartWhen::HalfQueued => total / 2,
        StartWhen::AllQueued => total,
    };
    let mut initial_permits = Some(acquire_all(&fixture.subject));
    let initial_count = initial_permits
        .as_ref()
        .map_or(0, |permits| permits.len() as u64);
    let finished = std::thread::scope(|scope| {
        for queue in &plan.waiters {
            let (fixture, arrived) = (&fixture, &arrived);
            scope.spawn(move || {
                for waiter in queue {
                    if let Some(work) = fixture.enqueue(*waiter) {
                        tasks.spawn(work, abort_at(waiter));
                    }
                    arrived.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        tasks.finish(
            expected,
            || fixture.log.progress() + arrived.load(Ordering::SeqCst),
            || {
                if arrived.load(Ordering::SeqCst) >= needed {
                    release_all(initial_permits.take().unwrap_or_default());
                }
            },
        )
    });
    fixture.into_observations(plan, finished, initial_count)
}

/// Runs the waiters of `plan` on the deterministic executor, which polls one task at a time. `seed`
/// determines the order of the steps.
pub fn step_by_step<S: Subject>(plan: Plan, seed: u64) -> Observations {
    let clock = ManualClock::new();
    let fixture = Fixture::<S>::new(&plan, Some(&clock), Aborts::default());
    let initial_permits = acquire_all(&fixture.subject);
    let initial_count = initial_permits.len() as u64;
    let tasks = plan.all().filter_map(|waiter| {
        let work = fixture.enqueue(*waiter)?;
        Some(executor::Task::new(work, abort_at(waiter)))
    });
    let tasks = tasks.collect();
    release_all(initial_permits);
    let log = Arc::clone(&fixture.log);
    let finished = executor::run(tasks, &clock, &SplitMix::new(seed), || log.progress());
    fixture.into_observations(plan, finished, initial_count)
}

/// Acquires all permits that the limiter under test has available.
pub fn acquire_all<S: Subject>(subject: &Arc<S>) -> Vec<S::Permit> {
    let mut taken = Vec::new();
    loop {
        let mut acquire = subject.acquire(0, RetryStateOf::<S>::default());
        match acquire
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
        {
            Poll::Ready(permit) => taken.push(permit),
            Poll::Pending => return taken,
        }
    }
}

fn release_all<P: Permit>(initial_permits: Vec<P>) {
    initial_permits
        .into_iter()
        .for_each(|permit| drop(permit.end(PermitOutcome::Accepted)));
}

/// Returns the number of waiters of the plan for which a task is spawned. No task is spawned for
/// waiters that are dropped after their first poll.
fn spawned(plan: &Plan) -> usize {
    plan.all()
        .filter(|waiter| waiter.fate != Fate::Forgotten)
        .count()
}

fn abort_at(waiter: &Waiter) -> Option<usize> {
    match waiter.fate {
        Fate::Aborted(at) => Some(at),
        _ => None,
    }
}

/// The state of a run: the limiter under test, the log, and the tasks that are to be aborted.
struct Fixture<S> {
    subject: Arc<S>,
    log: Arc<Log>,
    /// The manual clock on which the work of waiters takes time. `None` if the work takes no time.
    clock: Option<ManualClock>,
    aborts: Aborts,
}

impl<S: Subject> Fixture<S> {
    fn new(plan: &Plan, clock: Option<&ManualClock>, aborts: Aborts) -> Self {
        Self {
            subject: S::new(plan.shape.limit, clock.cloned().unwrap_or_default()),
            log: Arc::default(),
            clock: clock.cloned(),
            aborts,
        }
    }

    /// Queues a waiter by polling its acquisition once. Returns the future that waits for the
    /// permit and works, or `None` if the plan drops the waiter after this poll.
    fn enqueue(&self, waiter: Waiter) -> Option<BoxFuture<'static, ()>> {
        let acquire = self
            .subject
            .acquire(waiter.client, RetryStateOf::<S>::default());
        let wait = Wait::begin(acquire, &self.log);
        if waiter.fate == Fate::Forgotten {
            if wait.ready.is_some() {
                Log::increment(&self.log.cancelled);
            }
            return None;
        }
        let (log, aborts) = (Arc::clone(&self.log), self.aborts.clone());
        Some(Box::pin(work(
            waiter,
            wait,
            log,
            aborts,
            self.clock.clone(),
        )))
    }

    fn into_observations(
        self,
        plan: Plan,
        finished: Finished,
        initial_permits: u64,
    ) -> Observations {
        let (held, counts) = (self.subject.held(), self.subject.counts());
        Observations {
            plan,
            finished,
            held,
            counts,
            initial_permits,
            limit: self.subject.limit(),
            free: acquire_all(&self.subject).len() as u64,
            log: self.log,
        }
    }
}

async fn work<P: Permit>(
    waiter: Waiter,
    wait: Wait<P>,
    log: Arc<Log>,
    aborts: Aborts,
    clock: Option<ManualClock>,
) {
    let permit = wait.await;
    let job = log.enter(waiter, permit);
    aborts.advance(log.progress());
    for _ in 0..waiter.yields {
        yield_now().await;
        if let Some(clock) = &clock {
            let time: &dyn Clock = clock;
            time.sleep(WORK).await;
        }
    }
    if waiter.fate == Fate::Panics {
        // `resume_unwind` bypasses the panic hook, which would print every planned panic.
        std::panic::resume_unwind(Box::new("planned panic"));
    }
    job.finish();
}

/// Yields to the executor once.
pub async fn yield_now() {
    let mut has_yielded = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut has_yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// A future in which a waiter acquires a permit. It counts in the log how often it is polled after
/// a wake-up.
struct Wait<P> {
    acquire: BoxFuture<'static, P>,
    ready: Option<P>,
    polls: u64,
    log: Arc<Log>,
}

// The only field that needs pinning is boxed.
impl<P> Unpin for Wait<P> {}

impl<P> Wait<P> {
    fn begin(mut acquire: BoxFuture<'static, P>, log: &Arc<Log>) -> Self {
        let polled = acquire
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        let ready = match polled {
            Poll::Ready(permit) => Some(permit),
            Poll::Pending => None,
        };
        if ready.is_some() {
            Log::increment(&log.at_once);
        }
        Self {
            acquire,
            ready,
            polls: 0,
            log: Arc::clone(log),
        }
    }
}

impl<P> Future for Wait<P> {
    type Output = P;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<P> {
        if let Some(permit) = self.ready.take() {
            return Poll::Ready(permit);
        }
        self.polls += 1;
        if self.polls > 1 {
            Log::increment(&self.log.woken);
        }
        let polled = self.acquire.as_mut().poll(cx);
        if polled.is_ready() {
            Log::increment(&self.log.after_wait);
        }
        polled
    }
}
