//! Samples that the program abandons, which the client cancels on the server. All tests run in virtual time.

use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};
use tinkers::prelude::*;
use tinkers::wire::routes;
use tinkers_core::RecoveredError;
use tinkers_e2e::training::{count, sleep};
use tinkers_e2e::{Harness, SCRIPTED, Setup};
use tinkers_local::{Fault, LocalConfig, Rule};

/// The time that the server takes for each sample.
const LATENCY: Duration = Duration::from_secs(20);

/// Returns a setup for a server whose samples take 20 s. `shared_polls` states whether the client polls for all of its samples with one
/// request.
fn setup(shared_polls: bool) -> Setup {
    let mut config = LocalConfig::default();
    config.session_polls = shared_polls;
    Setup {
        config,
        latency: LATENCY,
        ..Setup::default()
    }
}

/// Returns a setup for a server with these flags in its dynamic configuration, on which each sample is polled for alone.
fn setup_with_flags(flags: &Value) -> Setup {
    let setup = setup(false);
    let rule = Rule::on(routes::DYNAMIC_CONFIG).always();
    setup.faults.add(rule, Fault::json(StatusCode::OK, flags));
    setup
}

async fn start(setup: Setup) -> (Harness, SamplingClient) {
    let harness = Harness::with(setup).await;
    let sampler = harness.service.create_sampling_client(SCRIPTED);
    let sampler = sampler.await.unwrap();
    (harness, sampler)
}

fn send(sampler: &SamplingClient) -> ApiFuture<SampleResponse> {
    sampler.sample(vec![1]).max_tokens(1).send()
}

#[tokio::test(start_paused = true)]
async fn abandoned_samples_are_cancelled_on_the_server() {
    for shared_polls in [true, false] {
        let (harness, sampler) = start(setup(shared_polls)).await;
        send(&sampler).await.unwrap();
        let (dropped, cancelled) = (send(&sampler), send(&sampler));
        let (limited, wanted) = (send(&sampler), send(&sampler));
        sleep(&harness, 1).await;
        drop(dropped);
        cancelled.cancel();
        let error = limited.within(Duration::from_secs(1)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        sleep(&harness, 1).await;
        assert_eq!(harness.engine.counts().cancelled, 3);
        wanted.await.unwrap();
        sleep(&harness, 60).await;
        assert_eq!(count(&harness, routes::CANCEL_FUTURE), 3, "{shared_polls}");
    }
}

#[tokio::test(start_paused = true)]
async fn stalled_sample_is_cancelled_on_the_server() {
    let mut setup = setup(false);
    setup.options.progress_deadline = LATENCY / 2;
    let (harness, sampler) = start(setup).await;
    let all = Rule::on(routes::RETRIEVE_FUTURE).always();
    harness.faults.add(all, Fault::cut_before());
    assert_eq!(send(&sampler).await.unwrap_err().kind(), ErrorKind::Stalled);
    sleep(&harness, 1).await;
    assert_eq!(harness.engine.counts().cancelled, 1);
}

#[tokio::test(start_paused = true)]
async fn server_flag_switches_the_cancellation_of_samples_off() {
    let flags = json!({ "sample_cancel_enabled": false });
    let (harness, sampler) = start(setup_with_flags(&flags)).await;
    let sample = send(&sampler);
    sleep(&harness, 1).await;
    drop(sample);
    sleep(&harness, 5).await;
    assert_eq!(count(&harness, routes::CANCEL_FUTURE), 0);
}

#[tokio::test(start_paused = true)]
async fn server_flag_limits_concurrent_cancellations() {
    let flags = json!({ "sample_cancel_enabled": true, "sample_cancel_max_batch_size": 2 });
    let setup = setup_with_flags(&flags);
    let slow = Rule::on(routes::CANCEL_FUTURE).always();
    setup.faults.add(slow, Fault::delay(Duration::from_secs(2)));
    let (harness, sampler) = start(setup).await;
    let samples: Vec<_> = (0..5).map(|_| send(&sampler)).collect();
    sleep(&harness, 1).await;
    drop(samples);
    sleep(&harness, 1).await;
    assert_eq!(count(&harness, routes::CANCEL_FUTURE), 2);
    sleep(&harness, 2).await;
    assert_eq!(count(&harness, routes::CANCEL_FUTURE), 4);
    sleep(&harness, 2).await;
    assert_eq!(count(&harness, routes::CANCEL_FUTURE), 5);
}

#[tokio::test(start_paused = true)]
async fn missing_route_ends_the_cancellation_of_samples() {
    let (harness, sampler) = start(setup(false)).await;
    let all = Rule::on(routes::CANCEL_FUTURE).always();
    let missing = json!({ "detail": "Method Not Allowed" });
    harness
        .faults
        .add(all, Fault::json(StatusCode::METHOD_NOT_ALLOWED, &missing));
    for _ in 0..3 {
        let sample = send(&sampler);
        sleep(&harness, 1).await;
        drop(sample);
        sleep(&harness, 1).await;
    }
    assert_eq!(count(&harness, routes::CANCEL_FUTURE), 1);
    send(&sampler).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn cancellation_of_a_discarded_sample_does_not_end_cancellations() {
    let (harness, sampler) = start(setup(false)).await;
    let first = Rule::on(routes::CANCEL_FUTURE).nth(1);
    let gone = json!({ "error": "the result is no longer kept" });
    harness
        .faults
        .add(first, Fault::json(StatusCode::GONE, &gone));
    for _ in 0..2 {
        let sample = send(&sampler);
        sleep(&harness, 1).await;
        drop(sample);
        sleep(&harness, 1).await;
    }
    assert_eq!(count(&harness, routes::CANCEL_FUTURE), 2);
    assert_eq!(harness.engine.counts().cancelled, 1);
    let recovered = harness.service.recovered_errors();
    assert_eq!(recovered.of(RecoveredError::Cancellation), 1);
}
