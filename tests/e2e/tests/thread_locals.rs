//! Clients that are dropped by the destructor of a thread-local. A panic there would abort the process, so these tests have a
//! process of their own.

use std::any::Any;
use std::cell::RefCell;
use std::sync::Arc;
use std::task::{Context, Waker};

use tinkers::prelude::*;
use tinkers_core::{Call, Clock, RouteClass};
use tinkers_e2e::{SCRIPTED, Served};
use tinkers_local::LocalConfig;

thread_local! {
    static KEPT: RefCell<Vec<Box<dyn Any>>> = const { RefCell::new(Vec::new()) };
}

/// Runs `make` on a thread whose thread-local keeps what it gives, and ends the thread.
fn drop_by_thread_local(make: impl FnOnce() -> Vec<Box<dyn Any>> + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // Destructors run in the reverse order of first uses: tokio's and the log's own thread-locals, which are first used
            // below, are gone when this one is dropped.
            KEPT.with(|_| ());
            let kept = make();
            KEPT.with(|all| all.replace(kept));
        });
        thread.join().expect("no panic");
    });
}

/// Polls once and gives the rest, which is then under way.
fn begun<F: Future + 'static>(future: F) -> Box<dyn Any> {
    let mut future = Box::pin(future);
    let polled = future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()));
    drop(polled);
    Box::new(future)
}

#[test]
fn clients_and_work_under_way_can_go_with_a_thread_local() {
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(std::io::sink)
        .finish();
    tracing::subscriber::set_global_default(subscriber).expect("the first in this process");
    let served = Served::start(LocalConfig::default());
    let connecting = served.connecting();
    drop_by_thread_local(move || {
        tracing::info!("the log's own thread-local is in use");
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let mut kept = runtime.block_on(async {
            let service = connecting.connect().await.expect("a session");
            let model = service.lora_training(SCRIPTED).rank(4).create();
            let training = model.await.expect("a model");
            let sampler = service
                .sampling(SCRIPTED)
                .create()
                .await
                .expect("a sampler");
            let datum = Datum::next_token(&[1, 2, 3], vec![1.0; 2]).expect("valid");
            let pass = training.forward_backward([datum], LossFn::CrossEntropy);
            let sample = begun(sampler.sample(vec![1]).max_tokens(1).send());
            let context = service.context();
            let caller = Arc::new(context.caller().clone());
            let call = Call::post("/api/v1/asample", "{}".into(), RouteClass::Sample);
            let making = Arc::clone(&caller);
            let calling = begun(async move { making.call(call).await });
            let time = Arc::clone(&caller.time);
            let sleeping = begun(time.sleep_until(time.now()));
            let kept: Vec<Box<dyn Any>> = vec![
                calling,
                sleeping,
                sample,
                Box::new(pass),
                Box::new(sampler),
                Box::new(training),
                Box::new(service),
            ];
            kept
        });
        kept.push(Box::new(runtime));
        kept
    });
    served.stop();
}

/// Waits, and asks for the time, when it is dropped.
struct Late(Arc<dyn Clock>);

impl Drop for Late {
    fn drop(&mut self) {
        let before = self.0.now();
        tinkers::block_on(self.0.sleep_until(before));
        assert!(self.0.now() >= before);
        let _ = self.0.wall();
    }
}

#[test]
fn a_clock_can_be_read_and_waited_on_by_a_thread_that_ends() {
    let served = Served::start(LocalConfig::default());
    let connecting = served.connecting();
    drop_by_thread_local(move || {
        let service = tinkers::block_on(connecting.connect()).expect("a session");
        let time = Arc::clone(&service.context().caller().time);
        let _ = time.now();
        vec![Box::new(Late(time)), Box::new(service)]
    });
    served.stop();
}
