//! Each option of the builder has an effect that can be seen from outside. A test's name begins with that of its option.

use std::collections::BTreeMap;
use std::future::Future;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tinkers::prelude::*;
use tinkers::transport::{BoxFuture, HttpRequest, HttpResponse, Transport, TransportError};
use tinkers::wire::routes;
use tinkers::{BodyFormat, ServiceClientBuilder};
use tinkers_core::Clock;
use tinkers_e2e::training::datum;
use tinkers_e2e::{PATIENCE, SCRIPTED, Served};
use tinkers_local::{Fault, LocalConfig, Rule};
use tinkers_session::SessionOptions;
use tinkers_transport::TokioClock;
use tokio::io::AsyncReadExt;
use tokio::runtime::Handle;

const HOUR: Duration = Duration::from_secs(3600);

/// What was sent: path, content type, body, and the thread that sent it.
type Sent = (String, Option<String>, Bytes, Option<String>);

/// Records what is sent.
#[derive(Debug, Clone, Default)]
struct Recorder(Arc<Mutex<Vec<Sent>>>);

#[derive(Debug)]
struct Recording {
    inner: Arc<dyn Transport>,
    recorder: Recorder,
}

impl Transport for Recording {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        let kind = request.headers.get("content-type");
        let kind = kind.and_then(|kind| kind.to_str().ok()).map(str::to_owned);
        let thread = std::thread::current().name().map(str::to_owned);
        let sent = (request.path.clone(), kind, request.body.clone(), thread);
        self.recorder.0.lock().unwrap().push(sent);
        self.inner.send(request)
    }
}

impl Recorder {
    fn over(&self, builder: ServiceClientBuilder) -> ServiceClientBuilder {
        let recorder = self.clone();
        builder.layer_transport(move |inner| Arc::new(Recording { inner, recorder }))
    }

    fn sent(&self, path: &str) -> Sent {
        let sent = self.0.lock().unwrap();
        let found = sent.iter().find(|sent| sent.0 == path);
        found.unwrap_or_else(|| panic!("{path} was sent")).clone()
    }

    /// The body of the request that creates the session.
    fn session(&self) -> Value {
        serde_json::from_slice(&self.sent(routes::CREATE_SESSION).2).expect("JSON")
    }
}

/// The server, what was sent, and a client with an option.
async fn with(
    option: impl FnOnce(ServiceClientBuilder) -> ServiceClientBuilder,
) -> (Served, Recorder, ServiceClient) {
    let served = Served::start(LocalConfig::default());
    let recorder = Recorder::default();
    let builder = option(recorder.over(served.connecting()));
    let service = builder.connect().await.expect("connected");
    (served, recorder, service)
}

