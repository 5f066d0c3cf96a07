//! Tests of gradients, their accumulation, and optimizer steps.

use super::*;
use crate::adamw::AdamW;
use crate::testing;

fn trainable(family: &str) -> TrainableModel {
    let base = testing::model(family);
    let lora = testing::lora(base.config());
    let optimizer = AdamW::new(lora.params());
    TrainableModel::from_parts(base, lora, optimizer)
}

fn example(text: &[u32]) -> Example {
    Example {
        tokens: text[..text.len() - 1].to_vec(),
        targets: text[1..].iter().copied().map(Some).collect(),
        loss_inputs: LossInputs::Weights(vec![1.0; text.len() - 1]),
    }
}

fn batch() -> Vec<Example> {
    let texts: [&[u32]; 3] = [&[3, 1, 4, 1, 5, 9, 2, 6], &[22, 0, 7, 7], &[8, 8, 8, 8, 8]];
    texts.iter().map(|text| example(text)).collect()
}

fn policy_batch() -> Vec<Example> {
    let with = |mut example: Example| {
        let len = example.targets.len();
        example.loss_inputs = LossInputs::Policy {
            sampler: (0..len).map(|i| -2.0 - i as f32 * 0.3).collect(),
            advantages: (0..len).map(|i| 1.0 - i as f32 * 0.4).collect(),
        };
        example
    };
    batch().into_iter().map(with).collect()
}

fn pass(
    trainable: &mut TrainableModel,
    examples: &[Example],
    loss: &LossFunction,
    mode: Mode,
) -> PassResult {
    let threads = Threads::new(2).unwrap();
    trainable.pass(&threads, examples, loss, mode).unwrap()
}

/// Asserts that the gradient of one matrix matches central differences of the loss.
fn check(family: &str, examples: &[Example], loss: &LossFunction, name: &str) {
    let mut trainable = trainable(family);
    pass(&mut trainable, examples, loss, Mode::ForwardBackward);
    let grads = trainable.grads.take().unwrap();
    let at = trainable
        .lora
        .params()
        .iter()
        .position(|p| p.name().contains(name))
        .unwrap();
    let grad = &grads[at];
    let mut value = |element: usize, by: f32| {
        let data = trainable.lora.params_mut()[at].value.data_mut();
        let before = data[element];
        data[element] = before + by;
        let result = pass(&mut trainable, examples, loss, Mode::Forward);
        trainable.lora.params_mut()[at].value.data_mut()[element] = before;
        result.metrics["loss:sum"]
    };
    let step = 4e-3f32;
    let mut order: Vec<usize> = (0..grad.len()).collect();
    order.sort_by(|a, b| grad[*b].abs().total_cmp(&grad[*a].abs()));
    // Only the largest elements are checked: for the others, single-precision rounding dominates the finite differences.
    for &element in &order[..6] {
        let want = (value(element, step) - value(element, -step)) / (2.0 * f64::from(step));
        let got = f64::from(grad[element]);
        assert!(got.abs() > 1e-3, "{name} gets no gradient");
        let apart = (got - want).abs();
        assert!(
            apart < 0.03 * want.abs().max(0.05),
            "{family} {name}, element {element}: {got}, finite difference {want}"
        );
    }
}

const FIRST_LAYER: [&str; 10] = [
    "layers.0.self_attn.q_proj.lora_A",
    "layers.0.self_attn.q_proj.lora_B",
    "layers.0.self_attn.k_proj.lora_A",
    "layers.0.self_attn.k_proj.lora_B",
    "layers.0.mlp.gate_proj.lora_A",
    "layers.0.mlp.gate_proj.lora_B",
    "layers.0.mlp.up_proj.lora_A",
    "layers.0.mlp.up_proj.lora_B",
    "layers.0.mlp.down_proj.lora_A",
    "layers.0.mlp.down_proj.lora_B",
];

#[test]
fn first_layer_gradients_agree_with_finite_differences() {
    for family in ["llama", "qwen2", "qwen3"] {
        for name in FIRST_LAYER {
            check(family, &batch(), &LossFunction::CrossEntropy, name);
        }
    }
}

#[test]
fn policy_loss_gradients_agree_with_finite_differences() {
    for loss in [
        LossFunction::ImportanceSampling,
        LossFunction::Dro { beta: 0.3 },
    ] {
        for name in ["layers.0.self_attn.q_proj.lora_A", "lm_head.lora_B"] {
            check("qwen3", &policy_batch(), &loss, name);
        }
    }
}

