//! Every bad input: the exact status, and a body that names the field.

mod support;

use http::Method;
use serde_json::{Value, json};
use support::{World, backward, create_model, sample, step, world};

/// What is sent, and what has to come back.
struct Row {
    route: &'static str,
    body: Value,
    status: u16,
    names: &'static str,
}

fn row(route: &'static str, body: Value, status: u16, names: &'static str) -> Row {
    Row {
        route,
        body,
        status,
        names,
    }
}

/// `body` with `value` at `pointer`.
fn with(mut body: Value, pointer: &str, value: Value) -> Value {
    let (parent, last) = pointer.rsplit_once('/').expect("a pointer");
    let parent = body.pointer_mut(parent).expect("a parent");
    match last.parse::<usize>() {
        Ok(index) => parent[index] = value,
        Err(_) => parent[last] = value,
    }
    body
}

fn without(mut body: Value, field: &str) -> Value {
    body.as_object_mut().expect("an object").remove(field);
    body
}

const DATA: &str = "/forward_backward_input/data";
const FIRST: &str = "/forward_backward_input/data/0";

fn passes(model: &str) -> Vec<Row> {
    let pass = || backward(model, 1);
    let at = |tail: &str, value: Value| with(pass(), &format!("{FIRST}{tail}"), value);
    let route = "forward_backward";
    let inputs = "/loss_fn_inputs";
    let tensor = |data: Value, dtype: &str| json!({ "data": data, "dtype": dtype });
    let image =
        json!({ "type": "image", "data": "iVBORw==", "format": "png", "expected_tokens": 3 });
    let text = json!({ "type": "encoded_text", "tokens": [1, 2, 256] });
    let sparse = json!({ "data": [], "dtype": "float32", "shape": [3, 1_000_000_000], "sparse_crow_indices": [0, 0, 0, 0], "sparse_col_indices": [] });
    vec![
        row(
            route,
            with(pass(), DATA, json!([])),
            422,
            "forward_backward_input.data: ",
        ),
        row(
            route,
            with(pass(), DATA, Value::Null),
            422,
            "forward_backward_input.data: ",
        ),
        row(
            route,
            with(
                pass(),
                "/forward_backward_input/loss_fn",
                json!("cross_entrpy"),
            ),
            422,
            "loss_fn: expected one of cross_entropy, ",
        ),
        row(
            route,
            with(pass(), "/forward_backward_input/loss_fn", json!("ppo")),
            422,
            "data.0.loss_fn_inputs.logprobs: ",
        ),
        row(
            route,
            with(
                pass(),
                "/forward_backward_input/loss_fn_config",
                json!({ "a": null }),
            ),
            422,
            "loss_fn_config.a: ",
        ),
        row(
            route,
            at(inputs, json!({})),
            422,
            "data.0.loss_fn_inputs.target_tokens: ",
        ),
        row(
            route,
            at(
                &format!("{inputs}/target_tokens"),
                tensor(json!([2, 3]), "int64"),
            ),
            422,
            "data.0.loss_fn_inputs.target_tokens: expected 3 rows",
        ),
        row(
            route,
            at(
                &format!("{inputs}/target_tokens"),
                tensor(json!([2, 3, 256]), "int64"),
            ),
            422,
            "data.0.loss_fn_inputs.target_tokens: expected token ids below 256",
        ),
        row(
            route,
            at(
                &format!("{inputs}/target_tokens"),
                tensor(json!([2.0, 3.0, 4.0]), "float32"),
            ),
            422,
            "data.0.loss_fn_inputs.target_tokens: expected int64",
        ),
        row(
            route,
            at(
                &format!("{inputs}/target_tokens"),
                tensor(json!([2.5, 3, 4]), "int64"),
            ),
            422,
            "loss_fn_inputs.target_tokens",
        ),
        row(
            route,
            at(
                &format!("{inputs}/weights"),
                tensor(json!([1, 2]), "float32"),
            ),
            422,
            "data.0.loss_fn_inputs.weights: expected 3 rows",
        ),
        row(
            route,
            at(
                &format!("{inputs}/weights"),
                tensor(json!([1, null, 2]), "float32"),
            ),
            422,
            "data.0.loss_fn_inputs.weights.data: expected finite",
        ),
        row(
            route,
            at(
                &format!("{inputs}/weights"),
                json!({ "data": [1, 2, 3], "dtype": "float32", "shape": [2] }),
            ),
            422,
            "data.0.loss_fn_inputs.weights.shape: ",
        ),
        row(
            route,
            at(
                &format!("{inputs}/weights"),
                json!({ "data": [1, 2, 3], "dtype": "float32", "shape": [3, 1, 1] }),
            ),
            422,
            "data.0.loss_fn_inputs.weights: expected one or two",
        ),
        row(
            route,
            at(&format!("{inputs}/weights"), sparse),
            422,
            "data.0.loss_fn_inputs.weights: expected one or two",
        ),
        row(
            route,
            at(&format!("{inputs}/weights"), tensor(json!([1]), "float16")),
            422,
            "loss_fn_inputs.weights",
        ),
        row(
            route,
            at("/model_input/chunks", json!([])),
            422,
            "data.0.model_input.chunks: ",
        ),
        row(
            route,
            at("/model_input/chunks/0", image),
            422,
            "data.0.model_input.chunks.0.type: expected encoded_text",
        ),
        row(
            route,
            at("/model_input/chunks/0", json!({ "type": "smell" })),
            422,
            "data.0.model_input.chunks.0.type: ",
        ),
        row(
            route,
            at("/model_input/chunks/0", text),
            422,
            "data.0.model_input.chunks.0.tokens: expected token ids below 256",
        ),
        row(
            route,
            at("/model_input/chunks/0/tokens", json!([-1])),
            422,
            "data.0.model_input.chunks.0",
        ),
        row(
            route,
            at("/model_input/chunks/0/tokens", json!(vec![1; 4097])),
            422,
            "data.0.model_input",
        ),
        row(route, with(pass(), "/seq_id", json!(-1)), 422, "seq_id: "),
        row(
            route,
            with(pass(), "/model_id", json!("nope")),
            404,
            "no model \"nope\"",
        ),
        row(route, without(pass(), "model_id"), 422, "model_id: missing"),
        row(
            route,
            without(pass(), "forward_backward_input"),
            422,
            "forward_backward_input: missing",
        ),
        row("forward", pass(), 422, "forward_input: missing"),
    ]
}

