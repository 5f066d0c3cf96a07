//! Tensors as shared typed arrays.

use std::sync::Arc;

use bytes::Bytes;
use serde::ser::SerializeStruct;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::InvalidInput;
use crate::numbers::{Numbers, float_to_i64};

/// The element type of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// 32-bit floating point.
    Float32,
    /// 64-bit signed integers.
    Int64,
}

impl DType {
    /// Returns the name used on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::Int64 => "int64",
        }
    }
}

/// The elements of a tensor, row-major.
#[derive(Debug, Clone, PartialEq)]
pub enum TensorValues {
    /// 32-bit floating point.
    F32(Arc<[f32]>),
    /// 64-bit signed integers.
    I64(Arc<[i64]>),
}

impl TensorValues {
    /// Converts numbers to elements of `dtype`, or to floats if `dtype` is int64 and a number is not an integer. Without a `dtype`,
    /// integers become int64.
    pub(crate) fn from_numbers<const LENIENT: bool>(
        numbers: Numbers<LENIENT>,
        dtype: Option<DType>,
    ) -> Self {
        let is_integer = match (&numbers, dtype) {
            (Numbers::Integers(_), dtype) => dtype != Some(DType::Float32),
            (Numbers::Mixed { values, exact }, Some(DType::Int64)) => {
                *exact && values.iter().all(|&x| float_to_i64(x).is_some())
            }
            (Numbers::Mixed { .. }, _) => false,
        };
        if is_integer {
            return Self::I64(numbers.into_i64().unwrap_or_default());
        }
        Self::F32(numbers.into_f32())
    }

    /// Returns the number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::I64(values) => values.len(),
        }
    }

    /// Returns whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the element type.
    pub const fn dtype(&self) -> DType {
        match self {
            Self::F32(_) => DType::Float32,
            Self::I64(_) => DType::Int64,
        }
    }
}

/// The row and column indices of a 2-D tensor in compressed sparse row (CSR) form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CsrIndices {
    /// The index of the first value of each row, followed by the number of values: rows + 1 entries.
    pub crow: Arc<[i64]>,
    /// The column of each value.
    pub col: Arc<[i64]>,
}

/// A dense tensor, or a sparse one in CSR form.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorData {
    values: TensorValues,
    shape: Option<Vec<usize>>,
    csr: Option<CsrIndices>,
}

impl TensorData {
    /// Creates a 1-D float32 tensor.
    pub fn f32(values: impl Into<Arc<[f32]>>) -> Self {
        let values = values.into();
        Self {
            shape: Some(vec![values.len()]),
            values: TensorValues::F32(values),
            csr: None,
        }
    }

    /// Creates a 1-D int64 tensor.
    pub fn i64(values: impl Into<Arc<[i64]>>) -> Self {
        let values = values.into();
        Self {
            shape: Some(vec![values.len()]),
            values: TensorValues::I64(values),
            csr: None,
        }
    }

    /// Creates a 1-D int64 tensor of token ids.
    pub fn tokens(tokens: &[u32]) -> Self {
        Self::i64(
            tokens
                .iter()
                .map(|&token| i64::from(token))
                .collect::<Vec<_>>(),
        )
    }

    /// Creates a dense tensor.
    ///
    /// # Errors
    /// If the shape does not match the number of values, or a value is not finite.
    pub fn dense(values: TensorValues, shape: Vec<usize>) -> Result<Self, InvalidInput> {
        let tensor = Self {
            values,
            shape: Some(shape),
            csr: None,
        };
        tensor.validate()?;
        Ok(tensor)
    }

    /// Creates a 2-D sparse tensor of the dense shape `shape`.
    ///
    /// # Errors
    /// If the indices do not match the shape, or a value is not finite.
    pub fn csr(
        values: TensorValues,
        shape: [usize; 2],
        indices: CsrIndices,
    ) -> Result<Self, InvalidInput> {
        let tensor = Self {
            values,
            shape: Some(shape.to_vec()),
            csr: Some(indices),
        };
        tensor.validate()?;
        Ok(tensor)
    }

