//! Faults of the user's log subscriber: it panics, or reads the state of the client.

use std::panic::resume_unwind;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use tinkers_core::{Clock, RouteClass, Timestamp};

use crate::fault::Fault;
use crate::harness::Harness;
use crate::invariant::Invariant;

/// The time, on the real clock, within which another thread must be able to read the state of the
/// client while a log subscriber runs. If this takes longer, the thread that called the log
/// subscriber holds a lock.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// Draws a fault of the log subscriber after a log line of a client, and injects the fault, if any.
pub(crate) fn inject(harness: &Harness) {
    // A second panic would abort the process.
    if thread::panicking() {
        return;
    }
    match harness.network.injector.draw_for_log_line() {
        Some(Fault::LogPanic) => {
            harness.network.faulty_queue.lose_next_wake_up();
            // `resume_unwind` bypasses the panic hook, which would print the panic.
            resume_unwind(Box::new("the log subscriber panicked"));
        }
        Some(Fault::LogReentry) => read_state(harness),
        _ => {}
    }
}

/// Reads the parts of the client's state that locks protect. Reads them on another thread, so that
/// a lock held by the current thread is detected.
fn read_state(harness: &Harness) {
    let network = &harness.network;
    let endpoint = harness.lock_endpoint().clone();
    let is_needed = !network
        .monitor
        .has_violation(Invariant::SubscriberReentrancy);
    let Some(endpoint) = endpoint.filter(|_| is_needed) else {
        return;
    };
    let limiter = Arc::clone(endpoint.limiter());
    let outages = Arc::clone(endpoint.outages());
    let faulty_queue = Arc::clone(&network.faulty_queue);
    let now = network.clock.now();
    let (sender, receiver) = mpsc::channel();
    let reader = thread::spawn(move || {
        limiter.snapshot();
        for class in RouteClass::ALL {
            // This reports a response to a request that was sent before all failures, so it changes
            // nothing.
            outages.of(class).answered(Timestamp::ORIGIN, now);
        }
        faulty_queue.wait_for_lock();
        drop((limiter, outages, faulty_queue));
        let _ = sender.send(());
    });
    match receiver.recv_timeout(LOCK_TIMEOUT) {
        Ok(()) => drop(reader.join()),
        Err(_) => network.monitor.report(
            Invariant::SubscriberReentrancy,
            "a log subscriber that reads the state of the limiter deadlocks",
        ),
    }
}
