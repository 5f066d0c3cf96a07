//! The load of training steps.

use std::collections::VecDeque;

use anyhow::Result;
use tinkers::prelude::{AdamParams, ApiFuture, Datum, LossFn, TrainingClient};
use tinkers::{ForwardBackwardOutput, OptimStepResult};

use super::report::Report;
use super::tally::Tally;
use super::{Bench, tokens};
use crate::args::TrainArgs;
use crate::layout::labelled;
use crate::stopwatch::Stopwatch;

/// One round is submitted behind the one that is waited for, so that the server never waits for this side.
const UNDER_WAY: usize = 2;

/// Small, so that a real model is not driven off.
const LEARNING_RATE: f64 = 1e-6;

/// Trains as the arguments say.
pub(crate) async fn run(bench: &Bench, args: &TrainArgs, model: String) -> Result<Report> {
    let client = bench
        .service
        .lora_training(&model)
        .rank(args.rank.get())
        .create()
        .await?;
    let batch = batch(args)?;
    let rows = [
        ("server", bench.address.clone()),
        ("model", format!("{model}, LoRA of rank {}", args.rank)),
        (
            "load",
            format!(
                "{} rounds of forward_backward and optim_step, {} data of {} tokens each",
                args.rounds, args.batch, args.seq_len
            ),
        ),
    ];
    let screen = &bench.screen;
    screen.line(labelled(&rows, 0, screen.width()))?;
    let _busy = screen.busy("training")?;
    let (tally, start) = Tally::start(bench)?;
    let load = all(&client, &batch, args, &tally);
    let (submitted, connections) = start.watch(bench, load).await;
    Ok(start.report(bench, "train", model, submitted, connections))
}

/// All rounds, or those up to the first that fails, since a client that has failed does not go on. How many requests that
/// makes.
async fn all(client: &TrainingClient, batch: &[Datum], args: &TrainArgs, tally: &Tally) -> u64 {
    let tokens = u64::from(args.batch.get()) * u64::from(args.seq_len.get());
    let (mut under_way, mut submitted) = (VecDeque::new(), 0);
    let mut rounds = 0..args.rounds.get();
    loop {
        while under_way.len() < UNDER_WAY && rounds.next().is_some() {
            under_way.push_back(Round::submit(client, batch));
            submitted += 2;
        }
        let Some(round) = under_way.pop_front() else {
            return submitted;
        };
        if !round.finish(tally, tokens).await {
            rounds = 0..0;
        }
    }
}

struct Round {
    watch: Stopwatch,
    pass: ApiFuture<ForwardBackwardOutput>,
    step: ApiFuture<OptimStepResult>,
}

impl Round {
    fn submit(client: &TrainingClient, batch: &[Datum]) -> Self {
        Self {
            watch: Stopwatch::start(),
            pass: client.forward_backward(batch, LossFn::CrossEntropy),
            step: client.optim_step(AdamParams::new(LEARNING_RATE)),
        }
    }

    /// Whether both went well; each that failed is counted.
    async fn finish(self, tally: &Tally, tokens: u64) -> bool {
        let (pass, step) = (self.pass.await, self.step.await);
        let seconds = self.watch.seconds();
        let failures: Vec<_> = pass.err().into_iter().chain(step.err()).collect();
        if failures.is_empty() {
            tally.ended(seconds, Ok(tokens));
            return true;
        }
        for failure in failures {
            tally.ended(seconds, Err(failure));
        }
        false
    }
}

fn batch(args: &TrainArgs) -> Result<Vec<Datum>> {
    let length = args.seq_len.get();
    let datum = |number| {
        // One token more, since the last is a target only.
        let tokens = tokens(length.saturating_add(1), number);
        Datum::next_token(&tokens, vec![1.0; tokens.len() - 1])
    };
    Ok((0..args.batch.get()).map(datum).collect::<Result<_, _>>()?)
}
