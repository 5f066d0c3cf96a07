//! Faults of clients around admission: what it is asked, and what its grants are worth later.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode};
use tinkers_core::{
    Admission, AdmissionRequest, Admitted, BoxFuture, Clock, Departure, Error, ErrorKind, Ledger,
    Receipt, RouteClass, Sent, Settlement, Spawn, SubmitPermit, Timestamp,
};
use tokio::sync::oneshot;

use crate::control::Control;
use crate::old_limiter::{OldAdmission, OldLimiter};

/// An admission with such a fault.
pub(crate) struct OldDepartures {
    pub(crate) inner: Arc<dyn Admission>,
    pub(crate) fault: Control,
    /// Collects grants as soon as they are given.
    pub(crate) prompt: Arc<dyn Spawn>,
    pub(crate) limiter: Arc<OldLimiter>,
    pub(crate) time: Arc<dyn Clock>,
}

impl Admission for OldDepartures {
    fn admit(&self, ask: AdmissionRequest) -> BoxFuture<'_, Result<Admitted, Error>> {
        match self.fault {
            Control::UncheckedDeparture => Box::pin(async move {
                let admitted = self.inner.admit(ask).await?;
                Ok(unchecked(admitted, Box::new(|_| true)))
            }),
            Control::UncheckedGrant => self.collect_late(ask),
            Control::WindowFromStart => Box::pin(async move {
                let asked_at = self.time.now();
                let admitted = self.inner.admit(ask).await?;
                let limiter = Arc::clone(&self.limiter);
                let note = move |departure: &Departure| {
                    limiter.set_asked_at(asked_at);
                    departure.may_leave()
                };
                Ok(unchecked(admitted, Box::new(note)))
            }),
            Control::DeadlineUnheard => self.inner.admit(AdmissionRequest {
                deadline: None,
                ..ask
            }),
            Control::PollHerd if ask.class == RouteClass::Poll => {
                let limiter = Arc::clone(&self.limiter);
                let (fault, time) = (self.fault, Arc::clone(&self.time));
                let old = OldAdmission {
                    limiter,
                    fault,
                    time,
                };
                Box::pin(async move { old.admit(ask).await })
            }
            _ => self.inner.admit(ask),
        }
    }

    fn moved(&self, class: RouteClass) -> Option<Timestamp> {
        match self.fault {
            Control::QueueUnheard => None,
            _ => self.inner.moved(class),
        }
    }

    fn closed_until(&self, class: RouteClass) -> Option<Timestamp> {
        self.inner.closed_until(class)
    }

    fn next_closure(&self, class: RouteClass) -> BoxFuture<'static, ()> {
        self.inner.next_closure(class)
    }
}

impl OldDepartures {
    fn collect_late(&self, ask: AdmissionRequest) -> BoxFuture<'_, Result<Admitted, Error>> {
        Box::pin(async move {
            let (sender, receiver) = oneshot::channel();
            let inner = Arc::clone(&self.inner);
            let collects = async move {
                let _ = sender.send(inner.admit(ask).await);
            };
            // Dropped with the wait, which gives all back.
            let task = self.prompt.spawn(Box::pin(collects));
            let admitted = receiver.await;
            drop(task);
            let ended = |_| Error::new(ErrorKind::Aborted, Sent::NotSent, "the run is over");
            let mut admitted = admitted.map_err(ended)??;
            // What closed between the grant and its collection goes unseen, and nothing else does.
            let is_late = !admitted.permit.departure().may_leave();
            Ok(match is_late {
                true => unchecked(admitted, Box::new(|_| true)),
                false => admitted,
            })
        })
    }
}

impl fmt::Debug for OldDepartures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OldDepartures")
            .field("fault", &self.fault)
            .finish_non_exhaustive()
    }
}

type MayLeave = Box<dyn Fn(&Departure) -> bool + Send + Sync>;

/// The same permit, which says by `may_leave` whether its request may leave.
fn unchecked(admitted: Admitted, may_leave: MayLeave) -> Admitted {
    let Admitted {
        mut permit,
        flight,
        arrival,
    } = admitted;
    let departure = permit.departure();
    let ledger = Unchecked {
        departure,
        may_leave,
        permit: Mutex::new(Some(permit)),
    };
    Admitted {
        permit: SubmitPermit::new(Arc::new(ledger), Receipt::default()),
        flight,
        arrival,
    }
}

struct Unchecked {
    departure: Departure,
    may_leave: MayLeave,
    permit: Mutex<Option<SubmitPermit>>,
}

impl Unchecked {
    fn end(&self, outcome: Settlement) {
        let permit = self
            .permit
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(permit) = permit {
            permit.settle(outcome);
        }
    }
}

impl Ledger for Unchecked {
    fn may_leave(&self, _: Receipt) -> bool {
        (self.may_leave)(&self.departure)
    }

    fn extend(&self, _: Receipt, hint: Duration) {
        self.end(Settlement::Refused { hint: Some(hint) });
    }

    fn settle(&self, _: Receipt, outcome: Settlement) {
        match outcome {
            // The permit is kept, for the hint that may come with the body.
            Settlement::Refused { hint: None } => {
                let (status, none) = (StatusCode::TOO_MANY_REQUESTS, HeaderMap::new());
                self.departure.head(status, &none, SystemTime::UNIX_EPOCH);
            }
            outcome => self.end(outcome),
        }
    }

    fn land(&self) {}
}

impl fmt::Debug for Unchecked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unchecked").finish_non_exhaustive()
    }
}
