//! API keys with separate owners and permissions.

mod support;

use http::Method;
use serde_json::{Value, json};
use support::{
    BASE, Response, TestServer, create_model, is_pending, sample, step, test_server_with,
};
use tinkers_local::{AccessControl, AccessKey, LocalConfig, Permission, Script};

const ALICE: &str = "tml-alice";
const ALICE_TOO: &str = "tml-alice-too";
const BOB: &str = "tml-bob";

fn server() -> TestServer {
    let access = AccessControl::default()
        .with_access_key(AccessKey::new(ALICE, "alice"))
        .with_access_key(AccessKey::new(ALICE_TOO, "alice"))
        .with_access_key(AccessKey::new(BOB, "bob"));
    let mut config = LocalConfig::default();
    config.access = access;
    test_server_with(config, Script::default())
}

/// A client of the test server with an API key.
#[derive(Clone, Copy)]
struct Client<'a>(&'a TestServer, &'a str);

impl Client<'_> {
    async fn send(self, method: Method, path: &str, body: impl ToString) -> Response {
        let path = format!("/api/v1/{path}");
        let headers = [("x-api-key", self.1)];
        self.0.send(method, &path, body.to_string(), &headers).await
    }

    async fn post(self, path: &str, body: Value) -> Response {
        self.send(Method::POST, path, body).await
    }

    async fn get(self, path: &str) -> Response {
        self.send(Method::GET, path, "").await
    }

    async fn poll(self, id: &str) -> Response {
        self.post("retrieve_future", json!({ "request_id": id }))
            .await
    }

    /// Submits a request and returns its result.
    async fn call(self, path: &str, body: Value) -> Value {
        let id = self.post(path, body).await.id();
        self.poll(&id).await.ok()
    }

    async fn create_session(self) -> String {
        let body = json!({ "tags": [], "user_metadata": {}, "sdk_version": "0.38.0" });
        text(&self.post("create_session", body).await.ok()["session_id"])
    }

    async fn create_sampler(self, session: &str) -> String {
        let body =
            json!({ "session_id": session, "sampling_session_seq_id": 0, "base_model": BASE });
        let created = self.post("create_sampling_session", body).await.ok();
        text(&created["sampling_session_id"])
    }

    async fn objects(self) -> Objects {
        let session = self.create_session().await;
        let created = self.call("create_model", create_model(&session, 0)).await;
        let model = text(&created["model_id"]);
        let save = json!({ "model_id": model, "path": "a", "seq_id": 1 });
        let checkpoint = text(&self.call("save_weights", save).await["path"]);
        let sampler = self.create_sampler(&session).await;
        let request = self.post("asample", sample(&sampler, 1)).await.id();
        Objects {
            session,
            model,
            checkpoint,
            sampler,
            request,
        }
    }
}

/// The ids of objects of one owner.
struct Objects {
    session: String,
    model: String,
    checkpoint: String,
    sampler: String,
    request: String,
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value}"))
        .to_owned()
}

#[tokio::test]
async fn listings_contain_only_objects_of_the_owner() {
    let server = server();
    let (alice, bob) = (Client(&server, ALICE), Client(&server, BOB));
    let (of_alice, of_bob) = (alice.objects().await, bob.objects().await);
    for (client, objects, name) in [(alice, &of_alice, "alice"), (bob, &of_bob, "bob")] {
        let sessions = client.get("sessions").await.ok();
        assert_eq!(sessions["sessions"], json!([objects.session]));
        let runs = client.get("training_runs").await.ok();
        assert_eq!(runs["training_runs"].as_array().unwrap().len(), 1);
        assert_eq!(runs["training_runs"][0]["training_run_id"], *objects.model);
        assert_eq!(runs["training_runs"][0]["model_owner"], name);
        let checkpoints = client.get("checkpoints").await.ok();
        assert_eq!(checkpoints["checkpoints"].as_array().unwrap().len(), 1);
        let path = &checkpoints["checkpoints"][0]["tinker_path"];
        assert_eq!(path, &*objects.checkpoint);
    }
}

