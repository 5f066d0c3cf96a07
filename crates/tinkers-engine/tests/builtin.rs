//! The built-in model is small enough to carry and good enough to use.

use std::sync::Arc;

use tinkers_engine::pretrain::Corpus;
use tinkers_engine::{Example, LoraConfig, Loss, Mode, Terms, Threads, Trainee, builtin};

const CORPUS: &[u8] = include_bytes!("../../../data/king-james-bible.txt.zst");

#[test]
fn its_weights_take_at_most_four_megabytes() {
    let weights = include_bytes!("../assets/tiny/model.safetensors");
    assert!(weights.len() <= 4_000_000, "{} bytes", weights.len());
}

#[test]
fn held_out_text_is_predicted_within_1_6_nats_per_byte() {
    let text = zstd::decode_all(CORPUS).unwrap();
    let corpus = Corpus::new(&text, 1);
    let pieces = corpus.held_out(512, usize::MAX);
    // Every tenth, from all over the book.
    let examples: Vec<Example> = pieces
        .iter()
        .step_by(10)
        .map(|piece| Example {
            tokens: piece[..piece.len() - 1].to_vec(),
            targets: piece[1..].iter().copied().map(Some).collect(),
            terms: Terms::Weights(vec![1.0; piece.len() - 1]),
        })
        .collect();
    assert!(examples.len() > 20);
    let config = LoraConfig {
        rank: 1,
        seed: 0,
        train_attn: false,
        train_mlp: false,
        train_unembed: true,
    };
    let mut trainee = Trainee::new(Arc::new(builtin::model().unwrap()), config).unwrap();
    let threads = Threads::new(0).unwrap();
    let result = trainee
        .pass(&threads, &examples, &Loss::CrossEntropy, Mode::Forward)
        .unwrap();
    let loss = result.metrics["loss:sum"] / result.metrics["weights:sum"];
    assert!(loss < 1.6, "{loss} nats per byte");
    // Below what English text can be brought to by a model of this size, something would be wrong with the measure.
    assert!(loss > 0.5, "{loss} nats per byte");
}
