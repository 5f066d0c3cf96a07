//! Runs the profile `rest` against the embedded server over loopback sockets.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use tinkers::transport::{BoxFuture, HttpRequest, HttpResponse, Transport, TransportError};
use tinkers_conformance::{Profile, Report, Settings, Verdict, checks};
use tinkers_local::{AccessControl, Dialect, LocalConfig};

use super::loopback::{Embedded, Layer};

/// The project of the checks. The embedded server has every project.
const PROJECT: &str = "conformance";

fn settings() -> Settings {
    let mut settings = Settings::new("tinkers/tiny");
    settings.project = Some(PROJECT.to_owned());
    settings
}

/// Runs the checks named in `only`, or all, on a server with this configuration.
fn suite(config: LocalConfig, layer: Layer, only: &[&str]) -> Report {
    let embedded = Embedded::start(config);
    let report = embedded.run(settings(), Profile::Rest, layer, only);
    embedded.server.shutdown();
    report
}

/// Returns the names of the checks with this verdict.
fn with(report: &Report, verdict: &str) -> Vec<&'static str> {
    let rows = report.rows.iter();
    rows.filter(|row| row.verdict.name() == verdict)
        .map(|row| row.check)
        .collect()
}

/// Returns the notes of the checks that passed.
fn notes(report: &Report) -> Vec<(&'static str, &str)> {
    let passed = report.rows.iter().filter_map(|row| match &row.verdict {
        Verdict::Passed(note) if !note.is_empty() => Some((row.check, &**note)),
        _ => None,
    });
    passed.collect()
}

#[test]
fn embedded_server_passes_the_rest_profile() {
    let embedded = Embedded::start(LocalConfig::default());
    let report = embedded.run(settings(), Profile::Rest, |inner| inner, &[]);
    assert!(report.passed(), "{report}");
    let all = checks().iter();
    let all = all.filter(|check| check.profile == Profile::Rest).count();
    assert_eq!(report.rows.len(), all, "no check of another profile runs");
    // Without an exchange of keys, the server does not know who the user is.
    assert_eq!(with(&report, "not offered"), ["whoami"], "{report}");
    assert_eq!(notes(&report), [], "{report}");

    let left = tinkers::block_on(async {
        let rest = embedded.client().rest_client().expect("valid settings");
        let left = rest.list_user_checkpoints().page(0, 10).await;
        left.expect("the list of checkpoints").checkpoints
    });
    assert_eq!(left, [], "the checks delete their checkpoints");
    embedded.server.shutdown();
}

#[test]
fn whoami_passes_on_a_server_that_exchanges_keys() {
    let mut config = LocalConfig::default();
    config.access = AccessControl::default()
        .with_key("tml-conformance")
        .with_token_exchange(Duration::from_secs(600));
    let report = suite(config, |inner| inner, &["whoami"]);
    assert_eq!(report.rows[0].verdict, Verdict::Passed(String::new()));
}

#[test]
fn checks_that_need_a_project_are_skipped_without_one() {
    let embedded = Embedded::start(LocalConfig::default());
    let settings = Settings::new("tinkers/tiny");
    let only = ["session_project", "copy", "storage"];
    let report = embedded.run(settings, Profile::Rest, |inner| inner, &only);
    assert_eq!(with(&report, "not offered"), ["session_project", "copy"]);
    assert!(report.passed(), "{report}");
    embedded.server.shutdown();
}

/// Checks the verdicts on a server of another implementation: the checks that pass and those that
/// fail. All others are not offered.
fn expect(config: LocalConfig, passed: &[&str], failed: &[&str]) {
    let report = suite(config, |inner| inner, &[]);
    assert_eq!(with(&report, "passed"), passed, "{report}");
    assert_eq!(with(&report, "FAILED"), failed, "{report}");
}

#[test]
fn skyrl_dialect_offers_samplers_runs_and_their_checkpoints() {
    let mut config = LocalConfig::default();
    config.dialect = Dialect::skyrl();
    let passed = [
        "sampler_info",
        "run_info",
        "list_runs",
        "run_checkpoints",
        "weights_info",
    ];
    expect(config, &passed, &[]);
}

#[test]
fn tuft_dialect_has_no_metadata_of_checkpoints() {
    let mut config = LocalConfig::default();
    config.dialect = Dialect::tuft();
    let report = suite(config, |inner| inner, &[]);
    assert!(report.passed(), "{report}");
    let expected = ["search_checkpoints", "whoami"];
    assert_eq!(with(&report, "not offered"), expected, "{report}");
    let [(check, note)] = notes(&report)[..] else {
        panic!("{report}");
    };
    assert_eq!(check, "search_sessions");
    assert!(note.starts_with("cannot finish the session"), "{note}");
}

#[test]
fn hatchery_dialect_lists_paths_without_a_kind() {
    let mut config = LocalConfig::default();
    config.set_hatchery();
    expect(config, &["weights_info"], &["run_checkpoints"]);
}

#[test]
fn twinkle_dialect_lists_paths_of_another_scheme() {
    let mut config = LocalConfig::default();
    config.set_twinkle();
    let (passed, failed) = (
        ["list_runs", "weights_info"],
        ["run_info", "run_checkpoints"],
    );
    expect(config, &passed, &failed);
}

/// A negative control, with which a check must fail: a transport that answers requests with this
/// method and this end of the path itself.
#[derive(Debug)]
struct Answered {
    inner: Arc<dyn Transport>,
    method: Method,
    end: &'static str,
    status: StatusCode,
    body: &'static str,
}

