//! Samples: their seeds, their cancellation, and that they do not wait for passes.

use super::*;

/// The tokens of a sample without a seed, and the losses of a model without one, of an engine of this seed.
fn drawn(seed: Option<u64>) -> (Vec<u32>, Vec<f64>) {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path());
    if let Some(seed) = seed {
        bench.engine = bench.engine.with_seed(seed);
    }
    let mut free = request(20);
    free.sampling_params.seed = None;
    let response = bench.sample(Weights::Base(builtin::NAME.into()), free);
    let work = Work::CreateModel {
        model: "m".into(),
        base_model: builtin::NAME.into(),
        lora: LoraConfig::rank(4),
    };
    assert_eq!(bench.run(work), Ok(Outcome::Done));
    (response.sequences[0].tokens.clone(), bench.train("m", 3))
}

#[test]
fn what_has_no_seed_draws_from_the_engines_own() {
    let (tokens, losses) = drawn(Some(1));
    assert_eq!(drawn(Some(1)), (tokens.clone(), losses.clone()));
    let (other_tokens, other_losses) = drawn(Some(2));
    assert_ne!(tokens, other_tokens);
    assert_ne!(losses, other_losses);
    // Without a seed it is 0, for tests.
    assert_eq!(drawn(None), drawn(Some(0)));
}

#[test]
fn a_cancelled_sample_makes_room_for_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::new(dir.path());
    let base = || Weights::Base(builtin::NAME.into());
    let mut long = request(1000);
    long.num_samples = Some(64);
    long.sampling_params.stop = Some(Stop::Tokens(Vec::new()));
    let jobs: Vec<_> = (0..6)
        .map(|_| bench.start(sample(base(), long.clone())))
        .collect();
    for (id, _) in &jobs {
        bench.engine.cancel(*id);
    }
    // It stands behind all of them, so they have ended once it has.
    bench.sample(base(), request(1));
    let errors = jobs
        .iter()
        .filter(|(_, ended)| matches!(ended.try_recv(), Ok(Err(_))));
    assert!(errors.count() >= 5, "one may still be at its last token");
}

#[test]
fn cancelled_samples_and_jobs_of_a_dropped_engine_fail() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::new(dir.path());
    bench.create("m");
    let mut long = request(1000);
    long.num_samples = Some(64);
    long.sampling_params.stop = Some(Stop::Tokens(Vec::new()));
    let base = || Weights::Base(builtin::NAME.into());
    let (id, ended) = bench.start(sample(base(), long.clone()));
    bench.engine.cancel(id);
    assert!(wait(&ended).is_err());
    let waiting: Vec<_> = (0..6)
        .map(|_| bench.start(sample(base(), long.clone())).1)
        .collect();
    drop(bench);
    for ended in waiting {
        assert!(wait(&ended).is_err());
    }
}

#[test]
fn a_sample_does_not_wait_for_a_long_pass() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::new(dir.path());
    bench.create("m");
    let data = vec![text(&"and it came to pass ".repeat(40)); 32];
    let (_, pass) = bench.start(Work::Pass {
        model: "m".into(),
        mode: PassMode::ForwardBackward,
        data,
        loss: LossFn::CrossEntropy.into(),
    });
    bench.sample(Weights::Base(builtin::NAME.into()), request(2));
    assert!(
        pass.try_recv().is_err(),
        "the pass was to be under way still"
    );
    assert!(wait(&pass).is_ok());
}
