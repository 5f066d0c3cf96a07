//! Conversion of wire types to the engine's types.

use tinkers_wire::{AdamParams, TensorData, TinkerPath};

use crate::adamw::AdamWParams;
use crate::checkpoint::Key;
use crate::error::{Error, Result};
use crate::lora::AdapterConfig;

/// Returns the key under which the checkpoint store keeps the checkpoint with this path. The protocol accepts only paths that have a run and a
/// kind; the key of another path is empty, and names no checkpoint.
pub(super) fn key(path: &TinkerPath) -> Key {
    Key {
        run: path.run_id().unwrap_or_default().to_owned(),
        kind: path.kind().map_or("", |kind| kind.segment()).to_owned(),
        name: path.name().to_owned(),
    }
}

/// Converts a LoRA config. Groups of layers that the config does not mention (attention, MLP, unembedding) are trained. `seed` is
/// used if the config has no seed.
pub(super) fn lora(config: &tinkers_wire::LoraConfig, seed: u64) -> AdapterConfig {
    AdapterConfig {
        rank: config.rank as usize,
        seed: config.seed.unwrap_or(seed),
        train_attn: config.train_attn.unwrap_or(true),
        train_mlp: config.train_mlp.unwrap_or(true),
        train_unembed: config.train_unembed.unwrap_or(true),
    }
}

/// Converts optimizer parameters. Parameters that are not set get the defaults of the API.
pub(super) fn adamw(params: &AdamParams) -> AdamWParams {
    let default = AdamWParams::default();
    AdamWParams {
        learning_rate: params.learning_rate,
        beta1: params.beta1.unwrap_or(default.beta1),
        beta2: params.beta2.unwrap_or(default.beta2),
        eps: params.eps.unwrap_or(default.eps),
        weight_decay: params.weight_decay.unwrap_or(default.weight_decay),
        grad_clip_norm: params.grad_clip_norm.unwrap_or(default.grad_clip_norm),
    }
}

/// A dense tensor of one or two dimensions.
pub(super) struct Dense<T> {
    pub(super) rows: usize,
    pub(super) values: Vec<T>,
}

/// Converts a float tensor to dense form. Elements that a sparse tensor does not list become zero.
pub(super) fn dense_f32(field: &str, tensor: &TensorData) -> Result<Dense<f32>> {
    let values = tensor
        .as_f32()
        .ok_or_else(|| Error::input(field, "holds int64, expected float32"))?;
    densify(field, tensor, values, 0.0)
}

/// Converts an integer tensor to dense form. Elements that a sparse tensor does not list become `fill_value`.
pub(super) fn dense_i64(field: &str, tensor: &TensorData, fill_value: i64) -> Result<Dense<i64>> {
    let values = tensor
        .as_i64()
        .ok_or_else(|| Error::input(field, "holds float32, expected int64"))?;
    densify(field, tensor, values, fill_value)
}

fn densify<T: Copy>(
    field: &str,
    tensor: &TensorData,
    values: &[T],
    fill_value: T,
) -> Result<Dense<T>> {
    tensor
        .validate()
        .map_err(|e| Error::input(format!("{field}.{}", e.field()), e.expected()))?;
    let shape = tensor.shape();
    let (rows, cols) = match shape.as_slice() {
        [rows] => (*rows, 1),
        [rows, cols] => (*rows, *cols),
        other => {
            let found = other.len();
            return Err(Error::input(
                field,
                format!("has {found} dimensions, expected 1 or 2"),
            ));
        }
    };
    let Some(indices) = tensor.csr_indices() else {
        let values = values.to_vec();
        return Ok(Dense { rows, values });
    };
    let size = rows.checked_mul(cols).filter(|&size| size <= 1 << 28);
    let size = size.ok_or_else(|| Error::input(field, format!("is too large: {rows} x {cols}")))?;
    let mut filled = vec![fill_value; size];
    let index = |at: i64| usize::try_from(at).unwrap_or(0);
    for row in 0..rows {
        for at in index(indices.crow[row])..index(indices.crow[row + 1]) {
            filled[row * cols + index(indices.col[at])] = values[at];
        }
    }
    Ok(Dense {
        rows,
        values: filled,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tinkers_wire::{CsrIndices, TensorValues};

    #[test]
    fn sparse_tensor_is_filled_with_the_given_value() {
        let tensor = TensorData::csr(
            TensorValues::I64(vec![7, 8, 9].into()),
            [3, 2],
            CsrIndices {
                crow: vec![0, 1, 1, 3].into(),
                col: vec![1, 0, 1].into(),
            },
        )
        .unwrap();
        let dense = dense_i64("t", &tensor, -1).unwrap();
        assert_eq!(dense.rows, 3);
        assert_eq!(dense.values, [-1, 7, -1, -1, 8, 9]);
    }

    #[test]
    fn error_for_a_wrong_dtype_names_the_field() {
        let error = dense_f32("data[0].weights", &TensorData::i64(vec![1]))
            .err()
            .unwrap();
        assert!(error.to_string().contains("data[0].weights"));
    }
}
