//! Results in JSON and protobuf, and large ones.

mod support;

use bytes::Bytes;
use http::Method;
use serde_json::json;
use support::{Got, World, backward, sample, world, world_with};
use tinkers_local::{LocalConfig, Script};
use tinkers_wire::{
    Datum, ForwardBackwardOutput, LossFn, OperationResult, PassMode, PassRequest, SampleResponse,
};

const PROTOBUF: [(&str, &str); 1] = [("accept", "application/x-protobuf")];

async fn poll(
    world: &World,
    id: &str,
    metadata_only: bool,
    headers: &[(&'static str, &str)],
) -> Got {
    let body = json!({ "request_id": id, "allow_metadata_only": metadata_only });
    world
        .send(
            Method::POST,
            tinkers_wire::routes::RETRIEVE_FUTURE,
            body.to_string(),
            headers,
        )
        .await
}

#[tokio::test]
async fn both_forms_of_a_result_say_the_same() {
    let world = world();
    let model = world.model().await;
    let pass = world
        .post("forward_backward", backward(&model, 1))
        .await
        .id();
    let json_form = poll(&world, &pass, false, &[]).await;
    assert_eq!(
        json_form.raw.header("content-type"),
        Some("application/json")
    );
    let proto_form = poll(&world, &pass, false, &PROTOBUF).await;
    assert_eq!(
        proto_form.raw.header("content-type"),
        Some("application/x-protobuf")
    );
    let read = ForwardBackwardOutput::from_protobuf(proto_form.raw.body).unwrap();
    assert_eq!(
        ForwardBackwardOutput::from_json(&json_form.raw.body)
            .unwrap()
            .loss_fn_outputs,
        read.loss_fn_outputs
    );
    assert_eq!(read.loss_sum(), Some(12.0));

    let save = world
        .post(
            "save_weights_for_sampler",
            json!({ "model_id": model, "seq_id": 2, "sampling_session_seq_id": 0 }),
        )
        .await
        .id();
    // What has no protobuf form comes as JSON whatever was asked for.
    let saved = poll(&world, &save, true, &PROTOBUF).await;
    assert_eq!(saved.raw.header("content-type"), Some("application/json"));
    let sampler = saved.body["sampling_session_id"].as_str().unwrap();
    let mut body = sample(sampler, 0);
    (body["prompt_logprobs"], body["topk_prompt_logprobs"]) = (true.into(), 2.into());
    let sampled = world.post("asample", body).await.id();
    let json_form =
        SampleResponse::from_json(&poll(&world, &sampled, true, &[]).await.raw.body).unwrap();
    let proto_form =
        SampleResponse::from_protobuf(poll(&world, &sampled, true, &PROTOBUF).await.raw.body)
            .unwrap();
    assert_eq!(json_form.sequences, proto_form.sequences);
    assert_eq!(json_form.prompt_logprobs, proto_form.prompt_logprobs);
    assert_eq!(json_form.prompt_logprobs, Some(vec![None, Some(-1.0)]));
    assert_eq!(
        json_form.topk_prompt_logprobs,
        proto_form.topk_prompt_logprobs
    );
}

#[tokio::test]
async fn protobuf_passes_are_taken_packed_and_plain_and_forward_only() {
    let world = world();
    let model = world.model().await;
    let mut pass = PassRequest {
        model_id: model,
        seq_id: 1,
        mode: PassMode::Forward,
        data: vec![Datum::next_token(&[1, 2, 3], vec![1.0, 1.0]).unwrap()],
        loss: LossFn::CrossEntropy.into(),
    };
    let plain = [("content-type", "application/x-protobuf")];
    let packed = [
        ("content-type", "application/protobuf"),
        ("content-encoding", "zstd"),
    ];
    let route = tinkers_wire::routes::FORWARD_BACKWARD;
    world
        .send(Method::POST, route, pass.to_protobuf().unwrap(), &plain)
        .await
        .id();
    (pass.seq_id, pass.mode) = (2, PassMode::ForwardBackward);
    let body = zstd::encode_all(&pass.to_protobuf().unwrap()[..], 3).unwrap();
    let id = world.send(Method::POST, route, body, &packed).await.id();
    assert_eq!(world.result(&id).await["metrics"]["loss:sum"], 8.0);
    let counts = world.engine.counts();
    assert_eq!((counts.forwards, counts.backwards), (1, 1));
    // What is wrong in it is named without the wrapping of JSON.
    pass.data.clear();
    pass.seq_id = 3;
    let refused = world
        .send(Method::POST, route, pass.to_protobuf().unwrap(), &plain)
        .await;
    assert_eq!(
        (refused.status, refused.reason().starts_with("data: ")),
        (422, true),
        "{}",
        refused.reason()
    );
}

#[tokio::test]
async fn a_large_result_is_announced_to_those_who_ask_for_that() {
    let (mut config, mut script) = (LocalConfig::default(), Script::default());
    config.large_result = 10_000;
    script.padding_bytes = 10_000;
    let world = world_with(config, script);
    let model = world.model().await;
    let id = world
        .post("forward_backward", backward(&model, 1))
        .await
        .id();
    for headers in [&[][..], &PROTOBUF[..]] {
        let announced = poll(&world, &id, true, headers).await;
        assert_eq!(
            announced.raw.header("content-type"),
            Some("application/json")
        );
        assert_eq!(announced.body["status"], "complete_metadata");
        let whole: Bytes = poll(&world, &id, false, headers).await.raw.body;
        assert_eq!(announced.body["response_payload_size"], whole.len());
        assert!(whole.len() > 10_000);
    }
}

#[tokio::test]
async fn fetched_results_are_dropped_first_beyond_the_budget() {
    let (mut config, mut script) = (LocalConfig::default(), Script::default());
    // Room for three passes and not for four, in the one form that is kept.
    config.max_result_bytes = 350_000;
    script.padding_bytes = 100_000;
    let world = world_with(config, script);
    let model = world.model().await;
    let mut ids = Vec::new();
    for seq_id in 1..=3 {
        let pass = world.post("forward_backward", backward(&model, seq_id));
        ids.push(pass.await.id());
    }
    // In both forms, which must not count twice.
    for headers in [&[][..], &PROTOBUF[..]] {
        assert_eq!(poll(&world, &ids[1], false, headers).await.status, 200);
    }
    let repeated = world.post("forward_backward", backward(&model, 2)).await;
    assert_eq!(repeated.id(), ids[1]);
    for seq_id in 4..=5 {
        let pass = world.post("forward_backward", backward(&model, seq_id));
        ids.push(pass.await.id());
    }
    let mut statuses = Vec::new();
    for id in &ids {
        statuses.push(poll(&world, id, false, &PROTOBUF).await.status);
    }
    assert_eq!(statuses, [410, 410, 200, 200, 200]);
    // What is no longer known by its number is not run again either.
    let repeated = world.post("forward_backward", backward(&model, 2)).await;
    assert_eq!(repeated.status, 409, "{}", repeated.reason());
    assert_eq!(world.engine.counts().backwards, 5);
}

#[tokio::test]
async fn a_result_that_is_only_announced_does_not_count_as_fetched() {
    let (mut config, mut script) = (LocalConfig::default(), Script::default());
    config.large_result = 10_000;
    script.padding_bytes = 10_000;
    let short = config.keep_fetched;
    let world = world_with(config, script);
    let model = world.model().await;
    let pass = world.post("forward_backward", backward(&model, 1));
    let id = pass.await.id();
    for headers in [&[][..], &PROTOBUF[..]] {
        let announced = poll(&world, &id, true, headers).await;
        assert_eq!(announced.body["status"], "complete_metadata");
        world.clock.advance(short);
        support::settle().await;
    }
    assert_eq!(poll(&world, &id, false, &[]).await.status, 200);
}
