//! Samples, log-probabilities and streams, in virtual time.

use std::collections::BTreeSet;
use std::time::Duration;

use tinkers::prelude::*;
use tinkers::wire::routes;
use tinkers_e2e::{InMemory, SCRIPTED};
use tinkers_local::{Fault, Hint, Rule};

async fn sampler(world: &InMemory) -> SamplingClient {
    world.service.sampling(SCRIPTED).create().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn several_samples_come_with_logprobs_and_ids() {
    let world = InMemory::start().await;
    let sample = sampler(&world)
        .await
        .sample(vec![1, 2])
        .max_tokens(3)
        .num_samples(4);
    let reply = sample
        .temperature(0.5)
        .topk_sample_logprobs(2)
        .await
        .unwrap();
    assert_eq!(reply.sequences.len(), 4);
    for sequence in &reply.sequences {
        assert_eq!(sequence.tokens.len(), 3);
        assert_eq!(sequence.stop_reason, StopReason::Length);
        assert_eq!(sequence.logprobs.as_ref().map(Vec::len), Some(3));
        assert!(sequence.sequence_id.is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn log_probabilities_are_as_long_as_the_prompt() {
    let world = InMemory::start().await;
    let logprobs = sampler(&world)
        .await
        .compute_logprobs(vec![1, 2, 3, 4])
        .await
        .unwrap();
    assert_eq!(logprobs.len(), 4);
    assert_eq!(logprobs[0], None);
    assert!(logprobs[1..].iter().all(Option::is_some));
}

#[tokio::test(start_paused = true)]
async fn a_stream_gives_every_prompt_once_with_a_bounded_number_in_flight() {
    let world = InMemory::start().await;
    let sampler = sampler(&world).await;
    let refusal = Fault::rate_limited(Hint::Seconds(2));
    world
        .parts
        .faults
        .add(Rule::on(routes::ASAMPLE).nth(20).times(5), refusal);
    let prompts = (0..200u32).map(|i| vec![i % 100, 1]);
    let mut stream = sampler.sample_stream(prompts, 16, |sample| sample.max_tokens(2));
    let mut seen = BTreeSet::new();
    while let Some(sampled) = stream.next().await {
        assert!(stream.in_flight() < 16);
        assert!(sampled.result.is_ok(), "{:?}", sampled.result);
        assert!(seen.insert(sampled.index), "{} came twice", sampled.index);
    }
    assert_eq!(seen, (0..200).collect());
    assert_eq!(world.parts.engine.counts().samples, 200);
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_nothing_ends_and_a_failing_prompt_is_one_item() {
    let world = InMemory::start().await;
    let sampler = sampler(&world).await;
    assert!(
        sampler
            .sample_stream(Vec::<Vec<u32>>::new(), 4, |sample| sample)
            .next()
            .await
            .is_none()
    );
    let mut stream =
        sampler.sample_stream([vec![1], vec![], vec![2]], 1, |sample| sample.max_tokens(1));
    let mut outcomes = Vec::new();
    while let Some(sampled) = stream.next().await {
        outcomes.push((sampled.index, sampled.result.is_ok()));
    }
    assert_eq!(outcomes, [(0, true), (1, false), (2, true)]);
}

#[tokio::test(start_paused = true)]
async fn retries_keep_their_number_and_a_lost_result_is_sampled_anew() {
    let world = InMemory::start().await;
    let sampler = sampler(&world).await;
    world
        .parts
        .faults
        .add(Rule::on(routes::ASAMPLE), Fault::cut_after());
    world
        .parts
        .faults
        .add(Rule::on(routes::RETRIEVE_FUTURE), Fault::gone());
    sampler.sample(vec![1]).max_tokens(1).await.unwrap();
    let sent: Vec<_> = world
        .parts
        .journal
        .of(routes::ASAMPLE)
        .iter()
        .map(|entry| (entry.seq_id, entry.digest))
        .collect();
    assert_eq!(sent.len(), 3);
    assert_eq!(sent[0], sent[1], "the retry is the same request");
    assert_ne!(sent[1].0, sent[2].0, "the new sample is a new request");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_stream_gives_up_what_is_under_way() {
    let world = InMemory::start().await;
    let sampler = sampler(&world).await;
    world.parts.faults.add(
        Rule::on(routes::ASAMPLE).always(),
        Fault::rate_limited(Hint::Seconds(600)),
    );
    let prompts = (0..100u32).map(|i| vec![i]);
    let mut stream = sampler.sample_stream(prompts, 8, |sample| sample.max_tokens(1));
    let clock = world.server.time();
    let soon = clock.now().after(Duration::from_secs(5));
    assert!(clock.deadline(soon, stream.next()).await.is_none());
    drop(stream);
    let asked = world.parts.journal.of(routes::ASAMPLE).len();
    assert!(asked >= 1);
    clock.sleep(Duration::from_secs(3600)).await;
    assert_eq!(world.parts.journal.of(routes::ASAMPLE).len(), asked);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_loses_every_sample_is_asked_a_few_times_with_pauses() {
    let world = InMemory::start().await;
    let sampler = world.service.sampling(SCRIPTED).create().await.unwrap();
    world
        .parts
        .faults
        .add(Rule::on(routes::RETRIEVE_FUTURE).times(2000), Fault::gone());
    let began = world.server.time().now();
    let lost = sampler.sample(vec![1]).max_tokens(1).await.unwrap_err();
    let took = world.server.time().now().since(began);
    assert_eq!(lost.kind(), ErrorKind::ResultLost);
    assert_eq!(world.parts.journal.of(routes::ASAMPLE).len(), 11);
    // 0.5, 1, 2, 4 and 8 s, and then 10 s each.
    assert!(took >= Duration::from_millis(65_500), "{took:?}");
}
