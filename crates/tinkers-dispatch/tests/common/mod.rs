//! A limiter with a manual clock, admissions that are polled by hand, and admission requests.
#![expect(
    dead_code,
    reason = "each test file is a program of its own and uses a part"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use tinkers_core::{
    Admission, AdmissionRequest, Admitted, Arrival, AttemptOutcome, BoxFuture, ClientId, Clock,
    Cost, Error, FixedJitter, ManualClock, Readmission, RouteClass, Timestamp,
};
use tinkers_dispatch::{
    ClassSettings, ClassSnapshot, GateSnapshot, LimitRequest, Limiter, LimiterAdmission,
    LimiterSettings,
};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const NANO: Duration = Duration::from_nanos(1);

/// A limiter under test, with a clock that the test advances by hand.
pub(crate) struct Bench {
    pub(crate) clock: ManualClock,
    pub(crate) limiter: Arc<Limiter>,
    pub(crate) admission: Arc<LimiterAdmission>,
}

impl Bench {
    pub(crate) fn new(settings: LimiterSettings) -> Self {
        let clock = ManualClock::new();
        let limiter = Arc::new(Limiter::new(settings));
        let admission =
            Arc::new(limiter.admission(Arc::new(clock.clone()), Arc::new(FixedJitter(0.0))));
        Self {
            clock,
            limiter,
            admission,
        }
    }

    /// Creates a limiter with these limits for samples, and default limits for other classes.
    pub(crate) fn sampling(slots: u32, bytes: u64, max_in_flight: u32) -> Self {
        Self::new(LimiterSettings {
            sample: ClassSettings {
                slots,
                bytes: Some(bytes),
                max_in_flight: Some(max_in_flight),
                rate: None,
            },
            ..LimiterSettings::default()
        })
    }

    /// Requests admission, and polls the resulting future once. Returns the future.
    pub(crate) fn ask(&self, ask: AdmissionRequest) -> Waiting {
        let admission = Arc::clone(&self.admission);
        let mut waiting = Waiting::new(Box::pin(async move { admission.admit(ask).await }));
        waiting.poll();
        waiting
    }

    /// Returns the permits of a request that must be admitted at once.
    pub(crate) fn admit(&self, ask: AdmissionRequest) -> Admitted {
        self.ask(ask).admitted()
    }

    pub(crate) fn state(&self, class: RouteClass) -> ClassSnapshot {
        self.limiter
            .class_snapshot(class)
            .expect("a class with limits")
    }

    pub(crate) fn sample(&self) -> ClassSnapshot {
        self.state(RouteClass::Sample)
    }

    /// Returns the time at which the gate for sampling requests may open. The gate must be closed.
    pub(crate) fn opens_at(&self) -> Timestamp {
        match self.sample().gate {
            GateSnapshot::ClosedUntil(at) => at,
            other => panic!("{other:?}"),
        }
    }

    /// Requests limits for all clients of the limiter.
    pub(crate) fn request_limits(&self, settings: LimiterSettings) -> LimitRequest {
        self.limiter
            .request_limits(settings, Arc::new(self.clock.clone()))
    }

    pub(crate) fn at(&self, after: Duration) -> Timestamp {
        self.clock.now().after(after)
    }

    /// Asserts that no requests wait and that all permits were returned.
    pub(crate) fn assert_all_given_back(&self) {
        for class in RouteClass::ALL {
            if let Some(state) = self.limiter.class_snapshot(class) {
                let left = (state.waiting, state.slots, state.bytes, state.in_flight);
                assert_eq!(left, (0, 0, 0, 0), "{class:?}");
                assert_eq!(state.uncollected, 0, "{class:?}");
            }
        }
        assert_eq!(self.clock.sleepers(), 0);
    }
}

pub(crate) fn ask(class: RouteClass) -> AdmissionRequest {
    AdmissionRequest {
        class,
        client: ClientId(0),
        cost: Cost::default(),
        deadline: None,
        in_flight_permit: None,
        readmission: Readmission::New,
        is_nested: false,
    }
}

pub(crate) fn sample() -> AdmissionRequest {
    ask(RouteClass::Sample)
}

pub(crate) fn sample_of(bytes: u64) -> AdmissionRequest {
    AdmissionRequest {
        cost: Cost { bytes },
        ..sample()
    }
}

pub(crate) fn again() -> AdmissionRequest {
    AdmissionRequest {
        readmission: Readmission::AfterRefusal(Arrival::default()),
        ..sample()
    }
}

/// Ends a request as refused (429 response) with the retry delay `hint`, and gives its permits back to the limiter.
pub(crate) fn refuse(admitted: Admitted, hint: Option<Duration>) {
    let Admitted {
        permit,
        in_flight_permit,
        ..
    } = admitted;
    permit.settle(refused(hint));
    drop(in_flight_permit);
}

/// Ends a request as accepted, and gives its permits back to the limiter.
pub(crate) fn accept(admitted: Admitted) {
    let Admitted {
        permit,
        in_flight_permit,
        ..
    } = admitted;
    permit.settle(AttemptOutcome::Accepted);
    drop(in_flight_permit);
}

pub(crate) const fn refused(hint: Option<Duration>) -> AttemptOutcome {
    AttemptOutcome::Refused { hint }
}

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// The future of a request that asks for admission, polled by hand.
pub(crate) struct Waiting {
    future: Option<BoxFuture<'static, Result<Admitted, Error>>>,
    outcome: Option<Result<Admitted, Error>>,
    woken: Arc<Woken>,
}

impl Waiting {
    fn new(future: BoxFuture<'static, Result<Admitted, Error>>) -> Self {
        Self {
            future: Some(future),
            outcome: None,
            woken: Arc::default(),
        }
    }

    pub(crate) fn poll(&mut self) {
        let Some(future) = &mut self.future else {
            return;
        };
        let waker = Waker::from(Arc::clone(&self.woken));
        if let Poll::Ready(outcome) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            self.future = None;
            self.outcome = Some(outcome);
        }
    }

    /// Polls the future if it was woken since the last poll, as an executor would. Returns whether it was woken.
    pub(crate) fn run(&mut self) -> bool {
        let woken = self.woken.0.swap(0, Ordering::SeqCst) > 0;
        if woken {
            self.poll();
        }
        woken
    }

    pub(crate) fn is_waiting(&mut self) -> bool {
        self.run();
        self.outcome.is_none()
    }

    pub(crate) fn wakes(&self) -> usize {
        self.woken.0.load(Ordering::SeqCst)
    }

    pub(crate) fn admitted(mut self) -> Admitted {
        self.run();
        self.outcome
            .take()
            .expect("the admission is pending")
            .expect("the admission failed")
    }

    pub(crate) fn try_admitted(&mut self) -> Option<Admitted> {
        self.run();
        if matches!(self.outcome, Some(Ok(_))) {
            return self.outcome.take().and_then(Result::ok);
        }
        None
    }

    pub(crate) fn error(mut self) -> Error {
        self.run();
        self.outcome
            .take()
            .expect("the admission is pending")
            .expect_err("the request was admitted")
    }
}
