//! A model in training: base weights, an adapter, its gradients and its optimizer.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::adamw::{AdamW, AdamWParams, StepReport};
use crate::error::{Error, Result};
use crate::lora::{Lora, LoraConfig};
use crate::loss::{Loss, Report, Terms, metrics};
use crate::model::Model;
use crate::pass::{self, Sequence, Setup};
use crate::threads::Threads;

/// One sequence of a pass.
#[derive(Clone, Debug)]
pub struct Example {
    /// The tokens that are read; at least one.
    pub tokens: Vec<u32>,
    /// `targets.len() / tokens.len()` targets for each position; `None` where there is none.
    pub targets: Vec<Option<u32>>,
    /// What the loss knows of the targets, one entry for each.
    pub terms: Terms,
}

/// What comes out of a pass.
#[derive(Clone, Debug)]
pub struct PassResult {
    /// For each example the log-probability of every target; zero where there is none.
    pub log_probs: Vec<Vec<f32>>,
    /// For each example the loss of every target.
    pub losses: Vec<Vec<f32>>,
    /// Metrics by `name:reduction`.
    pub metrics: BTreeMap<String, f64>,
}

/// Whether a pass leaves gradients behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Losses only.
    Forward,
    /// Gradients are added to those of earlier passes.
    ForwardBackward,
}

/// A model in training.
#[derive(Debug)]
pub struct Trainee {
    base: Arc<Model>,
    lora: Lora,
    optimizer: AdamW,
    grads: Option<Vec<Vec<f32>>>,
}

impl Trainee {
    /// A fresh adapter over `base`.
    ///
    /// # Errors
    /// As [`Lora::new`].
    pub fn new(base: Arc<Model>, config: LoraConfig) -> Result<Self> {
        let lora = Lora::new(config, base.config())?;
        let optimizer = AdamW::new(lora.params());
        Ok(Self::from_parts(base, lora, optimizer))
    }

    /// An adapter and an optimizer that were saved. Gradients start at nothing: what had been accumulated and not
    /// stepped when a checkpoint was saved is not part of it.
    #[must_use]
    pub fn from_parts(base: Arc<Model>, lora: Lora, optimizer: AdamW) -> Self {
        Self {
            base,
            lora,
            optimizer,
            grads: None,
        }
    }

    /// The adapter as it is now.
    #[must_use]
    pub fn lora(&self) -> &Lora {
        &self.lora
    }

    /// The optimizer's memory.
    #[must_use]
    pub fn optimizer(&self) -> &AdamW {
        &self.optimizer
    }

    /// The base model.
    #[must_use]
    pub fn base(&self) -> &Arc<Model> {
        &self.base
    }

    /// Computes a pass. The losses are sums over positions, so that gradients of several passes add up to those of one
    /// pass over all their examples.
    ///
    /// # Errors
    /// [`Error::Input`] naming what does not fit the model, or gives gradients beyond the numbers; nothing has been added then.
    pub fn pass(
        &mut self,
        threads: &Threads,
        examples: &[Example],
        loss: &Loss,
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
                let terms = &examples[index].terms;
                let mut evaluated = loss.evaluate(log_probs, terms);
                // A position without a target teaches nothing, whatever its weight says.
                silence(&mut evaluated.losses, &examples[index].targets);
                silence(&mut evaluated.slopes, &examples[index].targets);
                let report = Report::new(loss, terms, log_probs, &evaluated);
                (evaluated.slopes, report)
            },
            &mut grads,
        )?;
        if mode == Mode::ForwardBackward {
            self.accumulate(grads)?;
        }
        let metrics = metrics(loss, outputs.iter().map(|o| &o.report));
        let (mut log_probs, mut losses) = (Vec::new(), Vec::new());
        for (mut output, example) in outputs.into_iter().zip(examples) {
            silence(&mut output.log_probs, &example.targets);
            log_probs.push(output.log_probs);
            losses.push(output.report.losses);
        }
        Ok(PassResult {
            log_probs,
            losses,
            metrics,
        })
    }

    /// Takes a step along the accumulated gradients, which are gone then. Without any, the gradient is zero: the moments
    /// decay and the step counts, as in a loop whose batch had nothing to learn.
    ///
    /// # Errors
    /// [`Error::Input`] where the step leads to weights or moments that are no finite numbers; everything is then as it was
    /// before, the gradients included.
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
                "lead from a gradient of norm {norm:e} to weights that are no finite numbers, expected a lower learning_rate or a grad_clip_norm; nothing was changed"
            ),
        ))
    }

    /// Adds to the gradients that are held. Whatever is no number would stay in every later sum and step, so nothing is added
    /// then.
    fn accumulate(&mut self, mut grads: Vec<Vec<f32>>) -> Result<()> {
        for (sum, held) in grads.iter_mut().zip(self.grads.iter().flatten()) {
            sum.iter_mut().zip(held).for_each(|(sum, g)| *sum += g);
        }
        if grads.iter().flatten().any(|g| !g.is_finite()) {
            return Err(Error::input(
                "data",
                "gives gradients that are no finite numbers, expected smaller weights or advantages; nothing was added",
            ));
        }
        self.grads = Some(grads);
        Ok(())
    }
}

/// Sets to zero what belongs to no target.
fn silence(values: &mut [f32], targets: &[Option<u32>]) {
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
            format!("has {targets} targets for {len} positions"),
        ));
    }
    let outside = |token: u32| token as usize >= config.vocab_size;
    if let Some(token) = example.tokens.iter().find(|t| outside(**t)) {
        return Err(Error::input(
            at("model_input"),
            beyond(*token, config.vocab_size),
        ));
    }
    if let Some(token) = example.targets.iter().flatten().find(|t| outside(**t)) {
        let field = at("loss_fn_inputs.target_tokens");
        return Err(Error::input(field, beyond(*token, config.vocab_size)));
    }
    let terms: [(&str, &[f32]); 2] = match &example.terms {
        Terms::Weights(weights) => [("weights", weights), ("weights", weights)],
        Terms::Policy {
            sampler,
            advantages,
        } => [("logprobs", sampler), ("advantages", advantages)],
    };
    for (name, values) in terms {
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
                format!("is {found} at index {at}, expected finite numbers"),
            ));
        }
    }
    Ok(())
}

fn beyond(token: u32, vocabulary: usize) -> String {
    format!("token {token} is outside the vocabulary of {vocabulary}")
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
