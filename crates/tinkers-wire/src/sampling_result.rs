//! Sampling results.

use bytes::Bytes;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::names::{display_name, serde_name};
use crate::numbers::{Float32, Floats, Number, Numbers};
use crate::response::read_json;
use crate::{DecodeError, OperationResult, TensorData, lenient, lenient_tensor, proto};

/// The reason why a sampled sequence ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StopReason {
    /// `stop`: the sequence ended at a stop token, a stop string, or the end-of-text token.
    Stop,
    /// `length`: the sequence reached the maximum number of tokens.
    Length,
    /// A reason that this version does not know, as the server sent it. For a protobuf response this is the number of the reason.
    Other(String),
}

impl StopReason {
    /// Returns the name used in JSON, such as `stop`.
    pub fn name(&self) -> &str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Other(name) => name,
        }
    }
}

impl From<&str> for StopReason {
    /// Parses the name of a stop reason, ignoring case. Unknown names become [`StopReason::Other`].
    fn from(name: &str) -> Self {
        match name {
            name if name.eq_ignore_ascii_case("stop") => Self::Stop,
            name if name.eq_ignore_ascii_case("length") => Self::Length,
            other => Self::Other(other.to_owned()),
        }
    }
}

display_name!(StopReason);
serde_name!(StopReason);

/// The result of one sampling request.
///
/// The serde traits encode every field. NaN and the infinities are the strings `"NaN"`, `"Infinity"` and `"-Infinity"` in JSON. The serde
/// traits also decode the JSON of servers.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct SampleResponse {
    /// The sampled sequences, one per requested sample.
    pub sequences: Vec<SampledSequence>,
    /// The log-probabilities (natural logarithm) of the prompt tokens, if requested. The entry is `None` for tokens without a
    /// log-probability, such as the first token.
    pub prompt_logprobs: Option<Vec<Option<f32>>>,
    /// The most likely tokens at each prompt position, if requested.
    pub topk_prompt_logprobs: Option<TopkLogprobs>,
    /// The number of prompt tokens found in the server's prefix cache.
    pub prompt_cache_hit_tokens: Option<u32>,
    /// The log-probabilities of the tokens that the request named in its field `target_prompt_logprobs`, in the shape of that field.
    pub target_prompt_logprobs: Option<TensorData>,
    /// The alternative tokens that were sampled for each prompt token, if requested.
    pub prompt_alt_tokens: Option<PromptAltTokens>,
}

/// One sampled sequence of a [`SampleResponse`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct SampledSequence {
    /// The reason why the sequence ended.
    pub stop_reason: StopReason,
    /// The sampled tokens, without the prompt. If a stop token or stop text ended the sequence, its tokens are included.
    pub tokens: Vec<u32>,
    /// The log-probabilities (natural logarithm, at temperature 1) of the sampled tokens, one for each
    /// token, if the server sends them.
    pub logprobs: Option<Vec<f32>>,
    /// The most likely tokens at each sampled position, if requested.
    pub topk_logprobs: Option<TopkLogprobs>,
    /// The id of the sequence, if the server sends it.
    pub sequence_id: Option<String>,
}

impl SampledSequence {
    /// Creates a sequence without log-probabilities and without an id.
    pub fn new(stop_reason: StopReason, tokens: Vec<u32>) -> Self {
        Self {
            stop_reason,
            tokens,
            logprobs: None,
            topk_logprobs: None,
            sequence_id: None,
        }
    }
}

/// The most likely tokens at each position of a prompt or a sampled sequence, with their log-probabilities.
///
/// In JSON the type is a list with one entry per position. An entry is a list of `[token, logprob]` pairs, or null for a position without
/// pairs.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TopkLogprobs {
    /// For each position, the index in `ids` and `logprobs` at which the tokens of this position end. The tokens of the next position begin at
    /// this index.
    ends: Vec<usize>,
    ids: Vec<u32>,
    logprobs: Vec<f32>,
}

/// Alternative tokens for each prompt token except the first. They are sampled from the model's prediction for the position of the prompt
/// token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PromptAltTokens {
    /// The ids of the alternative tokens, of shape `[prompt length - 1, k]`.
    pub tokens: TensorData,
    /// The log-probabilities of the alternative tokens, of shape `[prompt length - 1, k]`.
    pub logprobs: TensorData,
}

