//! A trainable model: a base model, a LoRA adapter, accumulated gradients and the optimizer.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::adamw::{AdamW, AdamWParams, StepReport};
use crate::error::{Error, Result};
use crate::lora::{AdapterConfig, Lora};
use crate::loss::{LossFunction, LossInputs, Report, metrics};
use crate::model::Model;
use crate::pass::{self, Sequence, Setup};
use crate::threads::Threads;

/// A training example: one sequence of input tokens with its target tokens.
#[derive(Clone, Debug)]
pub struct Example {
    /// The input tokens; at least one.
    pub tokens: Vec<u32>,
    /// The target tokens. There are `targets.len() / tokens.len()` of them for each position. `None` stands for a missing target
    /// token.
    pub targets: Vec<Option<u32>>,
    /// The inputs of the loss function, with one value for each target token.
    pub loss_inputs: LossInputs,
}

/// The outputs of a forward or backward pass.
#[derive(Clone, Debug)]
pub struct PassResult {
    /// The log-probability of every target token, for each example. Zero for missing target tokens.
    pub log_probs: Vec<Vec<f32>>,
    /// The loss of every target token, for each example.
    pub losses: Vec<Vec<f32>>,
    /// The metrics of the pass. Their keys have the form `name:reduction`, such as `loss:sum`.
    pub metrics: BTreeMap<String, f64>,
}

/// Whether a pass over the model computes only losses, or also gradients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a pass has these modes")]
pub enum Mode {
    /// Computes only losses.
    Forward,
    /// Computes losses and gradients, and adds the gradients to the gradients of earlier passes.
    ForwardBackward,
}

/// A base model with a LoRA adapter in training.
#[derive(Debug)]
pub struct TrainableModel {
    base: Arc<Model>,
    lora: Lora,
    optimizer: AdamW,
    grads: Option<Vec<Vec<f32>>>,
}

impl TrainableModel {
    /// Creates a model with a new adapter.
    ///
    /// # Errors
    /// Returns the errors of [`Lora::new`].
    pub fn new(base: Arc<Model>, config: AdapterConfig) -> Result<Self> {
        let lora = Lora::new(config, base.config())?;
        let optimizer = AdamW::new(lora.params());
        Ok(Self::from_parts(base, lora, optimizer))
    }

    /// Creates a model from the adapter and the optimizer state of a checkpoint. The model has no accumulated gradients, because a
    /// checkpoint does not contain gradients.
    #[must_use]
    pub fn from_parts(base: Arc<Model>, lora: Lora, optimizer: AdamW) -> Self {
        Self {
            base,
            lora,
            optimizer,
            grads: None,
        }
    }

    /// Returns the adapter.
    #[must_use]
    pub fn lora(&self) -> &Lora {
        &self.lora
    }

    /// Returns the state of the optimizer.
    #[must_use]
    pub fn optimizer(&self) -> &AdamW {
        &self.optimizer
    }

    /// Returns the base model.
    #[must_use]
    pub fn base(&self) -> &Arc<Model> {
        &self.base
    }

    /// Runs a forward pass or a forward-backward pass. The loss is a sum over positions. Therefore the accumulated gradients of
    /// several passes equal the gradients of one pass over all their examples.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Input`] with the field that is invalid for the model, or if gradients are not finite. The accumulated
    /// gradients are then unchanged.
    pub fn pass(
        &mut self,
        threads: &Threads,
        examples: &[Example],
        loss: &LossFunction,
        mode: Mode,
    ) -> Result<PassResult> {
        for (index, example) in examples.iter().enumerate() {
            check(&self.base, index, example)?;
        }
        let sequences: Vec<Sequence> = examples.iter().map(sequence).collect();
        let mut grads = match mode {
            Mode::Forward => Vec::new(),
            Mode::ForwardBackward => {
                let zeros = |p: &crate::lora::Param| vec![0f32; p.data().len()];
                self.lora.params().iter().map(zeros).collect()
            }
        };
        let outputs = pass::run(
            threads,
            self.base.config().vocab_size,
            &|tape| {
                let config = self.base.config();
                let (adapters, leaves) = match mode {
                    Mode::Forward => (self.lora.frozen(config), Vec::new()),
                    Mode::ForwardBackward => self.lora.trainable(config, tape),
                };
                Ok(Setup {
                    model: Arc::clone(&self.base),
                    adapters,
                    leaves,
                })
            },
            &sequences,
            &|index, log_probs| {
                let loss_inputs = &examples[index].loss_inputs;
                let mut evaluated = loss.evaluate(log_probs, loss_inputs);
                // A missing target contributes no gradient, even if it has a weight.
                zero_missing(&mut evaluated.losses, &examples[index].targets);
                zero_missing(&mut evaluated.derivatives, &examples[index].targets);
                let report = Report::new(loss, loss_inputs, log_probs, &evaluated);
                (evaluated.derivatives, report)
            },
            &mut grads,
        )?;
        if mode == Mode::ForwardBackward {
            self.accumulate(grads)?;
        }
        let metrics = metrics(loss, outputs.iter().map(|o| &o.report));
        let (mut log_probs, mut losses) = (Vec::new(), Vec::new());
        for (mut output, example) in outputs.into_iter().zip(examples) {
            zero_missing(&mut output.log_probs, &example.targets);
            log_probs.push(output.log_probs);
            losses.push(output.report.losses);
        }
        Ok(PassResult {
            log_probs,
            losses,
            metrics,
        })
    }

