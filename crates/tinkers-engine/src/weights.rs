//! The weights of a base model, read from safetensors files and converted to `f32`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::error::{Error, Result};
use crate::fields::Fields;
use crate::ops::matrix::Matrix;
use crate::ops::tape::Node;

/// The weights of a model, by name.
#[derive(Debug, Default)]
pub struct Weights {
    nodes: BTreeMap<String, Node>,
    /// The tensors that were not read, because their data type cannot be converted to `f32`.
    unread: BTreeMap<String, Dtype>,
}

impl Weights {
    /// Reads the tensors of one safetensors file and converts `f64`, `f16` and `bf16` to `f32`. Tensors of other types, such as
    /// masks or quantised weights, are left out.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Safetensors`] if the bytes are not a safetensors file.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let mut weights = Self::default();
        weights.read(bytes)?;
        Ok(weights)
    }

    /// Reads the weights of a model directory. Reads the files that are listed in `model.safetensors.index.json`. Without this
    /// file, reads `model.safetensors`. Without either, reads all `*.safetensors` files in the order of their names.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Model`] if there is no such file or a file is not a safetensors file, and [`Error::Io`] if a file cannot be
    /// read.
    pub fn from_dir(dir: &Path) -> Result<Self> {
        let files = shards(dir)?;
        if files.is_empty() {
            return Err(Error::Model(format!(
                "no .safetensors file in {}",
                dir.display()
            )));
        }
        let mut weights = Self::default();
        for file in files {
            let bytes = std::fs::read(&file).map_err(Error::io("cannot read", &file))?;
            weights.read(&bytes).map_err(|error| {
                let reason = match error {
                    Error::Safetensors(cause) => cause.to_string(),
                    other => other.to_string(),
                };
                Error::Model(format!("{}: {reason}", file.display()))
            })?;
        }
        Ok(weights)
    }

    /// Creates weights from the nodes of a computation.
    pub(crate) fn from_nodes(nodes: BTreeMap<String, Node>) -> Self {
        Self {
            nodes,
            unread: BTreeMap::new(),
        }
    }

    /// Returns the number of rows of the weight `name`.
    pub(crate) fn rows(&self, name: &str) -> Option<usize> {
        self.nodes.get(name).map(|node| node.value().rows())
    }

    /// Returns all weights in the order of their names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Matrix)> {
        let all = self.nodes.iter();
        all.map(|(name, node)| (name.as_str(), node.value()))
    }

    /// Removes and returns the weight `name`. The weight must have shape `[rows, cols]`.
    pub(crate) fn take(&mut self, name: &str, rows: usize, cols: usize) -> Result<Node> {
        self.take_if_present(name, rows, cols)?
            .ok_or_else(|| Error::Model(format!("the weight {name} is missing")))
    }

    /// Removes and returns the weight `name`, if it is present. The weight must have shape `[rows, cols]`.
    pub(crate) fn take_if_present(
        &mut self,
        name: &str,
        rows: usize,
        cols: usize,
    ) -> Result<Option<Node>> {
        if let Some(dtype) = self.unread.get(name) {
            return Err(Error::Model(format!(
                "{name} has the type {dtype}, expected F64, F32, F16 or BF16"
            )));
        }
        let Some(node) = self.nodes.remove(name) else {
            return Ok(None);
        };
        let found = (node.value().rows(), node.value().cols());
        if found != (rows, cols) {
            return Err(Error::Model(format!(
                "{name} has the shape {found:?}, expected {:?} by config.json",
                (rows, cols)
            )));
        }
        Ok(Some(node))
    }

    fn read(&mut self, bytes: &[u8]) -> Result<()> {
        for (name, tensor) in SafeTensors::deserialize(bytes)?.iter() {
            let (rows, cols) = match tensor.shape() {
                [cols] => (1, *cols),
                [rows, cols] => (*rows, *cols),
                // No layer of a language model has such a shape. If the model needs this weight, it is reported as missing.
                other => {
                    tracing::debug!(name, shape = ?other, "ignoring a tensor that is not a vector or a matrix");
                    continue;
                }
            };
            let Some(data) = to_f32(&tensor) else {
                tracing::debug!(name, dtype = ?tensor.dtype(), "left out a tensor");
                self.unread.insert(name.to_owned(), tensor.dtype());
                continue;
            };
            let node = Node::constant(Matrix::new(data, rows, cols));
            self.nodes.insert(name.to_owned(), node);
        }
        Ok(())
    }
}

