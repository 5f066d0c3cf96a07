//! A lane as one client sees it: with that client's clock and chance.

use std::sync::Arc;
use std::time::Duration;

use tinkers_core::{
    Admitted, Arrival, Error, ErrorKind, Flight, Jitter, Ledger, Moment, Receipt, Sent, Settlement,
    SubmitPermit, Time,
};
use tinkers_limits::{Ending, GateState, Take, Ticket};

use crate::lane::Lane;

/// Admits to a lane and takes back what it gave.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) lane: Arc<Lane>,
    pub(crate) time: Arc<dyn Time>,
    pub(crate) jitter: Arc<dyn Jitter>,
    pub(crate) max_hint: Duration,
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

    /// What `ticket` stands for, as guards.
    #[inline]
    pub(crate) fn admitted(
        self: Arc<Self>,
        ticket: Ticket,
        kept: Option<Flight>,
        arrival: Arrival,
    ) -> Admitted {
        let receipt = Receipt(ticket.to_words());
        let (flight, ledger) = match (kept, ticket.demand().take) {
            (Some(kept), _) => (kept, self),
            (None, Take::SlotAndFlight) => (Flight::new(Arc::<Self>::clone(&self)), self),
            (None, Take::Slot) => (Flight::free(), self),
        };
        Admitted {
            permit: SubmitPermit::new(ledger, receipt),
            flight,
            arrival,
        }
    }

    /// Lets a request through that is made by one under way, at once or not at all.
    pub(crate) fn admit_nested(self: Arc<Self>, kept: Option<Flight>) -> Result<Admitted, Error> {
        let Some(ticket) = self.lane.try_nested() else {
            let now = self.time.now();
            let message = format!(
                "the server's rate limit holds {} requests back, and a request that is made by another one under way cannot wait",
                self.lane.class.name()
            );
            let error = Error::new(ErrorKind::RateLimited, Sent::NotSent, message);
            return Err(match self.lane.constraints.gate().state() {
                GateState::ClosedUntil(at) => error.with_retry_at(now, Moment::from_origin(at)),
                GateState::Open | GateState::ProbingSince(_) => error,
            });
        };
        Ok(self.admitted(ticket, kept, Arrival::default()))
    }

    /// How long a refusal closes the gate. Chance is added to what the server says, never taken from it.
    fn pause(&self, hint: Option<Duration>) -> Duration {
        let told = hint.unwrap_or(Self::UNHINTED).min(self.max_hint);
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
    }

    fn settle(&self, Receipt(words): Receipt, outcome: Settlement) {
        let is_hinted = matches!(outcome, Settlement::Refused { hint: Some(_) });
        let (ticket, ending) = (Ticket::from_words(words), self.ending(outcome));
        self.lane
            .settle(ticket, ending, is_hinted, || self.time.now());
    }

    fn land(&self) {
        self.lane.land(|| self.time.now());
    }
}

fn doubled(first: Duration, times: u32) -> Duration {
    first.saturating_mul(1 << times.min(16))
}
