//! Limits on queues, samples and weights in memory. At a limit, new requests are refused, and accepted ones still run.

mod support;

use serde_json::{Value, json};
use support::{
    Response, backward, held_model, held_server_with, run_until_idle, sample, step,
    test_server_with,
};
use tinkers_local::{EngineError, LocalConfig, Script};

fn assert_busy(refused: &Response) {
    assert_eq!(refused.status, 429, "{}", refused.body);
    assert_eq!(refused.raw.header("retry-after-ms"), Some("1000"));
    assert_eq!(refused.raw.header("retry-after"), Some("1"));
}

#[tokio::test]
async fn full_model_queue_accepts_only_the_next_sequence_number() {
    let passes = |model: &str| backward(model, 0).to_string().len();
    for by_bytes in [false, true] {
        let mut config = LocalConfig::default();
        if by_bytes {
            // The limit counts bodies in protobuf, which is shorter than JSON. Two bodies fit, three do not.
            config.max_queued_bytes = passes("") * 2 / 3;
        } else {
            config.max_queued = 2;
        }
        let server = test_server_with(config, Script::default());
        let model = server.create_model().await;
        let mut accepted = Vec::new();
        let mut number = 2;
        let refused = loop {
            let response = server.post("forward_backward", backward(&model, number));
            let response = response.await;
            if response.status != 200 {
                break response;
            }
            accepted.push(response.id());
            number += 1;
            assert!(number < 10, "no request was refused");
        };
        assert_busy(&refused);
        assert!(!accepted.is_empty());
        let next = server.post("forward_backward", backward(&model, 1)).await;
        accepted.push(next.id());
        for id in &accepted {
            assert!(server.result(id).await["metrics"].is_object());
        }
        // The request that was refused before is accepted now.
        let again = server.post("forward_backward", backward(&model, number));
        assert!(server.result(&again.await.id()).await["metrics"].is_object());
    }
}

#[tokio::test]
async fn full_model_queue_accepts_a_repeated_request() {
    let mut config = LocalConfig::default();
    config.max_queued = 1;
    let server = test_server_with(config, Script::default());
    let model = server.create_model().await;
    let first = server.submit("optim_step", step(&model, 2)).await;
    assert_busy(&server.post("optim_step", step(&model, 3)).await);
    assert_eq!(server.submit("optim_step", step(&model, 2)).await, first);
}

#[tokio::test]
async fn number_of_pending_samples_is_limited() {
    let mut config = LocalConfig::default();
    config.max_queued = 2;
    let (server, held) = held_server_with(config);
    let (_, model) = held_model(&server, &held).await;
    let snapshot = json!({ "model_id": model, "seq_id": 1, "sampling_session_seq_id": 0 });
    let id = server.submit("save_weights_for_sampler", snapshot).await;
    held.run_next();
    let created = server.result(&id).await;
    let sampler = created["sampling_session_id"].as_str().unwrap();
    for seq_id in [0, 1] {
        server.submit("asample", sample(sampler, seq_id)).await;
    }
    assert_busy(&server.post("asample", sample(sampler, 2)).await);
    // A retry of an accepted sample is not refused.
    server.submit("asample", sample(sampler, 1)).await;
    held.fail_next(EngineError::server("no"));
    server.submit("asample", sample(sampler, 2)).await;
}

/// Saves the weights of a model without a name, as a copy in memory. Returns the id of the sampling session that uses the copy.
async fn snapshot(server: &support::TestServer, model: &str, seq_id: u64) -> String {
    let body = json!({ "model_id": model, "seq_id": seq_id, "sampling_session_seq_id": seq_id });
    let id = server.submit("save_weights_for_sampler", body).await;
    let created = server.result(&id).await;
    created["sampling_session_id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn least_recently_used_weights_in_memory_are_dropped() {
    let mut config = LocalConfig::default();
    config.max_snapshots = 2;
    let server = test_server_with(config, Script::default());
    let model = server.create_model().await;
    let first = snapshot(&server, &model, 1).await;
    let second = snapshot(&server, &model, 2).await;
    server.call("asample", sample(&first, 1)).await;
    let third = snapshot(&server, &model, 3).await;
    let refused = server.post("asample", sample(&second, 1)).await;
    assert_eq!(refused.status, 410);
    refused.assert_reason("save under a name what is to stay");
    for sampler in [&first, &third] {
        server.call("asample", sample(sampler, 2)).await;
    }
    assert_eq!(server.engine.counts().dropped_snapshots, 1);
}

#[tokio::test]
async fn unloading_a_model_drops_its_weights_in_memory_once() {
    let mut config = LocalConfig::default();
    config.session_expiry *= 2;
    let server = test_server_with(config, Script::default());
    let session = server.create_session().await;
    let model = server.create_model_in(&session, 0).await;
    let other = server.create_model_in(&session, 1).await;
    let gone = snapshot(&server, &model, 1).await;
    let body = json!({ "model_id": other, "seq_id": 1, "sampling_session_seq_id": 7 });
    let kept = server.submit("save_weights_for_sampler", body).await;
    let kept = server.result(&kept).await["sampling_session_id"].clone();
    let unload = json!({ "model_id": model });
    let unloaded = server.submit("unload_model", unload.clone()).await;
    server.result(&unloaded).await;
    let refused = server.post("asample", sample(&gone, 1)).await;
    assert_eq!(refused.status, 410);
    refused.assert_reason("was unloaded");
    server
        .call("asample", sample(kept.as_str().unwrap(), 1))
        .await;
    assert_eq!(server.engine.counts().dropped_snapshots, 1);
    // A second unload request gets the id of the first one, even after its result has expired.
    assert_eq!(
        server.submit("unload_model", unload.clone()).await,
        unloaded
    );
    let keep = server.config().keep_fetched;
    server.clock.advance(keep);
    run_until_idle().await;
    assert_eq!(server.poll(&unloaded).await.status, 410);
    let again = server.submit("unload_model", unload).await;
    assert_eq!(server.result(&again).await["model_id"], json!(model));
    assert_eq!(server.engine.counts().unloaded, 1);
    server.finish(&session).await;
    assert_eq!(server.engine.counts().dropped_snapshots, 2);
}

#[tokio::test]
async fn error_of_a_cancelled_sample_states_the_reason() {
    let (server, held) = held_server_with(LocalConfig::default());
    let (session, _) = held_model(&server, &held).await;
    let sampler =
        json!({ "session_id": session, "sampling_session_seq_id": 3, "base_model": support::BASE });
    server.call("create_sampling_session", sampler).await;
    let sampler = format!("{session}:sample:3");
    let sampled = server.submit("asample", sample(&sampler, 0)).await;
    server.finish(&session).await;
    let result: Value = server.result(&sampled).await;
    assert_eq!(
        result,
        json!({
            "error": format!("session {session} has ended: it was finished; the request was cancelled"),
            "category": "user",
        })
    );
}
