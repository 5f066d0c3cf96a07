//! Checks that clients are admitted in turn, and that the samples of each client are admitted in
//! FIFO order.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tinkers::SessionContext;
use tinkers_core::{
    Admission, AdmissionRequest, Admitted, BoxFuture, ClientId, Clock, Error, InFlightPermit,
    Readmission, RouteClass, Timestamp,
};
use tinkers_dispatch::{ClassSnapshot, Limiter};

use crate::invariant::Invariant;
use crate::monitor::Monitor;
use crate::session_override::SessionOverride;

/// The maximum lead of one client over another that is still fair. The lead is the number of
/// samples of the first client that were admitted while a sample of the second client waited and
/// could have been admitted.
const MAX_LEAD: u32 = 3;
/// The maximum number of samples of a client that may be admitted before an earlier sample of the
/// same client that is still waiting.
const MAX_OVERTAKES: u32 = 3;

/// A monitor that checks whether the samples that wait for admission are admitted fairly. Clones
/// share their state.
#[derive(Debug, Clone)]
pub struct FairnessMonitor(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    monitor: Monitor,
    is_enabled: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last_number: u64,
    waiting: BTreeMap<QueueKey, BTreeMap<u64, WaitingSample>>,
    /// The lead of each client over each other client: the number of its samples that were admitted
    /// while the other client waited. The key consists of the client that waits and the client
    /// whose samples were admitted meanwhile.
    leads: BTreeMap<(ClientId, ClientId), u32>,
    /// The samples that were admitted at the timestamp `at`. They are evaluated only when the time
    /// advances, because tasks that are admitted at the same time run in any order, and because a
    /// 429 response may revoke the permits of tasks that have not run yet.
    admitted: Vec<AdmittedSample>,
    at: Timestamp,
    /// The number of 429 responses to samples before the timestamp `at`.
    refusals: u64,
}

#[derive(Debug)]
struct WaitingSample {
    since: Timestamp,
    /// The number of later samples of the same queue that were admitted before this sample.
    overtakes: u32,
}

#[derive(Debug)]
struct AdmittedSample {
    queue: QueueKey,
    /// The position number of the sample in its queue. `None` for the retry of a sample that the
    /// server refused with 429, because the retry keeps its earlier position in the queue.
    number: Option<u64>,
    /// Whether the in-flight limit would have allowed one more request at the admission of the
    /// sample. If not, only requests that already hold an in-flight permit could have been
    /// admitted.
    has_room: bool,
}

/// One of the two admission queues of a client: one for requests that already hold an in-flight
/// permit (one unit of the limit of requests in flight), and one for requests that do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct QueueKey {
    client: ClientId,
    is_in_flight: bool,
}

impl FairnessMonitor {
    /// Creates a monitor that reports unfair admissions to `monitor`. If `is_enabled` is `false`,
    /// it checks nothing.
    pub fn new(monitor: Monitor, is_enabled: bool) -> Self {
        Self(Arc::new(Shared {
            monitor,
            is_enabled,
            state: Mutex::default(),
        }))
    }

    /// Returns a session like `session` whose admissions this monitor observes.
    pub(crate) fn observe(
        &self,
        session: Arc<dyn SessionContext>,
        limiter: &Arc<Limiter>,
    ) -> Arc<dyn SessionContext> {
        if !self.0.is_enabled {
            return session;
        }
        let mut caller = session.caller().clone();
        caller.admission = Arc::new(ObservedAdmission {
            inner: Arc::clone(&caller.admission),
            fairness: self.clone(),
            clock: Arc::clone(&caller.time),
            limiter: Arc::clone(limiter),
        });
        Arc::new(SessionOverride {
            session,
            caller,
            spawner: None,
            always_retries: false,
        })
    }

    /// Records that a sample begins to wait for admission. The wait ends when the returned guard is
    /// dropped.
    fn enqueue(&self, queue: QueueKey, at: Timestamp, samples: &ClassSnapshot) -> WaitGuard {
        let mut state = self.state_at(at, samples);
        state.last_number += 1;
        let number = state.last_number;
        let sample = WaitingSample {
            since: at,
            overtakes: 0,
        };
        let waiting = state.waiting.entry(queue).or_default();
        waiting.insert(number, sample);
        WaitGuard {
            fairness: self.clone(),
            queue,
            number,
        }
    }

    /// Records that a sample has been admitted.
    fn admit(&self, admitted: AdmittedSample, at: Timestamp, samples: &ClassSnapshot) {
        self.state_at(at, samples).admitted.push(admitted);
    }

    /// Records that a sample no longer waits for admission, because it was admitted or cancelled.
    fn dequeue(&self, queue: QueueKey, number: u64) {
        let mut guard = self.lock();
        let state = &mut *guard;
        if let Some(waiting) = state.waiting.get_mut(&queue) {
            waiting.remove(&number);
            if waiting.is_empty() {
                state.waiting.remove(&queue);
            }
        }
        if !state.is_waiting(queue.client) {
            state.leads.retain(|(waiter, _), _| *waiter != queue.client);
        }
    }

