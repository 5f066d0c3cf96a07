//! What the tests of training calls share: a model, small data, and what the server was sent for it.

use std::time::Duration;

use tinkers::wire::routes;
use tinkers::{AdamParams, ApiFuture, Datum, LossFn, OptimStepResult, TrainingClient};
use tinkers_local::{Entry, Fault, LocalConfig, Rule, Script};
use tinkers_session::SessionOptions;

use crate::{InMemory, SCRIPTED};

/// A datum of three tokens.
///
/// # Panics
/// Never for tokens of the vocabulary.
pub fn datum(token: u32) -> Datum {
    Datum::next_token(&[token, token + 1, token + 2], vec![1.0; 2]).expect("a small datum")
}

/// Data for so many chunks, where a chunk holds one.
pub fn data(count: u32) -> Vec<Datum> {
    (0..count).map(datum).collect()
}

/// A step.
pub fn step(training: &TrainingClient) -> ApiFuture<OptimStepResult> {
    training.optim_step(AdamParams::new(1e-3))
}

/// A model.
///
/// # Panics
/// When the server makes none.
pub async fn model(world: &InMemory) -> TrainingClient {
    let creation = world.service.lora_training(SCRIPTED).rank(4).create();
    creation.await.expect("a model")
}

/// A model on a server that is known to take protobuf bodies.
///
/// # Panics
/// When the server makes none.
pub async fn known_model(world: &InMemory) -> TrainingClient {
    let training = model(world).await;
    let first = training.forward([datum(1)], LossFn::CrossEntropy);
    first.await.expect("a first pass");
    training
}

/// A world with a changed server.
pub async fn world_with(change: impl FnOnce(&mut LocalConfig)) -> InMemory {
    let mut config = LocalConfig::default();
    change(&mut config);
    InMemory::with(Script::default(), config, SessionOptions::default()).await
}

/// A world whose server is not known to apply a repeated number once.
pub async fn forgetful_world() -> InMemory {
    world_with(|config| config.announces_deduplication = false).await
}

/// Everything that was sent with a number of the model, in the order of arrival.
pub fn submissions(world: &InMemory) -> Vec<Entry> {
    let of_model = [
        routes::FORWARD,
        routes::FORWARD_BACKWARD,
        routes::OPTIM_STEP,
        routes::SAVE_WEIGHTS,
        routes::SAVE_WEIGHTS_FOR_SAMPLER,
        routes::LOAD_WEIGHTS,
    ];
    let mut entries = world.parts.journal.entries();
    entries.retain(|entry| of_model.contains(&entry.route.as_str()));
    entries
}

/// The numbers of [`submissions`].
pub fn numbers(world: &InMemory) -> Vec<u64> {
    submissions(world)
        .iter()
        .filter_map(|entry| entry.seq_id)
        .collect()
}

/// Has something go wrong with the first request of a route.
pub fn strike(world: &InMemory, route: &str, fault: Fault) {
    world.parts.faults.add(Rule::on(route), fault);
}

/// Lets the virtual clock run until `is_so`, for an hour at most.
///
/// # Panics
/// When it is not so by then.
pub async fn until(world: &InMemory, is_so: impl Fn() -> bool) {
    let clock = world.server.time();
    let began = clock.now();
    while !is_so() {
        assert!(
            clock.now().since(began) < Duration::from_secs(3600),
            "it never came to be"
        );
        clock.sleep(Duration::from_millis(100)).await;
    }
}
