//! The network between the clients and the server. It loses, delays, duplicates and changes
//! requests and responses.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use http::header::CONTENT_LENGTH;
use tinkers_core::{
    Clock, HttpRequest, HttpResponse, ManualClock, Sent, Spawn, Transport, TransportError,
    TransportErrorKind,
};
use tinkers_local::InProcess;

use crate::control::Control;
use crate::control::limiter::FaultyLimiter;
use crate::control::queue::FaultyQueueState;
use crate::fairness::FairnessMonitor;
use crate::fault::Fault;
use crate::fault_injector::FaultInjector;
use crate::monitor::Monitor;
use crate::nested_requests::NestedRequests;
use crate::op::Op;
use crate::request_history::RequestHistory;
use crate::responses::{fault_response, maybe_sent, with_unknown_fields};
use crate::rng::Rng;
use crate::shared_polls::SharedPollMonitor;
use crate::trace::{Fnv1a, Trace};

/// The time for which the network delays the response to each training call during
/// [`Fault::LongQueue`].
const LONG_QUEUE_DELAY: Duration = Duration::from_secs(30);

pub(crate) type Response = Result<HttpResponse, TransportError>;

/// The simulated network of a run, together with the monitors that observe its requests.
#[derive(Debug)]
pub struct Network {
    /// The clock of the run.
    pub clock: ManualClock,
    /// The random numbers for the delays and for the details of injected faults.
    pub rng: Rng,
    /// The injector, which draws the faults to inject and counts them.
    pub injector: Arc<FaultInjector>,
    /// The trace of the run.
    pub trace: Trace,
    /// The monitor of the invariants that are checked during the run.
    pub monitor: Monitor,
    /// The history of the requests for samples and models, with which failed calls are checked at
    /// the end of the run.
    pub history: RequestHistory,
    /// The monitor of the rates of shared polls (polls for all results of a sampling client) and of
    /// their acknowledgements.
    pub shared_polls: SharedPollMonitor,
    /// The monitor of the order in which waiting samples are admitted.
    pub fairness: FairnessMonitor,
    /// The requests that transport layers have made while they sent other requests.
    pub nested_requests: NestedRequests,
    /// The fault to inject into all shared polls while [`Fault::SharedPollOutage`] is active. It is
    /// drawn once for each run.
    pub shared_poll_fault: Fault,
    /// The state of the faulty rate limiter that some negative controls use.
    pub faulty_limiter: Arc<FaultyLimiter>,
    /// The state of the faulty admission queue that some negative controls use.
    pub faulty_queue: Arc<FaultyQueueState>,
    /// The embedded server.
    pub server: InProcess,
    /// The spawner for tasks that deliver duplicate requests later.
    pub spawner: Arc<dyn Spawn>,
    /// Whether the server announces that it applies a repeated submission only once.
    pub deduplicates: bool,
    /// The negative control whose bug is built into the client or the engine, if any.
    pub control: Option<Control>,
    /// The number of requests that clients have sent so far.
    pub request_count: AtomicU64,
}

