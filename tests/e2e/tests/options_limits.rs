//! The effect of each limit of the client builder.

use std::thread::JoinHandle;
use std::time::Duration;

use tinkers::prelude::*;
use tinkers::transport::RouteClass;
use tinkers::wire::routes;
use tinkers::{ClassSettings, ClassSnapshot, LimiterSettings, Rate};
use tinkers_e2e::training::{datum, model, step};
use tinkers_e2e::{Harness, SCRIPTED, Setup, SocketServer};
use tinkers_local::{Fault, Hint, LocalConfig, Rule};
use tinkers_session::SessionOptions;

use crate::options_builder::wait_until;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// A route class (a group of API routes with common rate limits) whose limits are tested: one of
/// its routes, its limiter settings and its limiter state.
struct Class {
    class: RouteClass,
    route: &'static str,
    settings: fn(&mut LimiterSettings) -> &mut ClassSettings,
    snapshot: fn(&ServiceClient) -> ClassSnapshot,
}

const CLASSES: [Class; 4] = [
    Class {
        class: RouteClass::Sample,
        route: routes::ASAMPLE,
        settings: |limits| &mut limits.sample,
        snapshot: |service| service.limits().sample,
    },
    Class {
        class: RouteClass::Train,
        route: routes::FORWARD_BACKWARD,
        settings: |limits| &mut limits.train,
        snapshot: |service| service.limits().train,
    },
    Class {
        class: RouteClass::Poll,
        route: routes::RETRIEVE_FUTURE,
        settings: |limits| &mut limits.poll,
        snapshot: |service| service.limits().poll,
    },
    Class {
        class: RouteClass::Rest,
        route: routes::CAPABILITIES,
        settings: |limits| &mut limits.rest,
        snapshot: |service| service.limits().rest,
    },
];

/// Lowers one limit of a route class with `set`, and sends two requests of this class to a server
/// that does not respond. Waits until one request is in flight and the limit holds back the other
/// request.
async fn assert_one_of_two_waits(class: &Class, set: fn(&mut ClassSettings)) -> JoinHandle<()> {
    let server = SocketServer::start(LocalConfig::default());
    let mut limits = LimiterSettings::default();
    set((class.settings)(&mut limits));
    let service = server
        .client_builder()
        .limits(limits)
        .connect()
        .await
        .unwrap();
    let mut models = Vec::new();
    let mut tasks = Vec::new();
    let sampler = service.create_sampling_client(SCRIPTED).await.unwrap();
    if class.class != RouteClass::Rest {
        for _ in 0..2 {
            models.push(service.create_lora_training_client(SCRIPTED).await.unwrap());
        }
    }
    let all = Rule::on(class.route).always();
    server.faults.add(all, Fault::delay(HOUR));
    for index in 0..2 {
        let (service, sampler) = (service.clone(), sampler.clone());
        let training = models.get(index).cloned();
        let class = class.class;
        tasks.push(tokio::spawn(async move {
            match (class, training) {
                (RouteClass::Sample, _) => drop(sampler.sample(vec![1]).await),
                (_, Some(training)) => {
                    let pass = training.forward_backward([datum(1)], LossFn::CrossEntropy);
                    drop(pass.await);
                }
                _ => drop(service.capabilities().await),
            }
        }));
    }
    wait_until(|| {
        let state = (class.snapshot)(&service);
        (state.waiting, state.slots) == (1, 1)
    })
    .await;
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
    drop((service, models, sampler));
    // The server stops when the delayed requests have ended.
    std::thread::spawn(|| server.stop())
}

/// Runs [`assert_one_of_two_waits`] concurrently for several route classes and limits.
async fn assert_one_of_two_waits_in(
    cases: impl IntoIterator<Item = (usize, fn(&mut ClassSettings))>,
) {
    let mut running = tokio::task::JoinSet::new();
    for (class, set) in cases {
        running.spawn(async move { assert_one_of_two_waits(&CLASSES[class], set).await });
    }
    let mut stopping = Vec::new();
    while let Some(ended) = running.join_next().await {
        stopping.push(ended.expect("one of two requests waits"));
    }
    for server in stopping {
        server.join().expect("stopped");
    }
}

#[tokio::test]
async fn limits_on_concurrent_requests_apply_in_each_route_class() {
    let one: fn(&mut ClassSettings) = |settings| settings.slots = 1;
    assert_one_of_two_waits_in((0..CLASSES.len()).map(|class| (class, one))).await;
}

#[tokio::test]
async fn limits_on_concurrent_requests_may_exceed_the_default() {
    let mut limits = LimiterSettings::default();
    limits.rest.slots *= 3;
    let server = SocketServer::start(LocalConfig::default());
    let service = server
        .client_builder()
        .limits(limits)
        .connect()
        .await
        .unwrap();
    assert_eq!(service.limits().rest.slots_allowed, limits.rest.slots);
    server.stop();
}

