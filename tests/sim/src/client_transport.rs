//! The transport of a client. It sends requests over the simulated network.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use tinkers::SessionContext;
use tinkers_core::nesting::NestedMark;
use tinkers_core::{
    BoxFuture, Clock, DepartureCheck, HttpRequest, HttpResponse, RouteClass, Sent, Timestamp,
    Transport, TransportError, TransportErrorKind, hint,
};

use crate::call_log::CallId;
use crate::control::Control;
use crate::fault::Fault;
use crate::fault_injector::RequestInfo;
use crate::invariant::Invariant;
use crate::monitor::{HeartbeatOutcome, Monitor};
use crate::network::{Network, Response};
use crate::op::{Op, model_of};
use crate::request_history::RequestHistory;
use crate::responses::{is_paused_for_capacity, maybe_sent, text_field};
use crate::shared_polls::SharedPoll;

/// The longest time for which a slow transport layer (middleware that the user adds to the
/// transport) delays a request. The layer may delay the response by the same time again.
const MAX_LAYER_DELAY: Duration = Duration::from_secs(60);
/// The longest delay between the head and the body of a 429 response when
/// [`Fault::RateLimitedSlowBody`] is injected.
const MAX_BODY_DELAY: Duration = Duration::from_secs(30);
/// The time for which the client retries a request that fails.
const RETRY_WINDOW: Duration = Duration::from_secs(300);

/// The transport of one client's session. It injects faults and reports all requests to the
/// monitors of the run.
#[derive(Debug, Clone)]
pub struct ClientTransport {
    /// The simulated network, through which the transport reaches the server.
    pub network: Arc<Network>,
    /// The index of the client that uses this transport.
    pub client: usize,
    /// Whether this transport sends only heartbeats.
    pub is_heartbeat: bool,
    /// Whether the program has closed the session.
    pub is_closed: Arc<AtomicBool>,
    /// The session through which a simulated transport layer makes nested requests (requests made
    /// while another request is sent). Empty until the session has been created.
    pub session: Arc<OnceLock<Weak<dyn SessionContext>>>,
    /// The mark for code that does not run inside of another request. With
    /// [`Control::NestedDeadlock`], nested requests are made under this mark, so that the rate
    /// limiter does not recognize them as nested.
    pub outermost: NestedMark,
}

impl Transport for ClientTransport {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Response> {
        Box::pin(self.exchange(request))
    }
}

/// A guard for a poll for the result of one request. Dropping the guard tells the monitor that the
/// poll is no longer in flight, even if the poll was cancelled.
struct PollGuard<'a> {
    monitor: &'a Monitor,
    request_id: String,
}

impl Drop for PollGuard<'_> {
    fn drop(&mut self) {
        self.monitor.result_poll_ended();
    }
}

/// A guard for a heartbeat in flight. Dropping the guard records the outcome of the heartbeat, even
/// if the client cancels the heartbeat.
struct HeartbeatGuard<'a> {
    network: &'a Network,
    session: String,
    /// The outcome of the heartbeat that the guard records when it is dropped. `None` until the
    /// heartbeat has a response or an injected fault has affected it. A heartbeat that is cancelled
    /// before does not count as an attempt.
    outcome: Option<HeartbeatOutcome>,
}

impl Drop for HeartbeatGuard<'_> {
    fn drop(&mut self) {
        if let Some(outcome) = self.outcome {
            let now = self.network.clock.now();
            self.network.monitor.heartbeat(&self.session, now, outcome);
        }
    }
}

/// An attempt to send a request, with the fault that is injected into it, if any.
struct Attempt {
    op: Op,
    class: RouteClass,
    /// The description of the attempt in the trace.
    label: String,
    fault: Option<Fault>,
    shared_poll: Option<SharedPoll>,
    /// The id of the model, if the request submits a training call.
    model: Option<String>,
    /// The call that requested the sample, if the request submits a sample or polls for its result.
    sample: Option<CallId>,
    /// Whether all earlier requests for the same sample have succeeded without an injected fault.
    was_undisturbed: bool,
}

impl Attempt {
    /// Returns the call that requested the sample, if this attempt submits a sample.
    fn submitted_sample(&self) -> Option<CallId> {
        self.sample.filter(|_| self.op == Op::Sample)
    }
}

