//! Conversions of vectors, slices, arrays and iterators of numbers to tensors.

use crate::{TensorData, TensorValues};

/// A number type whose values convert to elements of [`TensorData`] without loss: `f32`, `i64`, `i32` and `u32`. Integers become int64.
///
/// `f64` does not implement this trait, since its values would be rounded to `f32`. The trait cannot be implemented outside of this crate.
pub trait TensorElement: sealed::Sealed + Copy {
    /// Converts a list of numbers of this type to the elements of a tensor.
    fn into_values(elements: Vec<Self>) -> TensorValues;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! tensor_element {
    ($($type:ty, $elements:ident => $values:expr;)*) => {$(
        impl sealed::Sealed for $type {}

        impl TensorElement for $type {
            fn into_values($elements: Vec<Self>) -> TensorValues {
                $values
            }
        }
    )*};
}
tensor_element! {
    f32, elements => TensorValues::F32(elements.into());
    i64, elements => TensorValues::I64(elements.into());
    i32, elements => TensorValues::I64(elements.into_iter().map(i64::from).collect());
    u32, elements => TensorValues::I64(elements.into_iter().map(i64::from).collect());
}

impl<T: TensorElement> From<Vec<T>> for TensorValues {
    fn from(elements: Vec<T>) -> Self {
        T::into_values(elements)
    }
}

impl<T: TensorElement> From<Vec<T>> for TensorData {
    /// Creates a 1-D tensor of these elements.
    fn from(elements: Vec<T>) -> Self {
        TensorValues::from(elements).into()
    }
}

impl<T: TensorElement> From<&Vec<T>> for TensorData {
    /// Creates a 1-D tensor of these elements.
    fn from(elements: &Vec<T>) -> Self {
        elements.as_slice().into()
    }
}

impl<T: TensorElement> From<&[T]> for TensorData {
    /// Creates a 1-D tensor of these elements.
    fn from(elements: &[T]) -> Self {
        elements.to_vec().into()
    }
}

impl<T: TensorElement, const N: usize> From<[T; N]> for TensorData {
    /// Creates a 1-D tensor of these elements.
    fn from(elements: [T; N]) -> Self {
        elements.to_vec().into()
    }
}

impl<T: TensorElement, const N: usize> From<&[T; N]> for TensorData {
    /// Creates a 1-D tensor of these elements.
    fn from(elements: &[T; N]) -> Self {
        elements.to_vec().into()
    }
}

impl<T: TensorElement> FromIterator<T> for TensorData {
    /// Creates a 1-D tensor of these elements.
    fn from_iter<I: IntoIterator<Item = T>>(elements: I) -> Self {
        Vec::from_iter(elements).into()
    }
}
