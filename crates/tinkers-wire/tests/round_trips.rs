//! Every type that programs store or log is decoded from JSON as it was encoded.

use std::collections::BTreeMap;
use std::fmt::Debug;

use bytes::Bytes;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tinkers_wire::{
    AdamParams, Capabilities, CheckpointKind, CheckpointList, Chunk, ClientConfig, Completions,
    CsrIndices, Datum, DynamicConfig, ForwardBackwardOutput, LoadedWeights, LoraConfig, Loss,
    LossConfigValue, LossFn, ModelInfo, ModelInput, OptimStepResult, OptimizerConfig,
    ProvenanceSpan, SampleResponse, SampledSequence, SamplerInfo, SamplingParams,
    SavedSamplerWeights, SavedWeights, SessionInfo, SpanKind, Stop, StopReason, SubmissionResponse,
    TensorData, TensorValues, TinkerPath, TopkLogprobs, TrainingRunList, WeightsInfo,
};

/// Encodes a value as JSON and decodes it again.
fn through_json<T: Serialize + DeserializeOwned>(value: &T) -> T {
    let json = serde_json::to_string(value).unwrap();
    serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error} in {json}"))
}

/// Checks that a value is unchanged after it was encoded as JSON and decoded again.
fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) {
    assert_eq!(&through_json(value), value);
}

/// Generates any `f32`. All NaN values have the same payload, since JSON cannot encode the payload of a NaN.
fn float() -> impl Strategy<Value = f32> {
    any::<u32>().prop_map(|bits| match f32::from_bits(bits) {
        x if x.is_nan() => f32::NAN,
        x => x,
    })
}

/// Generates any `f64` as the value of a metric. All NaN values have the same payload, since JSON cannot encode the payload of a NaN.
fn metric() -> impl Strategy<Value = f64> {
    let special = prop::sample::select(vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0]);
    let any = any::<u64>().prop_map(|bits| match f64::from_bits(bits) {
        x if x.is_nan() => f64::NAN,
        x => x,
    });
    prop_oneof![any, special]
}

fn tensor() -> impl Strategy<Value = TensorData> {
    let floats = vec(float(), 0..8).prop_map(TensorData::f32);
    let special = vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, 1e-45];
    let special = vec(prop::sample::select(special), 0..4).prop_map(TensorData::f32);
    let integers = vec(any::<i64>(), 0..8).prop_map(TensorData::i64);
    let matrix = vec(-1.0f32..1.0, 6).prop_map(|x| TensorData::from(x).reshape([2, 3]).unwrap());
    let sparse = (-1.0f32..1.0).prop_map(|x| {
        let indices = CsrIndices::new([0, 0, 1], [2]);
        TensorData::csr(vec![x], [2, 3], indices).unwrap()
    });
    prop_oneof![floats, special, integers, matrix, sparse]
}

/// The elements, dtype, shape and indices of a tensor. Floats are replaced by their bits, so that NaN equals NaN and 0 differs from -0.
type TensorBits = (Vec<i64>, String, Vec<usize>, Option<CsrIndices>);

fn bits_of(tensor: &TensorData) -> TensorBits {
    let bits = match tensor.values() {
        TensorValues::F32(values) => values.iter().map(|x| i64::from(x.to_bits())).collect(),
        TensorValues::I64(values) => values.to_vec(),
    };
    let indices = tensor.csr_indices().cloned();
    (bits, tensor.dtype().to_string(), tensor.shape(), indices)
}

fn bits_of_all(tensors: &BTreeMap<String, TensorData>) -> BTreeMap<&str, TensorBits> {
    let tensors = tensors.iter();
    tensors
        .map(|(name, tensor)| (name.as_str(), bits_of(tensor)))
        .collect()
}

fn bits_of_metrics(metrics: &BTreeMap<String, f64>) -> Vec<(&str, u64)> {
    let metrics = metrics.iter();
    metrics
        .map(|(name, x)| (name.as_str(), x.to_bits()))
        .collect()
}

