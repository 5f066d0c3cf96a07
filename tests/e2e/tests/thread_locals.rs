//! Clients that are stored in thread-locals. A panic in the destructor of a thread-local aborts the
//! process, so these tests run in their own process.

use std::any::Any;
use std::cell::RefCell;
use std::sync::Arc;
use std::task::{Context, Waker};

use tinkers::prelude::*;
use tinkers_core::{Call, Clock, RouteClass};
use tinkers_e2e::{SCRIPTED, SocketServer};
use tinkers_local::LocalConfig;

thread_local! {
    static VALUES: RefCell<Vec<Box<dyn Any>>> = const { RefCell::new(Vec::new()) };
}

/// Stores the values that `make` returns in a thread-local variable of a new thread, and ends the
/// thread. The values are thus dropped when the thread-local variables of tokio and tracing are
/// already gone.
fn drop_by_thread_local(make: impl FnOnce() -> Vec<Box<dyn Any>> + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // Destructors run in the reverse order of first use. Tokio and tracing first use their
            // thread-locals in `make`, so those are destroyed before this one.
            VALUES.with(|_| ());
            let values = make();
            VALUES.with(|stored| stored.replace(values));
        });
        thread.join().expect("no panic");
    });
}

/// Polls a future once and returns it in a box.
fn poll_once<F: Future + 'static>(future: F) -> Box<dyn Any> {
    let mut future = Box::pin(future);
    let polled = future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()));
    drop(polled);
    Box::new(future)
}

#[test]
fn clients_and_calls_can_be_dropped_by_a_thread_local() {
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(std::io::sink)
        .finish();
    tracing::subscriber::set_global_default(subscriber).expect("no subscriber is set");
    let server = SocketServer::start(LocalConfig::default());
    let builder = server.client_builder();
    drop_by_thread_local(move || {
        tracing::info!("tracing uses its thread-local");
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let mut values = runtime.block_on(async {
            let service = builder.connect().await.expect("a session");
            let model = service.create_lora_training_client(SCRIPTED).rank(4).send();
            let training = model.await.expect("a model");
            let sampler = service
                .create_sampling_client(SCRIPTED)
                .await
                .expect("a sampler");
            let datum = Datum::next_token(&[1, 2, 3], vec![1.0; 2]).expect("valid");
            let pass = training.forward_backward([datum], LossFn::CrossEntropy);
            let sample = poll_once(sampler.sample(vec![1]).max_tokens(1).send());
            let context = service.context();
            let caller = Arc::new(context.caller().clone());
            let call = Call::post("/api/v1/asample", "{}".into(), RouteClass::Sample);
            let call_caller = Arc::clone(&caller);
            let pending_call = poll_once(async move { call_caller.call(call).await });
            let time = Arc::clone(&caller.time);
            let pending_sleep = poll_once(time.sleep_until(time.now()));
            let values: Vec<Box<dyn Any>> = vec![
                pending_call,
                pending_sleep,
                sample,
                Box::new(pass),
                Box::new(sampler),
                Box::new(training),
                Box::new(service),
            ];
            values
        });
        values.push(Box::new(runtime));
        values
    });
    server.stop();
}

/// A value whose destructor reads the given clock and sleeps on it until a time that has already
/// passed.
struct UsesClockOnDrop(Arc<dyn Clock>);

impl Drop for UsesClockOnDrop {
    fn drop(&mut self) {
        let before = self.0.now();
        tinkers::block_on(self.0.sleep_until(before));
        assert!(self.0.now() >= before);
        let _ = self.0.wall();
    }
}

#[test]
fn clock_can_be_used_in_destructors_of_thread_locals() {
    let server = SocketServer::start(LocalConfig::default());
    let builder = server.client_builder();
    drop_by_thread_local(move || {
        let service = tinkers::block_on(builder.connect()).expect("a session");
        let time = Arc::clone(&service.context().caller().time);
        let _ = time.now();
        vec![Box::new(UsesClockOnDrop(time)), Box::new(service)]
    });
    server.stop();
}
