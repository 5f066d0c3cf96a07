//! Pauses after 402 responses, until the bill is paid.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::time::Timestamp;
use crate::user_code::catch_panic;

/// An object that is notified of the calls of a session that wait for a payment. The methods must not block.
pub trait BillingObserver: fmt::Debug + Send + Sync {
    /// Records that a call begins to wait, since the server requires payment.
    fn wait_began(&self);

    /// Records that a call has ended its wait: the server has accepted it, it has failed, or the program has dropped it.
    fn wait_ended(&self);
}

/// The reaction of one session to 402 responses. Clones share the state.
#[derive(Debug, Clone, Default)]
pub struct Billing {
    /// The state that the session shares with other sessions of the same account.
    pub pause: Arc<BillingPause>,
    /// The maximum duration of the pauses of a request, from the first 402 response of a run of them.
    pub limit: Duration,
    /// The object to notify, if there is one.
    pub observer: Option<Arc<dyn BillingObserver>>,
}

impl Billing {
    /// Records a 402 response to a request at the time `now`, and returns what to do with the request. `wait` is the wait of the call to
    /// which the request belongs; it begins if the request is to be sent again.
    pub fn on_payment_required(&self, wait: &mut PaymentWait, now: Timestamp) -> BillingAction {
        let action = self.pause.on_payment_required(now, self.limit);
        if matches!(action, BillingAction::Pause(_))
            && wait.observer.is_none()
            && let Some(observer) = &self.observer
        {
            observer.wait_began();
            wait.observer = Some(Arc::clone(observer));
        }
        action
    }
}

/// The wait of one call for a payment, from its first 402 response to its next other response. Dropping this value ends the wait.
#[derive(Debug, Default)]
pub struct PaymentWait {
    /// The observer that was notified of the wait. `None` if the call does not wait.
    observer: Option<Arc<dyn BillingObserver>>,
}

impl PaymentWait {
    /// Ends the wait, since the server has responded with another status than 402. Does nothing if the call does not wait.
    pub fn end(&mut self) {
        if let Some(observer) = self.observer.take() {
            observer.wait_ended();
        }
    }
}

impl Drop for PaymentWait {
    fn drop(&mut self) {
        self.end();
    }
}

/// The billing state of an account, shared by all requests of its sessions. It decides whether a request that got a 402 response (payment
/// required) is sent again after a pause or fails.
///
/// The first 402 response begins a run of 402 responses. The run ends after [`BillingPause::FORGET`] without a 402 response. If a run lasts
/// as long as the limit in the server's configuration (one hour by default), all requests fail.
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

/// The action after a 402 response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "callers handle each action")]
pub enum BillingAction {
    /// Wait for this duration, then send the request again.
    Pause(Duration),
    /// Return an error, since 402 responses have continued for too long.
    GiveUp,
}

impl BillingPause {
    /// The pause before a request that got a 402 response is sent again.
    pub const STEP: Duration = Duration::from_secs(5);
    /// The time without a 402 response that ends a run of 402 responses.
    pub const FORGET: Duration = Duration::from_secs(300);
    const LOG_EVERY: Duration = Duration::from_secs(60);

    /// Records a 402 response at the time `now`, and returns what to do with its request. The action is [`BillingAction::GiveUp`] if 402
    /// responses have continued for `limit`, and at once if that is zero.
    pub fn on_payment_required(&self, now: Timestamp, limit: Duration) -> BillingAction {
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
        if lasted >= limit {
            return BillingAction::GiveUp;
        }
        if log {
            catch_panic(|| {
                tracing::warn!(
                    lasted_s = lasted.as_secs(),
                    "the server requires payment; requests are paused until the bill is paid"
                )
            });
        }
        BillingAction::Pause(Self::STEP)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_origin(Duration::from_secs(seconds))
    }

    #[test]
    fn calls_pause_after_402_responses_until_the_billing_time_limit() {
        let pause = BillingPause::default();
        let limit = Duration::from_secs(100);
        assert_eq!(
            pause.on_payment_required(at(10), limit),
            BillingAction::Pause(BillingPause::STEP)
        );
        assert_eq!(
            pause.on_payment_required(at(109), limit),
            BillingAction::Pause(BillingPause::STEP)
        );
        assert_eq!(
            pause.on_payment_required(at(110), limit),
            BillingAction::GiveUp
        );
        // A request in the same run of 402 responses fails at once.
        assert_eq!(
            pause.on_payment_required(at(410), limit),
            BillingAction::GiveUp
        );
        // A new incident begins after five minutes without a 402.
        assert_eq!(
            pause.on_payment_required(at(712), limit),
            BillingAction::Pause(BillingPause::STEP)
        );
        let first = BillingPause::default().on_payment_required(at(10), Duration::ZERO);
        assert_eq!(first, BillingAction::GiveUp);
    }
}