fn steps_and_saves(model: &str) -> Vec<Row> {
    let step =
        |field: &str, value: Value| with(step(model, 1), &format!("/adam_params/{field}"), value);
    let save = |name: Value| json!({ "model_id": model, "seq_id": 1, "path": name });
    let both = json!({ "model_id": model, "path": "x", "sampling_session_seq_id": 1 });
    let load =
        |path: &str| json!({ "model_id": model, "seq_id": 1, "path": path, "optimizer": false });
    vec![
        row(
            "optim_step",
            step("learning_rate", json!(-1)),
            422,
            "adam_params.learning_rate: ",
        ),
        row(
            "optim_step",
            step("learning_rate", Value::Null),
            422,
            "adam_params.learning_rate: ",
        ),
        row(
            "optim_step",
            step("learning_rate", json!("fast")),
            422,
            "adam_params.learning_rate: ",
        ),
        row(
            "optim_step",
            step("beta1", json!(1)),
            422,
            "adam_params.beta1: ",
        ),
        row(
            "optim_step",
            step("beta2", json!(-0.1)),
            422,
            "adam_params.beta2: ",
        ),
        row(
            "optim_step",
            step("eps", json!(-1)),
            422,
            "adam_params.eps: ",
        ),
        row(
            "optim_step",
            step("grad_clip_norm", json!(-1)),
            422,
            "adam_params.grad_clip_norm: ",
        ),
        row(
            "optim_step",
            json!({ "model_id": model, "seq_id": 1, "optimizer_params": { "type": "dimuon" } }),
            422,
            "adam_params: missing",
        ),
        row("save_weights", save(json!("a/b")), 422, "path: "),
        row("save_weights", save(json!("")), 422, "path: "),
        row(
            "save_weights",
            save(json!("../../etc/passwd")),
            422,
            "path: ",
        ),
        row("save_weights", save(Value::Null), 422, "path: "),
        row(
            "save_weights",
            with(save(json!("x")), "/ttl_seconds", json!(10)),
            422,
            "ttl_seconds: ",
        ),
        row(
            "save_weights",
            with(save(json!("x")), "/user_metadata", json!({ "a": 1 })),
            422,
            "user_metadata.a: ",
        ),
        row(
            "save_weights_for_sampler",
            json!({ "model_id": model }),
            422,
            "path: expected either",
        ),
        row(
            "save_weights_for_sampler",
            both,
            422,
            "path: expected either",
        ),
        row(
            "save_weights_for_sampler",
            json!({ "model_id": model, "sampling_session_seq_id": 1, "kind": "inflight" }),
            422,
            "kind: ",
        ),
        row(
            "save_weights_for_sampler",
            json!({ "model_id": model, "sampling_session_seq_id": 1, "kind": "other" }),
            422,
            "kind: ",
        ),
        row("load_weights", load("weights/x"), 422, "path: "),
        row(
            "load_weights",
            load("tinker://m/sampler_weights/x"),
            422,
            "path: expected training weights",
        ),
        row(
            "load_weights",
            load("tinker://m/weights/x"),
            404,
            "no checkpoint tinker://m/weights/x",
        ),
        row(
            "load_weights",
            json!({ "path": "tinker://m/weights/x", "optimizer": false }),
            422,
            "model_id: expected session_id",
        ),
        row(
            "weights_info",
            json!({ "tinker_path": "m/weights/x" }),
            422,
            "tinker_path: ",
        ),
        row(
            "weights_info",
            json!({ "tinker_path": "tinker://m/weights/x" }),
            404,
            "no checkpoint",
        ),
        row(
            "get_info",
            json!({ "model_id": "nope" }),
            404,
            "no model \"nope\"",
        ),
        row(
            "unload_model",
            json!({ "model_id": "nope" }),
            404,
            "no model \"nope\"",
        ),
    ]
}

