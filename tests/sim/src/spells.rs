//! Starts what is planned to happen at a time of the run.

use std::sync::Arc;
use std::time::Duration;

use tinkers_core::{Clock, Timestamp};

use crate::caller::Client;
use crate::executor::Executor;
use crate::fault::Kind;
use crate::stage::Stage;
use crate::world::LATEST_POLL;

/// Starts a task for each spell of the plan.
pub(crate) fn start(stage: &Stage, clients: &[Arc<Client>], executor: &Executor) {
    let clock = &stage.network.clock;

    for spell in stage.network.misfortune.spells().to_vec() {
        let server = stage.network.server.server().clone();
        let sleep = clock.sleep_until(Timestamp::from_origin(spell.from));
        let trace = stage.network.trace.clone();
        let client = spell.client.and_then(|client| clients.get(client));
        let client = client.map(Arc::clone);
        let (executor, clock) = (executor.clone(), clock.clone());
        let begins = async move {
            sleep.await;
            trace.note(format_args!("{} for {:?}", spell.kind.name(), spell.lasts));
            match spell.kind {
                Kind::Capacity => server.pause_capacity(spell.lasts),
                Kind::Restart => server.restart(),
                Kind::Busy => {
                    let until = clock.now().after(spell.lasts);
                    executor.delay_client(LATEST_POLL);
                    clock.sleep_until(until).await;
                    executor.delay_client(Duration::ZERO);
                }
                Kind::Close => {
                    if let Some(client) = client {
                        client.close().await;
                    }
                }
                _ => {}
            }
        };
        let side = match spell.kind {
            Kind::Close => &stage.caller_side,
            _ => &stage.server_side,
        };
        side.spawn(Box::pin(begins)).detach();
    }
}
