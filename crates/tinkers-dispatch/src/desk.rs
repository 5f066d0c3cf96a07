//! A lane as one client sees it: with that client's clock and chance.

use std::sync::Arc;
use std::time::Duration;

use tinkers_core::contain::contain;
use tinkers_core::{
    Admitted, Arrival, Clock, Error, ErrorKind, InFlightPermit, Jitter, Ledger, Receipt, Sent,
    Settlement, SubmitPermit, Timestamp,
};
use tinkers_limits::{Ending, GateState, Take, Ticket};
use tokio::sync::Notify;

use crate::lane::Lane;
use crate::sync::{AtomicU64, Ordering};

/// Admits to a lane and takes back what it gave.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) lane: Arc<Lane>,
    pub(crate) time: Arc<dyn Clock>,
    pub(crate) jitter: Arc<dyn Jitter>,
    /// Shared by all clients of the limiter: it follows what they ask for.
    pub(crate) max_hint: Arc<MaxHint>,
    /// Notified when a refusal closes the lane.
    pub(crate) closures: Arc<Notify>,
}

/// The longest that one refusal closes a gate for, as it holds now.
#[derive(Debug)]
pub(crate) struct MaxHint(AtomicU64);

impl MaxHint {
    pub(crate) fn new(longest: Duration) -> Self {
        let max_hint = Self(AtomicU64::new(0));
        max_hint.set(longest);
        max_hint
    }

    pub(crate) fn set(&self, longest: Duration) {
        let nanos = u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX);
        self.0.store(nanos, Ordering::Relaxed);
    }

    fn get(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

impl Desk {
    /// How long the gate closes when the server gives no hint.
    const UNHINTED: Duration = Duration::from_secs(1);
    /// Jitter adds at most this part of a pause, and at most so much.
    const SPREAD: f64 = 0.05;
    const MOST_SPREAD: Duration = Duration::from_millis(10);
    /// A probe that is refused, or not answered, closes the gate for so long at least, doubling for each in a row.
    const FIRST_FLOOR: Duration = Duration::from_millis(10);
    const FIRST_UNANSWERED: Duration = Duration::from_millis(500);
    const LONGEST_FLOOR: Duration = Duration::from_secs(1);
    const LONGEST_UNANSWERED: Duration = Duration::from_secs(30);

    /// Wakes the watchers of the lane's next closure.
    pub(crate) fn notify_closure(&self) {
        contain(|| self.closures.notify_waiters());
    }

    /// What `ticket` stands for, as guards.
    #[inline]
    pub(crate) fn admitted(
        self: Arc<Self>,
        ticket: Ticket,
        kept: Option<InFlightPermit>,
        arrival: Arrival,
    ) -> Admitted {
        let receipt = Receipt(ticket.to_words());
        let (flight, ledger) = match (kept, ticket.demand().take) {
            (Some(kept), _) => (kept, self),
            (None, Take::SlotAndFlight) => (InFlightPermit::new(Arc::<Self>::clone(&self)), self),
            (None, Take::Slot) => (InFlightPermit::free(), self),
        };
        Admitted {
            permit: SubmitPermit::new(ledger, receipt),
            flight,
            arrival,
        }
    }

    /// Lets a request through that is made by one under way, at once or not at all.
    pub(crate) fn admit_nested(
        self: Arc<Self>,
        kept: Option<InFlightPermit>,
    ) -> Result<Admitted, Error> {
        let Some(ticket) = self.lane.try_nested() else {
            let now = self.time.now();
            let message = format!(
                "the server's rate limit holds {} requests back, and a request that is made by another one under way cannot wait",
                self.lane.class.name()
            );
            let error = Error::new(ErrorKind::RateLimited, Sent::NotSent, message);
            return Err(match self.lane.constraints.gate().state() {
                GateState::ClosedUntil(at) => error.with_retry_at(now, Timestamp::from_origin(at)),
                GateState::Open | GateState::ProbingSince(_) => error,
            });
        };
        Ok(self.admitted(ticket, kept, Arrival::default()))
    }

    /// How long a refusal closes the gate. Chance is added to what the server says, never taken from it.
    fn pause(&self, hint: Option<Duration>) -> Duration {
        let told = hint.unwrap_or(Self::UNHINTED).min(self.max_hint.get());
        let floor = doubled(Self::FIRST_FLOOR, self.lane.failed_probes()).min(Self::LONGEST_FLOOR);
        self.spread(told.max(floor))
    }

    fn spread(&self, pause: Duration) -> Duration {
        let most = pause.mul_f64(Self::SPREAD).min(Self::MOST_SPREAD);
        pause.saturating_add(most.mul_f64(self.jitter.unit()))
    }

    fn ending(&self, outcome: Settlement) -> Ending {
        let until = |pause| self.time.now().after(pause).since_origin();
        match outcome {
            Settlement::Accepted => Ending::Accepted,
            Settlement::Refused { hint } => Ending::Refused {
                until: until(self.pause(hint)),
            },
            Settlement::Answered => Ending::Answered,
            Settlement::Unknown => {
                let pause = doubled(Self::FIRST_UNANSWERED, self.lane.failed_probes());
                let pause = self.spread(pause.min(Self::LONGEST_UNANSWERED));
                Ending::Unanswered {
                    until: until(pause),
                }
            }
            Settlement::Dropped => Ending::Dropped,
        }
    }
}

impl Ledger for Desk {
    fn may_leave(&self, Receipt(words): Receipt) -> bool {
        self.lane.may_leave(&Ticket::from_words(words))
    }

    fn extend(&self, Receipt(words): Receipt, hint: Duration) {
        let now = self.time.now();
        let until = now.after(self.pause(Some(hint)));
        self.lane.extend(&Ticket::from_words(words), until, now);
        self.notify_closure();
    }

    fn settle(&self, Receipt(words): Receipt, outcome: Settlement) {
        let is_hinted = matches!(outcome, Settlement::Refused { hint: Some(_) });
        let (ticket, ending) = (Ticket::from_words(words), self.ending(outcome));
        self.lane
            .settle(ticket, ending, is_hinted, || self.time.now());
        if matches!(ending, Ending::Refused { .. }) {
            self.notify_closure();
        }
    }

    fn land(&self) {
        self.lane.land(|| self.time.now());
    }
}

fn doubled(first: Duration, times: u32) -> Duration {
    first.saturating_mul(1 << times.min(16))
}