fn creations(session: &str) -> Vec<Row> {
    let model = || create_model(session, 9);
    let none =
        json!({ "rank": 4, "train_attn": false, "train_mlp": false, "train_unembed": false });
    let sampler = |fields: Value| {
        let mut body = json!({ "session_id": session, "sampling_session_seq_id": 9 });
        body.as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        body
    };
    vec![
        row(
            "create_model",
            with(model(), "/base_model", json!("gpt")),
            404,
            "no base_model \"gpt\" on this server; it has tinkers/scripted",
        ),
        row(
            "create_model",
            with(model(), "/lora_config/rank", json!(0)),
            422,
            "lora_config.rank: expected at least 1",
        ),
        row(
            "create_model",
            with(model(), "/lora_config/rank", json!(129)),
            422,
            "lora_config.rank: expected at most 128",
        ),
        row(
            "create_model",
            with(model(), "/lora_config", none),
            422,
            "lora_config.train_attn: ",
        ),
        row(
            "create_model",
            without(model(), "lora_config"),
            422,
            "lora_config: missing",
        ),
        row(
            "create_model",
            with(model(), "/optimizer_config", json!({ "type": "dimuon" })),
            422,
            "optimizer_config.type: expected adamw",
        ),
        row(
            "create_model",
            with(model(), "/session_id", json!("nope")),
            404,
            "no session \"nope\"",
        ),
        row(
            "create_session",
            json!({ "tags": 1, "sdk_version": "0" }),
            422,
            "tags: ",
        ),
        row("create_session", json!({}), 422, "sdk_version: missing"),
        row("client/config", json!({}), 422, "sdk_version: missing"),
        row(
            "client/dynamic_config",
            json!({ "sdk_version": 1 }),
            422,
            "sdk_version: ",
        ),
        row("session_heartbeat", json!({}), 422, "session_id: missing"),
        row("telemetry", json!({ "events": 1 }), 422, "events: "),
        row(
            "create_sampling_session",
            sampler(json!({})),
            422,
            "base_model: ",
        ),
        row(
            "create_sampling_session",
            sampler(json!({ "base_model": "gpt" })),
            404,
            "no base_model \"gpt\"",
        ),
        row(
            "create_sampling_session",
            sampler(json!({ "model_path": "x" })),
            422,
            "model_path: ",
        ),
        row(
            "create_sampling_session",
            sampler(json!({ "model_path": "tinker://m/weights/x" })),
            404,
            "no checkpoint",
        ),
        row(
            "retrieve_future",
            json!({ "request_id": 7 }),
            422,
            "request_id: ",
        ),
        row("retrieve_future", json!({}), 422, "request_id: missing"),
        row(
            "retrieve_future",
            json!({ "request_id": "7" }),
            404,
            "no request 7",
        ),
        row("retrieve_future", json!([]), 422, ""),
    ]
}