impl TopkLogprobs {
    /// The (token, log-probability) pair that pads short rows in the matrix by which protobuf encodes [`TopkLogprobs`].
    pub(crate) const EMPTY: (u32, f32) = (0, -99999.0);

    /// Creates the most likely tokens from one row of (token, log-probability) pairs per position, the most likely token first. Rows may
    /// differ in length.
    pub fn from_rows(rows: &[Vec<(u32, f32)>]) -> Self {
        rows.iter().map(|row| row.iter().copied()).collect()
    }

    /// Returns the number of token positions, including positions for which the server returned no tokens.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Returns whether there are no positions.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Returns the (token, log-probability) pairs at `position`, the most likely token first. The iterator is empty if the model made no
    /// prediction at this position, such as at the first position of a prompt.
    ///
    /// # Panics
    /// Panics if `position` is not below [`TopkLogprobs::len`].
    pub fn row(&self, position: usize) -> impl Iterator<Item = (u32, f32)> + '_ {
        let before = position.checked_sub(1);
        let range = before.map_or(0, |before| self.ends[before])..self.ends[position];
        let logprobs = self.logprobs[range.clone()].iter().copied();
        self.ids[range].iter().copied().zip(logprobs)
    }

    /// Returns an iterator over the positions. Each item iterates over the (token, log-probability) pairs at the position, as
    /// [`TopkLogprobs::row`] does.
    pub(crate) fn rows(&self) -> impl Iterator<Item: Iterator<Item = (u32, f32)>> {
        (0..self.len()).map(|position| self.row(position))
    }
}

impl<R: IntoIterator<Item = (u32, f32)>> FromIterator<R> for TopkLogprobs {
    /// Collects one row of (token, log-probability) pairs per position, the most likely token first.
    fn from_iter<I: IntoIterator<Item = R>>(rows: I) -> Self {
        let mut all = Self::default();
        for row in rows {
            for (id, logprob) in row {
                all.ids.push(id);
                all.logprobs.push(logprob);
            }
            all.ends.push(all.ids.len());
        }
        all
    }
}

impl Serialize for TopkLogprobs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        TopkJson::<true>(self).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for TopkLogprobs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let rows = Vec::<Option<Vec<(u32, Number<true>)>>>::deserialize(deserializer)?;
        let cell = |(id, logprob): (u32, Number<true>)| (id, logprob.as_f64() as f32);
        let rows = rows.into_iter().map(Option::unwrap_or_default);
        Ok(rows.map(|row| row.into_iter().map(cell)).collect())
    }
}

/// The JSON form of [`TopkLogprobs`]. If `LOSSLESS`, NaN and the infinities are strings; otherwise they are null.
struct TopkJson<'a, const LOSSLESS: bool>(&'a TopkLogprobs);

impl<const LOSSLESS: bool> Serialize for TopkJson<'_, LOSSLESS> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.rows().map(|row| {
            let cell = |(id, logprob)| (id, Float32::<LOSSLESS>(logprob));
            let row: Vec<_> = row.map(cell).collect();
            (!row.is_empty()).then_some(row)
        }))
    }
}

/// The JSON form of a [`SampledSequence`]. If `LOSSLESS`, every field that is set is written, and NaN and the infinities are strings.
/// Otherwise it is the JSON that servers send, with null for NaN and the infinities.
#[derive(Serialize)]
struct JsonSequence<'a, const LOSSLESS: bool> {
    stop_reason: &'a StopReason,
    tokens: &'a [u32],
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<Floats<'a, LOSSLESS>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    topk_logprobs: Option<TopkJson<'a, LOSSLESS>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence_id: Option<&'a str>,
}

impl<'a, const LOSSLESS: bool> JsonSequence<'a, LOSSLESS> {
    fn of(sequence: &'a SampledSequence) -> Self {
        let topk = sequence.topk_logprobs.as_ref().filter(|_| LOSSLESS);
        Self {
            stop_reason: &sequence.stop_reason,
            tokens: &sequence.tokens,
            logprobs: sequence.logprobs.as_deref().map(Floats),
            topk_logprobs: topk.map(TopkJson),
            sequence_id: sequence.sequence_id.as_deref(),
        }
    }
}

