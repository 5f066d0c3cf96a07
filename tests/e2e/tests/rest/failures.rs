//! Rate limits, server errors, lost responses, and servers that lack routes.

use std::time::Duration;

use http::StatusCode;
use serde_json::json;
use tinkers::prelude::*;
use tinkers::rest::AuditEventType;
use tinkers_e2e::{Harness, Setup};
use tinkers_local::{Dialect, Fault, Hint, LocalConfig, Rule};
use tinkers_session::SessionOptions;

use super::{path, saved};

const LIST: &str = "/api/v1/training_runs";

#[tokio::test(start_paused = true)]
async fn list_waits_for_the_retry_delay_of_a_429() {
    let harness = Harness::start().await;
    let rest = harness.service.rest_client();
    harness
        .faults
        .add(Rule::on(LIST), Fault::rate_limited(Hint::Seconds(30)));
    let began = tokio::time::Instant::now();
    rest.list_training_runs().page(0, 20).await.unwrap();
    assert!(began.elapsed() >= Duration::from_secs(30));
    assert_eq!(harness.journal.of(LIST).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn calls_without_retries_end_during_402_and_429_responses() {
    let harness = Harness::start().await;
    let rest = harness.service.rest_client();
    let limit = Duration::from_secs(30);
    for (fault, kinds) in [
        (Fault::payment_required(), &[ErrorKind::Billing][..]),
        (
            Fault::rate_limited(Hint::Seconds(7)),
            &[ErrorKind::RateLimited, ErrorKind::Timeout][..],
        ),
    ] {
        let routes = ["/api/v1/get_server_capabilities", "/api/v1/auth/apikey/me"];
        for route in routes {
            harness.faults.add(Rule::on(route).always(), fault.clone());
        }
        for call in 0..3 {
            let began = tokio::time::Instant::now();
            let error = match call {
                0 => rest.check_access().await.unwrap_err(),
                1 => rest.get_api_key().await.unwrap_err(),
                _ => rest.revoke_api_key().await.unwrap_err(),
            };
            assert!(kinds.contains(&error.kind()), "{error}");
            assert!(began.elapsed() <= limit, "{:?}", began.elapsed());
        }
        harness.faults.clear();
    }
}

#[tokio::test(start_paused = true)]
async fn calls_go_on_after_server_errors() {
    let harness = Harness::start().await;
    let rest = harness.service.rest_client();
    let training = saved(&harness, &["a"]).await;
    let path = path(&training, "a");
    let fail = |route: &str| {
        let down = Fault::status(StatusCode::INTERNAL_SERVER_ERROR, "down");
        harness.faults.add(Rule::on(route).times(2), down);
    };
    let checkpoint = format!("{LIST}/{}/checkpoints/weights/a", training.model_id());
    fail(LIST);
    rest.list_training_runs().page(0, 20).await.unwrap();
    fail(&format!("{checkpoint}/ttl"));
    let hour = Some(Duration::from_secs(3600));
    rest.set_checkpoint_ttl_from_tinker_path(&path, hour)
        .await
        .unwrap();
    fail(&checkpoint);
    rest.delete_checkpoint_from_tinker_path(&path)
        .await
        .unwrap();
    assert_eq!(harness.journal.of(&checkpoint).len(), 3);
}

#[tokio::test(start_paused = true)]
async fn delete_with_a_lost_response_counts_as_deleted() {
    let harness = Harness::start().await;
    let rest = harness.service.rest_client();
    let training = saved(&harness, &["a"]).await;
    let checkpoint = format!("{LIST}/{}/checkpoints/weights/a", training.model_id());
    harness
        .faults
        .add(Rule::on(&*checkpoint), Fault::cut_after());
    rest.delete_checkpoint_from_tinker_path(path(&training, "a"))
        .await
        .unwrap();
    assert_eq!(
        harness.journal.of(&checkpoint).len(),
        2,
        "the repeated request got a 404"
    );
    assert_eq!(harness.engine.counts().deleted, 1);
}

#[tokio::test(start_paused = true)]
async fn publication_with_a_lost_response_succeeds() {
    let harness = Harness::start().await;
    let rest = harness.service.rest_client();
    let training = saved(&harness, &["a"]).await;
    let route = format!(
        "{LIST}/{}/checkpoints/weights/a/publish",
        training.model_id()
    );
    harness.faults.add(Rule::on(&*route), Fault::cut_after());
    rest.publish_checkpoint_from_tinker_path(path(&training, "a"))
        .await
        .unwrap();
    assert_eq!(
        harness.journal.of(&route).len(),
        2,
        "the repeated request got a 409"
    );
    assert!(rest.list_checkpoints(training.model_id()).await.unwrap()[0].public);
}

#[tokio::test(start_paused = true)]
async fn copy_with_a_lost_response_is_not_repeated() {
    let harness = Harness::start().await;
    let rest = harness.service.rest_client();
    let training = saved(&harness, &["a"]).await;
    harness
        .faults
        .add(Rule::on("/api/v1/copy_weights"), Fault::cut_after());
    let error = rest
        .copy_weights(path(&training, "a"))
        .project_id("p")
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.sent()),
        (ErrorKind::OutcomeUnknown, Sent::MaybeSent)
    );
    assert_eq!(harness.journal.of("/api/v1/copy_weights").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn routes_that_a_server_lacks_are_unsupported() {
    let mut config = LocalConfig::default();
    config.dialect = Dialect::skyrl_main();
    let harness = Harness::with(config).await;
    let rest = harness.service.rest_client();
    let training = saved(&harness, &["a"]).await;
    let path = path(&training, "a");
    let errors = [
        rest.publish_checkpoint_from_tinker_path(&path)
            .await
            .unwrap_err(),
        rest.list_sessions().page(0, 9).await.unwrap_err(),
        rest.search_sessions().page(None).await.unwrap_err(),
        rest.copy_weights(&path).project_id("p").await.unwrap_err(),
        rest.admin()
            .get_audit_log(AuditEventType::All, None)
            .await
            .unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("no route"), "{error}");
    }
    let missing = rest.get_training_run("absent").await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound, "{missing}");
}