impl Network {
    /// Transports a request to the server and its response back to the client, with the given
    /// fault.
    pub(crate) async fn transport(
        &self,
        op: Op,
        fault: Option<Fault>,
        request: HttpRequest,
    ) -> Response {
        // All other faults happen before the request reaches the network.
        let is_of_network = |fault: &Fault| *fault != Fault::SlowConnect && !fault.is_of_layer();
        let Some(fault) = fault.filter(is_of_network) else {
            return self.deliver(op, request).await;
        };
        match fault {
            Fault::SharedPollOutage => {
                Box::pin(self.transport(op, Some(self.shared_poll_fault), request)).await
            }
            Fault::Tls => Err(TransportError::new(
                TransportErrorKind::Tls,
                Sent::NotSent,
                "the certificate is not that of the server",
            )),
            Fault::Redirect => Err(TransportError::new(
                TransportErrorKind::Redirect,
                Sent::Answered,
                "redirected to another host",
            )),
            Fault::Undecodable => {
                let _ = self.deliver(op, request).await;
                Err(TransportError::new(
                    TransportErrorKind::Decode,
                    Sent::Answered,
                    "cannot decode the body",
                ))
            }
            Fault::ConcurrentBursts => {
                self.maybe_deliver(op, request).await;
                Ok(fault_response(Fault::Error502, &self.rng, &self.clock))
            }
            Fault::LongQueue => {
                let response = self.deliver(op, request).await;
                let clock: &dyn Clock = &self.clock;
                clock.sleep(LONG_QUEUE_DELAY).await;
                response
            }
            Fault::ConnectionRefused | Fault::Restart => Err(no_connection()),
            Fault::Partition if self.rng.gen_bool(0.3) => Err(no_connection()),
            Fault::LostRequest => {
                self.delay(Duration::from_secs(1)).await;
                Err(broken_connection())
            }
            Fault::LostResponse => {
                let _ = self.deliver(op, request).await;
                Err(broken_connection())
            }
            Fault::CutBody => self
                .deliver(op, request)
                .await
                .and(Err(broken_connection())),
            Fault::NoResponse => {
                self.maybe_deliver(op, request).await;
                std::future::pending().await
            }
            Fault::Partition => std::future::pending().await,
            Fault::LateRequest => {
                self.delay(Duration::from_secs(20)).await;
                self.deliver(op, request).await
            }
            Fault::LateResponse => {
                let response = self.deliver(op, request).await;
                self.delay(Duration::from_secs(20)).await;
                response
            }
            Fault::Duplicate => {
                self.deliver_later(request.clone());
                self.deliver(op, request).await
            }
            Fault::Truncated => {
                let mut response = self.deliver(op, request).await?;
                response.body.truncate(response.body.len() / 2);
                response.headers.remove(CONTENT_LENGTH);
                Ok(response)
            }
            Fault::UnknownFields => Ok(with_unknown_fields(self.deliver(op, request).await?)),
            Fault::Timeout408 | Fault::Error500 | Fault::Error502 | Fault::Html => {
                self.maybe_deliver(op, request).await;
                Ok(fault_response(fault, &self.rng, &self.clock))
            }
            _ => Ok(fault_response(fault, &self.rng, &self.clock)),
        }
    }

    async fn deliver(&self, op: Op, request: HttpRequest) -> Response {
        if op.is_cumulative() && !self.deduplicates {
            let body = Fnv1a::extend(Fnv1a::EMPTY, &request.body);
            self.monitor.request_delivered(body, op.name());
        }
        self.server.send(request).await
    }

    /// Delivers a request to the server with a probability of 50 %, and drops the response. Used
    /// for faults after which the client does not know whether the server applied the request.
    async fn maybe_deliver(&self, op: Op, request: HttpRequest) {
        if self.rng.gen_bool(0.5) {
            let _ = self.deliver(op, request).await;
        }
    }

    /// Delivers a second copy of a request to the server after a delay, and drops the response.
    fn deliver_later(&self, request: HttpRequest) {
        let clock: &dyn Clock = &self.clock;
        let delay = self.rng.duration(Duration::ZERO, Duration::from_secs(30));
        let (sleep, server) = (clock.sleep(delay), self.server.clone());
        let delivery = async move {
            sleep.await;
            let _ = server.send(request).await;
        };
        self.spawner.spawn(Box::pin(delivery)).detach();
    }

    /// Waits until a slow connection is established.
    ///
    /// # Errors
    /// Returns an error if the connection takes longer than `timeout`.
    pub(crate) async fn connect_slowly(&self, timeout: Duration) -> Result<(), TransportError> {
        let clock: &dyn Clock = &self.clock;
        let connected = self.delay(Duration::from_secs(30));
        let connected = clock.deadline(clock.now().after(timeout), connected).await;
        connected.ok_or_else(|| {
            TransportError::new(
                TransportErrorKind::Timeout,
                Sent::NotSent,
                "the connection timed out",
            )
        })
    }

    /// Waits for a random time between zero and `max` on the virtual clock.
    pub(crate) async fn delay(&self, max: Duration) {
        let clock: &dyn Clock = &self.clock;
        let delay = self.rng.duration(Duration::ZERO, max);
        clock.sleep(delay).await;
    }
}

fn no_connection() -> TransportError {
    TransportError::new(
        TransportErrorKind::Connect,
        Sent::NotSent,
        "cannot connect to the server",
    )
}

fn broken_connection() -> TransportError {
    maybe_sent(TransportErrorKind::Broken, "the connection broke")
}
