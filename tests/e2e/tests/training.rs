//! Order, chunks, retries and poisoning of training calls, in virtual time.

use http::StatusCode;
use tinkers::prelude::*;
use tinkers::wire::routes;
use tinkers::{FinishReason, Sent};
use tinkers_e2e::training::{datum, model, numbers, step, submissions};
use tinkers_e2e::{InMemory, SCRIPTED};
use tinkers_local::{Fault, Hint, Rule};

#[tokio::test(start_paused = true)]
async fn a_loop_trains_saves_resumes_and_samples() {
    let world = InMemory::start().await;
    let training = model(&world).await;
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
    assert_eq!(numbers(&world), [1, 2, 3, 4, 5, 6, 7, 8]);
    for optimizer in [RestoreOptimizer::Yes, RestoreOptimizer::No] {
        let resumed = world
            .service
            .training_from_state(saved.as_str(), optimizer)
            .create()
            .await
            .unwrap();
        assert_ne!(resumed.model_id(), training.model_id());
        step(&resumed).await.unwrap();
    }
    assert_eq!(world.parts.engine.counts().loaded, 2);
}

#[tokio::test(start_paused = true)]
async fn calls_are_submitted_in_the_order_of_the_calls_and_not_of_the_awaits() {
    let world = InMemory::start().await;
    let training = model(&world).await;
    let mut handles = Vec::new();
    for _ in 0..50 {
        handles.push(training.forward_backward([datum(1)], LossFn::CrossEntropy));
        drop(step(&training));
    }
    for handle in handles.into_iter().rev() {
        handle.await.unwrap();
    }
    step(&training).await.unwrap();
    assert_eq!(numbers(&world), (1..=101).collect::<Vec<_>>());
    let is_step: Vec<bool> = submissions(&world)
        .iter()
        .map(|e| e.route == routes::OPTIM_STEP)
        .collect();
    assert!(
        is_step[..100].chunks(2).all(|pair| pair == [false, true]),
        "{is_step:?}"
    );
    assert_eq!(
        world.parts.engine.counts().steps,
        51,
        "a dropped handle takes no step away"
    );
}

#[tokio::test(start_paused = true)]
async fn after_a_clean_refusal_nothing_overtakes_and_recover_goes_on_without_a_hole() {
    let world = InMemory::start().await;
    let training = model(&world).await;
    world.parts.faults.add(
        Rule::on(routes::FORWARD_BACKWARD),
        Fault::status(StatusCode::FORBIDDEN, "no"),
    );
    let pass = training.forward_backward([datum(1)], LossFn::CrossEntropy);
    let behind = step(&training);
    assert_eq!(pass.await.unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert_eq!(behind.await.unwrap_err().kind(), ErrorKind::Poisoned);
    training.recover().unwrap();
    training
        .forward_backward([datum(1)], LossFn::CrossEntropy)
        .await
        .unwrap();
    step(&training).await.unwrap();
    assert_eq!(numbers(&world), [1, 1, 2]);
    assert_eq!(world.parts.engine.counts().steps, 1);
}

#[tokio::test(start_paused = true)]
async fn no_submission_leaves_before_the_servers_hint() {
    let world = InMemory::start().await;
    let training = model(&world).await;
    let refusal = Fault::rate_limited(Hint::Milliseconds(2500));
    world
        .parts
        .faults
        .add(Rule::on(routes::OPTIM_STEP).times(2), refusal);
    step(&training).await.unwrap();
    let at: Vec<f64> = submissions(&world)
        .iter()
        .map(|entry| entry.at.since_origin().as_secs_f64())
        .collect();
    assert_eq!(at.len(), 3);
    assert!(at.windows(2).all(|pair| pair[1] - pair[0] >= 2.5), "{at:?}");
    assert_eq!(world.parts.engine.counts().steps, 1);
}

#[tokio::test(start_paused = true)]
async fn a_failed_operation_uses_its_number_and_training_goes_on() {
    let world = InMemory::start().await;
    let training = model(&world).await;
    let failed = serde_json::json!({"error": "out of memory", "category": "server"});
    world.parts.faults.add(
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
    assert_eq!(numbers(&world), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn after_close_every_call_says_so() {
    let world = InMemory::start().await;
    let training = model(&world).await;
    let sampler = world.service.sampling(SCRIPTED).create().await.unwrap();
    world
        .service
        .close(FinishReason::Success, None)
        .await
        .unwrap();
    assert_eq!(step(&training).await.unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(
        sampler
            .sample(vec![1])
            .max_tokens(1)
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::Closed
    );
    assert_eq!(
        world
            .service
            .sampling(SCRIPTED)
            .create()
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::Closed
    );
}

#[tokio::test(start_paused = true)]
async fn a_model_that_is_unloaded_is_gone() {
    let world = InMemory::start().await;
    let training = model(&world).await;
    step(&training).await.unwrap();
    training.unload().await.unwrap();
    assert_eq!(world.parts.engine.counts().unloaded, 1);
    let error = step(&training).await.unwrap_err();
    assert_eq!(error.sent(), Sent::Answered, "{error}");
    // A second time is what a repeat is.
    training.unload().await.unwrap();
    assert_eq!(world.parts.engine.counts().unloaded, 1);
}
