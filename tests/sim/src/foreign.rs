//! A log subscriber of the caller's that panics, or calls back and waits for it.

use std::panic::resume_unwind;
use std::sync::{Arc, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use tinkers_core::{Clock, RouteClass, Timestamp};

use crate::fault::Kind;
use crate::stage::Stage;
use crate::watch::Rule;

/// How long the subscriber waits, in real time, before it takes a lock for held by the thread that called it.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the subscriber does after a line of a client.
pub(crate) fn logged(stage: &Stage) {
    if thread::panicking() {
        // A second panic would end the process.
        return;
    }
    match stage.network.misfortune.log() {
        Some(Kind::LogPanics) => {
            stage.network.old_turns.lose_a_wake_up();
            // Without the hook, which would print it.
            resume_unwind(Box::new("the log subscriber panicked"));
        }
        Some(Kind::LogReenters) => call_back(stage),
        _ => {}
    }
}

/// Reads what is guarded by locks of the client, on another thread, so that one that this thread holds is found and not waited for.
fn call_back(stage: &Stage) {
    let network = &stage.network;
    let endpoint = {
        let endpoint = stage.endpoint.lock();
        endpoint.unwrap_or_else(PoisonError::into_inner).clone()
    };
    let Some(endpoint) = endpoint.filter(|_| !network.watch.has_found(Rule::Foreign)) else {
        return;
    };
    let (limiter, outages) = (
        Arc::clone(endpoint.limiter()),
        Arc::clone(endpoint.outages()),
    );
    let old_turns = Arc::clone(&network.old_turns);
    let now = network.clock.now();
    let (sender, receiver) = mpsc::channel();
    let reader = thread::spawn(move || {
        limiter.snapshot();
        for class in RouteClass::ALL {
            // Of a request that left before any failure: it looks at the state and changes nothing.
            outages.of(class).answered(Timestamp::ORIGIN, now);
        }
        old_turns.look();
        drop((limiter, outages, old_turns));
        let _ = sender.send(());
    });
    match receiver.recv_timeout(PATIENCE) {
        Ok(()) => drop(reader.join()),
        Err(_) => network.watch.report(
            Rule::Foreign,
            "a log subscriber that reads the state of the limits would wait for ever",
        ),
    }
}
