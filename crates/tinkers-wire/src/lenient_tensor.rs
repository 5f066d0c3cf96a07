//! Tensors of results in the JSON of any server: other element types, numbers as texts, plain lists. Those of requests are read strictly.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::numbers::{Number, Numbers};
use crate::{CsrIndices, DType, LossFnOutput, TensorData};

/// Reads the outputs of a pass. A field that is no tensor is left out, with a line in the log.
pub(crate) fn outputs<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<LossFnOutput>, D::Error> {
    let outputs = Vec::<BTreeMap<String, Form>>::deserialize(deserializer)?;
    let mut left_out = BTreeSet::new();
    let mut read = |(name, form): (String, Form)| match form.tensor() {
        Some(tensor) => Some((name, tensor)),
        None => {
            left_out.insert(name);
            None
        }
    };
    let outputs = outputs.into_iter();
    let outputs = outputs.map(|output| output.into_iter().filter_map(&mut read).collect());
    let outputs = outputs.collect();
    if !left_out.is_empty() {
        tracing::debug!(?left_out, "left out loss outputs that are no tensors");
    }
    Ok(outputs)
}

/// One JSON value, without a list of values for the elements of a tensor.
enum Form {
    Number(Number<true>),
    Text(String),
    /// `None` when an element is no number.
    List(Option<Numbers<true>>),
    Map(Box<Fields>),
    Null,
}

/// The fields of a tensor.
#[derive(Default)]
struct Fields {
    data: Option<Numbers<true>>,
    dtype: Option<String>,
    shape: Option<Numbers<true>>,
    crow: Option<Numbers<true>>,
    col: Option<Numbers<true>>,
}

impl Form {
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
            one => {
                let mut numbers = Numbers::default();
                numbers.push(one.number()?);
                Some(dense(numbers))
            }
        }
    }
}

fn dense(numbers: Numbers<true>) -> TensorData {
    TensorData::from_parts(numbers.into_values(None), None, None)
}

impl Fields {
    fn tensor(self) -> Option<TensorData> {
        let dtype = self.dtype.map(|name| {
            let is_whole = ["int", "long", "bool"]
                .iter()
                .any(|part| name.contains(part));
            if is_whole {
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
        Some(TensorData::from_parts(
            self.data?.into_values(dtype),
            shape,
            csr,
        ))
    }
}

impl<'de> Deserialize<'de> for Form {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Form;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a tensor")
            }

            fn visit_bool<E>(self, truth: bool) -> Result<Form, E> {
                Ok(Form::Number(Number::Whole(i64::from(truth))))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Form, E> {
                Ok(Form::Number(Number::Whole(number)))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Form, E> {
                Ok(Form::Number(number.into()))
            }

            fn visit_f64<E>(self, number: f64) -> Result<Form, E> {
                Ok(Form::Number(Number::Float(number)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Form, E> {
                Ok(Form::Text(text.to_owned()))
            }

            fn visit_unit<E>(self) -> Result<Form, E> {
                Ok(Form::Null)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Form, A::Error> {
                let mut numbers = Some(Numbers::default());
                while let Some(element) = list.next_element::<Form>()? {
                    numbers = numbers.and_then(|mut numbers| {
                        numbers.push(element.number()?);
                        Some(numbers)
                    });
                }
                Ok(Form::List(numbers))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Form, A::Error> {
                let mut fields = Box::<Fields>::default();
                while let Some(name) = map.next_key::<String>()? {
                    let list = match name.as_str() {
                        "data" => &mut fields.data,
                        "shape" => &mut fields.shape,
                        "sparse_crow_indices" => &mut fields.crow,
                        "sparse_col_indices" => &mut fields.col,
                        "dtype" => {
                            if let Form::Text(name) = map.next_value()? {
                                fields.dtype = Some(name);
                            }
                            continue;
                        }
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                            continue;
                        }
                    };
                    *list = map.next_value::<Form>()?.list();
                }
                Ok(Form::Map(fields))
            }
        }
        deserializer.deserialize_any(Any)
    }
}
