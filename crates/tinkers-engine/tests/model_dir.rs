//! Models in the Hugging Face layout: read from a directory, refused by name where something is amiss.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::channel;

use candle_core::{DType, Device, Tensor};
use tinkers_engine::ModelEngine;
use tinkers_local::engine::{Done, Engine, Job, JobId, Outcome, Weights, Work};
use tinkers_wire::{ModelInput, SampleRequest, SampleResponse, SamplingParams, Stop, StopReason};

const WORDS: [&str; 8] = ["the", "light", "of", "rays", "and", "red", "END", "blue"];

/// Writes a model of one layer and eight words, in shards of 16-bit numbers.
fn write(dir: &Path, config: &str) {
    let mut shards: [BTreeMap<String, Tensor>; 2] = Default::default();
    let mut put = |name: &str, shape: &[usize], dtype: DType| {
        let count: usize = shape.iter().product();
        // Numbers without a pattern, the same each time.
        let data: Vec<f32> = (0..count)
            .map(|i| ((i * 7919 + name.len() * 31) % 101) as f32 / 50.0 - 1.0)
            .collect();
        let tensor = Tensor::from_vec(data, shape, &Device::Cpu).unwrap();
        let shard = usize::from(name.contains("mlp"));
        shards[shard].insert(name.to_owned(), tensor.to_dtype(dtype).unwrap());
    };
    put("model.embed_tokens.weight", &[8, 8], DType::BF16);
    put("model.norm.weight", &[8], DType::BF16);
    put("lm_head.weight", &[8, 8], DType::BF16);
    let layer = |name: &str| format!("model.layers.0.{name}.weight");
    for name in ["input_layernorm", "post_attention_layernorm"] {
        put(&layer(name), &[8], DType::F32);
    }
    for (name, rows) in [("q_proj", 8), ("k_proj", 4), ("v_proj", 4), ("o_proj", 8)] {
        put(&layer(&format!("self_attn.{name}")), &[rows, 8], DType::F16);
        if name != "o_proj" {
            put(
                &format!("model.layers.0.self_attn.{name}.bias"),
                &[rows],
                DType::F16,
            );
        }
    }
    put(&layer("mlp.gate_proj"), &[16, 8], DType::BF16);
    put(&layer("mlp.up_proj"), &[16, 8], DType::BF16);
    put(&layer("mlp.down_proj"), &[8, 16], DType::BF16);
    for (number, shard) in shards.iter().enumerate() {
        let file = dir.join(format!("model-{number}.safetensors"));
        std::fs::write(file, safetensors::serialize(shard.iter(), None).unwrap()).unwrap();
    }
    std::fs::write(dir.join("config.json"), config).unwrap();
    let vocabulary: BTreeMap<&str, usize> = WORDS.iter().copied().zip(0..).collect();
    let tokenizer = serde_json::json!({
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": { "type": "Whitespace" },
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "the" },
    });
    std::fs::write(dir.join("tokenizer.json"), tokenizer.to_string()).unwrap();
}

fn config(change: (&str, serde_json::Value)) -> String {
    let mut config = serde_json::json!({
        "model_type": "qwen2",
        "vocab_size": 8,
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 64,
        "eos_token_id": [6],
        "torch_dtype": "bfloat16",
    });
    config[change.0] = change.1;
    config.to_string()
}

fn sample(engine: &ModelEngine, number: u64, stop: Option<Stop>) -> SampleResponse {
    let (sender, receiver) = channel();
    let request = SampleRequest {
        prompt: ModelInput::from_tokens(vec![0, 3]),
        num_samples: Some(6),
        sampling_params: SamplingParams {
            max_tokens: Some(40),
            seed: Some(1),
            stop,
            ..SamplingParams::default()
        },
        ..SampleRequest::default()
    };
    let work = Work::Sample {
        weights: Weights::Base(engine.models()[0].name.clone()),
        request: Box::new(request),
    };
    let done = Done::new(move |ended| sender.send(ended).unwrap());
    let id = JobId(number);
    engine.start(Job { id, work }, done);
    match receiver.recv().unwrap() {
        Ok(Outcome::Sampled(response)) => response,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_directory_is_served_under_its_name_with_its_own_tokenizer() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("words-8");
    std::fs::create_dir(&model).unwrap();
    write(&model, &config(("rope_theta", 5000.0.into())));
    let engine = ModelEngine::from_model_dir(&model, &dir.path().join("data")).unwrap();
    let offered = &engine.models()[0];
    assert_eq!((offered.name.as_str(), offered.vocab_size), ("words-8", 8));
    assert_eq!(offered.max_context_length, 64);

    // Its end of text ends a sample, and so does a stop text, which the tokenizer spells.
    for (number, stop, last) in [
        (1, None, vec![6]),
        (2, Some(Stop::from("light")), vec![1, 6]),
    ] {
        let sequences = sample(&engine, number, stop).sequences;
        assert!(sequences.iter().any(|s| s.stop_reason == StopReason::Stop));
        for sequence in sequences {
            let (end, before) = sequence.tokens.split_last().unwrap();
            let stopped = sequence.stop_reason == StopReason::Stop;
            assert_eq!(stopped, last.contains(end), "{:?}", sequence.tokens);
            assert!(before.iter().all(|token| !last.contains(token)));
        }
    }
}

#[test]
fn what_is_amiss_is_named() {
    let refused = |config: String, spoil: &dyn Fn(&Path)| {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &config);
        spoil(dir.path());
        let error = ModelEngine::from_model_dir(dir.path(), &dir.path().join("data")).unwrap_err();
        error.to_string()
    };
    let fine = || config(("rope_theta", 5000.0.into()));
    let nothing = |_: &Path| {};
    let remove =
        |name: &'static str| move |dir: &Path| std::fs::remove_file(dir.join(name)).unwrap();
    let gpt = config(("model_type", "gpt2".into()));
    assert!(refused(gpt, &nothing).contains("gpt2"));
    let wide = config(("intermediate_size", 17.into()));
    assert!(refused(wide, &nothing).contains("mlp.gate_proj"));
    let deep = config(("num_hidden_layers", 2.into()));
    assert!(refused(deep, &nothing).contains("layers.1"));
    assert!(refused(fine(), &remove("config.json")).contains("config.json"));
    assert!(refused(fine(), &remove("tokenizer.json")).contains("tokenizer.json"));
    assert!(refused(fine(), &remove("model-1.safetensors")).contains("mlp.gate_proj"));
    let cut = |dir: &Path| {
        let file = dir.join("model-0.safetensors");
        let bytes = std::fs::read(&file).unwrap();
        std::fs::write(file, &bytes[..bytes.len() / 2]).unwrap();
    };
    assert!(refused(fine(), &cut).contains("model-0.safetensors"));
}
