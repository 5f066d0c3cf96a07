//! A list of JSON numbers whose type is said elsewhere: whole numbers stay whole, however large.

use std::fmt;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};

/// Numbers as they were written; null, which servers write for what is no number, among them.
#[derive(Debug, PartialEq)]
pub(crate) enum Numbers {
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

impl Numbers {
    pub(crate) fn into_f32(self) -> Arc<[f32]> {
        match self {
            Self::Whole(values) => values.into_iter().map(|x| x as f32).collect(),
            Self::Mixed { values, .. } => values.into_iter().map(|x| x as f32).collect(),
        }
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

impl<'de> Deserialize<'de> for Numbers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;

        impl<'de> Visitor<'de> for List {
            type Value = Numbers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of numbers")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Numbers, A::Error> {
                let room = list.size_hint().unwrap_or(0).min(AHEAD);
                let mut numbers = Numbers::Whole(Vec::with_capacity(room));
                while let Some(number) = list.next_element()? {
                    match number {
                        Number::Whole(number) => numbers.push_whole(number),
                        Number::Float(number) => numbers.push_float(number),
                    }
                }
                Ok(numbers)
            }
        }
        deserializer.deserialize_seq(List)
    }
}

enum Number {
    Whole(i64),
    Float(f64),
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct One;

        impl Visitor<'_> for One {
            type Value = Number;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number")
            }

            fn visit_i64<E>(self, number: i64) -> Result<Number, E> {
                Ok(Number::Whole(number))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Number, E> {
                // Above 64 bits with a sign it is no int64, and a float as good as any.
                Ok(i64::try_from(number).map_or(Number::Float(number as f64), Number::Whole))
            }

            fn visit_f64<E>(self, number: f64) -> Result<Number, E> {
                Ok(Number::Float(number))
            }

            fn visit_unit<E>(self) -> Result<Number, E> {
                Ok(Number::Float(f64::NAN))
            }

            fn visit_none<E>(self) -> Result<Number, E> {
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
}
