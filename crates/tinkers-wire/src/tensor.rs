//! Tensors as shared typed arrays.

use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use serde::ser::SerializeStruct;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::InvalidInput;
use crate::names::display_name;
use crate::numbers::{Floats, Numbers, float_to_i64};

/// The element type of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(clippy::exhaustive_enums, reason = "callers handle each element type")]
pub enum DType {
    /// 32-bit floating-point numbers.
    Float32,
    /// 64-bit signed integers.
    Int64,
}

impl DType {
    /// Returns the name used in JSON, `float32` or `int64`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::Int64 => "int64",
        }
    }
}

display_name!(DType);

impl FromStr for DType {
    type Err = InvalidInput;

    fn from_str(name: &str) -> Result<Self, InvalidInput> {
        let mut all = [Self::Float32, Self::Int64].into_iter();
        all.find(|dtype| dtype.name() == name).ok_or_else(|| {
            InvalidInput::new("dtype", format_args!("float32 or int64, got {name:?}"))
        })
    }
}

/// The elements of a tensor, in row-major order.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "callers handle each element type")]
pub enum TensorValues {
    /// 32-bit floating-point numbers.
    F32(Arc<[f32]>),
    /// 64-bit signed integers.
    I64(Arc<[i64]>),
}

impl TensorValues {
    /// Converts decoded numbers to tensor elements of the type `dtype`. If `dtype` is int64 and a number is not an integer, converts to floats
    /// instead. Without a `dtype`, integers become int64 and other numbers float32.
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
    /// The index at which each row begins in the list of explicit values, followed by the number of explicit values. There is one entry
    /// more than rows.
    pub crow: Arc<[i64]>,
    /// The column of each explicit value.
    pub col: Arc<[i64]>,
}

impl CsrIndices {
    /// Creates indices from the position at which each row begins in the list of explicit values (`crow`), and the column of each explicit value
    /// (`col`).
    pub fn new(crow: impl Into<Arc<[i64]>>, col: impl Into<Arc<[i64]>>) -> Self {
        Self {
            crow: crow.into(),
            col: col.into(),
        }
    }
}

/// A tensor of float32 or int64 elements, either dense or sparse in CSR form.
///
/// Cheap to clone: the elements are shared. Vectors, slices, arrays and iterators of `f32`, `i64`, `i32` and `u32` convert to a 1-D
/// tensor. The feature `ndarray` adds conversions from and to arrays of the crate `ndarray`.
///
/// JSON has no literal for NaN and the infinities, so the serde traits of this type write them as the strings `"NaN"`, `"Infinity"` and
/// `"-Infinity"`. Therefore a decoded tensor equals the encoded tensor, except for the payload bits of a NaN. A tensor with NaN or an
/// infinity can be serialised, but [`TensorData::validate`] rejects it as an input of a request.
///
/// ```
/// # use tinkers_wire as tinkers;
/// use tinkers::{DType, TensorData};
///
/// let weights = TensorData::from([0.0, 0.5, 1.0]);
/// assert_eq!((weights.dtype(), weights.shape()), (DType::Float32, vec![3]));
///
/// let tokens = TensorData::from(vec![7_u32, 8, 9, 10]).reshape([2, 2])?;
/// assert_eq!((tokens.dtype(), tokens.shape()), (DType::Int64, vec![2, 2]));
/// assert_eq!(tokens.as_i64(), Some(&[7, 8, 9, 10][..]));
/// # Ok::<(), tinkers_wire::InvalidInput>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct TensorData {
    values: TensorValues,
    shape: Option<Vec<usize>>,
    csr: Option<CsrIndices>,
}

impl TensorData {
    /// Creates a 1-D float32 tensor.
    pub fn f32(values: impl Into<Arc<[f32]>>) -> Self {
        Self::one_dimensional(TensorValues::F32(values.into()))
    }

    /// Creates a 1-D int64 tensor.
    pub fn i64(values: impl Into<Arc<[i64]>>) -> Self {
        Self::one_dimensional(TensorValues::I64(values.into()))
    }

    /// Creates a 1-D int64 tensor of token ids.
    pub fn tokens(tokens: &[u32]) -> Self {
        tokens.into()
    }

    fn one_dimensional(values: TensorValues) -> Self {
        Self {
            shape: Some(vec![values.len()]),
            values,
            csr: None,
        }
    }

