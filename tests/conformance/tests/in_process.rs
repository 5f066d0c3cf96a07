//! Runs the suite against the embedded server in process, in virtual time and with scripted
//! results, once per server dialect.

use std::sync::Arc;

use http::{HeaderValue, StatusCode};
use tinkers::transport::{BoxFuture, HttpRequest, HttpResponse, Transport, TransportError};
use tinkers::wire::routes;
use tinkers::{BodyFormat, Deduplication, Document, ServiceClient};
use tinkers_conformance::{
    Connect, Context, Limits, ModelKind, Profile, Recorder, Report, Settings, run,
};
use tinkers_e2e::{Harness, SCRIPTED, open};
use tinkers_local::{Dialect, Fault, InProcess, LocalConfig, Quirk, Rule};
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
    suite_with_faults(config, Vec::new(), &[]).await
}

/// Runs the suite against an embedded server that injects these faults. If `only` is not empty,
/// runs only the checks named in `only`.
async fn suite_with_faults(
    config: LocalConfig,
    faults: Vec<(Rule, Fault)>,
    only: &[String],
) -> Report {
    let (harness, _) = Harness::through(config, WithApiKey).await;
    for (rule, fault) in faults {
        harness.faults.add(rule, fault);
    }
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
    run(&context, &*time, Profile::Full, only, limits, |_| ()).await
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

/// Returns the result of the check `sample_saved` on a server that responds to each creation of a
/// sampler from a path with this status. Samplers of unnamed saves work.
async fn sample_saved_with(status: StatusCode) -> Report {
    let mut config = LocalConfig::default();
    // Otherwise the client repeats a creation that gets a 500 for longer than a check may take.
    config.announces_deduplication = false;
    let rule = Rule::on(routes::CREATE_SAMPLING_SESSION).times(100);
    let fault = Fault::status(status, "cannot sample from this path");
    let only = ["sample_saved".to_owned()];
    suite_with_faults(config, vec![(rule, fault)], &only).await
}

#[tokio::test(start_paused = true)]
async fn refusal_to_sample_from_named_weights_is_not_offered() {
    for status in [StatusCode::NOT_FOUND, StatusCode::UNPROCESSABLE_ENTITY] {
        let report = sample_saved_with(status).await;
        assert_eq!(report.rows[0].verdict.name(), "not offered", "{report}");
    }
}

#[tokio::test(start_paused = true)]
async fn negative_control_server_error_is_no_refusal_of_named_weights() {
    for status in [StatusCode::INTERNAL_SERVER_ERROR, StatusCode::FORBIDDEN] {
        let report = sample_saved_with(status).await;
        assert_eq!(report.rows[0].verdict.name(), "FAILED", "{report}");
        let why = report.rows[0].verdict.why();
        assert!(why.contains("cannot sample from this path"), "{report}");
    }
}
