//! Tests of sampling from the built-in model: log-probabilities, seeds, stop conditions and limits.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tinkers_engine::{
    AdamWParams, AdapterConfig, Error, Example, LossFunction, LossInputs, Mode, PromptScoreOptions,
    SampleJob, SampleResult, Sampler, SamplingOptions, StopConditions, Text, Threads,
    TrainableModel, builtin,
};

const PROMPT: &str = "And the king said unto";

/// Returns a model that was trained for a few steps, and its threads.
fn trained() -> (TrainableModel, Threads) {
    let threads = Threads::new(2).unwrap();
    let config = AdapterConfig {
        rank: 4,
        seed: 3,
        train_attn: true,
        train_mlp: true,
        train_unembed: true,
    };
    let mut trainable = TrainableModel::new(Arc::new(builtin::model().unwrap()), config).unwrap();
    for _ in 0..3 {
        let batch = [example(b"The Rays of Light which are refracted")];
        let mode = Mode::ForwardBackward;
        trainable
            .pass(&threads, &batch, &LossFunction::CrossEntropy, mode)
            .unwrap();
        trainable
            .step(&AdamWParams {
                learning_rate: 5e-3,
                ..AdamWParams::default()
            })
            .unwrap();
    }
    (trainable, threads)
}

fn example(text: &[u8]) -> Example {
    let tokens: Vec<u32> = text.iter().map(|&byte| u32::from(byte)).collect();
    next_tokens(&tokens)
}

fn next_tokens(tokens: &[u32]) -> Example {
    Example {
        tokens: tokens[..tokens.len() - 1].to_vec(),
        targets: tokens[1..].iter().copied().map(Some).collect(),
        loss_inputs: LossInputs::Weights(vec![1.0; tokens.len() - 1]),
    }
}

fn job(prompt: &str) -> SampleJob {
    SampleJob {
        prompt: Text::Bytes.encode(prompt).unwrap(),
        samples: 3,
        max_tokens: Some(40),
        sampling: SamplingOptions::default(),
        seed: 7,
        stop: StopConditions::never(),
        prompt_options: PromptScoreOptions::default(),
        top_k_log_probs: 0,
    }
}

fn run(trainable: &TrainableModel, job: &SampleJob) -> SampleResult {
    try_run(trainable, job).unwrap()
}

fn try_run(trainable: &TrainableModel, job: &SampleJob) -> Result<SampleResult, Error> {
    let base = Arc::clone(trainable.base());
    let sampler = Sampler::new(base, Some(trainable.lora()), Arc::new(Text::Bytes));
    sampler.run(job, &AtomicBool::new(false))
}

/// Computes the log-probabilities of all tokens but the first with a forward pass.
fn pass_log_probs(trainable: &mut TrainableModel, threads: &Threads, tokens: &[u32]) -> Vec<f32> {
    let examples = [next_tokens(tokens)];
    let result = trainable.pass(
        threads,
        &examples,
        &LossFunction::CrossEntropy,
        Mode::Forward,
    );
    result.unwrap().log_probs.remove(0)
}

#[test]
fn sampled_log_probs_agree_with_a_forward_pass() {
    let (mut trainable, threads) = trained();
    // Log-probabilities are reported before temperature, top-k and top-p are applied.
    for sampling in [
        SamplingOptions::default(),
        SamplingOptions {
            temperature: 0.5,
            top_k: Some(5),
            top_p: 0.9,
        },
    ] {
        let mut job = job(PROMPT);
        job.sampling = sampling;
        let result = run(&trainable, &job);
        assert_eq!(result.samples.len(), 3);
        for sample in &result.samples {
            assert_eq!(sample.tokens.len(), 40);
            let all = [job.prompt.as_slice(), &sample.tokens].concat();
            let want = pass_log_probs(&mut trainable, &threads, &all);
            let want = &want[job.prompt.len() - 1..];
            for (got, want) in sample.log_probs.iter().zip(want) {
                assert!((got - want).abs() < 1e-4, "{got} {want}");
            }
        }
    }
}

#[test]
fn prompt_log_probs_agree_with_a_forward_pass() {
    let (mut trainable, threads) = trained();
    // The prompt is longer than the part that one prefill call computes.
    let prompt = "And it came to pass in those days, that there went out a decree. ".repeat(9);
    let mut job = job(&prompt);
    job.max_tokens = Some(1);
    job.prompt_options = PromptScoreOptions {
        log_probs: true,
        top_k: 5,
        targets: job.prompt[1..].iter().map(|&t| vec![t, 32]).collect(),
    };
    let scores = run(&trainable, &job).prompt;
    let want = pass_log_probs(&mut trainable, &threads, &job.prompt);
    assert_eq!(scores.log_probs.len(), job.prompt.len());
    assert_eq!(scores.log_probs[0], None);
    assert!(scores.top_k[0].is_empty());
    for (at, want) in want.iter().enumerate() {
        let got = scores.log_probs[at + 1].unwrap();
        assert!((got - want).abs() < 1e-4, "{got} {want}");
        assert_eq!(scores.targets[at][0], got);
        let top = &scores.top_k[at + 1];
        assert!(top.len() == 5 && top.windows(2).all(|pair| pair[0].1 >= pair[1].1));
        let own = top.iter().find(|(token, _)| *token == job.prompt[at + 1]);
        assert!(own.is_none_or(|(_, p)| *p == got));
    }
}

