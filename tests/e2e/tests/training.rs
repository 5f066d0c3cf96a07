//! Order, chunks, retries and failures of training calls, in virtual time.

use http::StatusCode;
use tinkers::Sent;
use tinkers::prelude::*;
use tinkers::wire::routes;
use tinkers_e2e::training::{datum, model, numbers, step, submissions};
use tinkers_e2e::{Harness, SCRIPTED};
use tinkers_local::{Fault, Hint, Rule};

#[tokio::test(start_paused = true)]
async fn model_trains_saves_resumes_and_samples() {
    let harness = Harness::start().await;
    let training = model(&harness).await;
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
    assert_eq!(numbers(&harness), [1, 2, 3, 4, 5, 6, 7, 8]);
    let service = &harness.service;
    for creation in [
        service.create_training_client_from_state(saved.as_str()),
        service.create_training_client_from_state_with_optimizer(saved.as_str()),
    ] {
        let resumed = creation.await.unwrap();
        assert_ne!(resumed.model_id(), training.model_id());
        step(&resumed).await.unwrap();
    }
    assert_eq!(harness.engine.counts().loaded, 2);
}

#[tokio::test(start_paused = true)]
async fn training_calls_are_submitted_in_call_order() {
    let harness = Harness::start().await;
    let training = model(&harness).await;
    let mut handles = Vec::new();
    for _ in 0..50 {
        handles.push(training.forward_backward([datum(1)], LossFn::CrossEntropy));
        drop(step(&training));
    }
    for handle in handles.into_iter().rev() {
        handle.await.unwrap();
    }
    step(&training).await.unwrap();
    assert_eq!(numbers(&harness), (1..=101).collect::<Vec<_>>());
    let is_step: Vec<bool> = submissions(&harness)
        .iter()
        .map(|e| e.route == routes::OPTIM_STEP)
        .collect();
    assert!(
        is_step[..100].chunks(2).all(|pair| pair == [false, true]),
        "{is_step:?}"
    );
    assert_eq!(
        harness.engine.counts().steps,
        51,
        "dropping a handle does not cancel its step"
    );
}

#[tokio::test(start_paused = true)]
async fn recover_after_a_rejection_leaves_no_gap_in_the_sequence_numbers() {
    let harness = Harness::start().await;
    let training = model(&harness).await;
    harness.faults.add(
        Rule::on(routes::FORWARD_BACKWARD),
        Fault::status(StatusCode::FORBIDDEN, "no"),
    );
    let pass = training.forward_backward([datum(1)], LossFn::CrossEntropy);
    let queued = step(&training);
    assert_eq!(pass.await.unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert_eq!(queued.await.unwrap_err().kind(), ErrorKind::Poisoned);
    training.recover().unwrap();
    training
        .forward_backward([datum(1)], LossFn::CrossEntropy)
        .await
        .unwrap();
    step(&training).await.unwrap();
    assert_eq!(numbers(&harness), [1, 1, 2]);
    assert_eq!(harness.engine.counts().steps, 1);
}

#[tokio::test(start_paused = true)]
async fn submission_is_not_retried_before_the_retry_after_time() {
    let harness = Harness::start().await;
    let training = model(&harness).await;
    let refusal = Fault::rate_limited(Hint::Milliseconds(2500));
    harness
        .faults
        .add(Rule::on(routes::OPTIM_STEP).times(2), refusal);
    step(&training).await.unwrap();
    let at: Vec<f64> = submissions(&harness)
        .iter()
        .map(|entry| entry.at.since_origin().as_secs_f64())
        .collect();
    assert_eq!(at.len(), 3);
    assert!(at.windows(2).all(|pair| pair[1] - pair[0] >= 2.5), "{at:?}");
    assert_eq!(harness.engine.counts().steps, 1);
}

#[tokio::test(start_paused = true)]
async fn later_calls_succeed_after_a_failed_operation() {
    let harness = Harness::start().await;
    let training = model(&harness).await;
    let failed = serde_json::json!({"error": "out of memory", "category": "server"});
    harness.faults.add(
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
    assert_eq!(numbers(&harness), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn unloaded_model_rejects_calls() {
    let harness = Harness::start().await;
    let training = model(&harness).await;
    step(&training).await.unwrap();
    training.unload().await.unwrap();
    assert_eq!(harness.engine.counts().unloaded, 1);
    let error = step(&training).await.unwrap_err();
    assert_eq!(error.sent(), Sent::Answered, "{error}");
    // Unloading the model again has no effect.
    training.unload().await.unwrap();
    assert_eq!(harness.engine.counts().unloaded, 1);
}
