//! JSON numbers whose dtype is given elsewhere. Integers of up to 64 bits are decoded exactly. JSON has no literal for NaN and the
//! infinities, so these are the strings `"NaN"`, `"Infinity"` and `"-Infinity"`.

use std::fmt;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Unexpected, Visitor};
use serde::ser::{Serialize, Serializer};
use serde_json::Value;

/// Converts a JSON value to a number. Accepts numbers, strings such as `"0.1"` or `"NaN"`, booleans, and null (as NaN). Returns `None` for other
/// values.
pub(crate) fn number(value: &Value) -> Option<f64> {
    Some(Number::<true>::deserialize(value).ok()?.as_f64())
}

/// A decoded list of JSON numbers, in which null means NaN. If `LENIENT`, booleans and strings that contain a number are accepted as well,
/// since some servers send such elements in results.
#[derive(Debug, PartialEq)]
pub(crate) enum Numbers<const LENIENT: bool = false> {
    /// All numbers of the list are integers that fit into `i64`.
    Integers(Vec<i64>),
    /// At least one number of the list is not an integer that fits into `i64`: it is a float, or an integer beyond the range of `i64`.
    Mixed {
        values: Vec<f64>,
        /// Whether every number of the list is equal to its `f64` in `values`. False if an integer needs more than the 53 bits of an `f64`.
        exact: bool,
    },
}

/// The largest integer up to which `f64` represents every integer exactly.
const MAX_EXACT: i64 = 1 << 53;

/// The maximum number of list elements for which memory is reserved before the elements are read. The limit is needed because the sender of the
/// data chooses the announced number of elements.
const MAX_RESERVED: usize = 1 << 16;

impl<const LENIENT: bool> Numbers<LENIENT> {
    pub(crate) fn into_f32(self) -> Arc<[f32]> {
        match self {
            Self::Integers(values) => values.into_iter().map(|x| x as f32).collect(),
            Self::Mixed { values, .. } => values.into_iter().map(|x| x as f32).collect(),
        }
    }

    /// Converts the list of numbers to an unsigned integer type. Returns `None` if a number does not fit.
    pub(crate) fn into_unsigned<T: TryFrom<i64>>(self) -> Option<Vec<T>> {
        let integers = self.into_i64()?;
        integers.iter().map(|&x| T::try_from(x).ok()).collect()
    }

    /// Converts the list of numbers to `i64`. Returns `None` if a number is not an integer, or does not fit.
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

/// Converts a float to an integer. Returns `None` if the float has a fraction, or if its magnitude exceeds 2^53, since such a float may be a
/// rounded integer.
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

/// Returns the name of NaN or an infinity in JSON, such as `"NaN"`. Returns `None` for a finite number.
pub(crate) const fn non_finite_name(number: f64) -> Option<&'static str> {
    if number.is_nan() {
        Some("NaN")
    } else if number.is_finite() {
        None
    } else if number > 0.0 {
        Some("Infinity")
    } else {
        Some("-Infinity")
    }
}

/// Returns the NaN or infinity that has this name in JSON, such as `"NaN"`. The inverse of [`non_finite_name`].
fn non_finite_number(name: &str) -> Option<f64> {
    let all = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
    all.into_iter()
        .find(|number| non_finite_name(*number) == Some(name))
}

/// A wrapper that serialises an `f64`. If `LOSSLESS`, NaN and the infinities become strings in text formats such as JSON. Otherwise they become
/// null, as in the JSON of Python servers.
pub(crate) struct Float64<const LOSSLESS: bool>(pub(crate) f64);

impl<const LOSSLESS: bool> Serialize for Float64<LOSSLESS> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match non_finite_name(self.0) {
            Some(name) if LOSSLESS && serializer.is_human_readable() => {
                serializer.serialize_str(name)
            }
            _ => serializer.serialize_f64(self.0),
        }
    }
}

/// A wrapper that serialises an `f32`. If `LOSSLESS`, NaN and the infinities become strings in text formats such as JSON; otherwise they become
/// null.
pub(crate) struct Float32<const LOSSLESS: bool>(pub(crate) f32);

/// The only positive `f32` that does not survive its shortest decimal form, `7.038531e-26`: JSON parsers parse it as an `f64` halfway
/// between two `f32`, and then round it to the wrong one of the two.
const ROUNDED_TWICE: f32 = f32::from_bits(0x15ae_43fd);

impl<const LOSSLESS: bool> Serialize for Float32<LOSSLESS> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_finite() && self.0.abs() != ROUNDED_TWICE {
            return serializer.serialize_f32(self.0);
        }
        Float64::<LOSSLESS>(self.0.into()).serialize(serializer)
    }
}

/// A wrapper that serialises a list of `f32`. If `LOSSLESS`, NaN and the infinities become strings in text formats such as JSON; otherwise they
/// become null.
pub(crate) struct Floats<'a, const LOSSLESS: bool>(pub(crate) &'a [f32]);

impl<const LOSSLESS: bool> Serialize for Floats<'_, LOSSLESS> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|&x| Float32::<LOSSLESS>(x)))
    }
}

/// One decoded JSON number, an element of [`Numbers`].
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
    /// Converts an unsigned integer to a number. Values above `i64::MAX` become floats.
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
                    let number = non_finite_number(text).ok_or_else(invalid)?;
                    return Ok(Number::Float(number));
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
    fn integers_that_a_float_cannot_represent_are_rejected() {
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
    fn integers_and_null_are_decoded_as_floats() {
        let values = read("[1, 0.5, null, -3]").into_f32();
        assert_eq!((values[0], values[1], values[3]), (1.0, 0.5, -3.0));
        assert!(values[2].is_nan());
        for bad in [
            "[\"1\"]",
            "[\"nan\"]",
            "[\"inf\"]",
            "[[1]]",
            "[true]",
            "{}",
            "1",
        ] {
            assert!(serde_json::from_str::<Numbers>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn nan_and_infinite_floats_are_strings_or_null_in_json() {
        let floats = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.5];
        let json = serde_json::to_string(&Floats::<true>(&floats)).unwrap();
        assert_eq!(json, r#"["NaN","Infinity","-Infinity",0.5]"#);
        let decoded = read(&json).into_f32();
        assert!(decoded[0].is_nan());
        assert_eq!(decoded[1..], floats[1..]);
        let json = serde_json::to_string(&Floats::<false>(&floats)).unwrap();
        assert_eq!(json, "[null,null,null,0.5]");
    }

    #[test]
    fn float_that_json_parsers_round_twice_is_encoded_exactly() {
        let floats = [ROUNDED_TWICE, -ROUNDED_TWICE];
        let shortest = serde_json::to_string(&floats).unwrap();
        assert_ne!(read(&shortest).into_f32()[..], floats);
        let json = serde_json::to_string(&Floats::<true>(&floats)).unwrap();
        assert_eq!(read(&json).into_f32()[..], floats);
    }

    #[test]
    fn lenient_number_list_accepts_strings_and_booleans() {
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