/// Returns requests that name the objects, each of which would succeed for their owner.
fn requests(of: &Objects) -> Vec<(Method, String, Value)> {
    let Objects {
        session,
        model,
        checkpoint,
        sampler,
        request,
    } = of;
    let post = |path: &str, body| (Method::POST, path.to_owned(), body);
    let get = |path: String| (Method::GET, path, json!(null));
    let finish = json!({ "reason": { "type": "success" }, "detail": null });
    vec![
        get(format!("sessions/{session}")),
        get(format!("samplers/{sampler}")),
        get(format!("training_runs/{model}")),
        get(format!("training_runs/{model}/checkpoints")),
        post("session_heartbeat", json!({ "session_id": session })),
        post("create_model", create_model(session, 1)),
        post("get_info", json!({ "model_id": model })),
        post("optim_step", step(model, 2)),
        post(
            "save_weights",
            json!({ "model_id": model, "path": "b", "seq_id": 3 }),
        ),
        post(
            "save_weights_for_sampler",
            json!({ "model_id": model, "path": "c", "seq_id": 4 }),
        ),
        post(
            "load_weights",
            json!({ "model_id": model, "path": checkpoint, "seq_id": 5, "optimizer": false }),
        ),
        post("weights_info", json!({ "tinker_path": checkpoint })),
        post(
            "create_sampling_session",
            json!({ "session_id": session, "sampling_session_seq_id": 1, "base_model": BASE }),
        ),
        post("asample", sample(sampler, 2)),
        post("retrieve_future", json!({ "request_id": request })),
        post("cancel_future", json!({ "request_id": request })),
        post(
            "retrieve_futures",
            json!({ "target": { "type": "sampling_session", "sampling_session_id": sampler, "cloned_sampler_id": 0 }, "prev_cursor": 0, "timeout": 0, "retrieved_request_ids": [] }),
        ),
        (
            Method::POST,
            format!("training_runs/{model}/checkpoints/weights/a/publish"),
            json!(null),
        ),
        (
            Method::DELETE,
            format!("training_runs/{model}/checkpoints/weights/a/publish"),
            json!(null),
        ),
        (
            Method::PUT,
            format!("training_runs/{model}/checkpoints/weights/a/ttl"),
            json!({ "ttl_seconds": 3600 }),
        ),
        (
            Method::PUT,
            format!("sessions/{session}/project"),
            json!({ "project_id": "p" }),
        ),
        post(
            "copy_weights",
            json!({ "source_path": checkpoint, "destination_project_id": "p" }),
        ),
        (
            Method::DELETE,
            format!("training_runs/{model}/checkpoints/weights/a"),
            json!(null),
        ),
        post("unload_model", json!({ "model_id": model })),
        post(&format!("sessions/{session}/finish"), finish),
    ]
}

#[tokio::test]
async fn foreign_objects_are_refused_as_if_they_did_not_exist() {
    let server = server();
    let (alice, bob) = (Client(&server, ALICE), Client(&server, BOB));
    let objects = alice.objects().await;
    for (method, path, body) in requests(&objects) {
        let refused = bob.send(method, &path, &body).await;
        assert_eq!(refused.status, 404, "{path}: {}", refused.body);
        let reason = refused.reason();
        let is_hidden = reason.contains("on this server") || reason.contains("to this server");
        assert!(is_hidden, "{path}: {reason}");
    }
    // Nothing has changed for the owner, even with another key of it.
    for key in [ALICE, ALICE_TOO] {
        let objects = Client(&server, key).objects().await;
        for (method, path, body) in requests(&objects) {
            let accepted = alice.send(method, &path, &body).await;
            assert!(accepted.status < 300, "{path}: {}", accepted.body);
        }
    }
    for (method, path, body) in requests(&objects) {
        let accepted = alice.send(method, &path, &body).await;
        assert!(accepted.status < 300, "{path}: {}", accepted.body);
    }
}

#[tokio::test]
async fn foreign_checkpoint_can_be_neither_loaded_nor_sampled_from() {
    let server = server();
    let (alice, bob) = (Client(&server, ALICE), Client(&server, BOB));
    let path = alice.objects().await.checkpoint;
    let own = bob.objects().await;
    let session = &own.session;
    for (route, body) in [
        (
            "load_weights",
            json!({ "session_id": session, "model_seq_id": 1, "path": path, "optimizer": false }),
        ),
        (
            "load_weights",
            json!({ "model_id": own.model, "seq_id": 2, "path": path, "optimizer": false }),
        ),
        (
            "create_sampling_session",
            json!({ "session_id": session, "sampling_session_seq_id": 1, "model_path": path }),
        ),
        (
            "asample",
            json!({ "model_path": path, "prompt": { "chunks": [{ "type": "encoded_text", "tokens": [1] }] }, "sampling_params": { "max_tokens": 1 } }),
        ),
    ] {
        let refused = bob.post(route, body.clone()).await;
        assert_eq!(refused.status, 404, "{route} {body}: {}", refused.body);
        refused.assert_reason("no checkpoint");
    }
}

