//! The effect of each option of the client builder. The name of each test begins with the name of
//! the option.

use std::collections::BTreeMap;
use std::future::Future;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tinkers::auth::Credential;
use tinkers::prelude::*;
use tinkers::wire::routes;
use tinkers::{BodyFormat, FinishReason, HttpVersions, ServiceClientBuilder};
use tinkers_core::Clock;
use tinkers_e2e::training::datum;
use tinkers_e2e::{SCRIPTED, SocketServer, TEST_TIMEOUT};
use tinkers_local::{AccessControl, Fault, LocalConfig, Rule};
use tinkers_session::SessionOptions;
use tinkers_transport::TokioClock;
use tokio::io::AsyncReadExt;
use tokio::runtime::Handle;

use crate::recorder::Recorder;

const HOUR: Duration = Duration::from_secs(3600);

/// Adds a transport that records all requests in `recorder` to the client that `builder` describes.
fn record(recorder: &Recorder, builder: ServiceClientBuilder) -> ServiceClientBuilder {
    let recorder = recorder.clone();
    builder.layer_transport(move |inner| Arc::new(recorder.wrap(inner)))
}

/// Returns the JSON body of the request that created the session.
fn session_body(recorder: &Recorder) -> Value {
    recorder.last_json(routes::CREATE_SESSION)
}

/// Starts a server, and connects a client whose requests are recorded. `option` sets the builder
/// option under test.
async fn connect_with(
    option: impl FnOnce(ServiceClientBuilder) -> ServiceClientBuilder,
) -> (SocketServer, Recorder, ServiceClient) {
    let server = SocketServer::start(LocalConfig::default());
    let recorder = Recorder::default();
    let builder = option(record(&recorder, server.client_builder()));
    let service = builder.connect().await.expect("connected");
    (server, recorder, service)
}

