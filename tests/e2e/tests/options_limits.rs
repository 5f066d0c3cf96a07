//! Each of the builder's limits has an effect that can be seen from outside.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tinkers::prelude::*;
use tinkers::transport::RouteClass;
use tinkers::wire::routes;
use tinkers::{ClassSettings, ClassSnapshot, LimiterSettings, Rate};
use tinkers_e2e::training::{datum, model, step};
use tinkers_e2e::{InMemory, SCRIPTED, Served};
use tinkers_local::{Fault, Hint, LocalConfig, Rule, Script};
use tinkers_session::SessionOptions;

use crate::options_builder::until;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// Of one class: how its requests are made, and where it is seen.
struct Class {
    class: RouteClass,
    route: &'static str,
    lane: fn(&mut LimiterSettings) -> &mut ClassSettings,
    seen: fn(&ServiceClient) -> ClassSnapshot,
}

const CLASSES: [Class; 4] = [
    Class {
        class: RouteClass::Sample,
        route: routes::ASAMPLE,
        lane: |limits| &mut limits.sample,
        seen: |service| service.limits().sample,
    },
    Class {
        class: RouteClass::Train,
        route: routes::FORWARD_BACKWARD,
        lane: |limits| &mut limits.train,
        seen: |service| service.limits().train,
    },
    Class {
        class: RouteClass::Poll,
        route: routes::RETRIEVE_FUTURE,
        lane: |limits| &mut limits.poll,
        seen: |service| service.limits().poll,
    },
    Class {
        class: RouteClass::Rest,
        route: routes::CAPABILITIES,
        lane: |limits| &mut limits.rest,
        seen: |service| service.limits().rest,
    },
];

