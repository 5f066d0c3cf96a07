//! The end of an outage is found out once for all that is sent to an endpoint: few ask while the server fails, and everybody
//! who sits it out goes on when it answers again.
//!
//! Pauses that double are right for a server that fails, and wrong for the moment after: whoever has failed for half a minute
//! would sleep for another half beside a server that works. So while nothing but failures came for a while, one of those who
//! wait goes ahead of its pause from time to time, and its answer ends the pauses of the others.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::admission::RouteClass;
use crate::jitter::Jitter;
use crate::time::{Moment, Time};

/// Failures for less than this are hiccups, and pauses are left alone.
const HICCUP: Duration = Duration::from_secs(2);
/// Between two who go ahead of their pauses lies this part of what the outage has lasted, from the shortest to the longest.
const SCOUTS: u32 = 20;
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);
/// Those who are called back come within this long, at random.
const SPREAD: Duration = Duration::from_millis(500);
/// Nobody is called back more often than this, whatever a server does.
const APART: Duration = Duration::from_secs(10);

/// The outages of an endpoint, one for each class of routes: what stands behind them may fail alone.
#[derive(Debug, Default)]
pub struct Outages([Outage; RouteClass::ALL.len()]);

impl Outages {
    /// That of a class.
    pub fn of(&self, class: RouteClass) -> &Outage {
        &self.0[class.index()]
    }
}

/// What is known of a server that fails.
#[derive(Debug, Default)]
pub struct Outage {
    /// Whether the last that was heard is a failure. An answer reads this alone while all is well.
    fails: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The first failure since the last answer.
    since: Option<Moment>,
    is_told: bool,
    /// Nobody goes ahead of its pause before this.
    next_scout: Moment,
    /// How often everybody was called back, and when that was.
    revivals: u64,
    revived_at: Option<Moment>,
    next_sleeper: u64,
    sleepers: BTreeMap<u64, Waker>,
}

/// The pause of one who failed.
#[derive(Debug, Clone, Copy)]
pub struct Pause {
    /// When the request left that failed.
    pub sent_at: Moment,
    /// What the server asked for: nobody goes before this.
    pub not_before: Moment,
    /// When to go if nothing else is heard.
    pub until: Moment,
}

impl Outage {
    /// The server answered. While all is well this is one atomic load.
    pub fn answered(&self, now: Moment) {
        // A failure that is noted at this very moment waits for the next answer, or for its own pause.
        if !self.fails.load(Ordering::Acquire) {
            return;
        }
        let (lasted, sleepers) = {
            let mut state = self.lock();
            self.fails.store(false, Ordering::Release);
            state.is_told = false;
            let Some(since) = state.since.take() else {
                return;
            };
            let lasted = now.since(since);
            let too_soon = state
                .revived_at
                .is_some_and(|before| now.since(before) < APART);
            if lasted < HICCUP || too_soon {
                return;
            }
            state.revived_at = Some(now);
            state.revivals += 1;
            (lasted, std::mem::take(&mut state.sleepers))
        };
        tracing::info!(
            lasted_s = lasted.as_secs(),
            waiting = sleepers.len(),
            "the server answers again"
        );
        // Wakers run foreign code, so they run without the lock.
        sleepers.into_values().for_each(Waker::wake);
    }

    /// Sits out the pause of one who failed: to its end, or until the server is heard to answer others, or for a shorter while
    /// when it is this one's turn to try. Dropping it gives up the pause.
    pub async fn sit_out(&self, pause: Pause, time: &dyn Time, jitter: &dyn Jitter) {
        let now = time.now();
        let soon = |now: Moment| {
            let soon = now.after(SPREAD.mul_f64(jitter.unit()));
            soon.max(pause.not_before).min(pause.until)
        };
        let (seen, until) = match self.failed(now, &pause) {
            Told::Sleep { revivals, until } => (revivals, until),
            Told::OldNews => {
                time.sleep_until(soon(now)).await;
                return;
            }
        };
        let mut revival = Revival {
            outage: self,
            seen,
            id: None,
        };
        let mut alarm = time.sleep_until(until);
        let is_called = std::future::poll_fn(|cx| {
            if alarm.as_mut().poll(cx).is_ready() {
                return Poll::Ready(false);
            }
            Pin::new(&mut revival).poll_call(cx).map(|()| true)
        })
        .await;
        drop(revival);
        if is_called {
            time.sleep_until(soon(time.now())).await;
        }
    }

    /// Takes note of a failure, and says when the one who failed goes again.
    fn failed(&self, now: Moment, pause: &Pause) -> Told {
        let mut state = self.lock();
        if state.revived_at.is_some_and(|at| pause.sent_at < at) {
            // It left before the server came back.
            return Told::OldNews;
        }
        let since = *state.since.get_or_insert(now);
        self.fails.store(true, Ordering::Release);
        let lasted = now.since(since);
        let mut until = pause.until;
        if lasted >= HICCUP {
            if !std::mem::replace(&mut state.is_told, true) {
                tracing::warn!("the server fails; it is asked again until it answers");
            }
            let apart = (lasted / SCOUTS).clamp(SHORTEST, LONGEST);
            let turn = state.next_scout.max(now.after(apart)).max(pause.not_before);
            if turn < until {
                state.next_scout = turn.after(apart);
                until = turn;
            }
        }
        Told::Sleep {
            revivals: state.revivals,
            until,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one who failed is told.
enum Told {
    /// Sleep until then, unless there is another revival.
    Sleep { revivals: u64, until: Moment },
    /// The server has come back meanwhile.
    OldNews,
}

/// Completes when everybody is called back.
struct Revival<'a> {
    outage: &'a Outage,
    seen: u64,
    id: Option<u64>,
}

impl Revival<'_> {
    fn poll_call(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let mut guard = this.outage.lock();
        let state = &mut *guard;
        if state.revivals != this.seen {
            return Poll::Ready(());
        }
        let id = *this.id.get_or_insert_with(|| {
            state.next_sleeper += 1;
            state.next_sleeper
        });
        state.sleepers.insert(id, cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Revival<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.outage.lock().sleepers.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests;