impl Serialize for SampledSequence {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        JsonSequence::<true>::of(self).serialize(serializer)
    }
}

/// The JSON form of a [`SampleResponse`]. If `LOSSLESS`, every field that is set is written, and NaN and the infinities are strings.
/// Otherwise it is the JSON that servers send, with null for NaN and the infinities.
#[derive(Serialize)]
struct JsonResponse<'a, const LOSSLESS: bool> {
    sequences: Vec<JsonSequence<'a, LOSSLESS>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_logprobs: Option<Vec<Option<Float32<LOSSLESS>>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    topk_prompt_logprobs: Option<TopkJson<'a, LOSSLESS>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_cache_hit_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_prompt_logprobs: Option<&'a TensorData>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_alt_tokens: Option<&'a PromptAltTokens>,
    #[serde(rename = "type")]
    kind: &'static str,
}

impl<'a, const LOSSLESS: bool> JsonResponse<'a, LOSSLESS> {
    fn of(response: &'a SampleResponse) -> Self {
        let prompt_logprobs = response.prompt_logprobs.as_ref();
        let floats = |all: &Vec<Option<f32>>| all.iter().map(|x| x.map(Float32)).collect();
        Self {
            sequences: response.sequences.iter().map(JsonSequence::of).collect(),
            prompt_logprobs: prompt_logprobs.map(floats),
            topk_prompt_logprobs: response.topk_prompt_logprobs.as_ref().map(TopkJson),
            prompt_cache_hit_tokens: response.prompt_cache_hit_tokens,
            target_prompt_logprobs: response
                .target_prompt_logprobs
                .as_ref()
                .filter(|_| LOSSLESS),
            prompt_alt_tokens: response.prompt_alt_tokens.as_ref().filter(|_| LOSSLESS),
            kind: "sample",
        }
    }
}

impl Serialize for SampleResponse {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        JsonResponse::<true>::of(self).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SampledSequence {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// The JSON fields from which a [`SampledSequence`] is decoded. Missing fields and the different number formats of servers are
        /// accepted.
        #[derive(Deserialize)]
        struct Fields {
            #[serde(default)]
            stop_reason: Option<Value>,
            tokens: Numbers<true>,
            #[serde(default)]
            logprobs: Option<Numbers<true>>,
            #[serde(default, deserialize_with = "optional")]
            topk_logprobs: Option<TopkLogprobs>,
            #[serde(default, deserialize_with = "lenient::optional_id")]
            sequence_id: Option<String>,
        }

        let fields = Fields::deserialize(deserializer)?;
        let reason = fields.stop_reason.as_ref().and_then(Value::as_str);
        let tokens = fields.tokens.into_unsigned();
        Ok(Self {
            stop_reason: reason.unwrap_or("unknown").into(),
            tokens: tokens.ok_or_else(|| D::Error::custom("tokens: expected token ids"))?,
            logprobs: fields.logprobs.map(|all| all.into_f32().to_vec()),
            topk_logprobs: fields.topk_logprobs,
            sequence_id: fields.sequence_id,
        })
    }
}

impl<'de> Deserialize<'de> for SampleResponse {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// The JSON fields from which a [`SampleResponse`] is decoded. Missing fields and the different number formats of servers are
        /// accepted.
        #[derive(Deserialize)]
        struct Fields {
            sequences: Vec<SampledSequence>,
            #[serde(default)]
            prompt_logprobs: Option<Numbers<true>>,
            #[serde(default)]
            topk_prompt_logprobs: Option<TopkLogprobs>,
            #[serde(default, deserialize_with = "lenient::optional_count")]
            prompt_cache_hit_tokens: Option<u32>,
            #[serde(default, deserialize_with = "lenient_tensor::optional")]
            target_prompt_logprobs: Option<TensorData>,
            #[serde(default, deserialize_with = "optional")]
            prompt_alt_tokens: Option<PromptAltTokens>,
        }