/// Waits until `condition` returns true, for at most [`TEST_TIMEOUT`].
pub(crate) async fn wait_until(condition: impl Fn() -> bool + Sync) {
    with_timeout(async {
        let time: Arc<dyn Clock> = Arc::new(TokioClock::new(Handle::current()));
        while !condition() {
            time.sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// Returns the output of `future`, which must complete within [`TEST_TIMEOUT`].
pub(crate) async fn with_timeout<T: Send>(future: impl Future<Output = T> + Send) -> T {
    let time: Arc<dyn Clock> = Arc::new(TokioClock::new(Handle::current()));
    let at = time.now().after(TEST_TIMEOUT);
    let output = time.deadline(at, future).await;
    output.expect("the future ends in time")
}

#[test]
fn every_option_of_the_builder_has_a_test() {
    let builder = include_str!("../../../crates/tinkers/src/builder.rs");
    let tests = [
        include_str!("options_builder.rs"),
        include_str!("options_limits.rs"),
        include_str!("options_network.rs"),
        include_str!("io_threads.rs"),
    ]
    .concat();
    let mut count = 0;
    for text in builder.split("    pub fn ").skip(1) {
        let name = text.split('(').next().unwrap();
        let is_tested = ["fn ", "async fn "]
            .iter()
            .any(|fn_| tests.contains(&format!("\n{fn_}{name}_")));
        assert!(is_tested, "{name} has no test");
        count += 1;
    }
    assert!(count > 15, "{count} options were found");
    // When a field is added to `SessionOptions`, this pattern does not compile until the field is
    // listed.
    let SessionOptions {
        tags: _,
        user_metadata: _,
        project_id: _,
        display_name: _,
        progress_deadline: _,
        operation_deadline: _,
        body_format: _,
        limits: _,
        heartbeat_period: _,
        // The builder has no such option. The heartbeat tests cover the field.
        expiry: _,
        telemetry: _,
        timeouts: _,
        retry_policy: _,
    } = SessionOptions::default();
}

#[tokio::test]
async fn base_url_determines_where_requests_are_sent() {
    let (server, _, _service) = connect_with(|builder| builder).await;
    assert_eq!(server.journal.of(routes::CREATE_SESSION).len(), 1);
    server.stop();
}

#[tokio::test]
async fn api_key_authenticates_the_client() {
    let server = SocketServer::start(LocalConfig::default().with_api_key("tml-key"));
    let error = server.client().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Authentication);
    let builder = server.client_builder().api_key("tml-key");
    builder.connect().await.expect("the key is accepted");
    server.stop();
}

#[tokio::test]
async fn credential_is_sent_in_the_header_of_its_kind() {
    let access = AccessControl::default()
        .with_key("token")
        .with_bearer_only();
    let mut config = LocalConfig::default();
    config.access = access;
    let server = SocketServer::start(config);
    let error = server
        .client_builder()
        .api_key("token")
        .connect()
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Authentication);
    let builder = server
        .client_builder()
        .credential(Credential::bearer("token"));
    builder.connect().await.expect("the token is accepted");
    let gateway = Credential::header("authorization", "Bearer");
    let error = server
        .client_builder()
        .credential(gateway)
        .connect()
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Authentication);
    server.stop();
}

#[tokio::test]
async fn tags_are_sent_with_the_session() {
    let (server, recorder, _service) = connect_with(|builder| builder.tags(["one", "two"])).await;
    assert_eq!(
        session_body(&recorder)["tags"],
        serde_json::json!(["one", "two"])
    );
    server.stop();
}

#[tokio::test]
async fn project_id_is_sent_with_the_session() {
    let (server, recorder, _service) = connect_with(|builder| builder.project_id("p-1")).await;
    assert_eq!(session_body(&recorder)["project_id"], "p-1");
    server.stop();
}

#[tokio::test]
async fn display_name_is_sent_with_the_session() {
    let (server, recorder, _service) = connect_with(|builder| builder.display_name("mine")).await;
    assert_eq!(session_body(&recorder)["display_name"], "mine");
    server.stop();
}

#[tokio::test]
async fn user_metadata_is_sent_with_the_session() {
    let notes = BTreeMap::from([("run".to_owned(), "7".to_owned())]);
    let (server, recorder, _service) = connect_with(|builder| builder.user_metadata(notes)).await;
    assert_eq!(session_body(&recorder)["user_metadata"]["run"], "7");
    server.stop();
}

#[tokio::test]
async fn layer_transport_wraps_the_transport_of_all_requests() {
    let (server, recorder, _service) = connect_with(|builder| builder).await;
    recorder.last(routes::CLIENT_CONFIG);
    server.stop();
}

#[tokio::test]
async fn body_format_sets_the_content_type_of_training_requests() {
    for (format, content_type) in [
        (BodyFormat::Json, "application/json"),
        (BodyFormat::Protobuf, "application/x-protobuf"),
    ] {
        let (server, recorder, service) = connect_with(|builder| builder.body_format(format)).await;
        let training = service.create_lora_training_client(SCRIPTED).await.unwrap();
        let pass = training.forward_backward([datum(1)], LossFn::CrossEntropy);
        pass.await.unwrap();
        let request = recorder.last(routes::FORWARD_BACKWARD);
        assert_eq!(request.content_type.as_deref(), Some(content_type));
        server.stop();
    }
}

/// Returns the error of a sample that a client with the given options requests from a server that
/// never responds.
async fn error_without_response(
    option: impl FnOnce(ServiceClientBuilder) -> ServiceClientBuilder,
) -> (SocketServer, Error) {
    let (server, _, service) = connect_with(option).await;
    let sampler = service.create_sampling_client(SCRIPTED).await.unwrap();
    let silent = Fault::delay(HOUR);
    server.faults.add(Rule::on(routes::ASAMPLE), silent);
    let error = with_timeout(sampler.sample(vec![1]).send())
        .await
        .unwrap_err();
    (server, error)
}

#[tokio::test]
async fn progress_deadline_ends_an_operation_without_progress() {
    let deadline = Duration::from_millis(200);
    let (server, error) =
        error_without_response(|builder| builder.progress_deadline(deadline)).await;
    assert_eq!(error.kind(), ErrorKind::Stalled, "{error}");
    server.stop();
}

#[tokio::test]
async fn operation_deadline_ends_an_operation() {
    let deadline = Duration::from_millis(200);
    let (server, error) =
        error_without_response(|builder| builder.operation_deadline(deadline)).await;
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    server.stop();
}

#[tokio::test]
async fn telemetry_reports_the_start_and_the_end_of_the_session() {
    for is_on in [true, false] {
        let (server, _, service) = connect_with(|builder| builder.telemetry(is_on)).await;
        service.close(FinishReason::Success, None).await.unwrap();
        let reports = server.journal.of(routes::TELEMETRY).len();
        assert_eq!(reports, usize::from(is_on));
        assert_eq!(service.telemetry().sent, 2 * u64::from(is_on));
        server.stop();
    }
}

#[tokio::test]
async fn heartbeat_period_sets_the_interval_of_heartbeats() {
    let period = Duration::from_millis(10);
    let (server, _, _service) = connect_with(|builder| builder.heartbeat_period(period)).await;
    let beats = || server.journal.of(routes::SESSION_HEARTBEAT).len();
    // With the default period, twenty heartbeats would take longer than the timeout.
    wait_until(|| beats() >= 20).await;
    server.stop();
}

#[test]
fn runtime_runs_the_requests_of_the_client() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("test-io")
        .enable_all()
        .build()
        .unwrap();
    let handle = runtime.handle().clone();
    let (server, recorder, service) =
        tinkers::block_on(connect_with(|builder| builder.runtime(handle)));
    let request = recorder.last(routes::CREATE_SESSION);
    assert_eq!(request.thread.as_deref(), Some("test-io"));
    drop(service);
    server.stop();
}