    /// Returns the state for the timestamp `at`. If the time has advanced since the last call,
    /// first evaluates the admissions of the previous timestamp.
    fn state_at(&self, at: Timestamp, samples: &ClassSnapshot) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        let refusals = samples.counts.refusals;
        if state.at < at {
            let admitted = std::mem::take(&mut state.admitted);
            if state.refusals == refusals {
                admitted
                    .iter()
                    .for_each(|sample| state.count_passed(sample));
            }
            for sample in &admitted {
                state.reduce_leads(sample.queue.client);
            }
            for text in state.violations() {
                self.0.monitor.report(Invariant::Fairness, text);
            }
            (state.at, state.refusals) = (at, refusals);
        }
        state
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_waiting(&self, client: ClientId) -> bool {
        let has_samples = |is_in_flight| {
            self.waiting.contains_key(&QueueKey {
                client,
                is_in_flight,
            })
        };
        has_samples(true) || has_samples(false)
    }

    /// Counts which waiting samples an admitted sample has passed. Each earlier sample in the same
    /// queue has been overtaken once more. The lead over each other client that waits grows by 1.
    fn count_passed(&mut self, admitted: &AdmittedSample) {
        let AdmittedSample {
            queue, has_room, ..
        } = *admitted;
        let at = self.at;
        if let Some(number) = admitted.number
            && let Some(waiting) = self.waiting.get_mut(&queue)
        {
            for (_, sample) in waiting.range_mut(..number) {
                sample.overtakes += u32::from(sample.since < at);
            }
        }
        let is_passed = |(other, waiting): &(&QueueKey, &BTreeMap<u64, WaitingSample>)| {
            other.client != queue.client
                && (other.is_in_flight || !queue.is_in_flight || has_room)
                && waiting.values().any(|sample| sample.since < at)
        };
        let passed = self.waiting.iter().filter(is_passed);
        let passed: BTreeSet<ClientId> = passed.map(|(other, _)| other.client).collect();
        for other in passed {
            *self.leads.entry((other, queue.client)).or_default() += 1;
        }
    }

    /// Reduces the lead of each other client over `client` by 1, because a sample of `client` was
    /// admitted.
    fn reduce_leads(&mut self, client: ClientId) {
        for ((waiter, _), lead) in &mut self.leads {
            if *waiter == client {
                *lead = lead.saturating_sub(1);
            }
        }
    }

    /// Describes all violations of fairness, and resets the leads and the numbers of overtakes that
    /// exceeded their maximum.
    fn violations(&mut self) -> Vec<String> {
        let (at, mut violations) = (self.at, Vec::new());
        for ((waiter, leader), lead) in &mut self.leads {
            if *lead > MAX_LEAD {
                violations.push(format!(
                    "{lead} more samples of {leader:?} than of the waiting {waiter:?} were admitted by {at:?}"
                ));
                *lead = 0;
            }
        }
        for (queue, waiting) in &mut self.waiting {
            for (number, sample) in waiting {
                if sample.overtakes > MAX_OVERTAKES {
                    let (overtakes, client) = (sample.overtakes, queue.client);
                    violations.push(format!(
                        "{overtakes} later samples of {client:?} were admitted before the waiting sample {number} by {at:?}"
                    ));
                    sample.overtakes = 0;
                }
            }
        }
        violations
    }
}

/// A guard for a sample that waits for admission. Dropping it records that the sample no longer
/// waits.
#[derive(Debug)]
struct WaitGuard {
    fairness: FairnessMonitor,
    queue: QueueKey,
    number: u64,
}

impl Drop for WaitGuard {
    fn drop(&mut self) {
        self.fairness.dequeue(self.queue, self.number);
    }
}

/// A wrapper around the [`Admission`] of the rate limiter that reports waiting and admitted samples
/// to a [`FairnessMonitor`].
#[derive(Debug)]
struct ObservedAdmission {
    inner: Arc<dyn Admission>,
    fairness: FairnessMonitor,
    clock: Arc<dyn Clock>,
    limiter: Arc<Limiter>,
}

impl Admission for ObservedAdmission {
    fn admit(&self, request: AdmissionRequest) -> BoxFuture<'_, Result<Admitted, Error>> {
        if request.class != RouteClass::Sample || request.is_nested {
            return self.inner.admit(request);
        }
        let in_flight = request.in_flight_permit.as_ref();
        let queue = QueueKey {
            client: request.client,
            is_in_flight: in_flight.is_some_and(InFlightPermit::is_counted),
        };
        let is_new = request.readmission == Readmission::New;
        let mut admission = self.inner.admit(request);
        Box::pin(async move {
            let samples = || self.limiter.snapshot().sample;
            let mut wait = None;
            let result = poll_fn(|cx| {
                let polled = admission.as_mut().poll(cx);
                if polled.is_pending() && wait.is_none() {
                    wait = Some(self.fairness.enqueue(queue, self.clock.now(), &samples()));
                }
                polled
            })
            .await;
            if result.is_ok() {
                let samples = samples();
                // A sample that is admitted without waiting counts as the last one in its queue.
                let number = wait.as_ref().map_or(u64::MAX, |wait| wait.number);
                let admitted = AdmittedSample {
                    queue,
                    number: is_new.then_some(number),
                    has_room: samples.limit.is_none_or(|limit| samples.in_flight < limit),
                };
                self.fairness.admit(admitted, self.clock.now(), &samples);
            }
            result
        })
    }

    fn last_queue_progress(&self, class: RouteClass) -> Option<Timestamp> {
        self.inner.last_queue_progress(class)
    }

    fn closed_until(&self, class: RouteClass) -> Option<Timestamp> {
        self.inner.closed_until(class)
    }

    fn next_closure(&self, class: RouteClass) -> BoxFuture<'static, ()> {
        self.inner.next_closure(class)
    }
}
