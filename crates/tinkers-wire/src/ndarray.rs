//! Conversions from and to arrays of the crate `ndarray`.

use ndarray::{ArrayBase, ArrayViewD, Data, Dimension, IxDyn};

use crate::{DType, InvalidInput, TensorData, TensorElement, TensorValues};

impl<T, S, D> From<&ArrayBase<S, D>> for TensorData
where
    T: TensorElement,
    S: Data<Elem = T>,
    D: Dimension,
{
    /// Creates a dense tensor with the shape and the elements of the array. The elements are copied.
    fn from(array: &ArrayBase<S, D>) -> Self {
        let elements: Vec<T> = array.iter().copied().collect();
        Self::from_parts(elements.into(), Some(array.shape().to_vec()), None)
    }
}

impl<T, S, D> From<ArrayBase<S, D>> for TensorData
where
    T: TensorElement,
    S: Data<Elem = T>,
    D: Dimension,
{
    /// Creates a dense tensor with the shape and the elements of the array. The elements are copied.
    fn from(array: ArrayBase<S, D>) -> Self {
        Self::from(&array)
    }
}

impl TensorData {
    /// Returns a view of a dense float32 tensor. The elements are not copied.
    ///
    /// # Errors
    /// The error names the field `dtype` if the elements are int64, and `shape` if the tensor is sparse or its shape does not match its
    /// elements.
    ///
    /// ```
    /// use ndarray::array;
    /// # use tinkers_wire as tinkers;
    /// use tinkers::TensorData;
    ///
    /// let tensor = TensorData::from(array![[1.0_f32, 2.0], [3.0, 4.0]]);
    /// assert_eq!(tensor.view_f32()?, array![[1.0, 2.0], [3.0, 4.0]].into_dyn());
    /// # Ok::<(), tinkers_wire::InvalidInput>(())
    /// ```
    pub fn view_f32(&self) -> Result<ArrayViewD<'_, f32>, InvalidInput> {
        match self.values() {
            TensorValues::F32(values) => self.view(values),
            TensorValues::I64(_) => Err(self.unexpected_dtype(DType::Float32)),
        }
    }

    /// Returns a view of a dense int64 tensor. The elements are not copied.
    ///
    /// # Errors
    /// The error names the field `dtype` if the elements are float32, and `shape` if the tensor is sparse or its shape does not match its
    /// elements.
    pub fn view_i64(&self) -> Result<ArrayViewD<'_, i64>, InvalidInput> {
        match self.values() {
            TensorValues::I64(values) => self.view(values),
            TensorValues::F32(_) => Err(self.unexpected_dtype(DType::Int64)),
        }
    }

    fn view<'a, T>(&self, values: &'a [T]) -> Result<ArrayViewD<'a, T>, InvalidInput> {
        if self.csr_indices().is_some() {
            let expected = "a dense tensor, got a sparse one";
            return Err(InvalidInput::new("shape", expected));
        }
        let shape = self.shape();
        ArrayViewD::from_shape(IxDyn(&shape), values).map_err(|_| {
            let expected = format!("a shape of {} elements, got {shape:?}", values.len());
            InvalidInput::new("shape", expected)
        })
    }

    fn unexpected_dtype(&self, expected: DType) -> InvalidInput {
        InvalidInput::new("dtype", format_args!("{expected}, got {}", self.dtype()))
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, array, aview1};

    use super::*;
    use crate::CsrIndices;

    #[test]
    fn ndarray_converts_to_a_tensor_in_row_major_order() {
        let array: Array2<i64> = array![[1, 2, 3], [4, 5, 6]];
        let tensor = TensorData::from(array.t());
        assert_eq!(tensor.shape(), [3, 2]);
        assert_eq!(tensor.as_i64(), Some(&[1, 4, 2, 5, 3, 6][..]));
        assert_eq!(tensor.view_i64().unwrap(), array.t().into_dyn());
        let tokens = TensorData::from(&aview1(&[7_u32, 8]));
        assert_eq!(tokens, TensorData::i64([7, 8]));
    }

    #[test]
    fn ndarray_view_of_the_wrong_dtype_or_layout_is_an_error() {
        let floats = TensorData::from(array![0.5_f32]);
        assert_eq!(floats.view_i64().unwrap_err().field(), "dtype");
        assert_eq!(floats.view_f32().unwrap(), array![0.5].into_dyn());
        let integers = TensorData::i64([1]);
        assert_eq!(integers.view_f32().unwrap_err().field(), "dtype");
        let indices = CsrIndices::new([0, 1], [0]);
        let sparse = TensorData::csr(vec![1.0], [1, 2], indices).unwrap();
        assert_eq!(sparse.view_f32().unwrap_err().field(), "shape");
        let json = r#"{"data": [1.0], "dtype": "float32", "shape": [2]}"#;
        let invalid: TensorData = serde_json::from_str(json).unwrap();
        assert_eq!(invalid.view_f32().unwrap_err().field(), "shape");
    }
}