    /// Creates a decoded tensor without validation.
    pub(crate) fn from_parts(
        values: TensorValues,
        shape: Option<Vec<usize>>,
        csr: Option<CsrIndices>,
    ) -> Self {
        Self { values, shape, csr }
    }

    /// Returns the elements; for a sparse tensor, the stored values.
    pub fn values(&self) -> &TensorValues {
        &self.values
    }

    /// Returns the elements of a float32 tensor.
    pub fn as_f32(&self) -> Option<&[f32]> {
        match &self.values {
            TensorValues::F32(values) => Some(values),
            TensorValues::I64(_) => None,
        }
    }

    /// Returns the elements of an int64 tensor.
    pub fn as_i64(&self) -> Option<&[i64]> {
        match &self.values {
            TensorValues::I64(values) => Some(values),
            TensorValues::F32(_) => None,
        }
    }

    /// Returns the element type.
    pub fn dtype(&self) -> DType {
        self.values.dtype()
    }

    /// Returns the shape. A tensor that was decoded without one is 1-D.
    pub fn shape(&self) -> Vec<usize> {
        self.shape
            .clone()
            .unwrap_or_else(|| vec![self.values.len()])
    }

    /// Returns the indices of a sparse tensor.
    pub fn csr_indices(&self) -> Option<&CsrIndices> {
        self.csr.as_ref()
    }

    /// Estimates the bytes on the wire: the elements, plus 8 per index.
    pub fn estimated_bytes(&self) -> u64 {
        let size = match self.dtype() {
            DType::Float32 => 4,
            DType::Int64 => 8,
        };
        let indices = self
            .csr
            .as_ref()
            .map_or(0, |csr| 8 * (csr.crow.len() + csr.col.len()));
        (self.values.len() * size + indices) as u64
    }

    /// Checks the shape, the indices, and that every value is finite.
    ///
    /// # Errors
    /// Names the field `shape`, `sparse_crow_indices`, `sparse_col_indices` or `data`.
    pub fn validate(&self) -> Result<(), InvalidInput> {
        if let TensorValues::F32(values) = &self.values
            && let Some(at) = values.iter().position(|value| !value.is_finite())
        {
            return Err(InvalidInput::new(
                "data",
                format_args!("finite numbers, got {} at index {at}", values[at]),
            ));
        }
        match &self.csr {
            None => self.validate_dense(),
            Some(csr) => self.validate_csr(csr),
        }
    }

    fn validate_dense(&self) -> Result<(), InvalidInput> {
        let Some(shape) = &self.shape else {
            return Ok(());
        };
        let capacity = shape
            .iter()
            .try_fold(1usize, |product, &dim| product.checked_mul(dim));
        if capacity != Some(self.values.len()) {
            let expected = format!("a shape of {} elements, got {shape:?}", self.values.len());
            return Err(InvalidInput::new("shape", expected));
        }
        Ok(())
    }

    fn validate_csr(&self, csr: &CsrIndices) -> Result<(), InvalidInput> {
        let Some([rows, columns]) = self
            .shape
            .as_deref()
            .and_then(|shape| <[usize; 2]>::try_from(shape).ok())
        else {
            return Err(InvalidInput::new(
                "shape",
                "two dimensions for a sparse tensor",
            ));
        };
        let stored = self.values.len();
        let is_ascending = csr.crow.windows(2).all(|pair| pair[0] <= pair[1]);
        let spans_values =
            csr.crow.first() == Some(&0) && csr.crow.last() == i64::try_from(stored).ok().as_ref();
        if Some(csr.crow.len()) != rows.checked_add(1) || !is_ascending || !spans_values {
            let expected = format!("{rows} + 1 indices in ascending order from 0 to {stored}");
            return Err(InvalidInput::new("sparse_crow_indices", expected));
        }
        let is_in_range = csr
            .col
            .iter()
            .all(|&col| usize::try_from(col).is_ok_and(|col| col < columns));
        if csr.col.len() != stored || !is_in_range {
            let expected = format!("{stored} column indices below {columns}, one per value");
            return Err(InvalidInput::new("sparse_col_indices", expected));
        }
        Ok(())
    }
}