impl ClientTransport {
    async fn exchange(&self, mut request: HttpRequest) -> Response {
        let network = &*self.network;
        let attempt = self.start(&request);
        let Attempt {
            op, class, fault, ..
        } = attempt;
        self.run_layer(class, fault).await;
        let mut heartbeat = self.is_heartbeat.then(|| HeartbeatGuard {
            network,
            session: text_field(&request.body, "session_id"),
            outcome: fault.map(|_| HeartbeatOutcome::Failed),
        });
        let departure = std::mem::take(&mut request.departure);
        let (total, first_byte) = (request.timeouts.total, request.timeouts.first_byte);
        if fault == Some(Fault::SlowConnect) {
            network.connect_slowly(total).await?;
        }
        if !departure.may_leave() {
            network.injector.record_held(op);
            let label = &attempt.label;
            network.trace.push(format_args!("{label} is held back"));
            return Err(TransportError::new(
                TransportErrorKind::Held,
                Sent::NotSent,
                "the gate closed while the request waited for a connection",
            ));
        }
        let sent_at = network.clock.now();
        self.record_sent(&attempt, &request);
        let requested_at = network.faulty_limiter.last_requested_at();
        let poll = (op == Op::Poll).then(|| {
            let request_id = text_field(&request.body, "request_id");
            let monitor = &network.monitor;
            monitor.result_poll_sent(&request_id, sent_at);
            PollGuard {
                monitor,
                request_id,
            }
        });
        let clock: &dyn Clock = &network.clock;
        let transport = async {
            match &attempt.shared_poll {
                Some(poll) => network.transport_shared_poll(poll, fault, request).await,
                None => network.transport(op, fault, request).await,
            }
        };
        let deadline = clock.now().after(first_byte.min(total));
        let response = clock.deadline(deadline, transport).await;
        let mut response = response.unwrap_or_else(|| {
            let message = "no response in time";
            Err(maybe_sent(TransportErrorKind::Timeout, message))
        });
        self.record_response(&attempt, sent_at, &response);
        if let Some(poll) = &poll {
            let is_error = |response: &HttpResponse| response.status.is_server_error();
            let has_failed = response.as_ref().map_or(true, is_error);
            let now = network.clock.now();
            poll.monitor
                .result_poll_completed(&poll.request_id, now, has_failed);
        }
        if let Some(heartbeat) = &mut heartbeat {
            let is_delivered = fault.is_none() && response.is_ok();
            heartbeat.outcome = Some(match is_delivered {
                true => HeartbeatOutcome::Delivered,
                false => HeartbeatOutcome::Failed,
            });
        }
        if network.control == Some(Control::RetryWindowFromCall)
            && attempt.submitted_sample().is_some()
            && response.as_ref().is_err_and(is_connection_error)
            && sent_at.since(requested_at) > RETRY_WINDOW
        {
            // The client does not retry errors of this kind.
            response = Err(TransportError::new(
                TransportErrorKind::Tls,
                Sent::NotSent,
                "cannot connect within the retry window",
            ));
        }
        if let Ok(head) = &response
            && head.status == StatusCode::TOO_MANY_REQUESTS
        {
            let body = self.receive_refusal(class, fault, head.clone(), &departure);
            let body = clock.deadline(clock.now().after(total), body).await;
            response = body.ok_or_else(|| {
                let message = "the body did not arrive in time";
                maybe_sent(TransportErrorKind::Timeout, message)
            });
        }
        if fault == Some(Fault::SlowLayer) {
            network.delay(MAX_LAYER_DELAY).await;
        }
        response
    }

    /// Draws the fault to inject into a request, and records the start of the request. Returns the
    /// attempt to send the request.
    fn start(&self, request: &HttpRequest) -> Attempt {
        let network = &*self.network;
        let (op, class) = (Op::of_request(request), request.class);
        let shared_poll = match op {
            Op::SharedPoll => SharedPoll::decode(request),
            _ => None,
        };
        let number = network.request_count.fetch_add(1, Ordering::Relaxed);
        let label = format!("request {number} of client {} ({})", self.client, op.name());
        let fault = network.injector.draw(RequestInfo {
            op,
            client: self.client,
            is_heartbeat: self.is_heartbeat,
            is_acknowledgement: shared_poll
                .as_ref()
                .is_some_and(|poll| poll.is_acknowledgement),
            is_nested: network.nested_requests.request_sent(request),
        });
        if let Some(fault) = fault {
            network.injector.record(fault, op);
        }
        let name = fault.map_or("-", Fault::name);
        network.trace.push(format_args!("{label}: {name}"));
        let sample = match op {
            Op::Sample => RequestHistory::sample_of(request),
            Op::Poll => {
                let request_id = text_field(&request.body, "request_id");
                network.history.sample_by_request_id(&request_id)
            }
            _ => None,
        };
        let is_training = op.is_submission() && class == RouteClass::Train;
        Attempt {
            op,
            class,
            label,
            fault,
            shared_poll,
            model: is_training.then(|| model_of(request)).flatten(),
            sample,
            was_undisturbed: sample.is_some_and(|call| network.history.request_started(call)),
        }
    }

