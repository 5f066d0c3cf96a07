//! Requests encoded with the types of `tinkers-wire`, and the responses to them, are checked against the OpenAPI document.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tinkers_local::Route;
use tinkers_wire as wire;

use super::checked_server::CheckedServer;
use super::support::{BASE, datum, sample};

/// Decodes `body` as the type `T` and encodes the result again. Panics if a field is lost thereby.
fn encoded<T: Serialize + DeserializeOwned>(body: Value) -> Option<Value> {
    let decoded: T = serde_json::from_value(body.clone()).expect("the type decodes the body");
    let encoded = serde_json::to_value(&decoded).expect("the type encodes the body");
    let (before, after) = (body.as_object().unwrap(), encoded.as_object().unwrap());
    let lost: Vec<&String> = before
        .keys()
        .filter(|name| !after.contains_key(*name))
        .collect();
    assert!(lost.is_empty(), "{lost:?}");
    Some(encoded)
}

#[tokio::test]
async fn client_requests_and_responses_match_the_openapi_document() {
    let server = CheckedServer::new();
    let text = |response: &Value| response.as_str().unwrap().to_owned();
    for route in [Route::Health, Route::Capabilities] {
        server.call(route, &[], None).await.ok();
    }
    for route in [Route::ClientConfig, Route::DynamicConfig] {
        let body = encoded::<wire::ConfigRequest>(json!({ "sdk_version": "0.38.0" }));
        server.call(route, &[], body).await.ok();
    }
    let body = json!({ "tags": ["t"], "user_metadata": { "k": "v" }, "sdk_version": "0.38.0", "project_id": "p", "display_name": "d" });
    let created = server.call(
        Route::CreateSession,
        &[],
        encoded::<wire::CreateSession>(body),
    );
    let session = text(&created.await.ok()["session_id"]);
    let body = encoded::<wire::Heartbeat>(json!({ "session_id": session }));
    server.call(Route::Heartbeat, &[], body).await.ok();
    let body = json!({ "events": [{ "event": "SESSION_START" }], "session_id": session });
    server
        .call(Route::Telemetry, &[], encoded::<wire::Telemetry>(body))
        .await
        .ok();

    let lora = json!({ "rank": 8, "seed": 7, "train_unembed": true, "train_mlp": true, "train_attn": false });
    let body = json!({ "session_id": session, "model_seq_id": 0, "base_model": BASE, "user_metadata": { "k": "v" }, "lora_config": lora, "optimizer_config": { "type": "adamw" } });
    let created = server
        .call(Route::CreateModel, &[], encoded::<wire::CreateModel>(body))
        .await;
    let model = text(&server.result(created).await["model_id"]);
    let of_model = || encoded::<wire::ModelRef>(json!({ "model_id": model }));
    server.call(Route::ModelInfo, &[], of_model()).await.ok();

    let pass = wire::PassRequest {
        model_id: model.clone(),
        seq_id: 1,
        mode: wire::PassMode::ForwardBackward,
        data: vec![serde_json::from_value(datum()).unwrap()],
        loss: wire::LossFn::Ppo.with("clip_low_threshold", 0.8),
    };
    let body = serde_json::from_slice(&pass.to_json()).unwrap();
    // This request fails, since the loss needs more inputs than the datum has. Error responses are documented, too.
    assert_eq!(
        server
            .call(Route::ForwardBackward, &[], Some(body))
            .await
            .status,
        422
    );
    for (number, mode, route) in [
        (1, wire::PassMode::ForwardBackward, Route::ForwardBackward),
        (2, wire::PassMode::Forward, Route::Forward),
    ] {
        let loss = wire::LossFn::CrossEntropy.into();
        let pass = wire::PassRequest {
            seq_id: number,
            mode,
            loss,
            ..pass.clone()
        };
        let body = serde_json::from_slice(&pass.to_json()).unwrap();
        let accepted = server.call(route, &[], Some(body)).await;
        assert!(server.result(accepted).await["loss_fn_outputs"].is_array());
    }
    let adam = json!({ "learning_rate": 0.1, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.0, "grad_clip_norm": 1.0 });
    let body = json!({ "model_id": model, "seq_id": 3, "adam_params": adam });
    let step = server
        .call(Route::OptimStep, &[], encoded::<wire::OptimStep>(body))
        .await;
    server.result(step).await;

    let body = json!({ "model_id": model, "seq_id": 4, "path": "w", "ttl_seconds": 3600, "overwrite": true, "user_metadata": { "k": "v" } });
    let save = server
        .call(Route::SaveWeights, &[], encoded::<wire::SaveWeights>(body))
        .await;
    let path = text(&server.result(save).await["path"]);
    let body = json!({ "model_id": model, "seq_id": 5, "path": "s", "kind": "snapshot", "ttl_seconds": 3600, "user_metadata": {} });
    let save = server
        .call(
            Route::SaveWeightsForSampler,
            &[],
            encoded::<wire::SaveWeightsForSampler>(body),
        )
        .await;
    server.result(save).await;
    let body = json!({ "model_id": model, "seq_id": 6, "sampling_session_seq_id": 0 });
    let save = server
        .call(
            Route::SaveWeightsForSampler,
            &[],
            encoded::<wire::SaveWeightsForSampler>(body),
        )
        .await;
    let sampler = text(&server.result(save).await["sampling_session_id"]);
    let body = encoded::<wire::WeightsInfoRequest>(json!({ "tinker_path": path }));
    server.call(Route::WeightsInfo, &[], body).await.ok();
    for body in [
        json!({ "path": path, "optimizer": true, "session_id": session, "model_seq_id": 1, "base_model": BASE, "user_metadata": {}, "optimizer_config": { "type": "adamw" }, "weights_access_token": "t" }),
        json!({ "path": path, "optimizer": false, "model_id": model, "seq_id": 7 }),
    ] {
        let load = server
            .call(Route::LoadWeights, &[], encoded::<wire::LoadWeights>(body))
            .await;
        server.result(load).await;
    }

    let body = json!({ "session_id": session, "sampling_session_seq_id": 1, "base_model": BASE, "model_path": path });
    server
        .call(
            Route::CreateSamplingSession,
            &[],
            encoded::<wire::CreateSamplingSession>(body),
        )
        .await
        .ok();
    let mut body = sample(&sampler, 0);
    body["sampling_params"] = json!({ "max_tokens": 4, "seed": 1, "stop": ["x"], "temperature": 0.5, "top_k": -1, "top_p": 0.9 });
    for (field, value) in [
        ("prompt_logprobs", json!(true)),
        ("topk_prompt_logprobs", json!(2)),
        ("topk_sample_logprobs", json!(1)),
        (
            "target_prompt_logprobs",
            json!({ "data": [1], "dtype": "int64", "shape": [1, 1] }),
        ),
        ("prompt_alt_tokens_k", json!(1)),
        ("prompt_logprobs_last_n", json!(1)),
        ("record_stability_info", json!(false)),
    ] {
        body[field] = value;
    }
    let accepted = server
        .call(Route::Sample, &[], encoded::<wire::SampleRequest>(body))
        .await;
    assert!(server.result(accepted.clone()).await["sequences"].is_array());
    // Stop sequences may be text or tokens.
    for (number, stop) in [(1, json!("x")), (2, json!([1, 2])), (3, json!([]))] {
        let mut body = sample(&sampler, number);
        body["sampling_params"]["stop"] = stop;
        server.call(Route::Sample, &[], Some(body)).await.ok();
    }
    let target = json!({ "type": "sampling_session", "sampling_session_id": sampler, "cloned_sampler_id": 0 });
    let body = json!({ "target": target, "prev_cursor": 0, "timeout": 0.0, "retrieved_request_ids": [accepted.id()] });
    server
        .call(
            Route::RetrieveFutures,
            &[],
            encoded::<wire::RetrieveFutures>(body),
        )
        .await
        .ok();

    for (route, ids) in [
        (Route::Sessions, vec![]),
        (Route::Session, vec![session.as_str()]),
        (Route::Sampler, vec![sampler.as_str()]),
        (Route::TrainingRuns, vec![]),
        (Route::TrainingRun, vec![model.as_str()]),
        (Route::RunCheckpoints, vec![model.as_str()]),
        (Route::Checkpoints, vec![]),
    ] {
        server.call(route, &ids, None).await.ok();
    }
    let checkpoint = [model.as_str(), "weights", "w"];
    server
        .call(Route::PublishCheckpoint, &checkpoint, None)
        .await
        .ok();
    let ttl = encoded::<wire::SetCheckpointTtl>(json!({ "ttl_seconds": 3600 }));
    server
        .call(Route::CheckpointTtl, &checkpoint, ttl)
        .await
        .ok();
    let copy = json!({ "source_path": format!("tinker://{model}/weights/w"), "destination_project_id": "p", "ttl_seconds": 3600 });
    let copy = encoded::<wire::CopyWeights>(copy);
    server.call(Route::CopyWeights, &[], copy).await.ok();
    let project = encoded::<wire::AssignSessionProject>(json!({ "project_id": "p" }));
    server
        .call(Route::SessionProject, &[&session], project)
        .await
        .ok();
    let search = json!({ "session_id": session, "project_ids": ["p"], "user_metadata": {}, "display_name": "x", "owner": { "type": "own" }, "statuses": [{ "type": "active" }], "limit": 1 });
    let search = encoded::<wire::SessionSearch>(search);
    server.call(Route::SearchSessions, &[], search).await.ok();
    for (route, ids) in [
        (Route::TraceExport, vec![session.as_str()]),
        (Route::Audit, vec![]),
        (Route::CheckpointStorage, vec![]),
    ] {
        server.call(route, &ids, None).await.ok();
    }
    let search = json!({ "project_ids": ["p"], "user_metadata": {}, "checkpoint_type": "training", "owner": { "type": "accessible" }, "base_models": ["tinkers/scripted"], "limit": 1 });
    let search = encoded::<wire::CheckpointSearch>(search);
    server
        .call(Route::SearchCheckpoints, &[], search)
        .await
        .ok();
    for (route, ids) in [
        (
            Route::DeleteCheckpoint,
            vec![model.as_str(), "weights", "w"],
        ),
        (
            Route::DeleteEscapedCheckpoint,
            vec![model.as_str(), "sampler_weights%2Fs"],
        ),
    ] {
        assert_eq!(server.call(route, &ids, None).await.status, 204);
        assert_eq!(server.call(route, &ids, None).await.status, 404);
    }
    let unload = server.call(Route::UnloadModel, &[], of_model()).await;
    server.result(unload).await;
    assert_eq!(
        server.call(Route::ModelInfo, &[], of_model()).await.status,
        410
    );
    let body =
        encoded::<wire::FinishSession>(json!({ "reason": { "type": "success" }, "detail": null }));
    server
        .call(Route::FinishSession, &[&session], body)
        .await
        .ok();
}