impl From<Vec<f32>> for TensorData {
    fn from(values: Vec<f32>) -> Self {
        Self::f32(values)
    }
}

impl From<Vec<i64>> for TensorData {
    fn from(values: Vec<i64>) -> Self {
        Self::i64(values)
    }
}

impl Serialize for TensorData {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fields = 2 + usize::from(self.shape.is_some()) + 2 * usize::from(self.csr.is_some());
        let mut out = serializer.serialize_struct("TensorData", fields)?;
        match &self.values {
            TensorValues::F32(values) => out.serialize_field("data", &**values)?,
            TensorValues::I64(values) => out.serialize_field("data", &**values)?,
        }
        out.serialize_field("dtype", &self.dtype())?;
        if let Some(shape) = &self.shape {
            out.serialize_field("shape", shape)?;
        }
        if let Some(csr) = &self.csr {
            out.serialize_field("sparse_crow_indices", &*csr.crow)?;
            out.serialize_field("sparse_col_indices", &*csr.col)?;
        }
        out.end()
    }
}

/// A tensor decoded from JSON, in which the dtype is optional.
#[derive(Deserialize)]
pub(crate) struct UntypedTensor {
    data: Numbers,
    dtype: Option<DType>,
    shape: Option<Vec<usize>>,
    sparse_crow_indices: Option<Vec<i64>>,
    sparse_col_indices: Option<Vec<i64>>,
}

impl UntypedTensor {
    /// Converts to a tensor. Without a `dtype`, the element type is `expected`; without that too, int64 if all numbers are integers,
    /// else float32.
    pub(crate) fn into_tensor(self, expected: Option<DType>) -> Result<TensorData, &'static str> {
        let dtype = self.dtype.or(expected).unwrap_or(match self.data {
            Numbers::Integers(_) => DType::Int64,
            Numbers::Mixed { .. } => DType::Float32,
        });
        let values = match dtype {
            DType::Float32 => TensorValues::F32(self.data.into_f32()),
            DType::Int64 => {
                let integers = self.data.into_i64();
                TensorValues::I64(integers.ok_or("data: expected integers, since dtype is int64")?)
            }
        };
        let csr = match (self.sparse_crow_indices, self.sparse_col_indices) {
            (None, None) => None,
            (Some(crow), Some(col)) => Some(CsrIndices {
                crow: crow.into(),
                col: col.into(),
            }),
            _ => {
                return Err("expected both sparse_crow_indices and sparse_col_indices, or neither");
            }
        };
        Ok(TensorData {
            values,
            shape: self.shape,
            csr,
        })
    }
}

impl<'de> Deserialize<'de> for TensorData {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let tensor = UntypedTensor::deserialize(deserializer)?;
        tensor.into_tensor(None).map_err(serde::de::Error::custom)
    }
}

/// Returns the little-endian bytes of a shared array, without copying on little-endian targets.
pub(crate) fn little_endian<T: Element>(values: &Arc<[T]>) -> Bytes {
    if cfg!(target_endian = "little") {
        return Bytes::from_owner(SharedBytes(Arc::clone(values)));
    }
    Bytes::from(
        values
            .iter()
            .flat_map(|value| value.to_le())
            .collect::<Vec<u8>>(),
    )
}

/// Decodes little-endian elements; `None` if the length is not a multiple of the element size.
pub(crate) fn from_little_endian<T: Element, C: FromIterator<T>>(bytes: &[u8]) -> Option<C> {
    let size = size_of::<T>();
    if !bytes.len().is_multiple_of(size) {
        return None;
    }
    Some(bytes.chunks_exact(size).map(T::from_le).collect())
}

