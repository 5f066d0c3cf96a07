//! Training that is saved and resumed is the training that was never interrupted, to the last bit.

use std::sync::Arc;

use tinkers_engine::checkpoint::{Key, Saved, Store};
use tinkers_engine::{
    AdamW, AdamWParams, Example, LoraConfig, Loss, Mode, Model, Terms, Threads, Trainee, builtin,
};

fn batch(step: usize) -> Vec<Example> {
    let text = include_bytes!("../../../data/newton-opticks.txt");
    let pieces = text[20_000..].chunks_exact(200).skip(step * 6).take(6);
    pieces
        .map(|piece| {
            let tokens: Vec<u32> = piece.iter().map(|&byte| u32::from(byte)).collect();
            Example {
                tokens: tokens[..199].to_vec(),
                targets: tokens[1..].iter().copied().map(Some).collect(),
                terms: Terms::Weights(vec![1.0; 199]),
            }
        })
        .collect()
}

/// Losses of the steps `from..to`, as bits.
fn train(trainee: &mut Trainee, from: usize, to: usize) -> Vec<u64> {
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
            let result = trainee
                .pass(&threads, &batch(step), &Loss::CrossEntropy, mode)
                .unwrap();
            trainee.step(&with).unwrap();
            result.metrics["loss:sum"].to_bits()
        })
        .collect()
}

fn fresh(base: &Arc<Model>) -> Trainee {
    let config = LoraConfig {
        rank: 8,
        seed: 11,
        train_attn: true,
        train_mlp: true,
        train_unembed: true,
    };
    Trainee::new(Arc::clone(base), config).unwrap()
}

#[test]
fn resumed_training_gives_exactly_the_same_losses() {
    let base = Arc::new(builtin::model().unwrap());
    let mut whole = fresh(&base);
    let want = train(&mut whole, 0, 6);

    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let key = Key {
        run: "run".into(),
        kind: "weights".into(),
        name: "middle".into(),
    };
    let mut first = fresh(&base);
    let mut got = train(&mut first, 0, 3);
    let saved = Saved {
        lora: first.lora().clone(),
        optimizer: Some(first.optimizer().clone()),
        record: String::new(),
    };
    store.save(&key, &saved).unwrap();
    drop(first);

    let read = Store::open(dir.path()).unwrap().load(&key).unwrap();
    let optimizer = read.optimizer.unwrap();
    assert_eq!(optimizer.steps(), 3);
    let mut second = Trainee::from_parts(Arc::clone(&base), read.lora.clone(), optimizer);
    got.extend(train(&mut second, 3, 6));
    assert_eq!(got, want);

    // The optimizer's memory is what makes it so.
    let forgetful = AdamW::new(read.lora.params());
    let mut without = Trainee::from_parts(base, read.lora, forgetful);
    assert_ne!(train(&mut without, 3, 6)[1..], want[4..]);
}
