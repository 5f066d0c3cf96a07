//! Deadlines of operations: what a server's hint beyond them leads to, what counts as news, and what the window of retries counts.

use std::time::Duration;

use http::StatusCode;
use tinkers::prelude::*;
use tinkers::wire::{OptimStepResult, routes};
use tinkers::{ApiFuture, LimiterSettings, Sent};
use tinkers_e2e::training::{model, step};
use tinkers_e2e::{InMemory, SCRIPTED};
use tinkers_local::{Fault, Hint, LocalConfig, Rule, Script};
use tinkers_session::SessionOptions;

const SECOND: Duration = Duration::from_secs(1);

async fn world(options: SessionOptions) -> InMemory {
    InMemory::with(Script::default(), LocalConfig::default(), options).await
}

/// Operations end after ten seconds.
async fn hasty() -> InMemory {
    world(SessionOptions {
        operation_deadline: Some(10 * SECOND),
        ..SessionOptions::default()
    })
    .await
}

fn refuse_for(world: &InMemory, route: &str, seconds: u64) {
    let refusal = Fault::rate_limited(Hint::Seconds(seconds));
    world.parts.faults.add(Rule::on(route), refusal);
}

/// How an operation fails, which it does at once.
async fn fails_at_once<T: std::fmt::Debug>(world: &InMemory, work: ApiFuture<T>) -> Error {
    let clock = world.server.time();
    let began = clock.now();
    let error = work.await.expect_err("too late");
    let took = clock.now().since(began);
    assert!(took < SECOND, "after {took:?}: {error}");
    error
}

