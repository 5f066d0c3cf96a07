//! Order, chunks, retries and poisoning of training calls, in virtual time.

use std::collections::BTreeSet;

use http::StatusCode;
use tinkers::prelude::*;
use tinkers::wire::routes;
use tinkers::{BodyFormat, FinishReason, Sent};
use tinkers_e2e::{InMemory, SCRIPTED};
use tinkers_local::{Entry, Fault, Hint, LocalConfig, Rule, Script};
use tinkers_session::SessionOptions;

fn datum(token: u32) -> Datum {
    Datum::next_token(&[token, token + 1, token + 2], vec![1.0; 2]).unwrap()
}

fn step(training: &TrainingClient) -> tinkers::ApiFuture<tinkers::OptimStepResult> {
    training.optim_step(AdamParams::new(1e-3))
}

async fn model(world: &InMemory) -> TrainingClient {
    world
        .service
        .lora_training(SCRIPTED)
        .rank(4)
        .create()
        .await
        .unwrap()
}

async fn world_with(change: impl FnOnce(&mut LocalConfig)) -> InMemory {
    let mut config = LocalConfig::default();
    change(&mut config);
    InMemory::with(Script::default(), config, SessionOptions::default()).await
}

/// Everything that was sent with a number of the model, in the order of arrival.
fn submissions(world: &InMemory) -> Vec<Entry> {
    let of_model = [
        routes::FORWARD,
        routes::FORWARD_BACKWARD,
        routes::OPTIM_STEP,
        routes::SAVE_WEIGHTS,
        routes::SAVE_WEIGHTS_FOR_SAMPLER,
    ];
    let mut entries = world.parts.journal.entries();
    entries.retain(|entry| of_model.contains(&entry.route.as_str()));
    entries
}

