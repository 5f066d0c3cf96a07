//! The end of an outage is found out once for all that is sent to an endpoint: few ask while the server fails, and everybody
//! who sits it out goes on when it answers again.
//!
//! Pauses that double are right for a server that fails, and wrong for the moment after: whoever has failed for half a minute
//! would sleep for another half beside a server that works. So while nothing but failures came for a while, one of those who
//! wait goes ahead of its pause from time to time, and its answer ends the pauses of the others.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::admission::RouteClass;
use crate::contain::{contain, wake_all};
use crate::jitter::Jitter;
use crate::time::{Clock, Timestamp};

/// Failures for less than this are hiccups, and pauses are left alone.
const HICCUP: Duration = Duration::from_secs(2);
/// Between two who go ahead of their pauses lies this part of what the outage has lasted, from the shortest to the longest.
const SCOUTS: u32 = 20;
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);
/// Those who are called back come at random within so much for each of them, and within these bounds.
const SPREAD: Duration = Duration::from_micros(500);
const LEAST_SPREAD: Duration = Duration::from_millis(500);
const MOST_SPREAD: Duration = Duration::from_millis(1500);
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
    /// Whether there is a failure that no answer has made good. An answer reads this alone while all is well.
    fails: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The first failure since the last answer.
    since: Option<Timestamp>,
    is_told: bool,
    /// Nobody goes ahead of its pause before this.
    next_turn: Timestamp,
    /// A turn that its owner gave up.
    vacant: Option<Timestamp>,
    /// How often everybody was called back, when that was, and within how long they come.
    revivals: u64,
    revived_at: Option<Timestamp>,
    spread: Duration,
    next_sleeper: u64,
    sleepers: BTreeMap<u64, Waker>,
}

/// The pause of one who failed.
#[derive(Debug, Clone, Copy)]
pub struct Pause {
    /// When the request left that failed.
    pub sent_at: Timestamp,
    /// What the server asked for: nobody goes before this.
    pub not_before: Timestamp,
    /// When to go if nothing else is heard.
    pub until: Timestamp,
}

impl Outage {
    /// The server answered a request that left at `sent_at`. While all is well this is one atomic load.
    pub fn answered(&self, sent_at: Timestamp, now: Timestamp) {
        // A failure that is noted at this very moment waits for the next answer, or for its own pause.
        if !self.fails.load(Ordering::Acquire) {
            return;
        }
        let Some((lasted, sleepers)) = self.ended(sent_at, now) else {
            return;
        };
        let waiting = sleepers.len();
        // Wakers and subscribers are foreign code: they run without the lock, and the waiters first.
        wake_all(sleepers.into_values());
        // A panic would keep the answer from the limits, which take its hint from it.
        contain(|| {
            tracing::debug!(
                lasted_s = lasted.as_secs(),
                waiting,
                "the server answers again"
            );
        });
    }

    /// How long it lasted and whom to call, if this is its end and nobody was called of late.
    fn ended(
        &self,
        sent_at: Timestamp,
        now: Timestamp,
    ) -> Option<(Duration, BTreeMap<u64, Waker>)> {
        let mut state = self.lock();
        let since = state.since?;
        // What was under way before the first failure says nothing of what goes now.
        if sent_at < since {
            return None;
        }
        let lasted = now.since(since);
        let is_hiccup = lasted < HICCUP;
        let before = state.revived_at;
        if !is_hiccup && before.is_some_and(|before| now.since(before) < APART) {
            // It goes on for those who sleep, and an answer after that time calls them.
            return None;
        }
        self.fails.store(false, Ordering::Release);
        state.since = None;
        state.next_turn = Timestamp::ORIGIN;
        state.vacant = None;
        if is_hiccup {
            return None;
        }
        state.is_told = false;
        state.revived_at = Some(now);
        state.revivals += 1;
        let sleepers = std::mem::take(&mut state.sleepers);
        let count = u32::try_from(sleepers.len()).unwrap_or(u32::MAX);
        state.spread = SPREAD
            .saturating_mul(count)
            .clamp(LEAST_SPREAD, MOST_SPREAD);
        Some((lasted, sleepers))
    }

