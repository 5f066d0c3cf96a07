//! Training batches that are split into several chunks: order, failures and recovery.

use std::time::Duration;

use http::StatusCode;
use serde_json::json;
use tinkers::Sent;
use tinkers::prelude::*;
use tinkers::wire::routes;
use tinkers_e2e::training::{
    data, harness_with, inject_into_pass, model, numbers, step, submissions, wait_until,
};
use tinkers_e2e::{Harness, Setup};
use tinkers_local::{Fault, Hint, Rule};

/// Starts a server and a client. The server announces that each chunk of a batch may contain only
/// one datum. `parallel` and `deduplicates` set whether the server also announces that it accepts
/// chunks in parallel, and that it deduplicates requests.
async fn harness_with_chunks(parallel: bool, deduplicates: bool) -> Harness {
    let config = json!({
        "fwdbwd_max_chunk_len": 1,
        "parallel_fwdbwd_chunks": parallel,
        "deduplicates_seq_ids": deduplicates,
    });
    let setup = Setup::default();
    let response = Fault::json(StatusCode::OK, &config);
    setup.faults.add(Rule::on(routes::CLIENT_CONFIG), response);
    Harness::with(setup).await
}

fn rejection() -> Fault {
    Fault::status(StatusCode::FORBIDDEN, "not this one")
}

fn assert_contains(error: &Error, parts: &[&str]) {
    let text = format!("{error:#}");
    for part in parts {
        assert!(text.contains(part), "{part:?} in {text}");
    }
}

