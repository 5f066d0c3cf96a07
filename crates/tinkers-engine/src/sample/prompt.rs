//! The prefill of the prompt, and the log-probabilities of the prompt.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::logits::most_likely;
use super::{SampleJob, TopK};
use crate::error::{Error, Result};
use crate::lora::Adapters;
use crate::model::{KvCache, Model};
use crate::ops::matrix::Matrix;
use crate::ops::tape::{Node, Tape};
use crate::ops::target::log_sum_exp;

/// The number of prompt positions per prefill call. The number is large enough for efficient matrix products and small enough to
/// bound the memory of the logits.
const CHUNK: usize = 256;

/// The choice of the log-probabilities of the prompt that a sample job returns.
#[derive(Clone, Debug, Default)]
pub struct PromptScoreOptions {
    /// Whether to return the log-probability of each prompt token.
    pub log_probs: bool,
    /// The number of most likely tokens to return for each prompt position.
    pub top_k: usize,
    /// The tokens whose log-probabilities are requested. Entry `i` is for prompt position `i + 1`. The list is empty, or has one
    /// entry for each prompt position but the first.
    pub targets: Vec<Vec<u32>>,
}

/// The log-probabilities of the prompt that a sample job returns.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PromptScores {
    /// The log-probability of each prompt token. The entry of the first token is `None`. Empty if not requested.
    pub log_probs: Vec<Option<f32>>,
    /// The most likely tokens at each prompt position. The list for the first position is empty. Empty if not requested.
    pub top_k: Vec<TopK>,
    /// The log-probabilities of the requested tokens at each prompt position but the first.
    pub targets: Vec<Vec<f32>>,
}

impl PromptScoreOptions {
    fn any(&self) -> bool {
        self.log_probs || self.top_k > 0 || !self.targets.is_empty()
    }
}

/// Prefills `cache` with the prompt of `job`. Returns the requested log-probabilities of the prompt and the logits of the next
/// token.
pub(super) fn prefill(
    model: &Model,
    adapters: &Adapters,
    job: &SampleJob,
    cache: &mut KvCache,
    cancelled: &AtomicBool,
) -> Result<(PromptScores, Vec<f32>)> {
    let options = &job.prompt_options;
    let mut scores = PromptScores::default();
    if options.log_probs {
        scores.log_probs.push(None);
    }
    if options.top_k > 0 {
        scores.top_k.push(Vec::new());
    }
    let mut last = Vec::new();
    for start in (0..job.prompt.len()).step_by(CHUNK) {
        if cancelled.load(Ordering::Relaxed) {
            return Err(Error::Closed);
        }
        let end = (start + CHUNK).min(job.prompt.len());
        let tokens: Arc<[u32]> = job.prompt[start..end].into();
        let hidden = model.extend(adapters, &tokens, cache);
        if !options.any() && end < job.prompt.len() {
            continue;
        }
        let hidden = if options.any() {
            hidden
        } else {
            last_row(&hidden)
        };
        let logits = model.logits(&Tape::default(), adapters, &hidden);
        let logits = logits.value();
        let rows = logits.data().chunks_exact(logits.cols());
        last = rows.clone().next_back().unwrap_or_default().to_vec();
        if options.any() {
            for (row, position) in rows.zip(start + 1..) {
                if let Some(&token) = job.prompt.get(position) {
                    score(options, &mut scores, row, position, token);
                }
            }
        }
    }
    Ok((scores, last))
}

fn score(
    options: &PromptScoreOptions,
    scores: &mut PromptScores,
    logits: &[f32],
    position: usize,
    token: u32,
) {
    let total = log_sum_exp(logits);
    let log_prob = |token: u32| logits[token as usize] - total;
    if options.log_probs {
        scores.log_probs.push(Some(log_prob(token)));
    }
    if options.top_k > 0 {
        scores.top_k.push(most_likely(logits, options.top_k, total));
    }
    if let Some(targets) = options.targets.get(position - 1) {
        scores
            .targets
            .push(targets.iter().map(|&t| log_prob(t)).collect());
    }
}

fn last_row(hidden: &Node) -> Node {
    let value = hidden.value();
    let row = value.data()[value.data().len() - value.cols()..].to_vec();
    Node::constant(Matrix::new(row, 1, value.cols()))
}
