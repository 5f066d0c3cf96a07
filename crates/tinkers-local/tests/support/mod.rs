//! A server in process on a clock that stands still, and short ways to talk to it.

#![expect(dead_code, reason = "each test file uses its own part")]

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;

use bytes::Bytes;
use http::{HeaderValue, Method};
use serde_json::{Value, json};
use tinkers_core::{HttpRequest, HttpResponse, ManualClock, RouteClass, Transport};
use tinkers_local::{
    BaseModel, CheckpointRecord, Done, Engine, EngineError, Faults, InProcess, Job, JobId, Journal,
    LocalConfig, LocalServer, Script, ScriptedEngine, TokioSpawn, Work,
};

pub(crate) const BASE: &str = "tinkers/scripted";

/// A server with everything at hand.
pub(crate) struct World {
    pub(crate) clock: ManualClock,
    pub(crate) engine: Arc<ScriptedEngine>,
    pub(crate) client: InProcess,
    pub(crate) faults: Faults,
    pub(crate) journal: Journal,
}

/// A server over the scripted engine.
pub(crate) fn world() -> World {
    world_with(LocalConfig::default(), Script::default())
}

pub(crate) fn world_with(config: LocalConfig, script: Script) -> World {
    let engine = Arc::new(ScriptedEngine::new(script));
    build(config, Arc::<ScriptedEngine>::clone(&engine), engine)
}

pub(crate) fn build(
    config: LocalConfig,
    runs: Arc<dyn Engine>,
    engine: Arc<ScriptedEngine>,
) -> World {
    let clock = ManualClock::new();
    let (faults, journal) = (Faults::new(), Journal::new());
    let spawn = Arc::new(TokioSpawn::new(tokio::runtime::Handle::current()));
    let server = LocalServer::builder(runs, Arc::new(clock.clone()), spawn)
        .config(config)
        .faults(faults.clone())
        .journal(journal.clone())
        .build()
        .expect("the scripted engine has no trouble");
    World {
        clock,
        engine,
        client: InProcess::new(server),
        faults,
        journal,
    }
}

/// An answer, its body read as JSON where it is that.
#[derive(Debug, Clone)]
pub(crate) struct Got {
    pub(crate) status: u16,
    pub(crate) body: Value,
    pub(crate) raw: HttpResponse,
}

impl Got {
    pub(crate) fn of(raw: HttpResponse) -> Self {
        Self {
            status: raw.status.as_u16(),
            body: serde_json::from_slice(&raw.body).unwrap_or(Value::Null),
            raw,
        }
    }

    /// The body of a 200.
    pub(crate) fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{}", self.body);
        self.body
    }

    /// The request id of a promise.
    pub(crate) fn id(self) -> String {
        let body = self.ok();
        body["request_id"]
            .as_str()
            .unwrap_or_else(|| panic!("no promise: {body}"))
            .to_owned()
    }

    /// The reason of a refusal.
    pub(crate) fn reason(&self) -> String {
        tinkers_wire::error_text(&self.raw.body).unwrap_or_default()
    }
}

impl World {
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        body: impl Into<Bytes>,
        headers: &[(&'static str, &str)],
    ) -> Got {
        let mut request = HttpRequest::new(method, path, RouteClass::Rest);
        request.body = body.into();
        for (name, value) in headers {
            request
                .headers
                .insert(*name, HeaderValue::from_str(value).expect("a header"));
        }
        Got::of(self.client.send(request).await.expect("an answer"))
    }

    pub(crate) async fn post(&self, route: &str, body: Value) -> Got {
        self.send(
            Method::POST,
            &format!("/api/v1/{route}"),
            body.to_string(),
            &[],
        )
        .await
    }

    pub(crate) async fn get(&self, route: &str) -> Got {
        self.send(Method::GET, &format!("/api/v1/{route}"), "", &[])
            .await
    }

    pub(crate) async fn delete(&self, route: &str) -> Got {
        self.send(Method::DELETE, &format!("/api/v1/{route}"), "", &[])
            .await
    }

    /// The result of an operation.
    pub(crate) async fn result(&self, id: &str) -> Value {
        self.poll(id).await.ok()
    }

    /// The result of an operation that has ended; a poll would wait for ever on a clock that stands still.
    pub(crate) async fn ended(&self, id: &str) -> Value {
        tokio::select! {
            biased;
            got = self.poll(id) => got.ok(),
            () = settle() => panic!("{id} has not ended"),
        }
    }

    pub(crate) async fn poll(&self, id: &str) -> Got {
        self.post(
            "retrieve_future",
            json!({ "request_id": id, "allow_metadata_only": true }),
        )
        .await
    }

    pub(crate) async fn session(&self) -> String {
        let created = self.post(
            "create_session",
            json!({ "tags": [], "user_metadata": {}, "sdk_version": "0.38.0" }),
        );
        created.await.ok()["session_id"]
            .as_str()
            .expect("an id")
            .to_owned()
    }

    /// A model in a session of its own.
    pub(crate) async fn model(&self) -> String {
        let session = self.session().await;
        self.model_in(&session, 0).await
    }

    pub(crate) async fn model_in(&self, session: &str, number: u64) -> String {
        let id = self
            .post("create_model", create_model(session, number))
            .await
            .id();
        self.result(&id).await["model_id"]
            .as_str()
            .expect("an id")
            .to_owned()
    }
}

pub(crate) fn create_model(session: &str, number: u64) -> Value {
    json!({ "session_id": session, "model_seq_id": number, "base_model": BASE, "lora_config": { "rank": 8 } })
}

pub(crate) fn datum() -> Value {
    json!({
        "model_input": { "chunks": [{ "type": "encoded_text", "tokens": [1, 2, 3] }] },
        "loss_fn_inputs": {
            "target_tokens": { "data": [2, 3, 4], "dtype": "int64", "shape": [3] },
            "weights": { "data": [1.0, 1.0, 1.0], "dtype": "float32", "shape": [3] },
        },
    })
}

pub(crate) fn backward(model: &str, seq_id: u64) -> Value {
    json!({
        "model_id": model,
        "seq_id": seq_id,
        "forward_backward_input": { "data": [datum()], "loss_fn": "cross_entropy" },
    })
}

pub(crate) fn step(model: &str, seq_id: u64) -> Value {
    json!({ "model_id": model, "seq_id": seq_id, "adam_params": { "learning_rate": 0.1 } })
}

pub(crate) fn sample(sampler: &str, seq_id: u64) -> Value {
    json!({
        "sampling_session_id": sampler,
        "seq_id": seq_id,
        "num_samples": 2,
        "prompt": { "chunks": [{ "type": "encoded_text", "tokens": [5, 6] }] },
        "sampling_params": { "max_tokens": 4, "stop": "x" },
    })
}

/// An engine that holds every job until it is told to go on with it.
#[derive(Debug, Default)]
pub(crate) struct HeldEngine {
    inner: Arc<ScriptedEngine>,
    held: Mutex<Vec<(Job, Done)>>,
}

impl HeldEngine {
    /// What is held, in words, in the order of starting.
    pub(crate) fn held(&self) -> Vec<String> {
        self.jobs().iter().map(|(job, _)| name(&job.work)).collect()
    }

