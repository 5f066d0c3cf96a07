//! The load of training rounds.

use std::collections::VecDeque;

use anyhow::Result;
use tinkers::prelude::{AdamParams, ApiFuture, Datum, LossFn, TrainingClient};
use tinkers::{ForwardBackwardOutput, OptimStepResult};

use super::report::Report;
use super::stats::LoadStats;
use super::{Bench, tokens};
use crate::args::TrainArgs;
use crate::layout::labelled;
use crate::stopwatch::Stopwatch;

/// The number of training rounds in flight. A round is a forward-backward pass and an optimizer step. With two rounds in flight,
/// the server never waits for the client between rounds.
const ROUNDS_IN_FLIGHT: usize = 2;

/// The learning rate. It is so small that the trained model hardly differs from the base model.
const LEARNING_RATE: f64 = 1e-6;

/// Runs the training load and returns its report.
pub(crate) async fn run(bench: &Bench, args: &TrainArgs, model: String) -> Result<Report> {
    let client = bench
        .service
        .create_lora_training_client(&model)
        .rank(args.rank.get())
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
    let (stats, measurement) = LoadStats::start(bench)?;
    let load = train_all(&client, &batch, args, &stats);
    let (submitted, connections) = measurement.watch(bench, load).await;
    Ok(measurement.report(bench, "train", model, submitted, connections))
}

/// Runs all training rounds and returns the number of API requests. Stops at the first failure, because the training client accepts
/// no calls after a failure.
async fn train_all(
    client: &TrainingClient,
    batch: &[Datum],
    args: &TrainArgs,
    stats: &LoadStats,
) -> u64 {
    let tokens = u64::from(args.batch.get()) * u64::from(args.seq_len.get());
    let (mut in_flight, mut submitted) = (VecDeque::new(), 0);
    let mut rounds = 0..args.rounds.get();
    loop {
        while in_flight.len() < ROUNDS_IN_FLIGHT && rounds.next().is_some() {
            in_flight.push_back(Round::submit(client, batch));
            submitted += 2;
        }
        let Some(round) = in_flight.pop_front() else {
            return submitted;
        };
        if !round.finish(stats, tokens).await {
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

    /// Waits for the results of the pass and of the optimizer step of this round, and records them. Returns whether both succeeded.
    async fn finish(self, stats: &LoadStats, tokens: u64) -> bool {
        let (pass, step) = (self.pass.await, self.step.await);
        let seconds = self.watch.seconds();
        let failures: Vec<_> = pass.err().into_iter().chain(step.err()).collect();
        if failures.is_empty() {
            stats.record(seconds, Ok(tokens));
            return true;
        }
        for failure in failures {
            stats.record(seconds, Err(failure));
        }
        false
    }
}

fn batch(args: &TrainArgs) -> Result<Vec<Datum>> {
    let length = args.seq_len.get();
    let datum = |number| {
        // The sequence has one more token than its length, since the last token is only a target.
        let tokens = tokens(length.saturating_add(1), number);
        Datum::next_token(&tokens, vec![1.0; tokens.len() - 1])
    };
    Ok((0..args.batch.get()).map(datum).collect::<Result<_, _>>()?)
}
