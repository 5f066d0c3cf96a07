//! Passes of several chunks: their order, and what is told and when of the ones that fail.

use std::time::Duration;

use http::StatusCode;
use serde_json::json;
use tinkers::Sent;
use tinkers::prelude::*;
use tinkers::wire::routes;
use tinkers_e2e::InMemory;
use tinkers_e2e::training::{data, model, numbers, step, submissions, until, world_with};
use tinkers_local::{Fault, LocalConfig, Rule, Script};
use tinkers_session::SessionOptions;

/// A world with one datum to a chunk, whose server says whether chunks go together.
async fn chunked(parallel: bool, deduplicates: bool) -> InMemory {
    let config = json!({
        "fwdbwd_max_chunk_len": 1,
        "parallel_fwdbwd_chunks": parallel,
        "deduplicates_seq_ids": deduplicates,
    });
    let add = |faults: &tinkers_local::Faults| {
        faults.add(
            Rule::on(routes::CLIENT_CONFIG),
            Fault::json(StatusCode::OK, &config),
        );
    };
    let (script, options) = (Script::default(), SessionOptions::default());
    InMemory::faulty(script, LocalConfig::default(), options, add).await
}

/// Strikes the `nth` pass to arrive.
fn strike_pass(world: &InMemory, nth: u64, fault: Fault) {
    let rule = Rule::on(routes::FORWARD_BACKWARD).nth(nth);
    world.parts.faults.add(rule, fault);
}

fn refusal() -> Fault {
    Fault::status(StatusCode::FORBIDDEN, "not this one")
}

