//! Each route at its best.

mod support;

use serde_json::json;
use support::{BASE, backward, sample, step, world};

#[tokio::test]
async fn a_model_is_trained_saved_and_sampled_from() {
    let world = world();
    let model = world.model().await;
    assert!(
        model.starts_with("session-") && model.ends_with(":train:0"),
        "{model}"
    );
    let info = world
        .post("get_info", json!({ "model_id": model }))
        .await
        .ok();
    assert_eq!(info["model_data"]["model_name"], BASE);
    assert_eq!(info["lora_rank"], 8);
    let pass = world
        .post("forward_backward", backward(&model, 1))
        .await
        .id();
    let step = world.post("optim_step", step(&model, 2)).await.id();
    let pass = world.result(&pass).await;
    assert_eq!(pass["metrics"]["loss:sum"], 12.0);
    assert_eq!(
        pass["loss_fn_outputs"][0]["logprobs"]["data"],
        json!([-4.0, -4.0, -4.0])
    );
    assert!(world.result(&step).await["metrics"].is_object());
    let mut forward = backward(&model, 3);
    forward["forward_input"] = forward["forward_backward_input"].take();
    let forward = world.post("forward", forward).await.id();
    assert_eq!(world.result(&forward).await["metrics"]["loss:sum"], 6.0);
    let save = world
        .post(
            "save_weights",
            json!({ "model_id": model, "seq_id": 4, "path": "step-1" }),
        )
        .await
        .id();
    let path = format!("tinker://{model}/weights/step-1");
    assert_eq!(world.result(&save).await["path"], path);
    let named = json!({ "model_id": model, "seq_id": 5, "path": "s", "kind": "snapshot" });
    let named = world.post("save_weights_for_sampler", named).await.id();
    let sampler_path = format!("tinker://{model}/sampler_weights/s");
    assert_eq!(world.result(&named).await["path"], sampler_path);
    let unnamed = json!({ "model_id": model, "seq_id": 6, "sampling_session_seq_id": 0 });
    let unnamed = world.post("save_weights_for_sampler", unnamed).await.id();
    let sampler = world.result(&unnamed).await["sampling_session_id"]
        .as_str()
        .unwrap()
        .to_owned();
    let promise = world.post("asample", sample(&sampler, 0)).await.ok();
    assert_eq!(promise["sample_sequence_ids"].as_array().unwrap().len(), 2);
    let sampled = world.result(promise["request_id"].as_str().unwrap()).await;
    assert_eq!(sampled["sequences"][1]["tokens"], json!([7, 8, 9, 10]));
    let counts = world.engine.counts();
    assert_eq!((counts.backwards, counts.forwards, counts.steps), (1, 1, 1));
    assert_eq!((counts.saves, counts.snapshots, counts.samples), (2, 1, 1));
}
