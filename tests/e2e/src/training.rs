//! Helpers for tests of training calls: models, small batches, and the training requests that the
//! server received.

use std::time::Duration;

use tinkers::wire::routes;
use tinkers::{
    AdamParams, ApiFuture, Datum, LossFn, OptimStepResult, ServiceClient, TrainingClient,
};
use tinkers_local::{Fault, JournalEntry, LocalConfig, Rule};

use crate::{Harness, SCRIPTED};

/// Returns a training datum of three consecutive tokens: `token`, `token + 1` and `token + 2`.
///
/// # Panics
/// When `token + 2` overflows.
pub fn datum(token: u32) -> Datum {
    Datum::next_token(&[token, token + 1, token + 2], vec![1.0; 2]).expect("a small datum")
}

/// Returns a batch of `count` different training data, which [`datum`] creates.
pub fn data(count: u32) -> Vec<Datum> {
    (0..count).map(datum).collect()
}

/// Begins an optimizer step with a learning rate of 0.001. Returns the future of its result.
pub fn step(training: &TrainingClient) -> ApiFuture<OptimStepResult> {
    training.optim_step(AdamParams::new(1e-3))
}

/// Creates a model with the client of the harness (a server and a client for a test).
///
/// # Panics
/// When the server rejects the model.
pub async fn model(harness: &Harness) -> TrainingClient {
    model_of(&harness.service).await
}

/// Creates a model with the client `service`.
///
/// # Panics
/// When the server rejects the model.
pub async fn model_of(service: &ServiceClient) -> TrainingClient {
    let creation = service.create_lora_training_client(SCRIPTED).rank(4).send();
    creation.await.expect("a model")
}

/// Creates a model and runs a forward pass. From the response to the pass, the client learns that
/// the server accepts protobuf bodies.
///
/// # Panics
/// When the server rejects the model or the pass.
pub async fn model_with_known_format(harness: &Harness) -> TrainingClient {
    let training = model(harness).await;
    let first = training.forward([datum(1)], LossFn::CrossEntropy);
    first.await.expect("a first pass");
    training
}

/// Starts a server and a client with default settings, except for the changes that `change` makes
/// to the server's configuration.
pub async fn harness_with(change: impl FnOnce(&mut LocalConfig)) -> Harness {
    let mut config = LocalConfig::default();
    change(&mut config);
    Harness::with(config).await
}

/// Starts a server and a client. The server does not announce that it deduplicates requests. The
/// client must therefore assume that a repeated submission would be applied twice.
pub async fn harness_without_deduplication() -> Harness {
    harness_with(|config| config.announces_deduplication = false).await
}

/// Returns the requests that submit training operations of a model, in the order in which the
/// server received them. These are the requests with a `model_id` and a `seq_id`.
pub fn submissions(harness: &Harness) -> Vec<JournalEntry> {
    let of_model = [
        routes::FORWARD,
        routes::FORWARD_BACKWARD,
        routes::OPTIM_STEP,
        routes::SAVE_WEIGHTS,
        routes::SAVE_WEIGHTS_FOR_SAMPLER,
        routes::LOAD_WEIGHTS,
    ];
    let mut entries = harness.journal.entries();
    entries.retain(|entry| of_model.contains(&entry.route.as_str()));
    entries
}

/// Returns the sequence number (`seq_id`) of each request that submits a training operation, in the
/// order of [`submissions`].
pub fn numbers(harness: &Harness) -> Vec<u64> {
    submissions(harness)
        .iter()
        .filter_map(|entry| entry.seq_id)
        .collect()
}

/// Injects a fault into the next request to a route of the server.
pub fn inject(harness: &Harness, route: &str, fault: Fault) {
    harness.faults.add(Rule::on(route), fault);
}

/// Injects a fault into the `nth` request to `forward_backward` that the server receives from now
/// on. The next request is number 1.
pub fn inject_into_pass(harness: &Harness, nth: u64, fault: Fault) {
    let rule = Rule::on(routes::FORWARD_BACKWARD).nth(nth);
    harness.faults.add(rule, fault);
}

/// Returns the number of requests to a route that the server received.
pub fn count(harness: &Harness, route: &str) -> usize {
    harness.journal.of(route).len()
}

/// Sleeps for the given number of seconds on the clock of the server, which may be virtual.
pub async fn sleep(harness: &Harness, seconds: u64) {
    let duration = Duration::from_secs(seconds);
    harness.server.time().sleep(duration).await;
}

/// Waits until `condition` returns `true`, for at most one hour on the clock of the server, which
/// may be virtual.
///
/// # Panics
/// When the condition does not hold after an hour.
pub async fn wait_until(harness: &Harness, condition: impl Fn() -> bool) {
    let clock = harness.server.time();
    let began = clock.now();
    while !condition() {
        assert!(
            clock.now().since(began) < Duration::from_secs(3600),
            "the condition did not hold within an hour"
        );
        clock.sleep(Duration::from_millis(100)).await;
    }
}