#[tokio::test(start_paused = true)]
async fn a_hint_beyond_the_operation_deadline_fails_at_once() {
    let world = hasty().await;
    let sampler = world.service.sampling(SCRIPTED).create().await.unwrap();
    refuse_for(&world, routes::ASAMPLE, 600);
    let began = world.server.time().now();
    // The first is refused, the second finds the gate closed.
    for _ in 0..2 {
        let error = fails_at_once(&world, sampler.sample(vec![1]).send()).await;
        assert_eq!(
            (error.kind(), error.sent()),
            (ErrorKind::RateLimited, Sent::NotSent),
            "{error}"
        );
        let opens_at = error.retry_at().expect("it says when");
        assert!(opens_at.since(began) >= 600 * SECOND);
    }
    assert_eq!(world.parts.journal.of(routes::ASAMPLE).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_hint_beyond_the_deadline_fails_creations_at_once() {
    for route in [
        routes::CREATE_MODEL,
        routes::GET_INFO,
        routes::CREATE_SAMPLING_SESSION,
    ] {
        let world = hasty().await;
        refuse_for(&world, route, 600);
        let error = if route == routes::CREATE_SAMPLING_SESSION {
            fails_at_once(&world, world.service.sampling(SCRIPTED).create()).await
        } else {
            fails_at_once(&world, world.service.lora_training(SCRIPTED).create()).await
        };
        assert_eq!(error.kind(), ErrorKind::RateLimited, "{error}");
        assert!(error.retry_at().is_some());
    }
    let world = hasty().await;
    let training = model(&world).await;
    refuse_for(&world, routes::UNLOAD_MODEL, 600);
    let error = fails_at_once(&world, training.unload()).await;
    assert_eq!(error.kind(), ErrorKind::RateLimited, "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_late_training_call_ends_its_wait_and_is_submitted() {
    let world = hasty().await;
    let training = model(&world).await;
    refuse_for(&world, routes::OPTIM_STEP, 600);
    // One that is refused, one that is queued behind it, and one that finds the gate closed.
    let (first, second) = (step(&training), step(&training));
    let mut errors = vec![fails_at_once(&world, first).await];
    errors.push(fails_at_once(&world, second).await);
    errors.push(fails_at_once(&world, step(&training)).await);
    for error in errors {
        assert_eq!(
            (error.kind(), error.sent()),
            (ErrorKind::RateLimited, Sent::MaybeSent),
            "{error}"
        );
        let wait = error.retry_after().expect("it says when");
        assert!(wait > 590 * SECOND, "{wait:?}");
        assert!(error.to_string().contains("do not repeat"), "{error}");
    }
    assert_eq!(world.parts.engine.counts().steps, 0);
    world.server.time().sleep(610 * SECOND).await;
    assert_eq!(world.parts.engine.counts().steps, 3);
    step(&training).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_hint_within_the_deadline_is_waited_for() {
    let world = hasty().await;
    let training = model(&world).await;
    let sampler = world.service.sampling(SCRIPTED).create().await.unwrap();
    refuse_for(&world, routes::OPTIM_STEP, 5);
    refuse_for(&world, routes::ASAMPLE, 5);
    let step = step(&training);
    sampler.sample(vec![1]).await.unwrap();
    step.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_pause_beyond_the_deadline_fails_at_once() {
    let world = hasty().await;
    let sampler = world.service.sampling(SCRIPTED).create().await.unwrap();
    let busy = Fault::status(StatusCode::SERVICE_UNAVAILABLE, "busy").with_header(
        http::header::RETRY_AFTER,
        http::HeaderValue::from_static("60"),
    );
    world.parts.faults.add(Rule::on(routes::ASAMPLE), busy);
    let error = fails_at_once(&world, sampler.sample(vec![1]).send()).await;
    assert_eq!(error.kind(), ErrorKind::Server, "{error}");
    assert!(error.retry_at().is_some());
}

/// A model with twelve steps in its queue, each of which takes ten seconds to submit, as a large upload does. Together they take
/// twice the progress deadline.
async fn long_queue() -> (InMemory, TrainingClient, Vec<ApiFuture<OptimStepResult>>) {
    let world = world(SessionOptions {
        progress_deadline: 60 * SECOND,
        ..SessionOptions::default()
    })
    .await;
    let training = model(&world).await;
    let slow = Fault::delay_answer(10 * SECOND);
    let rule = Rule::on(routes::OPTIM_STEP).always();
    world.parts.faults.add(rule, slow);
    let steps: Vec<_> = (0..12).map(|_| step(&training)).collect();
    (world, training, steps)
}

#[tokio::test(start_paused = true)]
async fn a_moving_model_queue_resets_the_progress_deadline() {
    let (world, _training, steps) = long_queue().await;
    for step in steps {
        step.await.unwrap();
    }
    assert_eq!(world.parts.engine.counts().steps, 12);
}

#[tokio::test(start_paused = true)]
async fn a_moving_model_queue_keeps_a_save_and_sample_waiting() {
    let (_world, training, steps) = long_queue().await;
    training
        .save_weights_and_get_sampling_client()
        .await
        .unwrap();
    for step in steps {
        step.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_model_queue_that_stands_still_is_stalled() {
    let world = world(SessionOptions {
        progress_deadline: 60 * SECOND,
        ..SessionOptions::default()
    })
    .await;
    let training = model(&world).await;
    let silent = Fault::delay(1000 * SECOND);
    world.parts.faults.add(Rule::on(routes::OPTIM_STEP), silent);
    let steps: Vec<_> = (0..3).map(|_| step(&training)).collect();
    for step in steps {
        let error = step.await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Stalled, "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_sample_that_waited_long_for_its_turn_is_retried() {
    for fault in [
        Fault::status(StatusCode::SERVICE_UNAVAILABLE, "passing"),
        Fault::refuse(),
    ] {
        let mut limits = LimiterSettings::default();
        limits.sample.flights = Some(1);
        let options = SessionOptions {
            limits: Some(limits),
            ..SessionOptions::default()
        };
        let world = InMemory::slow(40 * SECOND, LocalConfig::default(), options, |direct| {
            std::sync::Arc::new(direct)
        })
        .await;
        let sampler = world.service.sampling(SCRIPTED).create().await.unwrap();
        for nth in [2, 11] {
            let rule = Rule::on(routes::ASAMPLE).nth(nth);
            world.parts.faults.add(rule, fault.clone());
        }
        let samples: Vec<_> = (0..12u32)
            .map(|token| sampler.sample(vec![token]).send())
            .collect();
        for sample in samples {
            sample.await.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_sample_that_sat_out_a_long_hint_is_retried() {
    let world = InMemory::start().await;
    let sampler = world.service.sampling(SCRIPTED).create().await.unwrap();
    refuse_for(&world, routes::ASAMPLE, 400);
    let passing = Fault::status(StatusCode::SERVICE_UNAVAILABLE, "passing");
    let second = Rule::on(routes::ASAMPLE).nth(2);
    world.parts.faults.add(second, passing);
    sampler.sample(vec![1]).await.unwrap();
}
