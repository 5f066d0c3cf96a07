//! The limiters that the benchmark compares: the limiter of tinkers, with and without boxed
//! futures, and the semaphore of tokio.

use std::future::Future;
use std::sync::Arc;
use std::time::SystemTime;

use tinkers_core::{Admission, Admitted, AttemptOutcome, BoxFuture, Clock, FixedJitter, Timestamp};
use tinkers_dispatch::{ClassSettings, Limiter, LimiterAdmission, LimiterSettings};
use tinkers_stress::limiter_subject::sample_request;
use tinkers_stress::stopwatch::Stopwatch;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A concurrency limiter whose CPU time per operation the benchmark measures and compares with that
/// of the other limiters.
pub(crate) trait Contender: Clone + Send + Sync + 'static {
    /// The type of the permits that this limiter grants.
    type Permit: Send;

    /// Creates a limiter with `limit` permits.
    fn new(limit: u32) -> Self;

    /// Waits for a permit.
    fn acquire(&self) -> impl Future<Output = Self::Permit> + Send;

    /// Releases a permit.
    fn release(held: Self::Permit);

    /// Returns two counts since the creation of the limiter: the wake-ups of waiting tasks, and the
    /// acquisitions that had to wait. Returns `None` if the limiter does not count them.
    fn wakes(&self) -> Option<(u64, u64)> {
        None
    }
}

/// The limiter of the client library, called without the `Admission` trait, so that its futures are
/// not boxed.
#[derive(Clone)]
pub(crate) struct UnboxedLimiter {
    limiter: Arc<Limiter>,
    admission: LimiterAdmission,
}

impl Contender for UnboxedLimiter {
    type Permit = Admitted;

    fn new(limit: u32) -> Self {
        let limiter = Arc::new(Limiter::new(LimiterSettings {
            sample: ClassSettings {
                slots: limit,
                bytes: Some(1 << 30),
                max_in_flight: Some(limit),
                rate: None,
            },
            ..LimiterSettings::default()
        }));
        let time = Arc::new(RealTime(Stopwatch::start()));
        let admission = limiter.admission(time, Arc::new(FixedJitter(0.0)));
        Self { limiter, admission }
    }

    async fn acquire(&self) -> Admitted {
        let wait = self
            .admission
            .wait(sample_request(1))
            .expect("samples are limited");
        wait.await
            .expect("admission without a deadline does not fail")
    }

    fn release(held: Admitted) {
        held.permit.settle(AttemptOutcome::Accepted);
        drop(held.in_flight_permit);
    }

    fn wakes(&self) -> Option<(u64, u64)> {
        let counts = self.limiter.snapshot().sample.counts;
        Some((counts.wakes, counts.waits))
    }
}

/// The limiter of the client library, called through the `Admission` trait, which boxes the
/// futures.
#[derive(Clone)]
pub(crate) struct BoxedLimiter(UnboxedLimiter);

impl Contender for BoxedLimiter {
    type Permit = Admitted;

    fn new(limit: u32) -> Self {
        Self(UnboxedLimiter::new(limit))
    }

    async fn acquire(&self) -> Admitted {
        let admitted = self.0.admission.admit(sample_request(1)).await;
        admitted.expect("admission without a deadline does not fail")
    }

    fn release(held: Admitted) {
        UnboxedLimiter::release(held);
    }

    fn wakes(&self) -> Option<(u64, u64)> {
        self.0.wakes()
    }
}

/// The semaphore of tokio, used as a limiter.
#[derive(Clone)]
pub(crate) struct TokioSemaphore(Arc<Semaphore>);

impl Contender for TokioSemaphore {
    type Permit = OwnedSemaphorePermit;

    fn new(limit: u32) -> Self {
        Self(Arc::new(Semaphore::new(limit as usize)))
    }

    async fn acquire(&self) -> OwnedSemaphorePermit {
        let permit = Arc::clone(&self.0).acquire_owned().await;
        permit.expect("the semaphore is never closed")
    }

    fn release(held: OwnedSemaphorePermit) {
        drop(held);
    }
}

/// A clock that reads the real time, for the limiter of the client library. The benchmark never
/// sleeps on it.
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