struct SharedBytes<T>(Arc<[T]>);

impl<T: Element> AsRef<[u8]> for SharedBytes<T> {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

/// An array element with a little-endian encoding.
pub(crate) trait Element: bytemuck::NoUninit + Send + Sync + 'static {
    fn to_le(self) -> Vec<u8>;
    fn from_le(bytes: &[u8]) -> Self;
}

macro_rules! element {
    ($($type:ty),*) => {$(
        impl Element for $type {
            fn to_le(self) -> Vec<u8> {
                self.to_le_bytes().to_vec()
            }
            fn from_le(bytes: &[u8]) -> Self {
                let mut raw = [0; size_of::<$type>()];
                raw.copy_from_slice(bytes);
                <$type>::from_le_bytes(raw)
            }
        }
    )*};
}
element!(f32, i32, u32, i64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_omits_a_shape_that_was_not_set() {
        let json = serde_json::to_string(&TensorData::f32(vec![0.5, 1.0])).unwrap();
        assert_eq!(json, r#"{"data":[0.5,1.0],"dtype":"float32","shape":[2]}"#);
        let unshaped: TensorData =
            serde_json::from_str(r#"{"data": [1, 2], "dtype": "int64"}"#).unwrap();
        assert_eq!(
            serde_json::to_string(&unshaped).unwrap(),
            r#"{"data":[1,2],"dtype":"int64"}"#
        );
        assert_eq!(unshaped.shape(), [2]);
    }

    #[test]
    fn null_is_nan_and_a_fraction_is_not_an_integer() {
        let tensor: TensorData =
            serde_json::from_str(r#"{"data": [null, 2], "dtype": "float32"}"#).unwrap();
        assert!(tensor.as_f32().unwrap()[0].is_nan());
        assert_eq!(tensor.validate().unwrap_err().field(), "data");
        assert!(
            serde_json::from_str::<TensorData>(r#"{"data": [1.5], "dtype": "int64"}"#).is_err()
        );
    }

    #[test]
    fn bytes_are_shared_and_not_copied() {
        let values: Arc<[f32]> = Arc::from(vec![1.0, -2.5]);
        let bytes = little_endian(&values);
        assert_eq!(
            &bytes[..],
            [1.0f32.to_le_bytes(), (-2.5f32).to_le_bytes()].concat()
        );
        assert_eq!(bytes.as_ptr(), values.as_ptr().cast::<u8>());
        assert_eq!(
            from_little_endian::<f32, Vec<_>>(&bytes).as_deref(),
            Some(&values[..])
        );
        assert_eq!(from_little_endian::<f32, Vec<_>>(&bytes[1..]), None);
    }

    #[test]
    fn invalid_shapes_and_indices_are_rejected() {
        let two = || TensorValues::F32(Arc::from(vec![1.0, 2.0]));
        assert_eq!(
            TensorData::dense(two(), vec![3]).unwrap_err().field(),
            "shape"
        );
        assert_eq!(
            TensorData::dense(two(), vec![usize::MAX, usize::MAX])
                .unwrap_err()
                .field(),
            "shape"
        );
        let csr = |crow: &[i64], col: &[i64]| {
            TensorData::csr(
                two(),
                [2, 3],
                CsrIndices {
                    crow: Arc::from(crow),
                    col: Arc::from(col),
                },
            )
        };
        assert!(csr(&[0, 1, 2], &[2, 0]).is_ok());
        assert_eq!(
            csr(&[0, 2], &[2, 0]).unwrap_err().field(),
            "sparse_crow_indices"
        );
        assert_eq!(
            csr(&[0, 1, 2], &[3, 0]).unwrap_err().field(),
            "sparse_col_indices"
        );
        assert_eq!(
            csr(&[0, 1, 2], &[-1, 0]).unwrap_err().field(),
            "sparse_col_indices"
        );
    }
}