#[tokio::test]
async fn foreign_request_gives_up_no_sequence_number_of_a_model() {
    let server = server();
    let (alice, bob) = (Client(&server, ALICE), Client(&server, BOB));
    let model = alice.objects().await.model;
    // The number of an invalid request is given up, so that later requests do not wait for it.
    let invalid = json!({ "model_id": model, "seq_id": 2, "adam_params": "none" });
    assert_eq!(bob.post("optim_step", invalid).await.status, 422);
    assert_eq!(bob.post("optim_step", step(&model, 2)).await.status, 404);
    let later = alice.post("optim_step", step(&model, 3)).await.id();
    let mut poll = Box::pin(alice.poll(&later));
    assert!(is_pending(&mut poll).await, "waits for number 2");
    alice.call("optim_step", step(&model, 2)).await;
    assert_eq!(poll.await.status, 200);
}

#[tokio::test]
async fn restart_keeps_the_owners_of_checkpoints() {
    let server = server();
    let (alice, bob) = (Client(&server, ALICE), Client(&server, BOB));
    let objects = alice.objects().await;
    server.local().restart();
    let run = format!("training_runs/{}", objects.model);
    assert_eq!(alice.get(&run).await.ok()["model_owner"], "alice");
    assert_eq!(bob.get(&run).await.status, 404);
    assert_eq!(bob.get("checkpoints").await.ok()["checkpoints"], json!([]));
    let deletion = format!("{run}/checkpoints/weights/a");
    let search = r#"{"owner": {"type": "accessible"}, "limit": 10}"#;
    for (client, has_any) in [(alice, true), (bob, false)] {
        let found = client
            .send(Method::POST, "checkpoints/search", search)
            .await;
        let found = found.ok()["checkpoints"].as_array().unwrap().len();
        assert_eq!(found > 0, has_any);
    }
    // A published checkpoint may be read by all users and changed by its owner.
    let info =
        json!({ "tinker_path": format!("tinker://{}/weights/a", objects.model) }).to_string();
    assert_eq!(
        bob.send(Method::POST, "weights_info", &info).await.status,
        404
    );
    let publication = format!("{deletion}/publish");
    assert_eq!(bob.send(Method::POST, &publication, "").await.status, 404);
    alice.send(Method::POST, &publication, "").await.ok();
    bob.send(Method::POST, "weights_info", &info).await.ok();
    for (method, path, body) in [
        (Method::DELETE, &publication, ""),
        (
            Method::PUT,
            &format!("{deletion}/ttl"),
            r#"{"ttl_seconds": 9}"#,
        ),
    ] {
        assert_eq!(bob.send(method, path, body).await.status, 404, "{path}");
    }
    assert_eq!(bob.send(Method::DELETE, &deletion, "").await.status, 404);
    assert_eq!(alice.send(Method::DELETE, &deletion, "").await.status, 204);
}

#[tokio::test]
async fn request_without_its_permission_is_refused_by_name() {
    let none = [];
    let keys = [
        ("tml-none", &none[..]),
        ("tml-train", &[Permission::Train]),
        ("tml-sample", &[Permission::Sample]),
        ("tml-read", &[Permission::Read]),
        ("tml-manage", &[Permission::Manage]),
    ];
    let all = AccessControl::default().with_access_key(AccessKey::new(ALICE, "alice"));
    let mut config = LocalConfig::default();
    config.access = keys.iter().fold(all, |access, (key, permissions)| {
        let key = AccessKey::new(*key, "alice").with_permissions(permissions.iter().copied());
        access.with_access_key(key)
    });
    let server = test_server_with(config, Script::default());
    let objects = Client(&server, ALICE).objects().await;
    for (method, path, body) in requests(&objects) {
        let needed: &[&str] = match path.split('/').next().unwrap() {
            "session_heartbeat" | "retrieve_future" | "retrieve_futures" | "cancel_future" => &[],
            "sessions" if path.ends_with("finish") => &[],
            "create_sampling_session" | "asample" => &["sample"],
            "samplers" => &["sample", "read"],
            "get_info" | "weights_info" => &["train", "read"],
            "copy_weights" => &["manage"],
            "sessions" | "training_runs" if method != Method::GET => &["manage"],
            "sessions" | "training_runs" => &["read"],
            _ => &["train"],
        };
        for (key, _) in keys {
            let permission = key.strip_prefix("tml-").unwrap();
            if needed.is_empty() || needed.contains(&permission) {
                continue;
            }
            let refused = Client(&server, key)
                .send(method.clone(), &path, &body)
                .await;
            assert_eq!(refused.status, 403, "{path} with {key}: {}", refused.body);
            refused.assert_reason(&format!("permission \"{}\"", needed[0]));
        }
        let key = format!("tml-{}", needed.first().unwrap_or(&"none"));
        let accepted = Client(&server, &key).send(method, &path, &body).await;
        assert!(
            accepted.status < 300,
            "{path} with {key}: {}",
            accepted.body
        );
    }
}