fn assert_says(error: &Error, all: &[&str]) {
    for words in all {
        assert!(error.to_string().contains(words), "{words:?} in {error}");
    }
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
async fn a_refused_chunk_is_told_at_once_and_the_others_are_seen_to_their_end() {
    let world = chunked(true, true).await;
    let training = model(&world).await;
    let late = Duration::from_secs(20);
    // Chunk 3 is refused when it comes for the second time, and chunk 4 is answered late.
    strike_pass(&world, 2, Fault::refuse());
    strike_pass(&world, 4, refusal());
    strike_pass(&world, 3, Fault::delay_answer(late));
    let began = world.server.time().now();
    let pass = training.forward_backward(data(4), LossFn::CrossEntropy);
    let behind = step(&training);
    let error = pass.await.unwrap_err();
    assert!(world.server.time().now().since(began) < late);
    assert_eq!(
        (error.kind(), error.sent()),
        (ErrorKind::PermissionDenied, Sent::MaybeSent)
    );
    assert_says(
        &error,
        &[
            "3 failed",
            "accepted [2]",
            "[4] are in flight",
            "not this one",
            "the first was not accepted",
        ],
    );
    let behind = behind.await.unwrap_err();
    assert_eq!(
        (behind.kind(), behind.sent()),
        (ErrorKind::Poisoned, Sent::NotSent)
    );
    let later = step(&training).await.unwrap_err();
    assert_says(&later, &["not this one"]);
    assert!(training.recover().is_err(), "one was accepted");
    // The last one is not cut off: the server's answer to it arrives.
    until(&world, || {
        let mut sent = submissions(&world).into_iter();
        sent.any(|entry| entry.seq_id == Some(4) && entry.status == Some(200))
    })
    .await;
    assert_eq!(
        numbers(&world),
        [2, 3, 4, 3],
        "neither the first chunk nor what came behind was sent"
    );
    assert_eq!(world.parts.engine.counts().backwards, 0);
}

#[tokio::test(start_paused = true)]
async fn when_all_chunks_that_were_sent_are_refused_there_is_a_way_back_once_all_have_ended() {
    let world = chunked(true, true).await;
    let training = model(&world).await;
    strike_pass(&world, 1, refusal());
    strike_pass(
        &world,
        2,
        Fault::rate_limited(tinkers_local::Hint::Seconds(5)),
    );
    strike_pass(
        &world,
        3,
        Fault::rate_limited(tinkers_local::Hint::Seconds(5)),
    );
    strike_pass(&world, 4, refusal());
    strike_pass(&world, 5, refusal());
    let pass = training.forward_backward(data(4), LossFn::CrossEntropy);
    let error = pass.await.unwrap_err();
    assert_says(&error, &["2 failed", "accepted []", "[3, 4] are in flight"]);
    assert_says(&training.recover().unwrap_err(), &["have not ended"]);
    until(&world, || training.recover().is_ok()).await;
    step(&training).await.unwrap();
    assert_eq!(submissions(&world).last().unwrap().seq_id, Some(1));
    assert_eq!(world.parts.engine.counts().steps, 1);
}

#[tokio::test(start_paused = true)]
async fn of_several_failed_chunks_every_one_has_a_say_in_the_way_back() {
    let world = chunked(true, false).await;
    let training = model(&world).await;
    strike_pass(&world, 1, refusal());
    strike_pass(&world, 2, Fault::cut_after());
    let pass = training.forward_backward(data(3), LossFn::CrossEntropy);
    let behind = step(&training);
    assert_says(&pass.await.unwrap_err(), &["2 failed", "not this one"]);
    assert_eq!(behind.await.unwrap_err().kind(), ErrorKind::Poisoned);
    until(&world, || {
        let error = training.recover().unwrap_err();
        error.to_string().contains("last checkpoint")
    })
    .await;
    assert_eq!(numbers(&world), [2, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_first_chunk_that_is_lost_may_have_started_the_others() {
    let world = chunked(true, false).await;
    let training = model(&world).await;
    strike_pass(&world, 3, Fault::cut_after());
    let pass = training.forward_backward(data(3), LossFn::CrossEntropy);
    let error = pass.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown);
    assert_says(
        &error,
        &[
            "1 failed",
            "accepted [2, 3]",
            "the first may have been accepted",
        ],
    );
    assert!(training.recover().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_forward_pass_speaks_of_no_gradients() {
    let world = chunked(true, true).await;
    let training = model(&world).await;
    strike_pass(&world, 2, refusal());
    let error = training.forward(data(3), LossFn::CrossEntropy).await;
    assert_says(&error.unwrap_err(), &["adds no gradients"]);
}

#[tokio::test(start_paused = true)]
async fn a_forward_pass_in_chunks_goes_on_when_all_are_refused() {
    let world = chunked(true, true).await;
    let training = model(&world).await;
    let every = Rule::on(routes::FORWARD_BACKWARD).times(2);
    world.parts.faults.add(every, refusal());
    let pass = training.forward(data(3), LossFn::CrossEntropy);
    let behind = step(&training);
    pass.await.unwrap_err();
    behind.within(Duration::from_secs(3600)).await.unwrap();
    assert_eq!(world.parts.engine.counts().steps, 1);
    // One that was accepted leaves a hole.
    strike_pass(&world, 1, refusal());
    let pass = training.forward(data(3), LossFn::CrossEntropy);
    let behind = step(&training);
    pass.await.unwrap_err();
    assert_eq!(behind.await.unwrap_err().kind(), ErrorKind::Poisoned);
    until(&world, || training.recover().is_err()).await;
}

#[tokio::test(start_paused = true)]
async fn chunks_that_go_one_by_one_keep_their_order_and_stop_at_the_first_failure() {
    let world = chunked(false, true).await;
    let training = model(&world).await;
    let pass = training.forward_backward(data(3), LossFn::CrossEntropy);
    assert_eq!(pass.await.unwrap().loss_fn_outputs.len(), 3);
    step(&training).await.unwrap();
    assert_eq!(numbers(&world), [1, 2, 3, 4]);

    strike_pass(&world, 2, refusal());
    let pass = training.forward_backward(data(3), LossFn::CrossEntropy);
    assert_says(
        &pass.await.unwrap_err(),
        &["6 failed", "accepted [5]", "the first was accepted"],
    );
    assert!(training.recover().is_err());
    assert_eq!(numbers(&world), [1, 2, 3, 4, 5, 6]);
}

#[tokio::test(start_paused = true)]
async fn one_by_one_a_first_chunk_that_is_refused_leaves_nothing_and_one_that_is_lost_may() {
    let world = chunked(false, false).await;
    let training = model(&world).await;
    strike_pass(&world, 1, refusal());
    let pass = training.forward_backward(data(2), LossFn::CrossEntropy);
    assert_eq!(pass.await.unwrap_err().sent(), Sent::Answered);
    training.recover().unwrap();

    strike_pass(&world, 1, Fault::cut_after());
    let pass = training.forward_backward(data(2), LossFn::CrossEntropy);
    assert_says(
        &pass.await.unwrap_err(),
        &[
            "1 failed",
            "accepted []",
            "the first may have been accepted",
        ],
    );
    assert!(training.recover().is_err());
    assert_eq!(numbers(&world), [1, 1]);
}

#[tokio::test(start_paused = true)]
async fn the_failed_result_of_a_chunk_is_told_at_once_and_training_goes_on() {
    let world = chunked(true, true).await;
    let training = model(&world).await;
    let failed = json!({"error": "bad", "category": "user"});
    let polls = || Rule::on(routes::RETRIEVE_FUTURE);
    world
        .parts
        .faults
        .add(polls(), Fault::poll_timeout("active", ""));
    world
        .parts
        .faults
        .add(polls().nth(2), Fault::json(StatusCode::OK, &failed));
    world
        .parts
        .faults
        .add(polls().nth(3).times(400), Fault::poll_timeout("active", ""));
    let pass = training.forward_backward(data(3), LossFn::CrossEntropy);
    let error = pass.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OperationFailed);
    assert_says(
        &error,
        &["of the 3 chunks", "2 failed", "when [] were done"],
    );
    world.parts.faults.clear();
    step(&training).await.unwrap();
    assert_eq!(numbers(&world), [2, 3, 1, 4]);
}
