//! Sessions, models and samplers that the server does not know any more, told apart from missing checkpoints and lost results.

use std::time::Duration;

use http::StatusCode;
use tinkers::prelude::*;
use tinkers::wire::routes;
use tinkers_e2e::training::{datum, model, step, strike};
use tinkers_e2e::{InMemory, SCRIPTED};
use tinkers_local::{Fault, LocalConfig, Rule};
use tinkers_session::SessionOptions;

/// A server whose jobs take two seconds.
async fn slow() -> InMemory {
    let (config, options) = (LocalConfig::default(), SessionOptions::default());
    let latency = Duration::from_secs(2);
    InMemory::slow(latency, config, options, |direct| {
        std::sync::Arc::new(direct)
    })
    .await
}

async fn restart(world: &InMemory) {
    strike(world, routes::CAPABILITIES, Fault::restart());
    let _answered = world.service.capabilities().await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_is_a_lost_session_for_each_verb() {
    let world = InMemory::start().await;
    let training = model(&world).await;
    let sampler = world.service.sampling(SCRIPTED).create().await.unwrap();
    let saved = training.save_state("kept").await.unwrap().path;
    restart(&world).await;
    let lost = |what: &str, error: Error| {
        assert_eq!(error.kind(), ErrorKind::SessionLost, "{what}: {error}");
        let advice = error.to_string();
        assert!(advice.contains("last checkpoint"), "{what}: {advice}");
    };
    lost("sample", sampler.sample(vec![1]).await.unwrap_err());
    let pass = training.forward_backward([datum(1)], LossFn::CrossEntropy);
    let behind = step(&training);
    lost("pass", pass.await.unwrap_err());
    lost("queued behind it", behind.await.unwrap_err());
    lost("a later call", step(&training).await.unwrap_err());
    let service = &world.service;
    let created = service.lora_training(SCRIPTED).create();
    lost("creation", created.await.unwrap_err());
    let resumed = service.training_from_state(&saved, RestoreOptimizer::Yes);
    lost("resumption", resumed.create().await.unwrap_err());
    lost(
        "sampler",
        service.sampling(SCRIPTED).create().await.unwrap_err(),
    );
    // The checkpoint is still there for a new client.
    let service = ServiceClient::over_local(world.server.clone())
        .await
        .unwrap();
    let resumed = service.training_from_state(&saved, RestoreOptimizer::Yes);
    step(&resumed.create().await.unwrap()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn results_that_a_restart_takes_are_a_lost_session() {
    let world = slow().await;
    let training = model(&world).await;
    let sampler = world.service.sampling(SCRIPTED).create().await.unwrap();
    let (step, sample) = (step(&training), sampler.sample(vec![1]).send());
    world.server.time().sleep(Duration::from_secs(1)).await;
    restart(&world).await;
    for error in [step.await.unwrap_err(), sample.await.unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::SessionLost, "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_expired_session_is_lost_at_the_heartbeat() {
    let world = InMemory::start().await;
    let training = model(&world).await;
    strike(&world, routes::SESSION_HEARTBEAT, Fault::expire_sessions());
    world.server.time().sleep(Duration::from_secs(30)).await;
    let error = step(&training).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SessionLost, "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_lost_result_of_a_live_session_is_no_lost_session() {
    let world = InMemory::start().await;
    let training = model(&world).await;
    strike(&world, routes::RETRIEVE_FUTURE, Fault::gone());
    let error = step(&training).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResultLost, "{error}");
    step(&training).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_missing_checkpoint_is_not_found() {
    let world = InMemory::start().await;
    let training = model(&world).await;
    let missing = format!("tinker://{}/weights/none", training.model_id());
    let service = &world.service;
    let resumed = service.training_from_state(&missing, RestoreOptimizer::No);
    let error = resumed.create().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    let loaded = training.load_state(&missing).await.unwrap_err();
    assert_eq!(loaded.kind(), ErrorKind::NotFound, "{loaded}");
}

#[tokio::test(start_paused = true)]
async fn other_servers_words_for_a_lost_session_are_known() {
    for (route, words) in [
        (routes::OPTIM_STEP, "Model not found"),
        (routes::CREATE_MODEL, "Session not found"),
    ] {
        let world = InMemory::start().await;
        let training = model(&world).await;
        let missing = Fault::status(StatusCode::NOT_FOUND, words);
        world.parts.faults.add(Rule::on(route), missing);
        let error = match route {
            routes::OPTIM_STEP => step(&training).await.unwrap_err(),
            _ => {
                let created = world.service.lora_training(SCRIPTED).create();
                created.await.unwrap_err()
            }
        };
        assert_eq!(error.kind(), ErrorKind::SessionLost, "{error}");
    }
}