#[test]
fn gradients_accumulate_over_passes() {
    let examples = batch();
    let mut once = trainable("qwen3");
    pass(
        &mut once,
        &examples,
        &LossFunction::CrossEntropy,
        Mode::ForwardBackward,
    );
    let mut parts = trainable("qwen3");
    for example in &examples {
        let one = std::slice::from_ref(example);
        pass(
            &mut parts,
            one,
            &LossFunction::CrossEntropy,
            Mode::ForwardBackward,
        );
    }
    let pairs = once.grads.unwrap().into_iter().flatten();
    for (a, b) in pairs.zip(parts.grads.unwrap().into_iter().flatten()) {
        assert!((a - b).abs() < 1e-4 * a.abs().max(1.0), "{a} {b}");
    }
}

#[test]
fn forward_pass_adds_no_gradients_and_optimizer_step_clears_them() {
    let mut trainable = trainable("llama");
    pass(
        &mut trainable,
        &batch(),
        &LossFunction::CrossEntropy,
        Mode::Forward,
    );
    assert!(trainable.grads.is_none());
    pass(
        &mut trainable,
        &batch(),
        &LossFunction::CrossEntropy,
        Mode::ForwardBackward,
    );
    assert!(trainable.grads.is_some());
    assert!(trainable.step(&AdamWParams::default()).unwrap().grad_norm > 0.0);
    assert!(trainable.grads.is_none());
    assert_eq!(
        trainable.step(&AdamWParams::default()).unwrap().grad_norm,
        0.0
    );
}

#[test]
fn optimizer_steps_lower_the_loss_unless_learning_rate_is_zero() {
    for (rate, falls) in [(1e-2, true), (0.0, false)] {
        let mut trainable = trainable("qwen3");
        let with = AdamWParams {
            learning_rate: rate,
            ..AdamWParams::default()
        };
        let loss = |result: PassResult| result.metrics["loss:sum"];
        let mut step = || {
            let result = pass(
                &mut trainable,
                &batch(),
                &LossFunction::CrossEntropy,
                Mode::ForwardBackward,
            );
            trainable.step(&with).unwrap();
            loss(result)
        };
        let first = step();
        let last = (0..12).map(|_| step()).last().unwrap();
        assert_eq!(last < 0.8 * first, falls, "{first} {last}");
        assert!(falls || last == first);
    }
}

#[test]
fn missing_target_token_contributes_no_loss_and_no_gradient() {
    let mut with_missing = example(&[3, 1, 4, 1, 5]);
    with_missing.targets[1] = None;
    let mut without_weight = example(&[3, 1, 4, 1, 5]);
    without_weight.loss_inputs = LossInputs::Weights(vec![1.0, 0.0, 1.0, 1.0]);
    let run = |example: Example| {
        let mut trainable = trainable("llama");
        let result = pass(
            &mut trainable,
            &[example],
            &LossFunction::CrossEntropy,
            Mode::ForwardBackward,
        );
        (result, trainable.grads.unwrap())
    };
    let (missing, missing_grads) = run(with_missing);
    let (zero, zero_grads) = run(without_weight);
    assert_eq!(missing.metrics["loss:sum"], zero.metrics["loss:sum"]);
    assert_eq!(missing.log_probs[0][1], 0.0);
    assert!(zero.log_probs[0][1] < 0.0);
    assert_eq!(missing_grads, zero_grads);
}

#[test]
fn several_target_tokens_at_one_position_have_separate_weights() {
    let mut trainable = trainable("qwen3");
    let both = Example {
        tokens: vec![3, 1],
        targets: vec![Some(1), Some(2), Some(4), None],
        loss_inputs: LossInputs::Weights(vec![1.0, 0.5, 2.0, 0.0]),
    };
    let result = pass(
        &mut trainable,
        &[both],
        &LossFunction::CrossEntropy,
        Mode::Forward,
    );
    let p = &result.log_probs[0];
    let want = -f64::from(p[0]) - 0.5 * f64::from(p[1]) - 2.0 * f64::from(p[2]);
    assert!((result.metrics["loss:sum"] - want).abs() < 1e-5);
    let one = |target| {
        let mut single = example(&[3, 1, 4]);
        single.targets[0] = Some(target);
        single
    };
    let single = pass(
        &mut trainable,
        &[one(2)],
        &LossFunction::CrossEntropy,
        Mode::Forward,
    );
    assert!((single.log_probs[0][0] - p[1]).abs() < 1e-5);
}

