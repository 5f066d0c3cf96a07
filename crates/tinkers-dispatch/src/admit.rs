//! The wait for admission, as one future.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tinkers_core::{
    AdmissionRequest, Admitted, Arrival, BoxFuture, Error, ErrorKind, InFlightPermit, Readmission,
    Sent, Timestamp,
};
use tinkers_limits::{Cost, GateState, Ticket};

use crate::desk::Desk;
use crate::lane::Look;
use crate::queue::{Line, Place, Waiter};

/// Waits for its turn. Holds nothing but its place until it is let through; dropped, it gives that up, or what it was given.
pub struct PendingAdmission {
    /// Until it is let through: then it goes along, so that nobody has to count it up and down.
    desk: Option<Arc<Desk>>,
    wait: Wait,
}

/// What it wants and where it stands.
struct Wait {
    line: Line,
    arrival: Option<Arrival>,
    demand: Cost,
    deadline: Option<Timestamp>,
    flight: Option<InFlightPermit>,
    place: Option<Place>,
    alarm: Option<Alarm>,
}

struct Alarm {
    at: Timestamp,
    sleep: BoxFuture<'static, ()>,
}

impl PendingAdmission {
    #[inline]
    pub(crate) fn new(desk: Arc<Desk>, ask: AdmissionRequest) -> Self {
        let has_flight = ask.flight.as_ref().is_some_and(InFlightPermit::is_counted);
        let wait = Wait {
            line: Line {
                client: ask.client,
                has_flight,
            },
            arrival: match ask.reentry {
                Readmission::New => None,
                Readmission::AfterRefusal(arrival) => Some(arrival),
            },
            demand: desk.lane.demand(ask.cost.bytes, has_flight),
            deadline: ask.deadline,
            flight: ask.flight,
            place: None,
            alarm: None,
        };
        Self {
            desk: Some(desk),
            wait,
        }
    }

    /// The way of those who have to wait.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Result<Admitted, Error>> {
        let Some(desk) = &self.desk else {
            return Poll::Pending;
        };
        let wait = &mut self.wait;
        loop {
            let now = desk.time.now();
            // What it was given in time counts, also when it hears of it too late.
            let hopeless = wait.check(desk, now).err();
            let alarm = match wait.look(desk, cx, now) {
                Look::Granted(ticket) => {
                    let place = wait.place.take();
                    let arrival = place.map_or_else(Arrival::default, |place| place.arrival);
                    return self.admitted(ticket, arrival);
                }
                Look::Waiting(alarm) => alarm,
            };
            if let Some(error) = hopeless {
                wait.leave(desk);
                return Poll::Ready(Err(error));
            }
            let until = match (alarm, wait.deadline) {
                (Some(alarm), Some(deadline)) => Some(alarm.min(deadline)),
                (alarm, deadline) => alarm.or(deadline),
            };
            if wait.sleep(desk, until, cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// Its end: whatever is polled afterwards stays pending.
    #[inline]
    fn admitted(&mut self, ticket: Ticket, arrival: Arrival) -> Poll<Result<Admitted, Error>> {
        let Some(desk) = self.desk.take() else {
            return Poll::Pending;
        };
        let kept = self.wait.flight.take();
        Poll::Ready(Ok(desk.admitted(ticket, kept, arrival)))
    }
}

impl Wait {
    /// Fails when there is nothing to wait for: the deadline has passed, or the gate opens after it.
    fn check(&self, desk: &Desk, now: Timestamp) -> Result<(), Error> {
        let Some(deadline) = self.deadline else {
            return Ok(());
        };
        let class = desk.lane.class.name();
        if let GateState::ClosedUntil(at) = desk.lane.constraints.gate().state() {
            let opens_at = Timestamp::from_origin(at);
            if opens_at > now && opens_at > deadline {
                let message = format!(
                    "the server's rate limit holds {class} requests back for another {:.1} s, beyond the deadline; try \
                     again then",
                    opens_at.since(now).as_secs_f64()
                );
                let error = Error::new(ErrorKind::RateLimited, Sent::NotSent, message);
                return Err(error.with_retry_at(now, opens_at));
            }
        }
        if now >= deadline {
            let message = format!(
                "the deadline passed while the request waited for its turn among {class} requests"
            );
            return Err(Error::new(ErrorKind::Timeout, Sent::NotSent, message));
        }
        Ok(())
    }

    /// Takes its place, or looks what became of it.
    fn look(&mut self, desk: &Desk, cx: &Context<'_>, now: Timestamp) -> Look {
        // Cloned here: wakers are foreign code and stay out of the lock.
        let waker = cx.waker().clone();
        let lane = &desk.lane;
        let waiter = Waiter {
            demand: self.demand,
            deadline: self.deadline,
            waker,
            alarm: None,
        };
        if let Some(place) = self.place {
            return lane.look(place, waiter, now);
        }
        lane.counters.waits.add(1);
        let (place, look) = lane.join(self.line, self.arrival, waiter, now);
        self.place = Some(place);
        look
    }

    fn leave(&mut self, desk: &Desk) {
        if let Some(place) = self.place.take() {
            desk.lane.leave(place, desk.time.now());
        }
    }

    /// Sleeps until `at`, or finds that it is there already.
    fn sleep(&mut self, desk: &Desk, at: Option<Timestamp>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = at else {
            self.alarm = None;
            return Poll::Pending;
        };
        if self.alarm.as_ref().is_none_or(|alarm| alarm.at != at) {
            let sleep = desk.time.sleep_until(at);
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

impl Future for PendingAdmission {
    type Output = Result<Admitted, Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let Some(desk) = &this.desk else {
            return Poll::Pending;
        };
        let wait = &mut this.wait;
        if wait.place.is_none() {
            if wait.deadline.is_some() {
                wait.check(desk, desk.time.now())?;
            }
            if let Some(ticket) = desk.lane.try_now(wait.demand, || desk.time.now()) {
                let arrival = wait.arrival.unwrap_or_default();
                return this.admitted(ticket, arrival);
            }
        }
        this.poll_turn(cx)
    }
}

impl Drop for PendingAdmission {
    #[inline]
    fn drop(&mut self) {
        // Once it was let through there is nothing to give up.
        if let Some(desk) = &self.desk {
            self.wait.leave(desk);
        }
    }
}

impl fmt::Debug for PendingAdmission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingAdmission")
            .field("class", &self.desk.as_ref().map(|desk| desk.lane.class))
            .field("place", &self.wait.place)
            .finish_non_exhaustive()
    }
}
