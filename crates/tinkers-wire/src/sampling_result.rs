//! Sampling results.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::numbers::{Number, Numbers};
use crate::response::read_json;
use crate::{DecodeError, OperationResult, TensorData, lenient, proto};

/// The reason why a sequence ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum StopReason {
    /// A stop token, a stop string, or the end-of-text token.
    Stop,
    /// The token limit was reached.
    Length,
    /// A reason that this version does not know, as sent by the server; in protobuf, its number.
    #[serde(untagged)]
    Other(String),
}

impl StopReason {
    /// Parses the name, ignoring case.
    fn parse(name: &str) -> Self {
        match name {
            name if name.eq_ignore_ascii_case("stop") => Self::Stop,
            name if name.eq_ignore_ascii_case("length") => Self::Length,
            other => Self::Other(other.to_owned()),
        }
    }
}

/// The result of one sampling request.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct SampleResponse {
    /// The sequences, one per requested sample, in order.
    pub sequences: Vec<SampledSequence>,
    /// The log-probabilities (natural logarithm) of the prompt tokens. `None` for tokens without one, such as the first.
    pub prompt_logprobs: Option<Vec<Option<f32>>>,
    /// The most likely tokens at each prompt position.
    pub topk_prompt_logprobs: Option<TopkLogprobs>,
    /// The number of prompt tokens found in the server's prefix cache.
    pub prompt_cache_hit_tokens: Option<u32>,
    /// The log-probabilities of the tokens in the request's `target_prompt_logprobs`, of the same shape.
    pub target_prompt_logprobs: Option<TensorData>,
    /// Alternative tokens sampled for each prompt token.
    pub prompt_alt_tokens: Option<PromptAltTokens>,
}

/// A sampled sequence.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct SampledSequence {
    /// The reason why the sequence ended.
    pub stop_reason: StopReason,
    /// The sampled tokens, without the prompt.
    pub tokens: Vec<u32>,
    /// The log-probabilities (natural logarithm, at temperature 1) of the sampled tokens.
    pub logprobs: Option<Vec<f32>>,
    /// The most likely tokens at each sampled position.
    pub topk_logprobs: Option<TopkLogprobs>,
    /// The id of the sequence, if the server sends it.
    pub sequence_id: Option<String>,
}

impl SampledSequence {
    /// Creates a sequence with only these fields set.
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

/// The `k` most likely tokens at each position, with their log-probabilities.
#[derive(Debug, Clone, PartialEq)]
pub struct TopkLogprobs {
    pub(crate) k: usize,
    pub(crate) ids: Vec<u32>,
    pub(crate) logprobs: Vec<f32>,
}

/// Alternative tokens for each prompt token except the first, sampled from the model's prediction at that position.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct PromptAltTokens {
    /// The token ids, of shape `[prompt length - 1, k]`.
    pub tokens: TensorData,
    /// The log-probabilities of the tokens, of the same shape.
    pub logprobs: TensorData,
}

impl TopkLogprobs {
    /// The value of an unused cell.
    pub(crate) const EMPTY: (u32, f32) = (0, -99999.0);

    /// Creates a matrix from one row of (token, log-probability) per position, most likely first. Short rows are padded with unused
    /// cells.
    pub fn from_rows(rows: &[Vec<(u32, f32)>]) -> Self {
        let k = rows.iter().map(Vec::len).max().unwrap_or(0);
        let mut out = Self {
            k,
            ids: Vec::new(),
            logprobs: Vec::new(),
        };
        for row in rows {
            for cell in 0..k {
                let (id, logprob) = row.get(cell).copied().unwrap_or(Self::EMPTY);
                out.ids.push(id);
                out.logprobs.push(logprob);
            }
        }
        out
    }

    /// Returns the number of positions.
    pub fn len(&self) -> usize {
        self.ids.len().checked_div(self.k).unwrap_or(0)
    }

