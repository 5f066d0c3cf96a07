//! Whole clients under fault scripts: what the client hides, what it cannot hide, and what the script counts.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tinkers::prelude::*;
use tinkers::transport::{
    BoxFuture, HttpRequest, HttpResponse, RouteClass, Transport, TransportError,
};
use tinkers::{FinishReason, wire::routes};
use tinkers_e2e::training::{datum, model, numbers, step, strike};
use tinkers_e2e::{InMemory, SCRIPTED, Served};
use tinkers_local::{Fault, Faults, LocalConfig, Rule};
use tinkers_session::SessionOptions;

/// Writes down as which class the client sends what.
#[derive(Debug)]
struct Classes {
    inner: Arc<dyn Transport>,
    sent: Arc<Mutex<Vec<(String, RouteClass)>>>,
}

impl Transport for Classes {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        let sent = (request.path.clone(), request.class);
        self.sent.lock().unwrap().push(sent);
        self.inner.send(request)
    }
}

#[tokio::test(start_paused = true)]
async fn the_classes_of_a_script_are_those_of_the_client() {
    let sent = Arc::new(Mutex::new(Vec::new()));
    let world = InMemory::slow(
        Duration::from_secs(30),
        LocalConfig::default(),
        SessionOptions::default(),
        |direct| {
            Arc::new(Classes {
                inner: Arc::new(direct),
                sent: Arc::clone(&sent),
            })
        },
    )
    .await;
    let training = model(&world).await;
    let pass = training.forward_backward([datum(1)], LossFn::CrossEntropy);
    pass.await.unwrap();
    training
        .forward([datum(1)], LossFn::CrossEntropy)
        .await
        .unwrap();
    step(&training).await.unwrap();
    // A save whose answer is lost is looked for.
    strike(&world, routes::SAVE_WEIGHTS, Fault::cut_after());
    let saved = training.save_state("kept").await.unwrap().path;
    training.load_state(&saved).await.unwrap();
    let service = &world.service;
    let again = service.training_from_state(&saved, RestoreOptimizer::Yes);
    again.create().await.unwrap();
    let sampler = training
        .save_weights_and_get_sampling_client()
        .await
        .unwrap();
    sampler.sample(vec![1, 2]).await.unwrap();
    let base = service.sampling(SCRIPTED).create().await.unwrap();
    base.sample(vec![1, 2]).await.unwrap();
    service.capabilities().await.unwrap();
    service.health().await.unwrap();
    service.close(FinishReason::Success, None).await.unwrap();
    let entries = world.parts.journal.entries();
    let sent = sent.lock().unwrap();
    for (path, class) in &*sent {
        let entry = entries.iter().find(|entry| entry.route == *path);
        assert_eq!(entry.map(|entry| entry.class), Some(*class), "{path}");
    }
    for class in RouteClass::ALL {
        assert!(sent.iter().any(|(_, sent)| *sent == class), "{class:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_loop_goes_on_from_its_checkpoint_after_a_restart() {
    let world = InMemory::start().await;
    let training = model(&world).await;
    step(&training).await.unwrap();
    let saved = training.save_state("kept").await.unwrap().path;
    strike(&world, routes::OPTIM_STEP, Fault::restart());
    let lost = step(&training).await.unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::SessionLost, "{lost}");
    assert_eq!(lost.status(), Some(404));
    // The step was repeated, and the server that came back knew nothing of its model.
    assert_eq!(numbers(&world), [1, 2, 3, 3]);
    assert_eq!(world.parts.engine.counts().steps, 1);
    let service = ServiceClient::over_local(world.server.clone())
        .await
        .unwrap();
    let again = service.training_from_state(&saved, RestoreOptimizer::Yes);
    step(&again.create().await.unwrap()).await.unwrap();
    assert_eq!(world.parts.engine.counts().steps, 2);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_ends_by_script_is_an_error_that_says_so() {
    let world = InMemory::start().await;
    let training = model(&world).await;
    strike(&world, routes::OPTIM_STEP, Fault::expire_sessions());
    let ended = step(&training).await.unwrap_err();
    assert_eq!(ended.kind(), ErrorKind::SessionLost);
    assert_eq!(ended.status(), Some(410), "{ended}");
    assert!(ended.to_string().contains("heartbeat"), "{ended}");
    assert_eq!(world.parts.engine.counts().steps, 0);
}

#[tokio::test(start_paused = true)]
async fn a_pause_is_waited_for_and_seen() {
    let world = InMemory::start().await;
    let training = model(&world).await;
    let pause = Duration::from_secs(600);
    strike(&world, routes::OPTIM_STEP, Fault::pause_capacity(pause));
    let began = world.server.time().now();
    let waiting = step(&training);
    world.server.time().sleep(pause / 2).await;
    let queue = waiting.progress().queue_state;
    assert_eq!(queue, Some(tinkers::QueueState::PausedCapacity));
    waiting.await.unwrap();
    let took = world.server.time().now().since(began);
    assert!(
        (pause..pause + Duration::from_secs(5)).contains(&took),
        "{took:?}"
    );
    assert_eq!(world.parts.engine.counts().steps, 1);
}

#[tokio::test]
async fn broken_answers_over_a_socket_lose_and_double_nothing() {
    let served = Served::start(LocalConfig::default());
    let faults: &Faults = &served.parts.faults;
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
    let service = served.client().await.unwrap();
    let training = service
        .lora_training(SCRIPTED)
        .rank(4)
        .create()
        .await
        .unwrap();
    for _ in 0..3 {
        let pass = training.forward_backward([datum(1)], LossFn::CrossEntropy);
        let step = training.optim_step(AdamParams::new(1e-3));
        pass.await.unwrap();
        step.await.unwrap();
    }
    let counts = served.parts.engine.counts();
    assert_eq!((counts.created, counts.backwards, counts.steps), (1, 3, 3));
    for count in faults.counts() {
        assert_eq!(count.struck, 1, "{}", count.rule);
    }
    served.stop();
}
