//! Deadlines: `retry-after` hints beyond the operation deadline, events that reset the progress
//! deadline, and the time limit for retries.

use std::time::Duration;

use http::StatusCode;
use tinkers::prelude::*;
use tinkers::wire::{OptimStepResult, routes};
use tinkers::{ApiFuture, LimiterSettings, Sent};
use tinkers_e2e::training::{inject, model, step};
use tinkers_e2e::{Harness, SCRIPTED, Setup};
use tinkers_local::{Fault, Hint, Rule};
use tinkers_session::SessionOptions;

const SECOND: Duration = Duration::from_secs(1);

/// Starts a server, and a client whose calls fail if they take longer than ten seconds (the
/// operation deadline).
async fn harness_with_operation_deadline() -> Harness {
    Harness::with(SessionOptions {
        operation_deadline: Some(10 * SECOND),
        ..SessionOptions::default()
    })
    .await
}

/// Starts a server, and a client whose calls fail after one minute without progress (the progress
/// deadline).
async fn harness_with_progress_deadline() -> Harness {
    Harness::with(SessionOptions {
        progress_deadline: 60 * SECOND,
        ..SessionOptions::default()
    })
    .await
}

/// Makes the server answer the next request to a route with a 429 whose `retry-after` hint is
/// `seconds`.
fn refuse_for(harness: &Harness, route: &str, seconds: u64) {
    inject(harness, route, Fault::rate_limited(Hint::Seconds(seconds)));
}

/// Waits for a call that must fail within a second, instead of waiting for its deadline, and
/// returns its error.
async fn immediate_error<T: std::fmt::Debug>(harness: &Harness, call: ApiFuture<T>) -> Error {
    let clock = harness.server.time();
    let began = clock.now();
    let error = call.await.expect_err("the deadline is too early");
    let took = clock.now().since(began);
    assert!(took < SECOND, "after {took:?}: {error}");
    error
}

