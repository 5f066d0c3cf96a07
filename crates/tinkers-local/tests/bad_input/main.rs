//! Every bad input: the exact status, and a body that names the field.

mod creations;
mod passes;
mod row;
mod samples;
mod saves;
#[path = "../support/mod.rs"]
mod support;

use http::Method;
use serde_json::json;

use creations::creations;
use passes::passes;
use row::Row;
use samples::samples;
use saves::steps_and_saves;
use support::{World, backward, world};

#[tokio::test]
async fn every_bad_input_is_refused_by_name_and_nothing_is_run() {
    let world = world();
    let session = world.session().await;
    let model = world.model_in(&session, 0).await;
    let sampler =
        json!({ "session_id": session, "sampling_session_seq_id": 0, "base_model": support::BASE });
    let sampler = world.post("create_sampling_session", sampler).await.ok();
    let sampler = sampler["sampling_session_id"].as_str().unwrap();
    let before = world.engine.counts();
    let rows = [
        passes(&model),
        steps_and_saves(&model),
        creations(&session),
        samples(sampler),
    ];
    for Row {
        route,
        body,
        status,
        names,
    } in rows.into_iter().flatten()
    {
        let got = world.post(route, body.clone()).await;
        let short: String = body.to_string().chars().take(400).collect();
        assert_eq!(got.status, status, "{route} {short}: {}", got.body);
        let reason = got.reason();
        assert!(reason.contains(names), "{route} {short}: {reason}");
    }
    assert_eq!(world.engine.counts(), before);
    // And the model's first number is still free.
    let id = world
        .post("forward_backward", backward(&model, 1))
        .await
        .id();
    assert!(world.result(&id).await["metrics"].is_object());
}

#[tokio::test]
async fn invalid_json_is_400_and_an_unknown_route_404_or_405() {
    let world = world();
    for body in ["", "{", "nonsense", "\u{0}"] {
        let got = world
            .send(Method::POST, "/api/v1/create_session", body, &[])
            .await;
        assert_eq!(got.status, 400, "{body}");
        assert!(got.reason().contains("not JSON"), "{}", got.reason());
    }
    let proto = [("content-type", "application/x-protobuf")];
    let got = world
        .send(
            Method::POST,
            "/api/v1/forward_backward",
            vec![0xff; 9],
            &proto,
        )
        .await;
    assert_eq!(
        (got.status, got.reason().contains("protobuf")),
        (400, true),
        "{}",
        got.reason()
    );
    let got = world
        .send(Method::POST, "/api/v1/forward", vec![0xff; 9], &proto)
        .await;
    assert_eq!(got.status, 415);
    let packed = [("content-encoding", "gzip")];
    assert_eq!(
        world
            .send(Method::POST, "/api/v1/telemetry", "x", &packed)
            .await
            .status,
        415
    );
    for path in [
        "/",
        "/api/v1/",
        "/api/v1/nope",
        "/api/v2/healthz",
        "/api/v1/sessions/a/b/c",
        "/api/v1/sessions/search",
        "/api/v1/training_runs/a/checkpoints/w/archive",
        "/api/v1/training_runs/a/checkpoints/weights%2Fw/ttl",
        "/api/v1/training_runs/a/checkpoints/weights/w/publish",
        "/api/v1/billing/usage/events",
        "",
    ] {
        for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE] {
            let got = world.send(method, path, "", &[]).await;
            assert_eq!(got.status, 404, "{path}");
            assert!(got.reason().contains("no route"), "{}", got.reason());
        }
    }
    for (method, path, allow) in [
        (Method::GET, "asample", "POST"),
        (Method::POST, "healthz", "GET"),
        (
            Method::PUT,
            "training_runs/a/checkpoints/weights/b",
            "DELETE",
        ),
        (Method::DELETE, "sessions/a", "GET"),
    ] {
        let got = world
            .send(method, &format!("/api/v1/{path}"), "", &[])
            .await;
        assert_eq!(got.status, 405, "{path}");
        assert_eq!(got.raw.header("allow"), Some(allow), "{path}");
    }
}