#[test]
fn sampling_seed_sets_tokens_but_samples_of_one_request_differ() {
    let (trainable, _) = trained();
    let first = run(&trainable, &job(PROMPT)).samples;
    assert_eq!(first, run(&trainable, &job(PROMPT)).samples);
    assert_ne!(first[0].tokens, first[1].tokens);
    assert_ne!(first[1].tokens, first[2].tokens);
    let mut other = job(PROMPT);
    other.seed = 8;
    assert_ne!(first[0].tokens, run(&trainable, &other).samples[0].tokens);
}

#[test]
fn temperature_zero_selects_the_most_likely_token() {
    let (trainable, _) = trained();
    let mut job = job(PROMPT);
    job.sampling.temperature = 0.0;
    job.top_k_log_probs = 2;
    let result = run(&trainable, &job);
    assert_eq!(result.samples[0].tokens, result.samples[1].tokens);
    for sample in &result.samples {
        for (at, top) in sample.top_k.iter().enumerate() {
            assert_eq!(top.len(), 2);
            assert_eq!(top[0], (sample.tokens[at], sample.log_probs[at]));
        }
    }
}

#[test]
fn stop_condition_of_one_sample_does_not_end_other_samples() {
    let (trainable, _) = trained();
    let mut job = job(PROMPT);
    job.samples = 8;
    job.max_tokens = Some(120);
    job.stop = StopConditions::tokens(vec![builtin::END_OF_TEXT]).or_texts(["the".to_owned()]);
    let free = {
        let mut free = job.clone();
        free.stop = StopConditions::never();
        run(&trainable, &free)
    };
    let result = run(&trainable, &job);
    assert!(result.samples.iter().any(|s| s.stopped));
    for (sample, free) in result.samples.iter().zip(&free.samples) {
        let text = Text::Bytes.decode(&sample.tokens).unwrap();
        let text = String::from_utf8_lossy(&text);
        let ended = sample.tokens.last() == Some(&builtin::END_OF_TEXT);
        assert_eq!(sample.stopped, ended || text.ends_with("the"), "{text}");
        assert_eq!(
            text.matches("the").count(),
            usize::from(text.ends_with("the")),
            "{text}"
        );
        // The tokens before the stop equal those of the sample without a stop.
        assert_eq!(sample.tokens, free.tokens[..sample.tokens.len()]);
        assert!(!free.stopped && free.tokens.len() == 120);
    }
}

#[test]
fn sampler_is_not_affected_by_later_training() {
    let (mut trainable, threads) = trained();
    let base = Arc::clone(trainable.base());
    let sampler = Sampler::new(base, Some(trainable.lora()), Arc::new(Text::Bytes));
    let job = job(PROMPT);
    let before = sampler.run(&job, &AtomicBool::new(false)).unwrap().samples;
    let batch = [example(b"something else altogether")];
    let mode = Mode::ForwardBackward;
    trainable
        .pass(&threads, &batch, &LossFunction::CrossEntropy, mode)
        .unwrap();
    trainable
        .step(&AdamWParams {
            learning_rate: 0.05,
            ..AdamWParams::default()
        })
        .unwrap();
    assert_eq!(
        before,
        sampler.run(&job, &AtomicBool::new(false)).unwrap().samples
    );
    assert_ne!(before, run(&trainable, &job).samples);
}

#[test]
fn invalid_sample_jobs_are_refused_and_cancelled_sample_jobs_end() {
    let (trainable, _) = trained();
    let refused = |change: &dyn Fn(&mut SampleJob)| {
        let mut job = job(PROMPT);
        change(&mut job);
        try_run(&trainable, &job).unwrap_err().to_string()
    };
    assert!(refused(&|j| j.prompt.clear()).starts_with("prompt"));
    assert!(refused(&|j| j.prompt[0] = 264).starts_with("prompt"));
    assert!(refused(&|j| j.samples = 0).starts_with("num_samples"));
    assert!(refused(&|j| j.max_tokens = Some(0)).contains("max_tokens"));
    assert!(refused(&|j| j.max_tokens = Some(1003)).contains("max_tokens"));
    let sampler = Sampler::new(Arc::clone(trainable.base()), None, Arc::new(Text::Bytes));
    let error = sampler
        .run(&job(PROMPT), &AtomicBool::new(true))
        .unwrap_err();
    assert!(matches!(error, Error::Closed));
}

#[test]
fn one_token_can_follow_a_prompt_that_fills_the_context() {
    let (trainable, _) = trained();
    let mut job = job(&"x".repeat(1024));
    job.max_tokens = Some(1);
    job.prompt_options.log_probs = true;
    let result = run(&trainable, &job);
    assert_eq!(result.prompt.log_probs.len(), 1024);
    assert!(result.samples.iter().all(|sample| sample.tokens.len() == 1));
    for (len, max_tokens) in [(1024, 2), (1025, 1)] {
        job.prompt = vec![120; len];
        job.max_tokens = Some(max_tokens);
        assert!(try_run(&trainable, &job).is_err());
    }
}

#[test]
fn sample_without_max_tokens_fills_the_context() {
    let (trainable, _) = trained();
    let mut job = job(&"x".repeat(1000));
    job.max_tokens = None;
    for sample in run(&trainable, &job).samples {
        assert_eq!(sample.tokens.len(), 24);
    }
}
