//! Replies that are lost: what is repeated, what is looked for, and where nobody can tell.

use std::collections::BTreeSet;

use http::StatusCode;
use serde_json::json;
use tinkers::Sent;
use tinkers::prelude::*;
use tinkers::wire::routes;
use tinkers_e2e::InMemory;
use tinkers_e2e::training::{
    datum, forgetful_world, known_model, model, numbers, step, strike, submissions,
};
use tinkers_local::{Fault, Rule};

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
    let world = forgetful_world().await;
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
    let world = forgetful_world().await;
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
    let world = forgetful_world().await;
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

/// A conflict as SkyRL words it.
fn exists() -> Fault {
    Fault::status(StatusCode::CONFLICT, "Checkpoint 'x' already exists")
}

#[tokio::test(start_paused = true)]
async fn a_conflict_over_a_number_leaves_no_way_back_and_one_over_a_name_does() {
    let world = InMemory::start().await;
    let training = model(&world).await;
    training.save_state("taken").await.unwrap();
    let error = training.save_state("taken").await.unwrap_err();
    assert_eq!(
        (error.kind(), error.sent()),
        (ErrorKind::Conflict, Sent::Answered)
    );
    // The server accepted it and it failed, so its number is used and there is nothing to recover from.
    step(&training).await.unwrap();
    assert_eq!(numbers(&world), [1, 2, 3]);

    let used = "seq_id 4 was used by another request of this model";
    strike(
        &world,
        routes::OPTIM_STEP,
        Fault::status(StatusCode::CONFLICT, used),
    );
    assert_eq!(
        step(&training).await.unwrap_err().kind(),
        ErrorKind::Conflict
    );
    assert!(training.recover().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_refusal_after_a_lost_reply_leaves_no_way_back() {
    let world = InMemory::start().await;
    let training = model(&world).await;
    let steps = || Rule::on(routes::OPTIM_STEP);
    world.parts.faults.add(steps(), Fault::cut_after());
    let revoked = Fault::status(StatusCode::FORBIDDEN, "key revoked");
    world.parts.faults.add(steps().nth(2), revoked);
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
    assert_eq!(numbers(&world), [1, 1]);
}

#[tokio::test(start_paused = true)]
async fn without_deduplication_what_is_the_same_twice_is_repeated_freely() {
    let world = forgetful_world().await;
    let training = known_model(&world).await;
    let saved = training.save_state("start").await.unwrap().path;
    for route in [
        routes::LOAD_WEIGHTS,
        routes::SAVE_WEIGHTS,
        routes::SAVE_WEIGHTS_FOR_SAMPLER,
        routes::FORWARD_BACKWARD,
    ] {
        strike(&world, route, Fault::cut_after());
    }
    training.load_state_with_optimizer(&saved).await.unwrap();
    let again = SaveState::named("start").overwrite();
    assert_eq!(training.save_state(again).await.unwrap().path, saved);
    training
        .save_weights_and_get_sampling_client()
        .await
        .unwrap();
    let forward = training.forward([datum(1)], LossFn::CrossEntropy);
    forward.await.unwrap();
    step(&training).await.unwrap();
    assert_eq!(numbers(&world), [1, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7]);
    let bodies: BTreeSet<_> = submissions(&world)
        .iter()
        .map(|entry| (entry.seq_id, entry.digest))
        .collect();
    assert_eq!(bodies.len(), 7, "every retry of a number has the same body");
}

#[tokio::test(start_paused = true)]
async fn a_lost_save_does_not_take_an_older_checkpoint_of_its_name_for_itself() {
    let world = forgetful_world().await;
    let training = model(&world).await;
    training.save_state("latest").await.unwrap();
    strike(&world, routes::SAVE_WEIGHTS, Fault::cut_before());
    let error = training.save_state("latest").await.unwrap_err();
    // The repeat was accepted and failed.
    assert_eq!(
        (error.kind(), error.sent()),
        (ErrorKind::Conflict, Sent::Answered)
    );
    assert_eq!(world.parts.engine.counts().saves, 1);
}

#[tokio::test(start_paused = true)]
async fn a_lost_save_is_found_in_a_list_of_bare_names() {
    let world = forgetful_world().await;
    let training = model(&world).await;
    let run = training.model_id();
    let list = |names: &[(&str, &str)]| {
        let one = |(name, kind): &(&str, &str)| {
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
        let all: Vec<_> = names.iter().map(one).collect();
        Fault::json(StatusCode::OK, &json!({ "checkpoints": all }))
    };
    let lists = || Rule::on(routes::run_checkpoints(run));
    let saves = || Rule::on(routes::SAVE_WEIGHTS);

    world.parts.faults.add(saves(), Fault::cut_after());
    let both = list(&[("x", "sampler"), ("x", "training")]);
    world.parts.faults.add(lists(), both);
    let found = training.save_state("x").await.unwrap().path;
    assert_eq!(found.as_str(), format!("tinker://{run}/weights/x"));

    // It is still being written when it is looked for, and the repeat meets it.
    world.parts.faults.add(saves(), Fault::cut_after());
    world.parts.faults.add(saves().nth(2), exists());
    world
        .parts
        .faults
        .add(lists().times(3), list(&[("y", "sampler")]));
    world
        .parts
        .faults
        .add(lists().nth(4), list(&[("y", "training")]));
    let found = training.save_state("y").await.unwrap().path;
    assert_eq!(found.name(), "y");
    step(&training).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lost_save_that_cannot_be_looked_for_stays_a_lost_save() {
    let world = forgetful_world().await;
    let training = model(&world).await;
    strike(&world, routes::SAVE_WEIGHTS, Fault::cut_after());
    let list = routes::run_checkpoints(training.model_id());
    strike(
        &world,
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
    assert_eq!(numbers(&world), [1]);
}

#[tokio::test(start_paused = true)]
async fn the_look_and_the_repeat_go_under_the_name_of_the_call() {
    let world = forgetful_world().await;
    let training = model(&world).await;
    strike(&world, routes::SAVE_WEIGHTS, Fault::cut_before());
    training.save_state("x").await.unwrap();
    let list = routes::run_checkpoints(training.model_id());
    let mut seen = world.parts.journal.of(routes::SAVE_WEIGHTS);
    seen.extend(world.parts.journal.of(&list));
    assert_eq!(seen.len(), 3);
    for entry in seen {
        assert_eq!(
            entry.headers["x-sdk-method"], "TrainingClient.save_state",
            "{}",
            entry.route
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_refuses_the_repeat_of_a_save_has_it() {
    let world = forgetful_world().await;
    let training = model(&world).await;
    // Existing names are refused there, also with overwrite.
    let saves = || Rule::on(routes::SAVE_WEIGHTS);
    world.parts.faults.add(saves(), Fault::cut_after());
    world.parts.faults.add(saves().nth(2), exists());
    let save = SaveState::named("x").overwrite();
    assert_eq!(training.save_state(save).await.unwrap().path.name(), "x");

    // An unnamed one is made again under another number of the session.
    let unnamed = || Rule::on(routes::SAVE_WEIGHTS_FOR_SAMPLER);
    world.parts.faults.add(unnamed(), Fault::cut_before());
    world.parts.faults.add(unnamed().nth(2), exists());
    training
        .save_weights_and_get_sampling_client()
        .await
        .unwrap();
    step(&training).await.unwrap();
    assert_eq!(numbers(&world), [1, 1, 2, 2, 2, 3]);
}

/// A page of a proxy in place of the server's answer, which acted on the request.
fn spoilt() -> Fault {
    Fault::truncate()
}

#[tokio::test(start_paused = true)]
async fn an_undecodable_acceptance_is_repeated_where_that_is_safe() {
    let world = InMemory::start().await;
    for route in [
        routes::CREATE_MODEL,
        routes::FORWARD_BACKWARD,
        routes::OPTIM_STEP,
        routes::SAVE_WEIGHTS,
        routes::LOAD_WEIGHTS,
        routes::CREATE_SAMPLING_SESSION,
        routes::ASAMPLE,
    ] {
        world.parts.faults.add(Rule::on(route).times(2), spoilt());
    }
    let training = model(&world).await;
    let pass = training.forward_backward([datum(1)], LossFn::CrossEntropy);
    let behind = step(&training);
    pass.await.unwrap();
    behind.await.unwrap();
    let saved = training.save_state("once").await.unwrap().path;
    training.load_state(&saved).await.unwrap();
    let sampler = world.service.sampling(tinkers_e2e::SCRIPTED).create().await;
    sampler.unwrap().sample(vec![1]).await.unwrap();
    assert_eq!(numbers(&world), [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]);
    let counts = world.parts.engine.counts();
    assert_eq!((counts.backwards, counts.steps, counts.saves), (1, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn an_undecodable_acceptance_stops_a_model_that_may_apply_twice() {
    let world = forgetful_world().await;
    let training = model(&world).await;
    strike(&world, routes::OPTIM_STEP, spoilt());
    let error = step(&training).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
    assert_eq!(
        step(&training).await.unwrap_err().kind(),
        ErrorKind::Poisoned
    );
    assert!(training.recover().is_err());
    assert_eq!(numbers(&world), [1]);
}
