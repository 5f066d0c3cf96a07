//! A training loop on a bad day: the server misbehaves by script, minutes pass at once, and the journal tells what it was asked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tinkers::local::{Faults, Journal, LocalServer, Script, ScriptedEngine, TokioSpawn};
use tinkers::prelude::*;
use tinkers::{Clock, Timestamp, TokioClock};
use tokio::runtime::{Builder, Handle};

const ROUNDS: u64 = 20;

/// The loop under test: yours would stand here.
async fn train(service: &ServiceClient) -> Result<Vec<f64>, Error> {
    let training = service
        .lora_training("tinkers/scripted")
        .rank(8)
        .create()
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

/// One day: what the loop gave, and what the server saw.
struct Day {
    losses: Vec<f64>,
    lasted: Duration,
    engine: Arc<ScriptedEngine>,
    faults: Faults,
    journal: Journal,
}

impl Day {
    /// Runs the loop against a server of its own, whose jobs take two seconds each.
    fn live(faults: Faults) -> Result<Self, Error> {
        // The clock stands still while there is work, and else jumps to when there is.
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
            .expect("the scripted engine has no trouble");
            let began = time.now();
            let service = ServiceClient::over_local(server).await?;
            Ok(Self {
                losses: train(&service).await?,
                lasted: time.now().since(began),
                engine,
                faults,
                journal,
            })
        })
    }

    /// Each pass and each step was applied once, whatever it took.
    fn assert_applied_once(&self) {
        let counts = self.engine.counts();
        assert_eq!((counts.backwards, counts.steps), (ROUNDS, ROUNDS));
        let mut digests = BTreeMap::new();
        for route in ["/api/v1/forward_backward", "/api/v1/optim_step"] {
            for entry in self.journal.of(route) {
                let seq_id = entry.seq_id.expect("a number on each request");
                let first = *digests.entry(seq_id).or_insert(entry.digest);
                assert_eq!(entry.digest, first, "{seq_id} was repeated as it was");
            }
        }
        // Two numbers to a round, one after the other.
        assert!(digests.into_keys().eq(1..=2 * ROUNDS));
    }
}

#[expect(clippy::print_stdout, reason = "an example shows its result")]
fn main() -> Result<(), Error> {
    let script = || Faults::from_script(include_str!("bad_day.toml")).expect("a sound script");
    let good = Day::live(Faults::new())?;
    let bad = Day::live(script())?;
    good.assert_applied_once();
    bad.assert_applied_once();
    // The loss falls with each step, so a pass before its time would show.
    assert_eq!(bad.losses, good.losses);
    // A test whose faults did not strike would prove nothing.
    for count in bad.faults.counts() {
        println!(
            "{} struck {} of {}",
            count.rule, count.struck, count.matched
        );
        assert!(count.struck > 0, "{} never struck", count.rule);
    }
    // The same script and the same requests: the same faults.
    assert_eq!(Day::live(script())?.faults.counts(), bad.faults.counts());
    assert!(bad.lasted > Duration::from_secs(600));
    if let Some(entry) = bad.journal.entries().iter().find(|entry| entry.faulted) {
        println!("the first: {}", entry.to_json_line(Timestamp::ORIGIN));
    }
    println!(
        "{ROUNDS} rounds took {:?} on a good day and {:?} on a bad one",
        good.lasted, bad.lasted
    );
    Ok(())
}
