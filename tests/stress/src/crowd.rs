//! A crowd before one door: everybody waits for a permit, works a little, and is ended as was planned.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tinkers_core::{BoxFuture, Clock, ManualClock, SplitMix};

use crate::check::Seen;
use crate::log::Log;
use crate::plan::{Begins, Fate, Plan, Waiter};
use crate::steps;
use crate::subject::{End, KeptBy, Permit, Subject};
use crate::threads::{Aborts, Finished, Tasks};

/// What a part of the work takes on a clock.
const WORK: Duration = Duration::from_millis(10);

/// Runs `plan` on threads: one that arrives for each client, and a runtime of several for those who wait.
pub fn on_threads<S: Subject>(plan: Plan, tasks: &Tasks) -> Seen {
    let door = Door::<S>::shut(&plan, None, tasks.aborts());
    let arrived = AtomicUsize::new(0);
    let (total, expected) = (plan.all().count(), spawned(&plan));
    let needed = match plan.shape.begins {
        Begins::HalfWay => total / 2,
        Begins::Complete => total,
    };
    let mut plugs = Some(take_all(&door.subject));
    let plugged = plugs.as_ref().map_or(0, |plugs| plugs.len() as u64);
    let finished = std::thread::scope(|scope| {
        for line in &plan.waiters {
            let (door, arrived) = (&door, &arrived);
            scope.spawn(move || {
                for waiter in line {
                    if let Some(work) = door.arrive(*waiter) {
                        tasks.spawn(work, abort_at(waiter));
                    }
                    arrived.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        tasks.finish(
            expected,
            || door.log.progress() + arrived.load(Ordering::SeqCst),
            || {
                if arrived.load(Ordering::SeqCst) >= needed {
                    give_back(plugs.take().unwrap_or_default());
                }
            },
        )
    });
    door.seen(plan, finished, plugged)
}

/// Runs `plan` one step after the other, in an order that `seed` decides.
pub fn step_by_step<S: Subject>(plan: Plan, seed: u64) -> Seen {
    let clock = ManualClock::new();
    let door = Door::<S>::shut(&plan, Some(&clock), Aborts::default());
    let plugs = take_all(&door.subject);
    let plugged = plugs.len() as u64;
    let pieces = plan.all().filter_map(|waiter| {
        let work = door.arrive(*waiter)?;
        Some(steps::Piece::new(work, abort_at(waiter)))
    });
    let pieces = pieces.collect();
    give_back(plugs);
    let log = Arc::clone(&door.log);
    let finished = steps::run(pieces, &clock, &SplitMix::new(seed), || log.progress());
    door.seen(plan, finished, plugged)
}

/// Takes permits until there is none left.
pub fn take_all<S: Subject>(subject: &Arc<S>) -> Vec<S::Permit> {
    let mut taken = Vec::new();
    loop {
        let mut acquire = subject.acquire(0, KeptBy::<S>::default());
        match acquire
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
        {
            Poll::Ready(permit) => taken.push(permit),
            Poll::Pending => return taken,
        }
    }
}

fn give_back<P: Permit>(plugs: Vec<P>) {
    plugs
        .into_iter()
        .for_each(|plug| drop(plug.end(End::Accepted)));
}

/// How many waiters of `plan` become tasks.
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

/// What a crowd stands before.
struct Door<S> {
    subject: Arc<S>,
    log: Arc<Log>,
    /// Where work takes time.
    clock: Option<ManualClock>,
    aborts: Aborts,
}

impl<S: Subject> Door<S> {
    fn shut(plan: &Plan, clock: Option<&ManualClock>, aborts: Aborts) -> Self {
        Self {
            subject: S::new(plan.shape.limit, clock.cloned().unwrap_or_default()),
            log: Arc::default(),
            clock: clock.cloned(),
            aborts,
        }
    }

    /// Takes its place by a first look. What comes of it is work, but for those who are forgotten.
    fn arrive(&self, waiter: Waiter) -> Option<BoxFuture<'static, ()>> {
        let acquire = self.subject.acquire(waiter.client, KeptBy::<S>::default());
        let wait = Wait::begin(acquire, &self.log);
        if waiter.fate == Fate::Forgotten {
            if wait.ready.is_some() {
                Log::note(&self.log.given_up);
            }
            return None;
        }
        let (log, aborts) = (Arc::clone(&self.log), self.aborts.clone());
        Some(Box::pin(attend(
            waiter,
            wait,
            log,
            aborts,
            self.clock.clone(),
        )))
    }

    fn seen(self, plan: Plan, finished: Finished, plugs: u64) -> Seen {
        let (held, counts) = (self.subject.held(), self.subject.counts());
        Seen {
            plan,
            finished,
            held,
            counts,
            plugs,
            limit: self.subject.limit(),
            free: take_all(&self.subject).len() as u64,
            log: self.log,
        }
    }
}

async fn attend<P: Permit>(
    waiter: Waiter,
    wait: Wait<P>,
    log: Arc<Log>,
    aborts: Aborts,
    clock: Option<ManualClock>,
) {
    let permit = wait.await;
    let job = log.enter(waiter, permit);
    aborts.come_to(log.progress());
    for _ in 0..waiter.yields {
        let_others_run().await;
        if let Some(clock) = &clock {
            let time: &dyn Clock = clock;
            time.sleep(WORK).await;
        }
    }
    if waiter.fate == Fate::Panics {
        // Without the hook, which would print every one of them.
        std::panic::resume_unwind(Box::new("as planned"));
    }
    job.finish();
}

/// Goes to the end of its executor's queue once.
pub async fn let_others_run() {
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

/// A wait that counts how often it was looked at.
struct Wait<P> {
    acquire: BoxFuture<'static, P>,
    ready: Option<P>,
    looks: u64,
    log: Arc<Log>,
}

// Nothing is pinned in it but what is in a box.
impl<P> Unpin for Wait<P> {}

impl<P> Wait<P> {
    fn begin(mut acquire: BoxFuture<'static, P>, log: &Arc<Log>) -> Self {
        let looked = acquire
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        let ready = match looked {
            Poll::Ready(permit) => Some(permit),
            Poll::Pending => None,
        };
        if ready.is_some() {
            Log::note(&log.at_once);
        }
        Self {
            acquire,
            ready,
            looks: 0,
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
        self.looks += 1;
        if self.looks > 1 {
            Log::note(&self.log.woken);
        }
        let looked = self.acquire.as_mut().poll(cx);
        if looked.is_ready() {
            Log::note(&self.log.after_wait);
        }
        looked
    }
}