        let fields = Fields::deserialize(deserializer)?;
        let non_nan = |&x: &f32| (!x.is_nan()).then_some(x);
        let prompt_logprobs = fields.prompt_logprobs.map(Numbers::into_f32);
        Ok(Self {
            sequences: fields.sequences,
            prompt_logprobs: prompt_logprobs.map(|all| all.iter().map(non_nan).collect()),
            topk_prompt_logprobs: fields.topk_prompt_logprobs,
            prompt_cache_hit_tokens: fields.prompt_cache_hit_tokens,
            target_prompt_logprobs: fields.target_prompt_logprobs,
            prompt_alt_tokens: fields.prompt_alt_tokens,
        })
    }
}

/// Deserialises a field whose JSON form is defined only by this crate. A field in another form becomes `None`, since servers may use the
/// same field name for something else.
fn optional<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    let value = Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(value).ok())
}

impl SampleResponse {
    /// Encodes the response as the JSON that a server sends. In contrast to the serde traits, this method writes NaN and the infinities as
    /// null. It leaves out `topk_logprobs`, `target_prompt_logprobs` and `prompt_alt_tokens`, since servers have no JSON form for these
    /// fields.
    pub fn to_json(&self) -> Bytes {
        crate::to_json(&JsonResponse::<false>::of(self))
    }

    /// Encodes the response as the protobuf message that a server sends.
    pub fn to_protobuf(&self) -> Bytes {
        proto::sampling::encode(self)
    }
}

impl OperationResult for SampleResponse {
    const PROTOBUF: bool = true;

    fn from_json(body: &[u8]) -> Result<Self, DecodeError> {
        read_json(body).map_err(|error| error.quoting(body))
    }

    fn from_protobuf(body: Bytes) -> Result<Self, DecodeError> {
        proto::sampling::decode(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sample_response_round_trips_through_server_json() {
        let mut response = SampleResponse::default();
        let mut sequence = SampledSequence::new(StopReason::Length, vec![7, 8]);
        sequence.logprobs = Some(vec![-0.5, -1.0]);
        response.sequences.push(sequence);
        response.prompt_logprobs = Some(vec![None, Some(-2.0)]);
        response.topk_prompt_logprobs = Some(TopkLogprobs::from_rows(&[
            vec![],
            vec![(4, -0.1), (5, -2.0)],
        ]));
        assert_eq!(
            SampleResponse::from_json(&response.to_json()).unwrap(),
            response
        );
    }

    #[test]
    fn topk_logprobs_rows_may_be_empty_or_differ_in_length() {
        let topk = TopkLogprobs::from_rows(&[vec![], vec![(4, -0.1), (5, -2.0)], vec![(6, -0.2)]]);
        assert_eq!(topk.len(), 3);
        let rows: Vec<Vec<u32>> = (0..3)
            .map(|i| topk.row(i).map(|cell| cell.0).collect())
            .collect();
        assert_eq!(rows, [vec![], vec![4, 5], vec![6]]);
    }

    #[test]
    fn null_logprob_of_a_sampled_token_is_decoded_as_nan() {
        let json = br#"{"sequences": [{"stop_reason": "stop", "tokens": [1], "logprobs": [null], "extra": 1}], "prompt_logprobs": null}"#;
        let response = SampleResponse::from_json(json).unwrap();
        assert_eq!(response.sequences[0].stop_reason, StopReason::Stop);
        assert!(response.sequences[0].logprobs.as_ref().unwrap()[0].is_nan());
    }

    #[test]
    fn sample_json_with_text_numbers_or_no_stop_reason_is_decoded() {
        let json = br#"{"sequences": [
            {"stop_reason": "LENGTH", "tokens": [1.0, "2"], "logprobs": [NaN, "-0.5"], "sequence_id": 7},
            {"stop_reason": null, "tokens": []}, {"tokens": [3], "logprobs": null}],
            "prompt_logprobs": [null, -1, NaN, -Infinity], "topk_prompt_logprobs": [null, [[4, -Infinity]]],
            "prompt_cache_hit_tokens": 2.0}"#;
        let response = SampleResponse::from_json(json).unwrap();
        let [first, second, third] = &response.sequences[..] else {
            panic!("three sequences: {response:?}")
        };
        assert_eq!(
            (&first.stop_reason, &first.tokens[..]),
            (&StopReason::Length, &[1, 2][..])
        );
        assert!(first.logprobs.as_ref().unwrap()[0].is_nan());
        assert_eq!(first.logprobs.as_ref().unwrap()[1], -0.5);
        assert_eq!(first.sequence_id.as_deref(), Some("7"));
        let unknown = StopReason::Other("unknown".to_owned());
        assert_eq!(
            (&second.stop_reason, &third.stop_reason),
            (&unknown, &unknown)
        );
        let low = Some(f32::NEG_INFINITY);
        assert_eq!(
            response.prompt_logprobs,
            Some(vec![None, Some(-1.0), None, low])
        );
        let topk = response.topk_prompt_logprobs.unwrap();
        assert_eq!(topk.row(1).collect::<Vec<_>>(), [(4, f32::NEG_INFINITY)]);
        assert_eq!(response.prompt_cache_hit_tokens, Some(2));
    }

