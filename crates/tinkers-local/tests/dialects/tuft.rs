//! `tuft`: protobuf, 201, 422, a key.

use http::Method;
use serde_json::{Value, json};
use tinkers_local::{Dialect, EngineError, LocalConfig, Script};

use super::support::{
    BASE, Got, World, backward, create_model, held_world_with, settle, world_with,
};
use super::{ASK_PROTOBUF, PROTOBUF, config, extra, kind, proto_pass, refused, said, speaks};

const KEY: (&str, &str) = ("x-api-key", "tml-any");

async fn post(world: &World, route: &str, body: Value) -> Got {
    let path = format!("/api/v1/{route}");
    world
        .send(Method::POST, &path, body.to_string(), &[KEY])
        .await
}

async fn session(world: &World) -> String {
    let body = json!({ "tags": [], "user_metadata": {}, "sdk_version": "0.25.0", "type": "create_session" });
    let got = post(world, "create_session", body).await;
    assert_eq!(got.status, 201);
    got.body["session_id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_key_is_needed_and_any_will_do_unless_there_is_one() {
    let world = speaks(Dialect::tuft());
    let none = world.get("training_runs").await;
    assert_eq!(
        said(&none),
        refused(401, "no API key; send it in the header X-API-Key")
    );
    world.get("healthz").await.ok();
    session(&world).await;
    let config: LocalConfig = config(Dialect::tuft()).with_api_key("tml-own");
    let world = world_with(config, Script::default());
    let got = world
        .send(Method::GET, "/api/v1/training_runs", "", &[KEY])
        .await;
    assert_eq!(said(&got), refused(401, "this API key is not the server's"));
}

#[tokio::test]
async fn flags_hide_the_server_and_loads_need_an_existing_model() {
    let world = speaks(Dialect::tuft());
    let flags = post(&world, "client/config", json!({ "sdk_version": "0.25.0" })).await;
    let flags = flags.ok();
    assert_eq!(flags["parallel_fwdbwd_chunks"], false);
    for ours in ["server", "deduplicates_seq_ids", "session_expiry_sec"] {
        assert_eq!(flags.get(ours), None, "{ours}");
    }
    let body = json!({ "session_id": session(&world).await, "model_seq_id": 0, "path": "tinker://m/weights/w", "optimizer": false });
    let got = post(&world, "load_weights", body).await;
    assert_eq!(got.status, 422);
    assert_eq!(got.body["detail"][0]["loc"], json!(["body", "model_id"]));
}

#[tokio::test]
async fn what_is_new_is_201_and_passes_are_protobuf_alone() {
    let world = speaks(Dialect::tuft());
    let session = session(&world).await;
    let body = json!({ "session_id": session, "sampling_session_seq_id": 0, "base_model": BASE });
    let got = post(&world, "create_sampling_session", body.clone()).await;
    let told = json!({ "sampling_session_id": format!("{session}:sample:0") });
    assert_eq!(said(&got), (201, told.clone()));
    assert_eq!(
        said(&post(&world, "create_sampling_session", body).await),
        (201, told)
    );
    let made = post(&world, "create_model", create_model(&session, 0)).await;
    let model = made.ok()["model_id"].as_str().unwrap().to_owned();
    let got = post(&world, "forward_backward", backward(&model, 1)).await;
    assert_eq!(
        said(&got),
        refused(415, "forward_backward takes application/x-protobuf")
    );
    for (number, kind_of_body) in [(1, PROTOBUF), (2, ("content-type", "application/protobuf"))] {
        let path = "/api/v1/forward_backward";
        let body = proto_pass(&model, number);
        let id = world
            .send(Method::POST, path, body, &[KEY, kind_of_body])
            .await
            .id();
        let got = world.ask(&id, &[KEY, ASK_PROTOBUF]).await;
        assert_eq!(kind(&got), "application/x-protobuf");
    }
    let mut create = create_model(&session, 1);
    create["optimizer_config"] = json!({ "type": "adamw" });
    let got = post(&world, "create_model", create).await;
    assert_eq!(
        said(&got),
        refused(422, json!([extra(json!(["body", "optimizer_config"]))]))
    );
}

#[tokio::test]
async fn polls_end_in_try_again_and_failures_in_422() {
    let (world, held) = held_world_with(config(Dialect::tuft()));
    let session = session(&world).await;
    let create = post(&world, "create_model", create_model(&session, 0))
        .await
        .id();
    let clock = world.clock.clone();
    let (got, ()) = tokio::join!(world.ask(&create, &[KEY]), async {
        settle().await;
        clock.advance(std::time::Duration::from_secs(30));
    });
    assert_eq!(
        said(&got),
        (
            200,
            json!({ "type": "try_again", "request_id": create, "queue_state": "active" })
        )
    );
    held.fail(EngineError::server("out of memory"));
    let got = world.ask(&create, &[KEY]).await;
    assert_eq!(said(&got), refused(422, "out of memory"));
}
