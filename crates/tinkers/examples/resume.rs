//! Resumes training from the last checkpoint when the server loses the session, here because the server restarts.

use std::sync::Arc;

use tinkers::local::{Fault, Faults, LocalServer, Rule, Script, ScriptedEngine, TokioSpawn};
use tinkers::prelude::*;
use tinkers::{Clock, TokioClock};
use tokio::runtime::{Builder, Handle};

const STEPS: usize = 12;
/// The number of training steps between checkpoints. After a lost session, at most this number of steps is repeated.
const SAVE_EVERY: usize = 4;
/// The number of lost sessions after which the program gives up.
const MAX_LOSSES: usize = 3;

/// The path of the last checkpoint, and the number of training steps before this checkpoint.
#[derive(Default)]
struct Saved {
    steps: usize,
    path: Option<TinkerPath>,
}

/// Trains from the checkpoint in `saved` until the last step or the first error. Updates `saved` after each save.
async fn train(service: &ServiceClient, saved: &mut Saved) -> Result<(), Error> {
    let training = match &saved.path {
        Some(path) => {
            service
                .create_training_client_from_state_with_optimizer(path)
                .await?
        }
        None => {
            service
                .create_lora_training_client("tinkers/scripted")
                .await?
        }
    };
    for number in saved.steps + 1..=STEPS {
        let datum = Datum::next_token(&[1, 2, 3, 4], vec![1.0; 3])?;
        let pass = training.forward_backward([datum], LossFn::CrossEntropy);
        let step = training.optim_step(AdamParams::new(1e-4));
        pass.await?;
        step.await?;
        if number % SAVE_EVERY == 0 {
            // A resumed client has a new training run, so its checkpoints never replace those of the lost client.
            let save = training.save_state(format!("step-{number}"));
            *saved = Saved {
                steps: number,
                path: Some(save.await?.path),
            };
        }
    }
    Ok(())
}

/// Trains until the last step. Whenever the server loses the session, reconnects and resumes from the last checkpoint. Returns the
/// number of lost sessions.
#[expect(clippy::print_stdout, reason = "an example prints its results")]
async fn supervise(server: &LocalServer) -> Result<usize, Error> {
    let mut saved = Saved::default();
    for losses in 0.. {
        // In your program, use `ServiceClient::from_env()`.
        let service = ServiceClient::over_local(server.clone()).await?;
        match train(&service, &mut saved).await {
            Ok(()) => return Ok(losses),
            Err(error) if error.kind() == ErrorKind::SessionLost && losses < MAX_LOSSES => {
                println!("{error}");
                println!("resuming after step {}", saved.steps);
            }
            Err(error) => return Err(error),
        }
    }
    unreachable!("the loop ends with a result")
}

#[expect(clippy::print_stdout, reason = "an example prints its results")]
fn main() -> Result<(), Error> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let time: Arc<dyn Clock> = Arc::new(TokioClock::new(Handle::current()));
        let engine = Arc::new(ScriptedEngine::new(Script::default()));
        let faults = Faults::new();
        // The server restarts at the seventh and the twelfth request for a step.
        let step = || Rule::on("/api/v1/optim_step");
        faults.add(step().nth(7), Fault::restart());
        faults.add(step().nth(12), Fault::restart());
        let spawn = Arc::new(TokioSpawn::new(Handle::current()));
        let server = LocalServer::builder(Arc::<ScriptedEngine>::clone(&engine), time, spawn)
            .faults(faults.clone())
            .build()
            .expect("the scripted engine starts");
        let losses = supervise(&server).await?;
        println!("{STEPS} steps are done; the session was lost {losses} times");
        assert!(losses > 0 && faults.counts().iter().all(|count| count.struck == 1));
        // Only the steps since the last checkpoint were repeated.
        let repeated = engine.counts().steps as usize - STEPS;
        assert!(repeated < losses * SAVE_EVERY, "{repeated} repeated steps");
        Ok(())
    })
}
