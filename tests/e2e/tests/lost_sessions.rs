//! Sessions, models and samplers that the server has lost. Missing checkpoints and lost results are
//! different errors.

use std::time::Duration;

use http::StatusCode;
use tinkers::prelude::*;
use tinkers::wire::routes;
use tinkers_e2e::training::{datum, inject, model, step};
use tinkers_e2e::{Harness, SCRIPTED, Setup};
use tinkers_local::{Fault, Rule};

/// Restarts the server. The restarted server does not know the sessions that existed before.
async fn restart(harness: &Harness) {
    inject(harness, routes::CAPABILITIES, Fault::restart());
    let _response = harness.service.capabilities().await;
}

#[tokio::test(start_paused = true)]
async fn every_call_after_a_server_restart_fails_with_session_lost() {
    let harness = Harness::start().await;
    let training = model(&harness).await;
    let sampler = harness
        .service
        .create_sampling_client(SCRIPTED)
        .await
        .unwrap();
    let saved = training.save_state("kept").await.unwrap().path;
    restart(&harness).await;
    let assert_lost = |call: &str, error: Error| {
        assert_eq!(error.kind(), ErrorKind::SessionLost, "{call}: {error}");
        let text = error.to_string();
        assert!(text.contains("last checkpoint"), "{call}: {text}");
    };
    assert_lost("sample", sampler.sample(vec![1]).await.unwrap_err());
    let pass = training.forward_backward([datum(1)], LossFn::CrossEntropy);
    let queued = step(&training);
    assert_lost("pass", pass.await.unwrap_err());
    assert_lost("queued step", queued.await.unwrap_err());
    assert_lost("later step", step(&training).await.unwrap_err());
    let service = &harness.service;
    let created = service.create_lora_training_client(SCRIPTED).send();
    assert_lost("creation", created.await.unwrap_err());
    let resumed = service.create_training_client_from_state_with_optimizer(&saved);
    assert_lost("resumption", resumed.await.unwrap_err());
    assert_lost(
        "sampler",
        service.create_sampling_client(SCRIPTED).await.unwrap_err(),
    );
    // A new client can load the checkpoint.
    let service = ServiceClient::over_local(harness.server.clone())
        .await
        .unwrap();
    let resumed = service.create_training_client_from_state_with_optimizer(&saved);
    step(&resumed.await.unwrap()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn calls_with_results_lost_in_a_restart_fail_with_session_lost() {
    let harness = Harness::with(Setup {
        latency: Duration::from_secs(2),
        ..Setup::default()
    })
    .await;
    let training = model(&harness).await;
    let sampler = harness
        .service
        .create_sampling_client(SCRIPTED)
        .await
        .unwrap();
    let (step, sample) = (step(&training), sampler.sample(vec![1]).send());
    harness.server.time().sleep(Duration::from_secs(1)).await;
    restart(&harness).await;
    for error in [step.await.unwrap_err(), sample.await.unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::SessionLost, "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn heartbeat_detects_an_expired_session() {
    let harness = Harness::start().await;
    let training = model(&harness).await;
    inject(
        &harness,
        routes::SESSION_HEARTBEAT,
        Fault::expire_sessions(),
    );
    harness.server.time().sleep(Duration::from_secs(30)).await;
    let error = step(&training).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SessionLost, "{error}");
}

#[tokio::test(start_paused = true)]
async fn call_with_a_lost_result_in_a_live_session_fails_with_result_lost() {
    let harness = Harness::start().await;
    let training = model(&harness).await;
    inject(&harness, routes::RETRIEVE_FUTURE, Fault::gone());
    let error = step(&training).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResultLost, "{error}");
    step(&training).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn loading_a_missing_checkpoint_fails_with_not_found() {
    let harness = Harness::start().await;
    let training = model(&harness).await;
    let missing = format!("tinker://{}/weights/none", training.model_id());
    let service = &harness.service;
    let resumed = service.create_training_client_from_state(&missing);
    let error = resumed.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    let loaded = training.load_state(&missing).await.unwrap_err();
    assert_eq!(loaded.kind(), ErrorKind::NotFound, "{loaded}");
}

#[tokio::test(start_paused = true)]
async fn error_texts_of_other_servers_are_mapped_to_session_lost() {
    for (route, text) in [
        (routes::OPTIM_STEP, "Model not found"),
        (routes::CREATE_MODEL, "Session not found"),
    ] {
        let harness = Harness::start().await;
        let training = model(&harness).await;
        let missing = Fault::status(StatusCode::NOT_FOUND, text);
        harness.faults.add(Rule::on(route), missing);
        let error = match route {
            routes::OPTIM_STEP => step(&training).await.unwrap_err(),
            _ => {
                let created = harness.service.create_lora_training_client(SCRIPTED).send();
                created.await.unwrap_err()
            }
        };
        assert_eq!(error.kind(), ErrorKind::SessionLost, "{error}");
    }
}
