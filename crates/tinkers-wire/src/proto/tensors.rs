//! Conversion between protobuf tensors and typed arrays.

use std::sync::Arc;

use bytes::Bytes;

use super::messages::{self as m, DType, Encoding};
use crate::tensor::{Element, from_little_endian, little_endian};
use crate::{CsrIndices, DecodeError, TensorData, TensorValues};

pub(super) fn encode(tensor: &TensorData) -> m::Tensor {
    let (values, dtype) = match tensor.values() {
        TensorValues::F32(values) => (little_endian(values), DType::Float32),
        TensorValues::I64(values) => (little_endian(values), DType::Int64),
    };
    let encoding = match tensor.csr_indices() {
        None => Encoding::Dense(values),
        Some(csr) => Encoding::SparseCsr(m::SparseCsr {
            values,
            crow_indices: little_endian(&csr.crow),
            col_indices: little_endian(&csr.col),
        }),
    };
    let shape = tensor.shape().into_iter().map(|dim| dim as i64).collect();
    m::Tensor {
        encoding: Some(encoding),
        dtype: dtype as i32,
        shape,
    }
}

/// Decodes a tensor of a request. An empty shape in a request means that the shape was not set.
pub(super) fn decode_request(tensor: m::Tensor) -> Result<TensorData, DecodeError> {
    decode(tensor, |_| false)
}

/// Decodes a tensor of a response. In a response, a tensor with one value and an empty shape is a scalar.
pub(super) fn decode_response(tensor: m::Tensor) -> Result<TensorData, DecodeError> {
    decode(tensor, |len| len == 1)
}

fn decode(
    tensor: m::Tensor,
    is_scalar: impl FnOnce(usize) -> bool,
) -> Result<TensorData, DecodeError> {
    let shape = dimensions(&tensor.shape)?;
    let (values, csr) = match tensor.encoding {
        Some(Encoding::Dense(data)) => (values(tensor.dtype, &data)?, None),
        Some(Encoding::SparseCsr(csr)) => {
            let indices = CsrIndices {
                crow: elements(&csr.crow_indices)?,
                col: elements(&csr.col_indices)?,
            };
            (values(tensor.dtype, &csr.values)?, Some(indices))
        }
        // An empty tensor may omit the field.
        None => (values(tensor.dtype, &[])?, None),
    };
    let shape = (!shape.is_empty() || is_scalar(values.len())).then_some(shape);
    Ok(TensorData::from_parts(values, shape, csr))
}

/// Decodes the elements of a tensor. Element types that [`crate::DType`] does not have are widened: int32 to int64, bfloat16 to float32.
pub(super) fn values(dtype: i32, data: &[u8]) -> Result<TensorValues, DecodeError> {
    Ok(match DType::try_from(dtype) {
        Ok(DType::Float32) => TensorValues::F32(elements(data)?),
        Ok(DType::Int64) => TensorValues::I64(elements(data)?),
        Ok(DType::Int32) => TensorValues::I64(
            elements::<i32, Vec<_>>(data)?
                .iter()
                .map(|&x| i64::from(x))
                .collect(),
        ),
        Ok(DType::Bfloat16) => {
            if !data.len().is_multiple_of(2) {
                return Err(DecodeError::new(
                    "cannot decode a bfloat16 array: odd number of bytes",
                ));
            }
            // A bfloat16 is the upper half of a float32.
            let to_f32 = |half: &[u8]| {
                f32::from_bits(u32::from(u16::from_le_bytes([half[0], half[1]])) << 16)
            };
            TensorValues::F32(data.chunks_exact(2).map(to_f32).collect())
        }
        Ok(DType::Unspecified) | Err(_) => {
            return Err(DecodeError::new(format!(
                "cannot decode a tensor of the unknown dtype {dtype}"
            )));
        }
    })
}

/// Returns the size in bytes of one element. `dtype` is the number of the element type in the protobuf schema.
pub(super) fn element_size(dtype: i32) -> usize {
    match DType::try_from(dtype) {
        Ok(DType::Int64) => 8,
        Ok(DType::Bfloat16) => 2,
        _ => 4,
    }
}

pub(super) fn elements<T: Element, C: FromIterator<T>>(data: &[u8]) -> Result<C, DecodeError> {
    let error = || {
        DecodeError::new(format!(
            "cannot decode an array of {} bytes: not a multiple of the element size {}",
            data.len(),
            size_of::<T>()
        ))
    };
    from_little_endian(data).ok_or_else(error)
}

pub(super) fn dimensions(shape: &[i64]) -> Result<Vec<usize>, DecodeError> {
    let dimension = |&dim: &i64| {
        usize::try_from(dim).map_err(|_| {
            DecodeError::new(format!("cannot decode a shape with a dimension of {dim}"))
        })
    };
    shape.iter().map(dimension).collect()
}

/// Encodes a slice as little-endian bytes.
pub(super) fn pack<T: Element + Copy>(values: &[T]) -> Bytes {
    little_endian(&Arc::from(values))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_tensor_shape_means_a_scalar_only_in_responses() {
        let tensor = || m::Tensor {
            encoding: Some(Encoding::Dense(pack(&[6i64]))),
            dtype: DType::Int64 as i32,
            shape: vec![],
        };
        assert_eq!(decode_request(tensor()).unwrap().shape(), [1]);
        assert_eq!(decode_response(tensor()).unwrap().shape(), [0usize; 0]);
    }

    #[test]
    fn int32_and_bfloat16_tensor_elements_are_widened() {
        let half = [1.5f32, -2.0]
            .iter()
            .flat_map(|x| ((x.to_bits() >> 16) as u16).to_le_bytes())
            .collect::<Vec<_>>();
        assert_eq!(
            values(DType::Bfloat16 as i32, &half).unwrap(),
            TensorValues::F32(Arc::from([1.5, -2.0]))
        );
        assert_eq!(
            values(DType::Int32 as i32, &[255; 4]).unwrap(),
            TensorValues::I64(Arc::from([-1]))
        );
        assert!(values(DType::Int64 as i32, &[0; 7]).is_err());
        assert!(values(0, &[]).is_err());
        assert!(values(99, &[]).is_err());
    }
}
