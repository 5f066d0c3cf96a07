//! What servers of other makes do to whole clients: results that are gone, polls that are held for long, failures as statuses.

use std::time::Duration;

use tinkers::prelude::*;
use tinkers::wire::routes;
use tinkers_e2e::training::{datum, model, step, world_with};
use tinkers_e2e::{InMemory, SCRIPTED};
use tinkers_local::{Dialect, Expiry, Fault, Rule};

/// Results go with their first delivery, and are 404 then.
async fn forgetful() -> InMemory {
    world_with(|config| {
        config.dialect = Dialect::skyrl_main();
        config.dialect.expiry = Expiry::OnceFetched;
    })
    .await
}

/// The next poll is answered, and its answer is lost.
fn lose_a_poll(world: &InMemory) {
    let rule = Rule::on(routes::RETRIEVE_FUTURE).nth(1);
    world.parts.faults.add(rule, Fault::cut_after());
}

#[tokio::test(start_paused = true)]
async fn a_sample_whose_result_is_gone_is_sampled_once_more() {
    let world = forgetful().await;
    let sampler = world.service.sampling(SCRIPTED).create().await.unwrap();
    lose_a_poll(&world);
    let reply = sampler.sample(vec![1, 2]).max_tokens(3).await.unwrap();
    assert_eq!(reply.sequences[0].tokens.len(), 3);
    assert_eq!(world.parts.journal.of(routes::ASAMPLE).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_pass_whose_result_is_gone_is_never_made_again() {
    let world = forgetful().await;
    let training = model(&world).await;
    lose_a_poll(&world);
    let pass = training.forward_backward([datum(1)], LossFn::CrossEntropy);
    let error = pass.await.unwrap_err();
    assert_eq!(
        (error.kind(), error.status()),
        (ErrorKind::NotFound, Some(404))
    );
    assert!(error.request_id().is_some(), "{error}");
    assert_eq!(world.parts.engine.counts().backwards, 1);
    // It was applied, so what comes behind it goes on.
    step(&training).await.unwrap();
    assert_eq!(world.parts.engine.counts().backwards, 1);
}

#[tokio::test(start_paused = true)]
async fn a_poll_that_is_held_for_minutes_costs_nothing_but_another_poll() {
    let world = world_with(|config| {
        config.dialect = Dialect::skyrl();
        config.dialect.long_poll = Some(Duration::from_secs(300));
    })
    .await;
    let training = model(&world).await;
    let held = Fault::delay(Duration::from_secs(400));
    world
        .parts
        .faults
        .add(Rule::on(routes::RETRIEVE_FUTURE).nth(1), held);
    let pass = training.forward_backward([datum(1)], LossFn::CrossEntropy);
    pass.await.unwrap();
    assert_eq!(world.parts.engine.counts().backwards, 1);
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_told_in_whichever_status_it_comes_and_soon() {
    for status in [400, 422, 500] {
        let world = world_with(|config| config.dialect = Dialect::skyrl_main()).await;
        let training = model(&world).await;
        let status = http::StatusCode::from_u16(status).unwrap();
        let failed = Fault::status(status, "CUDA out of memory");
        let polls = Rule::on(routes::RETRIEVE_FUTURE).times(20);
        world.parts.faults.add(polls, failed);
        let clock = world.server.time();
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
async fn a_server_that_tells_failures_in_the_body_is_waited_for_when_it_breaks() {
    let world = world_with(|_| ()).await;
    let training = model(&world).await;
    let status = http::StatusCode::INTERNAL_SERVER_ERROR;
    let broken = Fault::status(status, "the database is being moved");
    let polls = Rule::on(routes::RETRIEVE_FUTURE).times(20);
    world.parts.faults.add(polls, broken);
    let pass = training.forward_backward([datum(1)], LossFn::CrossEntropy);
    pass.await.unwrap();
    assert_eq!(world.parts.engine.counts().backwards, 1);
}

/// A server of this dialect, and a checkpoint on it.
async fn with_checkpoint(dialect: Dialect) -> (InMemory, String) {
    let world = world_with(|config| config.dialect = dialect).await;
    let training = model(&world).await;
    let pass = training.forward_backward([datum(1)], LossFn::CrossEntropy);
    pass.await.unwrap();
    let saved = training.save_state("kept").await.unwrap();
    (world, saved.path.to_string())
}

async fn resume(world: &InMemory, path: &str) -> Result<TrainingClient, Error> {
    let resumed = world
        .service
        .training_from_state(path, RestoreOptimizer::Yes);
    resumed.create().await
}

#[tokio::test(start_paused = true)]
async fn a_model_is_made_and_loaded_where_a_checkpoint_makes_none() {
    let (world, path) = with_checkpoint(Dialect::skyrl()).await;
    let resumed = resume(&world, &path).await.unwrap();
    assert_eq!(resumed.info().base_model(), Some(SCRIPTED));
    assert_eq!(world.parts.engine.counts().loaded, 1);
    step(&resumed).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_that_is_not_there_is_told_before_a_model_is_made() {
    let (world, _) = with_checkpoint(Dialect::skyrl()).await;
    let error = resume(&world, "tinker://no-such-run/weights/nothing").await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(
        error
            .to_string()
            .contains("cannot create a model from a checkpoint"),
        "{error}"
    );
    assert_eq!(world.parts.journal.of(routes::CREATE_MODEL).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_model_that_cannot_be_loaded_is_freed() {
    let (world, path) = with_checkpoint(Dialect::skyrl()).await;
    let refusal = Fault::status(http::StatusCode::NOT_FOUND, "the disk is gone");
    world
        .parts
        .faults
        .add(Rule::on(routes::LOAD_WEIGHTS).nth(2), refusal);
    let error = resume(&world, &path).await.unwrap_err();
    assert!(error.to_string().contains("the disk is gone"), "{error}");
    assert_eq!(world.parts.engine.counts().unloaded, 1);
}

#[tokio::test(start_paused = true)]
async fn no_rank_is_guessed_for_a_checkpoint() {
    let (world, path) = with_checkpoint(Dialect::skyrl()).await;
    let info = serde_json::json!({ "base_model": SCRIPTED, "is_lora": true });
    let info = Fault::json(http::StatusCode::OK, &info);
    world.parts.faults.add(Rule::on(routes::WEIGHTS_INFO), info);
    let error = resume(&world, &path).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert_eq!(world.parts.journal.of(routes::CREATE_MODEL).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_load_that_fails_for_another_reason_makes_no_model() {
    let (world, path) = with_checkpoint(Dialect::tinker()).await;
    let gone = Fault::status(
        http::StatusCode::BAD_REQUEST,
        "the model of model_id m is gone",
    );
    let polls = Rule::on(routes::RETRIEVE_FUTURE).times(20);
    world.parts.faults.add(polls, gone);
    let error = resume(&world, &path).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OperationFailed, "{error}");
    assert!(
        !error.to_string().contains("cannot create a model"),
        "{error}"
    );
    assert_eq!(world.parts.journal.of(routes::CREATE_MODEL).len(), 1);
}