fn samples(sampler: &str) -> Vec<Row> {
    let at = |pointer: &str, value: Value| {
        row("asample", with(sample(sampler, 1), pointer, value), 422, "")
    };
    let param = |name: &'static str, value: Value, names: &'static str| Row {
        names,
        ..at(&format!("/sampling_params/{name}"), value)
    };
    let field = |name: &'static str, value: Value, names: &'static str| Row {
        names,
        ..at(&format!("/{name}"), value)
    };
    let targets =
        |data: Value, shape: Value| json!({ "data": data, "dtype": "int64", "shape": shape });
    vec![
        param("max_tokens", json!(0), "sampling_params.max_tokens: "),
        param("max_tokens", json!(-1), "sampling_params.max_tokens: "),
        param(
            "max_tokens",
            json!(4095),
            "sampling_params.max_tokens: expected prompt and max_tokens to fit",
        ),
        param("temperature", json!(-1), "sampling_params.temperature: "),
        param("temperature", json!("hot"), "sampling_params.temperature: "),
        param("top_p", json!(0), "sampling_params.top_p: "),
        param("top_p", json!(1.5), "sampling_params.top_p: "),
        param("top_k", json!(0), "sampling_params.top_k: "),
        param("stop", json!(""), "sampling_params.stop: "),
        param("stop", json!([256]), "sampling_params.stop: "),
        param("stop", json!({}), "sampling_params.stop: "),
        param("seed", json!(-1), "sampling_params.seed: "),
        field("num_samples", json!(0), "num_samples: "),
        field(
            "num_samples",
            json!(1025),
            "num_samples: expected at most 1024",
        ),
        field("num_samples", json!(4_294_967_296u64), "num_samples: "),
        field("prompt", json!({ "chunks": [] }), "prompt.chunks: "),
        field(
            "prompt",
            json!({ "chunks": [{ "type": "encoded_text", "tokens": [] }] }),
            "prompt.chunks: ",
        ),
        field(
            "prompt",
            json!({ "chunks": [{ "type": "encoded_text", "tokens": [256] }] }),
            "prompt.chunks.0.tokens: ",
        ),
        field(
            "prompt",
            json!({ "chunks": [{ "type": "dmel", "dmel": "AA==" }] }),
            "prompt.chunks.0.type: ",
        ),
        field("prompt", json!([1, 2]), "prompt"),
        field("topk_prompt_logprobs", json!(257), "topk_prompt_logprobs: "),
        field("topk_sample_logprobs", json!(257), "topk_sample_logprobs: "),
        field("prompt_alt_tokens_k", json!(257), "prompt_alt_tokens_k: "),
        field(
            "prompt_logprobs_last_n",
            json!(1),
            "prompt_logprobs_last_n: ",
        ),
        field(
            "target_prompt_logprobs",
            targets(json!([1, 2]), json!([2, 1])),
            "target_prompt_logprobs: ",
        ),
        field(
            "target_prompt_logprobs",
            targets(json!([256]), json!([1, 1])),
            "target_prompt_logprobs: ",
        ),
        field(
            "base_model",
            json!(support::BASE),
            "sampling_session_id: expected exactly one",
        ),
        row(
            "asample",
            without(sample(sampler, 1), "sampling_session_id"),
            422,
            "sampling_session_id: expected exactly one",
        ),
        row(
            "asample",
            sample("nope", 1),
            404,
            "no sampling session \"nope\"",
        ),
        row(
            "asample",
            with(
                without(sample(sampler, 1), "sampling_session_id"),
                "/base_model",
                json!("gpt"),
            ),
            404,
            "no base_model",
        ),
        row(
            "asample",
            with(
                without(sample(sampler, 1), "sampling_session_id"),
                "/model_path",
                json!("tinker://m/weights/x"),
            ),
            404,
            "no checkpoint",
        ),
        row(
            "asample",
            json!({ "sampling_session_id": sampler }),
            422,
            "prompt: missing",
        ),
    ]
}

