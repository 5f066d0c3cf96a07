//! The wait for admission, as one future.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tinkers_core::{
    Admitted, Ask, BoxFuture, Error, ErrorKind, Flight, Moment, Reentry, RouteClass, Sent,
    SubmitPermit, Time,
};
use tinkers_limits::Epoch;

use crate::lane::Lane;
use crate::pool::{Demand, Entry, Turn};
use crate::queue::{Place, Rank};

/// Waits for its turn in `lane`. Holds nothing but its place until it is served; dropped, it gives that up.
pub(crate) struct Admit {
    lane: Arc<Lane>,
    time: Arc<dyn Time>,
    class: RouteClass,
    entry: Entry,
    flight: Option<Flight>,
    place: Option<Place>,
    alarm: Option<Alarm>,
}

struct Alarm {
    at: Moment,
    sleep: BoxFuture<'static, ()>,
}

impl Admit {
    pub(crate) fn new(lane: Arc<Lane>, time: Arc<dyn Time>, ask: Ask) -> Self {
        let rank = match (&ask.flight, ask.reentry) {
            (Some(_), _) if lane.counts_flights => Rank::Flying,
            (_, Reentry::AfterRefusal) => Rank::Refused,
            (_, Reentry::New) => Rank::New,
        };
        let takes_flight = lane.counts_flights && ask.flight.is_none();
        let demand = Demand {
            bytes: ask.cost.bytes,
            flights: u64::from(takes_flight),
        };
        Self {
            lane,
            time,
            class: ask.class,
            entry: Entry {
                rank,
                deadline: ask.deadline,
                demand,
            },
            flight: ask.flight,
            place: None,
            alarm: None,
        }
    }

    fn served(&mut self, epoch: Epoch) -> Admitted {
        let flight = match self.flight.take() {
            Some(kept) => kept,
            None if self.entry.demand.flights > 0 => {
                let lane = Arc::clone(&self.lane);
                Flight::new(move || lane.pool.land())
            }
            None => Flight::free(),
        };
        let (lane, time) = (Arc::clone(&self.lane), Arc::clone(&self.time));
        let bytes = self.entry.demand.bytes;
        let permit =
            SubmitPermit::new(move |outcome| lane.settle(outcome, time.now(), epoch, bytes));
        Admitted { permit, flight }
    }

    /// Fails at once when the gate opens after the deadline: there is nothing to hope for.
    fn hopeless(&self, now: Moment) -> Option<Error> {
        let deadline = self.entry.deadline?;
        let opens_at = Moment::from_origin(self.lane.gate.opens_at());
        if opens_at <= now || opens_at <= deadline {
            return None;
        }
        let message = format!(
            "the server's rate limit holds {} requests back for another {:.1} s, beyond the deadline; try again then",
            self.class.name(),
            opens_at.since(now).as_secs_f64()
        );
        Some(
            Error::new(ErrorKind::RateLimited, Sent::NotSent, message).with_retry_at(now, opens_at),
        )
    }

    fn timed_out(&mut self) -> Poll<Result<Admitted, Error>> {
        let message = format!(
            "the deadline passed while the request waited for its turn among {} requests",
            self.class.name()
        );
        self.failed(Error::new(ErrorKind::Timeout, Sent::NotSent, message))
    }

    /// Ends the wait: its place goes at once, whatever becomes of the future.
    fn failed(&mut self, error: Error) -> Poll<Result<Admitted, Error>> {
        self.leave();
        Poll::Ready(Err(error))
    }

    fn leave(&mut self) {
        if let Some(place) = self.place.take() {
            self.lane.pool.leave(place);
        }
    }

    /// Sleeps until `at`, or finds that it is there already.
    fn sleep(&mut self, at: Option<Moment>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = at else {
            self.alarm = None;
            return Poll::Pending;
        };
        if self.alarm.as_ref().is_none_or(|alarm| alarm.at != at) {
            let sleep = self.time.sleep_until(at);
            self.alarm = Some(Alarm { at, sleep });
        }
        let Some(alarm) = &mut self.alarm else {
            return Poll::Pending;
        };
        let polled = alarm.sleep.as_mut().poll(cx);
        if polled.is_ready() {
            self.alarm = None;
        }
        polled
    }
}

impl Future for Admit {
    type Output = Result<Admitted, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        loop {
            let now = this.time.now();
            if let Some(error) = this.hopeless(now) {
                return this.failed(error);
            }
            let deadline = this.entry.deadline;
            if deadline.is_some_and(|deadline| now > deadline) {
                return this.timed_out();
            }
            let gate = &this.lane.gate;
            let enter = || gate.enter(now.since_origin()).map_err(Moment::from_origin);
            let turn = this
                .lane
                .pool
                .turn(&mut this.place, this.entry, cx.waker(), enter);
            let until = match turn {
                Turn::Served(epoch) => return Poll::Ready(Ok(this.served(epoch))),
                Turn::Wait => deadline,
                Turn::Closed(opens_at) => Some(deadline.map_or(opens_at, |at| at.min(opens_at))),
            };
            if deadline.is_some_and(|deadline| now >= deadline) {
                return this.timed_out();
            }
            if this.sleep(until, cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

impl Drop for Admit {
    fn drop(&mut self) {
        self.leave();
    }
}

impl fmt::Debug for Admit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admit")
            .field("class", &self.class)
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}
