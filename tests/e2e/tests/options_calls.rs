//! The effect of each option of a call on its request.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tinkers::prelude::*;
use tinkers::wire::{TensorValues, routes};
use tinkers::{CreateLoraTrainingClient, Sample, SamplingParams};
use tinkers_e2e::training::model;
use tinkers_e2e::{Harness, SCRIPTED, Setup};

use crate::recorder::Recorder;

/// Starts a server and a client whose requests are recorded.
async fn start() -> (Harness, Recorder) {
    let recorder = Recorder::default();
    let layer = |inner| recorder.wrap(Arc::new(inner));
    let (harness, _) = Harness::through(Setup::default(), layer).await;
    (harness, recorder)
}

/// Returns the names of the builder methods of the type `type_name` in the source text `source`.
fn options(source: &str, type_name: &str) -> BTreeSet<String> {
    let start = source
        .find(&format!("impl {type_name} {{"))
        .expect("the type");
    let end = source[start..].find("\n}").expect("its end") + start;
    let methods = source[start..end].split("    pub fn ").skip(1);
    methods
        .filter(|text| text.contains("-> Self") && text.contains("(mut self"))
        .map(|text| text.split('(').next().unwrap_or_default().to_owned())
        .collect()
}

fn names<T>(table: &[(&str, T)]) -> BTreeSet<String> {
    table.iter().map(|(name, _)| (*name).to_owned()).collect()
}

