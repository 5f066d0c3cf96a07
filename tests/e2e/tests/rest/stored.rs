//! Records of the embedded server: changes that survive a restart, the usage, the storage and the audit log.

use std::time::{Duration, SystemTime};

use tinkers::prelude::*;
use tinkers::rest::{AuditEventType, UsageInfo};

#[tokio::test]
async fn publication_ttl_and_copies_survive_a_restart() {
    let directory = std::env::temp_dir().join(format!("tinkers-rest-{}", std::process::id()));
    let service = ServiceClient::local_in(&directory).await.unwrap();
    let training = service
        .create_lora_training_client("tinkers/tiny")
        .rank(2)
        .await
        .unwrap();
    let path = training.save_state("a").await.unwrap().path;
    let rest = service.rest_client();
    rest.publish_checkpoint_from_tinker_path(&path)
        .await
        .unwrap();
    let day = Some(Duration::from_secs(86_400));
    rest.set_checkpoint_ttl_from_tinker_path(&path, day)
        .await
        .unwrap();
    let copy = rest.copy_weights(&path).project_id("p").await.unwrap();
    let run = training.model_id().to_owned();
    let before = rest.list_checkpoints(&run).await.unwrap();
    drop((training, rest, service));

    let service = ServiceClient::local_in(&directory).await.unwrap();
    let rest = service.rest_client();
    let after = rest.list_checkpoints(&run).await.unwrap();
    assert!(after[0].public && after[0].expires_at.is_some());
    assert_eq!(after[0].expires_at, before[0].expires_at);
    let runs = rest
        .list_training_runs()
        .project_id("p")
        .page(0, 9)
        .await
        .unwrap();
    assert_eq!(
        copy.run_id(),
        Some(runs.training_runs[0].training_run_id.as_str())
    );
    let resumed = service
        .create_training_client_from_state_with_optimizer(copy.as_str())
        .await;
    drop(resumed.expect("the copy has the weights and the optimizer state"));
    drop((rest, service));
    std::fs::remove_dir_all(&directory).unwrap();
}

#[tokio::test]
async fn embedded_server_reports_usage_storage_audit_and_traces() {
    let service = ServiceClient::local().await.unwrap();
    let training = service
        .create_lora_training_client("tinkers/tiny")
        .rank(2)
        .await
        .unwrap();
    let saved = training.save_state("a").await.unwrap();
    let sampling = service
        .create_sampling_client("tinkers/tiny")
        .await
        .unwrap();
    let prompt = ModelInput::from_tokens(vec![1, 2, 3]);
    let sampled = sampling.sample(prompt).max_tokens(4).await.unwrap();
    let rest = service.rest_client();
    rest.publish_checkpoint_from_tinker_path(&saved.path)
        .await
        .unwrap();
    let admin = rest.admin();

    let log = admin
        .get_audit_log(AuditEventType::Checkpoints, None)
        .await
        .unwrap();
    let events: Vec<&str> = log.iter().map(|entry| entry.event.as_str()).collect();
    assert_eq!(events, ["checkpoint_saved", "checkpoint_published"]);
    let storage = admin
        .get_current_checkpoint_storage_usage(None)
        .await
        .unwrap();
    assert_eq!(storage.data.len(), 1);
    assert_eq!(storage.data[0].checkpoint_count, 1);
    assert!(storage.data[0].size_bytes > 0);

    // The hour before, too: it may have ended during the test.
    let seconds = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let hour = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds / 3600 * 3600);
    let long = Duration::from_secs(3600);
    let usage = admin
        .get_billing_usage(hour - long, hour + long)
        .await
        .unwrap();
    let sum = |of: fn(&UsageInfo) -> Option<u64>| {
        let infos = usage.data.iter().filter_map(|one| one.event_info.as_ref());
        infos.filter_map(of).sum::<u64>()
    };
    let prompts = sum(|info| match info {
        UsageInfo::SamplingPrefill { token_count, .. } => Some(*token_count),
        _ => None,
    });
    let tokens = sum(|info| match info {
        UsageInfo::SamplingSample { token_count } => Some(*token_count),
        _ => None,
    });
    let checkpoints = sum(|info| match info {
        UsageInfo::Checkpoint { count } => Some(*count),
        _ => None,
    });
    let expected = sampled.sequences[0].tokens.len() as u64;
    assert_eq!((prompts, tokens, checkpoints), (3, expected, 1));
    // A server without a socket has no address for a trace.
    let trace = rest.export_session_trace(service.session_id()).await;
    assert_eq!(trace.unwrap_err().kind(), ErrorKind::OperationFailed);
}
