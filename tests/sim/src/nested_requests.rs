//! Nested requests: requests that a transport layer of the user makes before it forwards another
//! request.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use tinkers::wire::routes;
use tinkers_core::nesting::NestedMark;
use tinkers_core::retry::CallPolicy;
use tinkers_core::{BoxFuture, Call, Clock, HttpRequest, RouteClass, Timestamp};

use crate::client_transport::ClientTransport;
use crate::control::Control;
use crate::invariant::Invariant;

/// The request header that marks a nested request (a request that a transport layer makes while it
/// sends another request). Its value is the number of the nested request.
const NESTED: HeaderName = HeaderName::from_static("x-nested");
/// The time within which a nested request must be sent or fail. It includes an allowance for tasks
/// that are polled late.
const MAX_WAIT: Duration = Duration::from_secs(10);
/// The time from the creation of a nested request to its deadline.
const DEADLINE: Duration = Duration::from_secs(30);

/// The nested requests that transport layers have made but that were not sent yet, with the times
/// at which they were made.
#[derive(Debug, Default)]
pub struct NestedRequests(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    last_number: u64,
    waiting: BTreeMap<u64, Timestamp>,
}

impl NestedRequests {
    /// Returns whether a request is nested in another request. If so, records that it is sent, so
    /// that it no longer counts as waiting.
    pub(crate) fn request_sent(&self, request: &HttpRequest) -> bool {
        let Some(number) = request.headers.get(NESTED) else {
            return false;
        };
        let number = number.to_str().ok().and_then(|number| number.parse().ok());
        if let Some(number) = number {
            self.lock().waiting.remove(&number);
        }
        true
    }

    fn add(&self, now: Timestamp) -> u64 {
        let mut state = self.lock();
        state.last_number += 1;
        let number = state.last_number;
        state.waiting.insert(number, now);
        number
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A guard for a nested request. Dropping the guard checks that the request did not wait too long
/// to be sent.
struct NestedRequest<'a> {
    transport: &'a ClientTransport,
    number: u64,
}

impl Drop for NestedRequest<'_> {
    fn drop(&mut self) {
        let network = &self.transport.network;
        let made_at = network.nested_requests.lock().waiting.remove(&self.number);
        let now = network.clock.now();
        if let Some(waited) = made_at.map(|made_at| now.since(made_at))
            && waited > MAX_WAIT
        {
            let text = format!(
                "a nested request of client {} was neither sent nor failed for {waited:?}",
                self.transport.client
            );
            network.monitor.report(Invariant::NestedRequests, text);
        }
    }
}

impl ClientTransport {
    /// Makes a request of the route class `class` from within a transport layer that sends another
    /// request, and waits for its response.
    pub(crate) fn make_nested_request(&self, class: RouteClass) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let session = self.session.get().and_then(Weak::upgrade);
            let Some(session) = session.filter(|_| NestedMark::here().is_inside()) else {
                return;
            };
            let now = self.network.clock.now();
            let number = self.network.nested_requests.add(now);
            let _guard = NestedRequest {
                transport: self,
                number,
            };
            let mut call = Call::get(routes::CAPABILITIES, class);
            call.headers.insert(NESTED, HeaderValue::from(number));
            call.policy = CallPolicy::ONCE;
            call.deadline = Some(now.after(DEADLINE));
            let mut response = Box::pin(session.caller().call(call));
            let is_marked = self.network.control != Some(Control::NestedDeadlock);
            let response = poll_fn(|cx| match is_marked {
                true => response.as_mut().poll(cx),
                false => self.outermost.during(|| response.as_mut().poll(cx)),
            });
            // The transport layer does not use the response.
            let _ = response.await;
        })
    }
}
