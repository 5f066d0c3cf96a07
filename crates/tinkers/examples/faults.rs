//! Tests a training loop with scripted server faults in virtual time, and checks the requests in the server's journal.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tinkers::local::{Faults, Journal, LocalServer, Script, ScriptedEngine, TokioSpawn};
use tinkers::prelude::*;
use tinkers::{Clock, Timestamp, TokioClock};
use tokio::runtime::{Builder, Handle};

const ROUNDS: u64 = 20;

/// The training loop under test. Replace it by your own.
async fn train(service: &ServiceClient) -> Result<Vec<f64>, Error> {
    let training = service
        .create_lora_training_client("tinkers/scripted")
        .rank(8)
        .await?;
    let mut losses = Vec::new();
    for _ in 0..ROUNDS {
        let datum = Datum::next_token(&[1, 2, 3, 4], vec![1.0; 3])?;
        let pass = training.forward_backward([datum], LossFn::CrossEntropy);
        let step = training.optim_step(AdamParams::new(1e-4));
        losses.push(pass.await?.loss_sum().unwrap_or(f64::NAN));
        step.await?;
    }
    Ok(losses)
}

/// The results of one run of the training loop, and the records of the server that it ran against.
struct Run {
    losses: Vec<f64>,
    lasted: Duration,
    engine: Arc<ScriptedEngine>,
    faults: Faults,
    journal: Journal,
}

impl Run {
    /// Runs the training loop against a new server with these injected faults. Each computation of this server takes two seconds of virtual
    /// time.
    fn start(faults: Faults) -> Result<Self, Error> {
        // With paused time, the clock jumps to the next timer when all tasks are idle.
        let runtime = Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .expect("a runtime");
        runtime.block_on(async move {
            let time: Arc<dyn Clock> = Arc::new(TokioClock::new(Handle::current()));
            let spawn = Arc::new(TokioSpawn::new(Handle::current()));
            let engine = ScriptedEngine::new(Script::default()).with_latency(
                Duration::from_secs(2),
                Arc::clone(&time),
                Arc::<TokioSpawn>::clone(&spawn),
            );
            let (engine, journal) = (Arc::new(engine), Journal::new());
            let server = LocalServer::builder(
                Arc::<ScriptedEngine>::clone(&engine),
                Arc::clone(&time),
                spawn,
            )
            .faults(faults.clone())
            .journal(journal.clone())
            .build()
            .expect("the scripted engine starts");
            let started = time.now();
            let service = ServiceClient::over_local(server).await?;
            Ok(Self {
                losses: train(&service).await?,
                lasted: time.now().since(started),
                engine,
                faults,
                journal,
            })
        })
    }

    /// Checks that each forward-backward pass and each optimizer step was applied exactly once.
    fn assert_applied_once(&self) {
        let counts = self.engine.counts();
        assert_eq!((counts.backwards, counts.steps), (ROUNDS, ROUNDS));
        let mut digests = BTreeMap::new();
        for route in ["/api/v1/forward_backward", "/api/v1/optim_step"] {
            for entry in self.journal.of(route) {
                let seq_id = entry.seq_id.expect("a sequence number");
                let first = *digests.entry(seq_id).or_insert(entry.digest);
                assert_eq!(entry.digest, first, "all attempts of {seq_id} are the same");
            }
        }
        // Two consecutive sequence numbers per round.
        assert!(digests.into_keys().eq(1..=2 * ROUNDS));
    }
}

#[expect(clippy::print_stdout, reason = "an example prints its results")]
fn main() -> Result<(), Error> {
    let script = || Faults::from_script(include_str!("faults.toml")).expect("a valid script");
    let faultless = Run::start(Faults::new())?;
    let faulty = Run::start(script())?;
    faultless.assert_applied_once();
    faulty.assert_applied_once();
    // The loss falls with each step, so the losses would differ if the order of the requests did.
    assert_eq!(faulty.losses, faultless.losses);
    // The run is only meaningful if every fault occurred.
    for count in faulty.faults.counts() {
        println!(
            "{}: {} of {} matching requests",
            count.rule, count.struck, count.matched
        );
        assert!(count.struck > 0, "{} never occurred", count.rule);
    }
    // The faults are reproducible.
    assert_eq!(
        Run::start(script())?.faults.counts(),
        faulty.faults.counts()
    );
    assert!(faulty.lasted > Duration::from_secs(600));
    if let Some(entry) = faulty.journal.entries().iter().find(|entry| entry.faulted) {
        println!(
            "the first faulted request: {}",
            entry.to_json_line(Timestamp::ORIGIN)
        );
    }
    println!(
        "{ROUNDS} rounds took {:?} without faults and {:?} with faults",
        faultless.lasted, faulty.lasted
    );
    Ok(())
}
