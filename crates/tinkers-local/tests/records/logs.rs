//! The usage, the storage, the audit log and traces.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tinkers_local::{AccessControl, AccessKey, LocalConfig, Script};

use super::support::{Response, TestServer, backward, sample, step, test_server, test_server_with};

const HOUR: Duration = Duration::from_secs(3600);
const TWO_HOURS: &str = "starting_on=1970-01-01T00:00:00Z&ending_before=1970-01-01T02:00:00Z";

async fn usage(server: &TestServer, period: &str) -> Response {
    server.get(&format!("billing/usage/events?{period}")).await
}

/// Returns the kind and the number of each usage event, with the hour.
fn counts(usage: &Value) -> Vec<(String, String, u64)> {
    let events = usage["data"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut all: Vec<_> = events
        .map(|event| {
            let info = &event["event_info"];
            let count = info["token_count"].as_u64().or(info["count"].as_u64());
            let hour = text(&event["bucket_start"])[11..13].to_owned();
            (hour, text(&info["type"]), count.unwrap())
        })
        .collect();
    all.sort();
    all
}

async fn done(server: &TestServer, route: &str, body: Value) {
    let id = server.submit(route, body).await;
    server.result(&id).await;
}

#[tokio::test]
async fn usage_counts_tokens_and_checkpoints_by_hour() {
    let server = test_server();
    let session = server.create_session().await;
    let model = server.create_model_in(&session, 0).await;
    done(&server, "forward_backward", backward(&model, 1)).await;
    done(&server, "forward_backward", backward(&model, 2)).await;
    // A repeated request is not counted again.
    done(&server, "forward_backward", backward(&model, 2)).await;
    done(&server, "optim_step", step(&model, 3)).await;
    let save = json!({ "model_id": model, "seq_id": 4, "path": "a" });
    done(&server, "save_weights", save).await;
    server.clock.advance(HOUR);
    let sampler = server.create_sampler().await;
    done(&server, "asample", sample(&sampler, 1)).await;
    let found = usage(&server, TWO_HOURS).await.ok();
    let expected = [
        ("00", "checkpoint", 1),
        ("00", "training", 6),
        ("01", "sampling_prefill", 2),
        ("01", "sampling_sample", 8),
    ];
    let expected: Vec<_> = expected
        .map(|(hour, kind, count)| (hour.to_owned(), kind.to_owned(), count))
        .to_vec();
    assert_eq!(counts(&found), expected);
    assert_eq!(found["data"][0]["session_id"], session);
    assert_eq!(found["data"][0]["base_model"], super::support::BASE);
    assert_eq!(found["sessions"].as_object().unwrap().len(), 2);
    let second = "starting_on=1970-01-01T01:00:00Z&ending_before=1970-01-01T02:00:00Z";
    let second = usage(&server, second).await.ok();
    assert_eq!(counts(&second), expected[2..]);
}

#[tokio::test]
async fn usage_of_an_invalid_period_is_refused() {
    let server = test_server();
    for (period, field) in [
        ("", "starting_on"),
        ("starting_on=1970-01-01T00:00:00Z", "ending_before"),
        (
            "starting_on=1970-01-01T00:30:00Z&ending_before=1970-01-01T01:00:00Z",
            "starting_on",
        ),
        (
            "starting_on=1970-01-01T00:00:00Z&ending_before=1970-01-01T00:00:01Z",
            "ending_before",
        ),
        (
            "starting_on=yesterday&ending_before=1970-01-01T01:00:00Z",
            "starting_on",
        ),
        (
            "starting_on=1970-01-01T00:00:00Z&ending_before=1970-01-01T00:00:00Z",
            "ending_before",
        ),
        (
            "starting_on=1970-01-01T00:00:00Z&ending_before=1970-01-15T01:00:00Z",
            "ending_before",
        ),
        (
            "starting_on=1970-01-01T01:00:00Z&ending_before=1970-01-01T02:00:00Z",
            "starting_on",
        ),
    ] {
        let refused = usage(&server, period).await;
        assert_eq!(refused.status, 422, "{period}");
        refused.assert_reason(field);
    }
    let longest = "starting_on=1970-01-01T00:00:00Z&ending_before=1970-01-15T00:00:00Z";
    assert_eq!(usage(&server, longest).await.status, 200);
}

#[tokio::test]
async fn storage_is_counted_by_project() {
    let server = test_server();
    let model = server.create_model().await;
    for (number, name) in [(1, "a"), (2, "b")] {
        let save = json!({ "model_id": model, "seq_id": number, "path": name });
        done(&server, "save_weights", save).await;
    }
    let copy = json!({ "source_path": format!("tinker://{model}/weights/a"), "destination_project_id": "p" });
    server.call("copy_weights", copy).await;
    let storage = async |query: &str| {
        let route = format!("billing/usage/checkpoints/current{query}");
        let found = server.get(&route).await.ok();
        let data = found["data"].as_array().unwrap().iter();
        data.map(|one| (one["project_id"].clone(), one["checkpoint_count"].clone()))
            .collect::<Vec<_>>()
    };
    let of_copy = (json!("p"), json!(1));
    let all = [(Value::Null, json!(2)), of_copy.clone()];
    assert_eq!(storage("").await, all);
    assert_eq!(storage("?project_id=p").await, [of_copy]);
    assert_eq!(storage("?project_id=other").await, []);
}

#[tokio::test]
async fn audit_log_lists_the_changes_of_a_day() {
    let server = test_server();
    let session = server.create_session().await;
    let model = server.create_model_in(&session, 0).await;
    let save = json!({ "model_id": model, "seq_id": 1, "path": "a" });
    done(&server, "save_weights", save).await;
    let run = format!("/api/v1/training_runs/{model}/checkpoints/weights/a");
    for (method, path, body) in [
        (Method::POST, format!("{run}/publish"), ""),
        (Method::DELETE, format!("{run}/publish"), ""),
        (
            Method::PUT,
            format!("{run}/ttl"),
            r#"{"ttl_seconds": 1000000}"#,
        ),
        (
            Method::PUT,
            format!("/api/v1/sessions/{session}/project"),
            r#"{"project_id": "p"}"#,
        ),
        (Method::DELETE, run.clone(), ""),
    ] {
        let changed = server.send(method, &path, body, &[]).await;
        assert!(changed.status < 300, "{path}: {}", changed.body);
    }
    let events = async |query: &str| {
        let log = server.get(&format!("audit{query}")).await.ok();
        let entries = log["entries"].as_array().unwrap().iter();
        let names = entries.map(|entry| entry["event"].as_str().unwrap().to_owned());
        names.collect::<Vec<_>>()
    };
    let all = [
        "checkpoint_saved",
        "checkpoint_published",
        "checkpoint_unpublished",
        "checkpoint_ttl_set",
        "session_project_assigned",
        "checkpoint_deleted",
    ];
    assert_eq!(events("").await, all);
    assert_eq!(events("?event_type=projects").await, all[4..5]);
    assert_eq!(
        events("?event_type=checkpoints&day=1970-01-01").await.len(),
        5
    );
    assert!(events("?event_type=teams").await.is_empty());
    assert!(events("?day=1970-01-02").await.is_empty());
    server.clock.advance(24 * HOUR);
    assert!(events("").await.is_empty());
    assert_eq!(events("?day=1970-01-01").await, all);
    for (query, field) in [
        ("event_type=all_of_them", "event_type"),
        ("day=1970-1-1", "day"),
        ("day=1970-01-01T00:00:00Z", "day"),
    ] {
        let refused = server.get(&format!("audit?{query}")).await;
        assert_eq!(refused.status, 422, "{query}");
        refused.assert_reason(field);
    }
}

#[tokio::test]
async fn expiry_of_a_checkpoint_is_logged() {
    let server = test_server();
    let model = server.create_model().await;
    let save = json!({ "model_id": model, "seq_id": 1, "path": "a", "ttl_seconds": 3600 });
    done(&server, "save_weights", save).await;
    server.clock.advance(HOUR);
    super::support::run_until_idle().await;
    let log = server.get("audit").await.ok();
    let last = log["entries"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(last["event"], "checkpoint_expired");
    let path = format!("tinker://{model}/weights/a");
    assert_eq!(last["event_details"]["tinker_path"], path);
}

#[tokio::test]
async fn logs_show_only_what_belongs_to_the_owner() {
    let mut config = LocalConfig::default();
    config.access = AccessControl::default()
        .with_access_key(AccessKey::new("tml-alice", "alice"))
        .with_access_key(AccessKey::new("tml-bob", "bob"));
    let server = test_server_with(config, Script::default());
    let send = async |key: &str, method: Method, path: &str, body: Value| {
        let path = format!("/api/v1/{path}");
        let headers = [("x-api-key", key)];
        server.send(method, &path, body.to_string(), &headers).await
    };
    let session = json!({ "tags": [], "user_metadata": {}, "sdk_version": "0.38.0" });
    let session = send("tml-alice", Method::POST, "create_session", session)
        .await
        .ok();
    let session = session["session_id"].as_str().unwrap().to_owned();
    let create = super::support::create_model(&session, 0);
    let created = send("tml-alice", Method::POST, "create_model", create)
        .await
        .ok();
    let model = created["model_id"].as_str().unwrap().to_owned();
    for (route, body) in [
        ("forward_backward", backward(&model, 1)),
        (
            "save_weights",
            json!({ "model_id": model, "seq_id": 2, "path": "a" }),
        ),
    ] {
        let id = send("tml-alice", Method::POST, route, body).await.id();
        let poll = json!({ "request_id": id });
        send("tml-alice", Method::POST, "retrieve_future", poll)
            .await
            .ok();
    }
    for (path, list) in [
        (format!("billing/usage/events?{TWO_HOURS}"), "data"),
        ("billing/usage/checkpoints/current".to_owned(), "data"),
        ("audit".to_owned(), "entries"),
    ] {
        let lists = async |key: &str| {
            let found = send(key, Method::GET, &path, Value::Null).await.ok();
            found[list].as_array().unwrap().len()
        };
        assert!(lists("tml-alice").await > 0, "{path}");
        assert_eq!(lists("tml-bob").await, 0, "{path}");
    }
    let trace = format!("sessions/{session}/trace_export");
    let foreign = send("tml-bob", Method::GET, &trace, Value::Null).await;
    assert_eq!(foreign.status, 404);
}

#[tokio::test]
async fn trace_is_downloaded_from_its_address_without_a_key() {
    let config = LocalConfig::default().with_api_key("tml-secret");
    let server = test_server_with(config, Script::default());
    let with_key = [("x-api-key", "tml-secret"), ("host", "tinker.test:8000")];
    let post = async |route: &str, body: Value| {
        let path = format!("/api/v1/{route}");
        server
            .send(Method::POST, &path, body.to_string(), &with_key)
            .await
    };
    let session = json!({ "tags": [], "user_metadata": {}, "sdk_version": "0.38.0" });
    let session = post("create_session", session).await.ok()["session_id"].clone();
    let session = session.as_str().unwrap();
    let created = post("create_model", super::support::create_model(session, 0))
        .await
        .ok();
    let model = created["model_id"].as_str().unwrap();
    let pass = post("forward_backward", backward(model, 1)).await.id();
    post("retrieve_future", json!({ "request_id": pass }))
        .await
        .ok();
    let path = format!("/api/v1/sessions/{session}/trace_export");
    let export = server.send(Method::GET, &path, "", &with_key).await.ok();
    assert_eq!(export["status"], "ready");
    let url = export["url"].as_str().unwrap();
    let path = url.strip_prefix("http://tinker.test:8000").unwrap();
    let trace = server.send(Method::GET, path, "", &[]).await.ok();
    let events = trace["traceEvents"].as_array().unwrap().iter();
    let begun: Vec<&str> = events
        .filter(|event| event["ph"] == "b" && !event["args"]["of"].is_null())
        .map(|event| event["name"].as_str().unwrap())
        .collect();
    assert_eq!(begun, ["create_model", "forward_backward"]);
    let export = format!("/api/v1/sessions/{session}/trace_export");
    let proxied = [with_key[0], with_key[1], ("x-forwarded-proto", "https")];
    let export = server.send(Method::GET, &export, "", &proxied).await.ok();
    let url = export["url"].as_str().unwrap();
    assert!(url.starts_with("https://tinker.test:8000/traces/"));
    let mut wrong = path.to_owned();
    wrong.pop();
    assert_eq!(server.send(Method::GET, &wrong, "", &[]).await.status, 404);
    assert_eq!(server.send(Method::POST, path, "", &[]).await.status, 405);
    server.clock.advance(HOUR);
    assert_eq!(server.send(Method::GET, path, "", &[]).await.status, 404);
    let unknown = server.send(
        Method::GET,
        "/api/v1/sessions/other/trace_export",
        "",
        &with_key,
    );
    assert_eq!(unknown.await.status, 404);
}