    /// Simulates the transport layers of the user, which see a request before it is sent: injects a
    /// panic, a nested request or a delay.
    async fn run_layer(&self, class: RouteClass, fault: Option<Fault>) {
        match fault {
            // `resume_unwind` bypasses the panic hook, which would print the panic.
            Some(Fault::LayerPanic) => {
                std::panic::resume_unwind(Box::new("the transport layer panicked"))
            }
            Some(Fault::NestedRequest) => self.make_nested_request(class).await,
            Some(Fault::SlowLayer) => self.network.delay(MAX_LAYER_DELAY).await,
            _ => {}
        }
    }

    fn record_sent(&self, attempt: &Attempt, request: &HttpRequest) {
        let network = &*self.network;
        let (label, now) = (&attempt.label, network.clock.now());
        if attempt.op.is_submission() && self.is_closed.load(Ordering::Relaxed) {
            let text = format!("{label} was sent after its session was closed");
            network.monitor.report(Invariant::ClosedSession, text);
        }
        network.monitor.request_sent(attempt.class, now, label);
        if let Some(call) = attempt.submitted_sample() {
            network.history.sample_sent(call, request, now);
        }
        if let Some(poll) = &attempt.shared_poll {
            network.shared_polls.poll_sent(poll, now);
        }
    }

    fn record_response(&self, attempt: &Attempt, sent_at: Timestamp, response: &Response) {
        let network = &*self.network;
        let now = network.clock.now();
        let success = response
            .as_ref()
            .ok()
            .filter(|response| response.status.is_success());
        network.injector.set_last_op(attempt.op);
        if attempt.class == RouteClass::Poll {
            network.monitor.poll_completed(sent_at);
        }
        if let (Some(model), Some(_)) = (&attempt.model, success) {
            network.history.submission_accepted(model.clone(), now);
        }
        if let Some(call) = attempt.submitted_sample() {
            let is_connection_error = response.as_ref().is_err_and(is_connection_error);
            let has_response = response.is_ok();
            network
                .history
                .attempt_ended(call, now, is_connection_error, has_response);
        }
        if let (Some(call), Some(success)) = (attempt.sample, success)
            && attempt.was_undisturbed
            && attempt.fault.is_none()
        {
            network.history.request_succeeded(call, success);
        }
        let label = &attempt.label;
        match response {
            Ok(response) => {
                let status = response.status.as_u16();
                network.trace.push(format_args!("{label} -> {status}"));
            }
            Err(error) => {
                let (kind, sent) = (error.kind, error.sent);
                network
                    .trace
                    .push(format_args!("{label} -> {kind:?} {sent:?}"));
            }
        }
        if let Ok(response) = response
            && attempt.op == Op::Poll
            && !response.status.is_server_error()
            && is_paused_for_capacity(response)
        {
            network.injector.record(Fault::Capacity, attempt.op);
        }
    }

    /// Receives the head and then the body of a 429 response. Reports the 429 to the monitor when
    /// the head has arrived. If the head contains no retry delay, reports the 429 again with the
    /// delay that the body contains.
    async fn receive_refusal(
        &self,
        class: RouteClass,
        fault: Option<Fault>,
        mut response: HttpResponse,
        departure: &DepartureCheck,
    ) -> HttpResponse {
        let network = &*self.network;
        let wall = network.clock.wall();
        let head = HttpResponse {
            body: Bytes::new(),
            ..response.clone()
        };
        let record = |hint: Option<Duration>| {
            let now = network.clock.now();
            let closed_until = network.monitor.rate_limited(class, now, hint);
            if class == RouteClass::Sample {
                network.history.samples_closed(now, closed_until);
            }
        };
        let hint_in_head = hint::retry_after(&head, wall);
        let hint_in_body = hint::retry_after(&response, wall);
        record(hint_in_head);
        if network.control == Some(Control::IgnoredHints) {
            response.headers.clear();
            response.body = Bytes::from_static(b"{}");
        }
        if network.control != Some(Control::RefusalAfterBody) {
            departure.head(response.status, &response.headers, wall);
        }
        if fault == Some(Fault::RateLimitedSlowBody) {
            network.delay(MAX_BODY_DELAY).await;
        }
        if hint_in_head.is_none() {
            record(hint_in_body);
        }
        response
    }
}

fn is_connection_error(error: &TransportError) -> bool {
    error.kind == TransportErrorKind::Connect
}
