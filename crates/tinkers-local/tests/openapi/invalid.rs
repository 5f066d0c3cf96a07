//! Bodies that violate the OpenAPI document are refused by the server.

use serde_json::{Value, json};
use tinkers_local::Route;

use super::checked_server::CheckedServer;
use super::support::{backward, create_model, sample, step};

/// Returns a request body that is valid except for unknown ids, or `None` for a route without a request body.
fn valid_body(route: Route) -> Option<Value> {
    let path = "tinker://m/weights/a";
    let mut forward = backward("m", 1);
    forward["forward_input"] = forward["forward_backward_input"].clone();
    Some(match route {
        Route::ClientConfig | Route::DynamicConfig => json!({ "sdk_version": "0.38.0" }),
        Route::Telemetry => json!({ "events": [], "session_id": "s" }),
        Route::CreateSession => json!({ "tags": [], "user_metadata": {}, "sdk_version": "0.38.0" }),
        Route::Heartbeat => json!({ "session_id": "s" }),
        Route::FinishSession => json!({ "reason": { "type": "success" }, "detail": null }),
        Route::CreateModel => create_model("s", 0),
        Route::ModelInfo | Route::UnloadModel => json!({ "model_id": "m" }),
        Route::Forward => forward,
        Route::ForwardBackward => backward("m", 1),
        Route::OptimStep => step("m", 1),
        Route::SaveWeights => json!({ "model_id": "m", "path": "w", "seq_id": 1 }),
        Route::SaveWeightsForSampler => json!({ "model_id": "m", "path": "w", "seq_id": 1 }),
        Route::LoadWeights => json!({ "path": path, "optimizer": true, "model_id": "m" }),
        Route::WeightsInfo => json!({ "tinker_path": path }),
        Route::CreateSamplingSession => {
            json!({ "session_id": "s", "sampling_session_seq_id": 0, "base_model": "b" })
        }
        Route::Sample => sample("s", 0),
        Route::RetrieveFuture | Route::CancelFuture => json!({ "request_id": "r" }),
        Route::RetrieveFutures => json!({
            "target": { "type": "sampling_session", "sampling_session_id": "s", "cloned_sampler_id": 0 },
            "prev_cursor": 0,
            "retrieved_request_ids": [],
        }),
        Route::SearchSessions | Route::SearchCheckpoints => json!({ "limit": 1 }),
        Route::SessionProject => json!({ "project_id": "p" }),
        Route::CheckpointTtl => json!({ "ttl_seconds": 3600 }),
        Route::CopyWeights => json!({ "source_path": path, "destination_project_id": "p" }),
        _ => return None,
    })
}

/// Returns a value of a different JSON type than `value`.
fn other(value: &Value) -> Value {
    match value {
        Value::String(_) => json!(7),
        _ => json!("other"),
    }
}

#[tokio::test]
async fn required_request_fields_must_be_present_with_the_right_type() {
    let server = CheckedServer::new();
    let mut tried = 0;
    for route in Route::ALL {
        let schema = server.body(*route);
        let Some(valid) = valid_body(*route) else {
            assert!(schema.is_null(), "{route:?} has a body");
            continue;
        };
        let names = route.path().split('/').filter(|part| part.starts_with('{'));
        let ids = names.map(|name| if name == "{kind}" { "weights" } else { "s" });
        let ids: Vec<&str> = ids.collect();
        let violations = server.violations(schema, &valid);
        assert!(violations.is_empty(), "{route:?}: {violations:?}");
        // The body is valid. The request may fail because its ids are unknown.
        let read = server.send(*route, &ids, Some(valid.clone())).await;
        assert!(
            [200, 404].contains(&read.status),
            "{route:?}: {} {}",
            read.status,
            read.body
        );
        let required = server.resolved(schema)["required"].as_array();
        let required: Vec<&str> = required
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        for field in required {
            let mut missing = valid.clone();
            missing.as_object_mut().unwrap().remove(field);
            let mut wrong = valid.clone();
            wrong[field] = other(&valid[field]);
            for body in [missing, wrong] {
                assert!(
                    !server.violations(schema, &body).is_empty(),
                    "{route:?} {field}: {body}"
                );
                let response = server.send(*route, &ids, Some(body)).await;
                assert_eq!(response.status, 422, "{route:?} {field}: {}", response.body);
                tried += 1;
            }
        }
    }
    assert!(tried >= 40, "{tried}");
}

#[tokio::test]
async fn nested_request_fields_must_have_the_right_type() {
    let server = CheckedServer::new();
    for (route, pointer, value) in [
        (Route::CreateModel, "/lora_config/rank", json!("8")),
        (Route::CreateModel, "/lora_config/rank", json!(-1)),
        (Route::OptimStep, "/adam_params/learning_rate", json!(null)),
        (
            Route::ForwardBackward,
            "/forward_backward_input/data/0/model_input/chunks/0/tokens/0",
            json!("a"),
        ),
        (
            Route::ForwardBackward,
            "/forward_backward_input/data/0/loss_fn_inputs/weights/dtype",
            json!("float16"),
        ),
        (
            Route::ForwardBackward,
            "/forward_backward_input/data/0/loss_fn_inputs/weights/data",
            json!(1.0),
        ),
        (Route::Sample, "/sampling_params/stop", json!(7)),
        (Route::Sample, "/sampling_params/max_tokens", json!(-1)),
        (Route::Sample, "/num_samples", json!(1.5)),
        (Route::RetrieveFutures, "/target/type", json!("model")),
    ] {
        let mut body = valid_body(route).unwrap();
        *body.pointer_mut(pointer).unwrap() = value;
        assert!(
            !server.violations(server.body(route), &body).is_empty(),
            "{pointer}: {body}"
        );
        let response = server.send(route, &[], Some(body)).await;
        assert_eq!(response.status, 422, "{pointer}: {}", response.body);
    }
}
