//! Tests of the size and the quality of the built-in model.

use std::sync::Arc;

use tinkers_engine::pretrain::Corpus;
use tinkers_engine::{
    AdapterConfig, Example, LossFunction, LossInputs, Mode, Threads, TrainableModel, builtin,
};

const CORPUS: &[u8] = include_bytes!("../../../data/king-james-bible.txt.zst");

#[test]
fn builtin_weights_take_at_most_four_megabytes() {
    let weights = include_bytes!("../assets/tiny/model.safetensors");
    assert!(weights.len() <= 4_000_000, "{} bytes", weights.len());
}

#[test]
fn builtin_model_has_a_held_out_loss_below_1_6_nats_per_byte() {
    let text = zstd::decode_all(CORPUS).unwrap();
    let corpus = Corpus::new(&text, 1);
    let pieces = corpus.held_out(512, usize::MAX);
    // Every tenth piece, spread over the book.
    let examples: Vec<Example> = pieces
        .iter()
        .step_by(10)
        .map(|piece| Example {
            tokens: piece[..piece.len() - 1].to_vec(),
            targets: piece[1..].iter().copied().map(Some).collect(),
            loss_inputs: LossInputs::Weights(vec![1.0; piece.len() - 1]),
        })
        .collect();
    assert!(examples.len() > 20);
    let config = AdapterConfig {
        rank: 1,
        seed: 0,
        train_attn: false,
        train_mlp: false,
        train_unembed: true,
    };
    let mut trainable = TrainableModel::new(Arc::new(builtin::model().unwrap()), config).unwrap();
    let threads = Threads::new(0).unwrap();
    let result = trainable
        .pass(
            &threads,
            &examples,
            &LossFunction::CrossEntropy,
            Mode::Forward,
        )
        .unwrap();
    let loss = result.metrics["loss:sum"] / result.metrics["weights:sum"];
    assert!(loss < 1.6, "{loss} nats per byte");
    // A model of this size cannot reach a lower loss, so a lower value would mean a faulty measurement.
    assert!(loss > 0.5, "{loss} nats per byte");
}
