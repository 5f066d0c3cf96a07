//! `tinkers quickstart`: samples, fine-tunes on a text and samples again, over HTTP.

mod batches;
mod dataset;
mod plot;
mod report;
mod sample;
mod server;
mod text;
mod tokenizer;
mod train;

use anyhow::{Context, Result};
use tinkers::prelude::{ServiceClient, TrainingClient};

use self::batches::Batches;
use self::dataset::Dataset;
use self::report::Report;
use self::server::Server;
use self::tokenizer::Tokenizer;
use crate::args::QuickstartArgs;
use crate::close_session::close_session;
use crate::layout::labelled;
use crate::output::{self, Screen, TextStream, count};
use crate::signals::{Interrupted, Signals, interruptible};
use crate::stopwatch::Stopwatch;

/// The name under which the quickstart command saves its checkpoints.
const CHECKPOINT: &str = "quickstart";

/// Runs the quickstart command until it completes or a signal arrives.
pub(crate) async fn run(args: &QuickstartArgs, signals: &mut Signals) -> Result<()> {
    let watch = Stopwatch::start();
    let screen = Screen::new(if args.json {
        TextStream::Stderr
    } else {
        TextStream::Stdout
    });
    let dataset = Dataset::prepare(args, Tokenizer::open(args.tokenizer.as_deref())?)?;
    // The start is not interruptible: it is fast, and the temporary directory must be removed in any case.
    let server = Server::open(args.target()).await?;
    let service = match interruptible(signals, server.connect()).await {
        Ok(service) => service,
        Err(error) => {
            shutdown(server, signals).await?;
            return Err(error);
        }
    };
    let run = Run {
        args,
        screen,
        dataset,
        server,
        service,
        watch,
    };
    let outcome = interruptible(signals, run.work()).await;
    close_session(&run.service, &outcome, signals).await;
    // The client is dropped before the shutdown, which would wait for its requests.
    drop(run.service);
    shutdown(run.server, signals).await?;
    let report = outcome?;
    if args.json {
        return output::json(&report);
    }
    Ok(report.show(&screen)?)
}

/// Shuts the embedded server down. Returns before the end of the shutdown if another signal arrives.
async fn shutdown(server: Server, signals: &mut Signals) -> Result<()> {
    tokio::select! {
        biased;
        () = signals.next() => Err(Interrupted.into()),
        ended = server.shutdown() => ended,
    }
}

struct Run<'a> {
    args: &'a QuickstartArgs,
    screen: Screen,
    dataset: Dataset,
    server: Server,
    service: ServiceClient,
    watch: Stopwatch,
}

impl Run<'_> {
    async fn work(&self) -> Result<Report> {
        let (args, service) = (self.args, &self.service);
        self.show_settings()?;
        let samples_before = {
            let _busy = self.screen.busy("sampling from the base model")?;
            let sampler = service.create_sampling_client(&args.model).await?;
            sample::sample_prompts(&sampler, &self.dataset, args.seed).await?
        };
        let training = service
            .create_lora_training_client(&args.model)
            .rank(args.rank.get())
            .seed(args.seed)
            .await?;
        let held_out_loss_before = self.held_out_loss(&training).await?;
        self.screen.line(format_args!(
            "held-out loss before training: {held_out_loss_before:.3} nats per token"
        ))?;
        let (loss, tokens_per_second) = self.train(&training).await?;
        let held_out_loss_after = self.held_out_loss(&training).await?;
        let _busy = self.screen.busy("saving and sampling again")?;
        // Both saves are submitted at once; the server processes them in this order.
        let state = training.save_state(CHECKPOINT).send();
        let weights = training.save_weights_for_sampler(CHECKPOINT).send();
        let checkpoint = state.await?.path;
        let sampler_checkpoint = weights
            .await?
            .path
            .context("the response to save_weights_for_sampler has no path")?;
        let sampler = service
            .create_sampling_client(sampler_checkpoint.as_str())
            .await?;
        let samples_after = sample::sample_prompts(&sampler, &self.dataset, args.seed).await?;
        Ok(Report {
            model: args.model.clone(),
            held_out_loss_before,
            held_out_loss_after,
            seconds: self.watch.seconds(),
            tokens_per_second,
            loss,
            prompts: self.dataset.prompts.clone(),
            samples_before,
            samples_after,
            checkpoint: checkpoint.to_string(),
            sampler_checkpoint: sampler_checkpoint.to_string(),
            data_dir: self.server.data_dir(),
            is_temporary: self.server.is_temporary(),
        })
    }

    fn show_settings(&self) -> Result<()> {
        let (args, dataset) = (self.args, &self.dataset);
        let tokens = |tokens: &[u32]| count(tokens.len() as f64);
        let rows = [
            ("server", self.server.describe()),
            (
                "model",
                format!("{}, LoRA of rank {}", args.model, args.rank),
            ),
            (
                "text",
                format!(
                    "{}: {} tokens to train on, {} held out",
                    dataset.name,
                    tokens(&dataset.training),
                    tokens(&dataset.held_out)
                ),
            ),
            (
                "training",
                format!(
                    "{} steps of {} sequences of {} tokens",
                    args.steps, args.batch, args.seq_len
                ),
            ),
        ];
        self.screen.line(labelled(&rows, 0, self.screen.width()))?;
        Ok(())
    }

    async fn held_out_loss(&self, training: &TrainingClient) -> Result<f64> {
        let _busy = self.screen.busy("measuring held-out loss")?;
        let batch = self.args.batch.get() as usize;
        train::held_out_loss(training, &self.dataset.held_out_sequences, batch).await
    }

    /// Runs the training steps. Returns the loss of each step, and the number of tokens per second.
    async fn train(&self, training: &TrainingClient) -> Result<(Vec<f64>, f64)> {
        let args = self.args;
        let length = args.seq_len.get() as usize;
        let batch = args.batch.get() as usize;
        let batches = Batches::new(&self.dataset.training, length, batch, args.seed)
            .context("the text is too short")?;
        let steps = args.steps.get();
        let progress = self.screen.progress(steps);
        let (mut loss, mut tokens, watch) = (Vec::new(), 0, Stopwatch::start());
        let rate = |tokens: usize| tokens as f64 / watch.seconds().max(1e-9);
        train::train(training, batches, steps, args.learning_rate, |step| {
            loss.push(step.loss);
            tokens += step.tokens;
            Ok(progress.step(step.number, step.loss, rate(tokens))?)
        })
        .await?;
        Ok((loss, rate(tokens)))
    }
}
