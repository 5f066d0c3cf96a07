//! Calls that a transport layer makes while it sends another request of the same client. Such
//! nested calls succeed or fail at once, and never deadlock.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tinkers::prelude::*;
use tinkers::transport::{BoxFuture, HttpRequest, HttpResponse, Transport, TransportError};
use tinkers::wire::routes;
use tinkers::{ForwardBackwardOutput, Sent};
use tinkers_e2e::training::{datum, model, numbers, step};
use tinkers_e2e::{Harness, SCRIPTED, Setup};
use tinkers_local::{Fault, Hint, InProcess, Rule};

type NestedCall = Box<dyn FnOnce() -> BoxFuture<'static, Result<(), Error>> + Send>;
type Outcomes = Arc<Mutex<Vec<Result<(), Error>>>>;

/// The API calls that a transport makes while it sends another request (nested calls). Contains the
/// planned calls, each with the route of the request that triggers it, and the outcomes of the
/// calls that have ended.
#[derive(Clone, Default)]
struct NestedCalls {
    planned: Arc<Mutex<Vec<(&'static str, NestedCall)>>>,
    outcomes: Outcomes,
}

impl NestedCalls {
    /// Plans a nested call: an API call that the transport makes once, just before it sends the
    /// next request to `route`.
    fn plan<T, F>(&self, route: &'static str, call: impl FnOnce() -> F + Send + 'static)
    where
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let call = || {
            let call = call();
            let boxed: BoxFuture<'static, _> = Box::pin(async { call.await.map(drop) });
            boxed
        };
        self.planned.lock().unwrap().push((route, Box::new(call)));
    }

    fn next(&self, path: &str) -> Option<NestedCall> {
        let mut planned = self.planned.lock().unwrap();
        let at = planned.iter().position(|(route, _)| *route == path)?;
        Some(planned.remove(at).1)
    }

    /// Returns the outcomes of all nested calls (API calls that the transport made), in the order
    /// of completion.
    fn outcomes(&self) -> Vec<Result<(), Error>> {
        assert_eq!(
            self.planned.lock().unwrap().len(),
            0,
            "every planned call was made"
        );
        std::mem::take(&mut *self.outcomes.lock().unwrap())
    }
}

/// A transport that can make API calls of its own (nested calls). It makes a planned call before it
/// sends a request to the route of the plan.
#[derive(Debug)]
struct NestingTransport {
    inner: InProcess,
    calls: NestedCalls,
}

impl std::fmt::Debug for NestedCalls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NestedCalls").finish_non_exhaustive()
    }
}

impl Transport for NestingTransport {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        // The call begins before the future is polled: a training call enters the queue when its method is called.
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

/// Starts a server on which each operation takes one second, and a client with a
/// [`NestingTransport`].
async fn start() -> (Harness, NestedCalls) {
    let calls = NestedCalls::default();
    let layer_calls = calls.clone();
    let setup = Setup {
        latency: Duration::from_secs(1),
        ..Setup::default()
    };
    let (harness, _) = Harness::through(setup, |inner| NestingTransport {
        inner,
        calls: layer_calls,
    })
    .await;
    (harness, calls)
}

fn pass(training: &TrainingClient) -> ApiFuture<ForwardBackwardOutput> {
    training.forward_backward([datum(1)], LossFn::CrossEntropy)
}

fn assert_failed_at_once(outcome: &Result<(), Error>) {
    let error = outcome.as_ref().expect_err("the call cannot wait");
    let kind = (error.kind(), error.sent());
    assert_eq!(kind, (ErrorKind::Unsupported, Sent::NotSent), "{error}");
    assert!(error.to_string().contains("transport layer"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn call_made_inside_a_transport_on_the_same_model_fails_at_once() {
    let (harness, calls) = start().await;
    let training = model(&harness).await;
    let inner = training.clone();
    calls.plan(routes::FORWARD_BACKWARD, move || pass(&inner));
    let inner = training.clone();
    calls.plan(routes::OPTIM_STEP, move || {
        inner.save_state("nested").send()
    });
    pass(&training).await.expect("the outer call succeeds");
    step(&training).await.expect("the outer call succeeds");
    let outcomes = calls.outcomes();
    assert_eq!(outcomes.len(), 2);
    outcomes.iter().for_each(assert_failed_at_once);
    assert_eq!(numbers(&harness), [1, 2], "nested calls take no number");
}

#[tokio::test(start_paused = true)]
async fn calls_made_inside_a_transport_on_two_models_do_not_deadlock() {
    let (harness, calls) = start().await;
    let (first, second) = (model(&harness).await, model(&harness).await);
    let (of_first, of_second) = (first.clone(), second.clone());
    calls.plan(routes::FORWARD_BACKWARD, move || pass(&of_second));
    calls.plan(routes::FORWARD_BACKWARD, move || pass(&of_first));
    pass(&first).await.expect("the outer call succeeds");
    let outcomes = calls.outcomes();
    assert_failed_at_once(&outcomes[0]);
    outcomes[1].as_ref().expect("the second model was idle");
    step(&second).await.expect("the second model still works");
}

#[tokio::test(start_paused = true)]
async fn call_made_inside_a_transport_on_an_idle_model_succeeds() {
    let (harness, calls) = start().await;
    let training = model(&harness).await;
    let inner = training.clone();
    calls.plan(routes::RETRIEVE_FUTURE, move || step(&inner));
    pass(&training).await.expect("the outer call succeeds");
    calls.outcomes()[0].as_ref().expect("the model was idle");
    assert_eq!(numbers(&harness), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn sample_requested_inside_a_transport_during_a_poll_succeeds() {
    let (harness, calls) = start().await;
    let sampler = harness
        .service
        .create_sampling_client(SCRIPTED)
        .await
        .unwrap();
    let inner = sampler.clone();
    let nested = move || inner.sample(vec![2]).max_tokens(1).send();
    calls.plan(routes::RETRIEVE_FUTURES, nested);
    let outer = sampler.sample(vec![1]).max_tokens(1).send();
    outer.await.expect("the outer call succeeds");
    calls.outcomes()[0]
        .as_ref()
        .expect("the shared poll returns both results");
}

#[tokio::test(start_paused = true)]
async fn request_inside_a_transport_fails_if_its_class_is_rate_limited() {
    let (harness, calls) = start().await;
    let training = model(&harness).await;
    let refusal = Fault::rate_limited(Hint::Seconds(60));
    let rule = Rule::on(routes::CAPABILITIES).times(1);
    harness.faults.add(rule, refusal);
    let service = harness.service.clone();
    let refused = tokio::spawn(async move { service.capabilities().await });
    harness.server.time().sleep(Duration::from_secs(1)).await;
    let service = harness.service.clone();
    let nested = move || async move { service.capabilities().await };
    calls.plan(routes::FORWARD_BACKWARD, nested);
    pass(&training).await.expect("the outer call succeeds");
    let outcomes = calls.outcomes();
    let error = outcomes[0]
        .as_ref()
        .expect_err("a nested call may not wait");
    assert_eq!(error.kind(), ErrorKind::RateLimited, "{error}");
    refused
        .await
        .unwrap()
        .expect("the refused query is retried");
}
