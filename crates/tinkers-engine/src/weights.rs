//! Base weights: read from safetensors, handed out by name in `f32`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device};

use crate::error::{Error, Result};
use crate::fields::Fields;
use crate::ops::matrix::Matrix;
use crate::ops::tape::Node;

/// Weights by name, waiting to be taken by the model that they make up.
#[derive(Debug, Default)]
pub struct Weights {
    nodes: BTreeMap<String, Node>,
}

impl Weights {
    /// Reads the tensors of one safetensors file, widening `f16` and `bf16` to `f32`.
    ///
    /// # Errors
    /// [`Error::Tensor`] where the bytes are no safetensors file or hold a type that does not convert.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let mut weights = Self::default();
        weights.read(bytes)?;
        Ok(weights)
    }

    /// Reads the weights of a model directory: the files that `model.safetensors.index.json` lists, or else `model.safetensors`,
    /// or else every `*.safetensors` file in the order of their names.
    ///
    /// # Errors
    /// [`Error::Model`] where there is none, [`Error::Io`] and [`Error::Tensor`] where one cannot be read.
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
                    Error::Tensor(cause) => cause.to_string(),
                    other => other.to_string(),
                };
                Error::Model(format!("{}: {reason}", file.display()))
            })?;
        }
        Ok(weights)
    }

    /// Weights that are part of a computation already.
    pub(crate) fn from_nodes(nodes: BTreeMap<String, Node>) -> Self {
        Self { nodes }
    }

    /// The rows of the weight `name`.
    pub(crate) fn rows(&self, name: &str) -> Option<usize> {
        self.nodes.get(name).map(|node| node.value().rows())
    }

    /// All weights in the order of their names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Matrix)> {
        let all = self.nodes.iter();
        all.map(|(name, node)| (name.as_str(), node.value()))
    }

    /// Takes the weight `name` of `rows` rows and `cols` columns.
    pub(crate) fn take(&mut self, name: &str, rows: usize, cols: usize) -> Result<Node> {
        self.take_if_present(name, rows, cols)?
            .ok_or_else(|| Error::Model(format!("the weights lack {name}")))
    }

    /// Takes the weight `name` where there is one.
    pub(crate) fn take_if_present(
        &mut self,
        name: &str,
        rows: usize,
        cols: usize,
    ) -> Result<Option<Node>> {
        let Some(node) = self.nodes.remove(name) else {
            return Ok(None);
        };
        let found = (node.value().rows(), node.value().cols());
        if found != (rows, cols) {
            return Err(Error::Model(format!(
                "{name} has the shape {found:?}, config.json says {:?}",
                (rows, cols)
            )));
        }
        Ok(Some(node))
    }

    fn read(&mut self, bytes: &[u8]) -> Result<()> {
        // In an order, so that of several faults the same one is told each time.
        let tensors: BTreeMap<_, _> = candle_core::safetensors::load_buffer(bytes, &Device::Cpu)?
            .into_iter()
            .collect();
        for (name, tensor) in tensors {
            let (rows, cols) = match tensor.dims() {
                [cols] => (1, *cols),
                [rows, cols] => (*rows, *cols),
                // No layer of a language model has such a shape; one that is wanted is reported as missing.
                other => {
                    tracing::debug!(name, shape = ?other, "left out a tensor");
                    continue;
                }
            };
            let data = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
            let node = Node::constant(Matrix::new(data, rows, cols));
            self.nodes.insert(name, node);
        }
        Ok(())
    }
}

fn shards(dir: &Path) -> Result<Vec<PathBuf>> {
    const INDEX: &str = "model.safetensors.index.json";
    if let Some(index) = Fields::open(dir, INDEX)? {
        let map = index.object("weight_map")?.ok_or_else(|| {
            index.error("weight_map", "is missing, expected the file of each weight")
        })?;
        // A set, since each file holds many weights.
        let files = map
            .names()
            .map(|name| map.text(name))
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
