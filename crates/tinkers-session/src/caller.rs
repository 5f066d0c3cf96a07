//! The caller of an endpoint, for sessions and for clients without a session.

use std::sync::Arc;
use std::time::Duration;

use tinkers_core::{Billing, Caller, Clock, Jitter, RecoveredErrors, RetryBudget, Transport};

use crate::endpoint::Endpoint;
use crate::observed_transport::ObservedTransport;
use crate::options::SessionOptions;

/// The parts of a caller that are not shared by all clients of an endpoint.
#[derive(Debug)]
pub struct CallerParts {
    /// The transport that sends the requests.
    pub transport: Arc<dyn Transport>,
    /// The clock for timeouts, pauses and deadlines. Clients that share an endpoint must use clocks with the same origin.
    pub time: Arc<dyn Clock>,
    /// The random generator that spreads retry delays, so that clients do not retry at the same time.
    pub jitter: Arc<dyn Jitter>,
    /// The counters of errors from which the client recovered, for example by a retry.
    pub recovered_errors: Arc<RecoveredErrors>,
}

impl CallerParts {
    /// Creates a caller that shares the rate limits, retry budget and outage detection of `endpoint` with all other clients of the endpoint.
    /// The timeouts and the retry policy are those of `options`.
    pub fn caller(self, endpoint: &Endpoint, options: &SessionOptions) -> Caller {
        let admission = endpoint
            .limiter()
            .admission(Arc::clone(&self.time), Arc::clone(&self.jitter));
        let budget: Arc<RetryBudget> = Arc::clone(endpoint.budget());
        Caller {
            transport: ObservedTransport::wrap(self.transport, &self.time, endpoint),
            admission: Arc::new(admission),
            time: self.time,
            jitter: self.jitter,
            budget,
            outages: Arc::clone(endpoint.outages()),
            notices: Arc::clone(endpoint.notices()),
            billing: Billing {
                pause: Arc::clone(endpoint.billing()),
                limit: Duration::from_secs(3600),
                observer: None,
            },
            recovered_errors: self.recovered_errors,
            closing: Arc::default(),
            timeouts: options.timeouts,
            retries: options.retry_policy,
        }
    }
}
