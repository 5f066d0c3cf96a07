//! Lost replies to submissions: retries, searches for saves, and unknown outcomes.

use std::collections::BTreeSet;

use http::StatusCode;
use serde_json::json;
use tinkers::Sent;
use tinkers::prelude::*;
use tinkers::wire::routes;
use tinkers_e2e::Harness;
use tinkers_e2e::training::{
    datum, harness_without_deduplication, inject, model, model_with_known_format, numbers, step,
    submissions,
};
use tinkers_local::{Fault, Rule};

#[tokio::test(start_paused = true)]
async fn request_with_a_lost_reply_is_retried_and_applied_once() {
    let harness = Harness::start().await;
    let training = model(&harness).await;
    for route in [
        routes::FORWARD_BACKWARD,
        routes::OPTIM_STEP,
        routes::SAVE_WEIGHTS,
    ] {
        harness
            .faults
            .add(Rule::on(route).times(2), Fault::cut_after());
    }
    training
        .forward_backward([datum(1)], LossFn::CrossEntropy)
        .await
        .unwrap();
    step(&training).await.unwrap();
    training.save_state("once").await.unwrap();
    assert_eq!(numbers(&harness), [1, 1, 1, 2, 2, 2, 3, 3, 3]);
    let bodies: BTreeSet<_> = submissions(&harness)
        .iter()
        .map(|entry| (entry.seq_id, entry.digest))
        .collect();
    assert_eq!(bodies.len(), 3, "every retry of a number has the same body");
    let counts = harness.engine.counts();
    assert_eq!((counts.backwards, counts.steps, counts.saves), (1, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn request_delivered_twice_is_applied_once() {
    let harness = Harness::start().await;
    let training = model(&harness).await;
    for route in [routes::FORWARD_BACKWARD, routes::OPTIM_STEP] {
        harness.faults.add(Rule::on(route), Fault::duplicate());
    }
    training
        .forward_backward([datum(1)], LossFn::CrossEntropy)
        .await
        .unwrap();
    step(&training).await.unwrap();
    let counts = harness.engine.counts();
    assert_eq!((counts.backwards, counts.steps), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn non_deduplicated_forward_backward_with_a_lost_reply_is_not_retried() {
    let harness = harness_without_deduplication().await;
    let training = model(&harness).await;
    harness
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
    assert_eq!(numbers(&harness), [1]);
}

#[tokio::test(start_paused = true)]
async fn non_deduplicated_forward_backward_is_retried_if_it_was_not_sent() {
    let harness = harness_without_deduplication().await;
    let training = model(&harness).await;
    harness
        .faults
        .add(Rule::on(routes::FORWARD_BACKWARD).times(3), Fault::refuse());
    training
        .forward_backward([datum(1)], LossFn::CrossEntropy)
        .await
        .unwrap();
    assert_eq!(harness.engine.counts().backwards, 1);
}

#[tokio::test(start_paused = true)]
async fn save_with_a_lost_reply_is_looked_up_before_a_retry() {
    let harness = harness_without_deduplication().await;
    let training = model(&harness).await;
    harness
        .faults
        .add(Rule::on(routes::SAVE_WEIGHTS), Fault::cut_after());
    assert_eq!(
        training.save_state("found").await.unwrap().path.name(),
        "found"
    );
    assert_eq!(numbers(&harness), [1], "the save was found and not retried");
    // A save that did not reach the server is not found, so the client retries it.
    harness
        .faults
        .add(Rule::on(routes::SAVE_WEIGHTS), Fault::cut_before());
    assert_eq!(
        training.save_state("repeated").await.unwrap().path.name(),
        "repeated"
    );
    assert_eq!(numbers(&harness), [1, 2, 2]);
    assert_eq!(harness.engine.counts().saves, 2);
}

/// Returns a fault with which the server answers a save like SkyRL (another server with the same
/// API) if the checkpoint name already exists.
fn name_conflict() -> Fault {
    Fault::status(StatusCode::CONFLICT, "Checkpoint 'x' already exists")
}

#[tokio::test(start_paused = true)]
async fn recover_fails_after_a_conflict_of_sequence_numbers() {
    let harness = Harness::start().await;
    let training = model(&harness).await;
    training.save_state("taken").await.unwrap();
    let error = training.save_state("taken").await.unwrap_err();
    assert_eq!(
        (error.kind(), error.sent()),
        (ErrorKind::Conflict, Sent::Answered)
    );
    // A conflict of names fails only the save, so the next call needs no recovery.
    step(&training).await.unwrap();
    assert_eq!(numbers(&harness), [1, 2, 3]);

    let number_conflict = "seq_id 4 was used by another request of this model";
    inject(
        &harness,
        routes::OPTIM_STEP,
        Fault::status(StatusCode::CONFLICT, number_conflict),
    );
    assert_eq!(
        step(&training).await.unwrap_err().kind(),
        ErrorKind::Conflict
    );
    assert!(training.recover().is_err());
}

#[tokio::test(start_paused = true)]
async fn rejection_after_a_lost_reply_prevents_recovery_of_the_model() {
    let harness = Harness::start().await;
    let training = model(&harness).await;
    let steps = || Rule::on(routes::OPTIM_STEP);
    harness.faults.add(steps(), Fault::cut_after());
    let revoked = Fault::status(StatusCode::FORBIDDEN, "key revoked");
    harness.faults.add(steps().nth(2), revoked);
    let error = step(&training).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.sent()),
        (ErrorKind::PermissionDenied, Sent::MaybeSent)
    );
    assert!(training.recover().is_err());
    assert_eq!(
        step(&training).await.unwrap_err().kind(),
        ErrorKind::Poisoned
    );
    assert_eq!(numbers(&harness), [1, 1]);
}

#[tokio::test(start_paused = true)]
async fn idempotent_calls_are_retried_without_deduplication() {
    let harness = harness_without_deduplication().await;
    let training = model_with_known_format(&harness).await;
    let saved = training.save_state("start").await.unwrap().path;
    for route in [
        routes::LOAD_WEIGHTS,
        routes::SAVE_WEIGHTS,
        routes::SAVE_WEIGHTS_FOR_SAMPLER,
        routes::FORWARD_BACKWARD,
    ] {
        inject(&harness, route, Fault::cut_after());
    }
    training.load_state_with_optimizer(&saved).await.unwrap();
    let overwrite = training.save_state("start").overwrite();
    assert_eq!(overwrite.await.unwrap().path, saved);
    training
        .save_weights_and_get_sampling_client()
        .await
        .unwrap();
    let forward = training.forward([datum(1)], LossFn::CrossEntropy);
    forward.await.unwrap();
    step(&training).await.unwrap();
    assert_eq!(numbers(&harness), [1, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7]);
    let bodies: BTreeSet<_> = submissions(&harness)
        .iter()
        .map(|entry| (entry.seq_id, entry.digest))
        .collect();
    assert_eq!(bodies.len(), 7, "every retry of a number has the same body");
}

#[tokio::test(start_paused = true)]
async fn save_with_a_lost_reply_is_not_mistaken_for_an_older_checkpoint() {
    let harness = harness_without_deduplication().await;
    let training = model(&harness).await;
    training.save_state("latest").await.unwrap();
    inject(&harness, routes::SAVE_WEIGHTS, Fault::cut_before());
    let error = training.save_state("latest").await.unwrap_err();
    assert_eq!(
        (error.kind(), error.sent()),
        (ErrorKind::Conflict, Sent::MaybeSent)
    );
    assert_eq!(harness.engine.counts().saves, 1);
}

#[tokio::test(start_paused = true)]
async fn save_with_a_lost_reply_is_found_if_checkpoint_ids_lack_a_prefix() {
    let harness = harness_without_deduplication().await;
    let training = model(&harness).await;
    let run = training.model_id();
    let list = |names: &[(&str, &str)]| {
        let checkpoint = |(name, kind): &(&str, &str)| {
            let segment = if *kind == "sampler" {
                "sampler_weights"
            } else {
                "weights"
            };
            json!({
                "checkpoint_id": name,
                "checkpoint_type": kind,
                "time": "2026-11-23T08:52:27.120828",
                "tinker_path": format!("tinker://{run}/{segment}/{name}"),
            })
        };
        let all: Vec<_> = names.iter().map(checkpoint).collect();
        Fault::json(StatusCode::OK, &json!({ "checkpoints": all }))
    };
    let lists = || Rule::on(routes::run_checkpoints(run));
    let saves = || Rule::on(routes::SAVE_WEIGHTS);

    harness.faults.add(saves(), Fault::cut_after());
    let both = list(&[("x", "sampler"), ("x", "training")]);
    harness.faults.add(lists(), both);
    let found = training.save_state("x").await.unwrap().path;
    assert_eq!(found.as_str(), format!("tinker://{run}/weights/x"));

    // During the search the server still writes the save, and the retry conflicts with it.
    harness.faults.add(saves(), Fault::cut_after());
    harness.faults.add(saves().nth(2), name_conflict());
    harness
        .faults
        .add(lists().times(3), list(&[("y", "sampler")]));
    harness
        .faults
        .add(lists().nth(4), list(&[("y", "training")]));
    let found = training.save_state("y").await.unwrap().path;
    assert_eq!(found.name(), "y");
    step(&training).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn save_with_a_lost_reply_has_unknown_outcome_if_listing_fails() {
    let harness = harness_without_deduplication().await;
    let training = model(&harness).await;
    inject(&harness, routes::SAVE_WEIGHTS, Fault::cut_after());
    let list = routes::run_checkpoints(training.model_id());
    inject(
        &harness,
        &list,
        Fault::status(StatusCode::FORBIDDEN, "no listing"),
    );
    let error = training.save_state("x").await.unwrap_err();
    assert_eq!(
        (error.kind(), error.sent()),
        (ErrorKind::OutcomeUnknown, Sent::MaybeSent)
    );
    assert!(error.to_string().contains("no listing"), "{error}");
    assert!(training.recover().is_err());
    assert_eq!(numbers(&harness), [1]);
}

#[tokio::test(start_paused = true)]
async fn all_requests_of_a_retried_save_send_the_same_sdk_method_header() {
    let harness = harness_without_deduplication().await;
    let training = model(&harness).await;
    inject(&harness, routes::SAVE_WEIGHTS, Fault::cut_before());
    training.save_state("x").await.unwrap();
    let list = routes::run_checkpoints(training.model_id());
    let mut requests = harness.journal.of(routes::SAVE_WEIGHTS);
    requests.extend(harness.journal.of(&list));
    assert_eq!(requests.len(), 3);
    for entry in requests {
        assert_eq!(
            entry.headers["x-sdk-method"], "TrainingClient.save_state",
            "{}",
            entry.route
        );
    }
}

#[tokio::test(start_paused = true)]
async fn name_conflict_on_the_retry_of_a_save_counts_as_success() {
    let harness = harness_without_deduplication().await;
    let training = model(&harness).await;
    // SkyRL rejects a name that exists even if the request sets `overwrite`.
    let saves = || Rule::on(routes::SAVE_WEIGHTS);
    harness.faults.add(saves(), Fault::cut_after());
    harness.faults.add(saves().nth(2), name_conflict());
    let save = training.save_state("x").overwrite();
    assert_eq!(save.await.unwrap().path.name(), "x");

    // The retry of an unnamed save has another number in its name.
    let unnamed = || Rule::on(routes::SAVE_WEIGHTS_FOR_SAMPLER);
    harness.faults.add(unnamed(), Fault::cut_before());
    harness.faults.add(unnamed().nth(2), name_conflict());
    training
        .save_weights_and_get_sampling_client()
        .await
        .unwrap();
    step(&training).await.unwrap();
    assert_eq!(numbers(&harness), [1, 1, 2, 2, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn submission_with_a_truncated_response_is_retried_if_deduplicated() {
    let harness = Harness::start().await;
    for route in [
        routes::CREATE_MODEL,
        routes::FORWARD_BACKWARD,
        routes::OPTIM_STEP,
        routes::SAVE_WEIGHTS,
        routes::LOAD_WEIGHTS,
        routes::CREATE_SAMPLING_SESSION,
        routes::ASAMPLE,
    ] {
        harness
            .faults
            .add(Rule::on(route).times(2), Fault::truncate());
    }
    let training = model(&harness).await;
    let pass = training.forward_backward([datum(1)], LossFn::CrossEntropy);
    let queued = step(&training);
    pass.await.unwrap();
    queued.await.unwrap();
    let saved = training.save_state("once").await.unwrap().path;
    training.load_state(&saved).await.unwrap();
    let sampler = harness
        .service
        .create_sampling_client(tinkers_e2e::SCRIPTED)
        .await;
    sampler.unwrap().sample(vec![1]).await.unwrap();
    assert_eq!(numbers(&harness), [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]);
    let counts = harness.engine.counts();
    assert_eq!((counts.backwards, counts.steps, counts.saves), (1, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn truncated_response_without_deduplication_makes_later_calls_fail() {
    let harness = harness_without_deduplication().await;
    let training = model(&harness).await;
    inject(&harness, routes::OPTIM_STEP, Fault::truncate());
    let error = step(&training).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
    assert_eq!(
        step(&training).await.unwrap_err().kind(),
        ErrorKind::Poisoned
    );
    assert!(training.recover().is_err());
    assert_eq!(numbers(&harness), [1]);
}
