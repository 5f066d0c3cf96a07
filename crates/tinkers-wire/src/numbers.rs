//! JSON numbers whose type is said elsewhere: whole numbers stay whole, however large. Results are read leniently: a number may be a
//! text or a truth value.

use std::fmt;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Unexpected, Visitor};
use serde_json::Value;

use crate::{DType, TensorValues};

/// Returns a number from its JSON forms: a number, a text such as `"0.1"` or `"NaN"`, a truth value, or null, which is NaN.
pub(crate) fn number(value: &Value) -> Option<f64> {
    Some(Number::<true>::deserialize(value).ok()?.as_f64())
}

/// Numbers as they were written; null, which servers write for what is no number, among them. With `LENIENT` they may be texts
/// and truth values, too.
#[derive(Debug, PartialEq)]
pub(crate) enum Numbers<const LENIENT: bool = false> {
    /// All of them whole and within 64 bits.
    Whole(Vec<i64>),
    Mixed {
        values: Vec<f64>,
        /// Whether each of them is what was written.
        exact: bool,
    },
}

/// Floats count all whole numbers up to here.
const EXACT: i64 = 1 << 53;

/// The most elements that are set aside on the word of a sender.
const AHEAD: usize = 1 << 16;

impl<const LENIENT: bool> Numbers<LENIENT> {
    pub(crate) fn into_f32(self) -> Arc<[f32]> {
        match self {
            Self::Whole(values) => values.into_iter().map(|x| x as f32).collect(),
            Self::Mixed { values, .. } => values.into_iter().map(|x| x as f32).collect(),
        }
    }

    /// Those that can be token ids, shapes and the like; `None` when one is not within `0..=T::MAX`.
    pub(crate) fn into_unsigned<T: TryFrom<i64>>(self) -> Option<Vec<T>> {
        let whole = self.into_i64()?;
        whole.iter().map(|&x| T::try_from(x).ok()).collect()
    }

    /// `None` when one of them is no whole number of 64 bits.
    pub(crate) fn into_i64(self) -> Option<Arc<[i64]>> {
        match self {
            Self::Whole(values) => Some(values.into()),
            // What is written as 2.0 is whole, too.
            Self::Mixed { values, exact } if exact => values.into_iter().map(whole).collect(),
            Self::Mixed { .. } => None,
        }
    }

    /// The elements of a tensor that says that it is of `dtype`; what is not whole is a float all the same.
    pub(crate) fn into_values(self, dtype: Option<DType>) -> TensorValues {
        let is_whole = match (&self, dtype) {
            (Self::Whole(_), dtype) => dtype != Some(DType::Float32),
            (Self::Mixed { values, exact }, Some(DType::Int64)) => {
                *exact && values.iter().all(|&x| whole(x).is_some())
            }
            (Self::Mixed { .. }, _) => false,
        };
        let empty = || TensorValues::I64(Arc::default());
        if is_whole {
            return self.into_i64().map_or_else(empty, TensorValues::I64);
        }
        TensorValues::F32(self.into_f32())
    }

    pub(crate) fn push(&mut self, number: Number<LENIENT>) {
        match number {
            Number::Whole(number) => self.push_whole(number),
            Number::Float(number) => self.push_float(number),
        }
    }

    fn push_whole(&mut self, number: i64) {
        match self {
            Self::Whole(values) => values.push(number),
            Self::Mixed { values, exact } => {
                *exact &= (-EXACT..=EXACT).contains(&number);
                values.push(number as f64);
            }
        }
    }

    fn push_float(&mut self, number: f64) {
        if let Self::Whole(whole) = self {
            let exact = whole.iter().all(|x| (-EXACT..=EXACT).contains(x));
            let values = whole.iter().map(|&x| x as f64).collect();
            *self = Self::Mixed { values, exact };
        }
        if let Self::Mixed { values, .. } = self {
            values.push(number);
        }
    }
}

fn whole(x: f64) -> Option<i64> {
    (x.fract() == 0.0 && x.abs() <= EXACT as f64).then_some(x as i64)
}

impl<const LENIENT: bool> Default for Numbers<LENIENT> {
    fn default() -> Self {
        Self::Whole(Vec::new())
    }
}