fn chunk() -> impl Strategy<Value = Chunk> {
    let bytes = || vec(any::<u8>(), 0..9).prop_map(Bytes::from);
    prop_oneof![
        vec(any::<u32>(), 0..6).prop_map(|tokens| Chunk::EncodedText(tokens.into())),
        (bytes(), option::of(any::<u32>())).prop_map(|(data, expected_tokens)| Chunk::Image {
            data,
            format: "png".to_owned(),
            expected_tokens,
        }),
        option::of(any::<u32>()).prop_map(|expected_tokens| Chunk::ImageAssetPointer {
            location: "gs://bucket/image".to_owned(),
            format: "jpeg".to_owned(),
            expected_tokens,
        }),
        bytes().prop_map(Chunk::Dmel),
        any::<i32>().prop_map(|x| Chunk::Other(json!({ "type": "graph", "edges": [x, null] }))),
    ]
}

fn topk() -> impl Strategy<Value = TopkLogprobs> {
    let row = vec((any::<u32>(), float()), 0..4);
    vec(row, 0..5).prop_map(|rows| TopkLogprobs::from_rows(&rows))
}

/// Returns the rows of most likely tokens, with floats replaced by their bits, so that NaN equals NaN.
fn bits_of_topk(topk: Option<&TopkLogprobs>) -> Option<Vec<Vec<(u32, u32)>>> {
    let bits = |(id, logprob): (u32, f32)| (id, logprob.to_bits());
    topk.map(|topk| {
        let rows = (0..topk.len()).map(|position| topk.row(position));
        rows.map(|row| row.map(bits).collect()).collect()
    })
}

fn sequence() -> impl Strategy<Value = SampledSequence> {
    let reason = prop_oneof![
        Just(StopReason::Stop),
        Just(StopReason::Length),
        Just(StopReason::Other("cancelled".to_owned())),
    ];
    let tokens = vec(any::<u32>(), 0..5);
    let logprobs = option::of(vec(float(), 0..5));
    let id = option::of("[a-z0-9:-]{1,9}");
    (reason, tokens, logprobs, option::of(topk()), id).prop_map(
        |(reason, tokens, logprobs, topk_logprobs, sequence_id)| {
            let mut sequence = SampledSequence::new(reason, tokens);
            sequence.logprobs = logprobs;
            sequence.topk_logprobs = topk_logprobs;
            sequence.sequence_id = sequence_id;
            sequence
        },
    )
}

fn assert_same_sequence(decoded: &SampledSequence, sequence: &SampledSequence) {
    let bits = |logprobs: &Option<Vec<f32>>| -> Option<Vec<u32>> {
        let logprobs = logprobs.as_ref()?;
        Some(logprobs.iter().map(|x| x.to_bits()).collect())
    };
    assert_eq!(decoded.stop_reason, sequence.stop_reason);
    assert_eq!(decoded.tokens, sequence.tokens);
    assert_eq!(bits(&decoded.logprobs), bits(&sequence.logprobs));
    assert_eq!(decoded.sequence_id, sequence.sequence_id);
    assert_eq!(
        bits_of_topk(decoded.topk_logprobs.as_ref()),
        bits_of_topk(sequence.topk_logprobs.as_ref())
    );
}

fn finite() -> impl Strategy<Value = f64> {
    metric().prop_filter("JSON parameters are finite", |x| x.is_finite())
}

