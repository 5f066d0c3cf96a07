//! Clients of a server with an in-flight limit for samples. The server answers samples above the
//! limit with 429. All tests run in virtual time.

use std::time::Duration;

use tinkers::LimiterSettings;
use tinkers_core::{ErrorKind, Sent};
use tinkers_e2e::{Harness, SCRIPTED, Setup};
use tinkers_local::{HintForm, LocalConfig, Window};
use tinkers_session::SessionOptions;

const SAMPLE_LATENCY: Duration = Duration::from_millis(200);
const WINDOW: u32 = 20;
const SAMPLES: u32 = 1000;

/// The progress deadline of samples: the time without progress after which a sample fails. If many
/// samples queue for admission, one sample takes less than this time, but the last sample waits
/// longer than it.
const PROGRESS_DEADLINE: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn thousand_samples_under_an_in_flight_limit_of_20_get_few_429s() {
    for (hint, form) in [
        (Duration::from_millis(200), HintForm::Milliseconds),
        (Duration::from_secs(1), HintForm::Seconds),
        (Duration::from_secs(1), HintForm::Body),
        (Duration::from_secs(1), HintForm::None),
    ] {
        let mut config = LocalConfig::default();
        config.window = Some(Window::fixed(WINDOW).with_hint(hint, form));
        let harness = Harness::with(Setup {
            config,
            latency: SAMPLE_LATENCY,
            ..Setup::default()
        })
        .await;
        let sampler = harness
            .service
            .create_sampling_client(SCRIPTED)
            .await
            .unwrap();
        let mut events = harness.service.limiter_events();
        let samples: Vec<_> = (0..SAMPLES)
            .map(|i| sampler.sample(vec![i % 200]).max_tokens(1).send())
            .collect();
        for (i, sample) in samples.into_iter().enumerate() {
            let reply = sample.await.unwrap();
            assert_eq!(reply.sequences[0].tokens[..], [i as u32 % 200 + 1]);
        }
        let counts = harness
            .server
            .window_counts()
            .expect("the server has a window");
        let context = format!("{form:?} {hint:?}: {counts:?}");
        assert_eq!(counts.accepted, u64::from(SAMPLES), "{context}");
        assert!(counts.refused > 0, "inconclusive: {context}");
        assert!(counts.refused * 20 <= counts.accepted, "{context}");
        assert!(counts.most_in_flight <= u64::from(WINDOW), "{context}");
        for event in &counts.events {
            assert!(event.refused <= event.in_flight, "{context}");
        }
        let limits = harness.service.limits().sample;
        assert_eq!(
            (limits.waiting, limits.slots, limits.in_flight, limits.bytes),
            (0, 0, 0, 0),
            "{context}"
        );
        assert_eq!(limits.counts.refusals, counts.refused, "{context}");
        assert!(events.try_next().is_some(), "{context}");
    }
}

#[tokio::test(start_paused = true)]
async fn each_admission_from_the_queue_resets_the_progress_deadline() {
    let mut config = LocalConfig::default();
    config.window = Some(Window::fixed(1).with_hint(SAMPLE_LATENCY, HintForm::Milliseconds));
    let options = SessionOptions {
        progress_deadline: PROGRESS_DEADLINE,
        ..SessionOptions::default()
    };
    let latency = Duration::from_secs(10);
    let harness = Harness::with(Setup {
        config,
        options,
        latency,
        ..Setup::default()
    })
    .await;
    let sampler = harness
        .service
        .create_sampling_client(SCRIPTED)
        .await
        .unwrap();
    let began = harness.server.time().now();
    let samples: Vec<_> = (0..60)
        .map(|i| sampler.sample(vec![i]).max_tokens(1).send())
        .collect();
    for sample in samples {
        sample.await.expect("the queue makes progress");
    }
    assert!(
        harness.server.time().now().since(began) > PROGRESS_DEADLINE * 8,
        "inconclusive"
    );
}

#[tokio::test(start_paused = true)]
async fn sample_in_a_stopped_admission_queue_fails_as_stalled_and_unsent() {
    let mut limits = LimiterSettings::default();
    limits.sample.max_in_flight = Some(1);
    let options = SessionOptions {
        progress_deadline: PROGRESS_DEADLINE,
        limits: Some(limits),
        ..SessionOptions::default()
    };
    let harness = Harness::with(Setup {
        options,
        latency: Duration::from_secs(86_400),
        ..Setup::default()
    })
    .await;
    let sampler = harness
        .service
        .create_sampling_client(SCRIPTED)
        .await
        .unwrap();
    let first = sampler.sample(vec![1]).max_tokens(1).send();
    let second = sampler.sample(vec![2]).max_tokens(1).send();
    let began = harness.server.time().now();
    let error = second
        .await
        .expect_err("the first sample keeps the only permit");
    assert_eq!(
        (error.kind(), error.sent()),
        (ErrorKind::Stalled, Sent::NotSent)
    );
    let took = harness.server.time().now().since(began);
    assert_eq!(took.as_secs(), PROGRESS_DEADLINE.as_secs());
    drop(first);
}