fn numbers(world: &InMemory) -> Vec<u64> {
    submissions(world)
        .iter()
        .filter_map(|entry| entry.seq_id)
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_loop_trains_saves_resumes_and_samples() {
    let world = InMemory::start().await;
    let training = model(&world).await;
    assert_eq!(training.info().base_model(), Some(SCRIPTED));
    let mut losses = Vec::new();
    for _ in 0..3 {
        let pass = training.forward_backward([datum(1), datum(5)], LossFn::CrossEntropy);
        let (pass, _) = tokio::try_join!(pass, step(&training)).unwrap();
        assert_eq!(pass.loss_fn_outputs.len(), 2);
        losses.push(pass.loss_sum().unwrap());
    }
    assert!(
        losses.windows(2).all(|pair| pair[1] < pair[0]),
        "{losses:?}"
    );
    let saved = training.save_state("step-3").await.unwrap().path;
    assert_eq!(saved.name(), "step-3");
    let sampler = training
        .save_weights_and_get_sampling_client()
        .await
        .unwrap();
    let reply = sampler.sample(vec![1, 2, 3]).max_tokens(5).await.unwrap();
    assert_eq!(reply.sequences[0].tokens.len(), 5);
    assert_eq!(numbers(&world), [1, 2, 3, 4, 5, 6, 7, 8]);
    for optimizer in [RestoreOptimizer::Yes, RestoreOptimizer::No] {
        let resumed = world
            .service
            .training_from_state(saved.as_str(), optimizer)
            .create()
            .await
            .unwrap();
        assert_ne!(resumed.model_id(), training.model_id());
        step(&resumed).await.unwrap();
    }
    assert_eq!(world.parts.engine.counts().loaded, 2);
}

#[tokio::test(start_paused = true)]
async fn calls_are_submitted_in_the_order_of_the_calls_and_not_of_the_awaits() {
    let world = InMemory::start().await;
    let training = model(&world).await;
    let mut handles = Vec::new();
    for _ in 0..50 {
        handles.push(training.forward_backward([datum(1)], LossFn::CrossEntropy));
        drop(step(&training));
    }
    for handle in handles.into_iter().rev() {
        handle.await.unwrap();
    }
    step(&training).await.unwrap();
    assert_eq!(numbers(&world), (1..=101).collect::<Vec<_>>());
    let is_step: Vec<bool> = submissions(&world)
        .iter()
        .map(|e| e.route == routes::OPTIM_STEP)
        .collect();
    assert!(
        is_step[..100].chunks(2).all(|pair| pair == [false, true]),
        "{is_step:?}"
    );
    assert_eq!(
        world.parts.engine.counts().steps,
        51,
        "a dropped handle takes no step away"
    );
}

#[tokio::test(start_paused = true)]
async fn the_first_chunk_of_a_pass_goes_last_and_results_keep_their_order() {
    let world = world_with(|config| config.chunk_len = 2).await;
    let training = model(&world).await;
    let data: Vec<Datum> = (2..9)
        .map(|n| Datum::next_token(&vec![1; n], vec![1.0; n - 1]).unwrap())
        .collect();
    let pass = training.forward_backward(data, LossFn::CrossEntropy);
    let behind = step(&training);
    let result = pass.await.unwrap();
    behind.await.unwrap();
    let lengths: Vec<usize> = result
        .loss_fn_outputs
        .iter()
        .map(|output| output["logprobs"].values().len())
        .collect();
    assert_eq!(lengths, [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(numbers(&world), [2, 3, 4, 1, 5]);
}

#[tokio::test(start_paused = true)]
async fn a_refused_chunk_keeps_the_first_one_back_and_poisons() {
    let world = world_with(|config| config.chunk_len = 2).await;
    let training = model(&world).await;
    let refusal = Fault::status(StatusCode::FORBIDDEN, "not this one");
    world
        .parts
        .faults
        .add(Rule::on(routes::FORWARD_BACKWARD).nth(2), refusal);
    let pass =
        training.forward_backward((0..7).map(datum).collect::<Vec<_>>(), LossFn::CrossEntropy);
    let behind = step(&training);
    let error = pass.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    for words in ["3 failed", "[2, 4]", "not this one"] {
        assert!(error.to_string().contains(words), "{words} in {error}");
    }
    let behind = behind.await.unwrap_err();
    assert_eq!(
        (behind.kind(), behind.sent()),
        (ErrorKind::Poisoned, Sent::NotSent)
    );
    let later = step(&training).await.unwrap_err();
    assert_eq!(later.kind(), ErrorKind::Poisoned);
    assert!(later.to_string().contains("not this one"), "{later}");
    assert!(
        training.recover().is_err(),
        "chunks were accepted: there is no way back"
    );
    assert_eq!(
        numbers(&world),
        [2, 3, 4],
        "neither the first chunk nor what came behind was sent"
    );
    assert_eq!(world.parts.engine.counts().backwards, 0);
}

#[tokio::test(start_paused = true)]
async fn after_a_clean_refusal_nothing_overtakes_and_recover_goes_on_without_a_hole() {
    let world = InMemory::start().await;
    let training = model(&world).await;
    world.parts.faults.add(
        Rule::on(routes::FORWARD_BACKWARD),
        Fault::status(StatusCode::FORBIDDEN, "no"),
    );
    let pass = training.forward_backward([datum(1)], LossFn::CrossEntropy);
    let behind = step(&training);
    assert_eq!(pass.await.unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert_eq!(behind.await.unwrap_err().kind(), ErrorKind::Poisoned);
    training.recover().unwrap();
    training
        .forward_backward([datum(1)], LossFn::CrossEntropy)
        .await
        .unwrap();
    step(&training).await.unwrap();
    assert_eq!(numbers(&world), [1, 1, 2]);
    assert_eq!(world.parts.engine.counts().steps, 1);
}

#[tokio::test(start_paused = true)]
async fn a_lost_reply_is_repeated_with_the_same_body_and_applied_once() {
    let world = InMemory::start().await;
    let training = model(&world).await;
    for route in [
        routes::FORWARD_BACKWARD,
        routes::OPTIM_STEP,
        routes::SAVE_WEIGHTS,
    ] {
        world
            .parts
            .faults
            .add(Rule::on(route).times(2), Fault::cut_after());
    }
    training
        .forward_backward([datum(1)], LossFn::CrossEntropy)
        .await
        .unwrap();
    step(&training).await.unwrap();
    training.save_state("once").await.unwrap();
    assert_eq!(numbers(&world), [1, 1, 1, 2, 2, 2, 3, 3, 3]);
    let bodies: BTreeSet<_> = submissions(&world)
        .iter()
        .map(|entry| (entry.seq_id, entry.digest))
        .collect();
    assert_eq!(bodies.len(), 3, "every retry of a number has the same body");
    let counts = world.parts.engine.counts();
    assert_eq!((counts.backwards, counts.steps, counts.saves), (1, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_duplicated_delivery_is_applied_once() {
    let world = InMemory::start().await;
    let training = model(&world).await;
    for route in [routes::FORWARD_BACKWARD, routes::OPTIM_STEP] {
        world.parts.faults.add(Rule::on(route), Fault::duplicate());
    }
    training
        .forward_backward([datum(1)], LossFn::CrossEntropy)
        .await
        .unwrap();
    step(&training).await.unwrap();
    let counts = world.parts.engine.counts();
    assert_eq!((counts.backwards, counts.steps), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn without_deduplication_a_lost_reply_ends_in_an_unknown_outcome_and_never_in_a_second_gradient()
 {
    let world = world_with(|config| config.announces_deduplication = false).await;
    let training = model(&world).await;
    world
        .parts
        .faults
        .add(Rule::on(routes::FORWARD_BACKWARD), Fault::cut_after());
    let error = training
        .forward_backward([datum(1)], LossFn::CrossEntropy)
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.sent()),
        (ErrorKind::OutcomeUnknown, Sent::MaybeSent)
    );
    assert_eq!(
        step(&training).await.unwrap_err().kind(),
        ErrorKind::Poisoned
    );
    assert!(training.recover().is_err());
    assert_eq!(numbers(&world), [1]);
}

#[tokio::test(start_paused = true)]
async fn without_deduplication_a_request_that_never_left_is_repeated() {
    let world = world_with(|config| config.announces_deduplication = false).await;
    let training = model(&world).await;
    world
        .parts
        .faults
        .add(Rule::on(routes::FORWARD_BACKWARD).times(3), Fault::refuse());
    training
        .forward_backward([datum(1)], LossFn::CrossEntropy)
        .await
        .unwrap();
    assert_eq!(world.parts.engine.counts().backwards, 1);
}

#[tokio::test(start_paused = true)]
async fn without_deduplication_a_save_whose_reply_was_lost_is_looked_for() {
    let world = world_with(|config| config.announces_deduplication = false).await;
    let training = model(&world).await;
    world
        .parts
        .faults
        .add(Rule::on(routes::SAVE_WEIGHTS), Fault::cut_after());
    assert_eq!(
        training.save_state("found").await.unwrap().path.name(),
        "found"
    );
    assert_eq!(numbers(&world), [1], "it was found and not repeated");
    // And one that never arrived is not found, and saved.
    world
        .parts
        .faults
        .add(Rule::on(routes::SAVE_WEIGHTS), Fault::cut_before());
    assert_eq!(
        training.save_state("repeated").await.unwrap().path.name(),
        "repeated"
    );
    assert_eq!(numbers(&world), [1, 2, 2]);
    assert_eq!(world.parts.engine.counts().saves, 2);
}

#[tokio::test(start_paused = true)]
async fn no_submission_leaves_before_the_servers_hint() {
    let world = InMemory::start().await;
    let training = model(&world).await;
    let refusal = Fault::rate_limited(Hint::Milliseconds(2500));
    world
        .parts
        .faults
        .add(Rule::on(routes::OPTIM_STEP).times(2), refusal);
    step(&training).await.unwrap();
    let at: Vec<f64> = submissions(&world)
        .iter()
        .map(|entry| entry.at.since_origin().as_secs_f64())
        .collect();
    assert_eq!(at.len(), 3);
    assert!(at.windows(2).all(|pair| pair[1] - pair[0] >= 2.5), "{at:?}");
    assert_eq!(world.parts.engine.counts().steps, 1);
}

#[tokio::test(start_paused = true)]
async fn a_failed_operation_uses_its_number_and_training_goes_on() {
    let world = InMemory::start().await;
    let training = model(&world).await;
    let failed = serde_json::json!({"error": "out of memory", "category": "server"});
    world.parts.faults.add(
        Rule::on(routes::RETRIEVE_FUTURE),
        Fault::json(StatusCode::OK, &failed),
    );
    let error = training
        .forward_backward([datum(1)], LossFn::CrossEntropy)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OperationFailed);
    assert!(error.request_id().is_some());
    step(&training).await.unwrap();
    assert_eq!(numbers(&world), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_takes_json_alone_gets_json_and_a_forward_pass_never_adds_gradients() {
    let world = InMemory::start().await;
    let training = model(&world).await;
    let refusal = Fault::status(StatusCode::UNSUPPORTED_MEDIA_TYPE, "JSON please");
    world
        .parts
        .faults
        .add(Rule::on(routes::FORWARD_BACKWARD), refusal);
    training
        .forward([datum(1)], LossFn::CrossEntropy)
        .await
        .unwrap();
    training
        .forward_backward([datum(1)], LossFn::CrossEntropy)
        .await
        .unwrap();
    let used: Vec<String> = submissions(&world)
        .into_iter()
        .map(|entry| entry.route)
        .collect();
    assert_eq!(
        used,
        [
            routes::FORWARD_BACKWARD,
            routes::FORWARD,
            routes::FORWARD_BACKWARD
        ]
    );
    let counts = world.parts.engine.counts();
    assert_eq!((counts.forwards, counts.backwards), (1, 1));
    assert_eq!(world.service.server_profile().bodies, BodyFormat::Json);
}

#[tokio::test(start_paused = true)]
async fn after_close_every_call_says_so() {
    let world = InMemory::start().await;
    let training = model(&world).await;
    let sampler = world.service.sampling(SCRIPTED).create().await.unwrap();
    world
        .service
        .close(FinishReason::Success, None)
        .await
        .unwrap();
    assert_eq!(step(&training).await.unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(
        sampler
            .sample(vec![1])
            .max_tokens(1)
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::Closed
    );
    assert_eq!(
        world
            .service
            .sampling(SCRIPTED)
            .create()
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::Closed
    );
}