    /// Goes on with the job that was started first.
    pub(crate) fn go(&self) -> String {
        let (job, done) = self.jobs().remove(0);
        let name = name(&job.work);
        self.inner.start(job, done);
        name
    }

    /// Lets the job that was started first fail.
    pub(crate) fn fail(&self, error: EngineError) {
        let (_, done) = self.jobs().remove(0);
        done.finish(Err(error));
    }

    fn jobs(&self) -> std::sync::MutexGuard<'_, Vec<(Job, Done)>> {
        self.held.lock().expect("no test panics with it")
    }
}

/// A job in words: passes by their first token, steps by their learning rate.
fn name(work: &Work) -> String {
    match work {
        Work::CreateModel { .. } => "create".to_owned(),
        Work::Pass { data, .. } => {
            let tokens = data[0].model_input.tokens().unwrap_or_default();
            format!("pass {}", tokens[0])
        }
        Work::OptimStep { params, .. } => format!("step {}", params.learning_rate),
        Work::UnloadModel { .. } => "unload".to_owned(),
        Work::Snapshot { .. } => "snapshot".to_owned(),
        Work::DropSnapshot { .. } => "drop snapshot".to_owned(),
        Work::Save { record, .. } => format!("save {}", record.path.name()),
        Work::DeleteCheckpoint { path } => format!("delete {}", path.name()),
        Work::Sample { .. } => "sample".to_owned(),
        other => format!("{other:?}"),
    }
}

impl Engine for HeldEngine {
    fn models(&self) -> Vec<BaseModel> {
        self.inner.models()
    }

    fn checkpoints(&self) -> Result<Vec<CheckpointRecord>, EngineError> {
        self.inner.checkpoints()
    }

    fn start(&self, job: Job, done: Done) {
        self.jobs().push((job, done));
    }

    fn cancel(&self, job: JobId) {
        let found = {
            let mut jobs = self.jobs();
            let at = jobs.iter().position(|(held, _)| held.id == job);
            at.map(|at| jobs.remove(at))
        };
        if let Some((_, done)) = found {
            done.finish(Err(EngineError::user("cancelled")));
        }
    }
}

/// A server whose jobs go on only when told to.
pub(crate) fn held_world() -> (World, Arc<HeldEngine>) {
    held_world_with(LocalConfig::default())
}

pub(crate) fn held_world_with(config: LocalConfig) -> (World, Arc<HeldEngine>) {
    let held = Arc::new(HeldEngine::default());
    let engine = Arc::clone(&held.inner);
    let world = build(config, Arc::<HeldEngine>::clone(&held), engine);
    (world, held)
}

/// A session without an end and a model in it that has been made.
pub(crate) async fn held_model(world: &World, held: &HeldEngine) -> (String, String) {
    let session = world.session().await;
    let create = world
        .post("create_model", create_model(&session, 0))
        .await
        .id();
    assert_eq!(held.go(), "create");
    world.result(&create).await;
    let model = format!("{session}:train:0");
    (session, model)
}

/// What `world` lists as checkpoints.
pub(crate) async fn checkpoints(world: &World) -> Vec<String> {
    let list = world.get("checkpoints").await.ok();
    let all = list["checkpoints"].as_array().expect("a list").iter();
    all.map(|one| one["checkpoint_id"].as_str().expect("an id").to_owned())
        .collect()
}

/// Whether `work` is still waiting.
pub(crate) async fn is_pending<F: Future + Unpin>(work: &mut F) -> bool {
    settle().await;
    std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut *work).poll(cx).is_pending())).await
}

/// Lets every task do what it can.
pub(crate) async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}
