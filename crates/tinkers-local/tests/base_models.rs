//! Lookup of base models by name, alias and fingerprint.

mod support;

use serde_json::{Value, json};
use support::{BASE, TestServer, sample, test_server_with};
use tinkers_local::{CheckpointRecord, LocalConfig, Script};
use tinkers_wire::LoraConfig;

const FINGERPRINT: &str = "0123456789abcdef";
const OTHER_FINGERPRINT: &str = "fedcba9876543210";

/// Starts a server whose base model has an alias and a fingerprint. Each of `checkpoints` consists of a checkpoint name, a base
/// model and a fingerprint.
fn server_with_checkpoints(checkpoints: &[(&str, &str, Option<&str>)]) -> TestServer {
    let mut script = Script::default();
    script.models[0].aliases = vec!["scripted".to_owned()];
    script.models[0].fingerprint = Some(FINGERPRINT.to_owned());
    for (name, base_model, fingerprint) in checkpoints {
        for kind in ["weights", "sampler_weights"] {
            script.checkpoints.push(CheckpointRecord {
                path: format!("tinker://old:train:0/{kind}/{name}")
                    .parse()
                    .unwrap(),
                base_model: (*base_model).to_owned(),
                base_fingerprint: fingerprint.map(str::to_owned),
                lora: LoraConfig::rank(4),
                saved_at: 1.0,
                expires_at: None,
                size_bytes: 1,
                user_metadata: None,
                run_metadata: None,
                owner: None,
                public: false,
                project_id: None,
            });
        }
    }
    test_server_with(LocalConfig::default(), script)
}

fn create(session: &str, number: u64, base: &str) -> Value {
    json!({ "session_id": session, "model_seq_id": number, "base_model": base, "lora_config": { "rank": 4 } })
}

/// Returns the request body of a sample without a sampling session. Its field `field` names the weights to sample from: it contains
/// `name`.
fn sessionless_sample(field: &str, name: &str) -> Value {
    let mut body = sample("", 0);
    body.as_object_mut().unwrap().remove("sampling_session_id");
    body[field] = name.into();
    body
}

#[tokio::test]
async fn names_with_alias_or_peft_suffix_resolve_to_the_base_model() {
    let server = server_with_checkpoints(&[]);
    let session = server.create_session().await;
    let names = [
        BASE,
        "scripted",
        "tinkers/scripted:peft:262144",
        "scripted:peft:1",
    ];
    for (name, number) in names.into_iter().zip(0..) {
        let created = server
            .submit("create_model", create(&session, number, name))
            .await;
        let model = server.result(&created).await["model_id"].clone();
        let info = server.call("get_info", json!({ "model_id": model })).await;
        assert_eq!(info["model_name"], BASE, "{name}");
        let sampler =
            json!({ "session_id": session, "sampling_session_seq_id": number, "base_model": name });
        server.call("create_sampling_session", sampler).await;
        let sampled = server
            .submit("asample", sessionless_sample("base_model", name))
            .await;
        assert!(
            server.result(&sampled).await["sequences"].is_array(),
            "{name}"
        );
    }
    for name in [
        "tinkers",
        "Scripted",
        "scripted:peft:",
        "tinkers/scripted:1",
    ] {
        let refused = server.post("create_model", create(&session, 9, name)).await;
        assert_eq!(refused.status, 404, "{name}: {}", refused.body);
    }
}

#[tokio::test]
async fn checkpoint_with_the_fingerprint_of_another_model_is_refused() {
    let same = [
        ("renamed", "an/older-name", Some(FINGERPRINT)),
        ("older", BASE, None),
        ("alias", "scripted", None),
    ];
    let other = [
        ("other", BASE, Some(OTHER_FINGERPRINT)),
        ("elsewhere", "not/here", Some(OTHER_FINGERPRINT)),
    ];
    let server = server_with_checkpoints(&[&same[..], &other[..]].concat());
    let session = server.create_session().await;
    let requests = |name: &str, number: u64| {
        let training = format!("tinker://old:train:0/weights/{name}");
        let sampler = format!("tinker://old:train:0/sampler_weights/{name}");
        [
            ("asample", sessionless_sample("model_path", &sampler)),
            (
                "create_sampling_session",
                json!({ "session_id": session, "sampling_session_seq_id": number, "model_path": sampler }),
            ),
            (
                "load_weights",
                json!({ "session_id": session, "model_seq_id": number, "path": training, "optimizer": true }),
            ),
        ]
    };
    for ((name, ..), number) in same.into_iter().zip(0..) {
        for (route, body) in requests(name, number) {
            let accepted = server.post(route, body).await;
            assert_eq!(accepted.status, 200, "{route} {name}: {}", accepted.body);
        }
    }
    for ((name, base, _), number) in other.into_iter().zip(10..) {
        for (route, body) in requests(name, number) {
            let refused = server.post(route, body).await;
            assert_eq!(refused.status, 422, "{route} {name}: {}", refused.body);
            let reason = refused.reason();
            for part in [base, BASE, &FINGERPRINT[..12], &OTHER_FINGERPRINT[..12]] {
                assert!(reason.contains(part), "{reason}");
            }
        }
    }
}
