//! The management of runs, checkpoints and sessions against the embedded server.
#![expect(
    clippy::disallowed_methods,
    reason = "the time of the runtime is paused, so waits take no real time"
)]

mod admin;
mod changes;
mod failures;
mod invalid;
mod lists;
mod searches;
mod sockets;
mod stored;

use tinkers::TrainingClient;
use tinkers_e2e::{Harness, SCRIPTED};

/// Creates a model, and saves a training checkpoint with each of these names.
pub(crate) async fn saved(harness: &Harness, names: &[&str]) -> TrainingClient {
    let training = harness.service.create_lora_training_client(SCRIPTED);
    let training = training.await.expect("a model");
    for name in names {
        training.save_state(*name).await.expect("a checkpoint");
    }
    training
}

/// Returns the path of a training checkpoint.
pub(crate) fn path(training: &TrainingClient, name: &str) -> String {
    format!("tinker://{}/weights/{name}", training.model_id())
}
