//! Training as a whole: gradients, accumulation, steps.

use super::*;
use crate::adamw::AdamW;
use crate::testing;

fn trainee(family: &str) -> Trainee {
    let base = testing::model(family);
    let lora = testing::lora(base.config());
    let optimizer = AdamW::new(lora.params());
    Trainee::from_parts(base, lora, optimizer)
}

fn example(text: &[u32]) -> Example {
    Example {
        tokens: text[..text.len() - 1].to_vec(),
        targets: text[1..].iter().copied().map(Some).collect(),
        terms: Terms::Weights(vec![1.0; text.len() - 1]),
    }
}

fn batch() -> Vec<Example> {
    let texts: [&[u32]; 3] = [&[3, 1, 4, 1, 5, 9, 2, 6], &[22, 0, 7, 7], &[8, 8, 8, 8, 8]];
    texts.iter().map(|text| example(text)).collect()
}

fn policy_batch() -> Vec<Example> {
    let with = |mut example: Example| {
        let len = example.targets.len();
        example.terms = Terms::Policy {
            sampler: (0..len).map(|i| -2.0 - i as f32 * 0.3).collect(),
            advantages: (0..len).map(|i| 1.0 - i as f32 * 0.4).collect(),
        };
        example
    };
    batch().into_iter().map(with).collect()
}

fn pass(trainee: &mut Trainee, examples: &[Example], loss: &Loss, mode: Mode) -> PassResult {
    let threads = Threads::new(2).unwrap();
    trainee.pass(&threads, examples, loss, mode).unwrap()
}

