//! Seeds that are made in code: valid bodies from the encoders of this workspace, and malformed or
//! malicious bodies.

use std::io::Write as _;

use bytes::Bytes;
use serde_json::json;
use tinkers_local::LocalConfig;
use tinkers_wire::{
    AdamParams, CreateSession, Datum, ForwardBackwardOutput, Loss, LossFn, ModelInput,
    OperationResult, PassMode, PassRequest, RetrieveFuture, SampleResponse, TensorData, to_json,
};

use crate::bombs;

/// Returns a `forward_backward` request with unusual values. Seed inputs are made from its JSON and
/// protobuf encodings.
fn pass() -> PassRequest {
    let datum = Datum::next_token(&[1, 2, 3, 4], vec![1.0, 0.5, 0.0]);
    let mut data: Vec<Datum> = datum.into_iter().collect();
    let sparse = TensorData::f32(vec![f32::NAN, f32::INFINITY, -0.0]);
    data.push(Datum::new(ModelInput::from_tokens(vec![9, 8, 7])).with("logprobs", sparse));
    data.push(Datum::new(ModelInput::from_tokens(Vec::new())));
    PassRequest {
        model_id: "model-1".into(),
        seq_id: 7,
        mode: PassMode::ForwardBackward,
        data,
        loss: Loss::from(LossFn::CrossEntropy),
    }
}

/// Returns valid and invalid JSON bodies as seed inputs.
pub fn json() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = [
        json!({ "request_id": "r-1", "model_id": null, "sample_sequence_ids": ["a", "b"] }),
        json!({ "type": "try_again", "request_id": "r", "queue_state": "paused_capacity" }),
        json!({ "loss_fn_output_type": "x", "loss_fn_outputs": [{ "logprobs": { "data": [1.0, null, "NaN"], "dtype": "float32", "shape": [3] } }], "metrics": { "loss:sum": 1e308 } }),
        json!({ "sequences": [{ "tokens": [1, 2], "logprobs": [-1.0, -0.0], "stop_reason": "length" }], "prompt_logprobs": [null, -2.0] }),
        json!({ "path": "tinker://run/weights/a", "type": "save_weights" }),
        json!({ "detail": [{ "loc": ["body", 0], "msg": "no" }], "retry_after_ms": 1e300 }),
        json!({ "max_tokens": 1, "temperature": 0.0, "top_p": 1.0, "top_k": -1, "seed": 7, "stop": ["\n", ""] }),
        json!({ "max_tokens": 1, "stop": [1, 2] }),
        json!({ "prompt": { "chunks": [{ "type": "encoded_text", "tokens": [1, 2] }] }, "num_samples": 2, "sampling_params": { "max_tokens": 3 }, "seq_id": 1, "sampling_session_id": "s" }),
        json!({ "completed": [{ "request_id": "a", "state": "done" }], "cursor": 9 }),
        json!({ "base_model": "tinkers/scripted", "lora_config": { "rank": 4 }, "session_id": "s", "model_seq_id": 0 }),
        json!({ "supported_models": [{ "model_name": "a", "max_context_length": 1 }] }),
    ]
    .iter()
    .map(|value| value.to_string().into_bytes())
    .collect();
    all.push(pass().to_json().to_vec());
    all.push(to_json(&AdamParams::new(1e-4)).to_vec());
    all.push(to_json(&CreateSession::default()).to_vec());
    all.push(
        to_json(&RetrieveFuture {
            request_id: "r".into(),
            allow_metadata_only: true,
        })
        .to_vec(),
    );
    all.extend(malformed_json());
    // The tensor has one long row among many empty ones.
    let row = vec!["[1,-1.0]"; 2000].join(",");
    let rows = vec!["null"; 20_000].join(",");
    let rows = format!(r#"{{"sequences":[],"topk_prompt_logprobs":[[{row}],{rows}]}}"#);
    all.push(rows.into_bytes());
    all
}

