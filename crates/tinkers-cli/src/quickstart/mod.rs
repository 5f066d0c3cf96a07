//! `tinkers quickstart`: sample, fine-tune on a text, sample again, over HTTP.

mod batches;
mod material;
mod plot;
mod report;
mod sample;
mod server;
mod text;
mod tokens;
mod train;

use anyhow::{Context, Result};
use tinkers::prelude::{ServiceClient, TrainingClient};

use self::batches::Batches;
use self::material::Material;
use self::report::Report;
use self::server::Server;
use self::tokens::Tokens;
use crate::args::QuickstartArgs;
use crate::close_session::close_session;
use crate::layout::labelled;
use crate::output::{self, Screen, Words, count};
use crate::signals::{Interrupted, Signals, interruptible};
use crate::stopwatch::Stopwatch;

/// The name of the checkpoints that it leaves.
const CHECKPOINT: &str = "quickstart";

/// Runs it to its end or to the first signal.
pub(crate) async fn run(args: &QuickstartArgs, signals: &mut Signals) -> Result<()> {
    let watch = Stopwatch::start();
    let screen = Screen::new(if args.json {
        Words::Stderr
    } else {
        Words::Stdout
    });
    let material = Material::prepare(args, Tokens::open(args.tokenizer.as_deref())?)?;
    // The embedded server starts in a moment, and its temporary directory must not outlive a start that is given up.
    let server = Server::open(args.target()).await?;
    let service = match interruptible(signals, server.connect()).await {
        Ok(service) => service,
        Err(error) => {
            end(server, signals).await?;
            return Err(error);
        }
    };
    let run = Run {
        args,
        screen,
        material,
        server,
        service,
        watch,
    };
    let outcome = interruptible(signals, run.work()).await;
    close_session(&run.service, &outcome, signals).await;
    // Before its server, which would wait for what it still sends.
    drop(run.service);
    end(run.server, signals).await?;
    let report = outcome?;
    if args.json {
        return output::json(&report);
    }
    Ok(report.show(&screen)?)
}

/// Ends the server, or leaves it at another signal.
async fn end(server: Server, signals: &mut Signals) -> Result<()> {
    tokio::select! {
        biased;
        () = signals.next() => Err(Interrupted.into()),
        ended = server.shutdown() => ended,
    }
}

struct Run<'a> {
    args: &'a QuickstartArgs,
    screen: Screen,
    material: Material,
    server: Server,
    service: ServiceClient,
    watch: Stopwatch,
}

impl Run<'_> {
    async fn work(&self) -> Result<Report> {
        let (args, service) = (self.args, &self.service);
        self.introduce()?;
        let samples_before = {
            let _busy = self.screen.busy("sampling from the base model")?;
            let sampler = service.sampling(&args.model).create().await?;
            sample::follow(&sampler, &self.material, args.seed).await?
        };
        let training = service
            .lora_training(&args.model)
            .rank(args.rank.get())
            .seed(args.seed)
            .create()
            .await?;
        let held_out_loss_before = self.held_out_loss(&training).await?;
        self.screen.line(format_args!(
            "held-out  loss {held_out_loss_before:.3} nats per token before training"
        ))?;
        let (loss, tokens_per_second) = self.train(&training).await?;
        let held_out_loss_after = self.held_out_loss(&training).await?;
        let _busy = self.screen.busy("saving and sampling again")?;
        // Submitted together, worked on in this order.
        let state = training.save_state(CHECKPOINT);
        let weights = training.save_weights_for_sampler(CHECKPOINT);
        let checkpoint = state.await?.path;
        let sampler_checkpoint = weights
            .await?
            .path
            .context("the server saved weights to sample from and did not say where")?;
        let sampler = service
            .sampling(sampler_checkpoint.as_str())
            .create()
            .await?;
        let samples_after = sample::follow(&sampler, &self.material, args.seed).await?;
        Ok(Report {
            model: args.model.clone(),
            held_out_loss_before,
            held_out_loss_after,
            seconds: self.watch.seconds(),
            tokens_per_second,
            loss,
            prompts: self.material.prompts.clone(),
            samples_before,
            samples_after,
            checkpoint: checkpoint.to_string(),
            sampler_checkpoint: sampler_checkpoint.to_string(),
            data_dir: self.server.data_dir(),
            is_temporary: self.server.is_temporary(),
        })
    }

    fn introduce(&self) -> Result<()> {
        let (args, material) = (self.args, &self.material);
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
                    material.name,
                    tokens(&material.training),
                    tokens(&material.held_out)
                ),
            ),
            (
                "training",
                format!(
                    "{} steps of {} pieces of {} tokens",
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
        train::held_out_loss(training, &self.material.pieces, batch).await
    }

    /// The loss of each step and the tokens per second.
    async fn train(&self, training: &TrainingClient) -> Result<(Vec<f64>, f64)> {
        let args = self.args;
        let length = args.seq_len.get() as usize;
        let batch = args.batch.get() as usize;
        let batches = Batches::new(&self.material.training, length, batch, args.seed)
            .context("the text is too short")?;
        let steps = args.steps.get();
        let progress = self.screen.progress(steps);
        let (mut loss, mut tokens, watch) = (Vec::new(), 0, Stopwatch::start());
        let rate = |tokens: usize| tokens as f64 / watch.seconds().max(1e-9);
        train::train(training, batches, steps, args.learning_rate, |done| {
            loss.push(done.loss);
            tokens += done.tokens;
            Ok(progress.step(done.number, done.loss, rate(tokens))?)
        })
        .await?;
        Ok((loss, rate(tokens)))
    }
}
