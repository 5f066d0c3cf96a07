//! Lenient decoding of result tensors in JSON: other dtypes, numbers in strings, and plain lists. Tensors of requests are decoded strictly.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::numbers::{Number, Numbers};
use crate::{CsrIndices, DType, TensorData, TensorValues};

/// Deserialises the outputs of the loss function, one map per datum. Outputs that are not tensors are skipped and logged.
pub(crate) fn outputs<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<BTreeMap<String, TensorData>>, D::Error> {
    let outputs = Vec::<BTreeMap<String, LenientValue>>::deserialize(deserializer)?;
    let mut skipped = BTreeSet::new();
    let mut read = |(name, value): (String, LenientValue)| match value.tensor() {
        Some(tensor) => Some((name, tensor)),
        None => {
            skipped.insert(name);
            None
        }
    };
    let outputs = outputs.into_iter();
    let outputs = outputs.map(|output| output.into_iter().filter_map(&mut read).collect());
    let outputs = outputs.collect();
    if !skipped.is_empty() {
        tracing::debug!(?skipped, "skipped loss outputs that are not tensors");
    }
    Ok(outputs)
}

/// Deserialises a tensor. A value that is not a tensor becomes `None`.
pub(crate) fn optional<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<TensorData>, D::Error> {
    Ok(LenientValue::deserialize(deserializer)?.tensor())
}

/// A JSON value that may be a tensor. Its lists are parsed directly into numbers, since a [`Value`] per tensor element would be expensive.
enum LenientValue {
    Number(Number<true>),
    Text(String),
    /// A list of numbers; `None` for a list in which an element is not a number.
    List(Option<Numbers<true>>),
    Map(Box<TensorFields>),
    Null,
}

/// The fields of a JSON object that may be a tensor.
#[derive(Default)]
struct TensorFields {
    data: Option<Numbers<true>>,
    dtype: Option<String>,
    shape: Option<Numbers<true>>,
    crow: Option<Numbers<true>>,
    col: Option<Numbers<true>>,
}

impl LenientValue {
    fn number(self) -> Option<Number<true>> {
        match self {
            Self::Number(number) => Some(number),
            Self::Text(text) => Number::deserialize(Value::String(text)).ok(),
            Self::Null => Some(Number::Float(f64::NAN)),
            Self::List(_) | Self::Map(_) => None,
        }
    }

    fn list(self) -> Option<Numbers<true>> {
        match self {
            Self::List(list) => list,
            _ => None,
        }
    }

    fn tensor(self) -> Option<TensorData> {
        match self {
            Self::Map(fields) => fields.tensor(),
            Self::List(numbers) => Some(dense(numbers?)),
            Self::Null => None,
            scalar => {
                let mut numbers = Numbers::default();
                numbers.push(scalar.number()?);
                Some(dense(numbers))
            }
        }
    }
}

fn dense(numbers: Numbers<true>) -> TensorData {
    TensorData::from_parts(TensorValues::from_numbers(numbers, None), None, None)
}

impl TensorFields {
    fn tensor(self) -> Option<TensorData> {
        let dtype = self.dtype.map(|name| {
            let is_integer = ["int", "long", "bool"]
                .iter()
                .any(|part| name.contains(part));
            if is_integer {
                DType::Int64
            } else {
                DType::Float32
            }
        });
        let csr = match (self.crow, self.col) {
            (Some(crow), Some(col)) => Some(CsrIndices {
                crow: crow.into_i64()?,
                col: col.into_i64()?,
            }),
            _ => None,
        };
        let shape = self.shape.and_then(Numbers::into_unsigned);
        let values = TensorValues::from_numbers(self.data?, dtype);
        Some(TensorData::from_parts(values, shape, csr))
    }
}

impl<'de> Deserialize<'de> for LenientValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyVisitor;

        impl<'de> Visitor<'de> for AnyVisitor {
            type Value = LenientValue;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a tensor")
            }

            fn visit_bool<E>(self, value: bool) -> Result<LenientValue, E> {
                Ok(LenientValue::Number(Number::Integer(i64::from(value))))
            }

            fn visit_i64<E>(self, number: i64) -> Result<LenientValue, E> {
                Ok(LenientValue::Number(Number::Integer(number)))
            }

            fn visit_u64<E>(self, number: u64) -> Result<LenientValue, E> {
                Ok(LenientValue::Number(number.into()))
            }

            fn visit_f64<E>(self, number: f64) -> Result<LenientValue, E> {
                Ok(LenientValue::Number(Number::Float(number)))
            }

            fn visit_str<E>(self, text: &str) -> Result<LenientValue, E> {
                Ok(LenientValue::Text(text.to_owned()))
            }

            fn visit_unit<E>(self) -> Result<LenientValue, E> {
                Ok(LenientValue::Null)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<LenientValue, A::Error> {
                let mut numbers = Some(Numbers::default());
                while let Some(element) = list.next_element::<LenientValue>()? {
                    numbers = numbers.and_then(|mut numbers| {
                        numbers.push(element.number()?);
                        Some(numbers)
                    });
                }
                Ok(LenientValue::List(numbers))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<LenientValue, A::Error> {
                let mut fields = Box::<TensorFields>::default();
                while let Some(name) = map.next_key::<String>()? {
                    let list = match name.as_str() {
                        "data" => &mut fields.data,
                        "shape" => &mut fields.shape,
                        "sparse_crow_indices" => &mut fields.crow,
                        "sparse_col_indices" => &mut fields.col,
                        "dtype" => {
                            if let LenientValue::Text(name) = map.next_value()? {
                                fields.dtype = Some(name);
                            }
                            continue;
                        }
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                            continue;
                        }
                    };
                    *list = map.next_value::<LenientValue>()?.list();
                }
                Ok(LenientValue::Map(fields))
            }
        }
        deserializer.deserialize_any(AnyVisitor)
    }
}