fn malformed_json() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = [
        "",
        "null",
        "{",
        "\u{feff}{}",
        r#"{"request_id": "a", "request_id": "b"}"#,
        r#"{"request_id": "\ud800"}"#,
        r#"{"request_id": 1e999}"#,
        r#"{"seq_id": -1}"#,
        r#"{"seq_id": 18446744073709551616}"#,
        r#"{"metrics": {"a": NaN}}"#,
        r#"{"sequences": [{"tokens": [4294967296]}]}"#,
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .collect();
    all.push(b"[".repeat(100_000));
    all.push(br#"{"a":"#.repeat(50_000));
    all.push(
        [
            br#"{"max_tokens": "#.to_vec(),
            b"9".repeat(100_000),
            b"}".to_vec(),
        ]
        .concat(),
    );
    all.push(vec![0xff, 0xfe, 0x00, 0x7b]);
    all
}

/// Returns the bodies of poll responses, in JSON and in protobuf, as seed inputs.
pub fn polls() -> Vec<Vec<u8>> {
    [json(), protobuf()].concat()
}

/// Returns valid and invalid protobuf bodies as seed inputs.
pub fn protobuf() -> Vec<Vec<u8>> {
    let written = pass().to_protobuf().unwrap_or_else(|_| Bytes::new());
    let mut all = vec![written.to_vec()];
    // Keeps only the first datum, which has no unusual values.
    let mut plain = pass();
    plain.data.truncate(1);
    all.extend(plain.to_protobuf().map(|bytes| bytes.to_vec()));
    all.extend(results());
    all.extend([
        // The field declares a length of four gigabytes.
        vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f],
        // The varint has no end.
        vec![0xff; 64],
        // The nested groups are never closed.
        vec![0x0b; 10_000],
        // The messages are nested 200 deep.
        nested(200),
        // Each record has no field and declares a million data.
        [0x12, 4, 0x18, 0x80, 0x80, 0x40].repeat(2000),
        // The packed list of floats ends inside the second float.
        vec![0x12, 0x06, 0, 0, 0x80, 0x3f, 0, 0],
        Vec::new(),
    ]);
    all
}

/// Returns results of operations, encoded in protobuf by the embedded server, as seed inputs.
fn results() -> Vec<Vec<u8>> {
    let output = json!({ "loss_fn_output_type": "ArrayRecord", "metrics": { "loss:sum": 1.5, "a:mean": -0.0 }, "loss_fn_outputs": [
        { "logprobs": { "data": [1.0, -2.0], "dtype": "float32", "shape": [2] }, "ids": { "data": [1, -1], "dtype": "int64", "shape": [2, 1] } },
        { "logprobs": { "data": [3.0], "dtype": "float32", "shape": [1] }, "ids": { "data": [], "dtype": "int64", "shape": [0, 1] } },
        {},
    ] });
    let samples = json!({ "prompt_logprobs": [null, -2.0], "topk_prompt_logprobs": [null, [[1, -1.0], [2, -2.0]]], "prompt_cache_hit_tokens": 3, "sequences": [
        { "tokens": [1, 2], "logprobs": [-1.0, -0.0], "stop_reason": "length" },
        { "tokens": [], "stop_reason": "stop" },
    ] });
    let output = ForwardBackwardOutput::from_json(output.to_string().as_bytes());
    let samples = SampleResponse::from_json(samples.to_string().as_bytes());
    let output = output.map(|output| output.to_protobuf());
    let samples = samples.map(|samples| samples.to_protobuf());
    [output, samples]
        .into_iter()
        .flatten()
        .map(|bytes| bytes.to_vec())
        .collect()
}

