//! An in-process server on a manual clock, with helper functions that send requests and read responses.

#![expect(dead_code, reason = "each test file uses only some of the helpers")]

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;

use bytes::Bytes;
use http::{HeaderValue, Method};
use serde_json::{Value, json};
use tinkers_core::{HttpRequest, HttpResponse, ManualClock, RouteClass, Transport};
use tinkers_local::{
    BaseModel, CheckpointRecord, Engine, EngineError, Faults, InProcess, Job, JobCallback, JobId,
    Journal, LocalConfig, LocalServer, Script, ScriptedEngine, TokioSpawn, Work,
};

pub(crate) const BASE: &str = "tinkers/scripted";

/// A server in the test process, with its clock, engine, fault script and journal.
pub(crate) struct TestServer {
    pub(crate) clock: ManualClock,
    pub(crate) engine: Arc<ScriptedEngine>,
    pub(crate) client: InProcess,
    pub(crate) faults: Faults,
    pub(crate) journal: Journal,
}

/// Starts a server with the default configuration, whose engine returns fixed results.
pub(crate) fn test_server() -> TestServer {
    test_server_with(LocalConfig::default(), Script::default())
}

pub(crate) fn test_server_with(config: LocalConfig, script: Script) -> TestServer {
    let engine = Arc::new(ScriptedEngine::new(script));
    test_server_over(config, Arc::<ScriptedEngine>::clone(&engine), engine)
}

pub(crate) fn test_server_over(
    config: LocalConfig,
    runs: Arc<dyn Engine>,
    engine: Arc<ScriptedEngine>,
) -> TestServer {
    let clock = ManualClock::new();
    let (faults, journal) = (Faults::new(), Journal::new());
    let spawn = Arc::new(TokioSpawn::new(tokio::runtime::Handle::current()));
    let server = LocalServer::builder(runs, Arc::new(clock.clone()), spawn)
        .config(config)
        .faults(faults.clone())
        .journal(journal.clone())
        .build()
        .expect("the scripted engine opens");
    TestServer {
        clock,
        engine,
        client: InProcess::new(server),
        faults,
        journal,
    }
}

/// A response of the test server. Its body is `null` unless it is JSON.
#[derive(Debug, Clone)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) body: Value,
    pub(crate) raw: HttpResponse,
}

impl Response {
    pub(crate) fn new(raw: HttpResponse) -> Self {
        Self {
            status: raw.status.as_u16(),
            body: serde_json::from_slice(&raw.body).unwrap_or(Value::Null),
            raw,
        }
    }

    /// Returns the body of the response. Panics unless the status is 200.
    pub(crate) fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{}", self.body);
        self.body
    }

    /// Returns the request id in the response to an accepted request. Panics if the response contains none.
    pub(crate) fn id(self) -> String {
        let body = self.ok();
        body["request_id"]
            .as_str()
            .unwrap_or_else(|| panic!("no request id: {body}"))
            .to_owned()
    }

    /// Asserts that the error text of the response contains `part`.
    pub(crate) fn assert_reason(&self, part: &str) {
        assert!(self.reason().contains(part), "{}", self.reason());
    }

    /// Returns the error text of the response to a failed request.
    pub(crate) fn reason(&self) -> String {
        tinkers_wire::error_text(&self.raw.body).unwrap_or_default()
    }
}

impl TestServer {
    pub(crate) const fn local(&self) -> &LocalServer {
        self.client.server()
    }