impl Transport for Answered {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        let path = request.path.split('?').next().unwrap_or_default();
        if request.method != self.method || !path.ends_with(self.end) {
            return self.inner.send(request);
        }
        let (status, body) = (self.status, Bytes::from_static(self.body.as_bytes()));
        Box::pin(async move {
            Ok(HttpResponse {
                status,
                headers: HeaderMap::new(),
                body,
            })
        })
    }
}

/// Returns a layer that answers requests itself.
macro_rules! answer {
    ($method:ident $end:literal $status:ident $body:literal) => {
        |inner| {
            Arc::new(Answered {
                inner,
                method: Method::$method,
                end: $end,
                status: StatusCode::$status,
                body: $body,
            })
        }
    };
}

#[test]
fn negative_control_call_without_effect_is_detected() {
    let cases: [(&str, Layer, &str); 6] = [
        (
            "publish",
            answer!(POST "/publish" OK "{}"),
            "public: expected true",
        ),
        (
            "publish",
            answer!(DELETE "/publish" OK "{}"),
            "public: expected false",
        ),
        ("ttl", answer!(PUT "/ttl" OK "{}"), "expires_at is missing"),
        (
            "session_project",
            answer!(PUT "/project" OK "{}"),
            "is not among the first",
        ),
        (
            "delete",
            answer!(DELETE "" OK "{}"),
            "the checkpoints after the deletion",
        ),
        (
            "delete_missing",
            answer!(DELETE "" OK "{}"),
            "a second deletion succeeds",
        ),
    ];
    detects(cases);
}

#[test]
fn negative_control_wrong_response_is_detected() {
    let cases: [(&str, Layer, &str); 6] = [
        (
            "search_sessions",
            answer!(POST "/sessions/search" OK r#"{"sessions": []}"#),
            "the sessions with the id",
        ),
        (
            "list_sessions",
            answer!(GET "/sessions" OK r#"{"sessions": ["a"]}"#),
            "is not among the first 1 items",
        ),
        (
            "weights_info",
            answer!(POST "/weights_info" OK r#"{"base_model": "other"}"#),
            "base_model: expected",
        ),
        (
            "usage",
            answer!(GET "/events" OK r#"{"data": [{"bucket_start": "now", "bucket_end": "then"}]}"#),
            "bucket_start: expected an RFC 3339 time",
        ),
        (
            "storage",
            answer!(GET "/current" OK r#"{"data": []}"#),
            "the number and bytes with one more",
        ),
        (
            "trace",
            answer!(GET "/trace_export" OK r#"{"status": "failed", "error": "no spans"}"#),
            "no spans",
        ),
    ];
    detects(cases);
}

/// Checks that these checks fail with these reasons when a transport answers in place of the server.
fn detects<const N: usize>(cases: [(&str, Layer, &str); N]) {
    let embedded = Embedded::start(LocalConfig::default());
    for (check, layer, expected) in cases {
        let report = embedded.run(settings(), Profile::Rest, layer, &[check]);
        let row = report.rows.iter().find(|row| row.check == check);
        let verdict = &row.expect("the check has run").verdict;
        assert_eq!(verdict.name(), "FAILED", "{report}");
        assert!(verdict.why().contains(expected), "{report}");
    }
    embedded.server.shutdown();
}

#[test]
fn address_of_a_trace_is_not_in_the_report() {
    let layer: Layer = answer!(GET "/trace_export" OK
        r#"{"status": "ready", "url": "http://127.0.0.1:1/s3cret"}"#);
    let report = suite(LocalConfig::default(), layer, &["trace"]);
    assert_eq!(with(&report, "FAILED"), ["trace"]);
    assert!(!report.rows[0].exchanges.is_empty());
    assert!(!format!("{report} {}", report.to_json()).contains("s3cret"));
}

#[test]
fn late_audit_log_passes_with_a_note() {
    let layer: Layer = answer!(GET "/audit" OK r#"{"entries": []}"#);
    let report = suite(LocalConfig::default(), layer, &["audit"]);
    let expected = [(
        "audit",
        "the log contains 0 of 4 entries of the kind all yet",
    )];
    assert_eq!(notes(&report), expected, "{report}");
}

#[test]
fn missing_route_is_not_offered_and_a_refusal_is_a_failure() {
    let cases: [(Layer, &str); 5] = [
        (
            answer!(GET "/audit" NOT_FOUND r#"{"detail": "Not Found"}"#),
            "not offered",
        ),
        (answer!(GET "/audit" METHOD_NOT_ALLOWED ""), "not offered"),
        (answer!(GET "/audit" NOT_IMPLEMENTED ""), "not offered"),
        (
            answer!(GET "/audit" FORBIDDEN r#"{"detail": "not yours"}"#),
            "FAILED",
        ),
        (
            answer!(GET "/audit" NOT_FOUND r#"{"detail": "no log of this day"}"#),
            "FAILED",
        ),
    ];
    let embedded = Embedded::start(LocalConfig::default());
    for (layer, expected) in cases {
        let report = embedded.run(settings(), Profile::Rest, layer, &["audit"]);
        assert_eq!(report.rows[0].verdict.name(), expected, "{report}");
    }
    embedded.server.shutdown();
}

#[test]
fn checkpoint_that_cannot_be_deleted_is_reported() {
    let layer: Layer = answer!(DELETE "" METHOD_NOT_ALLOWED "");
    let report = suite(LocalConfig::default(), layer, &["weights_info"]);
    assert!(report.passed(), "{report}");
    let why = report.rows[0].verdict.why();
    assert!(why.starts_with("not deleted: "), "{report}");
    assert_eq!(why.matches("tinker://").count(), 2, "{report}");
}
