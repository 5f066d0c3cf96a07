//! Runs the suite against the embedded server over loopback sockets, in real time and with the
//! built-in model.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;

use tinkers::transport::{BoxFuture, HttpRequest, HttpResponse, Transport, TransportError};
use tinkers::wire::routes;
use tinkers::{ServiceClient, ServiceClientBuilder, TokioClock};
use tinkers_conformance::{
    Connect, Context, Limits, Profile, Recorder, Report, Settings, checks, run,
};
use tinkers_engine::ModelEngine;
use tinkers_local::{BlockingServer, Dialect, LocalConfig, LocalServer, Quirk, TokioSpawn};

/// Runs the conformance suite against an embedded server that imitates `dialect`, another
/// implementation of the API, as [`suite_of`] does.
fn suite(dialect: Dialect, layer: Layer, only: &[&str]) -> Report {
    let mut config = LocalConfig::default();
    config.dialect = dialect;
    suite_of(config, layer, only)
}

/// Runs the conformance suite against an embedded server with this configuration. Sends the
/// requests through the transport that `layer` returns. If `only` is not empty, runs only the
/// checks named in `only`.
fn suite_of(config: LocalConfig, layer: Layer, only: &[&str]) -> Report {
    let embedded = Embedded::start(config);
    let settings = Settings::new("tinkers/tiny");
    let report = embedded.run(settings, Profile::Full, layer, only);
    embedded.server.shutdown();
    report
}

fn client(url: &str) -> ServiceClientBuilder {
    ServiceClient::builder()
        .without_environment()
        .base_url(url)
        .api_key("tml-conformance")
        .default_header("x-request-id", "conformance")
}

/// An embedded server with the built-in model at a free loopback port.
pub(crate) struct Embedded {
    pub(crate) server: BlockingServer,
    /// The directory of the checkpoints.
    _directory: tempfile::TempDir,
}

impl Embedded {
    pub(crate) fn start(config: LocalConfig) -> Self {
        let directory = tempfile::tempdir().expect("a directory for checkpoints");
        let engine = ModelEngine::builtin(directory.path()).expect("the built-in model");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let server = BlockingServer::start(address, NonZeroUsize::MIN, move |handle| {
            let time = Arc::new(TokioClock::new(handle.clone()));
            let spawn = Arc::new(TokioSpawn::new(handle.clone()));
            LocalServer::builder(Arc::new(engine), time, spawn)
                .config(config)
                .build()
        })
        .expect("a free loopback port");
        Self {
            server,
            _directory: directory,
        }
    }

    /// Returns the settings of a client of the server.
    pub(crate) fn client(&self) -> ServiceClientBuilder {
        client(&self.server.url())
    }

    /// Runs the checks of a profile, as [`suite_of`] does.
    pub(crate) fn run(
        &self,
        settings: Settings,
        profile: Profile,
        layer: Layer,
        only: &[&str],
    ) -> Report {
        let url = self.server.url();
        let connect: Connect = Arc::new(move |recorder: Recorder| {
            let builder = client(&url).layer_transport(move |inner| layer(recorder.wrap(inner)));
            Box::pin(builder.connect())
        });
        let context = Context::new(connect, settings, "test");
        tinkers::block_on(async {
            let service = context.service().await.expect("a session");
            let time = Arc::clone(&service.context().caller().time);
            let limits = Limits::default();
            let only: Vec<String> = only.iter().map(|&name| name.to_owned()).collect();
            run(&context, &*time, profile, &only, limits, |_| ()).await
        })
    }
}

pub(crate) type Layer = fn(Arc<dyn Transport>) -> Arc<dyn Transport>;

/// A negative control, with which the suite must fail: a transport that turns forward passes into
/// forward-backward passes.
#[derive(Debug)]
struct ForwardAsBackward(Arc<dyn Transport>);

impl Transport for ForwardAsBackward {
    fn send(
        &self,
        mut request: HttpRequest,
    ) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        if request.path == routes::FORWARD {
            request.path = routes::FORWARD_BACKWARD.to_owned();
            let body = String::from_utf8_lossy(&request.body);
            request.body = body
                .replacen("forward_input", "forward_backward_input", 1)
                .into();
        }
        self.0.send(request)
    }
}

