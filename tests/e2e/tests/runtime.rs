//! Runtimes: the clients work on any executor, and their background work does not depend on the
//! caller's runtime.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tinkers::prelude::*;
use tinkers::wire::routes;
use tinkers_e2e::training::{datum, model_of, step};
use tinkers_e2e::{SCRIPTED, SocketServer, TEST_TIMEOUT};
use tinkers_local::{Fault, LocalConfig, Rule};

/// Returns a runtime that runs on the current thread.
fn current_thread_runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

#[test]
fn clients_work_after_the_runtime_that_created_them_is_dropped() {
    let server = SocketServer::start(LocalConfig::default());
    let first = current_thread_runtime();
    let (service, training, pass) = first.block_on(async {
        let service = server.client().await.unwrap();
        let training = model_of(&service).await;
        let pass = training.forward_backward([datum(1)], LossFn::CrossEntropy);
        (service, training, pass)
    });
    drop(first);
    current_thread_runtime().block_on(async {
        pass.await.unwrap();
        step(&training).await.unwrap();
        let sampler = service.create_sampling_client(SCRIPTED).await.unwrap();
        sampler.sample(vec![1]).max_tokens(1).await.unwrap();
    });
    server.stop();
}

#[test]
fn calls_work_without_a_tokio_runtime() {
    let server = SocketServer::start(LocalConfig::default());
    tinkers::block_on(async {
        let service = server.client().await.unwrap();
        let training = model_of(&service).await;
        let pass = training.forward_backward([datum(1)], LossFn::CrossEntropy);
        let first = step(&training);
        pass.await.unwrap();
        first.within(TEST_TIMEOUT).await.unwrap();
    });
    server.stop();
}

/// The time for which the test blocks the runtime of the caller, as a number of heartbeat periods.
/// A session without heartbeats would expire in this time.
const BLOCKED_HEARTBEATS: u32 = 12;

#[test]
fn blocked_caller_runtime_does_not_delay_background_work() {
    let mut config = LocalConfig::default();
    // The session expires while the caller's runtime is blocked if no heartbeats are sent.
    config.session_expiry = Duration::from_millis(900);
    let server = SocketServer::start(config);
    let period = Duration::from_millis(250);
    current_thread_runtime().block_on(async {
        let builder = server.client_builder().heartbeat_period(period);
        let service = builder.connect().await.unwrap();
        let training = model_of(&service).await;
        // Polls and the submissions of queued calls must continue while the caller's runtime is
        // blocked.
        let not_ready = Fault::poll_timeout("active", "");
        server
            .faults
            .add(Rule::on(routes::RETRIEVE_FUTURE).times(9), not_ready);
        let passes: Vec<_> = (0..5)
            .map(|_| training.forward_backward([datum(1)], LossFn::CrossEntropy))
            .collect();
        let first = step(&training);
        // Blocks the thread, because nothing is ever sent on the channel.
        let (sender, receiver) = mpsc::channel::<()>();
        receiver
            .recv_timeout(period * BLOCKED_HEARTBEATS)
            .expect_err("timeout");
        drop(sender);
        // The caller's runtime has polled nothing since, and the server has applied all steps.
        assert_eq!(server.engine.counts().steps, 1);
        let beats = server.journal.of(routes::SESSION_HEARTBEAT).len();
        assert!(beats >= 4, "{beats} heartbeats");
        for pass in passes {
            assert!(pass.request_id().is_some());
            pass.await.unwrap();
        }
        first.await.unwrap();
        // The session has not expired.
        step(&training).await.unwrap();
    });
    server.stop();
}

#[test]
fn results_can_be_awaited_on_many_threads() {
    let server = SocketServer::start(LocalConfig::default());
    let service = tinkers::block_on(server.client()).unwrap();
    let sampler = tinkers::block_on(service.create_sampling_client(SCRIPTED).send()).unwrap();
    let spawn_sample = |i: u32| {
        let sample = sampler.sample(vec![i]).max_tokens(2);
        thread::spawn(move || tinkers::block_on(sample.send()).unwrap().sequences.len())
    };
    let threads: Vec<_> = (0..8).map(spawn_sample).collect();
    for thread in threads {
        assert_eq!(thread.join().unwrap(), 1);
    }
    assert_eq!(server.engine.counts().samples, 8);
    server.stop();
}

/// Connects a client that runs its background tasks on a new runtime. Returns this runtime and the
/// client.
fn client_on_own_runtime(server: &SocketServer) -> (tokio::runtime::Runtime, ServiceClient) {
    let io_runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let builder = server.client_builder().runtime(io_runtime.handle().clone());
    let service = tinkers::block_on(builder.connect()).unwrap();
    (io_runtime, service)
}

#[test]
fn pending_calls_on_a_shut_down_runtime_fail_with_aborted() {
    let server = SocketServer::start(LocalConfig::default());
    let (io_runtime, service) = client_on_own_runtime(&server);
    let training = tinkers::block_on(model_of(&service));
    server.faults.add(
        Rule::on(routes::OPTIM_STEP),
        Fault::delay(TEST_TIMEOUT * 10),
    );
    let first = step(&training);
    let queued = step(&training);
    io_runtime.shutdown_background();
    assert_eq!(
        tinkers::block_on(first).unwrap_err().kind(),
        ErrorKind::Aborted
    );
    assert_eq!(
        tinkers::block_on(queued).unwrap_err().kind(),
        ErrorKind::Aborted
    );
    let later = tinkers::block_on(step(&training)).unwrap_err();
    assert!(
        matches!(later.kind(), ErrorKind::Poisoned | ErrorKind::Aborted),
        "{later:?}"
    );
    server.stop();
}

#[test]
fn new_call_on_a_shut_down_runtime_fails_with_aborted() {
    let server = SocketServer::start(LocalConfig::default());
    let (io_runtime, service) = client_on_own_runtime(&server);
    let training = tinkers::block_on(model_of(&service));
    io_runtime.shutdown_background();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let first = step(&training);
        let _ = sender.send(tinkers::block_on(first).map_err(|error| error.kind()));
    });
    let outcome = receiver.recv_timeout(TEST_TIMEOUT);
    let outcome = outcome.expect("the call returns");
    assert_eq!(outcome.unwrap_err(), ErrorKind::Aborted);
    server.stop();
}
