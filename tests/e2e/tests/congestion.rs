//! Whole clients before a server that takes so many samples at once and refuses the rest, in virtual time.

use std::sync::Arc;
use std::time::Duration;

use tinkers::LimiterSettings;
use tinkers_core::{ErrorKind, Sent};
use tinkers_e2e::{InMemory, SCRIPTED};
use tinkers_local::{HintForm, LocalConfig, Window};
use tinkers_session::SessionOptions;

const SAMPLE: Duration = Duration::from_millis(200);
const AT_ONCE: u32 = 20;
const SAMPLES: u32 = 1000;

#[tokio::test(start_paused = true)]
async fn a_thousand_samples_at_once_all_come_back_with_few_refusals() {
    for (hint, form) in [
        (Duration::from_millis(200), HintForm::Milliseconds),
        (Duration::from_secs(1), HintForm::Seconds),
        (Duration::from_secs(1), HintForm::Body),
        (Duration::from_secs(1), HintForm::None),
    ] {
        let mut config = LocalConfig::default();
        config.window = Some(Window::fixed(AT_ONCE).with_hint(hint, form));
        let options = SessionOptions::default();
        let world = InMemory::slow(SAMPLE, config, options, |direct| Arc::new(direct)).await;
        let sampler = world.service.sampling(SCRIPTED).create().await.unwrap();
        let mut events = world.service.limiter_events();
        let all: Vec<_> = (0..SAMPLES)
            .map(|i| sampler.sample(vec![i % 200]).max_tokens(1).send())
            .collect();
        for (i, sample) in all.into_iter().enumerate() {
            let reply = sample.await.unwrap();
            assert_eq!(reply.sequences[0].tokens[..], [i as u32 % 200 + 1]);
        }
        let counts = world.server.window_counts().expect("it has a window");
        let what = format!("{form:?} {hint:?}: {counts:?}");
        assert_eq!(counts.accepted, u64::from(SAMPLES), "{what}");
        assert!(counts.refused > 0, "inconclusive: {what}");
        assert!(counts.refused * 20 <= counts.accepted, "{what}");
        assert!(counts.most_in_flight <= u64::from(AT_ONCE), "{what}");
        for event in &counts.events {
            assert!(event.refused <= event.in_flight, "{what}");
        }
        let lane = world.service.limits().sample;
        assert_eq!(
            (lane.waiting, lane.slots, lane.in_flight, lane.bytes),
            (0, 0, 0, 0),
            "{what}"
        );
        assert_eq!(lane.counts.refusals, counts.refused, "{what}");
        assert!(events.try_next().is_some(), "{what}");
    }
}

/// Long beside how long a sample takes, and short beside how long the last one waits for its turn.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn a_queue_that_moves_is_news_for_all_who_stand_in_it() {
    let mut config = LocalConfig::default();
    config.window = Some(Window::fixed(1).with_hint(SAMPLE, HintForm::Milliseconds));
    let options = SessionOptions {
        progress_deadline: PATIENCE,
        ..SessionOptions::default()
    };
    let slow = Duration::from_secs(10);
    let world = InMemory::slow(slow, config, options, |direct| Arc::new(direct)).await;
    let sampler = world.service.sampling(SCRIPTED).create().await.unwrap();
    let begun = world.server.time().now();
    let all: Vec<_> = (0..60)
        .map(|i| sampler.sample(vec![i]).max_tokens(1).send())
        .collect();
    for sample in all {
        sample.await.expect("the queue moved all the time");
    }
    assert!(
        world.server.time().now().since(begun) > PATIENCE * 8,
        "inconclusive"
    );
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_stands_still_ends_in_a_stall_in_which_nothing_was_sent() {
    let mut limits = LimiterSettings::default();
    limits.sample.flights = Some(1);
    let options = SessionOptions {
        progress_deadline: PATIENCE,
        limits: Some(limits),
        ..SessionOptions::default()
    };
    let never = Duration::from_secs(86_400);
    let config = LocalConfig::default();
    let world = InMemory::slow(never, config, options, |direct| Arc::new(direct)).await;
    let sampler = world.service.sampling(SCRIPTED).create().await.unwrap();
    let first = sampler.sample(vec![1]).max_tokens(1).send();
    let second = sampler.sample(vec![2]).max_tokens(1).send();
    let begun = world.server.time().now();
    let error = second.await.expect_err("nobody makes room for it");
    assert_eq!(
        (error.kind(), error.sent()),
        (ErrorKind::Stalled, Sent::NotSent)
    );
    let took = world.server.time().now().since(begun);
    assert_eq!(took.as_secs(), PATIENCE.as_secs());
    drop(first);
}