    /// Returns whether there are no positions.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Returns the (token, log-probability) pairs at `position`, most likely first; none where there was no prediction.
    pub fn row(&self, position: usize) -> impl Iterator<Item = (u32, f32)> + '_ {
        let range = position * self.k..(position + 1) * self.k;
        let cells = self.ids[range.clone()]
            .iter()
            .copied()
            .zip(self.logprobs[range].iter().copied());
        cells.filter(|cell| *cell != Self::EMPTY)
    }
}

#[derive(Serialize)]
struct JsonSequence<'a> {
    stop_reason: &'a StopReason,
    tokens: &'a [u32],
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<&'a [f32]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence_id: Option<&'a str>,
}

/// The (token, log-probability) pairs of one position, most likely first.
type TopkRow = Vec<(u32, f32)>;

#[derive(Serialize)]
struct JsonResponse<'a> {
    sequences: Vec<JsonSequence<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_logprobs: Option<&'a [Option<f32>]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    topk_prompt_logprobs: Option<Vec<Option<TopkRow>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_cache_hit_tokens: Option<u32>,
    #[serde(rename = "type")]
    kind: &'static str,
}

/// A sequence in the JSON of any server.
#[derive(Deserialize)]
struct ReadSequence {
    #[serde(default)]
    stop_reason: Option<Value>,
    tokens: Numbers<true>,
    #[serde(default)]
    logprobs: Option<Numbers<true>>,
    #[serde(default, deserialize_with = "lenient::optional_id")]
    sequence_id: Option<String>,
}

impl ReadSequence {
    fn into_sequence(self) -> Result<SampledSequence, DecodeError> {
        let invalid_tokens =
            || DecodeError::new("cannot decode the tokens of a sequence: expected token ids");
        let stop_reason = match self.stop_reason.as_ref().and_then(Value::as_str) {
            Some(name) => StopReason::parse(name),
            None => StopReason::Other("unknown".to_owned()),
        };
        Ok(SampledSequence {
            stop_reason,
            tokens: self.tokens.into_unsigned().ok_or_else(invalid_tokens)?,
            logprobs: self.logprobs.map(|all| all.into_f32().to_vec()),
            topk_logprobs: None,
            sequence_id: self.sequence_id,
        })
    }
}

type ReadTopkRow = Vec<(u32, Number<true>)>;

/// A response in the JSON of any server.
#[derive(Deserialize)]
struct ReadResponse {
    sequences: Vec<ReadSequence>,
    #[serde(default)]
    prompt_logprobs: Option<Numbers<true>>,
    #[serde(default)]
    topk_prompt_logprobs: Option<Vec<Option<ReadTopkRow>>>,
    #[serde(default, deserialize_with = "lenient::optional_count")]
    prompt_cache_hit_tokens: Option<u32>,
}

impl SampleResponse {
    /// Encodes the response as JSON, for servers. `topk_logprobs`, `target_prompt_logprobs` and `prompt_alt_tokens` have no JSON form.
    pub fn to_json(&self) -> Bytes {
        let sequences = self.sequences.iter().map(|sequence| JsonSequence {
            stop_reason: &sequence.stop_reason,
            tokens: &sequence.tokens,
            logprobs: sequence.logprobs.as_deref(),
            sequence_id: sequence.sequence_id.as_deref(),
        });
        let topk = |topk: &TopkLogprobs| {
            let rows = (0..topk.len()).map(|i| topk.row(i).collect::<Vec<_>>());
            rows.map(|row| (!row.is_empty()).then_some(row)).collect()
        };
        crate::to_json(&JsonResponse {
            sequences: sequences.collect(),
            prompt_logprobs: self.prompt_logprobs.as_deref(),
            topk_prompt_logprobs: self.topk_prompt_logprobs.as_ref().map(topk),
            prompt_cache_hit_tokens: self.prompt_cache_hit_tokens,
            kind: "sample",
        })
    }

    /// Encodes the response as protobuf, for servers.
    pub fn to_protobuf(&self) -> Bytes {
        proto::sampling::encode(self)
    }
}

