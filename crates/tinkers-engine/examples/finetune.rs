//! Fine-tunes the built-in model on Newton's Opticks without a server, and samples from the result.
//!
//! `cargo run --release -p tinkers-engine --example finetune -- --steps 80 --batch 24 --length 256 --rank 16 --rate 5e-3`.
//! Without arguments, it takes three short steps.
#![expect(clippy::disallowed_methods, reason = "the program measures its speed")]

use std::error::Error;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use tinkers_engine::{
    AdamWParams, AdapterConfig, Example, LossFunction, LossInputs, Mode, PromptScoreOptions,
    SampleJob, Sampler, SamplingOptions, StopConditions, Text, Threads, TrainableModel, builtin,
};

const TEXT: &str = include_str!("../../tinkers-cli/data/newton-opticks.txt");
const PROMPT: &str = "The Rays of Light which";

/// The size in bytes of the text blocks. Each block belongs either to the training text or to the held-out text.
const BLOCK: usize = 2048;

struct Options {
    steps: usize,
    batch: usize,
    length: usize,
    rank: usize,
    rate: f64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = options()?;
    let out = &mut std::io::stdout().lock();
    let (training, held_out) = examples(options.length);
    let held_out = &held_out[..held_out.len().min(options.steps.min(32))];
    let threads = Threads::new(0)?;
    let lora = AdapterConfig {
        rank: options.rank,
        seed: 1,
        train_attn: true,
        train_mlp: true,
        train_unembed: true,
    };
    let mut trainable = TrainableModel::new(Arc::new(builtin::model()?), lora)?;

    let before = loss(&mut trainable, &threads, held_out)?;
    writeln!(out, "held-out loss before: {before:.4} nats per byte")?;
    let start = Instant::now();
    for step in 0..options.steps {
        let batch: Vec<Example> = (0..options.batch)
            .map(|index| training[(step * options.batch + index) * 7919 % training.len()].clone())
            .collect();
        let count: usize = batch.iter().map(|e| e.tokens.len()).sum();
        let result = trainable.pass(
            &threads,
            &batch,
            &LossFunction::CrossEntropy,
            Mode::ForwardBackward,
        )?;
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
        let (progress, count) = (step as f64 / options.steps as f64, count as f64);
        trainable.step(&AdamWParams {
            learning_rate: options.rate * (1.0 - 0.9 * progress),
            ..AdamWParams::default()
        })?;
        let loss = result.metrics["loss:sum"] / count;
        writeln!(out, "step {:3}  loss {loss:.4}", step + 1)?;
    }
    let seconds = start.elapsed().as_secs_f64();
    let after = loss(&mut trainable, &threads, held_out)?;
    let reduction = 100.0 * (1.0 - after / before);
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
    let speed = (options.steps * options.batch * options.length) as f64 / seconds;
    writeln!(
        out,
        "held-out loss after: {after:.4} nats per byte, {reduction:.1} % less"
    )?;
    writeln!(out, "{seconds:.1} s, {speed:.0} tokens/s")?;

    let text = Arc::new(Text::Bytes);
    let job = SampleJob {
        prompt: text.encode(PROMPT)?,
        samples: 2,
        max_tokens: Some(160),
        sampling: SamplingOptions {
            temperature: 0.7,
            ..SamplingOptions::default()
        },
        seed: 1,
        stop: StopConditions::tokens(vec![builtin::END_OF_TEXT]),
        prompt_options: PromptScoreOptions::default(),
        top_k_log_probs: 0,
    };
    let sampler = Sampler::new(
        Arc::clone(trainable.base()),
        Some(trainable.lora()),
        Arc::clone(&text),
    );
    let start = Instant::now();
    let result = sampler.run(&job, &AtomicBool::new(false))?;
    for sample in &result.samples {
        let decoded = text.decode(&sample.tokens)?;
        writeln!(out, "\n{PROMPT}{}", String::from_utf8_lossy(&decoded))?;
    }
    let count: usize = result.samples.iter().map(|s| s.tokens.len()).sum();
    writeln!(
        out,
        "\n{count} tokens sampled in {:.2} s",
        start.elapsed().as_secs_f64()
    )?;
    Ok(())
}

/// Returns training and held-out examples. Every eighth block of the text is held out, so the two sets do not overlap.
fn examples(length: usize) -> (Vec<Example>, Vec<Example>) {
    let (mut training, mut held_out) = (Vec::new(), Vec::new());
    for (index, block) in TEXT.as_bytes().chunks(BLOCK).enumerate() {
        let part = if index % 8 == 7 {
            &mut held_out
        } else {
            &mut training
        };
        for piece in block.chunks_exact(length + 1) {
            let tokens: Vec<u32> = piece.iter().map(|&byte| u32::from(byte)).collect();
            part.push(Example {
                tokens: tokens[..length].to_vec(),
                targets: tokens[1..].iter().copied().map(Some).collect(),
                loss_inputs: LossInputs::Weights(vec![1.0; length]),
            });
        }
    }
    (training, held_out)
}

fn loss(
    trainable: &mut TrainableModel,
    threads: &Threads,
    examples: &[Example],
) -> Result<f64, Box<dyn Error>> {
    let result = trainable.pass(
        threads,
        examples,
        &LossFunction::CrossEntropy,
        Mode::Forward,
    )?;
    Ok(result.metrics["loss:sum"] / result.metrics["weights:sum"])
}

fn options() -> Result<Options, Box<dyn Error>> {
    let mut options = Options {
        steps: 3,
        batch: 4,
        length: 128,
        rank: 8,
        rate: 5e-3,
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let value = args.next().ok_or_else(|| format!("{arg} takes a value"))?;
        match arg.as_str() {
            "--steps" => options.steps = value.parse()?,
            "--batch" => options.batch = value.parse()?,
            "--length" => options.length = value.parse()?,
            "--rank" => options.rank = value.parse()?,
            "--rate" => options.rate = value.parse()?,
            other => return Err(format!("unknown option {other}").into()),
        }
    }
    Ok(options)
}