    pub(crate) fn config(&self) -> &LocalConfig {
        self.local().config()
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        body: impl Into<Bytes>,
        headers: &[(&'static str, &str)],
    ) -> Response {
        let mut request = HttpRequest::new(method, path, RouteClass::Rest);
        request.body = body.into();
        for (name, value) in headers {
            request
                .headers
                .insert(*name, HeaderValue::from_str(value).expect("a header"));
        }
        Response::new(self.client.send(request).await.expect("a response"))
    }

    pub(crate) async fn post(&self, route: &str, body: Value) -> Response {
        self.send(
            Method::POST,
            &format!("/api/v1/{route}"),
            body.to_string(),
            &[],
        )
        .await
    }

    /// Submits a request and returns its request id. Panics if the request is not accepted.
    pub(crate) async fn submit(&self, route: &str, body: Value) -> String {
        self.post(route, body).await.id()
    }

    /// Sends a POST request and returns the body of the response. Panics unless the status is 200.
    pub(crate) async fn call(&self, route: &str, body: Value) -> Value {
        self.post(route, body).await.ok()
    }

    pub(crate) async fn get(&self, route: &str) -> Response {
        self.send(Method::GET, &format!("/api/v1/{route}"), "", &[])
            .await
    }

    pub(crate) async fn delete(&self, route: &str) -> Response {
        self.send(Method::DELETE, &format!("/api/v1/{route}"), "", &[])
            .await
    }

    /// Waits for the result of an operation and returns it.
    pub(crate) async fn result(&self, id: &str) -> Value {
        self.poll(id).await.ok()
    }

    /// Returns the result of an operation that has ended. Panics if the operation has not ended, instead of waiting forever on the
    /// manual clock.
    pub(crate) async fn finished_result(&self, id: &str) -> Value {
        tokio::select! {
            biased;
            response = self.poll(id) => response.ok(),
            () = run_until_idle() => panic!("{id} is still pending"),
        }
    }

    pub(crate) async fn poll(&self, id: &str) -> Response {
        self.post(
            "retrieve_future",
            json!({ "request_id": id, "allow_metadata_only": true }),
        )
        .await
    }

    pub(crate) async fn create_session(&self) -> String {
        let created = self.post(
            "create_session",
            json!({ "tags": [], "user_metadata": {}, "sdk_version": "0.38.0" }),
        );
        created.await.ok()["session_id"]
            .as_str()
            .expect("an id")
            .to_owned()
    }

    /// Creates a session with a model, and returns the id of the model.
    pub(crate) async fn create_model(&self) -> String {
        let session = self.create_session().await;
        self.create_model_in(&session, 0).await
    }

    pub(crate) async fn create_model_in(&self, session: &str, number: u64) -> String {
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

impl TestServer {
    /// Creates a session and a sampling session that samples from the base model. Returns the id of the sampling session.
    pub(crate) async fn create_sampler(&self) -> String {
        let session = self.create_session().await;
        let body =
            json!({ "session_id": session, "sampling_session_seq_id": 0, "base_model": BASE });
        let created = self.call("create_sampling_session", body).await;
        let id = created["sampling_session_id"].as_str();
        id.expect("an id").to_owned()
    }

    /// Finishes a session.
    pub(crate) async fn finish(&self, session: &str) {
        let reason = json!({ "reason": { "type": "success" }, "detail": null });
        self.call(&format!("sessions/{session}/finish"), reason)
            .await;
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

/// An engine that holds every job until the test runs it or fails it.
#[derive(Debug, Default)]
pub(crate) struct HeldEngine {
    inner: Arc<ScriptedEngine>,
    held: Mutex<Vec<(Job, JobCallback)>>,
}

impl HeldEngine {
    /// Returns descriptions of the jobs that the engine has not run yet, from the oldest to the newest.
    pub(crate) fn held_jobs(&self) -> Vec<String> {
        self.lock()
            .iter()
            .map(|(job, _)| describe(&job.work))
            .collect()
    }

    /// Runs the oldest job that the engine has not run yet, and returns its description.
    pub(crate) fn run_next(&self) -> String {
        let (job, done) = self.lock().remove(0);
        let name = describe(&job.work);
        self.inner.start(job, done);
        name
    }

    /// Fails the oldest job that the engine has not run yet, with `error`.
    pub(crate) fn fail_next(&self, error: EngineError) {
        let (_, done) = self.lock().remove(0);
        done.finish(Err(error));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(Job, JobCallback)>> {
        self.held.lock().expect("no test panics with the lock")
    }
}

/// Returns a short description of the work of a job. It contains the first token of a forward or backward pass, or the learning
/// rate of an optimizer step.
fn describe(work: &Work) -> String {
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
        Work::CopyCheckpoint { source, .. } => format!("copy {}", source.name()),
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

    fn start(&self, job: Job, done: JobCallback) {
        self.lock().push((job, done));
    }

    fn cancel(&self, job: JobId) {
        let found = {
            let mut jobs = self.lock();
            let at = jobs.iter().position(|(held, _)| held.id == job);
            at.map(|at| jobs.remove(at))
        };
        if let Some((_, done)) = found {
            done.finish(Err(EngineError::user("cancelled")));
        }
    }
}

/// Starts a server whose engine, a [`HeldEngine`], runs a job only when the test says so.
pub(crate) fn held_server() -> (TestServer, Arc<HeldEngine>) {
    held_server_with(LocalConfig::default())
}

pub(crate) fn held_server_with(config: LocalConfig) -> (TestServer, Arc<HeldEngine>) {
    let held = Arc::new(HeldEngine::default());
    let engine = Arc::clone(&held.inner);
    let server = test_server_over(config, Arc::<HeldEngine>::clone(&held), engine);
    (server, held)
}

/// Creates a session with a model on a server whose engine is `held`, and runs the job of the creation. Returns the ids of the
/// session and of the model.
pub(crate) async fn held_model(server: &TestServer, held: &HeldEngine) -> (String, String) {
    let session = server.create_session().await;
    let create = server
        .post("create_model", create_model(&session, 0))
        .await
        .id();
    assert_eq!(held.run_next(), "create");
    server.result(&create).await;
    let model = format!("{session}:train:0");
    (session, model)
}

/// Returns the ids of all checkpoints that the server lists.
pub(crate) async fn checkpoints(server: &TestServer) -> Vec<String> {
    let list = server.get("checkpoints").await.ok();
    let all = list["checkpoints"].as_array().expect("a list").iter();
    all.map(|one| one["checkpoint_id"].as_str().expect("an id").to_owned())
        .collect()
}

/// Runs all other tasks, then polls the future `work` once. Returns whether the future is still pending.
pub(crate) async fn is_pending<F: Future + Unpin>(work: &mut F) -> bool {
    run_until_idle().await;
    std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut *work).poll(cx).is_pending())).await
}

/// Yields to the runtime until no other task can make progress.
pub(crate) async fn run_until_idle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}
