//! Encodings of forward and backward passes and of results, and announcements of large results.

mod support;

use bytes::Bytes;
use http::Method;
use serde_json::json;
use support::{Response, TestServer, backward, sample, test_server, test_server_with};
use tinkers_local::{LocalConfig, Script};
use tinkers_wire::{
    Datum, ForwardBackwardOutput, LossFn, OperationResult, PassMode, PassRequest, SampleResponse,
};

const PROTOBUF: [(&str, &str); 1] = [("accept", "application/x-protobuf")];

async fn poll(
    server: &TestServer,
    id: &str,
    metadata_only: bool,
    headers: &[(&'static str, &str)],
) -> Response {
    let body = json!({ "request_id": id, "allow_metadata_only": metadata_only });
    server
        .send(
            Method::POST,
            tinkers_wire::routes::RETRIEVE_FUTURE,
            body.to_string(),
            headers,
        )
        .await
}

#[tokio::test]
async fn json_and_protobuf_results_are_equal() {
    let server = test_server();
    let model = server.create_model().await;
    let pass = server.submit("forward_backward", backward(&model, 1)).await;
    let json_form = poll(&server, &pass, false, &[]).await;
    assert_eq!(
        json_form.raw.header("content-type"),
        Some("application/json")
    );
    let proto_form = poll(&server, &pass, false, &PROTOBUF).await;
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

    let save = server
        .submit(
            "save_weights_for_sampler",
            json!({ "model_id": model, "seq_id": 2, "sampling_session_seq_id": 0 }),
        )
        .await;
    // A result without a protobuf form is JSON whatever the client accepts.
    let saved = poll(&server, &save, true, &PROTOBUF).await;
    assert_eq!(saved.raw.header("content-type"), Some("application/json"));
    let sampler = saved.body["sampling_session_id"].as_str().unwrap();
    let mut body = sample(sampler, 0);
    (body["prompt_logprobs"], body["topk_prompt_logprobs"]) = (true.into(), 2.into());
    let sampled = server.submit("asample", body).await;
    let json_form =
        SampleResponse::from_json(&poll(&server, &sampled, true, &[]).await.raw.body).unwrap();
    let proto_form =
        SampleResponse::from_protobuf(poll(&server, &sampled, true, &PROTOBUF).await.raw.body)
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
async fn protobuf_pass_may_be_compressed_or_forward_only() {
    let server = test_server();
    let model = server.create_model().await;
    let mut pass = PassRequest {
        model_id: model,
        seq_id: 1,
        mode: PassMode::Forward,
        data: vec![Datum::next_token(&[1, 2, 3], vec![1.0, 1.0]).unwrap()],
        loss: LossFn::CrossEntropy.into(),
    };
    let uncompressed = [("content-type", "application/x-protobuf")];
    let packed = [
        ("content-type", "application/protobuf"),
        ("content-encoding", "zstd"),
    ];
    let route = tinkers_wire::routes::FORWARD_BACKWARD;
    server
        .send(
            Method::POST,
            route,
            pass.to_protobuf().unwrap(),
            &uncompressed,
        )
        .await
        .id();
    (pass.seq_id, pass.mode) = (2, PassMode::ForwardBackward);
    let body = zstd::encode_all(&pass.to_protobuf().unwrap()[..], 3).unwrap();
    let id = server.send(Method::POST, route, body, &packed).await.id();
    assert_eq!(server.result(&id).await["metrics"]["loss:sum"], 8.0);
    let counts = server.engine.counts();
    assert_eq!((counts.forwards, counts.backwards), (1, 1));
    // Errors name the protobuf field, not the field `forward_backward_input` that JSON bodies have around it.
    pass.data.clear();
    pass.seq_id = 3;
    let refused = server
        .send(
            Method::POST,
            route,
            pass.to_protobuf().unwrap(),
            &uncompressed,
        )
        .await;
    assert_eq!(
        (refused.status, refused.reason().starts_with("data: ")),
        (422, true),
        "{}",
        refused.reason()
    );
}

#[tokio::test]
async fn poll_can_request_the_size_instead_of_a_large_result() {
    let (mut config, mut script) = (LocalConfig::default(), Script::default());
    config.large_result = 10_000;
    script.padding_bytes = 10_000;
    let server = test_server_with(config, script);
    let model = server.create_model().await;
    let id = server.submit("forward_backward", backward(&model, 1)).await;
    for headers in [&[][..], &PROTOBUF[..]] {
        let announced = poll(&server, &id, true, headers).await;
        assert_eq!(
            announced.raw.header("content-type"),
            Some("application/json")
        );
        assert_eq!(announced.body["status"], "complete_metadata");
        let whole: Bytes = poll(&server, &id, false, headers).await.raw.body;
        assert_eq!(announced.body["response_payload_size"], whole.len());
        assert!(whole.len() > 10_000);
    }
}

#[tokio::test]
async fn result_memory_limit_drops_fetched_results_first() {
    let (mut config, mut script) = (LocalConfig::default(), Script::default());
    // Three stored results fit in this limit, four do not.
    config.max_result_bytes = 350_000;
    script.padding_bytes = 100_000;
    let server = test_server_with(config, script);
    let model = server.create_model().await;
    let mut ids = Vec::new();
    for seq_id in 1..=3 {
        let pass = server.post("forward_backward", backward(&model, seq_id));
        ids.push(pass.await.id());
    }
    // A result that is fetched in both encodings must be counted once.
    for headers in [&[][..], &PROTOBUF[..]] {
        assert_eq!(poll(&server, &ids[1], false, headers).await.status, 200);
    }
    let repeated = server.post("forward_backward", backward(&model, 2)).await;
    assert_eq!(repeated.id(), ids[1]);
    for seq_id in 4..=5 {
        let pass = server.post("forward_backward", backward(&model, seq_id));
        ids.push(pass.await.id());
    }
    let mut statuses = Vec::new();
    for id in &ids {
        statuses.push(poll(&server, id, false, &PROTOBUF).await.status);
    }
    assert_eq!(statuses, [410, 410, 200, 200, 200]);
    // A repeat of the request whose result was dropped is refused, and does not run again.
    let repeated = server.post("forward_backward", backward(&model, 2)).await;
    assert_eq!(repeated.status, 409, "{}", repeated.reason());
    assert_eq!(server.engine.counts().backwards, 5);
}

#[tokio::test]
async fn result_whose_size_was_announced_does_not_count_as_fetched() {
    let (mut config, mut script) = (LocalConfig::default(), Script::default());
    config.large_result = 10_000;
    script.padding_bytes = 10_000;
    let short = config.keep_fetched;
    let server = test_server_with(config, script);
    let model = server.create_model().await;
    let pass = server.post("forward_backward", backward(&model, 1));
    let id = pass.await.id();
    for headers in [&[][..], &PROTOBUF[..]] {
        let announced = poll(&server, &id, true, headers).await;
        assert_eq!(announced.body["status"], "complete_metadata");
        server.clock.advance(short);
        support::run_until_idle().await;
    }
    assert_eq!(poll(&server, &id, false, &[]).await.status, 200);
}
