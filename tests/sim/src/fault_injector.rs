//! Draws the faults of requests, jobs and log lines, and counts them.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tinkers_core::{Clock, ManualClock};

use crate::coverage::Coverage;
use crate::fault::{Fault, FaultRates, TimedFault};
use crate::op::Op;
use crate::plan::{CallKind, HandleUse, Plan};
use crate::rng::Rng;

/// The probability that a sample submission fails during [`Fault::ConcurrentBursts`].
const BURST_FAILURES: f64 = 0.3;

/// The source of the injected faults of a run. It draws the faults at random and counts them.
#[derive(Debug)]
pub struct FaultInjector {
    clock: ManualClock,
    request_rng: Rng,
    job_rng: Rng,
    log_rng: Rng,
    rates: FaultRates,
    timed_faults: Vec<TimedFault>,
    faults_end: Duration,
    deduplicates: bool,
    coverage: Mutex<Coverage>,
    /// The operation of the request that completed last. An injected fault of the log subscriber is
    /// counted as a fault of this operation.
    last_op: Mutex<Op>,
}

/// The properties of a request that determine which faults can be injected into it.
#[derive(Debug, Clone, Copy)]
pub struct RequestInfo {
    /// The operation of the request.
    pub op: Op,
    /// The index of the client that sends the request.
    pub client: usize,
    /// Whether the request is a heartbeat. Heartbeats do not pass through transport layers.
    pub is_heartbeat: bool,
    /// Whether the request is a shared poll (a poll for all results of a sampling client) that only
    /// acknowledges received results.
    pub is_acknowledgement: bool,
    /// Whether a transport layer made the request while it was sending another request.
    pub is_nested: bool,
}

impl FaultInjector {
    /// Creates an injector that draws the faults of `plan`.
    pub fn new(plan: &Plan, clock: ManualClock, rng: &Rng) -> Self {
        Self {
            clock,
            request_rng: rng.fork(1),
            job_rng: rng.fork(2),
            log_rng: rng.fork(3),
            rates: plan.rates.clone(),
            timed_faults: plan.timed_faults.clone(),
            faults_end: plan.faults_end,
            deduplicates: plan.server.deduplicates,
            coverage: Mutex::default(),
            last_op: Mutex::new(Op::Config),
        }
    }

    /// Draws the fault to inject into a request that is about to be sent. Returns `None` if the
    /// request gets no fault.
    pub fn draw(&self, request: RequestInfo) -> Option<Fault> {
        let RequestInfo { op, client, .. } = request;
        let now = self.clock.now().since_origin();
        let unit = self.request_rng.unit();
        let mut active = self
            .timed_faults
            .iter()
            .filter(|timed| timed.is_active(now, client));
        if active
            .clone()
            .any(|timed| timed.fault == Fault::BusyRuntime)
        {
            self.record(Fault::BusyRuntime, op);
        }
        let timed = active.find(|timed| {
            timed.fault.is_of_requests()
                && timed.fault.affects(op)
                && match timed.fault {
                    Fault::GarbledAck => request.is_acknowledgement,
                    Fault::ConcurrentBursts => unit < BURST_FAILURES,
                    _ => true,
                }
        });
        let fault = match timed {
            Some(timed) => Some(timed.fault),
            None if self.is_over() => None,
            None => self.rates.select(op, unit),
        };
        fault.filter(|fault| match fault {
            Fault::NestedRequest => !request.is_heartbeat && !request.is_nested,
            fault if fault.is_of_layer() => !request.is_heartbeat,
            // Without deduplication, a repeated submission must be the fault of the client, so the
            // network does not cause one.
            Fault::Duplicate => self.deduplicates || !op.is_submission(),
            fault => fault.is_of_requests(),
        })
    }

    /// Draws the fault of the log subscriber to inject after a log line of a client. Returns `None`
    /// to inject no fault.
    pub fn draw_for_log_line(&self) -> Option<Fault> {
        if self.is_over() {
            return None;
        }
        let is_of_log = |fault| matches!(fault, Fault::LogPanic | Fault::LogReentry);
        let fault = self.rates.select_where(self.log_rng.unit(), is_of_log)?;
        let op = *self.last_op.lock().unwrap_or_else(PoisonError::into_inner);
        if fault.affects(op) {
            self.record(fault, op);
        }
        Some(fault)
    }

    /// Draws whether a job for the operation `op` fails in the engine.
    pub fn draw_job_failure(&self, op: Op) -> bool {
        if self.is_over() {
            return false;
        }
        let rate = self.rates.of(Fault::JobFailure);
        let fails = rate.is_some_and(|rate| self.job_rng.unit() < rate);
        if fails {
            self.record(Fault::JobFailure, op);
        }
        fails
    }

    /// Records the operation of the request that has just completed, for counting faults of the log
    /// subscriber.
    pub fn set_last_op(&self, op: Op) {
        *self.last_op.lock().unwrap_or_else(PoisonError::into_inner) = op;
    }

    /// Counts a fault that was injected into a request of the operation `op`.
    pub fn record(&self, fault: Fault, op: Op) {
        self.lock().record_fault(fault, op);
    }

    /// Counts a request that waited for a connection and was then not sent, because a 429 response
    /// had meanwhile stopped the requests of its route class.
    pub fn record_held(&self, op: Op) {
        self.lock().record_held(op);
    }

    /// Counts a way in which the program has used the handle of a call (the future of its result),
    /// such as awaiting or dropping it.
    pub fn record_handle_use(&self, handle_use: HandleUse, kind: CallKind) {
        self.lock().record_handle_use(handle_use, kind);
    }

    /// Returns the counts of injected faults, handle uses and errors in this run so far.
    pub fn coverage(&self) -> Coverage {
        self.lock().clone()
    }

    /// Returns whether the run has passed the time at which the injection of faults ends.
    fn is_over(&self) -> bool {
        self.clock.now().since_origin() >= self.faults_end
    }

    fn lock(&self) -> MutexGuard<'_, Coverage> {
        self.coverage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
