//! Callers that act at the very moment when they are told of a failure: what it leads to is in force by then.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};

use http::StatusCode;
use tinkers::prelude::*;
use tinkers::wire::routes;
use tinkers::{ApiFuture, OptimStepResult};
use tinkers_core::{BoxFuture, Clock, Spawn, SplitMix, Task, Transport};
use tinkers_e2e::InMemory;
use tinkers_e2e::training::{numbers, step, strike};
use tinkers_local::{Fault, Hint, InProcess, Rule};
use tinkers_session::{
    BaseUrl, EndpointKey, Endpoints, HeartbeatParts, Session, SessionOptions, SessionParts,
};
use tinkers_transport::IoRuntime;
use tokio::runtime::Handle;

/// Polls its tasks inside their wake-ups, so that whoever is told something runs before the teller goes on.
#[derive(Debug)]
struct Prompt;

struct PromptTask {
    work: Mutex<Option<BoxFuture<'static, ()>>>,
    is_woken: AtomicBool,
}

impl PromptTask {
    fn run(self: &Arc<Self>) {
        self.is_woken.store(true, Ordering::SeqCst);
        // While it runs, whoever runs it looks again.
        while let Ok(mut work) = self.work.try_lock()
            && self.is_woken.swap(false, Ordering::SeqCst)
        {
            let waker = Waker::from(Arc::clone(self));
            let mut cx = Context::from_waker(&waker);
            if let Some(running) = &mut *work
                && running.as_mut().poll(&mut cx).is_ready()
            {
                *work = None;
            }
        }
    }
}

impl Wake for PromptTask {
    fn wake(self: Arc<Self>) {
        self.run();
    }
}

impl Spawn for Prompt {
    fn spawn(&self, work: BoxFuture<'static, ()>) -> Task {
        let task = Arc::new(PromptTask {
            work: Mutex::new(Some(work)),
            is_woken: AtomicBool::new(false),
        });
        task.run();
        Task::new(move || {
            if let Ok(mut work) = task.work.try_lock() {
                *work = None;
            }
        })
    }
}

/// A client whose tasks run inside their wake-ups.
async fn prompt_client(world: &InMemory) -> ServiceClient {
    let runtime = IoRuntime::from_handle(Handle::current());
    let time: Arc<dyn Clock> = runtime.time();
    let transport: Arc<dyn Transport> = Arc::new(InProcess::new(world.server.clone()));
    let key = EndpointKey::new(BaseUrl::parse("http://in-process").unwrap(), b"");
    let parts = SessionParts {
        transport: Arc::clone(&transport),
        time: Arc::clone(&time),
        jitter: Arc::new(SplitMix::new(7)),
        endpoint: Endpoints::new().get_or_create(key),
        heartbeat: HeartbeatParts {
            transport,
            time,
            spawner: Arc::new(runtime),
        },
        spawner: Arc::new(Prompt),
        recovered_errors: Arc::default(),
    };
    let session = Session::open(parts, SessionOptions::default()).await;
    ServiceClient::over(session.unwrap())
}

/// Goes on with training at the moment when it hears of a failure.
struct GoesOn {
    training: TrainingClient,
    went_on: Mutex<Option<ApiFuture<OptimStepResult>>>,
    test: Mutex<Option<Waker>>,
}

impl Wake for GoesOn {
    fn wake(self: Arc<Self>) {
        let mut went_on = self.went_on.lock().unwrap();
        if went_on.is_none() && self.training.recover().is_ok() {
            *went_on = Some(step(&self.training));
        }
        drop(went_on);
        let test = self.test.lock().unwrap().take();
        test.into_iter().for_each(Waker::wake);
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_is_told_can_be_recovered_from_at_once() {
    for route in [routes::OPTIM_STEP, routes::SAVE_WEIGHTS] {
        let world = InMemory::start().await;
        let service = prompt_client(&world).await;
        let creation = service.lora_training(tinkers_e2e::SCRIPTED).create();
        let training = creation.await.unwrap();
        // Something to wait for first: what is answered at once is there before anybody is told.
        strike(&world, route, Fault::rate_limited(Hint::Seconds(1)));
        let refused = Fault::status(StatusCode::FORBIDDEN, "no");
        world.parts.faults.add(Rule::on(route).nth(2), refused);
        let goes_on = Arc::new(GoesOn {
            training: training.clone(),
            went_on: Mutex::default(),
            test: Mutex::default(),
        });
        let waker = Waker::from(Arc::clone(&goes_on));
        let mut failing: BoxFuture<'static, Result<(), Error>> = match route {
            routes::OPTIM_STEP => {
                let step = step(&training);
                Box::pin(async move { step.await.map(|_| ()) })
            }
            _ => {
                let save = training.save_state("first");
                Box::pin(async move { save.await.map(|_| ()) })
            }
        };
        let error = std::future::poll_fn(|cx| {
            *goes_on.test.lock().unwrap() = Some(cx.waker().clone());
            Pin::new(&mut failing).poll(&mut Context::from_waker(&waker))
        })
        .await
        .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        let went_on = goes_on.went_on.lock().unwrap().take();
        went_on.expect("it was told").await.unwrap();
        assert_eq!(numbers(&world), [1, 1, 1], "{route}");
    }
}
