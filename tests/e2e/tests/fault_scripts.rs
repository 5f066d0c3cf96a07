//! Whole clients with scripted faults of the server: faults from which the client recovers, faults
//! that it reports, and the fault counters.

use std::sync::Arc;
use std::time::Duration;

use tinkers::prelude::*;
use tinkers::transport::RouteClass;
use tinkers::wire::routes;
use tinkers_e2e::training::{datum, inject, model, model_of, numbers, step};
use tinkers_e2e::{Harness, SCRIPTED, Setup, SocketServer};
use tinkers_local::{Fault, Faults, LocalConfig, Rule};

use crate::recorder::Recorder;

#[tokio::test(start_paused = true)]
async fn server_and_client_agree_on_the_route_class_of_each_route() {
    let recorder = Recorder::default();
    let setup = Setup {
        latency: Duration::from_secs(30),
        ..Setup::default()
    };
    let (harness, _) = Harness::through(setup, |inner| recorder.wrap(Arc::new(inner))).await;
    let training = model(&harness).await;
    let pass = training.forward_backward([datum(1)], LossFn::CrossEntropy);
    pass.await.unwrap();
    training
        .forward([datum(1)], LossFn::CrossEntropy)
        .await
        .unwrap();
    step(&training).await.unwrap();
    // The client looks up a save whose response was lost, with a request of the route class `Rest`.
    inject(&harness, routes::SAVE_WEIGHTS, Fault::cut_after());
    let saved = training.save_state("kept").await.unwrap().path;
    training.load_state(&saved).await.unwrap();
    let service = &harness.service;
    let resumed = service.create_training_client_from_state_with_optimizer(&saved);
    resumed.await.unwrap();
    let sampler = training
        .save_weights_and_get_sampling_client()
        .await
        .unwrap();
    sampler.sample(vec![1, 2]).await.unwrap();
    let base = service.create_sampling_client(SCRIPTED).await.unwrap();
    base.sample(vec![1, 2]).await.unwrap();
    service.capabilities().await.unwrap();
    service.health().await.unwrap();
    harness.close().await;
    let entries = harness.journal.entries();
    let requests = recorder.requests();
    for request in &requests {
        let entry = entries.iter().find(|entry| entry.route == request.path);
        let class = entry.map(|entry| entry.class);
        assert_eq!(class, Some(request.class), "{}", request.path);
    }
    for class in RouteClass::ALL {
        let is_sent = requests.iter().any(|request| request.class == class);
        assert!(is_sent, "{class:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn training_resumes_from_a_checkpoint_after_a_server_restart() {
    let harness = Harness::start().await;
    let training = model(&harness).await;
    step(&training).await.unwrap();
    let saved = training.save_state("kept").await.unwrap().path;
    inject(&harness, routes::OPTIM_STEP, Fault::restart());
    let lost = step(&training).await.unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::SessionLost, "{lost}");
    assert_eq!(lost.status(), Some(404));
    // The client retried the step, and the restarted server did not know the model.
    assert_eq!(numbers(&harness), [1, 2, 3, 3]);
    assert_eq!(harness.engine.counts().steps, 1);
    let service = ServiceClient::over_local(harness.server.clone())
        .await
        .unwrap();
    let resumed = service.create_training_client_from_state_with_optimizer(&saved);
    step(&resumed.await.unwrap()).await.unwrap();
    assert_eq!(harness.engine.counts().steps, 2);
}

#[tokio::test(start_paused = true)]
async fn call_of_an_expired_session_fails_with_session_lost() {
    let harness = Harness::start().await;
    let training = model(&harness).await;
    inject(&harness, routes::OPTIM_STEP, Fault::expire_sessions());
    let ended = step(&training).await.unwrap_err();
    assert_eq!(ended.kind(), ErrorKind::SessionLost);
    assert_eq!(ended.status(), Some(410), "{ended}");
    assert!(ended.to_string().contains("heartbeat"), "{ended}");
    assert_eq!(harness.engine.counts().steps, 0);
}

#[tokio::test(start_paused = true)]
async fn optimizer_step_progress_shows_that_the_server_lacks_capacity() {
    let harness = Harness::start().await;
    let training = model(&harness).await;
    let pause = Duration::from_secs(600);
    inject(&harness, routes::OPTIM_STEP, Fault::pause_capacity(pause));
    let began = harness.server.time().now();
    let pending = step(&training);
    harness.server.time().sleep(pause / 2).await;
    let queue = pending.progress().queue_state;
    assert_eq!(queue, Some(tinkers::QueueState::PausedCapacity));
    pending.await.unwrap();
    let took = harness.server.time().now().since(began);
    assert!(
        (pause..pause + Duration::from_secs(5)).contains(&took),
        "{took:?}"
    );
    assert_eq!(harness.engine.counts().steps, 1);
}

#[tokio::test]
async fn training_calls_are_applied_once_despite_injected_faults() {
    let server = SocketServer::start(LocalConfig::default());
    let faults: &Faults = &server.faults;
    for route in [routes::FORWARD_BACKWARD, routes::OPTIM_STEP] {
        faults.add(Rule::on(route), Fault::cut_body());
        faults.add(Rule::on(route).nth(2), Fault::refuse());
        faults.add(Rule::on(route).nth(3), Fault::duplicate());
    }
    let polls = || Rule::class(RouteClass::Poll);
    let late = Fault::delay_answer(Duration::from_millis(20));
    faults.add(polls().nth(2), Fault::cut_body());
    faults.add(polls().nth(4), Fault::duplicate());
    faults.add(polls().nth(5), late);
    let service = server.client().await.unwrap();
    let training = model_of(&service).await;
    for _ in 0..3 {
        let pass = training.forward_backward([datum(1)], LossFn::CrossEntropy);
        let step = training.optim_step(AdamParams::new(1e-3));
        pass.await.unwrap();
        step.await.unwrap();
    }
    let counts = server.engine.counts();
    assert_eq!((counts.created, counts.backwards, counts.steps), (1, 3, 3));
    for count in faults.counts() {
        assert_eq!(count.struck, 1, "{}", count.rule);
    }
    server.stop();
}
