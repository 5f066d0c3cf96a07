//! Tests of model directories in the Hugging Face layout.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::channel;

use candle_core::{DType, Device, Tensor};
use tinkers_engine::ModelEngine;
use tinkers_local::engine::{Engine, Job, JobCallback, JobId, Outcome, SamplerWeights, Work};
use tinkers_wire::{ModelInput, SampleRequest, SampleResponse, SamplingParams, Stop, StopReason};

const WORDS: [&str; 8] = ["the", "light", "of", "rays", "and", "red", "END", "blue"];

/// Writes a model with one layer and a vocabulary of eight words. The weights are in two files. Most weights are 16-bit numbers.
fn write(dir: &Path, config: &str) {
    let mut shards: [BTreeMap<String, Tensor>; 2] = Default::default();
    let mut put = |name: &str, shape: &[usize], dtype: DType| {
        let count: usize = shape.iter().product();
        // Pseudo-random but deterministic values.
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
    let mut sampling_params = SamplingParams::new().max_tokens(40).seed(1);
    sampling_params.stop = stop;
    let request = SampleRequest {
        prompt: ModelInput::from_tokens(vec![0, 3]),
        num_samples: Some(6),
        sampling_params,
        ..SampleRequest::default()
    };
    let work = Work::Sample {
        weights: SamplerWeights::Base(engine.models()[0].name.clone()),
        request: Box::new(request),
    };
    let done = JobCallback::new(move |ended| sender.send(ended).unwrap());
    let id = JobId(number);
    engine.start(Job { id, work }, done);
    match receiver.recv().unwrap() {
        Ok(Outcome::Sampled(response)) => response,
        other => panic!("{other:?}"),
    }
}

#[test]
fn model_is_served_under_its_directory_name_with_its_tokenizer() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("words-8");
    std::fs::create_dir(&model).unwrap();
    write(&model, &config(("rope_theta", 5000.0.into())));
    let engine = ModelEngine::from_model_dir(&model, &dir.path().join("data")).unwrap();
    let model = &engine.models()[0];
    assert_eq!((model.name.as_str(), model.vocab_size), ("words-8", 8));
    assert_eq!(model.max_context_length, 64);

    // A sample ends at the end token, and at a stop text, which is searched in the decoded text.
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

/// Starts an engine with a new model directory, after `change` has modified the directory.
fn start_changed(
    change: impl FnOnce(&Path),
) -> (
    tempfile::TempDir,
    Result<ModelEngine, tinkers_engine::Error>,
) {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    std::fs::create_dir(&model).unwrap();
    write(&model, &config(("eos_token_id", serde_json::Value::Null)));
    change(&model);
    let engine = ModelEngine::from_model_dir(&model, &dir.path().join("data"));
    (dir, engine)
}

#[test]
fn end_tokens_are_collected_from_all_config_files() {
    // Returns the last tokens of stopped samples.
    let ends = |files: &[(&str, &str)]| {
        let (_dir, engine) = start_changed(|dir| {
            for (file, text) in files {
                let mut text = (*text).to_owned();
                if *file == "config.json" {
                    text = config(("eos_token_id", serde_json::from_str(&text).unwrap()));
                }
                std::fs::write(dir.join(file), text).unwrap();
            }
        });
        let sequences = sample(&engine.unwrap(), 1, None).sequences;
        let stopped = sequences
            .into_iter()
            .filter(|s| s.stop_reason == StopReason::Stop);
        let mut ends: Vec<u32> = stopped.filter_map(|s| s.tokens.last().copied()).collect();
        ends.sort_unstable();
        ends.dedup();
        ends
    };
    let generation = "generation_config.json";
    let tokenizer = "tokenizer_config.json";
    for (files, expected) in [
        (&[][..], vec![]),
        (&[("config.json", "6")], vec![6]),
        (&[(generation, r#"{"eos_token_id": 6}"#)], vec![6]),
        (&[(generation, r#"{"eos_token_id": [6, 1]}"#)], vec![1, 6]),
        (
            &[
                (generation, r#"{"eos_token_id": null}"#),
                ("config.json", "[6]"),
            ],
            vec![6],
        ),
        (
            &[(generation, "{}"), (tokenizer, r#"{"eos_token": null}"#)],
            vec![],
        ),
        (
            &[
                (generation, r#"{"eos_token_id": [1]}"#),
                ("config.json", "6"),
            ],
            vec![1, 6],
        ),
        (&[(tokenizer, r#"{"eos_token": "END"}"#)], vec![6]),
        (
            &[(
                tokenizer,
                r#"{"eos_token": {"content": "END", "lstrip": false}}"#,
            )],
            vec![6],
        ),
        (
            &[("special_tokens_map.json", r#"{"eos_token": "END"}"#)],
            vec![6],
        ),
        (&[(tokenizer, r#"{"eos_token": "<|not there|>"}"#)], vec![]),
    ] {
        assert_eq!(ends(files), expected, "{files:?}");
    }
}

#[test]
fn error_for_a_malformed_field_names_file_and_field() {
    for (file, text, parts) in [
        (
            "generation_config.json",
            r#"{"eos_token_id": "END"}"#,
            ["eos_token_id", "END"],
        ),
        ("generation_config.json", "{", ["JSON", ""]),
        (
            "tokenizer_config.json",
            r#"{"eos_token": 6}"#,
            ["eos_token", "6"],
        ),
        (
            "model.safetensors.index.json",
            "{}",
            ["weight_map", "missing"],
        ),
    ] {
        let (_dir, engine) = start_changed(|dir| std::fs::write(dir.join(file), text).unwrap());
        let error = engine.unwrap_err().to_string();
        assert!(error.contains(file), "{error}");
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
}

#[test]
fn missing_head_widths_are_derived_from_the_weights() {
    for null in ["head_dim", "num_key_value_heads"] {
        let (_dir, engine) = start_changed(|dir| {
            std::fs::write(
                dir.join("config.json"),
                config((null, serde_json::Value::Null)),
            )
            .unwrap();
        });
        assert!(engine.is_ok(), "{null}: {engine:?}");
    }
}

#[test]
fn only_weight_files_in_the_index_are_read() {
    let (_dir, engine) = start_changed(|dir| {
        // A file of another layout, which must be ignored.
        std::fs::write(dir.join("consolidated.safetensors"), "not safetensors").unwrap();
        let index = r#"{"weight_map": {"a": "model-0.safetensors", "b": "model-1.safetensors"}}"#;
        std::fs::write(dir.join("model.safetensors.index.json"), index).unwrap();
    });
    assert!(engine.is_ok(), "{engine:?}");
}

#[cfg(unix)]
#[test]
fn model_name_comes_from_the_link_and_fingerprint_from_contents() {
    let dir = tempfile::tempdir().unwrap();
    let files = dir.path().join("blobs");
    std::fs::create_dir(&files).unwrap();
    write(&files, &config(("rope_theta", 5000.0.into())));
    let model = dir.path().join("Acme");
    std::fs::create_dir(&model).unwrap();
    let link = model.join("words-8");
    std::os::unix::fs::symlink(&files, &link).unwrap();
    let base = |path: &Path, name: Option<&str>| {
        let data = dir.path().join("data");
        let engine = match name {
            None => ModelEngine::from_model_dir(path, &data),
            Some(name) => ModelEngine::from_model_dir_named(path, name, &data),
        };
        engine.unwrap().models().remove(0)
    };
    let linked = base(&link.join("."), None);
    assert_eq!(
        (linked.name.as_str(), &linked.aliases[..]),
        ("Acme/words-8", &["words-8".to_owned()][..])
    );
    let direct = base(&files, Some("my/words"));
    assert_eq!(direct.name, "my/words");
    assert!(direct.fingerprint.is_some());
    assert_eq!(direct.fingerprint, linked.fingerprint);
}

#[test]
fn error_names_the_invalid_setting_file_or_weight() {
    let error_of = |config: String, change: &dyn Fn(&Path)| {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &config);
        change(dir.path());
        let error = ModelEngine::from_model_dir(dir.path(), &dir.path().join("data")).unwrap_err();
        error.to_string()
    };
    let valid = || config(("rope_theta", 5000.0.into()));
    let no_change = |_: &Path| {};
    let remove =
        |name: &'static str| move |dir: &Path| std::fs::remove_file(dir.join(name)).unwrap();
    let gpt = config(("model_type", "gpt2".into()));
    assert!(error_of(gpt, &no_change).contains("gpt2"));
    let wide = config(("intermediate_size", 17.into()));
    assert!(error_of(wide, &no_change).contains("mlp.gate_proj"));
    let deep = config(("num_hidden_layers", 2.into()));
    assert!(error_of(deep, &no_change).contains("layers.1"));
    assert!(error_of(valid(), &remove("config.json")).contains("config.json"));
    assert!(error_of(valid(), &remove("tokenizer.json")).contains("tokenizer.json"));
    assert!(error_of(valid(), &remove("model-1.safetensors")).contains("mlp.gate_proj"));
    let truncate = |dir: &Path| {
        let file = dir.join("model-0.safetensors");
        let bytes = std::fs::read(&file).unwrap();
        std::fs::write(file, &bytes[..bytes.len() / 2]).unwrap();
    };
    assert!(error_of(valid(), &truncate).contains("model-0.safetensors"));
}