#[tokio::test(start_paused = true)]
async fn embedded_server_lacks_external_weights() {
    let harness = Harness::start().await;
    let rest = harness.service.rest_client();
    let errors = [
        rest.get_external_weights_urls("tinker://r/external_weights/a")
            .await
            .unwrap_err(),
        rest.start_external_weights_upload("base", LoraConfig::rank(8))
            .await
            .unwrap_err(),
        rest.finish_external_weights_upload("upload-1")
            .await
            .unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn calls_end_at_the_operation_deadline() {
    let options = SessionOptions {
        operation_deadline: Some(Duration::from_secs(20)),
        ..SessionOptions::default()
    };
    let harness = Harness::with(Setup::from(options)).await;
    let rest = harness.service.rest_client();
    let down = Fault::json(StatusCode::BAD_GATEWAY, &json!({ "detail": "down" }));
    harness.faults.add(Rule::on(LIST).times(100), down);
    let began = tokio::time::Instant::now();
    let error = rest.list_training_runs().page(0, 20).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Server, "{error}");
    assert!(began.elapsed() <= Duration::from_secs(20));
    assert_eq!(error.operation(), Some("RestClient.list_training_runs"));
}

#[tokio::test(start_paused = true)]
async fn dropped_call_sends_nothing_more() {
    let harness = Harness::start().await;
    let rest = harness.service.rest_client();
    let down = Fault::status(StatusCode::SERVICE_UNAVAILABLE, "down");
    harness.faults.add(Rule::on(LIST).times(100), down);
    let list = rest.list_training_runs();
    let call = tokio::time::timeout(Duration::from_secs(2), list.page(0, 20)).await;
    assert!(call.is_err(), "the call was dropped while it was retried");
    let sent = harness.journal.of(LIST).len();
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(harness.journal.of(LIST).len(), sent);
    // The limits and connections of the dropped call are free.
    harness.faults.clear();
    rest.list_training_runs().page(0, 20).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn calls_fail_after_the_session_is_closed() {
    let harness = Harness::start().await;
    let rest = harness.service.rest_client();
    harness.close().await;
    let error = rest.list_training_runs().page(0, 20).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.sent()),
        (ErrorKind::Closed, Sent::NotSent)
    );
}
