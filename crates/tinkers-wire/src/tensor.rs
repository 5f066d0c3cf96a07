//! Tensors as typed arrays: shared, never a list of JSON values, copied once on their way to the wire.

use std::sync::Arc;

use bytes::Bytes;
use serde::ser::SerializeStruct;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::InvalidInput;
use crate::numbers::Numbers;

/// The element types of the public API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// 32-bit floating point.
    Float32,
    /// 64-bit signed integers.
    Int64,
}

impl DType {
    /// The name on the wire.
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
    /// How many elements.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::I64(values) => values.len(),
        }
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The element type.
    pub const fn dtype(&self) -> DType {
        match self {
            Self::F32(_) => DType::Float32,
            Self::I64(_) => DType::Int64,
        }
    }
}

/// The places of the stored values of a 2-D tensor in compressed sparse row form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CsrIndices {
    /// Where each row begins; rows + 1 entries.
    pub crow: Arc<[i64]>,
    /// The column of each stored value.
    pub col: Arc<[i64]>,
}

/// A tensor: dense, or sparse with `csr`.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorData {
    values: TensorValues,
    shape: Option<Vec<usize>>,
    csr: Option<CsrIndices>,
}

impl TensorData {
    /// A 1-D tensor of 32-bit floats, shape `[N]`.
    pub fn f32(values: impl Into<Arc<[f32]>>) -> Self {
        let values = values.into();
        Self {
            shape: Some(vec![values.len()]),
            values: TensorValues::F32(values),
            csr: None,
        }
    }

    /// A 1-D tensor of 64-bit integers, shape `[N]`.
    pub fn i64(values: impl Into<Arc<[i64]>>) -> Self {
        let values = values.into();
        Self {
            shape: Some(vec![values.len()]),
            values: TensorValues::I64(values),
            csr: None,
        }
    }

    /// A 1-D integer tensor of token ids.
    pub fn tokens(tokens: &[u32]) -> Self {
        Self::i64(
            tokens
                .iter()
                .map(|&token| i64::from(token))
                .collect::<Vec<_>>(),
        )
    }

    /// A dense tensor of any shape.
    ///
    /// # Errors
    /// When the shape does not hold as many elements as there are.
    pub fn dense(values: TensorValues, shape: Vec<usize>) -> Result<Self, InvalidInput> {
        let tensor = Self {
            values,
            shape: Some(shape),
            csr: None,
        };
        tensor.validate()?;
        Ok(tensor)
    }

    /// A 2-D tensor in compressed sparse row form; `shape` is the dense one.
    ///
    /// # Errors
    /// When the indices do not describe a tensor of that shape.
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

    /// As read from the wire, not yet checked.
    pub(crate) fn from_parts(
        values: TensorValues,
        shape: Option<Vec<usize>>,
        csr: Option<CsrIndices>,
    ) -> Self {
        Self { values, shape, csr }
    }

    /// The elements; of a sparse tensor the stored ones.
    pub fn values(&self) -> &TensorValues {
        &self.values
    }

    /// The elements as floats, when they are floats.
    pub fn as_f32(&self) -> Option<&[f32]> {
        match &self.values {
            TensorValues::F32(values) => Some(values),
            TensorValues::I64(_) => None,
        }
    }

    /// The elements as integers, when they are integers.
    pub fn as_i64(&self) -> Option<&[i64]> {
        match &self.values {
            TensorValues::I64(values) => Some(values),
            TensorValues::F32(_) => None,
        }
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.values.dtype()
    }

    /// The shape; a 1-D one of the number of elements where none was given.
    pub fn shape(&self) -> Vec<usize> {
        self.shape
            .clone()
            .unwrap_or_else(|| vec![self.values.len()])
    }

    /// The indices of a sparse tensor.
    pub fn csr_indices(&self) -> Option<&CsrIndices> {
        self.csr.as_ref()
    }

    /// Estimated bytes on the wire: the elements, and 8 for each index.
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

    /// Checks shape, indices and that every float is finite.
    ///
    /// # Errors
    /// Names `shape`, `sparse_crow_indices`, `sparse_col_indices` or `data`.
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
        let holds = shape
            .iter()
            .try_fold(1usize, |product, &side| product.checked_mul(side));
        if holds != Some(self.values.len()) {
            let expected = format!(
                "a shape that holds {} elements, got {shape:?}",
                self.values.len()
            );
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
        let rising = csr.crow.windows(2).all(|pair| pair[0] <= pair[1]);
        let ends =
            csr.crow.first() == Some(&0) && csr.crow.last() == i64::try_from(stored).ok().as_ref();
        if Some(csr.crow.len()) != rows.checked_add(1) || !rising || !ends {
            let expected = format!("{rows} + 1 indices that rise from 0 to {stored}");
            return Err(InvalidInput::new("sparse_crow_indices", expected));
        }
        let inside = csr
            .col
            .iter()
            .all(|&col| usize::try_from(col).is_ok_and(|col| col < columns));
        if csr.col.len() != stored || !inside {
            let expected = format!("{stored} columns below {columns}, one for each value");
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

/// A tensor in JSON, which may leave out what it holds.
#[derive(Deserialize)]
pub(crate) struct UntypedTensor {
    data: Numbers,
    dtype: Option<DType>,
    shape: Option<Vec<usize>>,
    sparse_crow_indices: Option<Vec<i64>>,
    sparse_col_indices: Option<Vec<i64>>,
}

impl UntypedTensor {
    /// The tensor. Without a `dtype` it holds what is `expected`, else int64 where all numbers are whole, else float32.
    pub(crate) fn typed(self, expected: Option<DType>) -> Result<TensorData, &'static str> {
        let dtype = self.dtype.or(expected).unwrap_or(match self.data {
            Numbers::Whole(_) => DType::Int64,
            Numbers::Mixed { .. } => DType::Float32,
        });
        let values = match dtype {
            DType::Float32 => TensorValues::F32(self.data.into_f32()),
            DType::Int64 => {
                let whole = self.data.into_i64();
                TensorValues::I64(whole.ok_or("int64 data must be whole numbers")?)
            }
        };
        let csr = match (self.sparse_crow_indices, self.sparse_col_indices) {
            (None, None) => None,
            (Some(crow), Some(col)) => Some(CsrIndices {
                crow: crow.into(),
                col: col.into(),
            }),
            _ => return Err("sparse_crow_indices and sparse_col_indices come together"),
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
        let read = UntypedTensor::deserialize(deserializer)?;
        read.typed(None).map_err(serde::de::Error::custom)
    }
}

/// The little-endian bytes of a shared array, without a copy where the machine is little-endian itself.
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

/// Reads little-endian elements into one of the standard collections; `None` when the length is no multiple of the element size.
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

/// An element of a packed array.
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
    fn json_carries_what_was_set_and_no_more() {
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
    fn a_null_is_not_a_number_and_a_fraction_is_no_integer() {
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
    fn shapes_and_indices_are_checked() {
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