#[tokio::test]
async fn every_bad_input_is_refused_by_name_and_nothing_is_run() {
    let world = world();
    let session = world.session().await;
    let model = world.model_in(&session, 0).await;
    let sampler =
        json!({ "session_id": session, "sampling_session_seq_id": 0, "base_model": support::BASE });
    let sampler = world.post("create_sampling_session", sampler).await.ok();
    let sampler = sampler["sampling_session_id"].as_str().unwrap();
    let before = world.engine.counts();
    let rows = [
        passes(&model),
        steps_and_saves(&model),
        creations(&session),
        samples(sampler),
    ];
    for Row {
        route,
        body,
        status,
        names,
    } in rows.into_iter().flatten()
    {
        let got = world.post(route, body.clone()).await;
        let short: String = body.to_string().chars().take(400).collect();
        assert_eq!(got.status, status, "{route} {short}: {}", got.body);
        let reason = got.reason();
        assert!(reason.contains(names), "{route} {short}: {reason}");
    }
    assert_eq!(world.engine.counts(), before);
    // And the model's first number is still free.
    let id = world
        .post("forward_backward", backward(&model, 1))
        .await
        .id();
    assert!(world.result(&id).await["metrics"].is_object());
}

#[tokio::test]
async fn what_is_no_json_is_400_and_what_is_no_route_404_or_405() {
    let world = world();
    for body in ["", "{", "nonsense", "\u{0}"] {
        let got = world
            .send(Method::POST, "/api/v1/create_session", body, &[])
            .await;
        assert_eq!(got.status, 400, "{body}");
        assert!(got.reason().contains("not JSON"), "{}", got.reason());
    }
    let proto = [("content-type", "application/x-protobuf")];
    let got = world
        .send(
            Method::POST,
            "/api/v1/forward_backward",
            vec![0xff; 9],
            &proto,
        )
        .await;
    assert_eq!(
        (got.status, got.reason().contains("protobuf")),
        (400, true),
        "{}",
        got.reason()
    );
    let got = world
        .send(Method::POST, "/api/v1/forward", vec![0xff; 9], &proto)
        .await;
    assert_eq!(got.status, 415);
    let packed = [("content-encoding", "gzip")];
    assert_eq!(
        world
            .send(Method::POST, "/api/v1/telemetry", "x", &packed)
            .await
            .status,
        415
    );
    for path in [
        "/",
        "/api/v1/",
        "/api/v1/nope",
        "/api/v2/healthz",
        "/api/v1/sessions/a/b/c",
        "",
    ] {
        let got = world.send(Method::GET, path, "", &[]).await;
        assert_eq!(got.status, 404, "{path}");
        assert!(got.reason().contains("no route"), "{}", got.reason());
    }
    for (method, path, allow) in [
        (Method::GET, "asample", "POST"),
        (Method::POST, "healthz", "GET"),
        (
            Method::PUT,
            "training_runs/a/checkpoints/weights/b",
            "DELETE",
        ),
        (Method::DELETE, "sessions/a", "GET"),
    ] {
        let got = world
            .send(method, &format!("/api/v1/{path}"), "", &[])
            .await;
        assert_eq!(got.status, 405, "{path}");
        assert_eq!(got.raw.header("allow"), Some(allow), "{path}");
    }
}