    #[test]
    fn sample_response_without_required_fields_is_rejected() {
        for body in [
            "{}",
            r#"{"detail": "CUDA out of memory"}"#,
            r#"{"sequences": null}"#,
            r#"{"sequences": [{"stop_reason": "stop"}]}"#,
            r#"{"sequences": [{"tokens": [-1], "stop_reason": "stop"}]}"#,
        ] {
            assert!(
                SampleResponse::from_json(body.as_bytes()).is_err(),
                "{body}"
            );
        }
        assert!(SampleResponse::from_protobuf(Bytes::new()).is_err());
    }

    #[test]
    fn unknown_stop_reason_round_trips_through_json() {
        let json = br#"{"sequences": [{"stop_reason": "cancelled", "tokens": [1]}]}"#;
        let response = SampleResponse::from_json(json).unwrap();
        let kept = StopReason::Other("cancelled".to_owned());
        assert_eq!(response.sequences[0].stop_reason, kept);
        assert_eq!(
            SampleResponse::from_json(&response.to_json()).unwrap(),
            response
        );
    }

    #[test]
    fn topk_logprobs_rows_of_different_length_are_not_padded() {
        let rows = std::iter::once(vec![(7_u32, -1.0_f32); 1000]);
        let rows: Vec<_> = rows.chain(vec![Vec::new(); 4000]).collect();
        let body = serde_json::json!({ "sequences": [], "topk_prompt_logprobs": rows });
        let read = SampleResponse::from_json(body.to_string().as_bytes()).unwrap();
        let topk = read.topk_prompt_logprobs.unwrap();
        assert_eq!((topk.len(), topk.ids.len()), (4001, 1000));
        assert_eq!((topk.row(0).count(), topk.row(4000).count()), (1000, 0));
    }

    #[test]
    fn server_json_of_a_sample_omits_fields_that_only_protobuf_has() {
        let mut sequence = SampledSequence::new(StopReason::Stop, vec![7]);
        sequence.logprobs = Some(vec![f32::NEG_INFINITY]);
        sequence.topk_logprobs = Some(TopkLogprobs::from_rows(&[vec![(7, -0.5)]]));
        let mut response = SampleResponse::default();
        response.sequences.push(sequence);
        response.target_prompt_logprobs = Some(TensorData::f32([-1.0]));
        let json = String::from_utf8(response.to_json().to_vec()).unwrap();
        let expected = r#"{"sequences":[{"stop_reason":"stop","tokens":[7],"logprobs":[null]}],"type":"sample"}"#;
        assert_eq!(json, expected);
        let stored = serde_json::to_string(&response).unwrap();
        assert_eq!(
            serde_json::from_str::<SampleResponse>(&stored).unwrap(),
            response
        );
    }

    #[test]
    fn sample_fields_in_an_unknown_json_form_are_ignored() {
        let json = br#"{"sequences": [{"stop_reason": "stop", "tokens": [], "topk_logprobs": {"7": -0.5}}],
            "target_prompt_logprobs": [[-1.0]], "prompt_alt_tokens": [[3]]}"#;
        let response = SampleResponse::from_json(json).unwrap();
        assert_eq!(response.sequences[0].topk_logprobs, None);
        assert_eq!(response.target_prompt_logprobs, None);
        assert_eq!(response.prompt_alt_tokens, None);
    }
}
