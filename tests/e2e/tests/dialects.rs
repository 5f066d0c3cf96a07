//! Clients of servers that imitate other implementations: results that expire, long polls, and
//! failed operations that are reported by a status code.

use std::time::Duration;

use tinkers::prelude::*;
use tinkers::wire::routes;
use tinkers_e2e::training::{datum, harness_with, inject, model, step};
use tinkers_e2e::{Harness, SCRIPTED};
use tinkers_local::{Dialect, Expiry, Fault, Rule};

/// Starts a server that deletes a result after its first delivery. Later polls for the result are
/// answered with 404.
async fn harness_with_expiring_results() -> Harness {
    harness_with(|config| {
        config.dialect = Dialect::skyrl_main();
        config.dialect.expiry = Expiry::OnceFetched;
    })
    .await
}

/// Lets the server handle the next poll for a result, but drops the response.
fn lose_next_poll(harness: &Harness) {
    inject(harness, routes::RETRIEVE_FUTURE, Fault::cut_after());
}

#[tokio::test(start_paused = true)]
async fn sample_whose_result_is_lost_is_submitted_again() {
    let harness = harness_with_expiring_results().await;
    let sampler = harness
        .service
        .create_sampling_client(SCRIPTED)
        .await
        .unwrap();
    lose_next_poll(&harness);
    let reply = sampler.sample(vec![1, 2]).max_tokens(3).await.unwrap();
    assert_eq!(reply.sequences[0].tokens.len(), 3);
    assert_eq!(harness.journal.of(routes::ASAMPLE).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn forward_backward_whose_result_is_lost_is_not_submitted_again() {
    let harness = harness_with_expiring_results().await;
    let training = model(&harness).await;
    lose_next_poll(&harness);
    let pass = training.forward_backward([datum(1)], LossFn::CrossEntropy);
    let error = pass.await.unwrap_err();
    assert_eq!(
        (error.kind(), error.status()),
        (ErrorKind::NotFound, Some(404))
    );
    assert!(error.request_id().is_some(), "{error}");
    assert_eq!(harness.engine.counts().backwards, 1);
    // The server applied the pass, so later calls succeed.
    step(&training).await.unwrap();
    assert_eq!(harness.engine.counts().backwards, 1);
}

#[tokio::test(start_paused = true)]
async fn poll_that_exceeds_its_timeout_is_repeated() {
    let harness = harness_with(|config| {
        config.dialect = Dialect::skyrl();
        config.dialect.long_poll = Some(Duration::from_secs(300));
    })
    .await;
    let training = model(&harness).await;
    let delay = Fault::delay(Duration::from_secs(400));
    harness
        .faults
        .add(Rule::on(routes::RETRIEVE_FUTURE).nth(1), delay);
    let pass = training.forward_backward([datum(1)], LossFn::CrossEntropy);
    pass.await.unwrap();
    assert_eq!(harness.engine.counts().backwards, 1);
}

#[tokio::test(start_paused = true)]
async fn poll_with_400_422_or_500_reports_a_failed_operation() {
    for status in [400, 422, 500] {
        let harness = harness_with(|config| config.dialect = Dialect::skyrl_main()).await;
        let training = model(&harness).await;
        let status = http::StatusCode::from_u16(status).unwrap();
        let failure = Fault::status(status, "CUDA out of memory");
        let polls = Rule::on(routes::RETRIEVE_FUTURE).times(20);
        harness.faults.add(polls, failure);
        let clock = harness.server.time();
        let began = clock.now();
        let pass = training.forward_backward([datum(1)], LossFn::CrossEntropy);
        let error = pass.await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OperationFailed, "{error}");
        assert!(error.to_string().contains("CUDA out of memory"), "{error}");
        let took = clock.now().since(began);
        assert!(took < Duration::from_secs(60), "{status}: {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn poll_answered_with_500_is_retried_in_the_default_dialect() {
    let harness = Harness::start().await;
    let training = model(&harness).await;
    let status = http::StatusCode::INTERNAL_SERVER_ERROR;
    let failure = Fault::status(status, "the database is being moved");
    let polls = Rule::on(routes::RETRIEVE_FUTURE).times(20);
    harness.faults.add(polls, failure);
    let pass = training.forward_backward([datum(1)], LossFn::CrossEntropy);
    pass.await.unwrap();
    assert_eq!(harness.engine.counts().backwards, 1);
}

/// Starts a server that behaves like the API implementation that `dialect` describes, and saves a
/// checkpoint on it. Returns the path of the checkpoint.
async fn harness_with_checkpoint(dialect: Dialect) -> (Harness, String) {
    let harness = harness_with(|config| config.dialect = dialect).await;
    let training = model(&harness).await;
    let pass = training.forward_backward([datum(1)], LossFn::CrossEntropy);
    pass.await.unwrap();
    let saved = training.save_state("kept").await.unwrap();
    (harness, saved.path.to_string())
}

/// Creates a model from the checkpoint at `path`.
async fn resume(harness: &Harness, path: &str) -> Result<TrainingClient, Error> {
    let resumed = harness
        .service
        .create_training_client_from_state_with_optimizer(path);
    resumed.await
}

#[tokio::test(start_paused = true)]
async fn resuming_a_model_creates_it_and_then_loads_the_checkpoint() {
    let (harness, path) = harness_with_checkpoint(Dialect::skyrl()).await;
    let resumed = resume(&harness, &path).await.unwrap();
    assert_eq!(resumed.info().base_model(), Some(SCRIPTED));
    assert_eq!(harness.engine.counts().loaded, 1);
    step(&resumed).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn missing_checkpoint_is_reported_before_a_model_is_created() {
    let (harness, _) = harness_with_checkpoint(Dialect::skyrl()).await;
    let error = resume(&harness, "tinker://no-such-run/weights/nothing").await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(
        error
            .to_string()
            .contains("cannot create a model from a checkpoint"),
        "{error}"
    );
    assert_eq!(harness.journal.of(routes::CREATE_MODEL).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn failed_checkpoint_load_unloads_the_new_model() {
    let (harness, path) = harness_with_checkpoint(Dialect::skyrl()).await;
    let refusal = Fault::status(http::StatusCode::NOT_FOUND, "the disk is gone");
    harness
        .faults
        .add(Rule::on(routes::LOAD_WEIGHTS).nth(2), refusal);
    let error = resume(&harness, &path).await.unwrap_err();
    assert!(error.to_string().contains("the disk is gone"), "{error}");
    assert_eq!(harness.engine.counts().unloaded, 1);
}

#[tokio::test(start_paused = true)]
async fn resuming_from_a_checkpoint_without_a_rank_is_unsupported() {
    let (harness, path) = harness_with_checkpoint(Dialect::skyrl()).await;
    let info = serde_json::json!({ "base_model": SCRIPTED, "is_lora": true });
    let info = Fault::json(http::StatusCode::OK, &info);
    harness.faults.add(Rule::on(routes::WEIGHTS_INFO), info);
    let error = resume(&harness, &path).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert_eq!(harness.journal.of(routes::CREATE_MODEL).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn failed_checkpoint_load_on_a_tinker_server_creates_no_model() {
    let (harness, path) = harness_with_checkpoint(Dialect::tinker()).await;
    let failure = Fault::status(
        http::StatusCode::BAD_REQUEST,
        "the model of model_id m is gone",
    );
    let polls = Rule::on(routes::RETRIEVE_FUTURE).times(20);
    harness.faults.add(polls, failure);
    let error = resume(&harness, &path).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OperationFailed, "{error}");
    assert!(
        !error.to_string().contains("cannot create a model"),
        "{error}"
    );
    assert_eq!(harness.journal.of(routes::CREATE_MODEL).len(), 1);
}
