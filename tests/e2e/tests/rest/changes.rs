//! Deletions, publication, expiry, copies and projects.

use std::time::Duration;

use http::StatusCode;
use serde_json::json;
use tinkers::prelude::*;
use tinkers::rest::CheckpointFilter;
use tinkers_e2e::Harness;
use tinkers_local::{Fault, Rule};

use super::{path, saved};

#[tokio::test(start_paused = true)]
async fn checkpoint_is_deleted_by_path_and_by_id() {
    let harness = Harness::start().await;
    let rest = harness.service.rest_client();
    let training = saved(&harness, &["a", "b"]).await;
    rest.delete_checkpoint_from_tinker_path(path(&training, "a"))
        .await
        .unwrap();
    rest.delete_checkpoint(training.model_id(), "weights/b")
        .await
        .unwrap();
    assert!(
        rest.list_checkpoints(training.model_id())
            .await
            .unwrap()
            .is_empty()
    );
    let again = rest
        .delete_checkpoint(training.model_id(), "weights/b")
        .await;
    assert_eq!(again.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn checkpoints_that_match_a_filter_are_deleted() {
    let harness = Harness::start().await;
    let rest = harness.service.rest_client();
    let (one, other) = (
        saved(&harness, &["step-1", "step-2", "final"]).await,
        saved(&harness, &["step-1"]).await,
    );
    let filter = CheckpointFilter::new()
        .run_id(one.model_id())
        .name_prefix("step-");
    let report = rest.delete_checkpoints_matching(&filter).await.unwrap();
    let mut deleted = report.deleted;
    deleted.sort();
    assert_eq!(deleted, [path(&one, "step-1"), path(&one, "step-2")]);
    assert!(report.failed.is_empty());
    let left = rest
        .find_checkpoints(&CheckpointFilter::new())
        .await
        .unwrap();
    let left: Vec<_> = left.into_iter().map(|one| one.tinker_path).collect();
    assert_eq!(left.len(), 2);
    assert!(left.contains(&path(&one, "final")) && left.contains(&path(&other, "step-1")));
}

#[tokio::test(start_paused = true)]
async fn failures_of_a_mass_deletion_are_reported_singly() {
    let harness = Harness::start().await;
    let rest = harness.service.rest_client();
    let names: Vec<String> = (0..40).map(|number| format!("w{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let training = saved(&harness, &names).await;
    let mut paths: Vec<String> = names.iter().map(|name| path(&training, name)).collect();
    paths.insert(7, path(&training, "missing"));
    let report = rest.delete_checkpoints(&paths).await.unwrap();
    assert_eq!(report.deleted.len(), 40);
    let failed: Vec<_> = report
        .failed
        .iter()
        .map(|one| (&*one.tinker_path, one.error.kind()))
        .collect();
    assert_eq!(
        failed,
        [(&*path(&training, "missing"), ErrorKind::NotFound)]
    );
}

#[tokio::test(start_paused = true)]
async fn path_that_is_given_twice_is_deleted_once() {
    let harness = Harness::start().await;
    let rest = harness.service.rest_client();
    let training = saved(&harness, &["a", "b"]).await;
    let (a, b) = (path(&training, "a"), path(&training, "b"));
    let report = rest.delete_checkpoints([&a, &b, &a]).await.unwrap();
    assert_eq!(report.deleted, [a, b]);
    assert!(report.failed.is_empty(), "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn listed_path_of_an_unknown_form_does_not_end_a_deletion() {
    let harness = Harness::start().await;
    let rest = harness.service.rest_client();
    let training = saved(&harness, &["a"]).await;
    let run = training.model_id();
    let (known, unknown) = (path(&training, "a"), format!("tinker://{run}/merged/b"));
    let list = json!({"checkpoints": [
        {"checkpoint_id": "merged/b", "checkpoint_type": "merged", "time": "", "tinker_path": unknown},
        {"checkpoint_id": "weights/a", "checkpoint_type": "training", "time": "", "tinker_path": known},
    ]});
    harness.faults.add(
        Rule::on(format!("/api/v1/training_runs/{run}/checkpoints")),
        Fault::json(StatusCode::OK, &list),
    );
    let filter = CheckpointFilter::new().run_id(run);
    let report = rest.delete_checkpoints_matching(&filter).await.unwrap();
    assert_eq!(report.deleted, [known]);
    assert_eq!(report.failed.len(), 1);
    assert_eq!(report.failed[0].tinker_path, unknown);
    assert_eq!(report.failed[0].error.kind(), ErrorKind::InvalidInput);
}

#[tokio::test(start_paused = true)]
async fn checkpoint_is_published_and_unpublished() {
    let harness = Harness::start().await;
    let rest = harness.service.rest_client();
    let training = saved(&harness, &["a"]).await;
    let path = path(&training, "a");
    let is_public = async || rest.list_checkpoints(training.model_id()).await.unwrap()[0].public;
    rest.publish_checkpoint_from_tinker_path(&path)
        .await
        .unwrap();
    assert!(is_public().await);
    let again = rest
        .publish_checkpoint_from_tinker_path(&path)
        .await
        .unwrap_err();
    assert_eq!(
        (again.kind(), again.sent()),
        (ErrorKind::Conflict, Sent::Answered)
    );
    rest.unpublish_checkpoint_from_tinker_path(&path)
        .await
        .unwrap();
    assert!(!is_public().await);
    let again = rest
        .unpublish_checkpoint_from_tinker_path(&path)
        .await
        .unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Conflict);
}

#[tokio::test(start_paused = true)]
async fn ttl_is_set_enforced_and_cleared() {
    let harness = Harness::start().await;
    let rest = harness.service.rest_client();
    let training = saved(&harness, &["short", "kept"]).await;
    let hour = Some(Duration::from_secs(3600));
    for name in ["short", "kept"] {
        rest.set_checkpoint_ttl_from_tinker_path(path(&training, name), hour)
            .await
            .unwrap();
    }
    let listed = rest.list_checkpoints(training.model_id()).await.unwrap();
    assert!(
        listed.iter().all(|one| one.expires_at.is_some()),
        "{listed:?}"
    );
    rest.set_checkpoint_ttl_from_tinker_path(path(&training, "kept"), None)
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_secs(3601)).await;
    let listed = rest.list_checkpoints(training.model_id()).await.unwrap();
    let names: Vec<_> = listed
        .iter()
        .map(|one| (&*one.checkpoint_id, &one.expires_at))
        .collect();
    assert_eq!(names, [("weights/kept", &None)]);
}

#[tokio::test(start_paused = true)]
async fn copy_outlives_its_source_and_belongs_to_a_project() {
    let harness = Harness::start().await;
    let rest = harness.service.rest_client();
    let training = saved(&harness, &["a"]).await;
    let source = path(&training, "a");
    let copy = rest
        .copy_weights(&source)
        .project_id("p")
        .ttl(Duration::from_secs(7200))
        .await
        .unwrap();
    rest.delete_checkpoint_from_tinker_path(&source)
        .await
        .unwrap();
    let runs = rest
        .list_training_runs()
        .project_id("p")
        .stream()
        .collect_up_to(9)
        .await
        .unwrap();
    assert_eq!(runs.len(), 1);
    assert_eq!(copy.run_id(), Some(runs[0].training_run_id.as_str()));
    let listed = rest
        .list_checkpoints(&runs[0].training_run_id)
        .await
        .unwrap();
    assert_eq!(listed[0].tinker_path, copy.as_str());
    assert!(listed[0].expires_at.is_some());
    let resumed = harness
        .service
        .create_training_client_from_state(copy.as_str())
        .await;
    resumed.expect("the copy can be loaded");
}

#[tokio::test(start_paused = true)]
async fn session_is_moved_to_a_project() {
    let harness = Harness::start().await;
    let rest = harness.service.rest_client();
    saved(&harness, &[]).await;
    rest.assign_session_project(harness.service.session_id(), "p")
        .await
        .unwrap();
    let runs = rest
        .list_training_runs()
        .project_id("p")
        .page(0, 20)
        .await
        .unwrap();
    assert_eq!(runs.training_runs.len(), 1);
    let missing = rest
        .assign_session_project("absent", "p")
        .await
        .unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}
