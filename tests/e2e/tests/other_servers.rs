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
