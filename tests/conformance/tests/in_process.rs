//! In this process, in virtual time, over canned results: the server's own dialect, and copies of others.

use std::sync::Arc;

use http::HeaderValue;
use tinkers::transport::{BoxFuture, HttpRequest, HttpResponse, Transport, TransportError};
use tinkers::{BodyFormat, Deduplication, Document, ServiceClient};
use tinkers_conformance::{
    Connect, Context, Engine, Limits, Profile, Recorder, Report, Setting, run,
};
use tinkers_e2e::{InMemory, SCRIPTED, open};
use tinkers_local::{Dialect, InProcess, LocalConfig};
use tinkers_session::SessionOptions;

/// Some servers want a key, whichever it is.
#[derive(Debug)]
struct Keyed(InProcess);

impl Transport for Keyed {
    fn send(
        &self,
        mut request: HttpRequest,
    ) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        let key = HeaderValue::from_static("tml-conformance");
        request.headers.insert("x-api-key", key);
        self.0.send(request)
    }
}

async fn suite(dialect: Dialect) -> Report {
    let mut config = LocalConfig::default();
    config.dialect = dialect;
    let world = InMemory::through(config, |direct| Arc::new(Keyed(direct))).await;
    let server = world.server.clone();
    let connect: Connect = Arc::new(move |recorder: Recorder| {
        let transport = recorder.over(Arc::new(Keyed(InProcess::new(server.clone()))));
        Box::pin(async move {
            let session = open(transport, SessionOptions::default()).await?;
            Ok(ServiceClient::over(session))
        })
    });
    let mut setting = Setting::of(SCRIPTED);
    setting.rank = 4;
    setting.engine = Engine::Mock;
    let context = Context::new(connect, setting, "test");
    let time = Arc::clone(world.server.time());
    let limits = Limits::default();
    run(&context, &*time, Profile::Full, &[], limits, |_| ()).await
}

/// What the client took the server for.
fn found(report: &Report) -> (BodyFormat, Document, Deduplication) {
    let profile = report.profile.as_ref().expect("a session");
    (profile.bodies, profile.document, profile.deduplicates)
}

#[tokio::test(start_paused = true)]
async fn the_embedded_server_passes() {
    let report = suite(Dialect::tinker()).await;
    assert!(report.holds(), "{report}");
    let expected = (
        BodyFormat::Protobuf,
        Document::NotAsked,
        Deduplication::Everything,
    );
    assert_eq!(found(&report), expected);
}

#[tokio::test(start_paused = true)]
async fn a_dialect_that_no_server_speaks_passes() {
    let report = suite(Dialect::json_strict()).await;
    assert!(report.holds(), "{report}");
    let (bodies, document, _) = found(&report);
    assert_eq!((bodies, document), (BodyFormat::Json, Document::Absent));
}

#[tokio::test(start_paused = true)]
async fn a_copy_of_the_skyrl_package_passes() {
    let report = suite(Dialect::skyrl()).await;
    assert!(report.holds(), "{report}");
    let expected = (BodyFormat::Json, Document::Read, Deduplication::Unknown);
    assert_eq!(found(&report), expected);
}

#[tokio::test(start_paused = true)]
async fn a_copy_of_skyrls_main_branch_passes() {
    let report = suite(Dialect::skyrl_main()).await;
    assert!(report.holds(), "{report}");
    let expected = (
        BodyFormat::Protobuf,
        Document::Read,
        Deduplication::PassesAndSteps,
    );
    assert_eq!(found(&report), expected);
}

#[tokio::test(start_paused = true)]
async fn a_copy_of_tuft_passes() {
    let report = suite(Dialect::tuft()).await;
    assert!(report.holds(), "{report}");
    let expected = (BodyFormat::Protobuf, Document::Read, Deduplication::Unknown);
    assert_eq!(found(&report), expected);
}