#[tokio::test]
async fn listings_of_unknown_ids_are_404() {
    let world = world();
    let model = world.model().await;
    for (path, status, names) in [
        ("training_runs?limit=x", 422, "limit: "),
        ("checkpoints?offset=-1", 422, "offset: "),
        ("training_runs/nope", 404, "no training run \"nope\""),
        (
            "training_runs/nope/checkpoints",
            404,
            "no training run \"nope\"",
        ),
        ("sessions/nope", 404, "no session \"nope\""),
        ("samplers/nope", 404, "no sampling session \"nope\""),
    ] {
        let got = world.get(path).await;
        assert_eq!(got.status, status, "{path}");
        assert!(got.reason().contains(names), "{path}: {}", got.reason());
    }
    let missing = world
        .delete(&format!("training_runs/{model}/checkpoints/weights/x"))
        .await;
    assert_eq!(missing.status, 404);
    for (bad, status) in [("other/x", 404), ("weights", 400)] {
        let path = format!("training_runs/{model}/checkpoints/{bad}");
        assert_eq!(world.delete(&path).await.status, status, "{bad}");
    }
}

#[tokio::test]
async fn a_body_is_bounded_after_decompression() {
    let mut config = tinkers_local::LocalConfig::default();
    config.max_body = 10_000;
    let world: World = support::world_with(config, tinkers_local::Script::default());
    let long = format!("{{\"events\": [{:?}]}}", "x".repeat(20_000));
    let packed = zstd::encode_all(long.as_bytes(), 3).unwrap();
    assert!(packed.len() < 1000);
    let got = world
        .send(
            Method::POST,
            "/api/v1/telemetry",
            packed,
            &[("content-encoding", "zstd")],
        )
        .await;
    assert_eq!(
        (got.status, got.reason().contains("10000 bytes")),
        (413, true),
        "{}",
        got.reason()
    );
    assert_eq!(
        world
            .send(Method::POST, "/api/v1/telemetry", long, &[])
            .await
            .status,
        413
    );
}

#[tokio::test]
async fn a_name_is_taken_once_unless_it_is_overwritten() {
    let world = world();
    let model = world.model().await;
    let save = |seq_id: u64, overwrite: bool| json!({ "model_id": model, "seq_id": seq_id, "path": "x", "overwrite": overwrite });
    world.post("save_weights", save(1, false)).await.id();
    let taken = world.post("save_weights", save(2, false)).await.id();
    let told = world.result(&taken).await;
    let reason = told["error"].as_str().unwrap();
    assert!(reason.contains("weights/x exists"), "{told}");
    // The retry of the save that worked is not a second one.
    assert_eq!(world.post("save_weights", save(1, false)).await.status, 200);
    let id = world.post("save_weights", save(3, true)).await.id();
    assert!(world.result(&id).await["path"].is_string());
    assert_eq!(world.engine.counts().saves, 2);
    // A sampler's weights of the same name are something else.
    let id = world
        .post(
            "save_weights_for_sampler",
            json!({ "model_id": model, "seq_id": 4, "path": "x" }),
        )
        .await
        .id();
    assert!(world.result(&id).await["path"].is_string());
}

#[tokio::test]
async fn sparse_tensors_that_would_fill_the_memory_are_refused() {
    let world = world();
    let model = world.model().await;
    // Each is a million cells and sends a few thousand numbers.
    let datum = json!({
        "model_input": { "chunks": [{ "type": "encoded_text", "tokens": vec![1; 4096] }] },
        "loss_fn_inputs": {
            "target_tokens": {
                "data": [], "dtype": "int64", "shape": [4096, 256],
                "sparse_crow_indices": vec![0; 4097], "sparse_col_indices": [],
            },
        },
    });
    let pass = |seq_id: u64, data: usize| {
        let mut body = backward(&model, seq_id);
        body["forward_backward_input"]["data"] = json!(vec![datum.clone(); data]);
        body
    };
    world.post("forward_backward", pass(1, 32)).await.id();
    let refused = world.post("forward_backward", pass(2, 33)).await;
    assert_eq!(refused.status, 422);
    let reason = refused.reason();
    assert!(
        reason.contains("data.32.loss_fn_inputs.target_tokens: expected sparse tensors of at most"),
        "{reason}"
    );
}
