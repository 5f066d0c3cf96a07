//! What is measured: ours without and with its box, tokio's semaphore, and a lane under one mutex.

use std::future::Future;
use std::sync::Arc;
use std::time::SystemTime;

use tinkers_core::{Admission, Admitted, BoxFuture, Clock, FixedJitter, Settlement, Timestamp};
use tinkers_dispatch::{ClassSettings, Limiter, LimiterAdmission, LimiterSettings};
use tinkers_stress::limited::ask;
use tinkers_stress::watch::Stopwatch;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Lets a bounded number in.
pub(crate) trait Door: Clone + Send + Sync + 'static {
    /// What whoever is in holds.
    type Held: Send;

    /// A door for `limit` at once.
    fn new(limit: u32) -> Self;

    /// Waits for its turn.
    fn enter(&self) -> impl Future<Output = Self::Held> + Send;

    /// Gives everything back.
    fn leave(held: Self::Held);

    /// Wake-ups and grants, where it counts them.
    fn wakes(&self) -> Option<(u64, u64)> {
        None
    }
}

/// Ours, awaited without a box.
#[derive(Clone)]
pub(crate) struct Wait {
    limiter: Arc<Limiter>,
    admission: LimiterAdmission,
}

impl Door for Wait {
    type Held = Admitted;

    fn new(limit: u32) -> Self {
        let limiter = Arc::new(Limiter::new(LimiterSettings {
            sample: ClassSettings {
                slots: limit,
                bytes: Some(1 << 30),
                flights: Some(limit),
                rate: None,
            },
            ..LimiterSettings::default()
        }));
        let time = Arc::new(RealTime(Stopwatch::start()));
        let admission = limiter.admission(time, Arc::new(FixedJitter(0.0)));
        Self { limiter, admission }
    }

    async fn enter(&self) -> Admitted {
        let wait = self.admission.wait(ask(1)).expect("samples have a lane");
        wait.await.expect("without a deadline nothing fails")
    }

    fn leave(held: Admitted) {
        held.permit.settle(Settlement::Accepted);
        drop(held.flight);
    }

    fn wakes(&self) -> Option<(u64, u64)> {
        let counts = self.limiter.snapshot().sample.counts;
        Some((counts.wakes, counts.waits))
    }
}

/// Ours through the seam, with its box.
#[derive(Clone)]
pub(crate) struct Boxed(Wait);

impl Door for Boxed {
    type Held = Admitted;

    fn new(limit: u32) -> Self {
        Self(Wait::new(limit))
    }

    async fn enter(&self) -> Admitted {
        let admitted = self.0.admission.admit(ask(1)).await;
        admitted.expect("without a deadline nothing fails")
    }

    fn leave(held: Admitted) {
        Wait::leave(held);
    }

    fn wakes(&self) -> Option<(u64, u64)> {
        self.0.wakes()
    }
}

/// Tokio's.
#[derive(Clone)]
pub(crate) struct Tokio(Arc<Semaphore>);

impl Door for Tokio {
    type Held = OwnedSemaphorePermit;

    fn new(limit: u32) -> Self {
        Self(Arc::new(Semaphore::new(limit as usize)))
    }

    async fn enter(&self) -> OwnedSemaphorePermit {
        let permit = Arc::clone(&self.0).acquire_owned().await;
        permit.expect("nobody closes it")
    }

    fn leave(held: OwnedSemaphorePermit) {
        drop(held);
    }
}

/// The clock of the machine. Nothing sleeps in a benchmark of what is open.
#[derive(Debug)]
struct RealTime(Stopwatch);

impl Clock for RealTime {
    fn now(&self) -> Timestamp {
        Timestamp::from_origin(self.0.elapsed())
    }

    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.0.elapsed()
    }

    fn sleep_until(&self, _: Timestamp) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }
}
