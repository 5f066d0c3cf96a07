//! JSON numbers whose dtype is given elsewhere. Integers of up to 64 bits are kept exactly. In results, numbers may also be strings or
//! booleans.

use std::fmt;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Unexpected, Visitor};
use serde_json::Value;

/// Returns the number in a JSON number, string (such as `"0.1"` or `"NaN"`), boolean, or null, which is NaN.
pub(crate) fn number(value: &Value) -> Option<f64> {
    Some(Number::<true>::deserialize(value).ok()?.as_f64())
}

/// A list of JSON numbers. Null is NaN. If `LENIENT`, the elements may also be strings and booleans.
#[derive(Debug, PartialEq)]
pub(crate) enum Numbers<const LENIENT: bool = false> {
    /// All numbers are integers of at most 64 bits.
    Integers(Vec<i64>),
    Mixed {
        values: Vec<f64>,
        /// Whether every number is represented exactly.
        exact: bool,
    },
}

/// The bound up to which `f64` represents every integer exactly.
const MAX_EXACT: i64 = 1 << 53;

/// The maximum capacity reserved on a size hint of the sender.
const MAX_RESERVED: usize = 1 << 16;

impl<const LENIENT: bool> Numbers<LENIENT> {
    pub(crate) fn into_f32(self) -> Arc<[f32]> {
        match self {
            Self::Integers(values) => values.into_iter().map(|x| x as f32).collect(),
            Self::Mixed { values, .. } => values.into_iter().map(|x| x as f32).collect(),
        }
    }

    /// Converts to an unsigned type; `None` if a number does not fit.
    pub(crate) fn into_unsigned<T: TryFrom<i64>>(self) -> Option<Vec<T>> {
        let integers = self.into_i64()?;
        integers.iter().map(|&x| T::try_from(x).ok()).collect()
    }

    /// Converts to integers; `None` if a number is not an integer of at most 64 bits.
    pub(crate) fn into_i64(self) -> Option<Arc<[i64]>> {
        match self {
            Self::Integers(values) => Some(values.into()),
            // 2.0 is an integer too.
            Self::Mixed { values, exact } if exact => {
                values.into_iter().map(float_to_i64).collect()
            }
            Self::Mixed { .. } => None,
        }
    }

    pub(crate) fn push(&mut self, number: Number<LENIENT>) {
        match number {
            Number::Integer(number) => self.push_integer(number),
            Number::Float(number) => self.push_float(number),
        }
    }

    fn push_integer(&mut self, number: i64) {
        match self {
            Self::Integers(values) => values.push(number),
            Self::Mixed { values, exact } => {
                *exact &= (-MAX_EXACT..=MAX_EXACT).contains(&number);
                values.push(number as f64);
            }
        }
    }

    fn push_float(&mut self, number: f64) {
        if let Self::Integers(integers) = self {
            let exact = integers
                .iter()
                .all(|x| (-MAX_EXACT..=MAX_EXACT).contains(x));
            let values = integers.iter().map(|&x| x as f64).collect();
            *self = Self::Mixed { values, exact };
        }
        if let Self::Mixed { values, .. } = self {
            values.push(number);
        }
    }
}

/// Converts a float to an integer; `None` if it has a fraction or is too large to be exact.
pub(crate) fn float_to_i64(x: f64) -> Option<i64> {
    (x.fract() == 0.0 && x.abs() <= MAX_EXACT as f64).then_some(x as i64)
}

impl<const LENIENT: bool> Default for Numbers<LENIENT> {
    fn default() -> Self {
        Self::Integers(Vec::new())
    }
}

impl<'de, const LENIENT: bool> Deserialize<'de> for Numbers<LENIENT> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListVisitor<const LENIENT: bool>;

        impl<'de, const LENIENT: bool> Visitor<'de> for ListVisitor<LENIENT> {
            type Value = Numbers<LENIENT>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of numbers")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let room = list.size_hint().unwrap_or(0).min(MAX_RESERVED);
                let mut numbers = Numbers::Integers(Vec::with_capacity(room));
                while let Some(number) = list.next_element()? {
                    numbers.push(number);
                }
                Ok(numbers)
            }
        }
        deserializer.deserialize_seq(ListVisitor)
    }
}

