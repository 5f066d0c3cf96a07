//! The limiter of older clients: a deadline for each class, and the faults that it had.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tinkers_core::{
    Admission, AdmissionRequest, Admitted, BoxFuture, Clock, Error, Ledger, Receipt, RouteClass,
    Settlement, SubmitPermit, Timestamp,
};

use crate::control::Control;

/// What an older client kept of a limit: a deadline for each lane.
#[derive(Debug, Default)]
pub struct OldLimiter {
    until: Mutex<[Timestamp; 5]>,
    /// When admission was asked for the request that last left.
    asked_at: Mutex<Timestamp>,
}

impl OldLimiter {
    fn until(&self, class: RouteClass) -> Timestamp {
        self.until.lock().unwrap_or_else(PoisonError::into_inner)[class.index()]
    }

    /// When admission was asked for the request that has just been allowed to leave, where that is followed.
    pub fn asked_at(&self) -> Timestamp {
        *self.asked_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_asked_at(&self, at: Timestamp) {
        *self.asked_at.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }

    fn set(&self, class: RouteClass, change: impl FnOnce(Timestamp) -> Timestamp) {
        let mut all = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        all[class.index()] = change(all[class.index()]);
    }
}

#[derive(Debug)]
pub(crate) struct OldAdmission {
    pub(crate) limiter: Arc<OldLimiter>,
    pub(crate) fault: Control,
    pub(crate) time: Arc<dyn Clock>,
}

impl Admission for OldAdmission {
    fn admit(&self, ask: AdmissionRequest) -> BoxFuture<'_, Result<Admitted, Error>> {
        Box::pin(async move {
            let class = ask.class;
            if class != RouteClass::Control {
                if self.fault == Control::StaleSnapshot {
                    let seen = self.limiter.until(class);
                    // As long as the wait for a slot.
                    self.time.sleep(Duration::from_millis(400)).await;
                    self.time.sleep_until(seen).await;
                } else {
                    while self.time.now() < self.limiter.until(class) {
                        self.time.sleep_until(self.limiter.until(class)).await;
                    }
                }
            }
            let ledger = OldLedger {
                limiter: Arc::clone(&self.limiter),
                fault: self.fault,
                class,
                time: Arc::clone(&self.time),
            };
            let mut admitted = Admitted::free(ask.flight);
            admitted.permit = SubmitPermit::new(Arc::new(ledger), Receipt::default());
            Ok(admitted)
        })
    }
}

#[derive(Debug)]
struct OldLedger {
    limiter: Arc<OldLimiter>,
    fault: Control,
    class: RouteClass,
    time: Arc<dyn Clock>,
}

impl Ledger for OldLedger {
    fn may_leave(&self, _: Receipt) -> bool {
        self.fault != Control::PollHerd || self.time.now() >= self.limiter.until(self.class)
    }

    fn extend(&self, _: Receipt, hint: Duration) {
        let until = self.time.now().after(hint);
        self.limiter.set(self.class, |before| before.max(until));
    }

    fn settle(&self, _: Receipt, outcome: Settlement) {
        let now = self.time.now();
        match outcome {
            Settlement::Refused { hint } => {
                let until = now.after(hint.unwrap_or(Duration::from_secs(1)));
                self.limiter.set(self.class, |before| match self.fault {
                    Control::LastWriterWins => until,
                    _ => before.max(until),
                });
            }
            Settlement::Accepted if self.fault == Control::SuccessClears => {
                self.limiter.set(self.class, |_| now);
            }
            _ => {}
        }
    }

    fn land(&self) {}
}
