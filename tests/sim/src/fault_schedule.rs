//! Draws the faults of a plan: the probabilities of faults of single requests, and the periods of
//! timed faults.

use std::time::Duration;

use crate::fault::{Fault, FaultRates, TimedFault};
use crate::rng::Rng;

const MINUTE: Duration = Duration::from_secs(60);

/// Draws the probabilities of the faults that affect single requests. Each run has only a random
/// subset of these faults, because one fault can hide the effects of another.
pub(crate) fn rates(rng: &Rng) -> FaultRates {
    let mut rates = FaultRates::default();
    for fault in Fault::ALL {
        let (is_included, rate) = (rng.gen_bool(0.3), *rng.choose(&[0.01, 0.03, 0.1]));
        let rate = match fault {
            // These faults end an operation or delay it by minutes. They are rare, so that the
            // other faults meet pending operations.
            Fault::Conflict409
            | Fault::Gone410
            | Fault::Html
            | Fault::Truncated
            | Fault::LayerPanic
            | Fault::JobFailure
            | Fault::LogPanic
            | Fault::RateLimitedLongHint => rate / 5.0,
            Fault::SlowConnect => rate * 3.0,
            Fault::NestedRequest => rate * 2.0,
            _ => rate,
        };
        if is_included && !fault.is_timed() {
            rates.0.push((fault, rate));
        }
    }
    rates
}

/// Draws the faults of the server and the network that last for a period of the run.
pub(crate) fn server_faults(
    rng: &Rng,
    faults_end: Duration,
    clients: usize,
    expiry: Duration,
) -> Vec<TimedFault> {
    let mut faults = Vec::new();
    for (fault, probability, longest) in [
        (Fault::Partition, 0.4, 2 * expiry),
        (Fault::Capacity, 0.3, 15 * MINUTE),
        (Fault::Outage, 0.3, 10 * MINUTE),
        (Fault::Restart, 0.25, 3 * MINUTE),
    ] {
        for _ in 0..2 {
            let timed = TimedFault {
                fault,
                start: start(rng, faults_end, 900),
                duration: rng.duration(Duration::from_secs(1), longest),
                client: (fault == Fault::Partition && rng.gen_bool(0.5))
                    .then(|| client(rng, clients)),
            };
            if rng.gen_bool(probability) {
                faults.push(timed);
            }
        }
    }
    faults
}

/// Draws the timed faults of the executor (late polls of tasks) and of the simulated programs
/// (closing a session, submitting many samples at once).
pub(crate) fn runtime_faults(rng: &Rng, faults_end: Duration, clients: usize) -> Vec<TimedFault> {
    let mut faults = Vec::new();
    for (fault, probability, longest) in [
        (Fault::BusyRuntime, 0.3, 20 * MINUTE),
        (Fault::CloseSession, 0.3, Duration::ZERO),
        (Fault::Burst, 0.04, Duration::ZERO),
    ] {
        let timed = TimedFault {
            fault,
            start: start(rng, faults_end, 900),
            duration: rng.duration(Duration::ZERO, longest),
            client: (fault != Fault::BusyRuntime).then(|| client(rng, clients)),
        };
        if rng.gen_bool(probability) {
            faults.push(timed);
        }
    }
    faults
}

/// Draws the faults of shared polls that last for a period of the run, and the times at which
/// clients submit many calls.
pub(crate) fn client_faults(rng: &Rng, faults_end: Duration, clients: usize) -> Vec<TimedFault> {
    let mut faults = Vec::new();
    for (fault, probability, shortest, longest) in [
        (Fault::SharedPollOutage, 0.25, MINUTE, 20 * MINUTE),
        (Fault::StaleCursor, 0.2, MINUTE, 20 * MINUTE),
        (Fault::GarbledAck, 0.2, MINUTE, 30 * MINUTE),
        (Fault::ConcurrentBursts, 0.04, MINUTE, 4 * MINUTE),
        (Fault::LongQueue, 0.08, 10 * MINUTE, 20 * MINUTE),
    ] {
        let client = client(rng, clients);
        let timed = TimedFault {
            fault,
            start: start(rng, faults_end, 800),
            duration: rng.duration(shortest, longest),
            client: (fault != Fault::ConcurrentBursts).then_some(client),
        };
        if rng.gen_bool(probability) {
            faults.push(timed);
        }
    }
    faults
}

/// Draws the start time of a fault: a time between zero and `permille` thousandths of `faults_end`.
fn start(rng: &Rng, faults_end: Duration, permille: u64) -> Duration {
    faults_end.mul_f64(rng.below(permille) as f64 / 1000.0)
}

fn client(rng: &Rng, clients: usize) -> usize {
    rng.below(clients as u64) as usize
}
