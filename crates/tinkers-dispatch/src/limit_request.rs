//! The limits that apply to all clients of a limiter: the strictest of those that the clients request.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tinkers_core::Clock;

use crate::class_limiter::ClassLimiter;
use crate::settings::LimiterSettings;
use crate::sync::{AtomicU64, Mutex, Ordering, lock};

/// A request for limits by one client of a shared limiter. Of each limit, the strictest value that any client requests applies to all
/// clients. The request ends when this value is dropped.
#[derive(Debug)]
#[must_use = "dropping it withdraws the request"]
pub struct LimitRequest {
    limits: Arc<SharedLimits>,
    id: u64,
    clock: Arc<dyn Clock>,
}

impl LimitRequest {
    pub(crate) fn new(
        limits: Arc<SharedLimits>,
        settings: LimiterSettings,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let id = limits.add(settings);
        let request = Self { limits, id, clock };
        request.apply();
        request
    }

    /// Replaces the requested limits by `settings`, for example by those in the server's configuration.
    pub fn replace(&self, settings: LimiterSettings) {
        lock(&self.limits.requests).by_id.insert(self.id, settings);
        self.apply();
    }

    fn apply(&self) {
        self.limits.apply(&*self.clock);
    }
}

impl Drop for LimitRequest {
    fn drop(&mut self) {
        lock(&self.limits.requests).by_id.remove(&self.id);
        self.apply();
    }
}

/// The limiters of the route classes, and the limits that clients have requested for them.
#[derive(Debug)]
pub(crate) struct SharedLimits {
    pub(crate) limiters: [Arc<ClassLimiter>; 4],
    pub(crate) max_hint: Arc<MaxHint>,
    /// The limits that apply while no client requests any limits.
    default: LimiterSettings,
    requests: Mutex<Requests>,
}

#[derive(Debug, Default)]
struct Requests {
    by_id: BTreeMap<u64, LimiterSettings>,
    last_id: u64,
}

/// The maximum time for which one refusal (429 response) closes a gate, in nanoseconds. It changes when clients request other limits.
#[derive(Debug)]
pub(crate) struct MaxHint(AtomicU64);

impl MaxHint {
    fn new(longest: Duration) -> Self {
        let max_hint = Self(AtomicU64::new(0));
        max_hint.set(longest);
        max_hint
    }

    fn set(&self, longest: Duration) {
        let nanos = u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX);
        self.0.store(nanos, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

impl SharedLimits {
    pub(crate) fn new(limiters: [Arc<ClassLimiter>; 4], default: LimiterSettings) -> Self {
        Self {
            limiters,
            max_hint: Arc::new(MaxHint::new(default.max_hint)),
            default,
            requests: Mutex::new(Requests::default()),
        }
    }

    /// Returns the limits that apply: of each limit, the strictest value that any client requests.
    fn effective(&self) -> LimiterSettings {
        let requests = lock(&self.requests);
        let strictest = requests
            .by_id
            .values()
            .copied()
            .reduce(LimiterSettings::stricter);
        strictest.unwrap_or(self.default)
    }

    fn add(&self, settings: LimiterSettings) -> u64 {
        let mut requests = lock(&self.requests);
        requests.last_id += 1;
        let id = requests.last_id;
        let differs = requests.by_id.values().any(|other| *other != settings);
        requests.by_id.insert(id, settings);
        drop(requests);
        if differs {
            tracing::warn!(
                "clients of one server and key request different limits; the strictest value of each applies to all of them"
            );
        }
        id
    }

    /// Applies the strictest requested limits to the limiters. Another thread may apply older limits at the same time, so the loop compares
    /// again afterwards: whichever thread is last leaves the current limits.
    fn apply(&self, clock: &dyn Clock) {
        let mut effective = self.effective();
        loop {
            self.max_hint.set(effective.max_hint);
            for limiter in &self.limiters {
                limiter.resize(effective.of(limiter.class), clock.now());
            }
            let current = self.effective();
            if current == effective {
                return;
            }
            effective = current;
        }
    }
}