#[tokio::test]
async fn checkpoints_without_an_owner_belong_to_keys_without_one() {
    let server = test_server_with(LocalConfig::default(), Script::default());
    let anyone = Client(&server, "tml-any");
    let objects = anyone.objects().await;
    let run = format!("training_runs/{}", objects.model);
    assert_eq!(anyone.get(&run).await.ok()["model_owner"], "local");
    assert_eq!(Client(&server, "").get(&run).await.status, 200);
}

#[tokio::test]
async fn copy_of_a_foreign_checkpoint_has_none_of_its_metadata() {
    let server = server();
    let (alice, bob) = (Client(&server, ALICE), Client(&server, BOB));
    let session = alice.create_session().await;
    let mut create = create_model(&session, 0);
    create["user_metadata"] = json!({ "run": "secret" });
    let model = text(&alice.call("create_model", create).await["model_id"]);
    let save = json!({ "model_id": model, "path": "a", "seq_id": 1, "user_metadata": { "save": "secret" } });
    let path = text(&alice.call("save_weights", save).await["path"]);
    let publication = format!("training_runs/{model}/checkpoints/weights/a/publish");
    alice.send(Method::POST, &publication, "").await.ok();
    let copy = json!({ "source_path": path, "destination_project_id": "p" });
    for (client, run_metadata, metadata) in [
        (
            alice,
            json!({ "run": "secret" }),
            json!({ "save": "secret" }),
        ),
        (bob, json!(null), json!(null)),
    ] {
        let copied = client.post("copy_weights", copy.clone()).await.ok();
        let runs = client.get("training_runs?project_id=p").await.ok();
        assert_eq!(runs["cursor"]["total_count"], 1, "{runs}");
        let run = &runs["training_runs"][0];
        assert_eq!(run["user_metadata"], run_metadata);
        let stored = &run["last_checkpoint"];
        assert_eq!(stored["tinker_path"], copied["tinker_path"]);
        assert_eq!(stored["user_metadata"], metadata);
    }
}

#[tokio::test]
async fn search_by_user_finds_only_objects_of_the_caller() {
    let server = server();
    let (alice, bob) = (Client(&server, ALICE), Client(&server, BOB));
    let (objects, _) = (alice.objects().await, bob.objects().await);
    let (own, foreign) = ("tml:user:alice", "tml:user:bob");
    for (urns, has_any) in [
        (vec![own], true),
        (vec![foreign, own], true),
        (vec![foreign], false),
        (vec!["alice"], false),
    ] {
        let search = json!({ "owner": { "type": "user", "owner_urns": urns }, "limit": 10 });
        let sessions = alice.post("sessions/search", search.clone()).await.ok();
        let found = sessions["sessions"].as_array().expect("a list");
        assert_eq!(found.len(), usize::from(has_any), "{search}: {sessions}");
        for one in found {
            assert_eq!(one["session_id"], *objects.session);
            assert_eq!(one["owner"], "alice");
            assert_eq!(one["checkpoints_count"], 1);
        }
        let checkpoints = alice.post("checkpoints/search", search.clone()).await.ok();
        let found = checkpoints["checkpoints"].as_array().expect("a list");
        assert_eq!(found.len(), usize::from(has_any), "{search}: {checkpoints}");
        for one in found {
            assert_eq!(one["tinker_path"], *objects.checkpoint);
        }
    }
}