/// Central differences of the loss over elements of one matrix against the gradient of the pass.
fn check(family: &str, examples: &[Example], loss: &Loss, name: &str) {
    let mut trainee = trainee(family);
    pass(&mut trainee, examples, loss, Mode::ForwardBackward);
    let grads = trainee.grads.take().unwrap();
    let at = trainee
        .lora
        .params()
        .iter()
        .position(|p| p.name().contains(name))
        .unwrap();
    let grad = &grads[at];
    let mut value = |element: usize, by: f32| {
        let data = trainee.lora.params_mut()[at].value.data_mut();
        let before = data[element];
        data[element] = before + by;
        let result = pass(&mut trainee, examples, loss, Mode::Forward);
        trainee.lora.params_mut()[at].value.data_mut()[element] = before;
        result.metrics["loss:sum"]
    };
    let step = 4e-3f32;
    let mut order: Vec<usize> = (0..grad.len()).collect();
    order.sort_by(|a, b| grad[*b].abs().total_cmp(&grad[*a].abs()));
    // The largest tell most; the others drown in the rounding of single precision.
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
fn gradients_of_the_first_layer_agree_with_finite_differences() {
    for family in ["llama", "qwen2", "qwen3"] {
        for name in FIRST_LAYER {
            check(family, &batch(), &Loss::CrossEntropy, name);
        }
    }
}

#[test]
fn gradients_of_the_policy_losses_agree_with_finite_differences() {
    for loss in [Loss::ImportanceSampling, Loss::Dro { beta: 0.3 }] {
        for name in ["layers.0.self_attn.q_proj.lora_A", "lm_head.lora_B"] {
            check("qwen3", &policy_batch(), &loss, name);
        }
    }
}

#[test]
fn gradients_of_passes_add_up_to_those_of_one_pass() {
    let examples = batch();
    let mut once = trainee("qwen3");
    pass(
        &mut once,
        &examples,
        &Loss::CrossEntropy,
        Mode::ForwardBackward,
    );
    let mut parts = trainee("qwen3");
    for example in &examples {
        let one = std::slice::from_ref(example);
        pass(&mut parts, one, &Loss::CrossEntropy, Mode::ForwardBackward);
    }
    let pairs = once.grads.unwrap().into_iter().flatten();
    for (a, b) in pairs.zip(parts.grads.unwrap().into_iter().flatten()) {
        assert!((a - b).abs() < 1e-4 * a.abs().max(1.0), "{a} {b}");
    }
}

#[test]
fn a_forward_pass_leaves_no_gradients_and_a_step_takes_them() {
    let mut trainee = trainee("llama");
    pass(&mut trainee, &batch(), &Loss::CrossEntropy, Mode::Forward);
    assert!(trainee.grads.is_none());
    pass(
        &mut trainee,
        &batch(),
        &Loss::CrossEntropy,
        Mode::ForwardBackward,
    );
    assert!(trainee.grads.is_some());
    assert!(trainee.step(&AdamWParams::default()).unwrap().grad_norm > 0.0);
    assert!(trainee.grads.is_none());
    assert_eq!(
        trainee.step(&AdamWParams::default()).unwrap().grad_norm,
        0.0
    );
}

#[test]
fn steps_bring_the_loss_down_and_a_rate_of_zero_does_not() {
    for (rate, falls) in [(1e-2, true), (0.0, false)] {
        let mut trainee = trainee("qwen3");
        let with = AdamWParams {
            learning_rate: rate,
            ..AdamWParams::default()
        };
        let loss = |result: PassResult| result.metrics["loss:sum"];
        let mut step = || {
            let result = pass(
                &mut trainee,
                &batch(),
                &Loss::CrossEntropy,
                Mode::ForwardBackward,
            );
            trainee.step(&with).unwrap();
            loss(result)
        };
        let first = step();
        let last = (0..12).map(|_| step()).last().unwrap();
        assert_eq!(last < 0.8 * first, falls, "{first} {last}");
        assert!(falls || last == first);
    }
}

#[test]
fn a_position_without_a_target_counts_for_nothing() {
    let mut with_gap = example(&[3, 1, 4, 1, 5]);
    with_gap.targets[1] = None;
    let mut without_weight = example(&[3, 1, 4, 1, 5]);
    without_weight.terms = Terms::Weights(vec![1.0, 0.0, 1.0, 1.0]);
    let run = |example: Example| {
        let mut trainee = trainee("llama");
        let result = pass(
            &mut trainee,
            &[example],
            &Loss::CrossEntropy,
            Mode::ForwardBackward,
        );
        (result, trainee.grads.unwrap())
    };
    let (gap, gap_grads) = run(with_gap);
    let (zero, zero_grads) = run(without_weight);
    assert_eq!(gap.metrics["loss:sum"], zero.metrics["loss:sum"]);
    assert_eq!(gap.log_probs[0][1], 0.0);
    assert!(zero.log_probs[0][1] < 0.0);
    assert_eq!(gap_grads, zero_grads);
}

#[test]
fn several_targets_for_a_position_are_weighed_each() {
    let mut trainee = trainee("qwen3");
    let both = Example {
        tokens: vec![3, 1],
        targets: vec![Some(1), Some(2), Some(4), None],
        terms: Terms::Weights(vec![1.0, 0.5, 2.0, 0.0]),
    };
    let result = pass(&mut trainee, &[both], &Loss::CrossEntropy, Mode::Forward);
    let p = &result.log_probs[0];
    let want = -f64::from(p[0]) - 0.5 * f64::from(p[1]) - 2.0 * f64::from(p[2]);
    assert!((result.metrics["loss:sum"] - want).abs() < 1e-5);
    let one = |target| {
        let mut single = example(&[3, 1, 4]);
        single.targets[0] = Some(target);
        single
    };
    let single = pass(&mut trainee, &[one(2)], &Loss::CrossEntropy, Mode::Forward);
    assert!((single.log_probs[0][0] - p[1]).abs() < 1e-5);
}

#[test]
fn the_same_inputs_give_the_same_bits_on_any_number_of_threads() {
    let run = |count: usize| {
        let mut trainee = trainee("qwen3");
        let threads = Threads::new(count).unwrap();
        let many: Vec<Example> = (0..300).map(|i| batch()[i % 3].clone()).collect();
        let mode = Mode::ForwardBackward;
        trainee
            .pass(&threads, &many, &Loss::CrossEntropy, mode)
            .unwrap();
        trainee.step(&AdamWParams::default()).unwrap();
        let params = trainee.lora.params().iter().flat_map(|p| p.data());
        params.map(|x| x.to_bits()).collect::<Vec<u32>>()
    };
    let one = run(1);
    assert_eq!(one, run(1));
    assert_eq!(one, run(3));
}

#[test]
fn what_does_not_fit_is_refused_by_name_and_adds_nothing() {
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
        e.terms = Terms::Weights(vec![1.0])
    });
    case("data[1].loss_fn_inputs.weights", &|e| {
        e.terms = Terms::Weights(vec![1.0, f32::NAN])
    });
    case("data[1].loss_fn_inputs.advantages", &|e| {
        e.terms = Terms::Policy {
            sampler: vec![-1.0; 2],
            advantages: vec![f32::INFINITY; 2],
        };
    });
    let threads = Threads::new(1).unwrap();
    for (bad, field) in cases {
        let mut trainee = trainee("llama");
        let data = [example(&[1, 2]), bad];
        let mode = Mode::ForwardBackward;
        let error = trainee
            .pass(&threads, &data, &Loss::CrossEntropy, mode)
            .unwrap_err();
        assert!(error.to_string().starts_with(field), "{error}");
        assert!(trainee.grads.is_none());
    }
}