/// A number of a [`Numbers`] list.
#[derive(Debug)]
pub(crate) enum Number<const LENIENT: bool = false> {
    Integer(i64),
    Float(f64),
}

impl<const LENIENT: bool> Number<LENIENT> {
    pub(crate) const fn as_f64(&self) -> f64 {
        match self {
            Self::Integer(number) => *number as f64,
            Self::Float(number) => *number,
        }
    }
}

impl<const LENIENT: bool> From<u64> for Number<LENIENT> {
    /// Numbers above `i64::MAX` become floats.
    fn from(number: u64) -> Self {
        i64::try_from(number).map_or(Self::Float(number as f64), Self::Integer)
    }
}

impl<'de, const LENIENT: bool> Deserialize<'de> for Number<LENIENT> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberVisitor<const LENIENT: bool>;

        impl<const LENIENT: bool> Visitor<'_> for NumberVisitor<LENIENT> {
            type Value = Number<LENIENT>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number")
            }

            fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
                Ok(Number::Integer(number))
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
                let invalid = || E::invalid_type(Unexpected::Str(text), &self);
                if !LENIENT {
                    return Err(invalid());
                }
                let text = text.trim();
                let integer = text.parse().map(Number::Integer);
                integer.or_else(|_| text.parse().map(Number::Float).map_err(|_| invalid()))
            }

            fn visit_bool<E: Error>(self, value: bool) -> Result<Self::Value, E> {
                if !LENIENT {
                    return Err(E::invalid_type(Unexpected::Bool(value), &self));
                }
                Ok(Number::Integer(i64::from(value)))
            }

            fn visit_none<E>(self) -> Result<Self::Value, E> {
                Ok(Number::Float(f64::NAN))
            }
        }
        deserializer.deserialize_any(NumberVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Numbers {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn integers_are_exact_or_rejected() {
        let large = "[9007199254740993, -9223372036854775808, 9223372036854775807]";
        assert_eq!(
            read(large).into_i64().as_deref(),
            Some(&[9_007_199_254_740_993, i64::MIN, i64::MAX][..])
        );
        assert_eq!(read("[1, 2.0]").into_i64().as_deref(), Some(&[1, 2][..]));
        for inexact in [
            "[1.5]",
            "[null]",
            "[9007199254740993, 1.0]",
            "[1.0, 9007199254740993]",
            "[1.0, -9223372036854775808]",
            "[18446744073709551615]",
            "[1e300]",
        ] {
            assert_eq!(read(inexact).into_i64(), None, "{inexact}");
        }
    }

    #[test]
    fn integers_and_null_are_read_as_floats() {
        let values = read("[1, 0.5, null, -3]").into_f32();
        assert_eq!((values[0], values[1], values[3]), (1.0, 0.5, -3.0));
        assert!(values[2].is_nan());
        for bad in ["[\"1\"]", "[[1]]", "[true]", "{}", "1"] {
            assert!(serde_json::from_str::<Numbers>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn lenient_numbers_may_be_strings_and_booleans() {
        let read = |json: &str| serde_json::from_str::<Numbers<true>>(json);
        let values = read(r#"["0.5", " 2 ", "NaN", "-Infinity", true, null]"#).unwrap();
        let values = values.into_f32();
        assert_eq!(values[..2], [0.5, 2.0]);
        assert!(values[2].is_nan() && values[5].is_nan());
        assert_eq!(values[3..5], [f32::NEG_INFINITY, 1.0]);
        let integers = read(r#"["9007199254740993", false]"#).unwrap().into_i64();
        assert_eq!(integers.as_deref(), Some(&[9_007_199_254_740_993, 0][..]));
        for bad in [r#"["one"]"#, "[[1]]", "[{}]", r#"[""]"#] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
