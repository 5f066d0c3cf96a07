//! Samples are cancelled on request, when their client stops polling, and when their session ends.

mod support;

use std::pin::pin;
use std::time::Duration;

use serde_json::{Value, json};
use support::{
    HeldEngine, TestServer, backward, held_model, held_server, is_pending, run_until_idle, sample,
};

/// Creates a sampling session and submits one sample, whose engine job does not run until the test runs it. Returns the ids of the
/// session and of the request.
async fn held_sample(server: &TestServer, held: &HeldEngine) -> (String, String) {
    let sampler = server.create_sampler().await;
    let id = server.submit("asample", sample(&sampler, 0)).await;
    assert_eq!(held.held_jobs(), ["sample"]);
    (sampler, id)
}

fn error_of(result: &Value) -> &str {
    result["error"].as_str().expect("an error")
}

#[tokio::test]
async fn cancel_request_stops_a_sample_at_once() {
    let (server, held) = held_server();
    let (_, id) = held_sample(&server, &held).await;
    let flags = server.call("client/dynamic_config", json!({})).await;
    assert_eq!(flags["sample_cancel_enabled"], true);
    for _ in 0..2 {
        let cancel = json!({ "request_id": id, "type": "cancel_future" });
        server.call("cancel_future", cancel).await;
        assert!(held.held_jobs().is_empty());
    }
    let result = server.finished_result(&id).await;
    assert!(
        error_of(&result).contains("its client cancelled it"),
        "{result}"
    );
    assert_eq!(result["category"], "user");
}

#[tokio::test]
async fn only_existing_samples_can_be_cancelled() {
    let (server, held) = held_server();
    let (_, model) = held_model(&server, &held).await;
    let pass = server.submit("forward_backward", backward(&model, 1)).await;
    let cancel = async |id: &str| {
        server
            .post("cancel_future", json!({ "request_id": id }))
            .await
    };
    let refused = cancel(&pass).await;
    assert_eq!(refused.status, 422);
    assert!(
        refused.reason().starts_with("request_id: "),
        "{}",
        refused.reason()
    );
    assert_eq!(held.held_jobs(), ["pass 1"]);
    assert_eq!(cancel("req-0-1").await.status, 404);
}

#[tokio::test]
async fn sample_is_cancelled_if_its_disconnected_client_polls_no_more() {
    let (server, held) = held_server();
    let timeout = server.config().disconnect_timeout;
    let (sampler, id) = held_sample(&server, &held).await;
    let all = || {
        let target = json!({ "type": "sampling_session", "sampling_session_id": sampler });
        server.post("retrieve_futures", json!({ "target": target }))
    };
    {
        let mut poll = pin!(server.poll(&id));
        assert!(is_pending(&mut poll).await);
        let mut both = pin!(all());
        assert!(is_pending(&mut both).await);
    }
    server.clock.advance(timeout - Duration::from_nanos(1));
    run_until_idle().await;
    assert_eq!(held.held_jobs(), ["sample"]);
    server.clock.advance(Duration::from_nanos(1));
    run_until_idle().await;
    assert!(held.held_jobs().is_empty());
    let result = server.finished_result(&id).await;
    assert!(
        error_of(&result).contains("did not come back within 30s"),
        "{result}"
    );
}

#[tokio::test]
async fn sample_completes_if_its_client_polls_again_in_time() {
    let (server, held) = held_server();
    let timeout = server.config().disconnect_timeout;
    let almost = timeout - Duration::from_nanos(1);
    let (sampler, id) = held_sample(&server, &held).await;
    let dropped_poll = async || {
        let mut poll = pin!(server.poll(&id));
        assert!(is_pending(&mut poll).await);
    };
    // The client repeatedly starts polls and drops them.
    for _ in 0..4 {
        dropped_poll().await;
        server.clock.advance(almost);
        run_until_idle().await;
    }
    // A poll for the whole session is held when the disconnect timeout would end.
    let target = json!({ "type": "sampling_session", "sampling_session_id": sampler });
    let mut all = pin!(server.post("retrieve_futures", json!({ "target": target })));
    assert!(is_pending(&mut all).await);
    server.clock.advance(Duration::from_nanos(1));
    run_until_idle().await;
    assert_eq!(held.run_next(), "sample");
    assert_eq!(all.await.ok()["completions"][0]["request_id"], id);
    assert!(server.finished_result(&id).await["sequences"].is_array());
}

#[tokio::test]
async fn finishing_a_session_cancels_its_samples() {
    let (server, held) = held_server();
    let (sampler, id) = held_sample(&server, &held).await;
    let (session, _) = sampler.split_once(':').expect("an id");
    server.finish(session).await;
    assert!(!held.held_jobs().contains(&"sample".to_owned()));
    let result = server.finished_result(&id).await;
    assert!(error_of(&result).contains("it was finished"), "{result}");
}
