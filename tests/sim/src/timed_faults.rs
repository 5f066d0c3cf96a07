//! Starts the timed faults of a run.

use std::sync::Arc;
use std::time::Duration;

use tinkers_core::{Clock, Timestamp};

use crate::executor::Executor;
use crate::fault::Fault;
use crate::harness::Harness;
use crate::program::Client;
use crate::simulation::MAX_POLL_DELAY;

/// Starts a task for each fault of the plan that lasts for a period. The task waits for the start
/// time, and then starts and later ends the fault.
pub(crate) fn start(harness: &Harness, clients: &[Arc<Client>], executor: &Executor) {
    let clock = &harness.network.clock;
    for timed in harness.plan.timed_faults.clone() {
        let server = harness.network.server.server().clone();
        let sleep = clock.sleep_until(Timestamp::from_origin(timed.start));
        let trace = harness.network.trace.clone();
        let client = timed.client.and_then(|client| clients.get(client));
        let client = client.map(Arc::clone);
        let (executor, clock) = (executor.clone(), clock.clone());
        let work = async move {
            sleep.await;
            let (name, duration) = (timed.fault.name(), timed.duration);
            trace.push(format_args!("{name} for {duration:?}"));
            match timed.fault {
                Fault::Capacity => server.pause_capacity(duration),
                Fault::Restart => server.restart(),
                Fault::BusyRuntime => {
                    let end = clock.now().after(duration);
                    executor.delay_client_tasks(MAX_POLL_DELAY);
                    clock.sleep_until(end).await;
                    executor.delay_client_tasks(Duration::ZERO);
                }
                Fault::CloseSession => {
                    if let Some(client) = client {
                        client.close().await;
                    }
                }
                _ => {}
            }
        };
        let spawner = match timed.fault {
            Fault::CloseSession => &harness.program_spawner,
            _ => &harness.server_spawner,
        };
        spawner.spawn(Box::pin(work)).detach();
    }
}
