//! Samples, log-probabilities and streams, in virtual time.

use std::collections::BTreeSet;
use std::time::Duration;

use tinkers::prelude::*;
use tinkers::wire::routes;
use tinkers_e2e::{Harness, SCRIPTED};
use tinkers_local::{Fault, Hint, Rule};

async fn sampler(harness: &Harness) -> SamplingClient {
    harness
        .service
        .create_sampling_client(SCRIPTED)
        .await
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn samples_have_logprobs_and_ids() {
    let harness = Harness::start().await;
    let sampler = sampler(&harness).await;
    let session = harness.service.session_id();
    assert_eq!(sampler.sampler_id(), format!("{session}:sample:0"));
    let sample = sampler.sample(vec![1, 2]).max_tokens(3).num_samples(4);
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
async fn compute_logprobs_returns_one_entry_per_prompt_token() {
    let harness = Harness::start().await;
    let logprobs = sampler(&harness)
        .await
        .compute_logprobs(vec![1, 2, 3, 4])
        .await
        .unwrap();
    assert_eq!(logprobs.len(), 4);
    assert_eq!(logprobs[0], None);
    assert!(logprobs[1..].iter().all(Option::is_some));
}

#[tokio::test(start_paused = true)]
async fn sample_stream_yields_each_prompt_once_with_bounded_concurrency() {
    let harness = Harness::start().await;
    let sampler = sampler(&harness).await;
    let refusal = Fault::rate_limited(Hint::Seconds(2));
    harness
        .faults
        .add(Rule::on(routes::ASAMPLE).nth(20).times(5), refusal);
    let prompts = (0..200u32).map(|i| vec![i % 100, 1]);
    let mut stream = sampler.sample_stream(prompts, 16, |sample| sample.max_tokens(2));
    let mut indices = BTreeSet::new();
    while let Some(sampled) = stream.next().await {
        assert!(stream.in_flight() < 16);
        assert!(sampled.result.is_ok(), "{:?}", sampled.result);
        assert!(
            indices.insert(sampled.index),
            "result {} came twice",
            sampled.index
        );
    }
    assert_eq!(indices, (0..200).collect());
    assert_eq!(harness.engine.counts().samples, 200);
}

#[tokio::test(start_paused = true)]
async fn sample_stream_yields_an_error_item_for_a_failed_prompt() {
    let harness = Harness::start().await;
    let sampler = sampler(&harness).await;
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
async fn retried_sample_keeps_its_seq_id_and_resubmission_gets_a_new_one() {
    let harness = Harness::start().await;
    let sampler = sampler(&harness).await;
    harness
        .faults
        .add(Rule::on(routes::ASAMPLE), Fault::cut_after());
    harness
        .faults
        .add(Rule::on(routes::RETRIEVE_FUTURE), Fault::gone());
    sampler.sample(vec![1]).max_tokens(1).await.unwrap();
    let sent: Vec<_> = harness
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
async fn dropped_sample_stream_sends_no_more_requests() {
    let harness = Harness::start().await;
    let sampler = sampler(&harness).await;
    harness.faults.add(
        Rule::on(routes::ASAMPLE).always(),
        Fault::rate_limited(Hint::Seconds(600)),
    );
    let prompts = (0..100u32).map(|i| vec![i]);
    let mut stream = sampler.sample_stream(prompts, 8, |sample| sample.max_tokens(1));
    let clock = harness.server.time();
    let soon = clock.now().after(Duration::from_secs(5));
    assert!(clock.deadline(soon, stream.next()).await.is_none());
    drop(stream);
    let count_before = harness.journal.of(routes::ASAMPLE).len();
    assert!(count_before >= 1);
    clock.sleep(Duration::from_secs(3600)).await;
    assert_eq!(harness.journal.of(routes::ASAMPLE).len(), count_before);
}

#[tokio::test(start_paused = true)]
async fn sample_with_a_permanently_lost_result_is_submitted_eleven_times() {
    let harness = Harness::start().await;
    let sampler = harness
        .service
        .create_sampling_client(SCRIPTED)
        .await
        .unwrap();
    harness
        .faults
        .add(Rule::on(routes::RETRIEVE_FUTURE).times(2000), Fault::gone());
    let began = harness.server.time().now();
    let lost = sampler.sample(vec![1]).max_tokens(1).await.unwrap_err();
    let took = harness.server.time().now().since(began);
    assert_eq!(lost.kind(), ErrorKind::ResultLost);
    assert_eq!(harness.journal.of(routes::ASAMPLE).len(), 11);
    // The backoff delays are 0.5, 1, 2, 4 and 8 s, and then 10 s each.
    assert!(took >= Duration::from_millis(65_500), "{took:?}");
}
