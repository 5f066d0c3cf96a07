//! Sampling results in protobuf.

use bytes::Bytes;
use prost::Message;

use super::messages as m;
use super::tensors::{self, elements, pack};
use crate::{
    DecodeError, PromptAltTokens, SampleResponse, SampledSequence, StopReason, TopkLogprobs,
};

/// The enum number that is sent for a stop reason without a number in the protobuf schema. Decoders read this number as an unknown stop
/// reason.
const NO_STOP_REASON: i32 = -1;

pub(crate) fn encode(response: &SampleResponse) -> Bytes {
    let sequences = response
        .sequences
        .iter()
        .map(|sequence| m::SampledSequence {
            stop_reason: match &sequence.stop_reason {
                StopReason::Stop => m::StopReason::Stop as i32,
                StopReason::Length => m::StopReason::Length as i32,
                StopReason::Other(number) => number.parse().unwrap_or(NO_STOP_REASON),
            },
            tokens: pack(&sequence.tokens),
            logprobs: sequence.logprobs.as_ref().map(|logprobs| pack(logprobs)),
            topk_sampled_logprobs: sequence.topk_logprobs.as_ref().map(encode_topk),
        });
    let message = m::SampleResponse {
        sequences: sequences.collect(),
        prompt_logprobs: response.prompt_logprobs.as_ref().map(|all| {
            pack(
                &all.iter()
                    .map(|x| x.unwrap_or(f32::NAN))
                    .collect::<Vec<_>>(),
            )
        }),
        topk_prompt_logprobs: response.topk_prompt_logprobs.as_ref().map(encode_topk),
        prompt_cache_hit_tokens: response
            .prompt_cache_hit_tokens
            .and_then(|n| i32::try_from(n).ok())
            .unwrap_or(0),
        target_prompt_logprobs: response
            .target_prompt_logprobs
            .as_ref()
            .map(tensors::encode),
        prompt_alt_tokens: response
            .prompt_alt_tokens
            .as_ref()
            .map(|alt| m::PromptAltTokens {
                tokens: Some(tensors::encode(&alt.tokens)),
                logprobs: Some(tensors::encode(&alt.logprobs)),
            }),
    };
    Bytes::from(message.encode_to_vec())
}

pub(crate) fn decode(body: Bytes) -> Result<SampleResponse, DecodeError> {
    if body.is_empty() {
        return Err(DecodeError::new(
            "cannot decode the sampling result: empty body",
        ));
    }
    let message = m::SampleResponse::decode(body)?;
    let prompt_logprobs = match message.prompt_logprobs.filter(|bytes| !bytes.is_empty()) {
        Some(bytes) => Some(
            elements::<f32, Vec<_>>(&bytes)?
                .into_iter()
                .map(|x| (!x.is_nan()).then_some(x))
                .collect(),
        ),
        None => None,
    };
    Ok(SampleResponse {
        sequences: message
            .sequences
            .into_iter()
            .map(decode_sequence)
            .collect::<Result<_, _>>()?,
        prompt_logprobs,
        topk_prompt_logprobs: message
            .topk_prompt_logprobs
            .map(decode_topk)
            .transpose()?
            .flatten(),
        prompt_cache_hit_tokens: u32::try_from(message.prompt_cache_hit_tokens).ok(),
        target_prompt_logprobs: message
            .target_prompt_logprobs
            .map(tensors::decode_response)
            .transpose()?,
        prompt_alt_tokens: message
            .prompt_alt_tokens
            .map(decode_alternatives)
            .transpose()?,
    })
}

fn decode_sequence(sequence: m::SampledSequence) -> Result<SampledSequence, DecodeError> {
    let stop_reason = match m::StopReason::try_from(sequence.stop_reason) {
        Ok(m::StopReason::Stop) => StopReason::Stop,
        Ok(m::StopReason::Length) => StopReason::Length,
        Err(_) => StopReason::Other(sequence.stop_reason.to_string()),
    };
    Ok(SampledSequence {
        stop_reason,
        tokens: tokens(&sequence.tokens)?,
        // Empty bytes mean that there are no log-probabilities.
        logprobs: match sequence.logprobs.filter(|bytes| !bytes.is_empty()) {
            Some(bytes) => Some(elements(&bytes)?),
            None => None,
        },
        topk_logprobs: sequence
            .topk_sampled_logprobs
            .map(decode_topk)
            .transpose()?
            .flatten(),
        sequence_id: None,
    })
}

fn decode_alternatives(alt: m::PromptAltTokens) -> Result<PromptAltTokens, DecodeError> {
    let missing =
        || DecodeError::new("cannot decode prompt_alt_tokens: missing tokens or logprobs");
    Ok(PromptAltTokens {
        tokens: tensors::decode_response(alt.tokens.ok_or_else(missing)?)?,
        logprobs: tensors::decode_response(alt.logprobs.ok_or_else(missing)?)?,
    })
}