#[test]
fn non_finite_gradients_are_refused_and_others_kept() {
    let mut trainee = trainee("qwen3");
    let threads = Threads::new(1).unwrap();
    let mode = Mode::ForwardBackward;
    let good = batch();
    pass(&mut trainee, &good, &Loss::CrossEntropy, mode);
    let held = trainee.grads.clone().unwrap();
    let mut bad = example(&[3, 1, 4]);
    bad.terms = Terms::Weights(vec![f32::MAX; 2]);
    let refused = trainee.pass(&threads, &[bad], &Loss::CrossEntropy, mode);
    let error = refused.unwrap_err().to_string();
    assert!(
        error.starts_with("data: ") && error.contains("no finite numbers"),
        "{error}"
    );
    assert_eq!(trainee.grads.as_ref(), Some(&held));
    trainee.step(&AdamWParams::default()).unwrap();
    assert!(
        trainee
            .lora
            .params()
            .iter()
            .all(|p| p.data().iter().all(|x| x.is_finite()))
    );
}

#[test]
fn a_step_beyond_the_numbers_changes_nothing() {
    // The weights leave the numbers with the rate, the second moments with the gradient.
    for (scale, rate) in [(1.0, 1e39), (1e25, 1e-3)] {
        let mut trainee = trainee("qwen3");
        let mut data = batch();
        for example in &mut data {
            example.terms = Terms::Weights(vec![scale; example.targets.len()]);
        }
        pass(
            &mut trainee,
            &data,
            &Loss::CrossEntropy,
            Mode::ForwardBackward,
        );
        let state = |trainee: &Trainee| {
            let params = trainee.lora.params().iter().flat_map(|p| p.data().to_vec());
            (
                params.collect::<Vec<_>>(),
                trainee.optimizer.clone(),
                trainee.grads.clone(),
            )
        };
        let before = state(&trainee);
        let with = AdamWParams {
            learning_rate: rate,
            ..AdamWParams::default()
        };
        let error = trainee.step(&with).unwrap_err().to_string();
        assert!(error.starts_with("adam_params: "), "{error}");
        assert_eq!(state(&trainee), before);
        // With clipping, or a rate that fits, the same gradients do.
        trainee
            .step(&AdamWParams {
                grad_clip_norm: 1.0,
                ..AdamWParams::default()
            })
            .unwrap();
        assert_eq!(trainee.optimizer.steps(), 1);
    }
}
