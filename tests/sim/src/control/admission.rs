//! Bugs of admission: permits that are not checked again before a request is sent, and admission
//! requests with wrong parameters.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode};
use tinkers_core::{
    Admission, AdmissionRequest, Admitted, AttemptOutcome, BoxFuture, Clock, DepartureCheck, Error,
    ErrorKind, Ledger, RouteClass, Sent, Spawn, SubmitPermit, Ticket, Timestamp,
};
use tokio::sync::oneshot;

use crate::control::Control;
use crate::control::limiter::{DeadlineAdmission, FaultyLimiter};

/// A wrapper around the [`Admission`] of the rate limiter that adds the bug of the negative control
/// `control`.
pub(crate) struct FaultyAdmission {
    pub(crate) inner: Arc<dyn Admission>,
    pub(crate) control: Control,
    /// A spawner for tasks that are polled as soon as they are ready, even while other tasks of the
    /// client are delayed.
    pub(crate) spawner: Arc<dyn Spawn>,
    pub(crate) limiter: Arc<FaultyLimiter>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Admission for FaultyAdmission {
    fn admit(&self, request: AdmissionRequest) -> BoxFuture<'_, Result<Admitted, Error>> {
        match self.control {
            Control::UncheckedSend => Box::pin(async move {
                let admitted = self.inner.admit(request).await?;
                Ok(with_check(admitted, Box::new(|_| true)))
            }),
            Control::UncheckedLatePermit => self.admit_late(request),
            Control::RetryWindowFromCall => Box::pin(async move {
                let requested_at = self.clock.now();
                let admitted = self.inner.admit(request).await?;
                let limiter = Arc::clone(&self.limiter);
                let record_and_check = move |departure: &DepartureCheck| {
                    limiter.set_last_requested_at(requested_at);
                    departure.may_leave()
                };
                Ok(with_check(admitted, Box::new(record_and_check)))
            }),
            Control::IgnoredDeadline => self.inner.admit(AdmissionRequest {
                deadline: None,
                ..request
            }),
            Control::PollBurstAfterPause if request.class == RouteClass::Poll => {
                let admission = DeadlineAdmission {
                    limiter: Arc::clone(&self.limiter),
                    control: self.control,
                    clock: Arc::clone(&self.clock),
                };
                Box::pin(admission.wait(request))
            }
            _ => self.inner.admit(request),
        }
    }

    fn last_queue_progress(&self, class: RouteClass) -> Option<Timestamp> {
        match self.control {
            Control::IgnoredQueueProgress => None,
            _ => self.inner.last_queue_progress(class),
        }
    }

    fn closed_until(&self, class: RouteClass) -> Option<Timestamp> {
        self.inner.closed_until(class)
    }

    fn next_closure(&self, class: RouteClass) -> BoxFuture<'static, ()> {
        self.inner.next_closure(class)
    }
}

impl FaultyAdmission {
    /// Waits for admission in a separate task that is never polled late, and passes the permit on
    /// to the task of the call, which may be polled late. If a 429 response closes the gate before
    /// the task of the call receives the permit, the request is sent nevertheless. Implements
    /// [`Control::UncheckedLatePermit`].
    fn admit_late(&self, request: AdmissionRequest) -> BoxFuture<'_, Result<Admitted, Error>> {
        Box::pin(async move {
            let (sender, receiver) = oneshot::channel();
            let inner = Arc::clone(&self.inner);
            let collect = async move {
                let _ = sender.send(inner.admit(request).await);
            };
            // When the waiting call is dropped, its task is aborted, which releases the permit.
            let task = self.spawner.spawn(Box::pin(collect));
            let admitted = receiver.await;
            drop(task);
            let aborted = |_| Error::new(ErrorKind::Aborted, Sent::NotSent, "the run has ended");
            let mut admitted = admitted.map_err(aborted)??;
            // The bug only applies if the gate closed before the permit was received.
            let is_late = !admitted.permit.departure().may_leave();
            Ok(match is_late {
                true => with_check(admitted, Box::new(|_| true)),
                false => admitted,
            })
        })
    }
}

impl fmt::Debug for FaultyAdmission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyAdmission")
            .field("control", &self.control)
            .finish_non_exhaustive()
    }
}

type MayLeave = Box<dyn Fn(&DepartureCheck) -> bool + Send + Sync>;

/// Returns `admitted` with another check. Just before the request is sent, `may_leave` decides
/// whether it may still be sent.
fn with_check(admitted: Admitted, may_leave: MayLeave) -> Admitted {
    let Admitted {
        mut permit,
        in_flight_permit,
        arrival,
    } = admitted;
    let departure = permit.departure();
    let ledger = WrappedPermit {
        departure,
        may_leave,
        permit: Mutex::new(Some(permit)),
    };
    Admitted {
        permit: SubmitPermit::new(Arc::new(ledger), Ticket::default()),
        in_flight_permit,
        arrival,
    }
}

/// A permit in which `may_leave` decides, just before the request is sent, whether it may still be
/// sent.
struct WrappedPermit {
    departure: DepartureCheck,
    may_leave: MayLeave,
    permit: Mutex<Option<SubmitPermit>>,
}

impl WrappedPermit {
    fn release(&self, outcome: AttemptOutcome) {
        let permit = self.permit.lock();
        let permit = permit.unwrap_or_else(PoisonError::into_inner).take();
        if let Some(permit) = permit {
            permit.settle(outcome);
        }
    }
}

impl Ledger for WrappedPermit {
    fn may_leave(&self, _: Ticket) -> bool {
        (self.may_leave)(&self.departure)
    }

    fn extend(&self, _: Ticket, hint: Duration) {
        self.release(AttemptOutcome::Refused { hint: Some(hint) });
    }

    fn settle(&self, _: Ticket, outcome: AttemptOutcome) {
        match outcome {
            // Keeps the permit, because the body of the response may contain a retry delay.
            AttemptOutcome::Refused { hint: None } => {
                let (status, headers) = (StatusCode::TOO_MANY_REQUESTS, HeaderMap::new());
                let wall = SystemTime::UNIX_EPOCH;
                self.departure.head(status, &headers, wall);
            }
            outcome => self.release(outcome),
        }
    }

    fn release(&self) {}
}

impl fmt::Debug for WrappedPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WrappedPermit").finish_non_exhaustive()
    }
}
