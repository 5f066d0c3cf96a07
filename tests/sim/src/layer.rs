//! A transport layer of the caller's that makes requests of its own.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use tinkers::wire::routes;
use tinkers_core::nesting::Mark;
use tinkers_core::retry::Policy;
use tinkers_core::{BoxFuture, Call, Clock, HttpRequest, RouteClass, Timestamp};

use crate::control::Control;
use crate::network::Way;
use crate::watch::Rule;

/// Marks a request of a layer, with its number.
const NESTED: HeaderName = HeaderName::from_static("x-nested");
/// A request of a layer leaves, or fails, within this. Tasks are polled late on a busy runtime.
const AT_ONCE: Duration = Duration::from_secs(10);
/// The layer waits for its answer no longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Requests of layers that have not left yet, by their numbers.
#[derive(Debug, Default)]
pub struct Layers(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    next: u64,
    asked: BTreeMap<u64, Timestamp>,
}

impl Layers {
    /// Whether a request is a layer's. One that is has left.
    pub(crate) fn leaves(&self, request: &HttpRequest) -> bool {
        let Some(number) = request.headers.get(NESTED) else {
            return false;
        };
        let number = number.to_str().ok().and_then(|number| number.parse().ok());
        if let Some(number) = number {
            self.lock().asked.remove(&number);
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request of a layer, until it leaves or ends.
struct Asked<'a>(&'a Way, u64);

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let Self(way, number) = self;
        let network = &way.network;
        let asked = network.layers.lock().asked.remove(number);
        let now = network.clock.now();
        if let Some(waited) = asked.map(|asked| now.since(asked))
            && waited > AT_ONCE
        {
            let what = format!(
                "a request that a layer of client {} made neither left nor failed for {waited:?}",
                way.client
            );
            network.watch.report(Rule::Nested, what);
        }
    }
}

impl Way {
    /// Makes a request of `class`, as a layer does before it passes on what it was given.
    pub(crate) fn make_nested(&self, class: RouteClass) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let session = self.session.get().and_then(Weak::upgrade);
            let Some(session) = session.filter(|_| Mark::here().is_inside()) else {
                return;
            };
            let now = self.network.clock.now();
            let number = {
                let mut state = self.network.layers.lock();
                state.next += 1;
                let number = state.next;
                state.asked.insert(number, now);
                number
            };
            let _asked = Asked(self, number);
            let mut call = Call::get(routes::CAPABILITIES, class);
            call.headers.insert(NESTED, HeaderValue::from(number));
            call.policy = Policy::ONCE;
            call.deadline = Some(now.after(PATIENCE));
            let mut made = Box::pin(session.caller().call(call));
            let is_known = self.network.control != Some(Control::NestedWaits);
            let made = poll_fn(|cx| match is_known {
                true => made.as_mut().poll(cx),
                false => self.outside.during(|| made.as_mut().poll(cx)),
            });
            // What the layer makes of the answer is its own business.
            let _ = made.await;
        })
    }
}