proptest! {
    #[test]
    fn tensors_round_trip_without_changing_any_bit(tensor in tensor()) {
        prop_assert_eq!(bits_of(&through_json(&tensor)), bits_of(&tensor));
    }

    #[test]
    fn training_data_round_trips_without_changing_any_bit(
        chunks in vec(chunk(), 0..4),
        inputs in btree_map("[a-z_]{1,9}", tensor(), 0..4),
        offset in any::<u64>(),
    ) {
        let mut datum = Datum::new(ModelInput::from_chunks(chunks));
        datum.loss_fn_inputs = inputs;
        datum.model_input_spans.push(ProvenanceSpan::new(SpanKind::Prompt, "s", offset, 2));
        datum.loss_fn_input_spans.push(ProvenanceSpan::new(SpanKind::Sampled, "s", 0, offset));
        let decoded = through_json(&datum);
        prop_assert_eq!(bits_of_all(&decoded.loss_fn_inputs), bits_of_all(&datum.loss_fn_inputs));
        prop_assert_eq!(&decoded.model_input, &datum.model_input);
        prop_assert_eq!(&decoded.model_input_spans, &datum.model_input_spans);
        prop_assert_eq!(&decoded.loss_fn_input_spans, &datum.loss_fn_input_spans);
    }

    #[test]
    fn training_results_round_trip_without_changing_any_bit(
        outputs in vec(btree_map("[a-z_]{1,9}", tensor(), 0..3), 0..4),
        metrics in btree_map("[a-z_]{1,9}:(sum|mean)", metric(), 0..4),
    ) {
        let output = ForwardBackwardOutput::new("ArrayRecord", outputs);
        let output = output.with_metrics(metrics.clone());
        let decoded = through_json(&output);
        prop_assert_eq!(&decoded.loss_fn_output_type, &output.loss_fn_output_type);
        prop_assert_eq!(bits_of_metrics(&decoded.metrics), bits_of_metrics(&metrics));
        let decoded: Vec<_> = decoded.loss_fn_outputs.iter().map(bits_of_all).collect();
        let encoded: Vec<_> = output.loss_fn_outputs.iter().map(bits_of_all).collect();
        prop_assert_eq!(decoded, encoded);
        let step = OptimStepResult::new(metrics);
        let decoded = through_json(&step);
        prop_assert_eq!(bits_of_metrics(&decoded.metrics), bits_of_metrics(&step.metrics));
    }

    #[test]
    fn samples_round_trip_without_changing_any_bit(
        sequences in vec(sequence(), 0..3),
        prompt in option::of(vec(float().prop_map(|x| (!x.is_nan()).then_some(x)), 0..5)),
        topk in option::of(topk()),
        cached in option::of(any::<u32>()),
        target in option::of(tensor()),
    ) {
        let mut response = SampleResponse::default();
        response.sequences = sequences;
        response.prompt_logprobs = prompt;
        response.topk_prompt_logprobs = topk;
        response.prompt_cache_hit_tokens = cached;
        response.target_prompt_logprobs = target;
        let decoded = through_json(&response);
        prop_assert_eq!(decoded.sequences.len(), response.sequences.len());
        for (decoded, sequence) in decoded.sequences.iter().zip(&response.sequences) {
            assert_same_sequence(decoded, sequence);
            assert_same_sequence(&through_json(sequence), sequence);
        }
        prop_assert_eq!(&decoded.prompt_logprobs, &response.prompt_logprobs);
        prop_assert_eq!(
            bits_of_topk(decoded.topk_prompt_logprobs.as_ref()),
            bits_of_topk(response.topk_prompt_logprobs.as_ref())
        );
        prop_assert_eq!(decoded.prompt_cache_hit_tokens, response.prompt_cache_hit_tokens);
        prop_assert_eq!(
            decoded.target_prompt_logprobs.as_ref().map(bits_of),
            response.target_prompt_logprobs.as_ref().map(bits_of)
        );
    }

    #[test]
    fn request_parameters_round_trip_through_json(
        numbers in vec(option::of(finite()), 6),
        seed in option::of(any::<u64>()),
        stop in option::of(prop_oneof![
            vec(any::<String>(), 0..3).prop_map(Stop::Texts),
            vec(any::<u32>(), 1..3).prop_map(Stop::Tokens),
        ]),
        options in btree_map("[a-z_]{1,9}", prop_oneof![
            finite().prop_map(LossConfigValue::Number),
            any::<String>().prop_map(LossConfigValue::Text),
        ], 0..3),
    ) {
        let mut adam = AdamParams::new(numbers[0].unwrap_or(0.5));
        (adam.beta1, adam.beta2, adam.eps) = (numbers[1], numbers[2], numbers[3]);
        (adam.weight_decay, adam.grad_clip_norm) = (numbers[4], numbers[5]);
        check(&adam);
        let mut sampling = SamplingParams::new();
        (sampling.seed, sampling.stop) = (seed, stop);
        (sampling.temperature, sampling.top_p) = (numbers[0], numbers[1]);
        check(&sampling);
        let mut lora = LoraConfig::rank(8);
        lora.seed = seed;
        check(&lora);
        let mut loss = Loss::new(LossFn::Other("my_loss".to_owned()));
        loss.config = options;
        check(&loss);
    }
}