/// Converts the elements of a tensor to `f32`. Returns `None` unless the data type is a floating-point type of at least 16 bits.
fn to_f32(tensor: &TensorView<'_>) -> Option<Vec<f32>> {
    let data = tensor.data();
    Some(match tensor.dtype() {
        Dtype::F32 => elements(data, f32::from_le_bytes),
        Dtype::F16 => elements(data, |bytes| f16::from_le_bytes(bytes).to_f32()),
        Dtype::BF16 => elements(data, |bytes| bf16::from_le_bytes(bytes).to_f32()),
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the engine computes in f32"
        )]
        Dtype::F64 => elements(data, |bytes| f64::from_le_bytes(bytes) as f32),
        _ => return None,
    })
}

fn elements<const N: usize>(data: &[u8], read: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    data.as_chunks()
        .0
        .iter()
        .map(|bytes| read(*bytes))
        .collect()
}

fn shards(dir: &Path) -> Result<Vec<PathBuf>> {
    const INDEX: &str = "model.safetensors.index.json";
    if let Some(index) = Fields::open(dir, INDEX)? {
        let map = index.object("weight_map")?.ok_or_else(|| {
            index.error("weight_map", "is missing, expected the file of each weight")
        })?;
        // The files are collected in a set, since the index lists each file many times.
        let files = map
            .names()
            .map(|name| map.string(name))
            .collect::<Result<BTreeSet<_>>>()?;
        return Ok(files
            .into_iter()
            .flatten()
            .map(|file| dir.join(file))
            .collect());
    }
    let whole = dir.join("model.safetensors");
    if whole.is_file() {
        return Ok(vec![whole]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(Error::io("cannot read the directory", dir))? {
        let path = entry
            .map_err(Error::io("cannot read the directory", dir))?
            .path();
        if path.extension().is_some_and(|e| e == "safetensors") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(dtype: Dtype, data: &[u8], size: usize) -> Vec<u8> {
        let view = TensorView::new(dtype, vec![data.len() / size], data).unwrap();
        safetensors::serialize([("a", view)], None).unwrap()
    }

    #[test]
    fn every_16_bit_float_converts_as_in_candle() {
        let data: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        for dtype in [Dtype::F16, Dtype::BF16] {
            let bytes = file(dtype, &data, 2);
            let read = Weights::from_bytes(&bytes).unwrap();
            let cpu = candle_core::Device::Cpu;
            let tensors = candle_core::safetensors::load_buffer(&bytes, &cpu).unwrap();
            let wide = tensors["a"].to_dtype(candle_core::DType::F32).unwrap();
            let expected: Vec<f32> = wide.to_vec1().unwrap();
            for (own, expected) in read.nodes["a"].value().data().iter().zip(&expected) {
                let is_same = own.to_bits() == expected.to_bits();
                assert!(
                    is_same || (own.is_nan() && expected.is_nan()),
                    "{own} {expected}"
                );
            }
        }
    }

    #[test]
    fn integer_tensor_is_refused_only_if_the_model_needs_it() {
        let bytes = file(Dtype::I64, &7i64.to_le_bytes(), 8);
        let mut weights = Weights::from_bytes(&bytes).unwrap();
        assert!(weights.take_if_present("b", 1, 1).unwrap().is_none());
        let error = weights.take("a", 1, 1).unwrap_err().to_string();
        assert!(error.contains("a has the type I64"), "{error}");
    }

    #[test]
    fn double_precision_weights_are_rounded_to_f32() {
        let bytes = file(Dtype::F64, &0.1f64.to_le_bytes(), 8);
        let read = Weights::from_bytes(&bytes).unwrap();
        assert_eq!(read.nodes["a"].value().data(), [0.1f32]);
    }
}
