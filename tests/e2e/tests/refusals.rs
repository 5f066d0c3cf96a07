//! Refused requests that leave a model as it was: saves under a taken name, other refused saves, forward passes.

use std::time::Duration;

use http::StatusCode;
use serde_json::json;
use tinkers::Sent;
use tinkers::prelude::*;
use tinkers::wire::routes;
use tinkers_e2e::InMemory;
use tinkers_e2e::training::{datum, forgetful_world, model, numbers, step, strike};
use tinkers_local::{Fault, Rule};

/// Longer than any of these calls takes; one that hangs fails then.
const HOUR: Duration = Duration::from_secs(3600);

/// The ways in which servers say that a checkpoint name is taken.
#[derive(Debug, Clone, Copy)]
enum Says {
    Conflict,
    Invalid,
    Failed,
}

const WORDS: &str = "Checkpoint 'step-1' already exists for model 'm'";

fn say_taken(world: &InMemory, how: Says) {
    match how {
        Says::Conflict => strike(
            world,
            routes::SAVE_WEIGHTS,
            Fault::status(StatusCode::CONFLICT, WORDS),
        ),
        Says::Invalid => strike(
            world,
            routes::SAVE_WEIGHTS,
            Fault::status(StatusCode::UNPROCESSABLE_ENTITY, WORDS),
        ),
        Says::Failed => {
            let failed = json!({"error": WORDS, "category": "user"});
            strike(
                world,
                routes::RETRIEVE_FUTURE,
                Fault::json(StatusCode::OK, &failed),
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_taken_name_fails_the_save_alone_however_it_is_said() {
    for how in [Says::Conflict, Says::Invalid, Says::Failed] {
        let world = InMemory::start().await;
        let training = model(&world).await;
        say_taken(&world, how);
        let save = training.save_state("step-1");
        let pass = training.forward_backward([datum(1)], LossFn::CrossEntropy);
        let behind = step(&training);
        let error = save.await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{how:?}: {error}");
        assert_eq!(error.sent(), Sent::Answered);
        for part in ["\"step-1\" is taken", "another name", "overwrite", WORDS] {
            assert!(error.to_string().contains(part), "{how:?}: {error}");
        }
        pass.within(HOUR).await.unwrap();
        behind.within(HOUR).await.unwrap();
        training.save_state("step-2").within(HOUR).await.unwrap();
        let expected: &[u64] = match how {
            Says::Failed => &[1, 2, 3, 4],
            // The refused number is the next call's.
            Says::Conflict | Says::Invalid => &[1, 1, 2, 3],
        };
        assert_eq!(numbers(&world), expected, "{how:?}");
        let counts = world.parts.engine.counts();
        assert_eq!((counts.backwards, counts.steps), (1, 1), "{how:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_taken_sampler_name_is_told_without_overwrite() {
    let world = InMemory::start().await;
    let training = model(&world).await;
    let conflict = Fault::status(StatusCode::CONFLICT, WORDS);
    strike(&world, routes::SAVE_WEIGHTS_FOR_SAMPLER, conflict);
    let error = training.save_weights_for_sampler("step-1").await;
    let error = error.unwrap_err();
    assert!(error.to_string().contains("\"step-1\" is taken"), "{error}");
    assert!(!error.to_string().contains("overwrite"), "{error}");
    step(&training).within(HOUR).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_does_not_exist_is_no_taken_name() {
    let world = InMemory::start().await;
    let training = model(&world).await;
    let missing = Fault::status(StatusCode::BAD_REQUEST, "the folder does not exist");
    strike(&world, routes::SAVE_WEIGHTS, missing);
    let error = training.save_state("step-1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Rejected, "{error}");
    step(&training).within(HOUR).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_refused_call_that_changes_nothing_holds_nothing_up() {
    let world = InMemory::start().await;
    let training = model(&world).await;
    let refused = Fault::status(StatusCode::FORBIDDEN, "no");
    strike(&world, routes::SAVE_WEIGHTS, refused.clone());
    let save = training.save_state("first");
    let behind = step(&training);
    assert_eq!(save.await.unwrap_err().kind(), ErrorKind::PermissionDenied);
    behind.within(HOUR).await.unwrap();
    let first = Rule::on(routes::FORWARD_BACKWARD);
    world.parts.faults.add(first, refused);
    let pass = training.forward([datum(1)], LossFn::CrossEntropy);
    let behind = step(&training);
    assert_eq!(pass.await.unwrap_err().kind(), ErrorKind::PermissionDenied);
    behind.within(HOUR).await.unwrap();
    assert_eq!(numbers(&world), [1, 1, 2, 2]);
    assert_eq!(world.parts.engine.counts().steps, 2);
}

#[tokio::test(start_paused = true)]
async fn a_refused_call_that_changes_the_model_stops_what_is_queued() {
    for verb in ["optim_step", "load_state", "forward_backward"] {
        let world = InMemory::start().await;
        let training = model(&world).await;
        let saved = training.save_state("first").await.unwrap().path;
        let refused = Fault::status(StatusCode::BAD_REQUEST, "no");
        let behind = match verb {
            "optim_step" => {
                strike(&world, routes::OPTIM_STEP, refused);
                step(&training).await.unwrap_err();
                training.save_state("second")
            }
            "load_state" => {
                strike(&world, routes::LOAD_WEIGHTS, refused);
                training.load_state(&saved).await.unwrap_err();
                training.save_state("second")
            }
            _ => {
                strike(&world, routes::FORWARD_BACKWARD, refused);
                let pass = training.forward_backward([datum(1)], LossFn::CrossEntropy);
                pass.await.unwrap_err();
                training.save_state("second")
            }
        };
        let error = behind.await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Poisoned, "{verb}");
        training.recover().unwrap();
        step(&training).within(HOUR).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_save_of_unknown_outcome_still_stops_the_model() {
    let world = InMemory::start().await;
    let training = model(&world).await;
    let final_500 = Fault::status(StatusCode::INTERNAL_SERVER_ERROR, "broken").with_header(
        http::HeaderName::from_static("x-should-retry"),
        http::HeaderValue::from_static("false"),
    );
    strike(&world, routes::SAVE_WEIGHTS, final_500);
    let save = training.save_state("first");
    let behind = step(&training);
    assert_eq!(save.await.unwrap_err().kind(), ErrorKind::Server);
    assert_eq!(behind.await.unwrap_err().kind(), ErrorKind::Poisoned);
    assert!(training.recover().is_err());
}

/// The second save to arrive from now on is accepted under an id of its own.
fn promise_second_save(world: &InMemory) {
    let second = Rule::on(routes::SAVE_WEIGHTS).nth(2);
    let promise = json!({"request_id": "77", "future_id": "77"});
    let accepted = Fault::json(StatusCode::OK, &promise);
    world.parts.faults.add(second, accepted);
}

#[tokio::test(start_paused = true)]
async fn a_repeat_that_fails_over_its_own_save_finds_it() {
    let world = forgetful_world().await;
    let training = model(&world).await;
    // The reply is lost, the list does not show the save yet, and the repeat ends as a failed operation.
    strike(&world, routes::SAVE_WEIGHTS, Fault::cut_after());
    let list = format!("/api/v1/training_runs/{}/checkpoints", training.model_id());
    let empty = json!({"checkpoints": []});
    strike(&world, &list, Fault::json(StatusCode::OK, &empty));
    promise_second_save(&world);
    let failed = json!({"error": WORDS, "category": "user"});
    strike(
        &world,
        routes::RETRIEVE_FUTURE,
        Fault::json(StatusCode::OK, &failed),
    );
    let saved = training.save_state("step-1").await.unwrap();
    assert_eq!(saved.path.name(), "step-1");
    assert_eq!(numbers(&world), [1, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_repeat_that_fails_over_an_older_save_does_not_take_it() {
    let world = InMemory::start().await;
    let training = model(&world).await;
    training.save_state("step-1").await.unwrap();
    // The reply to the second save is lost; its repeat is accepted and fails.
    strike(&world, routes::SAVE_WEIGHTS, Fault::cut_before());
    promise_second_save(&world);
    say_taken(&world, Says::Failed);
    let error = training.save_state("step-1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert_eq!(error.request_id(), Some("77"));
    assert_eq!(numbers(&world), [1, 2, 2]);
}
