//! Runs the suite against the embedded server in process, in virtual time and with scripted
//! results, once per server dialect.

use std::sync::Arc;

use http::HeaderValue;
use tinkers::transport::{BoxFuture, HttpRequest, HttpResponse, Transport, TransportError};
use tinkers::{BodyFormat, Deduplication, Document, ServiceClient};
use tinkers_conformance::{
    Connect, Context, Limits, ModelKind, Profile, Recorder, Report, Settings, run,
};
use tinkers_e2e::{Harness, SCRIPTED, open};
use tinkers_local::{Dialect, InProcess, LocalConfig, Quirk};
use tinkers_session::SessionOptions;

/// A transport that adds an API key and a request id to each request, because the embedded server
/// imitates other servers, some of which require them.
#[derive(Debug)]
struct WithApiKey(InProcess);

impl Transport for WithApiKey {
    fn send(
        &self,
        mut request: HttpRequest,
    ) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        let key = HeaderValue::from_static("tml-conformance");
        request.headers.insert("x-api-key", key);
        let id = HeaderValue::from_static("conformance");
        request.headers.insert("x-request-id", id);
        self.0.send(request)
    }
}

async fn suite(dialect: Dialect) -> Report {
    let mut config = LocalConfig::default();
    config.dialect = dialect;
    suite_of(config).await
}

async fn suite_of(config: LocalConfig) -> Report {
    let (harness, _) = Harness::through(config, WithApiKey).await;
    let server = harness.server.clone();
    let connect: Connect = Arc::new(move |recorder: Recorder| {
        let transport = recorder.wrap(Arc::new(WithApiKey(InProcess::new(server.clone()))));
        Box::pin(async move {
            let session = open(transport, SessionOptions::default()).await?;
            Ok(ServiceClient::from_session(session))
        })
    });
    let mut settings = Settings::new(SCRIPTED);
    settings.rank = 4;
    settings.model_kind = ModelKind::Mock;
    let context = Context::new(connect, settings, "test");
    let time = Arc::clone(harness.server.time());
    let limits = Limits::default();
    run(&context, &*time, Profile::Full, &[], limits, |_| ()).await
}

/// Returns the properties of the server that the client detected during the run: the body format,
/// whether there is an OpenAPI document, and whether the server deduplicates requests.
fn detected(report: &Report) -> (BodyFormat, Document, Deduplication) {
    let profile = report.profile.as_ref().expect("a session");
    (profile.body_format, profile.document, profile.deduplicates)
}

#[tokio::test(start_paused = true)]
async fn in_process_server_of_the_tinker_dialect_passes_all_checks() {
    let report = suite(Dialect::tinker()).await;
    assert!(report.passed(), "{report}");
    let expected = (
        BodyFormat::Protobuf,
        Document::NotAsked,
        Deduplication::Everything,
    );
    assert_eq!(detected(&report), expected);
}

#[tokio::test(start_paused = true)]
async fn in_process_server_of_the_json_strict_dialect_passes_all_checks() {
    let report = suite(Dialect::json_strict()).await;
    assert!(report.passed(), "{report}");
    let (bodies, document, _) = detected(&report);
    assert_eq!((bodies, document), (BodyFormat::Json, Document::Absent));
}

#[tokio::test(start_paused = true)]
async fn in_process_server_of_the_skyrl_dialect_passes_all_checks() {
    let report = suite(Dialect::skyrl()).await;
    assert!(report.passed(), "{report}");
    let expected = (BodyFormat::Json, Document::Read, Deduplication::Unknown);
    assert_eq!(detected(&report), expected);
}

#[tokio::test(start_paused = true)]
async fn in_process_server_of_the_skyrl_main_dialect_passes_all_checks() {
    let report = suite(Dialect::skyrl_main()).await;
    assert!(report.passed(), "{report}");
    let expected = (
        BodyFormat::Protobuf,
        Document::Read,
        Deduplication::PassesAndSteps,
    );
    assert_eq!(detected(&report), expected);
}

#[tokio::test(start_paused = true)]
async fn in_process_server_of_the_tuft_dialect_passes_all_checks() {
    let report = suite(Dialect::tuft()).await;
    assert!(report.passed(), "{report}");
    let expected = (BodyFormat::Protobuf, Document::Read, Deduplication::Unknown);
    assert_eq!(detected(&report), expected);
}

#[tokio::test(start_paused = true)]
async fn in_process_server_of_the_hatchery_dialect_passes_core_checks() {
    let mut config = LocalConfig::default();
    config.set_hatchery();
    let report = suite_of(config).await;
    let mut core = report.rows.iter().take(16);
    assert!(core.all(|row| row.verdict.name() != "FAILED"), "{report}");
    let expected = (BodyFormat::Json, Document::Read, Deduplication::Unknown);
    assert_eq!(detected(&report), expected);
}

#[tokio::test(start_paused = true)]
async fn in_process_server_of_the_twinkle_dialect_passes_core_checks() {
    let mut config = LocalConfig::default();
    config.set_twinkle();
    let report = suite_of(config).await;
    let mut core = report.rows.iter().take(16);
    assert!(core.all(|row| row.verdict.name() != "FAILED"), "{report}");
    let expected = (BodyFormat::Json, Document::Read, Deduplication::Unknown);
    assert_eq!(detected(&report), expected);
}

#[tokio::test(start_paused = true)]
async fn server_that_rejects_steps_without_gradients_passes_all_checks() {
    let config = LocalConfig::default().with_quirk(Quirk::StepNeedsGradients);
    let report = suite_of(config).await;
    assert!(report.passed(), "{report}");
}
