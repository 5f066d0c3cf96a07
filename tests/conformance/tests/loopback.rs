//! Over sockets, in real time, with a real model: what is learnt can be compared here.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;

use tinkers::transport::{BoxFuture, HttpRequest, HttpResponse, Transport, TransportError};
use tinkers::wire::routes;
use tinkers::{ServiceClient, TokioTime};
use tinkers_conformance::{Connect, Context, Limits, Profile, Recorder, Report, Setting, run};
use tinkers_engine::ModelEngine;
use tinkers_local::{BlockingServer, Dialect, LocalConfig, LocalServer, TokioSpawn};

/// The suite over a server of this dialect on a port of its own, with what `between` puts in between, and those checks alone that
/// are named.
fn suite(dialect: Dialect, between: Between, only: &[&str]) -> Report {
    let directory = tempfile::tempdir().expect("a directory for checkpoints");
    let engine = ModelEngine::builtin(directory.path()).expect("the built-in model");
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let server = BlockingServer::start(address, NonZeroUsize::MIN, move |handle| {
        let mut config = LocalConfig::default();
        config.dialect = dialect;
        let time = Arc::new(TokioTime::new(handle.clone()));
        let spawn = Arc::new(TokioSpawn::new(handle.clone()));
        LocalServer::builder(Arc::new(engine), time, spawn)
            .config(config)
            .build()
    })
    .expect("a free loopback port");
    let url = server.url();
    let connect: Connect = Arc::new(move |recorder: Recorder| {
        let builder = ServiceClient::builder()
            .without_environment()
            .base_url(&url)
            .layer_transport(move |below| between(recorder.over(below)));
        Box::pin(builder.connect())
    });
    let context = Context::new(connect, Setting::of("tinkers/tiny"), "test");
    let report = tinkers::block_on(async {
        let service = context.service().await.expect("a session");
        let time = Arc::clone(&service.context().caller().time);
        let limits = Limits::default();
        let only: Vec<String> = only.iter().map(|&name| name.to_owned()).collect();
        run(&context, &*time, Profile::Full, &only, limits, |_| ()).await
    });
    server.shutdown();
    report
}

type Between = fn(Arc<dyn Transport>) -> Arc<dyn Transport>;

/// Takes each forward pass for one that adds gradients, as a client does that knows the JSON form of `forward_backward` alone.
#[derive(Debug)]
struct Confused(Arc<dyn Transport>);

impl Transport for Confused {
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

/// Takes steps of no size, as a server does that forgets to apply them.
#[derive(Debug)]
struct Idle(Arc<dyn Transport>);

impl Transport for Idle {
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

/// How many checks found nothing to check.
fn not_offered(report: &Report) -> usize {
    let rows = report.rows.iter();
    rows.filter(|row| row.verdict.name() == "not offered")
        .count()
}

#[test]
fn the_embedded_server_passes_with_everything_on_offer() {
    let report = suite(Dialect::tinker(), |below| below, &[]);
    assert!(report.holds() && not_offered(&report) == 0, "{report}");
}

#[test]
fn a_dialect_that_no_server_speaks_passes_with_everything_on_offer() {
    let report = suite(Dialect::json_strict(), |below| below, &[]);
    assert!(report.holds(), "{report}");
    assert_eq!(not_offered(&report), 0, "{report}");
}

#[test]
fn a_forward_pass_that_adds_a_gradient_is_found() {
    let between: Between = |below| Arc::new(Confused(below));
    let report = suite(Dialect::json_strict(), between, &["forward"]);
    assert!(!report.holds(), "{report}");
    let row = &report.rows[0];
    assert!(
        row.verdict.why().contains("moved log-probabilities"),
        "{report}"
    );
    assert!(!row.exchanges.is_empty());
}

#[test]
fn steps_that_do_nothing_are_found_and_not_taken_for_a_mock() {
    let between: Between = |below| Arc::new(Idle(below));
    let report = suite(Dialect::tinker(), between, &["train_loss_falls", "order"]);
    assert!(!report.holds(), "{report}");
    let why = report.rows[0].verdict.why();
    assert!(why.contains("moves no log-probability"), "{report}");
}

#[test]
fn a_repeat_that_adds_its_gradient_again_shows_in_the_weights() {
    let said = |dialect| {
        let report = suite(dialect, |below| below, &["idempotent_retry"]);
        assert!(report.holds(), "{report}");
        report.rows[0].verdict.why().to_owned()
    };
    let again = "adds its gradient again";
    assert!(said(Dialect::skyrl()).contains(again));
    assert!(!said(Dialect::skyrl_main()).contains(again));
}
