//! Encoding of checkpoints as safetensors files with metadata.

use std::collections::HashMap;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use super::CheckpointContents;
use crate::adamw::AdamW;
use crate::error::{Error, Result};
use crate::lora::{AdapterConfig, Lora, Param};
use crate::ops::matrix::Matrix;

/// The version of the file layout. Files with another version are rejected.
const LAYOUT: &str = "tinkers-checkpoint-1";

/// The metadata in the header of a checkpoint file. The safetensors format allows only strings.
#[derive(Debug, Deserialize, Serialize)]
struct Metadata {
    format: String,
    lora_config: String,
    record: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    optimizer_steps: Option<String>,
    params: String,
}

pub(super) fn encode(saved: &CheckpointContents) -> Result<Vec<u8>> {
    let failed =
        |e: &dyn std::fmt::Display| Error::Model(format!("cannot encode the checkpoint: {e}"));
    let params = saved.lora.params();
    let mut tensors: Vec<(String, [usize; 2], Vec<u8>)> = Vec::new();
    for param in params {
        tensors.push((param.name.clone(), param.shape(), bytes(param.data())));
    }
    if let Some(optimizer) = &saved.optimizer {
        for (label, moments) in [("first", &optimizer.first), ("second", &optimizer.second)] {
            for (param, moment) in params.iter().zip(moments) {
                tensors.push((
                    moment_name(label, &param.name),
                    param.shape(),
                    bytes(moment),
                ));
            }
        }
    }
    let names: Vec<&str> = params.iter().map(Param::name).collect();
    let metadata = [
        ("format", LAYOUT.to_owned()),
        (
            "lora_config",
            serde_json::to_string(saved.lora.config()).map_err(|e| failed(&e))?,
        ),
        (
            "params",
            serde_json::to_string(&names).map_err(|e| failed(&e))?,
        ),
        ("record", saved.record.clone()),
    ];
    let mut metadata: HashMap<String, String> = metadata
        .into_iter()
        .map(|(k, v)| (k.to_owned(), v))
        .collect();
    if let Some(optimizer) = &saved.optimizer {
        metadata.insert("optimizer_steps".into(), optimizer.steps.to_string());
    }
    let views = tensors
        .iter()
        .map(|(name, shape, bytes)| {
            let view = TensorView::new(Dtype::F32, shape.to_vec(), bytes);
            Ok((name.as_str(), view.map_err(|e| failed(&e))?))
        })
        .collect::<Result<Vec<_>>>()?;
    safetensors::serialize(views, Some(metadata)).map_err(|e| failed(&e))
}

/// Decodes a checkpoint file.
pub(super) fn decode(file: &[u8]) -> Result<CheckpointContents, String> {
    let header_len = file.first_chunk::<8>().ok_or("the file is truncated")?;
    let header_len = usize::try_from(u64::from_le_bytes(*header_len)).map_err(|e| e.to_string())?;
    let end = header_len
        .checked_add(8)
        .ok_or("the header length overflows")?;
    let header = file.get(8..end).ok_or("the file is truncated")?;
    let metadata = metadata(header)?;
    let config: AdapterConfig =
        serde_json::from_str(&metadata.lora_config).map_err(|e| e.to_string())?;
    let names: Vec<String> = serde_json::from_str(&metadata.params).map_err(|e| e.to_string())?;
    let tensors = SafeTensors::deserialize(file).map_err(|e| e.to_string())?;

    let mut params = Vec::with_capacity(names.len());
    for name in &names {
        let (data, [rows, cols]) = floats(&tensors, name)?;
        params.push(Param {
            name: name.clone(),
            value: Matrix::new(data, rows, cols),
        });
    }
    let optimizer = match &metadata.optimizer_steps {
        None => None,
        Some(steps) => {
            let moments = |label: &str| {
                let names = names.iter().map(|name| moment_name(label, name));
                names
                    .map(|name| floats(&tensors, &name).map(|(data, _)| data))
                    .collect::<Result<Vec<_>, String>>()
            };
            Some(AdamW {
                steps: steps.parse().map_err(|e| format!("optimizer_steps: {e}"))?,
                first: moments("first")?,
                second: moments("second")?,
            })
        }
    };
    Ok(CheckpointContents {
        lora: Lora::from_parts(config, params),
        optimizer,
        record: metadata.record,
    })
}

/// Returns the record from the header of a checkpoint file. The record is the text that the caller stored with the checkpoint.
pub(super) fn record(header: &[u8]) -> Result<String, String> {
    Ok(metadata(header)?.record)
}

fn metadata(header: &[u8]) -> Result<Metadata, String> {
    #[derive(Deserialize)]
    struct Header {
        #[serde(rename = "__metadata__")]
        metadata: Metadata,
    }
    let header: Header = serde_json::from_slice(header)
        .map_err(|e| format!("the header is not that of a checkpoint: {e}"))?;
    if header.metadata.format != LAYOUT {
        return Err(format!(
            "the layout is {:?}, expected {LAYOUT:?}",
            header.metadata.format
        ));
    }
    Ok(header.metadata)
}

fn moment_name(label: &str, param: &str) -> String {
    format!("optimizer.{label}.{param}")
}

fn bytes(data: &[f32]) -> Vec<u8> {
    data.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn floats(tensors: &SafeTensors<'_>, name: &str) -> Result<(Vec<f32>, [usize; 2]), String> {
    let view = tensors.tensor(name).map_err(|e| format!("{name}: {e}"))?;
    let shape = <[usize; 2]>::try_from(view.shape());
    let (Ok(shape), Dtype::F32) = (shape, view.dtype()) else {
        return Err(format!("{name} is not an f32 matrix"));
    };
    let data = view.data().as_chunks::<4>().0;
    Ok((data.iter().map(|b| f32::from_le_bytes(*b)).collect(), shape))
}