/// A negative control, with which the suite must fail: a transport that sets the learning rate of
/// optimizer steps to zero.
#[derive(Debug)]
struct ZeroLearningRate(Arc<dyn Transport>);

impl Transport for ZeroLearningRate {
    fn send(
        &self,
        mut request: HttpRequest,
    ) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        if request.path == routes::OPTIM_STEP {
            let body = String::from_utf8_lossy(&request.body);
            request.body = body
                .replace("\"learning_rate\":0.01", "\"learning_rate\":0")
                .into();
        }
        self.0.send(request)
    }
}

/// Returns the number of checks that were reported as not offered by the server.
fn not_offered(report: &Report) -> usize {
    let rows = report.rows.iter();
    rows.filter(|row| row.verdict.name() == "not offered")
        .count()
}

/// Returns whether all checks of the profile `core` passed. They are the first ones.
fn passes_core(report: &Report) -> bool {
    let core = checks()
        .iter()
        .filter(|check| check.profile == Profile::Core);
    let mut rows = report.rows.iter().zip(core);
    rows.all(|(row, check)| row.check == check.name && row.verdict.name() == "passed")
}

#[test]
fn server_of_the_tinker_dialect_passes_all_conformance_checks() {
    let report = suite(Dialect::tinker(), |inner| inner, &[]);
    assert!(report.passed() && not_offered(&report) == 0, "{report}");
}

#[test]
fn server_of_the_json_strict_dialect_passes_all_conformance_checks() {
    let report = suite(Dialect::json_strict(), |inner| inner, &[]);
    assert!(report.passed(), "{report}");
    assert_eq!(not_offered(&report), 0, "{report}");
}

#[test]
fn server_of_the_hatchery_dialect_passes_all_core_checks() {
    let mut config = LocalConfig::default();
    config.set_hatchery();
    let report = suite_of(config, |inner| inner, &[]);
    assert!(passes_core(&report), "{report}");
}

#[test]
fn server_of_the_twinkle_dialect_passes_all_core_checks() {
    let mut config = LocalConfig::default();
    config.set_twinkle();
    let report = suite_of(config, |inner| inner, &[]);
    assert!(passes_core(&report), "{report}");
}

#[test]
fn refused_step_proves_that_a_forward_pass_adds_no_gradients() {
    for quirk in [Quirk::StepNeedsGradients, Quirk::StepFailsWithoutGradients] {
        let config = LocalConfig::default().with_quirk(quirk);
        let report = suite_of(config, |inner| inner, &["forward", "order"]);
        assert!(report.passed(), "{report}");
        let why = report.rows[0].verdict.why();
        assert!(
            why.contains("a step without gradients is refused"),
            "{report}"
        );
    }
}

#[test]
fn negative_control_forward_pass_that_adds_gradients_is_detected() {
    let layer: Layer = |inner| Arc::new(ForwardAsBackward(inner));
    let report = suite(Dialect::json_strict(), layer, &["forward"]);
    assert!(!report.passed(), "{report}");
    let row = &report.rows[0];
    assert!(
        row.verdict.why().contains("changed log-probabilities"),
        "{report}"
    );
    assert!(!row.exchanges.is_empty());
}

#[test]
fn negative_control_optimizer_step_without_effect_is_detected() {
    let layer: Layer = |inner| Arc::new(ZeroLearningRate(inner));
    let report = suite(Dialect::tinker(), layer, &["train_loss_falls", "order"]);
    assert!(!report.passed(), "{report}");
    let why = report.rows[0].verdict.why();
    assert!(why.contains("changes no log-probability"), "{report}");
}

#[test]
fn negative_control_duplicate_request_applied_twice_is_detected() {
    let note = |dialect| {
        let report = suite(dialect, |inner| inner, &["idempotent_retry"]);
        assert!(report.passed(), "{report}");
        report.rows[0].verdict.why().to_owned()
    };
    let again = "adds its gradients again";
    assert!(note(Dialect::skyrl()).contains(again));
    assert!(!note(Dialect::skyrl_main()).contains(again));
}
