//! Invalid arguments, which are refused before anything is sent.

use std::time::{Duration, SystemTime};

use tinkers::prelude::*;
use tinkers::rest::{AuditEventType, CheckpointFilter, OwnerFilter};
use tinkers_e2e::{Harness, Setup};
use tinkers_session::SessionOptions;

#[tokio::test(start_paused = true)]
async fn invalid_arguments_name_the_field_and_send_nothing() {
    let harness = Harness::start().await;
    let before = harness.journal.entries().len();
    let rest = harness.service.rest_client();
    let admin = rest.admin();
    let good = "tinker://r/weights/a";
    let ttl = |seconds| Some(Duration::from_secs(seconds));
    let epoch = SystemTime::UNIX_EPOCH;
    let hours = |hours: u64| epoch + Duration::from_secs(3600 * hours);
    let absent = OwnerFilter::User {
        owner_urns: Vec::new(),
    };
    let errors = [
        (
            "limit",
            rest.list_training_runs().page(0, 0).await.unwrap_err(),
        ),
        (
            "limit",
            rest.list_user_checkpoints()
                .page(0, 1001)
                .await
                .unwrap_err(),
        ),
        (
            "page_size",
            rest.list_sessions()
                .page_size(0)
                .stream()
                .next()
                .await
                .unwrap()
                .unwrap_err(),
        ),
        ("run_id", rest.get_training_run("").await.unwrap_err()),
        ("run_id", rest.list_checkpoints("..").await.unwrap_err()),
        ("session_id", rest.get_session("a\nb").await.unwrap_err()),
        (
            "session_id",
            rest.export_session_trace("").await.unwrap_err(),
        ),
        ("sampler_id", rest.get_sampler("").await.unwrap_err()),
        (
            "tinker_path",
            rest.get_training_run_by_tinker_path("run")
                .await
                .unwrap_err(),
        ),
        (
            "tinker_path",
            rest.get_weights_info_by_tinker_path("").await.unwrap_err(),
        ),
        (
            "tinker_path",
            rest.delete_checkpoint_from_tinker_path("tinker://r/merged/a")
                .await
                .unwrap_err(),
        ),
        (
            "tinker_path",
            rest.publish_checkpoint_from_tinker_path("tinker://r")
                .await
                .unwrap_err(),
        ),
        (
            "tinker_path",
            rest.unpublish_checkpoint_from_tinker_path("")
                .await
                .unwrap_err(),
        ),
        (
            "tinker_path",
            rest.get_weights_info_by_tinker_path("tinker://run/x")
                .await
                .unwrap_err(),
        ),
        (
            "tinker_path",
            rest.delete_checkpoints([good, "tinker://run/x"])
                .await
                .unwrap_err(),
        ),
        (
            "tinker_path",
            rest.get_external_weights_urls(good).await.unwrap_err(),
        ),
        (
            "tinker_path",
            rest.delete_checkpoints([good, "nothing"])
                .await
                .unwrap_err(),
        ),
        (
            "checkpoint_id",
            rest.delete_checkpoint("r", "a").await.unwrap_err(),
        ),
        (
            "checkpoint_id",
            rest.delete_checkpoint("r", "weights/..").await.unwrap_err(),
        ),
        (
            "ttl_seconds",
            rest.set_checkpoint_ttl_from_tinker_path(good, ttl(0))
                .await
                .unwrap_err(),
        ),
        (
            "ttl_seconds",
            rest.set_checkpoint_ttl_from_tinker_path(good, ttl(1 << 40))
                .await
                .unwrap_err(),
        ),
        (
            "ttl_seconds",
            rest.copy_weights(good)
                .project_id("p")
                .ttl(Duration::from_millis(1))
                .await
                .unwrap_err(),
        ),
        (
            "source_path",
            rest.copy_weights("a").project_id("p").await.unwrap_err(),
        ),
        (
            "destination_project_id",
            rest.copy_weights(good).await.unwrap_err(),
        ),
        (
            "project_id",
            rest.assign_session_project("s", "").await.unwrap_err(),
        ),
        (
            "filter",
            rest.delete_checkpoints_matching(&CheckpointFilter::new())
                .await
                .unwrap_err(),
        ),
        (
            "name_prefix",
            rest.delete_checkpoints_matching(&CheckpointFilter::new().name_prefix(""))
                .await
                .unwrap_err(),
        ),
        (
            "page_size",
            rest.search_sessions()
                .page_size(0)
                .page(None)
                .await
                .unwrap_err(),
        ),
        (
            "owner.owner_urns",
            rest.search_checkpoints()
                .owner(absent)
                .page(None)
                .await
                .unwrap_err(),
        ),
        (
            "base_model",
            rest.start_external_weights_upload(" ", LoraConfig::rank(1))
                .await
                .unwrap_err(),
        ),
        (
            "lora_config.rank",
            rest.start_external_weights_upload("base", LoraConfig::rank(0))
                .await
                .unwrap_err(),
        ),
        (
            "upload_id",
            rest.finish_external_weights_upload("").await.unwrap_err(),
        ),
        (
            "day",
            admin
                .get_audit_log(AuditEventType::All, Some("today"))
                .await
                .unwrap_err(),
        ),
        (
            "day",
            admin
                .get_audit_log(AuditEventType::All, Some("2026-1-011"))
                .await
                .unwrap_err(),
        ),
        (
            "starting_on",
            admin
                .get_billing_usage(epoch - Duration::from_secs(3600), hours(2))
                .await
                .unwrap_err(),
        ),
        (
            "ending_before",
            admin
                .get_billing_usage(hours(2), hours(2))
                .await
                .unwrap_err(),
        ),
        (
            "ending_before",
            admin
                .get_billing_usage(epoch, hours(24 * 15))
                .await
                .unwrap_err(),
        ),
        (
            "starting_on",
            admin
                .get_billing_usage(epoch + Duration::from_secs(1), hours(2))
                .await
                .unwrap_err(),
        ),
        (
            "project_id",
            admin
                .get_current_checkpoint_storage_usage(Some(""))
                .await
                .unwrap_err(),
        ),
    ];
    for (field, error) in errors {
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        assert_eq!(error.field(), Some(field), "{error}");
        assert_eq!(error.sent(), Sent::NotSent);
    }
    assert_eq!(harness.journal.entries().len(), before);
}

#[tokio::test(start_paused = true)]
async fn upload_to_an_invalid_project_sends_nothing() {
    let options = SessionOptions {
        project_id: Some("..".to_owned()),
        ..SessionOptions::default()
    };
    let harness = Harness::with(Setup::from(options)).await;
    let before = harness.journal.entries().len();
    let rest = harness.service.rest_client();
    let upload = rest.start_external_weights_upload("base", LoraConfig::rank(1));
    let error = upload.await.unwrap_err();
    assert_eq!(error.field(), Some("destination_project_id"), "{error}");
    assert_eq!(harness.journal.entries().len(), before);
}