    /// Takes an optimizer step with the accumulated gradients, and then clears them. Without accumulated gradients, the step uses
    /// zero gradients: the step is counted, and the moments decay.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Input`] if the new weights or moments are not finite. The weights, the optimizer and the gradients are then
    /// unchanged.
    pub fn step(&mut self, with: &AdamWParams) -> Result<StepReport> {
        let zeros = |p: &crate::lora::Param| vec![0f32; p.data().len()];
        let grads = self
            .grads
            .take()
            .unwrap_or_else(|| self.lora.params().iter().map(zeros).collect());
        let before = (self.lora.clone(), self.optimizer.clone());
        let report = self.optimizer.step(self.lora.params_mut(), &grads, with);
        if report.param_norm.is_finite() && self.optimizer.is_finite() {
            return Ok(report);
        }
        (self.lora, self.optimizer) = before;
        let norm = report.grad_norm;
        self.grads = Some(grads);
        Err(Error::input(
            "adam_params",
            format!(
                "give weights that are not finite for gradients of norm {norm:e}; nothing was changed, lower learning_rate or set grad_clip_norm"
            ),
        ))
    }

    /// Adds `grads` to the accumulated gradients. Refuses gradients that are not finite, since they would make the weights of all
    /// later steps useless.
    fn accumulate(&mut self, mut grads: Vec<Vec<f32>>) -> Result<()> {
        for (sum, held) in grads.iter_mut().zip(self.grads.iter().flatten()) {
            sum.iter_mut().zip(held).for_each(|(sum, g)| *sum += g);
        }
        if grads.iter().flatten().any(|g| !g.is_finite()) {
            return Err(Error::input(
                "data",
                "gives gradients that are not finite; nothing was added, use smaller weights or advantages",
            ));
        }
        self.grads = Some(grads);
        Ok(())
    }
}

/// Sets the values of missing target tokens to zero.
fn zero_missing(values: &mut [f32], targets: &[Option<u32>]) {
    for (value, _) in values.iter_mut().zip(targets).filter(|(_, t)| t.is_none()) {
        *value = 0.0;
    }
}

fn check(model: &Model, index: usize, example: &Example) -> Result<()> {
    let config = model.config();
    let at = |field: &str| format!("data[{index}].{field}");
    let (len, targets) = (example.tokens.len(), example.targets.len());
    if len == 0 || len > config.max_position_embeddings {
        let expected = config.max_position_embeddings;
        return Err(Error::input(
            at("model_input"),
            format!("has {len} tokens, expected 1 to {expected}"),
        ));
    }
    if targets == 0 || !targets.is_multiple_of(len) {
        return Err(Error::input(
            at("loss_fn_inputs.target_tokens"),
            format!("has {targets} targets, expected a multiple of {len}, the number of positions"),
        ));
    }
    let outside = |token: u32| token as usize >= config.vocab_size;
    if let Some(token) = example.tokens.iter().find(|t| outside(**t)) {
        return Err(Error::input(
            at("model_input"),
            outside_vocabulary(*token, config.vocab_size),
        ));
    }
    if let Some(token) = example.targets.iter().flatten().find(|t| outside(**t)) {
        let field = at("loss_fn_inputs.target_tokens");
        return Err(Error::input(
            field,
            outside_vocabulary(*token, config.vocab_size),
        ));
    }
    let loss_inputs: [(&str, &[f32]); 2] = match &example.loss_inputs {
        LossInputs::Weights(weights) => [("weights", weights), ("weights", weights)],
        LossInputs::Policy {
            sampler,
            advantages,
        } => [("logprobs", sampler), ("advantages", advantages)],
    };
    for (name, values) in loss_inputs {
        let field = at(&format!("loss_fn_inputs.{name}"));
        if values.len() != targets {
            let found = values.len();
            return Err(Error::input(
                field,
                format!("has {found} values, expected {targets}"),
            ));
        }
        if let Some(at) = values.iter().position(|x| !x.is_finite()) {
            let found = values[at];
            return Err(Error::input(
                field,
                format!("contains {found} at index {at}, expected finite numbers"),
            ));
        }
    }
    Ok(())
}

fn outside_vocabulary(token: u32, vocabulary: usize) -> String {
    format!("contains token {token}, expected ids below {vocabulary}")
}

fn sequence(example: &Example) -> Sequence {
    Sequence {
        tokens: example.tokens.clone(),
        targets: example.targets.iter().map(|t| t.unwrap_or(0)).collect(),
        per_row: example.targets.len() / example.tokens.len(),
    }
}

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
