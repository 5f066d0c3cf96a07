//! The blocking API, on a thread without an executor.

use tinkers::blocking::{Wait as _, iter};
use tinkers::prelude::*;
use tinkers_e2e::training::datum;
use tinkers_e2e::{SCRIPTED, SocketServer};
use tinkers_local::LocalConfig;

#[test]
fn blocking_calls_return_results_without_an_executor() {
    let server = SocketServer::start(LocalConfig::default());
    let service = server.client_builder().wait().unwrap();
    let training = service
        .create_lora_training_client(SCRIPTED)
        .rank(4)
        .wait()
        .unwrap();
    let data = vec![datum(1), datum(2)];
    let pass = training.forward_backward(&data, LossFn::CrossEntropy);
    let step = training.optim_step(AdamParams::new(1e-4));
    assert_eq!(pass.wait().unwrap().loss_fn_outputs.len(), data.len());
    step.wait().unwrap();
    let saved = training.save_state("one").wait().unwrap();
    assert_eq!(saved.path.name(), "one");
    let counts = server.engine.counts();
    assert_eq!((counts.backwards, counts.steps), (1, 1));

    let invalid = training.save_state("a/b").wait().unwrap_err();
    assert_eq!(invalid.field(), Some("name"));
    server.stop();
}

#[test]
fn blocking_iterator_returns_each_sample_once() {
    let server = SocketServer::start(LocalConfig::default());
    let service = server.client_builder().wait().unwrap();
    let sampler = service.create_sampling_client(SCRIPTED).wait().unwrap();
    let prompts: Vec<Vec<u32>> = (0..20).map(|token| vec![token]).collect();
    let samples = sampler.sample_stream(prompts, 3, |sample| sample.max_tokens(2));
    let mut indices: Vec<usize> = iter(samples)
        .map(|sample| {
            sample.result.unwrap();
            sample.index
        })
        .collect();
    indices.sort_unstable();
    assert_eq!(indices, Vec::from_iter(0..20));
    assert_eq!(server.engine.counts().samples, 20);
    server.stop();
}