#[tokio::test(start_paused = true)]
async fn retry_after_beyond_the_deadline_fails_samples_at_once() {
    let harness = harness_with_operation_deadline().await;
    let sampler = harness
        .service
        .create_sampling_client(SCRIPTED)
        .await
        .unwrap();
    refuse_for(&harness, routes::ASAMPLE, 600);
    let began = harness.server.time().now();
    // The server refuses the first sample. The second sample finds the gate closed.
    for _ in 0..2 {
        let error = immediate_error(&harness, sampler.sample(vec![1]).send()).await;
        assert_eq!(
            (error.kind(), error.sent()),
            (ErrorKind::RateLimited, Sent::NotSent),
            "{error}"
        );
        let opens_at = error.retry_at().expect("a retry time");
        assert!(opens_at.since(began) >= 600 * SECOND);
    }
    assert_eq!(harness.journal.of(routes::ASAMPLE).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn retry_after_beyond_the_deadline_fails_a_model_creation_at_once() {
    for route in [
        routes::CREATE_MODEL,
        routes::GET_INFO,
        routes::CREATE_SAMPLING_SESSION,
    ] {
        let harness = harness_with_operation_deadline().await;
        refuse_for(&harness, route, 600);
        let error = if route == routes::CREATE_SAMPLING_SESSION {
            immediate_error(
                &harness,
                harness.service.create_sampling_client(SCRIPTED).send(),
            )
            .await
        } else {
            immediate_error(
                &harness,
                harness.service.create_lora_training_client(SCRIPTED).send(),
            )
            .await
        };
        assert_eq!(error.kind(), ErrorKind::RateLimited, "{error}");
        assert!(error.retry_at().is_some());
    }
    let harness = harness_with_operation_deadline().await;
    let training = model(&harness).await;
    refuse_for(&harness, routes::UNLOAD_MODEL, 600);
    let error = immediate_error(&harness, training.unload()).await;
    assert_eq!(error.kind(), ErrorKind::RateLimited, "{error}");
}

#[tokio::test(start_paused = true)]
async fn retry_after_beyond_the_deadline_ends_the_wait_of_training_calls() {
    let harness = harness_with_operation_deadline().await;
    let training = model(&harness).await;
    refuse_for(&harness, routes::OPTIM_STEP, 600);
    // The server refuses the first step. The second step waits in the queue, and the third one
    // finds the gate closed.
    let (first, second) = (step(&training), step(&training));
    let mut errors = vec![immediate_error(&harness, first).await];
    errors.push(immediate_error(&harness, second).await);
    errors.push(immediate_error(&harness, step(&training)).await);
    for error in errors {
        assert_eq!(
            (error.kind(), error.sent()),
            (ErrorKind::RateLimited, Sent::MaybeSent),
            "{error}"
        );
        let wait = error.retry_after().expect("a retry time");
        assert!(wait > 590 * SECOND, "{wait:?}");
        assert!(error.to_string().contains("do not repeat"), "{error}");
    }
    assert_eq!(harness.engine.counts().steps, 0);
    harness.server.time().sleep(610 * SECOND).await;
    assert_eq!(harness.engine.counts().steps, 3);
    step(&training).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn retry_waits_for_a_retry_after_delay_within_the_deadline() {
    let harness = harness_with_operation_deadline().await;
    let training = model(&harness).await;
    let sampler = harness
        .service
        .create_sampling_client(SCRIPTED)
        .await
        .unwrap();
    refuse_for(&harness, routes::OPTIM_STEP, 5);
    refuse_for(&harness, routes::ASAMPLE, 5);
    let step = step(&training);
    sampler.sample(vec![1]).await.unwrap();
    step.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn retry_after_of_a_503_beyond_the_deadline_fails_a_call_at_once() {
    let harness = harness_with_operation_deadline().await;
    let sampler = harness
        .service
        .create_sampling_client(SCRIPTED)
        .await
        .unwrap();
    let busy = Fault::status(StatusCode::SERVICE_UNAVAILABLE, "busy").with_header(
        http::header::RETRY_AFTER,
        http::HeaderValue::from_static("60"),
    );
    inject(&harness, routes::ASAMPLE, busy);
    let error = immediate_error(&harness, sampler.sample(vec![1]).send()).await;
    assert_eq!(error.kind(), ErrorKind::Server, "{error}");
    assert!(error.retry_at().is_some());
}

/// Creates a model with twelve queued optimizer steps. The submission of each step takes ten
/// seconds, like a large upload. All submissions together take twice the progress deadline of one
/// minute.
async fn model_with_long_queue() -> (Harness, TrainingClient, Vec<ApiFuture<OptimStepResult>>) {
    let harness = harness_with_progress_deadline().await;
    let training = model(&harness).await;
    let slow = Fault::delay_answer(10 * SECOND);
    let rule = Rule::on(routes::OPTIM_STEP).always();
    harness.faults.add(rule, slow);
    let steps: Vec<_> = (0..12).map(|_| step(&training)).collect();
    (harness, training, steps)
}

#[tokio::test(start_paused = true)]
async fn progress_of_earlier_steps_resets_the_progress_deadline() {
    let (harness, _training, steps) = model_with_long_queue().await;
    for step in steps {
        step.await.unwrap();
    }
    assert_eq!(harness.engine.counts().steps, 12);
}

#[tokio::test(start_paused = true)]
async fn each_queued_submission_resets_the_progress_deadline_of_a_save() {
    let (_world, training, steps) = model_with_long_queue().await;
    training
        .save_weights_and_get_sampling_client()
        .await
        .unwrap();
    for step in steps {
        step.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn steps_in_a_stopped_submission_queue_fail_as_stalled() {
    let harness = harness_with_progress_deadline().await;
    let training = model(&harness).await;
    let silent = Fault::delay(1000 * SECOND);
    inject(&harness, routes::OPTIM_STEP, silent);
    let steps: Vec<_> = (0..3).map(|_| step(&training)).collect();
    for step in steps {
        let error = step.await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Stalled, "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn time_in_the_queue_does_not_count_against_the_retry_time_limit() {
    for fault in [
        Fault::status(StatusCode::SERVICE_UNAVAILABLE, "busy"),
        Fault::refuse(),
    ] {
        let mut limits = LimiterSettings::default();
        limits.sample.max_in_flight = Some(1);
        let options = SessionOptions {
            limits: Some(limits),
            ..SessionOptions::default()
        };
        let harness = Harness::with(Setup {
            options,
            latency: 40 * SECOND,
            ..Setup::default()
        })
        .await;
        let sampler = harness
            .service
            .create_sampling_client(SCRIPTED)
            .await
            .unwrap();
        for nth in [2, 11] {
            let rule = Rule::on(routes::ASAMPLE).nth(nth);
            harness.faults.add(rule, fault.clone());
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
async fn retry_after_delay_does_not_count_against_the_retry_time_limit() {
    let harness = Harness::start().await;
    let sampler = harness
        .service
        .create_sampling_client(SCRIPTED)
        .await
        .unwrap();
    refuse_for(&harness, routes::ASAMPLE, 400);
    let busy = Fault::status(StatusCode::SERVICE_UNAVAILABLE, "busy");
    let second = Rule::on(routes::ASAMPLE).nth(2);
    harness.faults.add(second, busy);
    sampler.sample(vec![1]).await.unwrap();
}
