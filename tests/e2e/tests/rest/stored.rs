//! Changes of checkpoints on disk, which survive a restart of the server.

use std::time::Duration;

use tinkers::ServiceClient;

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