    /// Sits out the pause of one who failed: to its end, or until the server is heard to answer others, or for a shorter while
    /// when it is this one's turn to try. Dropping it gives up the pause, and the turn to another.
    pub async fn sit_out(&self, pause: Pause, time: &dyn Clock, jitter: &dyn Jitter) {
        let mut sleep = match self.failed(time.now(), &pause) {
            Told::Sleep { sleep, is_first } => {
                if is_first {
                    contain(|| {
                        tracing::debug!("the server fails; it is asked again until it answers");
                    });
                }
                sleep
            }
            Told::OldNews => {
                time.sleep_until(self.soon(&pause, time, jitter)).await;
                return;
            }
        };
        let mut alarm = time.sleep_until(sleep.until);
        let is_called = std::future::poll_fn(|cx| {
            loop {
                if alarm.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(false);
                }
                match sleep.poll_call(cx) {
                    Call::None => return Poll::Pending,
                    Call::Back => return Poll::Ready(true),
                    Call::Turn(until) => alarm = time.sleep_until(until),
                }
            }
        })
        .await;
        sleep.turn = None;
        drop(sleep);
        if is_called {
            time.sleep_until(self.soon(&pause, time, jitter)).await;
        }
    }

    /// When one goes that is called back.
    fn soon(&self, pause: &Pause, time: &dyn Clock, jitter: &dyn Jitter) -> Timestamp {
        let spread = self.lock().spread.mul_f64(jitter.unit());
        let soon = time.now().max(pause.not_before).after(spread);
        soon.min(pause.until)
    }

    /// Takes note of a failure, and says when the one who failed goes again.
    fn failed(&self, now: Timestamp, pause: &Pause) -> Told<'_> {
        let mut state = self.lock();
        if state.revived_at.is_some_and(|at| pause.sent_at < at) {
            // It left before the server came back.
            return Told::OldNews;
        }
        let since = *state.since.get_or_insert(now);
        self.fails.store(true, Ordering::Release);
        let lasted = now.since(since);
        let is_first = lasted >= HICCUP && !std::mem::replace(&mut state.is_told, true);
        let mut sleep = Sleep {
            outage: self,
            seen: state.revivals,
            id: None,
            not_before: pause.not_before,
            until: pause.until,
            turn: None,
        };
        let apart = (lasted / SCOUTS).clamp(SHORTEST, LONGEST);
        let earliest = now.after(apart).max(since.after(HICCUP));
        let turn = state.next_turn.max(earliest);
        if sleep.takes(turn) {
            state.next_turn = turn.after(apart);
        }
        Told::Sleep { sleep, is_first }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one who failed is told.
enum Told<'a> {
    /// To sleep, unless it is called.
    Sleep {
        sleep: Sleep<'a>,
        /// It is the first to see that this is no hiccup: it logs that, without the lock, since subscribers are foreign code.
        is_first: bool,
    },
    /// That the server has come back meanwhile.
    OldNews,
}

/// One who sleeps.
struct Sleep<'a> {
    outage: &'a Outage,
    /// The revivals that there were when it went to sleep.
    seen: u64,
    id: Option<u64>,
    not_before: Timestamp,
    until: Timestamp,
    /// When it goes ahead of its pause, if it is its turn.
    turn: Option<Timestamp>,
}

/// Why one who sleeps is woken.
enum Call {
    /// For nothing.
    None,
    /// The server is back.
    Back,
    /// It is to go then, in place of another.
    Turn(Timestamp),
}

impl Sleep<'_> {
    /// Whether it takes a turn: it does when that is earlier than its own time, and the server does not ask for more.
    fn takes(&mut self, turn: Timestamp) -> bool {
        let takes = turn >= self.not_before && turn < self.until;
        if takes {
            self.until = turn;
            self.turn = Some(turn);
        }
        takes
    }

    fn poll_call(&mut self, cx: &Context<'_>) -> Call {
        let outage = self.outage;
        // Wakers are foreign code: cloned before the lock is taken, and dropped after it is given back.
        let waker = cx.waker().clone();
        let _replaced;
        let mut guard = outage.lock();
        let state = &mut *guard;
        if state.revivals != self.seen {
            return Call::Back;
        }
        // One that is past is taken at once.
        let vacant = state.vacant.map(|turn| turn.max(self.not_before));
        if let Some(turn) = vacant
            && self.takes(turn)
        {
            state.vacant = None;
            return Call::Turn(turn);
        }
        let id = *self.id.get_or_insert_with(|| {
            state.next_sleeper += 1;
            state.next_sleeper
        });
        _replaced = state.sleepers.insert(id, waker);
        Call::None
    }
}

impl Drop for Sleep<'_> {
    fn drop(&mut self) {
        let mut own = None;
        let mut state = self.outage.lock();
        if let Some(id) = self.id {
            own = state.sleepers.remove(&id);
        }
        if state.revivals == self.seen && self.turn.is_some() {
            state.vacant = self.turn;
        }
        // A turn that is given up goes to one of the others, and on to the next should that one go as well.
        let first = match state.vacant {
            Some(_) => state.sleepers.pop_first(),
            None => None,
        };
        drop(state);
        wake_all(first.into_iter().map(|(_, waker)| waker));
        drop(own);
    }
}

#[cfg(test)]
mod tests;
