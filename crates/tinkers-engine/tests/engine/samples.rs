//! Tests of sampling jobs: seeds, cancellation, and independence of training passes.

use super::*;

/// Runs requests without a seed on an engine with `seed`. Returns the tokens of a sample and the losses of a new model.
fn run_without_request_seeds(seed: Option<u64>) -> (Vec<u32>, Vec<f64>) {
    let dir = tempfile::tempdir().unwrap();
    let mut test = TestEngine::new(dir.path());
    if let Some(seed) = seed {
        test.engine = test.engine.with_seed(seed);
    }
    let mut free = request(20);
    free.sampling_params.seed = None;
    let response = test.sample(SamplerWeights::Base(builtin::NAME.into()), free);
    let work = Work::CreateModel {
        model: "m".into(),
        base_model: builtin::NAME.into(),
        lora: LoraConfig::rank(4),
    };
    assert_eq!(test.run(work), Ok(Outcome::Done));
    (response.sequences[0].tokens.clone(), test.train("m", 3))
}

#[test]
fn sample_requests_without_a_seed_use_the_engine_seed() {
    let (tokens, losses) = run_without_request_seeds(Some(1));
    assert_eq!(
        run_without_request_seeds(Some(1)),
        (tokens.clone(), losses.clone())
    );
    let (other_tokens, other_losses) = run_without_request_seeds(Some(2));
    assert_ne!(tokens, other_tokens);
    assert_ne!(losses, other_losses);
    // The default seed is 0.
    assert_eq!(
        run_without_request_seeds(None),
        run_without_request_seeds(Some(0))
    );
}

#[test]
fn samples_run_after_earlier_samples_were_cancelled() {
    let dir = tempfile::tempdir().unwrap();
    let test = TestEngine::new(dir.path());
    let base = || SamplerWeights::Base(builtin::NAME.into());
    let mut long = request(1000);
    long.num_samples = Some(64);
    long.sampling_params.stop = Some(Stop::Tokens(Vec::new()));
    let jobs: Vec<_> = (0..6)
        .map(|_| test.start(sample(base(), long.clone())))
        .collect();
    for (id, _) in &jobs {
        test.engine.cancel(*id);
    }
    // This sample is queued after the cancelled ones. When it ends, all of them have ended, except for the last one that was
    // running.
    test.sample(base(), request(1));
    let errors = jobs
        .iter()
        .filter(|(_, ended)| matches!(ended.try_recv(), Ok(Err(_))));
    assert!(errors.count() >= 5, "one may still be at its last token");
}

#[test]
fn cancelled_samples_fail_and_so_do_jobs_of_a_dropped_engine() {
    let dir = tempfile::tempdir().unwrap();
    let test = TestEngine::new(dir.path());
    test.create("m");
    let mut long = request(1000);
    long.num_samples = Some(64);
    long.sampling_params.stop = Some(Stop::Tokens(Vec::new()));
    let base = || SamplerWeights::Base(builtin::NAME.into());
    let (id, ended) = test.start(sample(base(), long.clone()));
    test.engine.cancel(id);
    assert!(wait(&ended).is_err());
    let waiting: Vec<_> = (0..6)
        .map(|_| test.start(sample(base(), long.clone())).1)
        .collect();
    drop(test);
    for ended in waiting {
        assert!(wait(&ended).is_err());
    }
}

#[test]
fn sample_does_not_wait_for_a_running_training_pass() {
    let dir = tempfile::tempdir().unwrap();
    let test = TestEngine::new(dir.path());
    test.create("m");
    let data = vec![text(&"and it came to pass ".repeat(40)); 32];
    let (_, pass) = test.start(Work::Pass {
        model: "m".into(),
        mode: PassMode::ForwardBackward,
        data,
        loss: LossFn::CrossEntropy.into(),
    });
    test.sample(SamplerWeights::Base(builtin::NAME.into()), request(2));
    assert!(
        pass.try_recv().is_err(),
        "the pass has ended before the sample"
    );
    assert!(wait(&pass).is_ok());
}