#[tokio::test]
async fn limits_on_the_request_rate_apply_in_each_route_class() {
    const fn hourly(burst: u32) -> Option<Rate> {
        Some(Rate {
            interval: HOUR,
            burst,
        })
    }
    let one: fn(&mut ClassSettings) = |settings| settings.rate = hourly(1);
    // The test first creates a sampler and two models. Each model needs a second request for its
    // info.
    let six: fn(&mut ClassSettings) = |settings| settings.rate = hourly(6);
    assert_one_of_two_waits_in([(0, one), (1, six), (3, one)]).await;
}

#[tokio::test(start_paused = true)]
async fn limits_on_the_request_rate_also_delay_polls() {
    let mut limits = LimiterSettings::default();
    limits.poll.rate = Some(Rate {
        interval: 10 * SECOND,
        burst: 1,
    });
    let options = SessionOptions {
        limits: Some(limits),
        ..SessionOptions::default()
    };
    let harness = Harness::with(Setup {
        options,
        latency: 20 * SECOND,
        ..Setup::default()
    })
    .await;
    let training = model(&harness).await;
    let (first, second) = (step(&training), step(&training));
    first.await.unwrap();
    second.await.unwrap();
    let polls = harness.journal.of(routes::RETRIEVE_FUTURE);
    assert!(polls.len() >= 3, "{}", polls.len());
    for pair in polls.windows(2) {
        assert!(pair[1].at.since(pair[0].at) >= 10 * SECOND);
    }
}

#[tokio::test]
async fn limits_on_bytes_and_samples_in_flight_work_or_are_unsupported() {
    let bytes: fn(&mut ClassSettings) = |settings| settings.bytes = Some(1);
    let max_in_flight: fn(&mut ClassSettings) = |settings| settings.max_in_flight = Some(1);
    assert_one_of_two_waits_in([(0, bytes), (1, bytes), (0, max_in_flight)]).await;
    for class in &CLASSES {
        let mut limits = LimiterSettings::default();
        let settings = (class.settings)(&mut limits);
        let mut unsupported = None;
        if class.class != RouteClass::Sample {
            settings.max_in_flight = Some(1);
            unsupported = Some("max_in_flight");
        }
        if matches!(class.class, RouteClass::Poll | RouteClass::Rest) {
            settings.bytes = Some(1);
            settings.max_in_flight = None;
            unsupported = Some("bytes");
        }
        if let Some(field) = unsupported {
            let builder = ServiceClient::builder().without_environment();
            let builder = builder.base_url("http://127.0.0.1:9").limits(limits);
            let error = builder.connect().await.unwrap_err();
            let expected = format!("limits.{}.{field}", class.class.name());
            assert_eq!(error.field(), Some(&*expected), "{error}");
        }
    }
    // When a limit is added, these patterns do not compile until the limit is listed.
    let LimiterSettings {
        sample,
        train: _,
        poll: _,
        rest: _,
        max_hint: _,
    } = LimiterSettings::default();
    let ClassSettings {
        slots: _,
        bytes: _,
        max_in_flight: _,
        rate: _,
    } = sample;
}

/// Starts a server and a client. `change` changes the limits of the client's rate limiter.
async fn harness_with_limits(change: impl FnOnce(&mut LimiterSettings)) -> Harness {
    let mut limits = LimiterSettings::default();
    change(&mut limits);
    let options = SessionOptions {
        limits: Some(limits),
        ..SessionOptions::default()
    };
    Harness::with(options).await
}

/// Returns the arrival times of the sample submissions at the server, in seconds since the origin
/// of the clock.
fn arrivals(harness: &Harness) -> Vec<u64> {
    let entries = harness.journal.of(routes::ASAMPLE);
    let times = entries
        .iter()
        .map(|entry| entry.at.since_origin().as_secs());
    times.collect()
}

#[tokio::test(start_paused = true)]
async fn limits_max_hint_caps_the_retry_after_delay() {
    // The first maximum is above the default and the second one is below it.
    for (max_hint, pause) in [(2 * HOUR, HOUR), (5 * SECOND, 5 * SECOND)] {
        let harness = harness_with_limits(|limits| limits.max_hint = max_hint).await;
        let sampler = harness
            .service
            .create_sampling_client(SCRIPTED)
            .await
            .unwrap();
        let refusal = Fault::rate_limited(Hint::Seconds(HOUR.as_secs()));
        harness.faults.add(Rule::on(routes::ASAMPLE), refusal);
        sampler.sample(vec![1]).await.unwrap();
        let at = arrivals(&harness);
        assert_eq!(at[1] - at[0], pause.as_secs(), "{at:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn limits_on_the_request_rate_also_delay_samples() {
    let harness = harness_with_limits(|limits| {
        limits.sample.rate = Some(Rate {
            interval: SECOND,
            burst: 2,
        });
    })
    .await;
    let sampler = harness
        .service
        .create_sampling_client(SCRIPTED)
        .await
        .unwrap();
    let samples: Vec<_> = (0..6u32)
        .map(|token| sampler.sample(vec![token]).send())
        .collect();
    for sample in samples {
        sample.await.unwrap();
    }
    let at = arrivals(&harness);
    let since: Vec<u64> = at.iter().map(|second| second - at[0]).collect();
    assert_eq!(since, [0, 0, 1, 2, 3, 4]);
}
