//! Many samples in flight with one poll at a time, in virtual time, whatever goes wrong with the polls.

use std::sync::Arc;
use std::time::Duration;

use tinkers::prelude::*;
use tinkers::wire::routes;
use tinkers_e2e::{InMemory, SCRIPTED};
use tinkers_local::{Fault, LocalConfig, Rule};
use tinkers_session::SessionOptions;

const LATENCY: Duration = Duration::from_secs(20);

/// A server that takes its time, and a sampler of it.
async fn slow() -> (InMemory, SamplingClient) {
    slow_with(LocalConfig::default()).await
}

async fn slow_with(config: LocalConfig) -> (InMemory, SamplingClient) {
    let options = SessionOptions::default();
    let world = InMemory::slow(LATENCY, config, options, |direct| Arc::new(direct)).await;
    let sampler = world.service.sampling(SCRIPTED).create().await.unwrap();
    (world, sampler)
}

/// The first token of the sample after this prompt, as the scripted engine makes it.
fn expected(i: u32) -> u32 {
    i % 200 + 1
}

fn send(sampler: &SamplingClient, i: u32) -> ApiFuture<SampleResponse> {
    sampler.sample(vec![i % 200]).max_tokens(1).send()
}

/// So many samples, one every 7 ms, and a check that each result is its own.
async fn many(world: &InMemory, sampler: &SamplingClient, count: u32) -> Vec<String> {
    let time = world.server.time();
    let mut sent = Vec::new();
    for i in 0..count {
        sent.push(send(sampler, i));
        time.sleep(Duration::from_millis(7)).await;
    }
    let mut ids = Vec::new();
    for (i, mut sample) in sent.into_iter().enumerate() {
        let reply = (&mut sample).await.unwrap();
        let tokens = &reply.sequences[0].tokens;
        assert_eq!(tokens[..], [expected(i as u32)], "sample {i}");
        ids.extend(sample.request_id());
    }
    ids
}

/// How many requests of a route came.
fn count(world: &InMemory, route: &str) -> usize {
    world.parts.journal.of(route).len()
}

/// No poll of the session came before the one before it had ended.
fn assert_one_at_a_time(world: &InMemory) {
    let polls = world.parts.journal.of(routes::RETRIEVE_FUTURES);
    for pair in polls.windows(2) {
        let ended = pair[0].ended_at.expect("it ended");
        assert!(ended <= pair[1].at, "{:?} beside {:?}", pair[0], pair[1]);
    }
}

/// The statuses that polls for these ids get.
async fn statuses(world: &InMemory, ids: &[String]) -> Vec<u16> {
    let mut found = Vec::new();
    for id in ids {
        let body = format!(r#"{{"request_id": "{id}"}}"#);
        let request = tinkers_local::Request {
            method: http::Method::POST,
            path: routes::RETRIEVE_FUTURE.into(),
            headers: http::HeaderMap::new(),
            body: body.into(),
        };
        let answer = world.server.exchange(request).await.unwrap();
        found.push(answer.status.as_u16());
    }
    found
}

#[tokio::test(start_paused = true)]
async fn a_thousand_samples_in_flight_take_one_poll_at_a_time_and_come_once_each() {
    let (world, sampler) = slow().await;
    let ids = many(&world, &sampler, 1000).await;
    assert_eq!(world.parts.engine.counts().samples, 1000);
    assert_one_at_a_time(&world);
    // Each was asked for by itself once, when it was there.
    assert_eq!(count(&world, routes::RETRIEVE_FUTURE), 1000);
    assert_eq!(ids.len(), 1000);
    // The client goes and tells what it fetched last: the server has nothing left of them.
    drop(sampler);
    world.server.time().sleep(Duration::from_secs(1)).await;
    let polls = world.parts.journal.of(routes::RETRIEVE_FUTURES);
    assert!(polls.iter().all(|poll| poll.status == Some(200)));
    assert_eq!(statuses(&world, &ids).await, vec![410; 1000]);
}

#[tokio::test(start_paused = true)]
async fn without_the_flag_each_sample_is_asked_for_by_itself() {
    let mut config = LocalConfig::default();
    config.session_polls = false;
    let (world, sampler) = slow_with(config).await;
    many(&world, &sampler, 100).await;
    assert_eq!(count(&world, routes::RETRIEVE_FUTURES), 0);
    assert_eq!(count(&world, routes::RETRIEVE_FUTURE), 100);
}

#[tokio::test(start_paused = true)]
async fn lost_answers_and_polls_that_come_twice_lose_and_double_nothing() {
    let (world, sampler) = slow().await;
    let faults = &world.parts.faults;
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
    many(&world, &sampler, 300).await;
    assert_eq!(world.parts.engine.counts().samples, 300);
    assert_eq!(count(&world, routes::RETRIEVE_FUTURE), 330);
    assert_one_at_a_time(&world);
}