    /// Creates a dense tensor from its elements in row-major order.
    ///
    /// # Errors
    /// The error names the field `shape` if the product of the dimensions is not the number of elements, and `data` if an element is not
    /// finite.
    pub fn dense(
        values: impl Into<TensorValues>,
        shape: impl Into<Vec<usize>>,
    ) -> Result<Self, InvalidInput> {
        let tensor = Self {
            values: values.into(),
            shape: Some(shape.into()),
            csr: None,
        };
        tensor.validate()?;
        Ok(tensor)
    }

    /// Creates a 2-D sparse tensor from its explicit values. `shape` is the number of rows and columns, including cells without an explicit
    /// value.
    ///
    /// # Errors
    /// The error names the field `sparse_crow_indices` or `sparse_col_indices` if the indices do not match the shape and the number of
    /// explicit values, and `data` if a value is not finite.
    pub fn csr(
        values: impl Into<TensorValues>,
        shape: [usize; 2],
        indices: CsrIndices,
    ) -> Result<Self, InvalidInput> {
        let tensor = Self {
            values: values.into(),
            shape: Some(shape.to_vec()),
            csr: Some(indices),
        };
        tensor.validate()?;
        Ok(tensor)
    }

    /// Creates a tensor from its decoded elements, shape and indices, without checking that these match.
    pub(crate) fn from_parts(
        values: TensorValues,
        shape: Option<Vec<usize>>,
        csr: Option<CsrIndices>,
    ) -> Self {
        Self { values, shape, csr }
    }

    /// Returns a tensor with the same elements in another shape, such as `[rows, columns]`.
    ///
    /// # Errors
    /// The error names the field `shape` if the product of the dimensions is not the number of elements, or if the tensor is sparse.
    pub fn reshape(mut self, shape: impl Into<Vec<usize>>) -> Result<Self, InvalidInput> {
        if self.csr.is_some() {
            return Err(InvalidInput::new(
                "shape",
                "a dense tensor, got a sparse one",
            ));
        }
        self.shape = Some(shape.into());
        self.validate_dense()?;
        Ok(self)
    }

    /// Returns the elements of the tensor. For a sparse tensor these are the explicit values.
    pub fn values(&self) -> &TensorValues {
        &self.values
    }

    /// Returns the elements of a float32 tensor, or `None` for an int64 tensor. For a sparse tensor these are the explicit values.
    pub fn as_f32(&self) -> Option<&[f32]> {
        match &self.values {
            TensorValues::F32(values) => Some(values),
            TensorValues::I64(_) => None,
        }
    }

    /// Returns the elements of an int64 tensor, or `None` for a float32 tensor. For a sparse tensor these are the explicit values.
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

    /// Returns the shape. A tensor that was decoded without a shape is 1-D.
    pub fn shape(&self) -> Vec<usize> {
        self.shape
            .clone()
            .unwrap_or_else(|| vec![self.values.len()])
    }

    /// Returns the row and column indices of a sparse tensor, or `None` for a dense tensor.
    pub fn csr_indices(&self) -> Option<&CsrIndices> {
        self.csr.as_ref()
    }

    /// Estimates the size of the tensor in a request body in bytes: 4 per float32 element, 8 per int64 element and per index.
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

    /// Checks that the shape and the indices match the number of elements, and that every element is finite.
    ///
    /// # Errors
    /// The error names the field `shape`, `sparse_crow_indices`, `sparse_col_indices` or `data`.
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

impl From<TensorValues> for TensorData {
    /// Creates a 1-D tensor.
    fn from(values: TensorValues) -> Self {
        Self::one_dimensional(values)
    }
}

/// A wrapper that serialises a tensor as JSON. If `LOSSLESS`, NaN and the infinities are strings; otherwise they are null.
pub(crate) struct TensorJson<'a, const LOSSLESS: bool>(pub(crate) &'a TensorData);

impl<const LOSSLESS: bool> Serialize for TensorJson<'_, LOSSLESS> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let TensorData { values, shape, csr } = self.0;
        let fields = 2 + usize::from(shape.is_some()) + 2 * usize::from(csr.is_some());
        let mut out = serializer.serialize_struct("TensorData", fields)?;
        match values {
            TensorValues::F32(values) => {
                out.serialize_field("data", &Floats::<LOSSLESS>(values))?
            }
            TensorValues::I64(values) => out.serialize_field("data", &**values)?,
        }
        out.serialize_field("dtype", &values.dtype())?;
        if let Some(shape) = shape {
            out.serialize_field("shape", shape)?;
        }
        if let Some(csr) = csr {
            out.serialize_field("sparse_crow_indices", &*csr.crow)?;
            out.serialize_field("sparse_col_indices", &*csr.col)?;
        }
        out.end()
    }
}

