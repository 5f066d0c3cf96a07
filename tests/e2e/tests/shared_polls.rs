//! Shared polls for many samples in flight, including lost and duplicate polls. All tests run in
//! virtual time.

use std::time::Duration;

use tinkers::prelude::*;
use tinkers::wire::routes;
use tinkers_e2e::training::count;
use tinkers_e2e::{Harness, SCRIPTED, Setup};
use tinkers_local::{Fault, LocalConfig, Rule};

const LATENCY: Duration = Duration::from_secs(20);

/// Starts a server on which each sample takes 20 s, and creates a sampling client.
async fn start(config: LocalConfig) -> (Harness, SamplingClient) {
    let harness = Harness::with(Setup {
        config,
        latency: LATENCY,
        ..Setup::default()
    })
    .await;
    let sampler = harness
        .service
        .create_sampling_client(SCRIPTED)
        .await
        .unwrap();
    (harness, sampler)
}

/// Returns the first token that the server's scripted engine, which has predictable results,
/// samples for prompt number `i`.
fn expected_token(i: u32) -> u32 {
    i % 200 + 1
}

fn send(sampler: &SamplingClient, i: u32) -> ApiFuture<SampleResponse> {
    sampler.sample(vec![i % 200]).max_tokens(1).send()
}

/// Requests a sample every 7 ms, `count` in total, and checks that each call receives the result
/// for its own prompt. Returns the request ids of the samples.
async fn sample_many(harness: &Harness, sampler: &SamplingClient, count: u32) -> Vec<String> {
    let time = harness.server.time();
    let mut samples = Vec::new();
    for i in 0..count {
        samples.push(send(sampler, i));
        time.sleep(Duration::from_millis(7)).await;
    }
    let mut ids = Vec::new();
    for (i, mut sample) in samples.into_iter().enumerate() {
        let reply = (&mut sample).await.unwrap();
        let tokens = &reply.sequences[0].tokens;
        assert_eq!(tokens[..], [expected_token(i as u32)], "sample {i}");
        ids.extend(sample.request_id());
    }
    ids
}

/// Asserts that no two shared polls (requests for the results of many samples at once) overlapped
/// in time at the server.
fn assert_one_at_a_time(harness: &Harness) {
    let polls = harness.journal.of(routes::RETRIEVE_FUTURES);
    for pair in polls.windows(2) {
        let ended = pair[0].ended_at.expect("the poll ended");
        assert!(
            ended <= pair[1].at,
            "{:?} and {:?} overlap",
            pair[0],
            pair[1]
        );
    }
}

/// Polls once for the result of each request id, and returns the HTTP statuses of the responses.
async fn statuses(harness: &Harness, ids: &[String]) -> Vec<u16> {
    let mut statuses = Vec::new();
    for id in ids {
        let body = format!(r#"{{"request_id": "{id}"}}"#);
        let request = tinkers_local::Request {
            method: http::Method::POST,
            path: routes::RETRIEVE_FUTURE.into(),
            headers: http::HeaderMap::new(),
            body: body.into(),
        };
        let response = harness.server.exchange(request).await.unwrap();
        statuses.push(response.status.as_u16());
    }
    statuses
}

#[tokio::test(start_paused = true)]
async fn thousand_samples_share_one_poll_and_get_one_result_each() {
    let (harness, sampler) = start(LocalConfig::default()).await;
    let ids = sample_many(&harness, &sampler, 1000).await;
    assert_eq!(harness.engine.counts().samples, 1000);
    assert_one_at_a_time(&harness);
    // The client fetched each result once.
    assert_eq!(count(&harness, routes::RETRIEVE_FUTURE), 1000);
    assert_eq!(ids.len(), 1000);
    // The dropped sampling client sends a final acknowledgement. The server then deletes all
    // results.
    drop(sampler);
    harness.server.time().sleep(Duration::from_secs(1)).await;
    let polls = harness.journal.of(routes::RETRIEVE_FUTURES);
    assert!(polls.iter().all(|poll| poll.status == Some(200)));
    assert_eq!(statuses(&harness, &ids).await, vec![410; 1000]);
}

#[tokio::test(start_paused = true)]
async fn samples_are_polled_individually_if_shared_polls_are_disabled() {
    let mut config = LocalConfig::default();
    config.session_polls = false;
    let (harness, sampler) = start(config).await;
    sample_many(&harness, &sampler, 100).await;
    assert_eq!(count(&harness, routes::RETRIEVE_FUTURES), 0);
    assert_eq!(count(&harness, routes::RETRIEVE_FUTURE), 100);
}

#[tokio::test(start_paused = true)]
async fn lost_or_repeated_polls_neither_lose_nor_repeat_results() {
    let (harness, sampler) = start(LocalConfig::default()).await;
    let faults = &harness.faults;
    faults.add(
        Rule::on(routes::RETRIEVE_FUTURES).times(4),
        Fault::cut_after(),
    );
    faults.add(
        Rule::on(routes::RETRIEVE_FUTURES).nth(5).times(40),
        Fault::duplicate(),
    );
    faults.add(
        Rule::on(routes::RETRIEVE_FUTURES).nth(45).times(3),
        Fault::cut_after(),
    );
    faults.add(
        Rule::on(routes::RETRIEVE_FUTURE).nth(3).times(30),
        Fault::cut_after(),
    );
    sample_many(&harness, &sampler, 300).await;
    assert_eq!(harness.engine.counts().samples, 300);
    assert_eq!(count(&harness, routes::RETRIEVE_FUTURE), 330);
    assert_one_at_a_time(&harness);
}
