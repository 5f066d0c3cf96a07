//! Replies that are lost: what is repeated, what is looked for, and where nobody can tell.

use std::collections::BTreeSet;

use http::StatusCode;
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
