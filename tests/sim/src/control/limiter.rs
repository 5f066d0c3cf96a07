//! A limiter with a bug. It has nothing but one backoff deadline for each route class.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tinkers_core::{
    Admission, AdmissionRequest, Admitted, AttemptOutcome, BoxFuture, Clock, Error, Ledger,
    RouteClass, SubmitPermit, Ticket, Timestamp,
};

use crate::control::Control;

/// The duration of the backoff after a 429 response without a `retry-after` hint.
const DEFAULT_HINT: Duration = Duration::from_secs(1);
/// The time that passes between the reading of the end of the backoff and the use of this value,
/// with [`Control::StaleBackoff`].
const STALE_FOR: Duration = Duration::from_millis(400);

/// The state of a faulty rate limiter: the time at which the backoff of each route class ends.
#[derive(Debug, Default)]
pub struct FaultyLimiter {
    closed_until: Mutex<[Timestamp; 5]>,
    /// The time at which the most recently sent request began to wait for admission by the rate
    /// limiter.
    last_requested_at: Mutex<Timestamp>,
}

impl FaultyLimiter {
    /// Returns the time at which the most recently sent request began to wait for admission by the
    /// rate limiter. The time is only recorded with [`Control::RetryWindowFromCall`].
    pub fn last_requested_at(&self) -> Timestamp {
        let at = self.last_requested_at.lock();
        *at.unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_last_requested_at(&self, at: Timestamp) {
        let last = self.last_requested_at.lock();
        *last.unwrap_or_else(PoisonError::into_inner) = at;
    }

    fn closed_until(&self, class: RouteClass) -> Timestamp {
        let deadlines = self.closed_until.lock();
        deadlines.unwrap_or_else(PoisonError::into_inner)[class.index()]
    }

    fn update(&self, class: RouteClass, change: impl FnOnce(Timestamp) -> Timestamp) {
        let deadlines = self.closed_until.lock();
        let mut deadlines = deadlines.unwrap_or_else(PoisonError::into_inner);
        let deadline = &mut deadlines[class.index()];
        *deadline = change(*deadline);
    }
}

/// An [`Admission`] that replaces the one of the rate limiter. It applies no limits: a request only
/// waits until the backoff of its route class has ended.
#[derive(Debug, Clone)]
pub(crate) struct DeadlineAdmission {
    pub(crate) limiter: Arc<FaultyLimiter>,
    pub(crate) control: Control,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Admission for DeadlineAdmission {
    fn admit(&self, request: AdmissionRequest) -> BoxFuture<'_, Result<Admitted, Error>> {
        Box::pin(self.clone().wait(request))
    }
}

impl DeadlineAdmission {
    pub(crate) async fn wait(self, request: AdmissionRequest) -> Result<Admitted, Error> {
        let class = request.class;
        if class != RouteClass::Control {
            if self.control == Control::StaleBackoff {
                let closed_until = self.limiter.closed_until(class);
                self.clock.sleep(STALE_FOR).await;
                self.clock.sleep_until(closed_until).await;
            } else {
                while self.clock.now() < self.limiter.closed_until(class) {
                    let closed_until = self.limiter.closed_until(class);
                    self.clock.sleep_until(closed_until).await;
                }
            }
        }
        let ledger = DeadlineLedger {
            admission: self,
            class,
        };
        let mut admitted = Admitted::free(request.in_flight_permit);
        admitted.permit = SubmitPermit::new(Arc::new(ledger), Ticket::default());
        Ok(admitted)
    }
}

#[derive(Debug)]
struct DeadlineLedger {
    admission: DeadlineAdmission,
    class: RouteClass,
}

impl Ledger for DeadlineLedger {
    fn may_leave(&self, _: Ticket) -> bool {
        let DeadlineAdmission {
            limiter,
            control,
            clock,
        } = &self.admission;
        *control != Control::PollBurstAfterPause || clock.now() >= limiter.closed_until(self.class)
    }

    fn extend(&self, _: Ticket, hint: Duration) {
        let until = self.admission.clock.now().after(hint);
        let limiter = &self.admission.limiter;
        limiter.update(self.class, |before| before.max(until));
    }

    fn settle(&self, _: Ticket, outcome: AttemptOutcome) {
        let DeadlineAdmission {
            limiter,
            control,
            clock,
        } = &self.admission;
        let now = clock.now();
        match outcome {
            AttemptOutcome::Refused { hint } => {
                let until = now.after(hint.unwrap_or(DEFAULT_HINT));
                limiter.update(self.class, |before| match control {
                    Control::LastWriterWins => until,
                    _ => before.max(until),
                });
            }
            AttemptOutcome::Accepted if *control == Control::SuccessClearsBackoff => {
                limiter.update(self.class, |_| now);
            }
            _ => {}
        }
    }

    fn release(&self) {}
}
