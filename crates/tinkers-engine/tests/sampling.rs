//! Sampling from the built-in model: what it says of its tokens agrees with a pass, and chance comes from the seed alone.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tinkers_engine::{
    AdamWParams, Choice, Error, Example, LoraConfig, Loss, Mode, PromptWishes, SampleJob,
    SampleResult, Sampler, Stop, Terms, Text, Threads, Trainee, builtin,
};

const PROMPT: &str = "And the king said unto";

/// A model that a few steps have moved away from its base.
fn trained() -> (Trainee, Threads) {
    let threads = Threads::new(2).unwrap();
    let config = LoraConfig {
        rank: 4,
        seed: 3,
        train_attn: true,
        train_mlp: true,
        train_unembed: true,
    };
    let mut trainee = Trainee::new(Arc::new(builtin::model().unwrap()), config).unwrap();
    for _ in 0..3 {
        let batch = [example(b"The Rays of Light which are refracted")];
        let mode = Mode::ForwardBackward;
        trainee
            .pass(&threads, &batch, &Loss::CrossEntropy, mode)
            .unwrap();
        trainee
            .step(&AdamWParams {
                learning_rate: 5e-3,
                ..AdamWParams::default()
            })
            .unwrap();
    }
    (trainee, threads)
}

fn example(text: &[u8]) -> Example {
    let tokens: Vec<u32> = text.iter().map(|&byte| u32::from(byte)).collect();
    next_tokens(&tokens)
}

fn next_tokens(tokens: &[u32]) -> Example {
    Example {
        tokens: tokens[..tokens.len() - 1].to_vec(),
        targets: tokens[1..].iter().copied().map(Some).collect(),
        terms: Terms::Weights(vec![1.0; tokens.len() - 1]),
    }
}

fn job(prompt: &str) -> SampleJob {
    SampleJob {
        prompt: Text::Bytes.encode(prompt).unwrap(),
        samples: 3,
        max_tokens: Some(40),
        choice: Choice::default(),
        seed: 7,
        stop: Stop::never(),
        prompt_wishes: PromptWishes::default(),
        top_k_log_probs: 0,
    }
}

fn run(trainee: &Trainee, job: &SampleJob) -> SampleResult {
    try_run(trainee, job).unwrap()
}

fn try_run(trainee: &Trainee, job: &SampleJob) -> Result<SampleResult, Error> {
    let base = Arc::clone(trainee.base());
    let sampler = Sampler::new(base, Some(trainee.lora()), Arc::new(Text::Bytes));
    sampler.run(job, &AtomicBool::new(false))
}

/// The log-probabilities that a pass gives for all tokens but the first.
fn pass_log_probs(trainee: &mut Trainee, threads: &Threads, tokens: &[u32]) -> Vec<f32> {
    let examples = [next_tokens(tokens)];
    let result = trainee.pass(threads, &examples, &Loss::CrossEntropy, Mode::Forward);
    result.unwrap().log_probs.remove(0)
}

#[test]
fn log_probs_of_sampled_tokens_are_those_of_a_pass() {
    let (mut trainee, threads) = trained();
    // Tempered and cut choices are told with the log-probabilities of the model as it is.
    for choice in [
        Choice::default(),
        Choice {
            temperature: 0.5,
            top_k: Some(5),
            top_p: 0.9,
        },
    ] {
        let mut job = job(PROMPT);
        job.choice = choice;
        let result = run(&trainee, &job);
        assert_eq!(result.samples.len(), 3);
        for sample in &result.samples {
            assert_eq!(sample.tokens.len(), 40);
            let all = [job.prompt.as_slice(), &sample.tokens].concat();
            let want = pass_log_probs(&mut trainee, &threads, &all);
            let want = &want[job.prompt.len() - 1..];
            for (got, want) in sample.log_probs.iter().zip(want) {
                assert!((got - want).abs() < 1e-4, "{got} {want}");
            }
        }
    }
}

#[test]
fn log_probs_of_the_prompt_are_those_of_a_pass() {
    let (mut trainee, threads) = trained();
    // Longer than what is read at once.
    let prompt = "And it came to pass in those days, that there went out a decree. ".repeat(9);
    let mut job = job(&prompt);
    job.max_tokens = Some(1);
    job.prompt_wishes = PromptWishes {
        log_probs: true,
        top_k: 5,
        targets: job.prompt[1..].iter().map(|&t| vec![t, 32]).collect(),
    };
    let scores = run(&trainee, &job).prompt;
    let want = pass_log_probs(&mut trainee, &threads, &job.prompt);
    assert_eq!(scores.log_probs.len(), job.prompt.len());
    assert_eq!(scores.log_probs[0], None);
    assert!(scores.top_k[0].is_empty());
    for (at, want) in want.iter().enumerate() {
        let got = scores.log_probs[at + 1].unwrap();
        assert!((got - want).abs() < 1e-4, "{got} {want}");
        assert_eq!(scores.targets[at][0], got);
        let top = &scores.top_k[at + 1];
        assert!(top.len() == 5 && top.windows(2).all(|pair| pair[0].1 >= pair[1].1));
        let told = top.iter().find(|(token, _)| *token == job.prompt[at + 1]);
        assert!(told.is_none_or(|(_, p)| *p == got));
    }
}