#[tokio::test]
async fn http2_prior_knowledge_sends_the_http2_preface() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let builder = ServiceClient::builder().without_environment().base_url(url);
    let connecting = tokio::spawn(
        builder
            .http_versions(HttpVersions::Http2PriorKnowledge)
            .connect(),
    );
    let (mut socket, _) = with_timeout(listener.accept()).await.unwrap();
    let mut preface = [0; 14];
    with_timeout(socket.read_exact(&mut preface)).await.unwrap();
    assert_eq!(&preface, b"PRI * HTTP/2.0");
    drop((socket, listener));
    with_timeout(connecting).await.unwrap().unwrap_err();
}

#[tokio::test]
async fn root_certificate_pem_is_rejected_if_invalid() {
    let builder = ServiceClient::builder()
        .without_environment()
        .base_url("https://127.0.0.1:9");
    let error = builder.root_certificate_pem("no certificate").connect();
    let error = error.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
}

/// The argument that marks a process as the child process of the test. The test runner ignores it.
const CHILD: &str = "child-process-of-the-test";

/// Connects a client that reads environment variables and a client that ignores them, and prints
/// the session tags of both clients. The test runs this function in a child process, so that it can
/// set the variables.
#[expect(clippy::print_stdout, reason = "the parent process reads the output")]
fn print_session_tags() {
    let server = SocketServer::start(LocalConfig::default());
    for with_environment in [true, false] {
        let recorder = Recorder::default();
        let mut builder = ServiceClient::builder().base_url(&server.url);
        if !with_environment {
            builder = builder.without_environment();
        }
        tinkers::block_on(record(&recorder, builder).connect()).expect("connected");
        println!(
            "tags {with_environment} {}",
            session_body(&recorder)["tags"]
        );
    }
    server.stop();
}

#[test]
fn without_environment_ignores_variables() {
    if std::env::args().any(|argument| argument == CHILD) {
        return print_session_tags();
    }
    let test_name = "options_builder::without_environment_ignores_variables";
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test_name, "--nocapture", "--skip", CHILD])
        .env("TINKER_TAGS", "from-outside")
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&child.stdout).into_owned();
    assert!(output.contains(r#"tags true ["from-outside"]"#), "{output}");
    assert!(output.contains("tags false []"), "{output}");
}
