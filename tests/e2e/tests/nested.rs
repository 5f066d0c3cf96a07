//! Calls that a transport layer makes while it passes another request on: each is served, or fails at once.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tinkers::prelude::*;
use tinkers::transport::{BoxFuture, HttpRequest, HttpResponse, Transport, TransportError};
use tinkers::wire::routes;
use tinkers::{ForwardBackwardOutput, Sent};
use tinkers_e2e::training::{datum, model, numbers, step};
use tinkers_e2e::{InMemory, SCRIPTED};
use tinkers_local::{Fault, Hint, LocalConfig, Rule};
use tinkers_session::SessionOptions;

type Nested = Box<dyn FnOnce() -> BoxFuture<'static, Result<(), Error>> + Send>;
type Outcomes = Arc<Mutex<Vec<Result<(), Error>>>>;

/// Makes each of its calls before it passes on the next request of its route.
#[derive(Clone, Default)]
struct Calls {
    planned: Arc<Mutex<Vec<(&'static str, Nested)>>>,
    outcomes: Outcomes,
}

impl Calls {
    /// Plans a call for the next request to `route`.
    fn plan<T, F>(&self, route: &'static str, call: impl FnOnce() -> F + Send + 'static)
    where
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let call = || {
            let call = call();
            let nested: BoxFuture<'static, _> = Box::pin(async { call.await.map(drop) });
            nested
        };
        self.planned.lock().unwrap().push((route, Box::new(call)));
    }

    fn next(&self, path: &str) -> Option<Nested> {
        let mut planned = self.planned.lock().unwrap();
        let at = planned.iter().position(|(route, _)| *route == path)?;
        Some(planned.remove(at).1)
    }

    /// What became of the calls, in the order of their ends.
    fn outcomes(&self) -> Vec<Result<(), Error>> {
        assert_eq!(self.planned.lock().unwrap().len(), 0, "all were made");
        std::mem::take(&mut *self.outcomes.lock().unwrap())
    }
}

#[derive(Debug)]
struct Layer {
    inner: Arc<dyn Transport>,
    calls: Calls,
}

impl std::fmt::Debug for Calls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Calls").finish_non_exhaustive()
    }
}

impl Transport for Layer {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        // Made at once, as a layer may: a training call takes its place when its method is called.
        let nested = self.calls.next(&request.path).map(|call| call());
        Box::pin(async move {
            if let Some(nested) = nested {
                let outcome = nested.await;
                self.calls.outcomes.lock().unwrap().push(outcome);
            }
            self.inner.send(request).await
        })
    }
}

/// A server whose results take a second, and a client through the layer.
async fn world() -> (InMemory, Calls) {
    let calls = Calls::default();
    let layer = calls.clone();
    let world = InMemory::slow(
        Duration::from_secs(1),
        LocalConfig::default(),
        SessionOptions::default(),
        |direct| {
            Arc::new(Layer {
                inner: Arc::new(direct),
                calls: layer,
            })
        },
    )
    .await;
    (world, calls)
}

fn pass(training: &TrainingClient) -> ApiFuture<ForwardBackwardOutput> {
    training.forward_backward([datum(1)], LossFn::CrossEntropy)
}

fn assert_failed_at_once(outcome: &Result<(), Error>) {
    let error = outcome.as_ref().expect_err("it cannot be served");
    let kind = (error.kind(), error.sent());
    assert_eq!(kind, (ErrorKind::Unsupported, Sent::NotSent), "{error}");
    assert!(error.to_string().contains("transport layer"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn nested_call_of_the_same_model_fails_at_once() {
    let (world, calls) = world().await;
    let training = model(&world).await;
    let inner = training.clone();
    calls.plan(routes::FORWARD_BACKWARD, move || pass(&inner));
    let inner = training.clone();
    calls.plan(routes::OPTIM_STEP, move || inner.save_state("nested"));
    pass(&training).await.expect("the outer call is served");
    step(&training).await.expect("the outer call is served");
    let outcomes = calls.outcomes();
    assert_eq!(outcomes.len(), 2);
    outcomes.iter().for_each(assert_failed_at_once);
    assert_eq!(numbers(&world), [1, 2], "no number is used up");
}

#[tokio::test(start_paused = true)]
async fn nested_calls_around_two_models_do_not_wait_in_a_circle() {
    let (world, calls) = world().await;
    let (first, second) = (model(&world).await, model(&world).await);
    let (of_first, of_second) = (first.clone(), second.clone());
    calls.plan(routes::FORWARD_BACKWARD, move || pass(&of_second));
    calls.plan(routes::FORWARD_BACKWARD, move || pass(&of_first));
    pass(&first).await.expect("the outer call is served");
    let outcomes = calls.outcomes();
    assert_failed_at_once(&outcomes[0]);
    outcomes[1].as_ref().expect("the second model was idle");
    step(&second).await.expect("it goes on");
}

#[tokio::test(start_paused = true)]
async fn nested_call_of_an_idle_model_is_served() {
    let (world, calls) = world().await;
    let training = model(&world).await;
    let inner = training.clone();
    calls.plan(routes::RETRIEVE_FUTURE, move || step(&inner));
    pass(&training).await.expect("the outer call is served");
    calls.outcomes()[0]
        .as_ref()
        .expect("nothing was in its way");
    assert_eq!(numbers(&world), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn nested_sample_of_a_shared_poll_is_served() {
    let (world, calls) = world().await;
    let sampler = world.service.sampling(SCRIPTED).create().await.unwrap();
    let inner = sampler.clone();
    let nested = move || inner.sample(vec![2]).max_tokens(1).send();
    calls.plan(routes::RETRIEVE_FUTURES, nested);
    let outer = sampler.sample(vec![1]).max_tokens(1).send();
    outer.await.expect("the outer call is served");
    calls.outcomes()[0].as_ref().expect("the poll carries it");
}

#[tokio::test(start_paused = true)]
async fn nested_query_behind_a_closed_gate_fails_at_once() {
    let (world, calls) = world().await;
    let training = model(&world).await;
    let closes = Fault::rate_limited(Hint::Seconds(60));
    let rule = Rule::on(routes::CAPABILITIES).times(1);
    world.parts.faults.add(rule, closes);
    let service = world.service.clone();
    let refused = tokio::spawn(async move { service.capabilities().await });
    world.server.time().sleep(Duration::from_secs(1)).await;
    let service = world.service.clone();
    let nested = move || async move { service.capabilities().await };
    calls.plan(routes::FORWARD_BACKWARD, nested);
    pass(&training).await.expect("the outer call is served");
    let outcomes = calls.outcomes();
    let error = outcomes[0].as_ref().expect_err("it may not wait");
    assert_eq!(error.kind(), ErrorKind::RateLimited, "{error}");
    refused.await.unwrap().expect("it waits out the pause");
}
