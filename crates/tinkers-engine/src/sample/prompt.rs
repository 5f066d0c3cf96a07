//! Reading the prompt: it fills the cache, and tells what the model thought of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::choose::most_likely;
use super::{SampleJob, TopK};
use crate::error::{Error, Result};
use crate::lora::Adapters;
use crate::model::{KvCache, Model};
use crate::ops::matrix::Matrix;
use crate::ops::tape::{Node, Tape};
use crate::ops::target::log_sum_exp;

/// Positions read together: enough for good products, few enough that their logits stay small.
const CHUNK: usize = 256;

/// What is wanted to know of the prompt.
#[derive(Clone, Debug, Default)]
pub struct PromptWishes {
    /// The log-probability of each token.
    pub log_probs: bool,
    /// How many of the most likely tokens at each position.
    pub top_k: usize,
    /// For position `i + 1`, tokens whose log-probabilities are wanted; empty, or one entry for each position but the
    /// first.
    pub targets: Vec<Vec<u32>>,
}

/// What the model thought of the prompt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PromptScores {
    /// The log-probability of each token; `None` for the first, which nothing precedes. Empty where not wanted.
    pub log_probs: Vec<Option<f32>>,
    /// The most likely tokens at each position; empty for the first. Empty where not wanted.
    pub top_k: Vec<TopK>,
    /// The log-probabilities of the wanted tokens of each position but the first.
    pub targets: Vec<Vec<f32>>,
}

impl PromptWishes {
    fn any(&self) -> bool {
        self.log_probs || self.top_k > 0 || !self.targets.is_empty()
    }
}

/// Reads the prompt of `job` into `cache`; gives its scores and the logits that follow it.
pub(super) fn read(
    model: &Model,
    adapters: &Adapters,
    job: &SampleJob,
    cache: &mut KvCache,
    cancelled: &AtomicBool,
) -> Result<(PromptScores, Vec<f32>)> {
    let wishes = &job.prompt_wishes;
    let mut scores = PromptScores::default();
    if wishes.log_probs {
        scores.log_probs.push(None);
    }
    if wishes.top_k > 0 {
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
        if !wishes.any() && end < job.prompt.len() {
            continue;
        }
        let hidden = if wishes.any() {
            hidden
        } else {
            last_row(&hidden)
        };
        let logits = model.logits(&Tape::default(), adapters, &hidden);
        let logits = logits.value();
        let rows = logits.data().chunks_exact(logits.cols());
        last = rows.clone().next_back().unwrap_or_default().to_vec();
        if wishes.any() {
            for (row, position) in rows.zip(start + 1..) {
                if let Some(&token) = job.prompt.get(position) {
                    score(wishes, &mut scores, row, position, token);
                }
            }
        }
    }
    Ok((scores, last))
}

fn score(
    wishes: &PromptWishes,
    scores: &mut PromptScores,
    logits: &[f32],
    position: usize,
    token: u32,
) {
    let total = log_sum_exp(logits);
    let log_prob = |token: u32| logits[token as usize] - total;
    if wishes.log_probs {
        scores.log_probs.push(Some(log_prob(token)));
    }
    if wishes.top_k > 0 {
        scores.top_k.push(most_likely(logits, wishes.top_k, total));
    }
    if let Some(targets) = wishes.targets.get(position - 1) {
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