#[tokio::test]
async fn listings_refuse_what_is_not_there() {
    let world = world();
    let model = world.model().await;
    for (path, status, names) in [
        ("training_runs?limit=x", 422, "limit: "),
        ("checkpoints?offset=-1", 422, "offset: "),
        ("training_runs/nope", 404, "no training run \"nope\""),
        (
            "training_runs/nope/checkpoints",
            404,
            "no training run \"nope\"",
        ),
        ("sessions/nope", 404, "no session \"nope\""),
        ("samplers/nope", 404, "no sampling session \"nope\""),
    ] {
        let got = world.get(path).await;
        assert_eq!(got.status, status, "{path}");
        assert!(got.reason().contains(names), "{path}: {}", got.reason());
    }
    let missing = world
        .delete(&format!("training_runs/{model}/checkpoints/weights/x"))
        .await;
    assert_eq!(missing.status, 404);
    for bad in ["other/x", "weights"] {
        assert_eq!(
            world
                .delete(&format!("training_runs/{model}/checkpoints/{bad}"))
                .await
                .status,
            400,
            "{bad}"
        );
    }
}

#[tokio::test]
async fn a_body_is_bounded_after_decompression() {
    let mut config = tinkers_local::LocalConfig::default();
    config.max_body = 10_000;
    let world: World = support::world_with(config, tinkers_local::Script::default());
    let long = format!("{{\"events\": [{:?}]}}", "x".repeat(20_000));
    let packed = zstd::encode_all(long.as_bytes(), 3).unwrap();
    assert!(packed.len() < 1000);
    let got = world
        .send(
            Method::POST,
            "/api/v1/telemetry",
            packed,
            &[("content-encoding", "zstd")],
        )
        .await;
    assert_eq!(
        (got.status, got.reason().contains("10000 bytes")),
        (413, true),
        "{}",
        got.reason()
    );
    assert_eq!(
        world
            .send(Method::POST, "/api/v1/telemetry", long, &[])
            .await
            .status,
        413
    );
}

#[tokio::test]
async fn a_name_is_taken_once_unless_it_is_overwritten() {
    let world = world();
    let model = world.model().await;
    let save = |seq_id: u64, overwrite: bool| json!({ "model_id": model, "seq_id": seq_id, "path": "x", "overwrite": overwrite });
    world.post("save_weights", save(1, false)).await.id();
    let refused = world.post("save_weights", save(2, false)).await;
    assert_eq!(
        (
            refused.status,
            refused.reason().contains("weights/x exists")
        ),
        (409, true),
        "{}",
        refused.reason()
    );
    // The retry of the save that worked is not a second one.
    assert_eq!(world.post("save_weights", save(1, false)).await.status, 200);
    let id = world.post("save_weights", save(2, true)).await.id();
    assert!(world.result(&id).await["path"].is_string());
    assert_eq!(world.engine.counts().saves, 2);
    // A sampler's weights of the same name are something else.
    let id = world
        .post(
            "save_weights_for_sampler",
            json!({ "model_id": model, "seq_id": 3, "path": "x" }),
        )
        .await
        .id();
    assert!(world.result(&id).await["path"].is_string());
}
