//! What a server with a store knows after a restart.

use std::sync::Arc;

use http::Method;
use serde_json::{Value, json};
use tinkers_core::ManualClock;
use tinkers_local::{Script, ScriptedEngine};

use super::store::{Machine, MemoryStore};
use super::support::{BASE, TestServer, backward, checkpoints, sample, step};

/// The responses that describe everything that a server knows.
async fn described(server: &TestServer, routes: &[String]) -> Vec<Value> {
    let mut all = Vec::new();
    for route in routes {
        all.push(server.get(route).await.ok());
    }
    all
}

async fn change(server: &TestServer, method: Method, route: &str, body: &Value) {
    let route = format!("/api/v1/{route}");
    let response = server.send(method, &route, body.to_string(), &[]).await;
    assert!(response.status < 300, "{route}: {}", response.body);
}

#[tokio::test]
async fn everything_but_models_and_results_survives_a_restart() {
    let machine = Machine::default();
    let server = machine.start();
    let body = json!({
        "tags": [], "user_metadata": { "team": "a" }, "sdk_version": "0.38.0",
        "display_name": "first try", "project_id": "p",
    });
    let session = server.call("create_session", body).await["session_id"].clone();
    let session = session.as_str().unwrap().to_owned();
    let model = server.create_model_in(&session, 0).await;
    for (route, body) in [
        ("forward_backward", backward(&model, 1)),
        ("optim_step", step(&model, 2)),
        (
            "save_weights",
            json!({ "model_id": model, "seq_id": 3, "path": "a" }),
        ),
        (
            "save_weights",
            json!({ "model_id": model, "seq_id": 4, "path": "b" }),
        ),
    ] {
        let id = server.submit(route, body).await;
        server.result(&id).await;
    }
    let path = format!("tinker://{model}/weights/a");
    let sampler =
        json!({ "session_id": session, "sampling_session_seq_id": 0, "model_path": path });
    let sampler =
        server.call("create_sampling_session", sampler).await["sampling_session_id"].clone();
    let sampler = sampler.as_str().unwrap().to_owned();
    let sampled = server.submit("asample", sample(&sampler, 1)).await;
    server.result(&sampled).await;
    let checkpoint =
        |name: &str, last: &str| format!("training_runs/{model}/checkpoints/weights/{name}/{last}");
    change(
        &server,
        Method::POST,
        &checkpoint("a", "publish"),
        &json!({}),
    )
    .await;
    change(
        &server,
        Method::PUT,
        &checkpoint("b", "ttl"),
        &json!({ "ttl_seconds": 7200 }),
    )
    .await;
    change(
        &server,
        Method::PUT,
        &format!("sessions/{session}/project"),
        &json!({ "project_id": "q" }),
    )
    .await;
    server.finish(&session).await;
    let unfinished = server.create_session().await;
    let hours = "starting_on=1970-01-01T00:00:00Z&ending_before=1970-01-01T01:00:00Z";
    let routes = [
        "sessions".to_owned(),
        format!("sessions/{session}"),
        format!("sessions/{unfinished}"),
        format!("samplers/{sampler}"),
        "training_runs".to_owned(),
        format!("training_runs/{model}"),
        "training_runs?project_id=q".to_owned(),
        format!("training_runs/{model}/checkpoints"),
        "checkpoints".to_owned(),
        "billing/usage/checkpoints/current".to_owned(),
        format!("billing/usage/events?{hours}"),
        "audit".to_owned(),
    ];
    let before = described(&server, &routes).await;
    drop(server);
    let server = machine.start();
    assert_eq!(described(&server, &routes).await, before);

    let search = json!({ "user_metadata": {}, "owner": { "type": "own" }, "limit": 50 });
    let found = server.call("sessions/search", search).await;
    let statuses: Vec<&Value> = found["sessions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|session| &session["status"])
        .collect();
    // The other session ended with the process.
    assert_eq!(statuses[0], &Value::Null);
    assert_eq!(statuses[1]["type"], "client_finished");
    for (route, body) in [
        ("session_heartbeat", json!({ "session_id": unfinished })),
        ("optim_step", step(&model, 5)),
        ("asample", sample(&sampler, 2)),
        ("retrieve_future", json!({ "request_id": sampled })),
    ] {
        assert_eq!(server.post(route, body).await.status, 404, "{route}");
    }
    // A new session is newer than those of the earlier process.
    let newest = server.create_session().await;
    let listed = server.get("sessions").await.ok()["sessions"].clone();
    assert_eq!(listed, json!([newest, unfinished, session]));
    machine.clock.advance(std::time::Duration::from_secs(7200));
    super::support::run_until_idle().await;
    assert_eq!(checkpoints(&server).await, ["weights/a"]);
    let weights = json!({ "session_id": server.create_session().await, "sampling_session_seq_id": 0, "base_model": BASE });
    server.call("create_sampling_session", weights).await;
}

#[tokio::test]
async fn change_of_a_checkpoint_does_not_apply_to_its_successor() {
    let machine = Machine::default();
    let server = machine.start();
    let model = server.create_model().await;
    let save =
        |number| json!({ "model_id": model, "seq_id": number, "path": "a", "overwrite": true });
    let first = server.submit("save_weights", save(1)).await;
    server.result(&first).await;
    let publish = format!("training_runs/{model}/checkpoints/weights/a/publish");
    change(&server, Method::POST, &publish, &json!({})).await;
    assert_eq!(machine.store.count("checkpoints"), 1);
    machine.clock.advance(std::time::Duration::from_secs(5));
    let second = server.submit("save_weights", save(2)).await;
    server.result(&second).await;
    assert_eq!(machine.store.count("checkpoints"), 0);
    drop(server);
    let server = machine.start();
    let listed = server.get("checkpoints").await.ok();
    assert_eq!(listed["checkpoints"][0]["public"], false);
}

#[tokio::test]
async fn records_that_cannot_be_decoded_stop_the_start() {
    let mut store = MemoryStore::default();
    tinkers_local::RecordStore::commit(
        &mut store,
        &[tinkers_local::Change {
            table: "sessions",
            key: "s".to_owned(),
            value: Some("{".into()),
        }],
    )
    .unwrap();
    let engine = Arc::new(ScriptedEngine::new(Script::default()));
    let spawn = Arc::new(tinkers_local::TokioSpawn::new(
        tokio::runtime::Handle::current(),
    ));
    let clock = Arc::new(ManualClock::new());
    let built = tinkers_local::LocalServer::builder(engine, clock, spawn).store(store);
    let error = built.build().unwrap_err().to_string();
    assert!(error.contains("sessions \"s\""), "{error}");
}
