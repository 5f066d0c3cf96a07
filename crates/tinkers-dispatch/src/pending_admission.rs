//! The future that waits for admission.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tinkers_core::{
    AdmissionRequest, Admitted, Arrival, BoxFuture, Error, ErrorKind, InFlightPermit, Readmission,
    Sent, Timestamp,
};
use tinkers_limits::{Charge, GateState, Ticket};

use crate::class_admission::ClassAdmission;
use crate::class_limiter::PollOutcome;
use crate::wait_queue::{QueueEntry, QueueKey, Waiter};

/// The future of a request that asks for admission. Until the request is admitted, it has a position in the queue, but takes nothing from
/// the limits.
///
/// # Cancel safety
/// Dropping the future leaves the queue. If the request was admitted meanwhile, its units and bytes return to the limits.
pub struct PendingAdmission {
    /// `None` after the request was admitted: the reference has moved into the permits, which saves changes of the reference count.
    class_admission: Option<Arc<ClassAdmission>>,
    wait: Wait,
}

/// The data of a request that waits for admission, with the position of the request in the queue.
struct Wait {
    key: QueueKey,
    arrival: Option<Arrival>,
    charge: Charge,
    deadline: Option<Timestamp>,
    in_flight: Option<InFlightPermit>,
    entry: Option<QueueEntry>,
    alarm: Option<Alarm>,
}

struct Alarm {
    at: Timestamp,
    sleep: BoxFuture<'static, ()>,
}

impl PendingAdmission {
    #[inline]
    pub(crate) fn new(class_admission: Arc<ClassAdmission>, request: AdmissionRequest) -> Self {
        let has_in_flight =
            (request.in_flight_permit.as_ref()).is_some_and(InFlightPermit::is_counted);
        let charge = (class_admission.limiter).charge(request.cost.bytes, has_in_flight);
        let wait = Wait {
            key: QueueKey {
                client: request.client,
                has_in_flight,
            },
            arrival: match request.readmission {
                Readmission::New => None,
                Readmission::AfterRefusal(arrival) => Some(arrival),
            },
            charge,
            deadline: request.deadline,
            in_flight: request.in_flight_permit,
            entry: None,
            alarm: None,
        };
        Self {
            class_admission: Some(class_admission),
            wait,
        }
    }

    /// Polls a request that cannot be admitted at once: adds it to the queue, or polls it there if it is in the queue already.
    fn poll_queued(&mut self, cx: &mut Context<'_>) -> Poll<Result<Admitted, Error>> {
        let Some(class_admission) = &self.class_admission else {
            return Poll::Pending;
        };
        let wait = &mut self.wait;
        loop {
            let now = class_admission.time.now();
            // A grant before the deadline is valid, even if it is collected after the deadline.
            let expired = wait.check_deadline(class_admission, now).err();
            let alarm = match wait.poll_queue(class_admission, cx, now) {
                PollOutcome::Granted(ticket) => {
                    let entry = wait.entry.take();
                    let arrival = entry.map_or_else(Arrival::default, |entry| entry.arrival);
                    return self.admitted(ticket, arrival);
                }
                PollOutcome::Waiting(alarm) => alarm,
            };
            if let Some(error) = expired {
                wait.leave(class_admission);
                return Poll::Ready(Err(error));
            }
            let until = match (alarm, wait.deadline) {
                (Some(alarm), Some(deadline)) => Some(alarm.min(deadline)),
                (alarm, deadline) => alarm.or(deadline),
            };
            if wait.sleep(class_admission, until, cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// Completes the future with the permits for `ticket`. Later polls return `Pending`.
    #[inline]
    fn admitted(&mut self, ticket: Ticket, arrival: Arrival) -> Poll<Result<Admitted, Error>> {
        let Some(class_admission) = self.class_admission.take() else {
            return Poll::Pending;
        };
        let kept = self.wait.in_flight.take();
        Poll::Ready(Ok(class_admission.admitted(ticket, kept, arrival)))
    }
}

impl Wait {
    /// Checks whether the request can still be admitted before its deadline.
    ///
    /// # Errors
    /// `Timeout` if the deadline has passed, `RateLimited` if the gate (closed after a 429 response) opens only after the deadline.
    fn check_deadline(
        &self,
        class_admission: &ClassAdmission,
        now: Timestamp,
    ) -> Result<(), Error> {
        let Some(deadline) = self.deadline else {
            return Ok(());
        };
        let class = class_admission.limiter.class.name();
        if let GateState::ClosedUntil(at) = class_admission.limiter.constraints.gate().state() {
            let opens_at = Timestamp::from_origin(at);
            if opens_at > deadline.max(now) {
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
                "the deadline passed while the request waited for admission to the {class} requests"
            );
            return Err(Error::new(ErrorKind::Timeout, Sent::NotSent, message));
        }
        Ok(())
    }

    /// Adds the request to the queue, or polls it there if it is in the queue already.
    fn poll_queue(
        &mut self,
        class_admission: &ClassAdmission,
        cx: &Context<'_>,
        now: Timestamp,
    ) -> PollOutcome {
        // Wakers are user code, so the waker is cloned before the lock is taken.
        let waker = cx.waker().clone();
        let limiter = &class_admission.limiter;
        let waiter = Waiter {
            charge: self.charge,
            deadline: self.deadline,
            waker,
            alarm: None,
        };
        if let Some(entry) = self.entry {
            return limiter.poll(entry, waiter, now);
        }
        limiter.counters.waits.add(1);
        let (entry, outcome) = limiter.join(self.key, self.arrival, waiter, now);
        self.entry = Some(entry);
        outcome
    }

    fn leave(&mut self, class_admission: &ClassAdmission) {
        if let Some(entry) = self.entry.take() {
            class_admission
                .limiter
                .leave(entry, class_admission.time.now());
        }
    }

    /// Polls a timer that fires at `at`. `Ready` means that this time has come. Without a time, returns `Pending`.
    fn sleep(
        &mut self,
        class_admission: &ClassAdmission,
        at: Option<Timestamp>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let Some(at) = at else {
            self.alarm = None;
            return Poll::Pending;
        };
        if self.alarm.as_ref().is_none_or(|alarm| alarm.at != at) {
            let sleep = class_admission.time.sleep_until(at);
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
        let Some(class_admission) = &this.class_admission else {
            return Poll::Pending;
        };
        let wait = &mut this.wait;
        if wait.entry.is_none() {
            if wait.deadline.is_some() {
                wait.check_deadline(class_admission, class_admission.time.now())?;
            }
            let now = || class_admission.time.now();
            if let Some(ticket) = class_admission.limiter.try_now(wait.charge, now) {
                let arrival = wait.arrival.unwrap_or_default();
                return this.admitted(ticket, arrival);
            }
        }
        this.poll_queued(cx)
    }
}

impl Drop for PendingAdmission {
    #[inline]
    fn drop(&mut self) {
        if let Some(class_admission) = &self.class_admission {
            self.wait.leave(class_admission);
        }
    }
}

impl fmt::Debug for PendingAdmission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let class = self.class_admission.as_ref().map(|of| of.limiter.class);
        f.debug_struct("PendingAdmission")
            .field("class", &class)
            .field("entry", &self.wait.entry)
            .finish_non_exhaustive()
    }
}
