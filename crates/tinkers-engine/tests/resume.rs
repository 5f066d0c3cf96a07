//! A test that resumed training is bitwise equal to uninterrupted training.

use std::sync::Arc;

use tinkers_engine::checkpoint::{CheckpointContents, Key, Store};
use tinkers_engine::{
    AdamW, AdamWParams, AdapterConfig, Example, LossFunction, LossInputs, Mode, Model, Threads,
    TrainableModel, builtin,
};

fn batch(step: usize) -> Vec<Example> {
    let text = include_bytes!("../../tinkers-cli/data/newton-opticks.txt");
    let pieces = text[20_000..].chunks_exact(200).skip(step * 6).take(6);
    pieces
        .map(|piece| {
            let tokens: Vec<u32> = piece.iter().map(|&byte| u32::from(byte)).collect();
            Example {
                tokens: tokens[..199].to_vec(),
                targets: tokens[1..].iter().copied().map(Some).collect(),
                loss_inputs: LossInputs::Weights(vec![1.0; 199]),
            }
        })
        .collect()
}

/// Runs the training steps `from..to` and returns the bit patterns of their losses.
fn train(trainable: &mut TrainableModel, from: usize, to: usize) -> Vec<u64> {
    let threads = Threads::new(2).unwrap();
    let with = AdamWParams {
        learning_rate: 3e-3,
        weight_decay: 0.01,
        grad_clip_norm: 50.0,
        ..AdamWParams::default()
    };
    (from..to)
        .map(|step| {
            let mode = Mode::ForwardBackward;
            let result = trainable
                .pass(&threads, &batch(step), &LossFunction::CrossEntropy, mode)
                .unwrap();
            trainable.step(&with).unwrap();
            result.metrics["loss:sum"].to_bits()
        })
        .collect()
}

fn new_model(base: &Arc<Model>) -> TrainableModel {
    let config = AdapterConfig {
        rank: 8,
        seed: 11,
        train_attn: true,
        train_mlp: true,
        train_unembed: true,
    };
    TrainableModel::new(Arc::clone(base), config).unwrap()
}

#[test]
fn resumed_training_gives_bitwise_equal_losses() {
    let base = Arc::new(builtin::model().unwrap());
    let mut uninterrupted = new_model(&base);
    let want = train(&mut uninterrupted, 0, 6);

    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let key = Key {
        run: "run".into(),
        kind: "weights".into(),
        name: "middle".into(),
    };
    let mut first = new_model(&base);
    let mut got = train(&mut first, 0, 3);
    let checkpoint = CheckpointContents {
        lora: first.lora().clone(),
        optimizer: Some(first.optimizer().clone()),
        record: String::new(),
    };
    store.save(&key, &checkpoint).unwrap();
    drop(first);

    let read = Store::open(dir.path()).unwrap().load(&key).unwrap();
    let optimizer = read.optimizer.unwrap();
    assert_eq!(optimizer.steps(), 3);
    let mut second = TrainableModel::from_parts(Arc::clone(&base), read.lora.clone(), optimizer);
    got.extend(train(&mut second, 3, 6));
    assert_eq!(got, want);

    // Without the saved optimizer state, the losses differ.
    let new_optimizer = AdamW::new(read.lora.params());
    let mut without = TrainableModel::from_parts(base, read.lora, new_optimizer);
    assert_ne!(train(&mut without, 3, 6)[1..], want[4..]);
}