/// Decodes a value from JSON, and checks that it is unchanged after it was encoded and decoded again.
fn check_json<T: Serialize + DeserializeOwned + PartialEq + Debug>(json: serde_json::Value) {
    check(&serde_json::from_value::<T>(json).unwrap());
}

#[test]
fn alternative_tokens_of_a_sample_round_trip_through_json() {
    let alternatives = json!({
        "tokens": { "data": [1, 2], "dtype": "int64", "shape": [2, 1] },
        "logprobs": { "data": [-0.5, "-Infinity"], "dtype": "float32", "shape": [2, 1] },
    });
    let json = json!({ "sequences": [], "prompt_alt_tokens": alternatives });
    let response: SampleResponse = serde_json::from_value(json).unwrap();
    let logprobs = &response.prompt_alt_tokens.as_ref().unwrap().logprobs;
    assert_eq!(logprobs.as_f32(), Some(&[-0.5, f32::NEG_INFINITY][..]));
    check(&response);
}

#[test]
fn ids_paths_and_model_descriptions_round_trip_through_json() {
    let path = TinkerPath::new("run:train:0", CheckpointKind::Sampler, "s1").unwrap();
    check(&path);
    check(&SavedWeights::new(path.clone()));
    check(&SavedSamplerWeights::named(path.clone()));
    check(&SavedSamplerWeights::unnamed("sampler:0"));
    check(&LoadedWeights::new(path));
    check(&OptimizerConfig::new("dimuon").with("version", 1));
    let model = json!({ "model_name": "m", "max_context_length": 9, "trainable": true });
    check_json::<Capabilities>(json!({ "supported_models": [model] }));
    check_json::<ModelInfo>(
        json!({ "model_id": "m", "model_data": { "arch": "a" }, "is_lora": true, "lora_rank": 8 }),
    );
    check_json::<SubmissionResponse>(json!({ "request_id": 7, "sample_sequence_ids": ["a"] }));
    let completion = json!({ "state": "failed", "request_id": "a" });
    check_json::<Completions>(json!({ "completions": [completion], "cursor": null }));
    let checkpoint = json!({
        "checkpoint_id": "weights/a", "checkpoint_type": "training", "time": "t",
        "tinker_path": "tinker://r/weights/a", "size_bytes": 5, "expires_at": "t",
        "user_metadata": { "k": "v" },
    });
    let cursor = json!({ "offset": 0, "limit": 5, "total_count": 1 });
    check_json::<CheckpointList>(json!({ "checkpoints": [checkpoint], "cursor": cursor }));
    let run = json!({ "training_run_id": "r", "base_model": "b", "last_checkpoint": checkpoint });
    check_json::<TrainingRunList>(json!({ "training_runs": [run] }));
    check_json::<SessionInfo>(json!({ "training_run_ids": ["r"], "display_name": "d" }));
    check_json::<SamplerInfo>(json!({ "sampler_id": "s", "base_model": "b", "model_path": "p" }));
    check_json::<WeightsInfo>(json!({ "base_model": "b", "is_lora": true, "train_mlp": false }));
    check(&ClientConfig::default());
    check(&DynamicConfig::default());
}

#[test]
fn length_of_a_model_input_is_the_sum_of_its_known_chunks() {
    let image = |expected_tokens| Chunk::Image {
        data: Bytes::from_static(b"x"),
        format: "png".to_owned(),
        expected_tokens,
    };
    let input = ModelInput::from_tokens([1, 2]);
    assert_eq!(input.len(), Some(2));
    assert_eq!(input.clone().with_chunk(image(None)).len(), None);
    assert_eq!(input.with_chunk(image(Some(5))).len(), Some(7));
    assert_eq!(ModelInput::from_tokens([]).len(), Some(0));
}
