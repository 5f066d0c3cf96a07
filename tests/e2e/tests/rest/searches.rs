//! Searches for sessions and checkpoints.

use tinkers::prelude::*;
use tinkers::rest::{OwnerFilter, SessionStatus, SessionStatusFilter};
use tinkers::{CheckpointKind, wire};
use tinkers_e2e::{Harness, SCRIPTED, SocketServer};
use tinkers_local::LocalConfig;

use super::{path, saved};

#[tokio::test]
async fn sessions_are_found_by_name_project_metadata_and_state() {
    let server = SocketServer::start(LocalConfig::default());
    let mut services = Vec::new();
    for (name, project, run) in [
        ("Big Run", "p", "1"),
        ("small run", "p", "2"),
        ("other", "q", "3"),
    ] {
        let metadata = [("run".to_owned(), run.to_owned())].into();
        let builder = server
            .client_builder()
            .display_name(name)
            .project_id(project);
        services.push(builder.user_metadata(metadata).connect().await.unwrap());
    }
    services[0]
        .close(FinishReason::Errored, Some("loss".to_owned()))
        .await
        .unwrap();
    let rest = server.client_builder().rest_client().unwrap();
    let search = || rest.search_sessions();
    let names = async |search: tinkers::rest::SearchSessions| {
        let found = search
            .page_size(1)
            .stream()
            .collect_up_to(10)
            .await
            .unwrap();
        found
            .into_iter()
            .filter_map(|one| one.display_name)
            .collect::<Vec<_>>()
    };
    assert_eq!(names(search()).await, ["other", "small run", "Big Run"]);
    assert_eq!(names(search().display_name("RUN big")).await, ["Big Run"]);
    let by_id = search()
        .display_name("small")
        .session_id(services[2].session_id());
    assert_eq!(names(by_id).await, ["other", "small run"]);
    assert_eq!(names(search().project_ids(["q", "r"])).await, ["other"]);
    assert_eq!(
        names(search().user_metadata("run", "2")).await,
        ["small run"]
    );
    assert_eq!(
        names(search().status(SessionStatusFilter::Active)).await,
        ["other", "small run"]
    );
    assert_eq!(
        names(search().finished([FinishReason::Errored])).await,
        ["Big Run"]
    );
    assert!(
        names(search().finished([FinishReason::Success]))
            .await
            .is_empty()
    );
    let stranger = OwnerFilter::User {
        owner_urns: vec!["tml:user:1".to_owned()],
    };
    assert!(names(search().owner(stranger)).await.is_empty());
    let page = search().display_name("big").page(None).await.unwrap();
    let expected = SessionStatus::ClientFinished {
        reason: Some(FinishReason::Errored),
        detail: Some("loss".to_owned()),
    };
    assert_eq!(page.sessions[0].status, Some(expected));
    let created = wire::since_epoch(&page.sessions[0].created_at);
    assert!(created.is_some_and(|since| since.as_secs() > 1_000_000_000));
    server.stop();
}

#[tokio::test(start_paused = true)]
async fn checkpoints_are_found_by_kind_model_and_project() {
    let harness = Harness::start().await;
    let rest = harness.service.rest_client();
    let training = saved(&harness, &["a", "b", "c"]).await;
    let sampler = training.save_weights_for_sampler("s").await.unwrap();
    let search = || rest.search_checkpoints();
    let paths = async |search: tinkers::rest::SearchCheckpoints| {
        let found = search
            .page_size(2)
            .stream()
            .collect_up_to(10)
            .await
            .unwrap();
        let mut found: Vec<_> = found.into_iter().map(|one| one.tinker_path).collect();
        found.sort();
        found
    };
    let weights = ["a", "b", "c"].map(|name| path(&training, name));
    assert_eq!(paths(search()).await.len(), 4);
    assert_eq!(
        paths(search().kind(CheckpointKind::Training)).await,
        weights
    );
    assert_eq!(
        paths(search().kind(CheckpointKind::Sampler)).await,
        [sampler.path.unwrap().as_str()]
    );
    assert_eq!(paths(search().base_models([SCRIPTED])).await.len(), 4);
    assert!(
        paths(search().base_models(Vec::<String>::new()))
            .await
            .is_empty()
    );
    assert!(paths(search().project_ids(["p"])).await.is_empty());
    let copy = rest
        .copy_weights(&weights[0])
        .project_id("p")
        .await
        .unwrap();
    assert_eq!(paths(search().project_ids(["p"])).await, [copy.as_str()]);
}

#[tokio::test(start_paused = true)]
async fn search_with_a_forged_cursor_is_rejected() {
    let harness = Harness::start().await;
    let rest = harness.service.rest_client();
    let cursor: tinkers::rest::SearchCursor = serde_json::from_str(r#"{"x": 1}"#).unwrap();
    let error = rest
        .search_sessions()
        .page(Some(cursor.clone()))
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.status()),
        (ErrorKind::Rejected, Some(422))
    );
    let error = rest
        .search_checkpoints()
        .page(Some(cursor))
        .await
        .unwrap_err();
    assert_eq!(error.status(), Some(422));
}