impl Serialize for TensorData {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        TensorJson::<true>(self).serialize(serializer)
    }
}

/// The JSON fields of a tensor. The dtype may be missing; the caller then states the expected dtype.
#[derive(Deserialize)]
pub(crate) struct UntypedTensor {
    data: Numbers,
    dtype: Option<DType>,
    shape: Option<Vec<usize>>,
    sparse_crow_indices: Option<Vec<i64>>,
    sparse_col_indices: Option<Vec<i64>>,
}

impl UntypedTensor {
    /// Converts the JSON fields to a tensor, or returns the reason why they are not valid. If the JSON has no dtype, the element type is
    /// `expected`; if `expected` is `None` as well, the element type is int64 for a list of integers and float32 otherwise.
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

/// Returns the elements of a shared array as little-endian bytes. On little-endian targets the bytes share the memory of the array.
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

/// Decodes elements from little-endian bytes. Returns `None` if the number of bytes is not a multiple of the element size.
pub(crate) fn from_little_endian<T: Element, C: FromIterator<T>>(bytes: &[u8]) -> Option<C> {
    let size = size_of::<T>();
    if !bytes.len().is_multiple_of(size) {
        return None;
    }
    Some(bytes.chunks_exact(size).map(T::from_le).collect())
}

/// A shared array that serves as the memory of a [`Bytes`] value, so that the elements are not copied.
struct SharedBytes<T>(Arc<[T]>);

impl<T: Element> AsRef<[u8]> for SharedBytes<T> {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

/// A type of tensor elements that can be encoded as little-endian bytes.
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
    fn tensor_converts_from_every_container_and_element_type() {
        let (vec, array) = (vec![1.0_f32, 2.0], [1.0_f32, 2.0]);
        let floats = TensorData::f32([1.0, 2.0]);
        for tensor in [
            TensorData::from(&vec),
            TensorData::from(&vec[..]),
            TensorData::from(vec.clone()),
            TensorData::from(array),
            TensorData::from(&array),
            vec.iter().copied().collect(),
        ] {
            assert_eq!(tensor, floats);
        }
        let integers = TensorData::i64([-1, 2]);
        assert_eq!(TensorData::from([-1_i64, 2]), integers);
        assert_eq!(TensorData::from([-1_i32, 2]), integers);
        let largest = TensorData::i64([i64::from(u32::MAX)]);
        assert_eq!(TensorData::from([u32::MAX]), largest);
    }

    #[test]
    fn reshape_requires_the_same_number_of_elements() {
        let tensor = || TensorData::from([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let matrix = tensor().reshape([2, 3]).unwrap();
        assert_eq!(matrix.shape(), [2, 3]);
        let built = TensorData::dense(vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [2, 3]);
        assert_eq!(built.unwrap(), matrix);
        assert_eq!(tensor().reshape([4]).unwrap_err().field(), "shape");
        let indices = CsrIndices::new([0, 1], [0]);
        let sparse = TensorData::csr(vec![1.0], [1, 2], indices).unwrap();
        assert_eq!(sparse.reshape([1]).unwrap_err().field(), "shape");
    }

    #[test]
    fn dtype_is_parsed_from_its_displayed_name() {
        for dtype in [DType::Float32, DType::Int64] {
            assert_eq!(dtype.to_string().parse(), Ok(dtype));
            let json = serde_json::to_value(dtype).unwrap();
            assert_eq!(json, dtype.to_string());
        }
        assert_eq!("int8".parse::<DType>().unwrap_err().field(), "dtype");
    }

    #[test]
    fn tensor_json_omits_a_missing_shape() {
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
    fn null_tensor_element_is_nan_and_fractional_int64_is_rejected() {
        let tensor: TensorData =
            serde_json::from_str(r#"{"data": [null, 2], "dtype": "float32"}"#).unwrap();
        assert!(tensor.as_f32().unwrap()[0].is_nan());
        assert_eq!(tensor.validate().unwrap_err().field(), "data");
        assert!(
            serde_json::from_str::<TensorData>(r#"{"data": [1.5], "dtype": "int64"}"#).is_err()
        );
    }

    #[test]
    fn encoded_tensor_bytes_share_the_memory_of_the_array() {
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
    fn tensor_with_invalid_shape_or_indices_is_rejected() {
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