#[test]
fn training_is_bitwise_equal_on_any_number_of_threads() {
    let run = |count: usize| {
        let mut trainable = trainable("qwen3");
        let threads = Threads::new(count).unwrap();
        let many: Vec<Example> = (0..300).map(|i| batch()[i % 3].clone()).collect();
        let mode = Mode::ForwardBackward;
        trainable
            .pass(&threads, &many, &LossFunction::CrossEntropy, mode)
            .unwrap();
        trainable.step(&AdamWParams::default()).unwrap();
        let params = trainable.lora.params().iter().flat_map(|p| p.data());
        params.map(|x| x.to_bits()).collect::<Vec<u32>>()
    };
    let one = run(1);
    assert_eq!(one, run(1));
    assert_eq!(one, run(3));
}

#[test]
fn error_names_the_invalid_field_and_no_gradients_are_added() {
    let mut cases: Vec<(Example, &str)> = Vec::new();
    let mut case = |field: &'static str, change: &dyn Fn(&mut Example)| {
        let mut bad = example(&[3, 1, 4]);
        change(&mut bad);
        cases.push((bad, field));
    };
    case("data[1].model_input", &|e| e.tokens.clear());
    case("data[1].model_input", &|e| e.tokens[0] = 23);
    case("data[1].loss_fn_inputs.target_tokens", &|e| {
        e.targets[1] = Some(99)
    });
    case("data[1].loss_fn_inputs.target_tokens", &|e| {
        let _ = e.targets.pop();
    });
    case("data[1].loss_fn_inputs.weights", &|e| {
        e.loss_inputs = LossInputs::Weights(vec![1.0])
    });
    case("data[1].loss_fn_inputs.weights", &|e| {
        e.loss_inputs = LossInputs::Weights(vec![1.0, f32::NAN])
    });
    case("data[1].loss_fn_inputs.advantages", &|e| {
        e.loss_inputs = LossInputs::Policy {
            sampler: vec![-1.0; 2],
            advantages: vec![f32::INFINITY; 2],
        };
    });
    let threads = Threads::new(1).unwrap();
    for (bad, field) in cases {
        let mut trainable = trainable("llama");
        let data = [example(&[1, 2]), bad];
        let mode = Mode::ForwardBackward;
        let error = trainable
            .pass(&threads, &data, &LossFunction::CrossEntropy, mode)
            .unwrap_err();
        assert!(error.to_string().starts_with(field), "{error}");
        assert!(trainable.grads.is_none());
    }
}

#[test]
fn non_finite_gradients_are_refused_and_not_accumulated() {
    let mut trainable = trainable("qwen3");
    let threads = Threads::new(1).unwrap();
    let mode = Mode::ForwardBackward;
    let good = batch();
    pass(&mut trainable, &good, &LossFunction::CrossEntropy, mode);
    let held = trainable.grads.clone().unwrap();
    let mut bad = example(&[3, 1, 4]);
    bad.loss_inputs = LossInputs::Weights(vec![f32::MAX; 2]);
    let refused = trainable.pass(&threads, &[bad], &LossFunction::CrossEntropy, mode);
    let error = refused.unwrap_err().to_string();
    assert!(
        error.starts_with("data: ") && error.contains("not finite"),
        "{error}"
    );
    assert_eq!(trainable.grads.as_ref(), Some(&held));
    trainable.step(&AdamWParams::default()).unwrap();
    assert!(
        trainable
            .lora
            .params()
            .iter()
            .all(|p| p.data().iter().all(|x| x.is_finite()))
    );
}

#[test]
fn optimizer_step_to_non_finite_weights_leaves_model_unchanged() {
    // In the first case, the learning rate makes the weights infinite; in the second, the gradient makes the second moments
    // infinite.
    for (scale, rate) in [(1.0, 1e39), (1e25, 1e-3)] {
        let mut trainable = trainable("qwen3");
        let mut data = batch();
        for example in &mut data {
            example.loss_inputs = LossInputs::Weights(vec![scale; example.targets.len()]);
        }
        pass(
            &mut trainable,
            &data,
            &LossFunction::CrossEntropy,
            Mode::ForwardBackward,
        );
        let state = |trainable: &TrainableModel| {
            let params = trainable
                .lora
                .params()
                .iter()
                .flat_map(|p| p.data().to_vec());
            (
                params.collect::<Vec<_>>(),
                trainable.optimizer.clone(),
                trainable.grads.clone(),
            )
        };
        let before = state(&trainable);
        let with = AdamWParams {
            learning_rate: rate,
            ..AdamWParams::default()
        };
        let error = trainable.step(&with).unwrap_err().to_string();
        assert!(error.starts_with("adam_params: "), "{error}");
        assert_eq!(state(&trainable), before);
        // The same gradients are accepted with clipping and the default learning rate.
        trainable
            .step(&AdamWParams {
                grad_clip_norm: 1.0,
                ..AdamWParams::default()
            })
            .unwrap();
        assert_eq!(trainable.optimizer.steps(), 1);
    }
}
