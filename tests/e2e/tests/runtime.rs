//! Whose runtime: handles work on any executor, and go on whatever the caller's runtime does.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tinkers::prelude::*;
use tinkers::wire::routes;
use tinkers_e2e::{PATIENCE, SCRIPTED, Served};
use tinkers_local::{Fault, LocalConfig, Rule};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

fn datum() -> Datum {
    Datum::next_token(&[1, 2, 3], vec![1.0; 2]).unwrap()
}

#[test]
fn made_on_one_runtime_that_ends_finished_on_another() {
    let served = Served::start(LocalConfig::default());
    let first = runtime();
    let (service, training, pass) = first.block_on(async {
        let service = served.client().await.unwrap();
        let training = service
            .lora_training(SCRIPTED)
            .rank(4)
            .create()
            .await
            .unwrap();
        let pass = training.forward_backward([datum()], LossFn::CrossEntropy);
        (service, training, pass)
    });
    drop(first);
    runtime().block_on(async {
        pass.await.unwrap();
        training.optim_step(AdamParams::new(1e-3)).await.unwrap();
        let sampler = service.sampling(SCRIPTED).create().await.unwrap();
        sampler.sample(vec![1]).max_tokens(1).await.unwrap();
    });
    served.stop();
}

#[test]
fn a_plain_thread_without_any_runtime_will_do() {
    let served = Served::start(LocalConfig::default());
    tinkers::block_on(async {
        let service = served.client().await.unwrap();
        let training = service
            .lora_training(SCRIPTED)
            .rank(4)
            .create()
            .await
            .unwrap();
        let pass = training.forward_backward([datum()], LossFn::CrossEntropy);
        let step = training.optim_step(AdamParams::new(1e-3));
        pass.await.unwrap();
        step.within(PATIENCE).await.unwrap();
    });
    served.stop();
}

/// For how many heartbeats the caller's runtime is blocked: as many as fit into a minute at the usual pace, and twice so many.
const BLOCKED_HEARTBEATS: u32 = 12;

#[test]
fn a_blocked_runtime_holds_up_neither_heartbeats_nor_turns_nor_polls() {
    let mut config = LocalConfig::default();
    // The session would be gone several times over while the caller's runtime is blocked.
    config.session_expiry = Duration::from_millis(900);
    let served = Served::start(config);
    let period = Duration::from_millis(250);
    runtime().block_on(async {
        let connecting = served.connecting().heartbeat_period(period);
        let service = connecting.connect().await.unwrap();
        let training = service
            .lora_training(SCRIPTED)
            .rank(4)
            .create()
            .await
            .unwrap();
        // Several polls come while the runtime is blocked, and so do the turns behind.
        let not_ready = Fault::poll_timeout("active", "");
        served
            .parts
            .faults
            .add(Rule::on(routes::RETRIEVE_FUTURE).times(9), not_ready);
        let passes: Vec<_> = (0..5)
            .map(|_| training.forward_backward([datum()], LossFn::CrossEntropy))
            .collect();
        let step = training.optim_step(AdamParams::new(1e-3));
        let (never, blocked) = mpsc::channel::<()>();
        assert!(
            blocked.recv_timeout(period * BLOCKED_HEARTBEATS).is_err(),
            "nothing is sent here"
        );
        drop(never);
        // Without another turn of this runtime, everything was done.
        assert_eq!(served.parts.engine.counts().steps, 1);
        let beats = served.parts.journal.of(routes::SESSION_HEARTBEAT).len();
        assert!(beats >= 4, "{beats} heartbeats");
        for pass in passes {
            assert!(pass.request_id().is_some());
            pass.await.unwrap();
        }
        step.await.unwrap();
        // And the session lives.
        training.optim_step(AdamParams::new(1e-3)).await.unwrap();
    });
    served.stop();
}

#[test]
fn results_can_be_waited_for_from_many_threads() {
    let served = Served::start(LocalConfig::default());
    let service = tinkers::block_on(served.client()).unwrap();
    let sampler = tinkers::block_on(service.sampling(SCRIPTED).create()).unwrap();
    let wait = |i: u32| {
        let sample = sampler.sample(vec![i]).max_tokens(2);
        thread::spawn(move || tinkers::block_on(sample.send()).unwrap().sequences.len())
    };
    let threads: Vec<_> = (0..8).map(wait).collect();
    for thread in threads {
        assert_eq!(thread.join().unwrap(), 1);
    }
    assert_eq!(served.parts.engine.counts().samples, 8);
    served.stop();
}

#[test]
fn work_on_a_runtime_that_ended_fails_and_does_not_hang() {
    let served = Served::start(LocalConfig::default());
    let given = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let connecting = served.connecting().runtime(given.handle().clone());
    let service = tinkers::block_on(connecting.connect()).unwrap();
    let training = tinkers::block_on(service.lora_training(SCRIPTED).rank(4).create()).unwrap();
    served
        .parts
        .faults
        .add(Rule::on(routes::OPTIM_STEP), Fault::delay(PATIENCE * 10));
    let step = training.optim_step(AdamParams::new(1e-3));
    let behind = training.optim_step(AdamParams::new(1e-3));
    given.shutdown_background();
    assert_eq!(
        tinkers::block_on(step).unwrap_err().kind(),
        ErrorKind::Aborted
    );
    assert_eq!(
        tinkers::block_on(behind).unwrap_err().kind(),
        ErrorKind::Aborted
    );
    let later = tinkers::block_on(training.optim_step(AdamParams::new(1e-3))).unwrap_err();
    assert!(
        matches!(later.kind(), ErrorKind::Poisoned | ErrorKind::Aborted),
        "{later:?}"
    );
    served.stop();
}

#[test]
fn a_call_of_an_idle_client_on_a_runtime_that_ended_fails_and_does_not_hang() {
    let served = Served::start(LocalConfig::default());
    let given = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let connecting = served.connecting().runtime(given.handle().clone());
    let service = tinkers::block_on(connecting.connect()).unwrap();
    let training = tinkers::block_on(service.lora_training(SCRIPTED).rank(4).create()).unwrap();
    given.shutdown_background();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let step = training.optim_step(AdamParams::new(1e-3));
        let _ = sender.send(tinkers::block_on(step).map_err(|error| error.kind()));
    });
    let ended = receiver.recv_timeout(PATIENCE).expect("the call returns");
    assert_eq!(ended.unwrap_err(), ErrorKind::Aborted);
    served.stop();
}