impl<'de, const LENIENT: bool> Deserialize<'de> for Numbers<LENIENT> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List<const LENIENT: bool>;

        impl<'de, const LENIENT: bool> Visitor<'de> for List<LENIENT> {
            type Value = Numbers<LENIENT>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of numbers")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let room = list.size_hint().unwrap_or(0).min(AHEAD);
                let mut numbers = Numbers::Whole(Vec::with_capacity(room));
                while let Some(number) = list.next_element()? {
                    numbers.push(number);
                }
                Ok(numbers)
            }
        }
        deserializer.deserialize_seq(List)
    }
}

/// One of them.
#[derive(Debug)]
pub(crate) enum Number<const LENIENT: bool = false> {
    Whole(i64),
    Float(f64),
}

impl<const LENIENT: bool> Number<LENIENT> {
    pub(crate) const fn as_f64(&self) -> f64 {
        match self {
            Self::Whole(number) => *number as f64,
            Self::Float(number) => *number,
        }
    }
}

impl<const LENIENT: bool> From<u64> for Number<LENIENT> {
    /// Above 64 bits with a sign it is no int64, and a float as good as any.
    fn from(number: u64) -> Self {
        i64::try_from(number).map_or(Self::Float(number as f64), Self::Whole)
    }
}

impl<'de, const LENIENT: bool> Deserialize<'de> for Number<LENIENT> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct One<const LENIENT: bool>;

        impl<const LENIENT: bool> Visitor<'_> for One<LENIENT> {
            type Value = Number<LENIENT>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number")
            }

            fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
                Ok(Number::Whole(number))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
                Ok(number.into())
            }

            fn visit_f64<E>(self, number: f64) -> Result<Self::Value, E> {
                Ok(Number::Float(number))
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Number::Float(f64::NAN))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                let wrong = || E::invalid_type(Unexpected::Str(text), &self);
                if !LENIENT {
                    return Err(wrong());
                }
                let text = text.trim();
                let whole = text.parse().map(Number::Whole);
                whole.or_else(|_| text.parse().map(Number::Float).map_err(|_| wrong()))
            }

            fn visit_bool<E: Error>(self, truth: bool) -> Result<Self::Value, E> {
                if !LENIENT {
                    return Err(E::invalid_type(Unexpected::Bool(truth), &self));
                }
                Ok(Number::Whole(i64::from(truth)))
            }

            fn visit_none<E>(self) -> Result<Self::Value, E> {
                Ok(Number::Float(f64::NAN))
            }
        }
        deserializer.deserialize_any(One)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Numbers {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn whole_numbers_stay_as_they_are_or_are_refused() {
        let large = "[9007199254740993, -9223372036854775808, 9223372036854775807]";
        assert_eq!(
            read(large).into_i64().as_deref(),
            Some(&[9_007_199_254_740_993, i64::MIN, i64::MAX][..])
        );
        assert_eq!(read("[1, 2.0]").into_i64().as_deref(), Some(&[1, 2][..]));
        for none in [
            "[1.5]",
            "[null]",
            "[9007199254740993, 1.0]",
            "[1.0, 9007199254740993]",
            "[1.0, -9223372036854775808]",
            "[18446744073709551615]",
            "[1e300]",
        ] {
            assert_eq!(read(none).into_i64(), None, "{none}");
        }
    }

    #[test]
    fn floats_are_read_from_all_that_is_a_number() {
        let values = read("[1, 0.5, null, -3]").into_f32();
        assert_eq!((values[0], values[1], values[3]), (1.0, 0.5, -3.0));
        assert!(values[2].is_nan());
        for bad in ["[\"1\"]", "[[1]]", "[true]", "{}", "1"] {
            assert!(serde_json::from_str::<Numbers>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn results_may_have_numbers_as_texts_and_truth_values() {
        let read = |json: &str| serde_json::from_str::<Numbers<true>>(json);
        let values = read(r#"["0.5", " 2 ", "NaN", "-Infinity", true, null]"#).unwrap();
        let values = values.into_f32();
        assert_eq!(values[..2], [0.5, 2.0]);
        assert!(values[2].is_nan() && values[5].is_nan());
        assert_eq!(values[3..5], [f32::NEG_INFINITY, 1.0]);
        let whole = read(r#"["9007199254740993", false]"#).unwrap().into_i64();
        assert_eq!(whole.as_deref(), Some(&[9_007_199_254_740_993, 0][..]));
        for bad in [r#"["one"]"#, "[[1]]", "[{}]", r#"[""]"#] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