#[test]
fn a_seed_means_the_same_tokens_and_samples_of_one_seed_differ() {
    let (trainee, _) = trained();
    let first = run(&trainee, &job(PROMPT)).samples;
    assert_eq!(first, run(&trainee, &job(PROMPT)).samples);
    assert_ne!(first[0].tokens, first[1].tokens);
    assert_ne!(first[1].tokens, first[2].tokens);
    let mut other = job(PROMPT);
    other.seed = 8;
    assert_ne!(first[0].tokens, run(&trainee, &other).samples[0].tokens);
}

#[test]
fn temperature_zero_always_takes_the_most_likely() {
    let (trainee, _) = trained();
    let mut job = job(PROMPT);
    job.choice.temperature = 0.0;
    job.top_k_log_probs = 2;
    let result = run(&trainee, &job);
    assert_eq!(result.samples[0].tokens, result.samples[1].tokens);
    for sample in &result.samples {
        for (at, top) in sample.top_k.iter().enumerate() {
            assert_eq!(top.len(), 2);
            assert_eq!(top[0], (sample.tokens[at], sample.log_probs[at]));
        }
    }
}

#[test]
fn a_stop_ends_one_sample_and_leaves_the_others() {
    let (trainee, _) = trained();
    let mut job = job(PROMPT);
    job.samples = 8;
    job.max_tokens = Some(120);
    job.stop = Stop::tokens(vec![builtin::END_OF_TEXT]).or_texts(["the".to_owned()]);
    let free = {
        let mut free = job.clone();
        free.stop = Stop::never();
        run(&trainee, &free)
    };
    let result = run(&trainee, &job);
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
        // Until it stops, a sample is what it would have been without a stop.
        assert_eq!(sample.tokens, free.tokens[..sample.tokens.len()]);
        assert!(!free.stopped && free.tokens.len() == 120);
    }
}

#[test]
fn a_sampler_keeps_the_weights_it_was_made_with() {
    let (mut trainee, threads) = trained();
    let base = Arc::clone(trainee.base());
    let sampler = Sampler::new(base, Some(trainee.lora()), Arc::new(Text::Bytes));
    let job = job(PROMPT);
    let before = sampler.run(&job, &AtomicBool::new(false)).unwrap().samples;
    let batch = [example(b"something else altogether")];
    let mode = Mode::ForwardBackward;
    trainee
        .pass(&threads, &batch, &Loss::CrossEntropy, mode)
        .unwrap();
    trainee
        .step(&AdamWParams {
            learning_rate: 0.05,
            ..AdamWParams::default()
        })
        .unwrap();
    assert_eq!(
        before,
        sampler.run(&job, &AtomicBool::new(false)).unwrap().samples
    );
    assert_ne!(before, run(&trainee, &job).samples);
}

#[test]
fn bad_jobs_are_refused_by_name_and_cancelled_ones_end() {
    let (trainee, _) = trained();
    let refused = |change: &dyn Fn(&mut SampleJob)| {
        let mut job = job(PROMPT);
        change(&mut job);
        try_run(&trainee, &job).unwrap_err().to_string()
    };
    assert!(refused(&|j| j.prompt.clear()).starts_with("prompt"));
    assert!(refused(&|j| j.prompt[0] = 264).starts_with("prompt"));
    assert!(refused(&|j| j.samples = 0).starts_with("num_samples"));
    assert!(refused(&|j| j.max_tokens = Some(0)).contains("max_tokens"));
    assert!(refused(&|j| j.max_tokens = Some(1003)).contains("max_tokens"));
    let sampler = Sampler::new(Arc::clone(trainee.base()), None, Arc::new(Text::Bytes));
    let error = sampler
        .run(&job(PROMPT), &AtomicBool::new(true))
        .unwrap_err();
    assert!(matches!(error, Error::Closed));
}

#[test]
fn a_prompt_that_fills_the_context_has_room_for_one_token() {
    let (trainee, _) = trained();
    let mut job = job(&"x".repeat(1024));
    job.max_tokens = Some(1);
    job.prompt_wishes.log_probs = true;
    let result = run(&trainee, &job);
    assert_eq!(result.prompt.log_probs.len(), 1024);
    assert!(result.samples.iter().all(|sample| sample.tokens.len() == 1));
    for (len, max_tokens) in [(1024, 2), (1025, 1)] {
        job.prompt = vec![120; len];
        job.max_tokens = Some(max_tokens);
        assert!(try_run(&trainee, &job).is_err());
    }
}

#[test]
fn without_a_limit_a_sample_fills_the_context() {
    let (trainee, _) = trained();
    let mut job = job(&"x".repeat(1000));
    job.max_tokens = None;
    for sample in run(&trainee, &job).samples {
        assert_eq!(sample.tokens.len(), 24);
    }
}