/// Pads the rows of a response to the longest one. Rejects a long row among many short ones, since padding would need far more memory
/// than the body.
fn checked_topk(rows: &[TopkRow]) -> Result<TopkLogprobs, DecodeError> {
    let longest = rows.iter().map(Vec::len).max().unwrap_or(0);
    let cells: usize = rows.iter().map(Vec::len).sum();
    let limit = (cells + rows.len()).saturating_mul(64);
    if longest.saturating_mul(rows.len()) > limit {
        return Err(DecodeError::new(format!(
            "cannot decode topk_prompt_logprobs: a row of {longest} entries among {} rows of {cells} entries in all",
            rows.len()
        )));
    }
    Ok(TopkLogprobs::from_rows(rows))
}

impl OperationResult for SampleResponse {
    const PROTOBUF: bool = true;

    fn from_json(body: &[u8]) -> Result<Self, DecodeError> {
        let read: ReadResponse = read_json(body).map_err(|error| error.quoting(body))?;
        let topk = read.topk_prompt_logprobs.map(|rows| {
            let rows = rows.into_iter().map(Option::unwrap_or_default);
            let cell = |(token, logprob): (u32, Number<true>)| (token, logprob.as_f64() as f32);
            let rows = rows.map(|row| row.into_iter().map(cell).collect());
            checked_topk(&rows.collect::<Vec<_>>())
        });
        let non_nan = |&x: &f32| (!x.is_nan()).then_some(x);
        let prompt_logprobs = read.prompt_logprobs.map(Numbers::into_f32);
        let sequences = read.sequences.into_iter().map(ReadSequence::into_sequence);
        Ok(Self {
            sequences: sequences.collect::<Result<_, _>>()?,
            prompt_logprobs: prompt_logprobs.map(|all| all.iter().map(non_nan).collect()),
            topk_prompt_logprobs: topk.transpose()?,
            prompt_cache_hit_tokens: read.prompt_cache_hit_tokens,
            target_prompt_logprobs: None,
            prompt_alt_tokens: None,
        })
    }

    fn from_protobuf(body: Bytes) -> Result<Self, DecodeError> {
        proto::sampling::decode(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_round_trips() {
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
    fn unused_topk_cells_are_skipped() {
        let topk = TopkLogprobs::from_rows(&[vec![], vec![(4, -0.1), (5, -2.0)], vec![(6, -0.2)]]);
        assert_eq!(topk.len(), 3);
        let rows: Vec<Vec<u32>> = (0..3)
            .map(|i| topk.row(i).map(|cell| cell.0).collect())
            .collect();
        assert_eq!(rows, [vec![], vec![4, 5], vec![6]]);
    }

    #[test]
    fn sequence_of_another_server_is_decoded() {
        let json = br#"{"sequences": [{"stop_reason": "stop", "tokens": [1], "logprobs": [null], "extra": 1}], "prompt_logprobs": null}"#;
        let response = SampleResponse::from_json(json).unwrap();
        assert_eq!(response.sequences[0].stop_reason, StopReason::Stop);
        assert!(response.sequences[0].logprobs.as_ref().unwrap()[0].is_nan());
    }

    #[test]
    fn numbers_and_stop_reasons_are_decoded_in_every_form() {
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
    fn result_without_its_fields_is_an_error() {
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
    fn unknown_stop_reason_is_kept() {
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
    fn long_topk_row_among_many_short_ones_is_rejected() {
        let read = |long: usize, short: usize| {
            let row = vec![(7_u32, -1.0_f32); long];
            let rows = std::iter::once(Some(row)).chain(std::iter::repeat_n(None, short));
            let rows: Vec<_> = rows.collect();
            let body = serde_json::json!({ "sequences": [], "topk_prompt_logprobs": rows });
            let read = SampleResponse::from_json(body.to_string().as_bytes());
            read.map(|response| response.topk_prompt_logprobs.map_or(0, |topk| topk.len()))
        };
        // Realistic sizes of a prompt and k.
        assert_eq!(read(20, 4000), Ok(4001));
        assert!(read(1000, 4000).is_err());
    }
}
