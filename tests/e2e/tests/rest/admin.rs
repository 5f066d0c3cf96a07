//! The audit log, usage, storage and traces as the hosted service reports them, by injected responses.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::StatusCode;
use serde_json::{Value, json};
use tinkers::prelude::*;
use tinkers::rest::{AuditEventType, UsageInfo};
use tinkers_e2e::{Harness, Setup};
use tinkers_local::{Fault, Rule};

use crate::recorder::Recorder;

fn respond(harness: &Harness, route: &str, body: &Value) {
    harness
        .faults
        .add(Rule::on(route), Fault::json(StatusCode::OK, body));
}

fn trace_of(harness: &Harness) -> String {
    format!(
        "/api/v1/sessions/{}/trace_export",
        harness.service.session_id()
    )
}

#[tokio::test(start_paused = true)]
async fn audit_usage_and_storage_are_decoded() {
    let recorder = Recorder::default();
    let wrap = |direct| recorder.wrap(Arc::new(direct));
    let (harness, _) = Harness::through(Setup::default(), wrap).await;
    let admin = harness.service.rest_client().admin();
    respond(
        &harness,
        "/api/v1/audit",
        &json!({"entries": [{"event": "deleted", "timestamp": "t"}]}),
    );
    let log = admin
        .get_audit_log(AuditEventType::Checkpoints, Some("2026-11-23"))
        .await
        .unwrap();
    assert_eq!(log[0].event, "deleted");
    recorder.last("/api/v1/audit?event_type=checkpoints&day=2026-11-23");

    let event = json!({"bucket_start": "a", "bucket_end": "b", "event_info": {"type": "sampling_sample", "token_count": 5}});
    respond(
        &harness,
        "/api/v1/billing/usage/events",
        &json!({"data": [event]}),
    );
    let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_392_000);
    let usage = admin
        .get_billing_usage(start, start + Duration::from_secs(7200))
        .await
        .unwrap();
    recorder.last("/api/v1/billing/usage/events?starting_on=2026-11-23T00:00:00.000000Z&ending_before=2026-11-23T02:00:00.000000Z");
    assert_eq!(
        usage.data[0].event_info,
        Some(UsageInfo::SamplingSample { token_count: 5 })
    );

    let row =
        json!({"project_id": "p", "checkpoint_count": 1, "size_bytes": 9, "size_gigabytes": 0.1});
    respond(
        &harness,
        "/api/v1/billing/usage/checkpoints/current",
        &json!({"data": [row]}),
    );
    let storage = admin
        .get_current_checkpoint_storage_usage(Some("p"))
        .await
        .unwrap();
    assert_eq!(storage.data[0].size_bytes, 9);
}

#[tokio::test(start_paused = true)]
async fn trace_is_polled_until_it_is_ready() {
    let harness = Harness::start().await;
    let rest = harness.service.rest_client();
    let route = trace_of(&harness);
    let pending = Fault::json(StatusCode::OK, &json!({"status": "pending"}));
    harness.faults.add(Rule::on(&*route).times(3), pending);
    let ready = json!({"status": "ready", "url": "https://files.example/t?sig=s3cret"});
    harness.faults.add(
        Rule::on(&*route).nth(4),
        Fault::json(StatusCode::OK, &ready),
    );
    let url = rest
        .export_session_trace(harness.service.session_id())
        .await
        .unwrap();
    assert!(url.expose().ends_with("s3cret"));
    assert!(!format!("{url:?}").contains("s3cret"));
    assert_eq!(harness.journal.of(&route).len(), 4);
}

#[tokio::test(start_paused = true)]
async fn trace_that_fails_or_is_late_is_an_error() {
    let harness = Harness::start().await;
    let rest = harness.service.rest_client();
    let id = harness.service.session_id();
    let route = trace_of(&harness);
    respond(
        &harness,
        &route,
        &json!({"status": "failed", "error": "no spans"}),
    );
    let error = rest.export_session_trace(id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OperationFailed);
    assert!(error.to_string().contains("no spans"), "{error}");
    harness.faults.clear();
    let pending = Fault::json(StatusCode::OK, &json!({"status": "pending"}));
    harness.faults.add(Rule::on(&*route).times(100), pending);
    let began = tokio::time::Instant::now();
    let late = rest
        .export_session_trace(id)
        .deadline(Duration::from_secs(60))
        .await;
    assert_eq!(late.unwrap_err().kind(), ErrorKind::Timeout);
    assert!(began.elapsed() <= Duration::from_secs(60));
}

#[tokio::test(start_paused = true)]
async fn external_files_and_uploads_hide_their_addresses() {
    let harness = Harness::start().await;
    let rest = harness.service.rest_client();
    let urls = json!({"a.safetensors": "https://files.example/a?sig=s3cret"});
    let route = "/api/v1/training_runs/r/checkpoints/external_weights/a/external_weights_urls";
    respond(&harness, route, &json!({"urls": urls, "expires": "t"}));
    let files = rest
        .get_external_weights_urls("tinker://r/external_weights/a")
        .await
        .unwrap();
    assert_eq!(
        files.urls["a.safetensors"].expose(),
        "https://files.example/a?sig=s3cret"
    );
    respond(
        &harness,
        "/api/v1/external_weights_upload_start",
        &json!({"upload_id": "u", "urls": urls}),
    );
    let upload = rest
        .start_external_weights_upload("base", LoraConfig::rank(8))
        .await
        .unwrap();
    respond(
        &harness,
        "/api/v1/external_weights_upload_finish",
        &json!({"tinker_path": "tinker://r/weights/a"}),
    );
    let path = rest
        .finish_external_weights_upload(&upload.upload_id)
        .await
        .unwrap();
    assert_eq!(path.run_id(), Some("r"));
    assert!(!format!("{files:?} {upload:?}").contains("s3cret"));
}

#[tokio::test(start_paused = true)]
async fn decode_errors_do_not_quote_signed_addresses() {
    let harness = Harness::start().await;
    let rest = harness.service.rest_client();
    let address = "https://files.example/a?sig=s3cret";
    let urls = json!({ "urls": address, "upload_id": "u" });
    let route = "/api/v1/training_runs/r/checkpoints/external_weights/a/external_weights_urls";
    respond(&harness, route, &urls);
    respond(&harness, "/api/v1/external_weights_upload_start", &urls);
    let trace = json!({ "status": "ready", "url": [address] });
    respond(&harness, &trace_of(&harness), &trace);
    let errors = [
        rest.get_external_weights_urls("tinker://r/external_weights/a")
            .await
            .unwrap_err(),
        rest.start_external_weights_upload("base", LoraConfig::rank(8))
            .await
            .unwrap_err(),
        rest.export_session_trace(harness.service.session_id())
            .await
            .unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Protocol);
        let text = format!("{error} {error:?}");
        assert!(text.contains("at line 1 column"), "{text}");
        assert!(!text.contains("s3cret"), "{text}");
    }
}
