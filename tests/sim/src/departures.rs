//! The faults of clients that decide once whether a request may leave, and not again when it does.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tinkers_core::{
    Admission, Admitted, Ask, BoxFuture, Departure, Error, ErrorKind, Ledger, Moment, Receipt,
    RouteClass, Sent, Settlement, Spawn, SubmitPermit,
};
use tokio::sync::oneshot;

use crate::control::Control;

/// An admission whose permits do not say that the gate has closed since they were given.
pub(crate) struct OldDepartures {
    pub(crate) inner: Arc<dyn Admission>,
    pub(crate) fault: Control,
    /// Collects grants as soon as they are given.
    pub(crate) prompt: Arc<dyn Spawn>,
}

impl Admission for OldDepartures {
    fn admit(&self, ask: Ask) -> BoxFuture<'_, Result<Admitted, Error>> {
        if self.fault == Control::UncheckedDeparture {
            return Box::pin(async move {
                let admitted = self.inner.admit(ask).await?;
                Ok(unchecked(admitted, |_| true))
            });
        }
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
                true => unchecked(admitted, |_| true),
                false => admitted,
            })
        })
    }

    fn moved(&self, class: RouteClass) -> Option<Moment> {
        self.inner.moved(class)
    }

    fn closed_until(&self, class: RouteClass) -> Option<Moment> {
        self.inner.closed_until(class)
    }

    fn next_closure(&self, class: RouteClass) -> BoxFuture<'static, ()> {
        self.inner.next_closure(class)
    }
}

impl fmt::Debug for OldDepartures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OldDepartures")
            .field("fault", &self.fault)
            .finish_non_exhaustive()
    }
}

/// The same permit, which says by `may_leave` whether its request may leave.
fn unchecked(admitted: Admitted, may_leave: fn(&Departure) -> bool) -> Admitted {
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
    may_leave: fn(&Departure) -> bool,
    permit: Mutex<Option<SubmitPermit>>,
}

impl Ledger for Unchecked {
    fn may_leave(&self, _: Receipt) -> bool {
        (self.may_leave)(&self.departure)
    }

    fn settle(&self, _: Receipt, outcome: Settlement) {
        let permit = self.permit.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(permit) = permit {
            permit.settle(outcome);
        }
    }

    fn land(&self) {}
}

impl fmt::Debug for Unchecked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unchecked").finish_non_exhaustive()
    }
}
