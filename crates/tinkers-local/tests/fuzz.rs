//! Random and mutated requests always get a response with a status below 500.

mod support;

use http::Method;
use proptest::prelude::*;
use serde_json::{Value, json};
use support::{TestServer, backward, create_model, sample, step, test_server};

const ROUTES: [&str; 18] = [
    "client/config",
    "client/dynamic_config",
    "telemetry",
    "create_session",
    "session_heartbeat",
    "sessions/x/finish",
    "create_model",
    "get_info",
    "unload_model",
    "forward",
    "forward_backward",
    "optim_step",
    "save_weights",
    "save_weights_for_sampler",
    "load_weights",
    "weights_info",
    "create_sampling_session",
    "asample",
];

const HEADERS: [&[(&str, &str)]; 3] = [
    &[],
    &[("content-type", "application/x-protobuf")],
    &[
        ("content-type", "application/x-protobuf"),
        ("content-encoding", "zstd"),
    ],
];

async fn check_response(
    server: &TestServer,
    route: &str,
    body: Vec<u8>,
    headers: &[(&'static str, &str)],
) {
    let shown = String::from_utf8_lossy(&body).into_owned();
    let response = server
        .send(Method::POST, &format!("/api/v1/{route}"), body, headers)
        .await;
    assert!(response.status < 500, "{route} {shown}: {}", response.body);
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime")
}

/// Returns a generator of random JSON values of every type, including the smallest and largest numbers.
fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        Just(json!({})),
        Just(json!([])),
        Just(json!([[]])),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(|x| json!(x)),
        prop::sample::select(vec![
            0i64,
            -1,
            1,
            255,
            256,
            i64::from(i32::MAX),
            i64::from(u32::MAX)
        ])
        .prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
        prop::collection::vec(any::<i64>(), 0..4).prop_map(|list| json!(list)),
    ]
}

/// Appends to `found` the JSON pointers of `value` and of all values in it. `at` is the pointer of `value`.
fn pointers(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Object(map) => map
            .iter()
            .for_each(|(key, inner)| pointers(inner, &format!("{at}/{key}"), found)),
        Value::Array(list) => list
            .iter()
            .enumerate()
            .for_each(|(i, inner)| pointers(inner, &format!("{at}/{i}"), found)),
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_cause_a_5xx(body in prop::collection::vec(any::<u8>(), 0..64), headers in 0usize..3) {
        runtime().block_on(async {
            let server = test_server();
            for route in ROUTES.iter().chain(&["retrieve_future"]) {
                check_response(&server, route, body.clone(), HEADERS[headers]).await;
            }
        });
    }

    #[test]
    fn valid_json_with_one_changed_value_never_causes_a_5xx(which in 0usize..7, pointer in any::<prop::sample::Index>(), value in any_value()) {
        runtime().block_on(async {
            let server = test_server();
            let session = server.create_session().await;
            let model = server.create_model_in(&session, 0).await;
            let sampler = json!({ "session_id": session, "sampling_session_seq_id": 0, "base_model": support::BASE });
            server.call("create_sampling_session", sampler.clone()).await;
            let sampler_id = format!("{session}:sample:0");
            let mut full = sample(&sampler_id, 1);
            full["prompt_logprobs"] = true.into();
            full["topk_prompt_logprobs"] = 2.into();
            full["target_prompt_logprobs"] = json!({ "data": [1], "dtype": "int64", "shape": [1, 1], "sparse_crow_indices": [0, 1], "sparse_col_indices": [0] });
            let (route, mut body) = match which {
                0 => ("create_model", create_model(&session, 1)),
                1 => ("forward_backward", backward(&model, 1)),
                2 => ("optim_step", step(&model, 1)),
                3 => ("asample", full),
                4 => ("create_sampling_session", sampler),
                5 => ("save_weights", json!({ "model_id": model, "seq_id": 1, "path": "x", "ttl_seconds": 4000, "overwrite": true, "user_metadata": { "a": "b" } })),
                _ => ("save_weights_for_sampler", json!({ "model_id": model, "seq_id": 1, "path": "x", "sampling_session_seq_id": 3 })),
            };
            let mut found = Vec::new();
            pointers(&body, "", &mut found);
            let found: &[String] = &found;
            *body.pointer_mut(pointer.get(found).as_str()).expect("a pointer into the body") = value;
            check_response(&server, route, body.to_string().into_bytes(), &[]).await;
        });
    }

    #[test]
    fn protobuf_with_one_changed_byte_never_causes_a_5xx(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        runtime().block_on(async {
            let server = test_server();
            let model = server.create_model().await;
            let pass = tinkers_wire::PassRequest::from_json(backward(&model, 1).to_string().as_bytes()).expect("a pass");
            let mut body = pass.to_protobuf().expect("its protobuf").to_vec();
            let at = at.index(body.len());
            body[at] = byte;
            check_response(&server, "forward_backward", body, HEADERS[1]).await;
        });
    }
}