fn tokens(bytes: &[u8]) -> Result<Vec<u32>, DecodeError> {
    // Token ids are int32 in protobuf. Read as u32, negative ids have the highest bit set.
    let ids: Vec<u32> = elements(bytes)?;
    let signed = |id: &u32| id.cast_signed();
    if let Some(id) = ids.iter().map(signed).find(|id| id.is_negative()) {
        return Err(DecodeError::new(format!(
            "cannot decode the tokens: negative token id {id}"
        )));
    }
    Ok(ids)
}

/// Encodes the most likely tokens at each position as a matrix with one row per position. Shorter rows are padded to the width of the matrix.
fn encode_topk(topk: &TopkLogprobs) -> m::TopkLogprobs {
    // A matrix without columns would lose the number of positions.
    let k = topk.rows().map(Iterator::count).max().unwrap_or(0).max(1);
    let padded = |row| Iterator::chain(row, std::iter::repeat(TopkLogprobs::EMPTY)).take(k);
    let (ids, logprobs): (Vec<u32>, Vec<f32>) = topk.rows().flat_map(padded).unzip();
    m::TopkLogprobs {
        token_ids: pack(&ids),
        logprobs: pack(&logprobs),
        k: u32::try_from(k).unwrap_or(u32::MAX),
        length: u32::try_from(topk.len()).unwrap_or(u32::MAX),
    }
}

/// Decodes the most likely tokens at each position from a matrix of `length` rows and `k` columns, and leaves out the cells that only pad a row.
/// Returns `None` for an empty matrix.
fn decode_topk(topk: m::TopkLogprobs) -> Result<Option<TopkLogprobs>, DecodeError> {
    let (k, length) = (topk.k as usize, topk.length as usize);
    if k == 0 || length == 0 {
        return Ok(None);
    }
    let (ids, logprobs) = (
        tokens(&topk.token_ids)?,
        elements::<f32, Vec<_>>(&topk.logprobs)?,
    );
    let cells = k.checked_mul(length);
    if Some(ids.len()) != cells || Some(logprobs.len()) != cells {
        let message = format!(
            "cannot decode the top-k logprobs: expected {k} x {length}, got {} ids and {} logprobs",
            ids.len(),
            logprobs.len()
        );
        return Err(DecodeError::new(message));
    }
    let rows = ids.chunks(k).zip(logprobs.chunks(k));
    let rows = rows.map(|(ids, logprobs)| {
        let cells = ids.iter().copied().zip(logprobs.iter().copied());
        cells.filter(|cell| *cell != TopkLogprobs::EMPTY)
    });
    Ok(Some(rows.collect()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{OperationResult, TensorData};

    fn response() -> SampleResponse {
        let mut sequence = SampledSequence::new(StopReason::Length, vec![7, 8]);
        sequence.logprobs = Some(vec![-0.5, -1.0]);
        sequence.topk_logprobs = Some(TopkLogprobs::from_rows(&[vec![(7, -0.5)], vec![(8, -1.0)]]));
        SampleResponse {
            sequences: vec![sequence, SampledSequence::new(StopReason::Stop, vec![])],
            prompt_logprobs: Some(vec![None, Some(-2.0)]),
            topk_prompt_logprobs: Some(TopkLogprobs::from_rows(&[
                vec![],
                vec![(4, -0.1), (5, -2.0)],
            ])),
            prompt_cache_hit_tokens: Some(3),
            target_prompt_logprobs: Some(TensorData::from_parts(
                crate::TensorValues::F32(Arc::from([-1.0])),
                Some(vec![1, 1]),
                None,
            )),
            prompt_alt_tokens: None,
        }
    }

    #[test]
    fn sample_response_round_trips_through_protobuf() {
        assert_eq!(
            SampleResponse::from_protobuf(response().to_protobuf()).unwrap(),
            response()
        );
    }

    #[test]
    fn truncated_sample_response_does_not_panic() {
        let whole = response().to_protobuf();
        for len in 0..whole.len() {
            let _ = SampleResponse::from_protobuf(whole.slice(..len));
        }
    }

    #[test]
    fn topk_rows_without_predictions_round_trip_through_protobuf() {
        let mut rows = response();
        rows.topk_prompt_logprobs = Some(TopkLogprobs::from_rows(&[vec![], vec![]]));
        let read = SampleResponse::from_protobuf(rows.to_protobuf()).unwrap();
        assert_eq!(read, rows);
    }

    #[test]
    fn topk_matrix_of_the_wrong_size_is_rejected() {
        let mut message = m::SampleResponse::decode(response().to_protobuf()).unwrap();
        message.topk_prompt_logprobs.as_mut().unwrap().length = u32::MAX;
        assert!(decode(Bytes::from(message.encode_to_vec())).is_err());
    }

    #[test]
    fn unknown_stop_reason_is_encoded_as_its_number() {
        let mut message = m::SampleResponse::decode(response().to_protobuf()).unwrap();
        message.sequences[0].stop_reason = 9;
        let bytes = Bytes::from(message.encode_to_vec());
        let read = decode(bytes.clone()).unwrap();
        assert_eq!(
            read.sequences[0].stop_reason,
            StopReason::Other("9".to_owned())
        );
        assert_eq!(encode(&read), bytes);
    }
}
