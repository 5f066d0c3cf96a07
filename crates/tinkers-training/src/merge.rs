//! Merges the results of the chunks of one batch.

use std::collections::BTreeMap;

use tinkers_wire::ForwardBackwardOutput;

/// Merges the results of all chunks of a batch, in the order of the chunks. A single result is returned unchanged.
///
/// Each metric is merged by the reduction in its name, as in `loss:sum`. Means are weighted by the number of outputs of each chunk. A
/// metric without a known reduction is kept only if all chunks have the same value of it.
pub fn merge(mut chunks: Vec<ForwardBackwardOutput>) -> ForwardBackwardOutput {
    if chunks.len() == 1 {
        return chunks.remove(0);
    }
    let weights: Vec<f64> = chunks
        .iter()
        .map(|chunk| chunk.loss_fn_outputs.len() as f64)
        .collect();
    let mut metrics = BTreeMap::new();
    let names: Vec<String> = chunks
        .first()
        .map(|first| first.metrics.keys().cloned().collect())
        .unwrap_or_default();
    for name in names {
        let values: Option<Vec<f64>> = chunks
            .iter()
            .map(|chunk| chunk.metrics.get(&name).copied())
            .collect();
        match values {
            Some(values) => reduce(&name, &values, &weights, &mut metrics),
            None => tracing::debug!(
                metric = name,
                "metric dropped from the merged result: a chunk has no value"
            ),
        }
    }
    let loss_fn_output_type = chunks
        .first()
        .map(|first| first.loss_fn_output_type.clone())
        .unwrap_or_default();
    let loss_fn_outputs = chunks
        .into_iter()
        .flat_map(|chunk| chunk.loss_fn_outputs)
        .collect();
    ForwardBackwardOutput::new(loss_fn_output_type, loss_fn_outputs).with_metrics(metrics)
}

fn reduce(name: &str, values: &[f64], weights: &[f64], metrics: &mut BTreeMap<String, f64>) {
    let max = || values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let reduction = name.rsplit_once(':').map_or("", |(_, reduction)| reduction);
    let merged = match reduction {
        "sum" => Some(values.iter().sum()),
        "min" => Some(values.iter().copied().fold(f64::INFINITY, f64::min)),
        "max" => Some(max()),
        "mean" => weighted_mean(values, weights),
        "slack" => weighted_mean(values, weights).map(|mean| max() - mean),
        "hash2" => Some(
            values
                .iter()
                .fold(0u64, |sum, &x| sum.wrapping_add(modulo_2_64(x))) as f64,
        ),
        "unique" => {
            for (i, value) in values.iter().enumerate() {
                let key = if i == 0 {
                    name.to_owned()
                } else {
                    format!("{name}_{i}")
                };
                metrics.insert(key, *value);
            }
            return;
        }
        _ => values
            .iter()
            .all(|value| *value == values[0])
            .then_some(values[0]),
    };
    match merged {
        Some(merged) => {
            metrics.insert(name.to_owned(), merged);
        }
        None => tracing::debug!(
            metric = name,
            "metric dropped from the merged result: its chunks differ and its name has no known reduction"
        ),
    }
}

/// Returns the weighted mean of `values`, or `None` if the weights sum to zero.
fn weighted_mean(values: &[f64], weights: &[f64]) -> Option<f64> {
    let total: f64 = weights.iter().sum();
    let sum: f64 = values
        .iter()
        .zip(weights)
        .map(|(value, weight)| value * weight)
        .sum();
    (total > 0.0).then(|| sum / total)
}

/// Returns the integer part of `x` modulo 2^64. Metrics with the reduction `hash2` are summed modulo 2^64.
fn modulo_2_64(x: f64) -> u64 {
    const TWO_64: f64 = 18_446_744_073_709_551_616.0;
    // Of the magnitude, since the remainder of a small negative number is too close to 2^64 to be exact as a float.
    let magnitude = (x.trunc().abs() % TWO_64) as u64;
    if x < 0.0 {
        magnitude.wrapping_neg()
    } else {
        magnitude
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tinkers_wire::{LossFnOutput, TensorData};

    fn chunk(data: usize, metrics: &[(&str, f64)]) -> ForwardBackwardOutput {
        let output =
            |i| LossFnOutput::from([("logprobs".to_owned(), TensorData::f32(vec![i as f32]))]);
        let outputs = (0..data).map(output).collect();
        let metrics = metrics.iter();
        let metrics = metrics.map(|(name, value)| ((*name).to_owned(), *value));
        ForwardBackwardOutput::new("ArrayRecord", outputs).with_metrics(metrics.collect())
    }

    #[test]
    fn metrics_are_merged_by_the_reduction_in_their_name() {
        let merged = merge(vec![
            chunk(
                1,
                &[
                    ("a:sum", 1.0),
                    ("b:min", 1.0),
                    ("c:max", 1.0),
                    ("d:mean", 1.0),
                    ("e:slack", 1.0),
                    ("f:hash2", -1.0),
                    ("g:unique", 1.0),
                ],
            ),
            chunk(
                3,
                &[
                    ("a:sum", 2.0),
                    ("b:min", 2.0),
                    ("c:max", 2.0),
                    ("d:mean", 2.0),
                    ("e:slack", 2.0),
                    ("f:hash2", 3.0),
                    ("g:unique", 2.0),
                ],
            ),
        ]);
        let expected = [
            ("a:sum", 3.0),
            ("b:min", 1.0),
            ("c:max", 2.0),
            ("d:mean", 1.75),
            ("e:slack", 0.25),
            ("f:hash2", 2.0),
            ("g:unique", 1.0),
            ("g:unique_1", 2.0),
        ];
        assert_eq!(merged.metrics, chunk(0, &expected).metrics);
        assert_eq!(merged.loss_fn_outputs.len(), 4);
    }

    #[test]
    fn result_of_a_single_chunk_is_returned_unchanged() {
        let only = chunk(
            2,
            &[("x:slack", 0.5), ("y:mystery", 3.0), ("no_reduction", 4.0)],
        );
        assert_eq!(merge(vec![only.clone()]), only);
    }

    #[test]
    fn metric_without_known_reduction_is_returned_only_if_equal_in_all_chunks() {
        let merged = merge(vec![
            chunk(
                0,
                &[
                    ("agree", 2.0),
                    ("differ", 1.0),
                    ("lacking:sum", 1.0),
                    ("weightless:mean", 1.0),
                ],
            ),
            chunk(
                0,
                &[("agree", 2.0), ("differ", 2.0), ("weightless:mean", 1.0)],
            ),
        ]);
        assert_eq!(merged.metrics, chunk(0, &[("agree", 2.0)]).metrics);
    }
}