/// Makes two requests of a class that are not answered, and waits until one of them is held back and the other is under way.
async fn one_of_two_waits(class: &Class, set: fn(&mut ClassSettings)) -> JoinHandle<()> {
    let served = Served::start(LocalConfig::default());
    let mut limits = LimiterSettings::default();
    set((class.lane)(&mut limits));
    let service = served.connecting().limits(limits).connect().await.unwrap();
    let mut models = Vec::new();
    let mut work = Vec::new();
    let sampler = service.sampling(SCRIPTED).create().await.unwrap();
    if class.class != RouteClass::Rest {
        for _ in 0..2 {
            models.push(service.lora_training(SCRIPTED).create().await.unwrap());
        }
    }
    let silent = Rule::on(class.route).always();
    served.parts.faults.add(silent, Fault::delay(HOUR));
    for index in 0..2 {
        let (service, sampler) = (service.clone(), sampler.clone());
        let training = models.get(index).cloned();
        let class = class.class;
        work.push(tokio::spawn(async move {
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
    until(|| {
        let seen = (class.seen)(&service);
        (seen.waiting, seen.slots) == (1, 1)
    })
    .await;
    work.iter().for_each(tokio::task::JoinHandle::abort);
    drop((service, models, sampler));
    // It waits for what is not answered.
    std::thread::spawn(|| served.stop())
}

/// The same for several classes and limits, at once.
async fn one_of_two_waits_in(cases: impl IntoIterator<Item = (usize, fn(&mut ClassSettings))>) {
    let mut running = tokio::task::JoinSet::new();
    for (class, set) in cases {
        running.spawn(async move { one_of_two_waits(&CLASSES[class], set).await });
    }
    let mut stopping = Vec::new();
    while let Some(ended) = running.join_next().await {
        stopping.push(ended.expect("one of two waits"));
    }
    for server in stopping {
        server.join().expect("stopped");
    }
}

#[tokio::test]
async fn limits_of_slots_hold_in_each_class() {
    let one: fn(&mut ClassSettings) = |lane| lane.slots = 1;
    one_of_two_waits_in((0..CLASSES.len()).map(|class| (class, one))).await;
}

#[tokio::test]
async fn limits_of_slots_may_be_above_the_usual() {
    let mut limits = LimiterSettings::default();
    limits.rest.slots *= 3;
    let served = Served::start(LocalConfig::default());
    let service = served.connecting().limits(limits).connect().await.unwrap();
    assert_eq!(service.limits().rest.slots_allowed, limits.rest.slots);
    served.stop();
}

#[tokio::test]
async fn limits_of_rates_hold_in_each_class() {
    const fn hourly(burst: u32) -> Option<Rate> {
        Some(Rate {
            interval: HOUR,
            burst,
        })
    }
    let one: fn(&mut ClassSettings) = |lane| lane.rate = hourly(1);
    // A sampler, and two models with their descriptions, come first.
    let six: fn(&mut ClassSettings) = |lane| lane.rate = hourly(6);
    one_of_two_waits_in([(0, one), (1, six), (3, one)]).await;
}

#[tokio::test(start_paused = true)]
async fn limits_of_the_rate_pace_polls() {
    let mut limits = LimiterSettings::default();
    limits.poll.rate = Some(Rate {
        interval: 10 * SECOND,
        burst: 1,
    });
    let options = SessionOptions {
        limits: Some(limits),
        ..SessionOptions::default()
    };
    let world = InMemory::slow(20 * SECOND, LocalConfig::default(), options, |direct| {
        Arc::new(direct)
    })
    .await;
    let training = model(&world).await;
    let [one, two] = [0, 1].map(|_| step(&training));
    one.await.unwrap();
    two.await.unwrap();
    let polls = world.parts.journal.of(routes::RETRIEVE_FUTURE);
    assert!(polls.len() >= 3, "{}", polls.len());
    for pair in polls.windows(2) {
        assert!(pair[1].at.since(pair[0].at) >= 10 * SECOND);
    }
}

#[tokio::test]
async fn limits_of_bytes_and_flights_hold_where_there_are_any() {
    let bytes: fn(&mut ClassSettings) = |lane| lane.bytes = Some(1);
    let flights: fn(&mut ClassSettings) = |lane| lane.flights = Some(1);
    one_of_two_waits_in([(0, bytes), (1, bytes), (0, flights)]).await;
    for class in &CLASSES {
        let mut limits = LimiterSettings::default();
        let lane = (class.lane)(&mut limits);
        let mut refused = Vec::new();
        if class.class != RouteClass::Sample {
            lane.flights = Some(1);
            refused.push("flights");
        }
        if matches!(class.class, RouteClass::Poll | RouteClass::Rest) {
            lane.bytes = Some(1);
            lane.flights = None;
            refused = vec!["bytes"];
        }
        if let Some(field) = refused.pop() {
            let builder = ServiceClient::builder().without_environment();
            let builder = builder.base_url("http://127.0.0.1:9").limits(limits);
            let error = builder.connect().await.unwrap_err();
            let expected = format!("limits.{}.{field}", class.class.name());
            assert_eq!(error.field(), Some(&*expected), "{error}");
        }
    }
    // A new limit does not compile here before it has a test.
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
        flights: _,
        rate: _,
    } = sample;
}

async fn limited(change: impl FnOnce(&mut LimiterSettings)) -> InMemory {
    let mut limits = LimiterSettings::default();
    change(&mut limits);
    let options = SessionOptions {
        limits: Some(limits),
        ..SessionOptions::default()
    };
    InMemory::with(Script::default(), LocalConfig::default(), options).await
}

/// When samples arrived, in whole seconds.
fn arrivals(world: &InMemory) -> Vec<u64> {
    let entries = world.parts.journal.of(routes::ASAMPLE);
    let at = entries
        .iter()
        .map(|entry| entry.at.since_origin().as_secs());
    at.collect()
}

#[tokio::test(start_paused = true)]
async fn limits_of_the_longest_hint_hold() {
    // Longer than usual, and shorter.
    for (max_hint, hint) in [(2 * HOUR, HOUR), (5 * SECOND, 5 * SECOND)] {
        let world = limited(|limits| limits.max_hint = max_hint).await;
        let sampler = world.service.sampling(SCRIPTED).create().await.unwrap();
        let refusal = Fault::rate_limited(Hint::Seconds(HOUR.as_secs()));
        world.parts.faults.add(Rule::on(routes::ASAMPLE), refusal);
        sampler.sample(vec![1]).await.unwrap();
        let at = arrivals(&world);
        assert_eq!(at[1] - at[0], hint.as_secs(), "{at:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn limits_of_the_rate_pace_samples() {
    let world = limited(|limits| {
        limits.sample.rate = Some(Rate {
            interval: SECOND,
            burst: 2,
        });
    })
    .await;
    let sampler = world.service.sampling(SCRIPTED).create().await.unwrap();
    let samples: Vec<_> = (0..6u32)
        .map(|token| sampler.sample(vec![token]).send())
        .collect();
    for sample in samples {
        sample.await.unwrap();
    }
    let at = arrivals(&world);
    let since: Vec<u64> = at.iter().map(|second| second - at[0]).collect();
    assert_eq!(since, [0, 0, 1, 2, 3, 4]);
}
