//! What a sample gives.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::answer::read_json;
use crate::numbers::{Number, Numbers};
use crate::{DecodeError, OperationResult, TensorData, lenient, proto};

/// Why a sequence ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum StopReason {
    /// A stop token or text, or the end of text.
    Stop,
    /// The token limit.
    Length,
    /// A reason that this version does not know, as it was sent; from protobuf its number.
    #[serde(untagged)]
    Other(String),
}

impl StopReason {
    /// Reads the name in any letter case.
    fn read(name: &str) -> Self {
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
    /// One for each requested sample, in order.
    pub sequences: Vec<SampledSequence>,
    /// Log-probabilities of the prompt's tokens, natural logarithm; `None` where there is none, as for the first token.
    pub prompt_logprobs: Option<Vec<Option<f32>>>,
    /// The most likely tokens at each prompt position.
    pub topk_prompt_logprobs: Option<TopkLogprobs>,
    /// How many prompt tokens came from the server's prefix cache.
    pub prompt_cache_hit_tokens: Option<u32>,
    /// Log-probabilities of the asked tokens, in the shape of the question.
    pub target_prompt_logprobs: Option<TensorData>,
    /// Alternatives drawn for each prompt token.
    pub prompt_alt_tokens: Option<PromptAltTokens>,
}

/// One sampled sequence.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct SampledSequence {
    /// Why it ended.
    pub stop_reason: StopReason,
    /// The sampled tokens, without the prompt.
    pub tokens: Vec<u32>,
    /// Their log-probabilities, of the untempered model, natural logarithm.
    pub logprobs: Option<Vec<f32>>,
    /// The most likely tokens at each sampled position.
    pub topk_logprobs: Option<TopkLogprobs>,
    /// The server's id of the sequence, where it gives one.
    pub sequence_id: Option<String>,
}

impl SampledSequence {
    /// A sequence of `tokens` and nothing else.
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

/// The `k` most likely tokens at each of a number of positions.
#[derive(Debug, Clone, PartialEq)]
pub struct TopkLogprobs {
    pub(crate) k: usize,
    pub(crate) ids: Vec<u32>,
    pub(crate) logprobs: Vec<f32>,
}

/// Alternatives to each prompt token but the first, drawn from what the model predicts there.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct PromptAltTokens {
    /// Token ids `[prompt length - 1, k]`.
    pub tokens: TensorData,
    /// Their log-probabilities, of the same shape.
    pub logprobs: TensorData,
}

impl TopkLogprobs {
    /// What an unused cell holds.
    pub(crate) const EMPTY: (u32, f32) = (0, -99999.0);

    /// From rows of (token, log-probability), the most likely first; shorter rows are filled up with unused cells.
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

    /// How many positions.
    pub fn len(&self) -> usize {
        self.ids.len().checked_div(self.k).unwrap_or(0)
    }

    /// Whether there is no position.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// (token, log-probability) at `position`, the most likely first; nothing where there was no prediction.
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

/// (token, log-probability), the most likely first.
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

/// A sequence as any server writes it.
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
    fn sequence(self) -> Result<SampledSequence, DecodeError> {
        let no_tokens = || DecodeError::new("`tokens` of a sequence that are no token ids");
        let stop_reason = match self.stop_reason.as_ref().and_then(Value::as_str) {
            Some(name) => StopReason::read(name),
            None => StopReason::Other("unknown".to_owned()),
        };
        Ok(SampledSequence {
            stop_reason,
            tokens: self.tokens.into_unsigned().ok_or_else(no_tokens)?,
            logprobs: self.logprobs.map(|all| all.into_f32().to_vec()),
            topk_logprobs: None,
            sequence_id: self.sequence_id,
        })
    }
}

type ReadTopkRow = Vec<(u32, Number<true>)>;

/// A response as any server writes it.
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
    /// The JSON form, for servers. Top-k of samples, targets and alternatives exist in protobuf only.
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

    /// The protobuf form, for servers.
    pub fn to_protobuf(&self) -> Bytes {
        proto::sampling::encode(self)
    }
}

/// Rows of a foreign body, which are filled up to the longest one: a long row beside many short ones must not cost more memory than the
/// body could hold.
fn dense(rows: &[TopkRow]) -> Result<TopkLogprobs, DecodeError> {
    let longest = rows.iter().map(Vec::len).max().unwrap_or(0);
    let given: usize = rows.iter().map(Vec::len).sum();
    let most = (given + rows.len()).saturating_mul(64);
    if longest.saturating_mul(rows.len()) > most {
        return Err(DecodeError::new(format!(
            "a row of {longest} top-k entries among {} rows of {given} in all",
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
            dense(&rows.collect::<Vec<_>>())
        });
        let is_there = |&x: &f32| (!x.is_nan()).then_some(x);
        let prompt_logprobs = read.prompt_logprobs.map(Numbers::into_f32);
        let sequences = read.sequences.into_iter().map(ReadSequence::sequence);
        Ok(Self {
            sequences: sequences.collect::<Result<_, _>>()?,
            prompt_logprobs: prompt_logprobs.map(|all| all.iter().map(is_there).collect()),
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
    fn json_goes_there_and_back() {
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
    fn unused_cells_do_not_show() {
        let topk = TopkLogprobs::from_rows(&[vec![], vec![(4, -0.1), (5, -2.0)], vec![(6, -0.2)]]);
        assert_eq!(topk.len(), 3);
        let rows: Vec<Vec<u32>> = (0..3)
            .map(|i| topk.row(i).map(|cell| cell.0).collect())
            .collect();
        assert_eq!(rows, [vec![], vec![4, 5], vec![6]]);
    }

    #[test]
    fn a_sequence_of_an_open_server_is_read() {
        let json = br#"{"sequences": [{"stop_reason": "stop", "tokens": [1], "logprobs": [null], "extra": 1}], "prompt_logprobs": null}"#;
        let response = SampleResponse::from_json(json).unwrap();
        assert_eq!(response.sequences[0].stop_reason, StopReason::Stop);
        assert!(response.sequences[0].logprobs.as_ref().unwrap()[0].is_nan());
    }

    #[test]
    fn numbers_and_stop_reasons_are_read_in_all_their_forms() {
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
    fn a_result_without_its_fields_is_no_success() {
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
    fn a_stop_reason_of_a_newer_server_is_kept() {
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
    fn a_long_row_beside_many_short_ones_is_refused() {
        let read = |long: usize, short: usize| {
            let row = vec![(7_u32, -1.0_f32); long];
            let rows = std::iter::once(Some(row)).chain(std::iter::repeat_n(None, short));
            let rows: Vec<_> = rows.collect();
            let body = serde_json::json!({ "sequences": [], "topk_prompt_logprobs": rows });
            let read = SampleResponse::from_json(body.to_string().as_bytes());
            read.map(|response| response.topk_prompt_logprobs.map_or(0, |topk| topk.len()))
        };
        // As long as prompts and k are.
        assert_eq!(read(20, 4000), Ok(4001));
        assert!(read(1000, 4000).is_err());
    }
}
