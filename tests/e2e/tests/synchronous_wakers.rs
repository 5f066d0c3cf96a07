//! Callers that act inside the wake-up for a failed call. At that moment, the state of the client
//! must already reflect the failure.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};

use http::StatusCode;
use tinkers::prelude::*;
use tinkers::wire::routes;
use tinkers::{ApiFuture, OptimStepResult};
use tinkers_core::{BoxFuture, Spawn, Task, Transport};
use tinkers_e2e::training::{inject, numbers, step};
use tinkers_e2e::{Harness, open_with_spawner};
use tinkers_local::{Fault, Hint, InProcess, Rule};
use tinkers_session::SessionOptions;

/// A spawner whose wakers poll their task at once, before `wake` returns.
#[derive(Debug)]
struct SynchronousSpawner;

struct SynchronousTask {
    future: Mutex<Option<BoxFuture<'static, ()>>>,
    is_woken: AtomicBool,
}

impl SynchronousTask {
    fn run(self: &Arc<Self>) {
        self.is_woken.store(true, Ordering::SeqCst);
        // A wake-up during a poll only sets the flag; the running poll then repeats.
        while let Ok(mut future) = self.future.try_lock()
            && self.is_woken.swap(false, Ordering::SeqCst)
        {
            let waker = Waker::from(Arc::clone(self));
            let mut cx = Context::from_waker(&waker);
            if let Some(running) = &mut *future
                && running.as_mut().poll(&mut cx).is_ready()
            {
                *future = None;
            }
        }
    }
}

impl Wake for SynchronousTask {
    fn wake(self: Arc<Self>) {
        self.run();
    }
}

impl Spawn for SynchronousSpawner {
    fn spawn(&self, future: BoxFuture<'static, ()>) -> Task {
        let task = Arc::new(SynchronousTask {
            future: Mutex::new(Some(future)),
            is_woken: AtomicBool::new(false),
        });
        task.run();
        Task::new(move || {
            if let Ok(mut future) = task.future.try_lock() {
                *future = None;
            }
        })
    }
}

/// Connects a client with a [`SynchronousSpawner`].
async fn synchronous_client(harness: &Harness) -> ServiceClient {
    let transport: Arc<dyn Transport> = Arc::new(InProcess::new(harness.server.clone()));
    let spawner = Arc::new(SynchronousSpawner);
    let session = open_with_spawner(transport, SessionOptions::default(), spawner).await;
    ServiceClient::from_session(session.unwrap())
}

/// A waker that calls `recover` on the training client and begins an optimizer step, both before
/// `wake` returns.
struct RecoveringWaker {
    training: TrainingClient,
    step: Mutex<Option<ApiFuture<OptimStepResult>>>,
    test_waker: Mutex<Option<Waker>>,
}

impl Wake for RecoveringWaker {
    fn wake(self: Arc<Self>) {
        let mut next_step = self.step.lock().unwrap();
        if next_step.is_none() && self.training.recover().is_ok() {
            *next_step = Some(step(&self.training));
        }
        drop(next_step);
        let test_waker = self.test_waker.lock().unwrap().take();
        test_waker.into_iter().for_each(Waker::wake);
    }
}

#[tokio::test(start_paused = true)]
async fn waker_of_a_failed_call_may_call_recover() {
    for route in [routes::OPTIM_STEP, routes::SAVE_WEIGHTS] {
        let harness = Harness::start().await;
        let service = synchronous_client(&harness).await;
        let creation = service
            .create_lora_training_client(tinkers_e2e::SCRIPTED)
            .send();
        let training = creation.await.unwrap();
        // The 429 makes the call wait, so that its waker is registered before the call fails.
        inject(&harness, route, Fault::rate_limited(Hint::Seconds(1)));
        let rejection = Fault::status(StatusCode::FORBIDDEN, "no");
        harness.faults.add(Rule::on(route).nth(2), rejection);
        let recovering = Arc::new(RecoveringWaker {
            training: training.clone(),
            step: Mutex::default(),
            test_waker: Mutex::default(),
        });
        let waker = Waker::from(Arc::clone(&recovering));
        let mut failing: BoxFuture<'static, Result<(), Error>> = match route {
            routes::OPTIM_STEP => {
                let step = step(&training);
                Box::pin(async move { step.await.map(|_| ()) })
            }
            _ => {
                let save = training.save_state("first").send();
                Box::pin(async move { save.await.map(|_| ()) })
            }
        };
        let error = std::future::poll_fn(|cx| {
            *recovering.test_waker.lock().unwrap() = Some(cx.waker().clone());
            Pin::new(&mut failing).poll(&mut Context::from_waker(&waker))
        })
        .await
        .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        let next_step = recovering.step.lock().unwrap().take();
        next_step.expect("the waker ran").await.unwrap();
        assert_eq!(numbers(&harness), [1, 1, 1], "{route}");
    }
}