#[tokio::test(start_paused = true)]
async fn first_chunk_is_sent_last_but_results_are_in_input_order() {
    let harness = harness_with(|config| config.chunk_len = 2).await;
    let training = model(&harness).await;
    let data: Vec<Datum> = (2..9)
        .map(|n| Datum::next_token(&vec![1; n], vec![1.0; n - 1]).unwrap())
        .collect();
    let pass = training.forward_backward(data, LossFn::CrossEntropy);
    let queued = step(&training);
    let result = pass.await.unwrap();
    queued.await.unwrap();
    let lengths: Vec<usize> = result
        .loss_fn_outputs
        .iter()
        .map(|output| output["logprobs"].values().len())
        .collect();
    assert_eq!(lengths, [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(numbers(&harness), [2, 3, 4, 1, 5]);
}

#[tokio::test(start_paused = true)]
async fn rejected_chunk_fails_the_call_while_other_chunks_finish() {
    let harness = harness_with_chunks(true, true).await;
    let training = model(&harness).await;
    let late = Duration::from_secs(20);
    // Chunk 3 fails to connect and is rejected on retry. The response to chunk 4 arrives late.
    inject_into_pass(&harness, 2, Fault::refuse());
    inject_into_pass(&harness, 4, rejection());
    inject_into_pass(&harness, 3, Fault::delay_answer(late));
    let began = harness.server.time().now();
    let pass = training.forward_backward(data(4), LossFn::CrossEntropy);
    let queued = step(&training);
    let error = pass.await.unwrap_err();
    assert!(harness.server.time().now().since(began) < late);
    assert_eq!(
        (error.kind(), error.sent()),
        (ErrorKind::PermissionDenied, Sent::MaybeSent)
    );
    assert_contains(
        &error,
        &[
            "3 failed",
            "accepted [2]",
            "[4] are in flight",
            "not this one",
            "the first was not accepted",
        ],
    );
    let queued = queued.await.unwrap_err();
    assert_eq!(
        (queued.kind(), queued.sent()),
        (ErrorKind::Poisoned, Sent::NotSent)
    );
    let later = step(&training).await.unwrap_err();
    assert_contains(&later, &["not this one"]);
    assert!(training.recover().is_err(), "one chunk was accepted");
    // The client waits for the response to chunk 4.
    wait_until(&harness, || {
        let mut sent = submissions(&harness).into_iter();
        sent.any(|entry| entry.seq_id == Some(4) && entry.status == Some(200))
    })
    .await;
    assert_eq!(
        numbers(&harness),
        [2, 3, 4, 3],
        "neither the first chunk nor the queued step was sent"
    );
    assert_eq!(harness.engine.counts().backwards, 0);
}

#[tokio::test(start_paused = true)]
async fn model_can_be_recovered_if_all_sent_chunks_were_rejected() {
    let harness = harness_with_chunks(true, true).await;
    let training = model(&harness).await;
    inject_into_pass(&harness, 1, rejection());
    inject_into_pass(&harness, 2, Fault::rate_limited(Hint::Seconds(5)));
    inject_into_pass(&harness, 3, Fault::rate_limited(Hint::Seconds(5)));
    inject_into_pass(&harness, 4, rejection());
    inject_into_pass(&harness, 5, rejection());
    let pass = training.forward_backward(data(4), LossFn::CrossEntropy);
    let error = pass.await.unwrap_err();
    assert_contains(&error, &["2 failed", "accepted []", "[3, 4] are in flight"]);
    assert_contains(&training.recover().unwrap_err(), &["still in flight"]);
    wait_until(&harness, || training.recover().is_ok()).await;
    step(&training).await.unwrap();
    assert_eq!(submissions(&harness).last().unwrap().seq_id, Some(1));
    assert_eq!(harness.engine.counts().steps, 1);
}

#[tokio::test(start_paused = true)]
async fn one_lost_reply_among_rejected_chunks_prevents_model_recovery() {
    let harness = harness_with_chunks(true, false).await;
    let training = model(&harness).await;
    inject_into_pass(&harness, 1, rejection());
    inject_into_pass(&harness, 2, Fault::cut_after());
    let pass = training.forward_backward(data(3), LossFn::CrossEntropy);
    let queued = step(&training);
    assert_contains(&pass.await.unwrap_err(), &["2 failed", "not this one"]);
    assert_eq!(queued.await.unwrap_err().kind(), ErrorKind::Poisoned);
    wait_until(&harness, || {
        let error = training.recover().unwrap_err();
        error.to_string().contains("last checkpoint")
    })
    .await;
    assert_eq!(numbers(&harness), [2, 3]);
}

#[tokio::test(start_paused = true)]
async fn lost_reply_to_the_first_chunk_prevents_recovery_of_the_model() {
    let harness = harness_with_chunks(true, false).await;
    let training = model(&harness).await;
    inject_into_pass(&harness, 3, Fault::cut_after());
    let pass = training.forward_backward(data(3), LossFn::CrossEntropy);
    let error = pass.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown);
    assert_contains(
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
async fn failed_split_forward_pass_reports_that_no_gradients_were_added() {
    let harness = harness_with_chunks(true, true).await;
    let training = model(&harness).await;
    inject_into_pass(&harness, 2, rejection());
    let error = training.forward(data(3), LossFn::CrossEntropy).await;
    assert_contains(&error.unwrap_err(), &["adds no gradients"]);
}

#[tokio::test(start_paused = true)]
async fn later_calls_succeed_if_all_chunks_of_a_forward_pass_are_rejected() {
    let harness = harness_with_chunks(true, true).await;
    let training = model(&harness).await;
    let all_chunks = Rule::on(routes::FORWARD_BACKWARD).times(2);
    harness.faults.add(all_chunks, rejection());
    let pass = training.forward(data(3), LossFn::CrossEntropy);
    let queued = step(&training);
    pass.await.unwrap_err();
    queued.within(Duration::from_secs(3600)).await.unwrap();
    assert_eq!(harness.engine.counts().steps, 1);
    // One accepted chunk leaves a gap in the sequence numbers.
    inject_into_pass(&harness, 1, rejection());
    let pass = training.forward(data(3), LossFn::CrossEntropy);
    let queued = step(&training);
    pass.await.unwrap_err();
    assert_eq!(queued.await.unwrap_err().kind(), ErrorKind::Poisoned);
    wait_until(&harness, || training.recover().is_err()).await;
}

#[tokio::test(start_paused = true)]
async fn sequential_chunks_stop_at_the_first_failure() {
    let harness = harness_with_chunks(false, true).await;
    let training = model(&harness).await;
    let pass = training.forward_backward(data(3), LossFn::CrossEntropy);
    assert_eq!(pass.await.unwrap().loss_fn_outputs.len(), 3);
    step(&training).await.unwrap();
    assert_eq!(numbers(&harness), [1, 2, 3, 4]);

    inject_into_pass(&harness, 2, rejection());
    let pass = training.forward_backward(data(3), LossFn::CrossEntropy);
    assert_contains(
        &pass.await.unwrap_err(),
        &["6 failed", "accepted [5]", "the first was accepted"],
    );
    assert!(training.recover().is_err());
    assert_eq!(numbers(&harness), [1, 2, 3, 4, 5, 6]);
}

#[tokio::test(start_paused = true)]
async fn recover_succeeds_after_a_rejected_first_chunk_but_not_a_lost_one() {
    let harness = harness_with_chunks(false, false).await;
    let training = model(&harness).await;
    inject_into_pass(&harness, 1, rejection());
    let pass = training.forward_backward(data(2), LossFn::CrossEntropy);
    assert_eq!(pass.await.unwrap_err().sent(), Sent::Answered);
    training.recover().unwrap();

    inject_into_pass(&harness, 1, Fault::cut_after());
    let pass = training.forward_backward(data(2), LossFn::CrossEntropy);
    assert_contains(
        &pass.await.unwrap_err(),
        &[
            "1 failed",
            "accepted []",
            "the first may have been accepted",
        ],
    );
    assert!(training.recover().is_err());
    assert_eq!(numbers(&harness), [1, 1]);
}

#[tokio::test(start_paused = true)]
async fn failed_operation_of_one_chunk_fails_the_call_at_once() {
    let harness = harness_with_chunks(true, true).await;
    let training = model(&harness).await;
    let failed = json!({"error": "bad", "category": "user"});
    let polls = || Rule::on(routes::RETRIEVE_FUTURE);
    harness
        .faults
        .add(polls(), Fault::poll_timeout("active", ""));
    harness
        .faults
        .add(polls().nth(2), Fault::json(StatusCode::OK, &failed));
    harness
        .faults
        .add(polls().nth(3).times(400), Fault::poll_timeout("active", ""));
    let pass = training.forward_backward(data(3), LossFn::CrossEntropy);
    let error = pass.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OperationFailed);
    assert_contains(
        &error,
        &["of the 3 chunks", "2 failed", "when [] were done"],
    );
    harness.faults.clear();
    step(&training).await.unwrap();
    assert_eq!(numbers(&harness), [2, 3, 1, 4]);
}
