//! The pause that a 402 asks for: the job waits while somebody settles the bill.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::contain::contain;
use crate::time::Timestamp;

/// One incident of missing money, shared by everything that one session sends.
///
/// An incident is forgotten when no 402 came for [`BillingPause::FORGET`]; it ends in failure when it has lasted longer than
/// the limit that the server's configuration names (an hour unless it says otherwise).
#[derive(Debug, Default)]
pub struct BillingPause {
    incident: Mutex<Option<Incident>>,
}

#[derive(Debug, Clone, Copy)]
struct Incident {
    began: Timestamp,
    last: Timestamp,
    logged: Timestamp,
}

/// What to do about a 402.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Billing {
    /// Wait this long and send it again.
    Pause(Duration),
    /// The incident has lasted too long: the 402 is the answer.
    GiveUp,
}

impl BillingPause {
    /// The wait before a request that met a 402 is sent again.
    pub const STEP: Duration = Duration::from_secs(5);
    /// An incident without news for this long is over.
    pub const FORGET: Duration = Duration::from_secs(300);
    const LOG_EVERY: Duration = Duration::from_secs(60);

    /// Takes note of a 402 at `now`, with incidents allowed to last up to `limit`.
    pub fn on_payment_required(&self, now: Timestamp, limit: Duration) -> Billing {
        let mut slot = self.incident.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = Incident {
            began: now,
            last: now,
            logged: Timestamp::ORIGIN,
        };
        let known = slot.filter(|incident| now.since(incident.last) <= Self::FORGET);
        let mut incident = known.unwrap_or(fresh);
        incident.last = now;
        let lasted = now.since(incident.began);
        let log = known.is_none() || now.since(incident.logged) >= Self::LOG_EVERY;
        if log {
            incident.logged = now;
        }
        *slot = Some(incident);
        drop(slot);
        if lasted > limit {
            return Billing::GiveUp;
        }
        if log {
            contain(|| {
                tracing::warn!(
                    lasted_s = lasted.as_secs(),
                    "billing holds the job; it goes on when payment is settled"
                )
            });
        }
        Billing::Pause(Self::STEP)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_origin(Duration::from_secs(seconds))
    }

    #[test]
    fn an_incident_pauses_until_its_limit_and_is_forgotten_when_quiet() {
        let pause = BillingPause::default();
        let limit = Duration::from_secs(100);
        assert_eq!(
            pause.on_payment_required(at(10), limit),
            Billing::Pause(BillingPause::STEP)
        );
        assert_eq!(
            pause.on_payment_required(at(110), limit),
            Billing::Pause(BillingPause::STEP)
        );
        assert_eq!(pause.on_payment_required(at(111), limit), Billing::GiveUp);
        // Still the same incident: it fails at once.
        assert_eq!(pause.on_payment_required(at(411), limit), Billing::GiveUp);
        // Quiet for more than five minutes: a new one.
        assert_eq!(
            pause.on_payment_required(at(712), limit),
            Billing::Pause(BillingPause::STEP)
        );
    }
}
