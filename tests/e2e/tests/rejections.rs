//! Rejected requests that leave a model unchanged: saves whose name is taken, saves that are
//! rejected for other reasons, and forward passes.

use std::time::Duration;

use http::StatusCode;
use serde_json::json;
use tinkers::Sent;
use tinkers::prelude::*;
use tinkers::wire::routes;
use tinkers_e2e::Harness;
use tinkers_e2e::training::{datum, harness_without_deduplication, inject, model, numbers, step};
use tinkers_local::{Fault, Rule};

/// A time limit for calls. Only a call that hangs exceeds it.
const HOUR: Duration = Duration::from_secs(3600);

/// The ways in which servers reject a save under a checkpoint name that already exists.
#[derive(Debug, Clone, Copy)]
enum NameConflict {
    /// The server answers the submission of the save with status 409.
    Conflict,
    /// The server answers the submission of the save with status 422.
    Invalid,
    /// The server accepts the submission of the save, and the operation fails later.
    Failed,
}

const CONFLICT_TEXT: &str = "Checkpoint 'step-1' already exists for model 'm'";

fn inject_name_conflict(harness: &Harness, how: NameConflict) {
    match how {
        NameConflict::Conflict => inject(
            harness,
            routes::SAVE_WEIGHTS,
            Fault::status(StatusCode::CONFLICT, CONFLICT_TEXT),
        ),
        NameConflict::Invalid => inject(
            harness,
            routes::SAVE_WEIGHTS,
            Fault::status(StatusCode::UNPROCESSABLE_ENTITY, CONFLICT_TEXT),
        ),
        NameConflict::Failed => {
            let failed = json!({"error": CONFLICT_TEXT, "category": "user"});
            inject(
                harness,
                routes::RETRIEVE_FUTURE,
                Fault::json(StatusCode::OK, &failed),
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn name_conflict_of_a_save_does_not_fail_later_calls() {
    for how in [
        NameConflict::Conflict,
        NameConflict::Invalid,
        NameConflict::Failed,
    ] {
        let harness = Harness::start().await;
        let training = model(&harness).await;
        inject_name_conflict(&harness, how);
        let save = training.save_state("step-1").send();
        let pass = training.forward_backward([datum(1)], LossFn::CrossEntropy);
        let queued = step(&training);
        let error = save.await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{how:?}: {error}");
        assert_eq!(error.sent(), Sent::Answered);
        for part in [
            "\"step-1\" is taken",
            "another name",
            "overwrite",
            CONFLICT_TEXT,
        ] {
            assert!(format!("{error:#}").contains(part), "{how:?}: {error:#}");
        }
        pass.within(HOUR).await.unwrap();
        queued.within(HOUR).await.unwrap();
        training
            .save_state("step-2")
            .send()
            .within(HOUR)
            .await
            .unwrap();
        let expected: &[u64] = match how {
            NameConflict::Failed => &[1, 2, 3, 4],
            // The rejected save does not use up its number, so the next call has the same number.
            NameConflict::Conflict | NameConflict::Invalid => &[1, 1, 2, 3],
        };
        assert_eq!(numbers(&harness), expected, "{how:?}");
        let counts = harness.engine.counts();
        assert_eq!((counts.backwards, counts.steps), (1, 1), "{how:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn name_conflict_of_a_sampler_save_does_not_suggest_overwrite() {
    let harness = Harness::start().await;
    let training = model(&harness).await;
    let conflict = Fault::status(StatusCode::CONFLICT, CONFLICT_TEXT);
    inject(&harness, routes::SAVE_WEIGHTS_FOR_SAMPLER, conflict);
    let error = training.save_weights_for_sampler("step-1").await;
    let error = error.unwrap_err();
    assert!(error.to_string().contains("\"step-1\" is taken"), "{error}");
    assert!(!error.to_string().contains("overwrite"), "{error}");
    step(&training).within(HOUR).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn missing_folder_is_not_reported_as_a_name_conflict() {
    let harness = Harness::start().await;
    let training = model(&harness).await;
    let missing = Fault::status(StatusCode::BAD_REQUEST, "the folder does not exist");
    inject(&harness, routes::SAVE_WEIGHTS, missing);
    let error = training.save_state("step-1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Rejected, "{error}");
    step(&training).within(HOUR).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn rejected_save_or_forward_pass_lets_later_calls_succeed() {
    let harness = Harness::start().await;
    let training = model(&harness).await;
    let rejection = Fault::status(StatusCode::FORBIDDEN, "no");
    inject(&harness, routes::SAVE_WEIGHTS, rejection.clone());
    let save = training.save_state("first").send();
    let queued = step(&training);
    assert_eq!(save.await.unwrap_err().kind(), ErrorKind::PermissionDenied);
    queued.within(HOUR).await.unwrap();
    let first = Rule::on(routes::FORWARD_BACKWARD);
    harness.faults.add(first, rejection);
    let pass = training.forward([datum(1)], LossFn::CrossEntropy);
    let queued = step(&training);
    assert_eq!(pass.await.unwrap_err().kind(), ErrorKind::PermissionDenied);
    queued.within(HOUR).await.unwrap();
    assert_eq!(numbers(&harness), [1, 1, 2, 2]);
    assert_eq!(harness.engine.counts().steps, 2);
}

#[tokio::test(start_paused = true)]
async fn rejected_step_load_or_backward_pass_makes_later_calls_fail() {
    for verb in ["optim_step", "load_state", "forward_backward"] {
        let harness = Harness::start().await;
        let training = model(&harness).await;
        let saved = training.save_state("first").await.unwrap().path;
        let rejection = Fault::status(StatusCode::BAD_REQUEST, "no");
        let queued = match verb {
            "optim_step" => {
                inject(&harness, routes::OPTIM_STEP, rejection);
                step(&training).await.unwrap_err();
                training.save_state("second").send()
            }
            "load_state" => {
                inject(&harness, routes::LOAD_WEIGHTS, rejection);
                training.load_state(&saved).await.unwrap_err();
                training.save_state("second").send()
            }
            _ => {
                inject(&harness, routes::FORWARD_BACKWARD, rejection);
                let pass = training.forward_backward([datum(1)], LossFn::CrossEntropy);
                pass.await.unwrap_err();
                training.save_state("second").send()
            }
        };
        let error = queued.await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Poisoned, "{verb}");
        training.recover().unwrap();
        step(&training).within(HOUR).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn save_with_an_unknown_outcome_makes_later_calls_fail() {
    let harness = Harness::start().await;
    let training = model(&harness).await;
    let final_500 = Fault::status(StatusCode::INTERNAL_SERVER_ERROR, "broken").with_header(
        http::HeaderName::from_static("x-should-retry"),
        http::HeaderValue::from_static("false"),
    );
    inject(&harness, routes::SAVE_WEIGHTS, final_500);
    let save = training.save_state("first").send();
    let queued = step(&training);
    assert_eq!(save.await.unwrap_err().kind(), ErrorKind::Server);
    assert_eq!(queued.await.unwrap_err().kind(), ErrorKind::Poisoned);
    assert!(training.recover().is_err());
}

/// Makes the server answer the second save request from now on as if it accepted the save. The
/// request id in the response, 77, belongs to no operation.
fn accept_second_save(harness: &Harness) {
    let second = Rule::on(routes::SAVE_WEIGHTS).nth(2);
    let acceptance = json!({"request_id": "77", "future_id": "77"});
    let accepted = Fault::json(StatusCode::OK, &acceptance);
    harness.faults.add(second, accepted);
}

#[tokio::test(start_paused = true)]
async fn retried_save_with_the_name_of_its_own_first_attempt_succeeds() {
    let harness = harness_without_deduplication().await;
    let training = model(&harness).await;
    // The reply is lost, the list does not show the save yet, and the retry ends as a failed
    // operation.
    inject(&harness, routes::SAVE_WEIGHTS, Fault::cut_after());
    let list = format!("/api/v1/training_runs/{}/checkpoints", training.model_id());
    let empty = json!({"checkpoints": []});
    inject(&harness, &list, Fault::json(StatusCode::OK, &empty));
    accept_second_save(&harness);
    let failed = json!({"error": CONFLICT_TEXT, "category": "user"});
    inject(
        &harness,
        routes::RETRIEVE_FUTURE,
        Fault::json(StatusCode::OK, &failed),
    );
    let saved = training.save_state("step-1").await.unwrap();
    assert_eq!(saved.path.name(), "step-1");
    assert_eq!(numbers(&harness), [1, 1]);
}

#[tokio::test(start_paused = true)]
async fn retried_save_with_the_name_of_an_older_save_fails() {
    let harness = Harness::start().await;
    let training = model(&harness).await;
    training.save_state("step-1").await.unwrap();
    // The request of the second save is lost. The server accepts the retry, and the operation
    // fails.
    inject(&harness, routes::SAVE_WEIGHTS, Fault::cut_before());
    accept_second_save(&harness);
    inject_name_conflict(&harness, NameConflict::Failed);
    let error = training.save_state("step-1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert_eq!(error.request_id(), Some("77"));
    assert_eq!(numbers(&harness), [1, 2, 2]);
}
