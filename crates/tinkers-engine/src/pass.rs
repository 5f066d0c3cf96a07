//! A forward or backward pass over a batch. Sequences are packed into microbatches, computed on all threads, and summed in a fixed
//! order.

use std::sync::Arc;

use crate::error::Result;
use crate::lora::Adapters;
use crate::model::Model;
use crate::ops::embed::rows;
use crate::ops::tape::{Node, Tape};
use crate::ops::target::log_probs;
use crate::threads::Threads;

/// The maximum number of positions in a microbatch, including padding. The number is large enough for efficient matrix products and
/// small enough for the cache of a core.
const MAX_POSITIONS: usize = 1024;

/// The maximum number of logits in a microbatch. They occupy 256 MB. If the vocabulary is large, a microbatch gets fewer positions.
const MAX_LOGITS: usize = 1 << 26;

/// A sequence with its target tokens.
#[derive(Clone, Debug)]
pub(crate) struct Sequence {
    /// The input tokens; at least one.
    pub(crate) tokens: Vec<u32>,
    /// The target tokens. There are `per_row` of them for each position.
    pub(crate) targets: Vec<u32>,
    /// The number of target tokens per position.
    pub(crate) per_row: usize,
}

/// The output of a forward or backward pass for one sequence. `R` is the report of the loss function.
#[derive(Debug)]
pub(crate) struct Output<R> {
    /// The log-probability of every target token.
    pub(crate) log_probs: Vec<f32>,
    /// The report that the loss function returned for the sequence, such as its losses.
    pub(crate) report: R,
}

/// A loss function. Its arguments are the index of a sequence and the log-probabilities of the sequence. It returns the derivatives
/// of the loss with respect to these log-probabilities, and a report of any type, which the pass returns.
pub(crate) type Loss<'a, R> = dyn Fn(usize, &[f32]) -> (Vec<f32>, R) + Sync + 'a;

/// The model and its parameters for one microbatch. The tape of the microbatch records their operations, to compute gradients.
pub(crate) struct Setup {
    pub(crate) model: Arc<Model>,
    pub(crate) adapters: Adapters,
    /// The trainable parameters in the order of the gradients. Empty for a forward pass, because a forward pass computes no
    /// gradients.
    pub(crate) leaves: Vec<Node>,
}

/// Runs a forward or backward pass over `sequences`. Adds the gradients to `grads`. `grads` has one vector for each leaf.
///
/// `setup` builds the model on the tape of each microbatch.
pub(crate) fn run<R: Send>(
    threads: &Threads,
    vocabulary: usize,
    setup: &(dyn Fn(&Tape) -> Result<Setup> + Sync),
    sequences: &[Sequence],
    loss: &Loss<'_, R>,
    grads: &mut [Vec<f32>],
) -> Result<Vec<Output<R>>> {
    let batches = pack(sequences, vocabulary);
    let mut outputs: Vec<Option<Output<R>>> = (0..sequences.len()).map(|_| None).collect();
    threads.map(
        batches.len(),
        |index| microbatch(setup, sequences, &batches[index], loss),
        |index, (results, part)| {
            for (&at, output) in batches[index].iter().zip(results) {
                outputs[at] = Some(output);
            }
            for (sum, part) in grads.iter_mut().zip(part) {
                sum.iter_mut()
                    .zip(part)
                    .for_each(|(sum, part)| *sum += part);
            }
            Ok(())
        },
    )?;
    Ok(outputs.into_iter().flatten().collect())
}

/// Groups sequences of similar length into microbatches, given as lists of sequence indices. The result depends only on the
/// sequence lengths.
fn pack(sequences: &[Sequence], vocabulary: usize) -> Vec<Vec<usize>> {
    let limit = MAX_POSITIONS.min(MAX_LOGITS / vocabulary).max(1);
    let mut order: Vec<usize> = (0..sequences.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(sequences[index].tokens.len()));
    let mut batches: Vec<Vec<usize>> = Vec::new();
    for index in order {
        match batches.last_mut() {
            Some(batch)
                if (batch.len() + 1) * sequences[batch[0]].tokens.len() <= limit
                    && sequences[batch[0]].per_row == sequences[index].per_row =>
            {
                batch.push(index);
            }
            _ => batches.push(vec![index]),
        }
    }
    batches
}

type Microbatch<R> = (Vec<Output<R>>, Vec<Vec<f32>>);

fn microbatch<R>(
    setup: &(dyn Fn(&Tape) -> Result<Setup> + Sync),
    sequences: &[Sequence],
    batch: &[usize],
    loss: &Loss<'_, R>,
) -> Result<Microbatch<R>> {
    let tape = Tape::default();
    let setup = setup(&tape)?;
    let log_probs = forward(&tape, &setup, sequences, batch);
    let values = log_probs.value().data();
    let mut derivatives = Vec::with_capacity(values.len());
    let mut outputs = Vec::with_capacity(batch.len());
    let mut rest = values;
    for &index in batch {
        let (own, others) = rest.split_at(sequences[index].targets.len());
        rest = others;
        let (derivative, report) = loss(index, own);
        derivatives.extend(derivative);
        outputs.push(Output {
            log_probs: own.to_vec(),
            report,
        });
    }
    if setup.leaves.is_empty() {
        return Ok((outputs, Vec::new()));
    }
    // The loss depends only on the log-probabilities, so the backward pass starts from its derivatives.
    let mut grads = tape.backward(&log_probs, derivatives);
    let grads = setup
        .leaves
        .iter()
        .map(|leaf| {
            let zeros = || vec![0.0; leaf.value().data().len()];
            grads.take(leaf).unwrap_or_else(zeros)
        })
        .collect();
    Ok((outputs, grads))
}

/// Computes the log-probabilities of the target tokens of `batch`, of shape `[positions, per_row]`, without padding positions.
fn forward(tape: &Tape, setup: &Setup, sequences: &[Sequence], batch: &[usize]) -> Node {
    let longest = sequences[batch[0]].tokens.len();
    let per_row = sequences[batch[0]].per_row;
    let mut tokens = Vec::with_capacity(batch.len() * longest);
    let mut targets = Vec::new();
    let mut kept = Vec::new();
    for (&index, padded) in batch.iter().zip(1..) {
        let sequence = &sequences[index];
        let start = tokens.len();
        kept.extend((start..start + sequence.tokens.len()).map(row_number));
        tokens.extend_from_slice(&sequence.tokens);
        tokens.resize(padded * longest, 0);
        targets.extend_from_slice(&sequence.targets);
    }
    let tokens: Arc<[u32]> = tokens.into();
    let mut hidden = setup.model.hidden(tape, &setup.adapters, &tokens, longest);
    if kept.len() < tokens.len() {
        hidden = rows(tape, &hidden, &kept.into());
    }
    let logits = setup.model.logits(tape, &setup.adapters, &hidden);
    log_probs(tape, &logits, targets.into(), per_row)
}

fn row_number(index: usize) -> u32 {
    u32::try_from(index).expect("a microbatch has far fewer rows")
}
