//! Lists and descriptions.

use std::time::Duration;

use tinkers::rest::{Checkpoint, TrainingRun};
use tinkers_e2e::{Harness, SCRIPTED};

use super::{path, saved};

#[tokio::test(start_paused = true)]
async fn runs_are_listed_and_described() {
    let harness = Harness::start().await;
    let rest = harness.service.rest_client();
    let training = saved(&harness, &["a"]).await;
    let runs: Vec<TrainingRun> = rest
        .list_training_runs()
        .stream()
        .collect_up_to(10)
        .await
        .unwrap();
    assert_eq!(runs.len(), 1);
    assert_eq!(runs[0].training_run_id, training.model_id());
    assert_eq!(
        rest.get_training_run(training.model_id()).await.unwrap(),
        runs[0]
    );
    let of_path = rest
        .get_training_run_by_tinker_path(path(&training, "a"))
        .await;
    assert_eq!(of_path.unwrap(), runs[0]);
    let other = rest
        .list_training_runs()
        .project_id("other")
        .page(0, 20)
        .await
        .unwrap();
    assert_eq!(
        (other.training_runs.len(), other.cursor.unwrap().total_count),
        (0, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn checkpoints_of_a_run_and_of_the_user_are_listed() {
    let harness = Harness::start().await;
    let rest = harness.service.rest_client();
    let (one, other) = (
        saved(&harness, &["a", "b"]).await,
        saved(&harness, &["c"]).await,
    );
    let of_run = rest.list_checkpoints(one.model_id()).await.unwrap();
    assert_eq!(of_run.len(), 2);
    assert_eq!(of_run[0].base_model.as_deref(), Some(SCRIPTED));
    let page = rest.list_user_checkpoints().page(0, 2).await.unwrap();
    assert_eq!(
        (page.checkpoints.len(), page.cursor.unwrap().total_count),
        (2, 3)
    );
    let mut all = rest.list_user_checkpoints().page_size(2).stream();
    let mut found = Vec::new();
    while let Some(checkpoint) = all.next().await {
        found.push(checkpoint.unwrap().tinker_path);
    }
    found.sort();
    let mut expected = [path(&one, "a"), path(&one, "b"), path(&other, "c")];
    expected.sort();
    assert_eq!(found, expected);
}

#[tokio::test(start_paused = true)]
async fn checkpoints_deleted_between_pages_do_not_hide_others() {
    let harness = Harness::start().await;
    let rest = harness.service.rest_client();
    let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];
    let training = saved(&harness, &names).await;
    let mut all = rest.list_user_checkpoints().page_size(3).stream();
    let mut found: Vec<Checkpoint> = Vec::new();
    while let Some(checkpoint) = all.next().await {
        let checkpoint = checkpoint.unwrap();
        // Each checkpoint is deleted as soon as it was listed.
        let deleted = rest.delete_checkpoint_from_tinker_path(&checkpoint.tinker_path);
        deleted.await.unwrap();
        found.push(checkpoint);
    }
    assert_eq!(found.len(), names.len());
    assert_eq!(harness.engine.counts().deleted, 9);
    assert!(
        rest.list_checkpoints(training.model_id())
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test(start_paused = true)]
async fn sessions_and_samplers_are_listed_and_described() {
    let harness = Harness::start().await;
    let rest = harness.service.rest_client();
    let training = saved(&harness, &[]).await;
    let base = harness
        .service
        .create_sampling_client(SCRIPTED)
        .await
        .unwrap();
    let sessions = rest
        .list_sessions()
        .stream()
        .collect_up_to(10)
        .await
        .unwrap();
    assert_eq!(sessions, [harness.service.session_id()]);
    let page = rest.list_sessions().page(1, 20).await.unwrap();
    assert!(page.sessions.is_empty());
    let session = rest.get_session(&sessions[0]).await.unwrap();
    assert_eq!(session.training_run_ids, [training.model_id()]);
    let sampler = rest.get_sampler(&session.sampler_ids[0]).await.unwrap();
    assert_eq!(
        (sampler.base_model.as_str(), sampler.model_path),
        (SCRIPTED, None)
    );
    let models = rest
        .get_server_capabilities()
        .await
        .unwrap()
        .supported_models;
    assert_eq!(models[0].model_name.as_deref(), Some(SCRIPTED));
    drop(base);
}

#[tokio::test(start_paused = true)]
async fn weights_of_a_checkpoint_are_described() {
    let harness = Harness::start().await;
    let training = saved(&harness, &["a"]).await;
    let rest = harness.service.rest_client();
    let info = rest
        .get_weights_info_by_tinker_path(path(&training, "a"))
        .await
        .unwrap();
    assert_eq!((info.base_model.as_str(), info.is_lora), (SCRIPTED, true));
}

#[tokio::test(start_paused = true)]
async fn item_that_a_dropped_wait_was_for_is_not_lost() {
    let harness = Harness::start().await;
    let rest = harness.service.rest_client();
    saved(&harness, &["a", "b", "c"]).await;
    let slow = tinkers_local::Fault::delay(Duration::from_secs(5));
    let list = tinkers_local::Rule::on("/api/v1/checkpoints").times(2);
    harness.faults.add(list, slow);
    let mut all = rest.list_user_checkpoints().page_size(2).stream();
    let mut found = 0;
    loop {
        // Drops the future of `next` several times while a page is on its way.
        match tokio::time::timeout(Duration::from_secs(1), all.next()).await {
            Ok(Some(item)) => found += usize::from(item.is_ok()),
            Ok(None) => break,
            Err(_) => {}
        }
    }
    assert_eq!(found, 3);
    assert_eq!(harness.journal.of("/api/v1/checkpoints").len(), 2);
}