fn nested(depth: usize) -> Vec<u8> {
    (0..depth).fold(Vec::new(), |inner, _| {
        let mut outer = vec![0x0a];
        let mut length = inner.len();
        while length >= 0x80 {
            outer.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        outer.push(length as u8);
        outer.extend(inner);
        outer
    })
}

/// Returns compressed bodies, including decompression bombs, as seed inputs.
pub fn compressed() -> Vec<Vec<u8>> {
    let mut all = vec![
        b"plain".to_vec(),
        // The frame is empty and declares a window of 128 MB.
        vec![0x28, 0xb5, 0x2f, 0xfd, 0, 17 << 3, 1, 0, 0],
    ];
    for body in [&pass().to_json()[..], &[7; 300], &vec![b'9'; 64 << 20]] {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let packed = gzip.write_all(body).and_then(|()| gzip.finish());
        all.extend(packed);
        all.extend(zstd::encode_all(body, 3));
    }
    all.extend(bombs::BOMBS.iter().cloned());
    all
}

/// Returns values of `retry-after` headers, and response bodies with retry delays, as seed inputs.
pub fn hints() -> Vec<Vec<u8>> {
    [
        "1",
        "0",
        "-1",
        "-0",
        "1.5",
        "1e3",
        "1e400",
        "NaN",
        "inf",
        " 7 ",
        "0x10",
        "18446744073709551616",
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
        "Fri, 31 Dec 9999 23:59:59 GMT",
        "Sun, 06 Nov 1994 25:61:61 GMT",
        r#"{"retry_after_ms": 250}"#,
        r#"{"retry_after_ms": -1}"#,
        r#"{"retry_after_ms": 1e400}"#,
        r#"{"retry_after_ms": "250"}"#,
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .collect()
}

/// Returns checkpoint paths and base URLs as seed inputs.
pub fn texts() -> Vec<Vec<u8>> {
    [
        "tinker://run-1/weights/step-10",
        "tinker://run-1/sampler_weights/a",
        "tinker://a/b/c/d",
        "tinker://../weights/x",
        "tinker://run/weights/..%2f..",
        "tinker:///weights/",
        "http://127.0.0.1:8000",
        "HTTPS://Host:443/prefix//",
        "http://[::1]:80/a/../b",
        "http://user:pass@host/",
        "http://host:99999/",
        "https://xn--bcher-kva.example/%zz",
        "http://",
        "",
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .collect()
}

/// Returns seed inputs of the fuzz target `stops`. Each input consists of stop sequences as JSON, a
/// zero byte, and one byte for each token of a sample.
pub fn stops() -> Vec<Vec<u8>> {
    [
        "\"end\"\0to the end",
        "[\"\\n\\n\", \"aba\"]\0ababa\n\n",
        "[1, 2, 512]\0\u{3}\u{2}",
        "[]\0x",
        "\"\"\0x",
        "[\"\u{e9}\", \"\u{1f600}\"]\0\u{1f600}\u{e9}",
        "[4294967296]\0",
        "[1, \"a\"]\0a",
        "null\0a",
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .collect()
}

/// Returns valid and invalid OpenAPI documents as seed inputs.
pub fn documents() -> Vec<Vec<u8>> {
    let own = tinkers_local::open_api(&LocalConfig::default());
    let mut all = vec![to_json(&own).to_vec()];
    let body = |schema: &str| {
        format!(
            r##"{{"info":{{"title":"A","version":"2"}},"paths":{{"/api/v1/create_model":{{"post":{{"requestBody":{{"content":{{"application/json":{{"schema":{schema}}}}}}}}}}}}},"components":{{"schemas":{{"M":{{"additionalProperties":false}},"Loop":{{"$ref":"#/components/schemas/Loop"}}}}}}}}"##
        )
    };
    for reference in [
        "#/components/schemas/M",
        "#/components/schemas/Loop",
        "#",
        "",
        "#/~0~1~2",
        "#/paths/-1",
        "other.json#/M",
    ] {
        all.push(body(&format!(r#"{{"$ref":"{reference}"}}"#)).into_bytes());
    }
    all.push(body("[[[]]]").into_bytes());
    all.push(body(r#"{"$ref":7}"#).into_bytes());
    all.extend(malformed_json());
    all
}

/// Returns valid and invalid fault scripts (TOML files with rules for the faults that the embedded
/// server injects) as seed inputs.
pub fn scripts() -> Vec<Vec<u8>> {
    [
        "seed = 7\n[[rule]]\non = \"train\"\nprobability = 0.15\nfault = \"cut_after\"\n",
        "[[rule]]\non = \"poll\"\nafter_s = 1e308\nfor_s = 5\nfault = \"pause_capacity\"\npause_s = 1e300\n",
        "[[rule]]\non = \"*\"\nnth = 9223372036854775807\ntimes = 9223372036854775807\nfault = \"answer\"\nstatus = 99999\n",
        "[[rule]]\non = \"sample\"\nfault = \"rate_limited\"\nhint = \"text\"\ntext = \"\\n\"\nretry_after_s = nan\n",
        "rule = 1",
        "[[rule]]",
        "a = [[[[[[[[[[[[[[[[[[[[[[[[[[",
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_fuzz_seed_results_can_be_decoded() {
        let [output, samples] = &results()[..] else {
            panic!("cannot encode a result");
        };
        let output = ForwardBackwardOutput::from_protobuf(Bytes::from(output.clone()));
        assert_eq!(output.map(|output| output.loss_fn_outputs.len()), Ok(3));
        let samples = SampleResponse::from_protobuf(Bytes::from(samples.clone()));
        assert_eq!(samples.map(|samples| samples.sequences.len()), Ok(2));
    }
}
