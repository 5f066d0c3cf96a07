//! Trains the built-in base model on the corpus in `data/`, from random weights to a half-precision file.
//!
//! `cargo run --release -p tinkers-engine --example pretrain -- --steps 2600 --out model.safetensors`. The same seed and
//! number of steps give the same file on the same machine. `--seconds` limits the duration. Without arguments, it takes a
//! few steps with a very small model.
#![expect(clippy::disallowed_methods, reason = "the program measures its speed")]

use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use tinkers_engine::pretrain::{Corpus, Pretrainer, Schedule};
use tinkers_engine::{ModelConfig, builtin};

/// The command line options.
struct Options {
    steps: usize,
    seconds: f64,
    seed: u64,
    rate: f64,
    config: ModelConfig,
    out: Option<PathBuf>,
}

/// The number of tokens in a training sequence. The model writes poor text beyond this length, so it limits the useful context.
const LENGTH: usize = 512;
/// The number of sequences in a step.
const BATCH: usize = 8;

fn main() -> Result<(), Box<dyn Error>> {
    let options = options()?;
    let out = &mut std::io::stdout().lock();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data");
    let file = std::fs::File::open(root.join("king-james-bible.txt.zst"))?;
    let text = zstd::decode_all(file)?;
    let corpus = Corpus::new(&text, options.seed);
    let mut trainer = Pretrainer::new(options.config.clone(), options.seed)?;
    let schedule = Schedule {
        peak: options.rate,
        warmup: (options.steps / 20).max(1),
        steps: options.steps,
    };
    writeln!(
        out,
        "{} parameters, {} training tokens, {} held-out tokens",
        trainer.parameters(),
        corpus.training_len(),
        corpus.held_out_len()
    )?;

    let start = Instant::now();
    let every = (options.steps / 100).max(1);
    let (mut sum, mut count) = (0.0, 0.0);
    for step in 0..options.steps {
        if start.elapsed().as_secs_f64() > options.seconds {
            writeln!(out, "stopped after {step} steps: --seconds is over")?;
            break;
        }
        let texts = corpus.batch(step, BATCH, LENGTH);
        sum += trainer.step(&texts, &schedule.at(step))?;
        count += 1.0;
        if (step + 1) % every == 0 || step + 1 == options.steps {
            let seconds = start.elapsed().as_secs_f64();
            #[expect(
                clippy::cast_precision_loss,
                reason = "token counts are far below 2^53"
            )]
            let speed = ((step + 1) * BATCH * LENGTH) as f64 / seconds;
            let loss = sum / count;
            writeln!(
                out,
                "step {:5}  loss {loss:.4}  {speed:6.0} tokens/s  {seconds:5.0} s",
                step + 1
            )?;
            (sum, count) = (0.0, 0.0);
        }
    }
    let held_out = trainer.loss(&corpus.held_out(LENGTH, options.steps))?;
    writeln!(out, "held-out loss {held_out:.4} nats per byte")?;
    if let Some(path) = &options.out {
        std::fs::write(path, trainer.to_f16_file()?)?;
        writeln!(out, "wrote {}", path.display())?;
    }
    Ok(())
}

fn options() -> Result<Options, Box<dyn Error>> {
    let mut options = Options {
        steps: 3,
        seconds: f64::INFINITY,
        seed: 1,
        rate: 2e-3,
        config: builtin::config(),
        out: None,
    };
    let mut args = std::env::args().skip(1);
    let no_options = args.len() == 0;
    while let Some(arg) = args.next() {
        let value = args.next().ok_or_else(|| format!("{arg} takes a value"))?;
        match arg.as_str() {
            "--steps" => options.steps = value.parse()?,
            "--seconds" => options.seconds = value.parse()?,
            "--seed" => options.seed = value.parse()?,
            "--rate" => options.rate = value.parse()?,
            "--out" => options.out = Some(value.into()),
            other => return Err(format!("unknown option {other}").into()),
        }
    }
    if no_options {
        options.config.num_hidden_layers = 1;
        options.config.hidden_size = 32;
        options.config.intermediate_size = 64;
    }
    Ok(options)
}
