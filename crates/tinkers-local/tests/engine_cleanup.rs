//! A property test: the server releases every model and every copy of weights on its engine exactly once, after the last job that
//! uses it.

mod support;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;
use support::{TestServer, backward, create_model, run_until_idle, sample, step, test_server_over};
use tinkers_local::{
    BaseModel, CheckpointRecord, Engine, EngineError, Job, JobCallback, JobId, LocalConfig,
    ScriptedEngine, Work,
};

const PAUSE: Duration = Duration::from_secs(5);

/// An engine that runs a job only when the test says so, and records calls of the server that break the rules for engines, such as
/// two jobs of one model at the same time.
#[derive(Debug, Default)]
struct CheckingEngine {
    inner: Arc<ScriptedEngine>,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    held: Vec<(Job, JobCallback)>,
    created: BTreeSet<String>,
    unloaded: BTreeSet<String>,
    snapshots: BTreeSet<String>,
    violations: Vec<String>,
}

fn model_of(work: &Work) -> Option<&String> {
    match work {
        Work::CreateModel { model, .. }
        | Work::UnloadModel { model }
        | Work::Pass { model, .. }
        | Work::OptimStep { model, .. }
        | Work::Save { model, .. }
        | Work::Snapshot { model, .. } => Some(model),
        _ => None,
    }
}

impl CheckingEngine {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("no test panics with the lock")
    }

    /// Runs one of the jobs that the engine has not run yet. `which` selects the job. Returns `false` if there is no such job.
    fn run_one(&self, which: usize) -> bool {
        let (job, done) = {
            let mut seen = self.seen();
            if seen.held.is_empty() {
                return false;
            }
            let at = which % seen.held.len();
            let (job, done) = seen.held.remove(at);
            match &job.work {
                Work::CreateModel { model, .. } => drop(seen.created.insert(model.clone())),
                Work::Snapshot { sampler, .. } => drop(seen.snapshots.insert(sampler.clone())),
                Work::DropSnapshot { sampler } => drop(seen.snapshots.remove(sampler)),
                _ => {}
            }
            (job, done)
        };
        self.inner.start(job, done);
        true
    }
}

impl Engine for CheckingEngine {
    fn models(&self) -> Vec<BaseModel> {
        self.inner.models()
    }

    fn checkpoints(&self) -> Result<Vec<CheckpointRecord>, EngineError> {
        self.inner.checkpoints()
    }

    fn start(&self, job: Job, done: JobCallback) {
        let mut seen = self.seen();
        if let Some(model) = model_of(&job.work) {
            let busy = seen
                .held
                .iter()
                .any(|(held, _)| model_of(&held.work) == Some(model));
            if busy {
                seen.violations
                    .push(format!("{:?} while {model} is busy", job.work));
            }
            let is_unload = matches!(job.work, Work::UnloadModel { .. });
            if seen.unloaded.contains(model) || (is_unload && !seen.unloaded.insert(model.clone()))
            {
                seen.violations
                    .push(format!("{:?} after it was unloaded", job.work));
            }
        }
        seen.held.push((job, done));
    }

    fn cancel(&self, job: JobId) {
        let found = {
            let mut seen = self.seen();
            let at = seen.held.iter().position(|(held, _)| held.id == job);
            at.map(|at| seen.held.remove(at))
        };
        if let Some((_, done)) = found {
            done.finish(Err(EngineError::user("cancelled")));
        }
    }
}

/// The state of a test client: its newest session, the model in that session, and the last sequence number that it used for the
/// model.
#[derive(Default)]
struct Client {
    session: String,
    model: String,
    last: u64,
}

async fn act(server: &TestServer, engine: &CheckingEngine, client: &mut Client, action: u8) {
    let local = server.local();
    match action {
        0 => {
            client.session = server.create_session().await;
            client.model = format!("{}:train:0", client.session);
            client.last = 0;
            server
                .post("create_model", create_model(&client.session, 0))
                .await;
        }
        1..=4 => {
            client.last += 1;
            let (model, seq_id) = (&client.model, client.last);
            let (route, body) = match action {
                1 => ("forward_backward", backward(model, seq_id)),
                2 => ("optim_step", step(model, seq_id)),
                3 => (
                    "save_weights",
                    json!({ "model_id": model, "seq_id": seq_id, "path": "x" }),
                ),
                _ => (
                    "save_weights_for_sampler",
                    json!({ "model_id": model, "seq_id": seq_id, "sampling_session_seq_id": seq_id }),
                ),
            };
            server.post(route, body).await;
        }
        5 => {
            let sampler = format!("{}:sample:{}", client.session, client.last);
            server
                .post("asample", sample(&sampler, 100 + client.last))
                .await;
        }
        6 => drop(
            server
                .post("unload_model", json!({ "model_id": client.model }))
                .await,
        ),
        7 => local.pause_capacity(PAUSE),
        8 => server.clock.advance(PAUSE),
        9 => local.expire_sessions(),
        10 => local.restart(),
        which => drop(engine.run_one(which.into())),
    }
    run_until_idle().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn server_releases_every_model_and_every_copy_of_weights(actions in prop::collection::vec(0u8..20, 0..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let engine = Arc::new(CheckingEngine::default());
            let runs = Arc::<CheckingEngine>::clone(&engine);
            let server = test_server_over(LocalConfig::default(), runs, Arc::clone(&engine.inner));
            let mut client = Client::default();
            for action in [0].into_iter().chain(actions) {
                act(&server, &engine, &mut client, action).await;
            }
            server.local().expire_sessions();
            server.clock.advance(PAUSE * 40);
            run_until_idle().await;
            while engine.run_one(0) {
                run_until_idle().await;
            }
            let seen = engine.seen();
            assert_eq!(seen.violations, [""; 0]);
            assert_eq!(seen.snapshots, BTreeSet::new());
            let left: Vec<_> = seen.created.difference(&seen.unloaded).collect();
            assert!(left.is_empty(), "{left:?}");
        });
    }
}