/// Waits until `is_so`.
pub(crate) async fn until(is_so: impl Fn() -> bool + Sync) {
    soon(async {
        let time: Arc<dyn Clock> = Arc::new(TokioClock::new(Handle::current()));
        while !is_so() {
            time.sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

async fn soon<T: Send>(work: impl Future<Output = T> + Send) -> T {
    let time: Arc<dyn Clock> = Arc::new(TokioClock::new(Handle::current()));
    let at = time.now().after(PATIENCE);
    time.deadline(at, work).await.expect("in time")
}

#[test]
fn every_option_of_the_builder_has_a_test() {
    let builder = include_str!("../../../crates/tinkers/src/builder.rs");
    let tests = [
        include_str!("options_builder.rs"),
        include_str!("options_limits.rs"),
        include_str!("io_threads.rs"),
    ]
    .concat();
    let mut count = 0;
    for text in builder.split("    pub fn ").skip(1) {
        let name = text.split('(').next().unwrap();
        let is_tested = ["fn ", "async fn "]
            .iter()
            .any(|fn_| tests.contains(&format!("\n{fn_}{name}_")));
        assert!(is_tested, "{name}");
        count += 1;
    }
    assert!(count > 15, "{count} options were found");
    // The session's own options: a new one does not compile here before it is listed.
    let SessionOptions {
        tags: _,
        user_metadata: _,
        project_id: _,
        display_name: _,
        progress_deadline: _,
        operation_deadline: _,
        bodies: _,
        limits: _,
        heartbeat_period: _,
        // Not in the builder; its tests are those of the heartbeat.
        expiry: _,
    } = SessionOptions::default();
}

#[tokio::test]
async fn base_url_is_where_requests_go() {
    let (served, _, _service) = with(|builder| builder).await;
    assert_eq!(served.parts.journal.of(routes::CREATE_SESSION).len(), 1);
    served.stop();
}

#[tokio::test]
async fn api_key_lets_the_client_in() {
    let served = Served::start(LocalConfig::default().with_api_key("tml-key"));
    let error = served.client().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Authentication);
    let builder = served.connecting().api_key("tml-key");
    builder.connect().await.expect("the key is taken");
    served.stop();
}

#[tokio::test]
async fn tags_reach_the_session() {
    let (served, sent, _service) = with(|builder| builder.tags(["one", "two"])).await;
    assert_eq!(sent.session()["tags"], serde_json::json!(["one", "two"]));
    served.stop();
}

#[tokio::test]
async fn project_id_reaches_the_session() {
    let (served, sent, _service) = with(|builder| builder.project_id("p-1")).await;
    assert_eq!(sent.session()["project_id"], "p-1");
    served.stop();
}

#[tokio::test]
async fn display_name_reaches_the_session() {
    let (served, sent, _service) = with(|builder| builder.display_name("mine")).await;
    assert_eq!(sent.session()["display_name"], "mine");
    served.stop();
}

#[tokio::test]
async fn user_metadata_reaches_the_session() {
    let notes = BTreeMap::from([("run".to_owned(), "7".to_owned())]);
    let (served, sent, _service) = with(|builder| builder.user_metadata(notes)).await;
    assert_eq!(sent.session()["user_metadata"]["run"], "7");
    served.stop();
}

#[tokio::test]
async fn layer_transport_sees_what_is_sent() {
    let (served, sent, _service) = with(|builder| builder).await;
    sent.sent(routes::CLIENT_CONFIG);
    served.stop();
}

#[tokio::test]
async fn body_format_decides_the_bodies_of_passes() {
    for (format, kind) in [
        (BodyFormat::Json, "application/json"),
        (BodyFormat::Protobuf, "application/x-protobuf"),
    ] {
        let (served, sent, service) = with(|builder| builder.body_format(format)).await;
        let training = service.lora_training(SCRIPTED).create().await.unwrap();
        let pass = training.forward_backward([datum(1)], LossFn::CrossEntropy);
        pass.await.unwrap();
        let (_, sent, ..) = sent.sent(routes::FORWARD_BACKWARD);
        assert_eq!(sent.as_deref(), Some(kind));
        served.stop();
    }
}

/// A client whose samples are never answered.
async fn unanswered(
    option: impl FnOnce(ServiceClientBuilder) -> ServiceClientBuilder,
) -> (Served, Error) {
    let (served, _, service) = with(option).await;
    let sampler = service.sampling(SCRIPTED).create().await.unwrap();
    let silent = Fault::delay(HOUR);
    served.parts.faults.add(Rule::on(routes::ASAMPLE), silent);
    let error = soon(sampler.sample(vec![1]).send()).await.unwrap_err();
    (served, error)
}

#[tokio::test]
async fn progress_deadline_ends_an_operation_without_news() {
    let deadline = Duration::from_millis(200);
    let (served, error) = unanswered(|builder| builder.progress_deadline(deadline)).await;
    assert_eq!(error.kind(), ErrorKind::Stalled, "{error}");
    served.stop();
}

#[tokio::test]
async fn operation_deadline_ends_an_operation() {
    let deadline = Duration::from_millis(200);
    let (served, error) = unanswered(|builder| builder.operation_deadline(deadline)).await;
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    served.stop();
}

#[tokio::test]
async fn heartbeat_period_is_the_pause_between_heartbeats() {
    let period = Duration::from_millis(10);
    let (served, _, _service) = with(|builder| builder.heartbeat_period(period)).await;
    let beats = || served.parts.journal.of(routes::SESSION_HEARTBEAT).len();
    // At the usual period this would take longer than the test waits.
    until(|| beats() >= 20).await;
    served.stop();
}

#[test]
fn runtime_does_the_work() {
    let mine = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("mine")
        .enable_all()
        .build()
        .unwrap();
    let handle = mine.handle().clone();
    let (served, sent, service) = tinkers::block_on(with(|builder| builder.runtime(handle)));
    let (_, _, _, thread) = sent.sent(routes::CREATE_SESSION);
    assert_eq!(thread.as_deref(), Some("mine"));
    drop(service);
    served.stop();
}

#[tokio::test]
async fn http2_prior_knowledge_opens_with_its_preface() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let builder = ServiceClient::builder().without_environment().base_url(url);
    let connecting = tokio::spawn(builder.http2_prior_knowledge().connect());
    let (mut socket, _) = soon(listener.accept()).await.unwrap();
    let mut preface = [0; 14];
    soon(socket.read_exact(&mut preface)).await.unwrap();
    assert_eq!(&preface, b"PRI * HTTP/2.0");
    drop((socket, listener));
    soon(connecting).await.unwrap().unwrap_err();
}

#[tokio::test]
async fn root_certificate_pem_is_read() {
    let builder = ServiceClient::builder()
        .without_environment()
        .base_url("https://127.0.0.1:9");
    let error = builder.root_certificate_pem("no certificate").connect();
    let error = error.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
}

/// An argument that has no meaning to the test runner but that a child has it.
const CHILD: &str = "nothing-but-a-child-of-the-test";

/// In the child: connects with and without the environment, and prints the tags of its sessions.
#[expect(clippy::print_stdout, reason = "read by its parent")]
fn connects_with_an_environment() {
    let served = Served::start(LocalConfig::default());
    for takes_it in [true, false] {
        let recorder = Recorder::default();
        let mut builder = ServiceClient::builder().base_url(&served.url);
        if !takes_it {
            builder = builder.without_environment();
        }
        tinkers::block_on(recorder.over(builder).connect()).expect("connected");
        println!("tags {takes_it} {}", recorder.session()["tags"]);
    }
    served.stop();
}

#[test]
fn without_environment_takes_nothing_from_it() {
    if std::env::args().any(|argument| argument == CHILD) {
        return connects_with_an_environment();
    }
    let own = "options_builder::without_environment_takes_nothing_from_it";
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", own, "--nocapture", "--skip", CHILD])
        .env("TINKER_TAGS", "from-outside")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout).into_owned();
    assert!(said.contains(r#"tags true ["from-outside"]"#), "{said}");
    assert!(said.contains("tags false []"), "{said}");
}