/// An option of a sample request: a function that sets the option, the JSON pointer of the
/// resulting field in the request body, and the expected value of the field.
type SampleOption = (fn(Sample) -> Sample, &'static str, fn() -> Value);

const SAMPLE: [(&str, SampleOption); 15] = [
    (
        "max_tokens",
        (
            |s| s.max_tokens(3),
            "/sampling_params/max_tokens",
            || json!(3),
        ),
    ),
    (
        "seed",
        (|s| s.seed(7), "/sampling_params/seed", || json!(7)),
    ),
    (
        "stop",
        (|s| s.stop("."), "/sampling_params/stop", || json!(["."])),
    ),
    (
        "temperature",
        (
            |s| s.temperature(0.5),
            "/sampling_params/temperature",
            || json!(0.5),
        ),
    ),
    (
        "top_k",
        (|s| s.top_k(5), "/sampling_params/top_k", || json!(5)),
    ),
    (
        "top_p",
        (|s| s.top_p(0.25), "/sampling_params/top_p", || json!(0.25)),
    ),
    (
        "params",
        (
            |s| s.params(SamplingParams::new().max_tokens(9)),
            "/sampling_params/max_tokens",
            || json!(9),
        ),
    ),
    (
        "num_samples",
        (|s| s.num_samples(2), "/num_samples", || json!(2)),
    ),
    (
        "prompt_logprobs",
        (|s| s.prompt_logprobs(), "/prompt_logprobs", || json!(true)),
    ),
    (
        "prompt_logprobs_last_n",
        (
            |s| s.prompt_logprobs_last_n(1),
            "/prompt_logprobs_last_n",
            || json!(1),
        ),
    ),
    (
        "topk_prompt_logprobs",
        (
            |s| s.topk_prompt_logprobs(2),
            "/topk_prompt_logprobs",
            || json!(2),
        ),
    ),
    (
        "topk_sample_logprobs",
        (
            |s| s.topk_sample_logprobs(2),
            "/topk_sample_logprobs",
            || json!(2),
        ),
    ),
    (
        "target_prompt_logprobs",
        (
            |s| {
                let targets = TensorData::dense(TensorValues::I64(vec![1, 2].into()), vec![2, 1]);
                let targets = targets.expect("two rows");
                s.target_prompt_logprobs(targets)
            },
            "/target_prompt_logprobs/shape",
            || json!([2, 1]),
        ),
    ),
    (
        "prompt_alt_tokens",
        (
            |s| s.prompt_alt_tokens(1),
            "/prompt_alt_tokens_k",
            || json!(1),
        ),
    ),
    (
        "record_stability_info",
        (
            |s| s.record_stability_info(),
            "/record_stability_info",
            || json!(true),
        ),
    ),
];

#[tokio::test(start_paused = true)]
async fn each_option_of_a_sample_is_sent_in_the_request() {
    let source = include_str!("../../../crates/tinkers-sampling/src/request.rs");
    assert_eq!(options(source, "Sample"), names(&SAMPLE));
    let (harness, recorder) = start().await;
    let sampler = harness.service.create_sampling_client(SCRIPTED).await;
    let sampler = sampler.unwrap();
    for (name, (set, pointer, expected)) in SAMPLE {
        // The result of the sample does not matter, only its request.
        let _outcome = sampler.sample(vec![1, 2, 3]).await;
        let without = recorder
            .last_json(routes::ASAMPLE)
            .pointer(pointer)
            .cloned();
        assert_eq!(without.filter(|value| !value.is_null()), None, "{name}");
        let _outcome = set(sampler.sample(vec![1, 2, 3])).await;
        let body = recorder.last_json(routes::ASAMPLE);
        assert_eq!(body.pointer(pointer), Some(&expected()), "{name}: {body}");
    }
}

fn notes() -> BTreeMap<String, String> {
    BTreeMap::from([("run".to_owned(), "7".to_owned())])
}

const DAY: Duration = Duration::from_secs(24 * 3600);

#[tokio::test(start_paused = true)]
async fn each_option_of_a_save_is_sent_in_the_request() {
    let source = include_str!("../../../crates/tinkers-training/src/save.rs");
    let (state, sampler) = (
        options(source, "SaveState"),
        options(source, "SaveForSampler"),
    );
    let (harness, recorder) = start().await;
    let training = model(&harness).await;
    let save = training
        .save_state("one")
        .ttl(DAY)
        .overwrite()
        .user_metadata(notes());
    assert_eq!(
        state,
        BTreeSet::from(["overwrite", "ttl", "user_metadata"].map(str::to_owned))
    );
    save.await.unwrap();
    let body = recorder.last_json(routes::SAVE_WEIGHTS);
    assert_eq!(body["path"], "one");
    assert_eq!(body["ttl_seconds"], 86_400);
    assert_eq!(body["overwrite"], true);
    assert_eq!(body["user_metadata"]["run"], "7");
    let save = training.save_weights_for_sampler("two");
    let save = save.ttl(DAY).user_metadata(notes());
    assert_eq!(
        sampler,
        BTreeSet::from(["ttl", "user_metadata"].map(str::to_owned))
    );
    save.await.unwrap();
    let body = recorder.last_json(routes::SAVE_WEIGHTS_FOR_SAMPLER);
    assert_eq!(body["path"], "two");
    assert_eq!(body["ttl_seconds"], 86_400);
    assert_eq!(body["user_metadata"]["run"], "7");
}

/// An option of a new model: a function that sets the option, the JSON pointer of the resulting
/// field in the request body, and the expected value of the field.
type ModelOption = (
    fn(CreateLoraTrainingClient) -> CreateLoraTrainingClient,
    &'static str,
    fn() -> Value,
);

const MODEL: [(&str, ModelOption); 7] = [
    ("rank", (|m| m.rank(4), "/lora_config/rank", || json!(4))),
    ("seed", (|m| m.seed(9), "/lora_config/seed", || json!(9))),
    (
        "lora_config",
        (
            |m| m.lora_config(LoraConfig::rank(2)),
            "/lora_config/rank",
            || json!(2),
        ),
    ),
    (
        "train_attn",
        (
            |m| m.train_attn(false),
            "/lora_config/train_attn",
            || json!(false),
        ),
    ),
    (
        "train_mlp",
        (
            |m| m.train_mlp(false),
            "/lora_config/train_mlp",
            || json!(false),
        ),
    ),
    (
        "train_unembed",
        (
            |m| m.train_unembed(false),
            "/lora_config/train_unembed",
            || json!(false),
        ),
    ),
    (
        "user_metadata",
        (
            |m| m.user_metadata(notes()),
            "/user_metadata/run",
            || json!("7"),
        ),
    ),
];

#[tokio::test(start_paused = true)]
async fn each_option_of_a_new_model_is_sent_in_the_request() {
    let source = include_str!("../../../crates/tinkers-training/src/create.rs");
    assert_eq!(options(source, "CreateLoraTrainingClient"), names(&MODEL));
    let from_state = BTreeSet::from(["user_metadata".to_owned()]);
    assert_eq!(options(source, "CreateTrainingClientFromState"), from_state);
    let (harness, recorder) = start().await;
    for (name, (set, pointer, expected)) in MODEL {
        let new = set(harness.service.create_lora_training_client(SCRIPTED));
        new.await.unwrap();
        let body = recorder.last_json(routes::CREATE_MODEL);
        assert_eq!(body.pointer(pointer), Some(&expected()), "{name}: {body}");
    }
    let training = model(&harness).await;
    let saved = training.save_state("one").await.unwrap().path;
    let service = &harness.service;
    for (optimizer, creation) in [
        (
            true,
            service.create_training_client_from_state_with_optimizer(&saved),
        ),
        (false, service.create_training_client_from_state(&saved)),
    ] {
        creation.user_metadata(notes()).await.unwrap();
        let body = recorder.last_json(routes::LOAD_WEIGHTS);
        assert_eq!(body["optimizer"], optimizer);
        assert_eq!(body["user_metadata"]["run"], "7");
    }
}
