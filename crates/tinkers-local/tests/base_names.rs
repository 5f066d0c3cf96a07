//! Base models by name, alias and fingerprint.

mod support;

use serde_json::{Value, json};
use support::{BASE, World, sample, world_with};
use tinkers_local::{CheckpointRecord, LocalConfig, Script};
use tinkers_wire::LoraConfig;

const OWN: &str = "0123456789abcdef";
const OTHER: &str = "fedcba9876543210";

/// A server whose model has an alias and a fingerprint, and these checkpoints by name, base model and fingerprint.
fn world(checkpoints: &[(&str, &str, Option<&str>)]) -> World {
    let mut script = Script::default();
    script.models[0].aliases = vec!["scripted".to_owned()];
    script.models[0].fingerprint = Some(OWN.to_owned());
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
            });
        }
    }
    world_with(LocalConfig::default(), script)
}

fn create(session: &str, number: u64, base: &str) -> Value {
    json!({ "session_id": session, "model_seq_id": number, "base_model": base, "lora_config": { "rank": 4 } })
}

/// A sample from the weights that `field` names.
fn free(field: &str, name: &str) -> Value {
    let mut body = sample("", 0);
    body.as_object_mut().unwrap().remove("sampling_session_id");
    body[field] = name.into();
    body
}

#[tokio::test]
async fn aliases_and_variants_name_the_same_base_model() {
    let world = world(&[]);
    let session = world.session().await;
    let names = [
        BASE,
        "scripted",
        "tinkers/scripted:peft:262144",
        "scripted:peft:1",
    ];
    for (name, number) in names.into_iter().zip(0..) {
        let made = world
            .post("create_model", create(&session, number, name))
            .await
            .id();
        let model = world.result(&made).await["model_id"].clone();
        let info = world
            .post("get_info", json!({ "model_id": model }))
            .await
            .ok();
        assert_eq!(info["model_name"], BASE, "{name}");
        let sampler =
            json!({ "session_id": session, "sampling_session_seq_id": number, "base_model": name });
        world.post("create_sampling_session", sampler).await.ok();
        let sampled = world.post("asample", free("base_model", name)).await.id();
        assert!(
            world.result(&sampled).await["sequences"].is_array(),
            "{name}"
        );
    }
    for name in [
        "tinkers",
        "Scripted",
        "scripted:peft:",
        "tinkers/scripted:1",
    ] {
        let refused = world.post("create_model", create(&session, 9, name)).await;
        assert_eq!(refused.status, 404, "{name}: {}", refused.body);
    }
}

#[tokio::test]
async fn a_checkpoint_belongs_by_fingerprint_whatever_the_names() {
    let same = [
        ("renamed", "an/older-name", Some(OWN)),
        ("older", BASE, None),
        ("alias", "scripted", None),
    ];
    let other = [
        ("other", BASE, Some(OTHER)),
        ("elsewhere", "not/here", Some(OTHER)),
    ];
    let world = world(&[&same[..], &other[..]].concat());
    let session = world.session().await;
    let requests = |name: &str, number: u64| {
        let training = format!("tinker://old:train:0/weights/{name}");
        let sampler = format!("tinker://old:train:0/sampler_weights/{name}");
        [
            ("asample", free("model_path", &sampler)),
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
            let answer = world.post(route, body).await;
            assert_eq!(answer.status, 200, "{route} {name}: {}", answer.body);
        }
    }
    for ((name, base, _), number) in other.into_iter().zip(10..) {
        for (route, body) in requests(name, number) {
            let refused = world.post(route, body).await;
            assert_eq!(refused.status, 422, "{route} {name}: {}", refused.body);
            let reason = refused.reason();
            for part in [base, BASE, &OWN[..12], &OTHER[..12]] {
                assert!(reason.contains(part), "{reason}");
            }
        }
    }
}
