//! Requests and results of forward and forward-backward passes in protobuf.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;

use super::messages as m;
use super::tensors::{self, elements, pack};
use crate::tensor::{from_little_endian, little_endian};
use crate::{
    Chunk, Datum, DecodeError, ForwardBackwardOutput, InvalidInput, Loss, LossConfigValue, LossFn,
    LossFnOutput, ModelInput, PassMode, PassRequest, ProvenanceSpan, SpanKind, TensorData,
    TensorValues,
};

pub(crate) fn encode_request(request: &PassRequest) -> Result<Bytes, InvalidInput> {
    let seq_id = i32::try_from(request.seq_id).map_err(|_| {
        InvalidInput::new(
            "seq_id",
            format_args!("at most {}, got {}", i32::MAX, request.seq_id),
        )
    })?;
    let data = request.data.iter().enumerate();
    let data = data.map(|(i, datum)| {
        encode_datum(datum).map_err(|error| error.within(format_args!("data[{i}].")))
    });
    let mut message = m::ForwardBackwardRequest {
        model_id: request.model_id.clone(),
        seq_id,
        data: data.collect::<Result<_, _>>()?,
        loss_fn: request.loss.name.name().to_owned(),
        loss_fn_config: BTreeMap::new(),
        forward_only: request.mode == PassMode::Forward,
        loss_fn_config_v2: BTreeMap::new(),
    };
    for (name, value) in &request.loss.config {
        let value = match value {
            LossConfigValue::Number(number) => {
                // Servers without `loss_fn_config_v2` read numbers here.
                message.loss_fn_config.insert(name.clone(), *number);
                m::LossValue::Number(*number)
            }
            LossConfigValue::Text(text) => m::LossValue::Text(text.clone()),
        };
        message
            .loss_fn_config_v2
            .insert(name.clone(), m::LossConfigValue { value: Some(value) });
    }
    Ok(Bytes::from(message.encode_to_vec()))
}

fn encode_datum(datum: &Datum) -> Result<m::Datum, InvalidInput> {
    let chunks = datum.model_input.chunks.iter().enumerate();
    let chunks = chunks.map(|(i, chunk)| {
        encode_chunk(chunk).map_err(|error| error.within(format_args!("model_input.chunks[{i}].")))
    });
    let spans = |spans: &[ProvenanceSpan]| spans.iter().map(encode_span).collect::<Vec<_>>();
    Ok(m::Datum {
        model_input: chunks.collect::<Result<_, _>>()?,
        loss_fn_inputs: datum
            .loss_fn_inputs
            .iter()
            .map(|(name, tensor)| (name.clone(), tensors::encode(tensor)))
            .collect(),
        model_input_spans: spans(&datum.model_input_spans),
        loss_fn_input_spans: spans(&datum.loss_fn_input_spans),
    })
}

fn encode_chunk(chunk: &Chunk) -> Result<m::Chunk, InvalidInput> {
    let kind = match chunk {
        Chunk::EncodedText(tokens) => m::ChunkKind::EncodedText(m::EncodedTextChunk {
            tokens: little_endian(tokens),
        }),
        Chunk::Image {
            data,
            format,
            expected_tokens,
        } => m::ChunkKind::Image(m::ImageChunk {
            data: data.clone(),
            format: format.clone(),
            expected_tokens: expected_tokens.and_then(|n| i32::try_from(n).ok()),
            override_dimensions: None,
        }),
        Chunk::Dmel(dmel) => m::ChunkKind::Dmel(m::DmelChunk { dmel: dmel.clone() }),
        Chunk::ImageAssetPointer { .. } | Chunk::Other(_) => {
            return Err(InvalidInput::new(
                "type",
                "encoded_text, image or dmel; other chunks cannot be trained on",
            ));
        }
    };
    Ok(m::Chunk { chunk: Some(kind) })
}

fn encode_span(span: &ProvenanceSpan) -> m::ProvenanceSpan {
    let inner = m::Span {
        sequence_id: span.sequence_id.clone(),
        offset: i64::try_from(span.offset).unwrap_or(i64::MAX),
        length: i64::try_from(span.length).unwrap_or(i64::MAX),
    };
    let span = match span.kind {
        SpanKind::Prompt => m::SpanKind::PromptTokens(inner),
        SpanKind::Sampled => m::SpanKind::SampledTokens(inner),
    };
    m::ProvenanceSpan { span: Some(span) }
}

pub(crate) fn decode_request(body: Bytes) -> Result<PassRequest, DecodeError> {
    let message = m::ForwardBackwardRequest::decode(body)?;
    // `loss_fn_config_v2` takes precedence.
    let mut config: BTreeMap<String, LossConfigValue> = message
        .loss_fn_config
        .into_iter()
        .map(|(name, number)| (name, LossConfigValue::Number(number)))
        .collect();
    for (name, value) in message.loss_fn_config_v2 {
        let value = match value.value {
            Some(m::LossValue::Number(number)) => LossConfigValue::Number(number),
            Some(m::LossValue::Text(text)) => LossConfigValue::Text(text),
            None => {
                return Err(DecodeError::new(format!(
                    "cannot decode loss_fn_config_v2.{name}: missing value"
                )));
            }
        };
        config.insert(name, value);
    }
    let name = LossFn::from_name(message.loss_fn);
    let negative = || DecodeError::new("cannot decode the request: negative seq_id");
    let seq_id = u64::try_from(message.seq_id).map_err(|_| negative())?;
    Ok(PassRequest {
        model_id: message.model_id,
        seq_id,
        mode: if message.forward_only {
            PassMode::Forward
        } else {
            PassMode::ForwardBackward
        },
        data: message
            .data
            .into_iter()
            .map(decode_datum)
            .collect::<Result<_, _>>()?,
        loss: Loss { name, config },
    })
}

fn decode_datum(datum: m::Datum) -> Result<Datum, DecodeError> {
    let inputs = datum.loss_fn_inputs.into_iter();
    let inputs = inputs.map(|(name, tensor)| {
        let tensor = tensors::decode_request(tensor)
            .map_err(|error| DecodeError::new(format!("loss_fn_inputs.{name}: {error}")))?;
        Ok((name, tensor))
    });
    Ok(Datum {
        model_input: ModelInput {
            chunks: datum
                .model_input
                .into_iter()
                .map(decode_chunk)
                .collect::<Result<_, _>>()?,
        },
        loss_fn_inputs: inputs.collect::<Result<_, DecodeError>>()?,
        model_input_spans: datum
            .model_input_spans
            .into_iter()
            .map(decode_span)
            .collect::<Result<_, _>>()?,
        loss_fn_input_spans: datum
            .loss_fn_input_spans
            .into_iter()
            .map(decode_span)
            .collect::<Result<_, _>>()?,
    })
}

fn decode_chunk(chunk: m::Chunk) -> Result<Chunk, DecodeError> {
    match chunk.chunk {
        Some(m::ChunkKind::EncodedText(text)) => {
            let tokens = from_little_endian::<u32, _>(&text.tokens).ok_or_else(|| {
                DecodeError::new("cannot decode the tokens of a chunk: not a multiple of 4 bytes")
            })?;
            Ok(Chunk::EncodedText(tokens))
        }
        Some(m::ChunkKind::Image(image)) => Ok(Chunk::Image {
            data: image.data,
            format: image.format,
            expected_tokens: image.expected_tokens.and_then(|n| u32::try_from(n).ok()),
        }),
        Some(m::ChunkKind::Dmel(dmel)) => Ok(Chunk::Dmel(dmel.dmel)),
        None => Err(DecodeError::new("cannot decode a chunk of unknown kind")),
    }
}

fn decode_span(span: m::ProvenanceSpan) -> Result<ProvenanceSpan, DecodeError> {
    let (kind, inner) = match span.span {
        Some(m::SpanKind::PromptTokens(inner)) => (SpanKind::Prompt, inner),
        Some(m::SpanKind::SampledTokens(inner)) => (SpanKind::Sampled, inner),
        None => return Err(DecodeError::new("cannot decode a span of unknown kind")),
    };
    let count = |n: i64| {
        u64::try_from(n)
            .map_err(|_| DecodeError::new("cannot decode a span with a negative offset or length"))
    };
    Ok(ProvenanceSpan {
        kind,
        sequence_id: inner.sequence_id,
        offset: count(inner.offset)?,
        length: count(inner.length)?,
    })
}

pub(crate) fn encode_output(output: &ForwardBackwardOutput) -> Bytes {
    // One record per datum, since the trailing shapes may differ between data.
    let records = output.loss_fn_outputs.iter().map(|fields| m::ArrayRecord {
        type_tag: output.loss_fn_output_type.clone(),
        fields: fields
            .iter()
            .map(|(name, tensor)| (name.clone(), batch_of_one(tensor)))
            .collect(),
        num_datums: 1,
    });
    let message = m::ForwardBackwardOutput {
        loss_fn_output_type: output.loss_fn_output_type.clone(),
        loss_fn_outputs: records.collect(),
        metrics: output.metrics.clone(),
    };
    Bytes::from(message.encode_to_vec())
}

fn batch_of_one(tensor: &TensorData) -> m::BatchedTensor {
    let (data, dtype) = match tensor.values() {
        TensorValues::F32(values) => (little_endian(values), m::DType::Float32),
        TensorValues::I64(values) => (little_endian(values), m::DType::Int64),
    };
    let offsets = pack(&[0, data.len() as i64]);
    let trailing_shape = tensor
        .shape()
        .into_iter()
        .skip(1)
        .map(|dim| dim as i64)
        .collect();
    m::BatchedTensor {
        data,
        offsets,
        dtype: dtype as i32,
        trailing_shape,
    }
}

pub(crate) fn decode_output(body: Bytes) -> Result<ForwardBackwardOutput, DecodeError> {
    if body.is_empty() {
        return Err(DecodeError::new(
            "cannot decode the result of a pass: empty body",
        ));
    }
    let message = m::ForwardBackwardOutput::decode(body)?;
    let mut loss_fn_outputs = Vec::new();
    let mut empty_outputs = 0;
    for record in &message.loss_fn_outputs {
        if record.fields.is_empty() {
            // A few bytes can declare any number of empty outputs, which must not make the decoder allocate without bound.
            let declared = usize::try_from(record.num_datums).unwrap_or(0);
            empty_outputs = declared.saturating_add(empty_outputs);
            if empty_outputs > MAX_EMPTY_OUTPUTS {
                let message = format!(
                    "cannot decode {empty_outputs} outputs without fields: expected at most {MAX_EMPTY_OUTPUTS}"
                );
                return Err(DecodeError::new(message));
            }
        }
        decode_record(record, &mut loss_fn_outputs)?;
    }
    // Keeps only the class of a qualified name such as `module:Class`.
    let name = message
        .loss_fn_output_type
        .rsplit(':')
        .next()
        .unwrap_or_default()
        .to_owned();
    Ok(ForwardBackwardOutput {
        loss_fn_output_type: name,
        loss_fn_outputs,
        metrics: message.metrics,
    })
}

fn decode_record(
    record: &m::ArrayRecord,
    outputs: &mut Vec<LossFnOutput>,
) -> Result<(), DecodeError> {
    let fields: Vec<(&String, Vec<TensorData>)> = record
        .fields
        .iter()
        .map(|(name, batch)| Ok((name, split(name, batch)?)))
        .collect::<Result<_, DecodeError>>()?;
    let declared = usize::try_from(record.num_datums)
        .map_err(|_| DecodeError::new("cannot decode a record with a negative num_datums"))?;
    let count = if declared == 0 {
        fields.first().map_or(0, |(_, data)| data.len())
    } else {
        declared
    };
    if let Some((name, data)) = fields.iter().find(|(_, data)| data.len() != count) {
        return Err(DecodeError::new(format!(
            "cannot decode a record: field {name} has {} entries, expected {count}",
            data.len()
        )));
    }
    let first = outputs.len();
    outputs.resize_with(first + count, LossFnOutput::new);
    for (name, data) in fields {
        for (output, tensor) in outputs[first..].iter_mut().zip(data) {
            output.insert(name.clone(), tensor);
        }
    }
    Ok(())
}

/// The maximum number of empty outputs that are created for a result without output fields, one per datum. The limit prevents a small message
/// from causing a large allocation. A request contains fewer data than this number.
const MAX_EMPTY_OUTPUTS: usize = 1 << 16;
/// The maximum length in bytes of the name of an output field. The name is copied to the output of every datum of a batch, so its length is
/// limited.
const MAX_NAME_LEN: usize = 200;
/// The maximum number of dimensions of an output field, not counting the batch dimension. The dimensions are copied to the output of every
/// datum, so their number is limited.
const MAX_DIMENSIONS: usize = 32;

/// Splits the output field `name` of a batch into one tensor per datum. `batch` contains the byte offset of each tensor.
fn split(name: &str, batch: &m::BatchedTensor) -> Result<Vec<TensorData>, DecodeError> {
    if name.len() > MAX_NAME_LEN || batch.trailing_shape.len() > MAX_DIMENSIONS {
        return Err(DecodeError::new(format!(
            "cannot decode a field: its name has {} bytes and its shape {} dimensions, expected at most {MAX_NAME_LEN} and {MAX_DIMENSIONS}",
            name.len(),
            batch.trailing_shape.len()
        )));
    }
    let offsets = elements::<i64, Vec<_>>(&batch.offsets)?;
    let trailing = tensors::dimensions(&batch.trailing_shape)?;
    let row: usize = trailing
        .iter()
        .try_fold(1usize, |product, &dim| product.checked_mul(dim))
        .unwrap_or(0);
    let size = tensors::element_size(batch.dtype);
    let tensor = |pair: &[i64]| {
        let range = usize::try_from(pair[0])
            .ok()
            .zip(usize::try_from(pair[1]).ok())
            .map(|(from, to)| from..to);
        let bytes = range
            .and_then(|range| batch.data.get(range))
            .filter(|bytes| bytes.len().is_multiple_of(size));
        let bytes = bytes.ok_or_else(|| {
            DecodeError::new(format!(
                "cannot decode field {name}: offsets do not match its data"
            ))
        })?;
        let values = tensors::values(batch.dtype, bytes)?;
        let mut shape = vec![values.len().checked_div(row).unwrap_or(0)];
        shape.extend_from_slice(&trailing);
        Ok(TensorData::from_parts(values, Some(shape), None))
    };
    offsets.windows(2).map(tensor).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CsrIndices, OperationResult};
    use std::sync::Arc;

    fn request() -> PassRequest {
        let sparse = TensorData::csr(
            TensorValues::F32(Arc::from([0.5])),
            [2, 4],
            CsrIndices {
                crow: Arc::from([0, 0, 1]),
                col: Arc::from([3]),
            },
        );
        let mut datum = Datum::new(vec![1, 2])
            .with("target_tokens", vec![2i64, 3])
            .with("weights", sparse.unwrap());
        datum.model_input.chunks.push(Chunk::Image {
            data: Bytes::from_static(b"png"),
            format: "png".into(),
            expected_tokens: Some(3),
        });
        datum.model_input_spans.push(ProvenanceSpan {
            kind: SpanKind::Sampled,
            sequence_id: "s".into(),
            offset: 1,
            length: 2,
        });
        let loss = LossFn::Ppo
            .with("clip_low_threshold", 0.8)
            .with("mode", "x");
        PassRequest {
            model_id: "m".into(),
            seq_id: 7,
            mode: PassMode::Forward,
            data: vec![datum],
            loss,
        }
    }

    #[test]
    fn forward_backward_request_round_trips_through_protobuf() {
        assert_eq!(
            PassRequest::from_protobuf(request().to_protobuf().unwrap()).unwrap(),
            request()
        );
    }

    #[test]
    fn forward_backward_request_bytes_match_the_protobuf_schema() {
        let data = vec![Datum::new(vec![5]).with("target_tokens", vec![6i64])];
        let request = PassRequest {
            model_id: "m".into(),
            seq_id: 1,
            mode: PassMode::ForwardBackward,
            data,
            loss: LossFn::CrossEntropy.into(),
        };
        let text_chunk = [0x0a, 8, 0x0a, 6, 0x0a, 4, 5, 0, 0, 0];
        let tensor = [0x0a, 8, 6, 0, 0, 0, 0, 0, 0, 0, 0x18, 2, 0x22, 1, 1];
        let mut expected: Vec<u8> = vec![0x0a, 1, b'm', 0x10, 1, 0x1a, 44];
        expected.extend(text_chunk);
        expected.extend([0x12, 32, 0x0a, 13]);
        expected.extend(b"target_tokens");
        expected.extend([0x12, 15]);
        expected.extend(tensor);
        expected.extend([0x22, 13]);
        expected.extend(b"cross_entropy");
        assert_eq!(request.to_protobuf().unwrap(), expected);
    }

    #[test]
    fn protobuf_encoding_rejects_unsupported_chunks_and_large_seq_ids() {
        let mut bad = request();
        bad.data[0].model_input.chunks[1] = Chunk::ImageAssetPointer {
            location: "gs://x".into(),
            format: "png".into(),
            expected_tokens: None,
        };
        assert_eq!(
            bad.to_protobuf().unwrap_err().field(),
            "data[0].model_input.chunks[1].type"
        );
        let mut late = request();
        late.seq_id = 1 << 31;
        assert_eq!(late.to_protobuf().unwrap_err().field(), "seq_id");
    }

    fn output() -> ForwardBackwardOutput {
        let fields = |values: Vec<f32>| {
            LossFnOutput::from([("logprobs".to_owned(), TensorData::f32(values))])
        };
        ForwardBackwardOutput {
            loss_fn_output_type: "ArrayRecord".into(),
            loss_fn_outputs: vec![fields(vec![-1.0, -2.0]), fields(vec![-3.0])],
            metrics: BTreeMap::from([("loss:sum".to_owned(), 6.0)]),
        }
    }

    #[test]
    fn forward_backward_output_round_trips_through_protobuf() {
        assert_eq!(
            ForwardBackwardOutput::from_protobuf(output().to_protobuf()).unwrap(),
            output()
        );
    }

    #[test]
    fn protobuf_batch_is_split_into_tensors_at_its_byte_offsets() {
        let data: Vec<u8> = [1.0f32, 2.0, 3.0]
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect();
        let batch = m::BatchedTensor {
            data: data.into(),
            offsets: pack(&[0i64, 8, 12]),
            dtype: 1,
            trailing_shape: vec![],
        };
        let mut message = m::ForwardBackwardOutput {
            loss_fn_output_type: "module:scalar".into(),
            loss_fn_outputs: vec![m::ArrayRecord {
                type_tag: String::new(),
                fields: BTreeMap::from([("x".into(), batch)]),
                num_datums: 0,
            }],
            metrics: BTreeMap::new(),
        };
        let decoded = decode_output(Bytes::from(message.encode_to_vec())).unwrap();
        assert_eq!(decoded.loss_fn_output_type, "scalar");
        let lengths: Vec<usize> = decoded
            .loss_fn_outputs
            .iter()
            .map(|output| output["x"].values().len())
            .collect();
        assert_eq!(lengths, [2, 1]);
        message.loss_fn_outputs[0].num_datums = 3;
        assert!(decode_output(Bytes::from(message.encode_to_vec())).is_err());
        message.loss_fn_outputs[0].fields.clear();
        message.loss_fn_outputs[0].num_datums = i64::MAX;
        assert!(decode_output(Bytes::from(message.encode_to_vec())).is_err());
    }

    #[test]
    fn small_protobuf_messages_cannot_force_large_allocations() {
        let read = |records: Vec<m::ArrayRecord>| {
            let message = m::ForwardBackwardOutput {
                loss_fn_output_type: "x".into(),
                loss_fn_outputs: records,
                metrics: BTreeMap::new(),
            };
            let read = decode_output(Bytes::from(message.encode_to_vec()));
            read.map(|output| output.loss_fn_outputs.len())
        };
        // Outputs without fields are limited across all records.
        let empty = |num_datums| m::ArrayRecord {
            type_tag: String::new(),
            fields: BTreeMap::new(),
            num_datums,
        };
        assert_eq!(read(vec![empty(1 << 15); 2]), Ok(1 << 16));
        assert!(read(vec![empty(1 << 15); 3]).is_err());
        assert!(read(vec![empty(i64::MAX); 3]).is_err());
        // The name and the trailing shape are copied to each datum.
        let field = |name: usize, dimensions: usize| {
            let batch = m::BatchedTensor {
                data: Bytes::new(),
                offsets: pack(&[0i64; 4]),
                dtype: 1,
                trailing_shape: vec![1; dimensions],
            };
            m::ArrayRecord {
                type_tag: String::new(),
                fields: BTreeMap::from([("x".repeat(name), batch)]),
                num_datums: 0,
            }
        };
        assert_eq!(read(vec![field(200, 32)]), Ok(3));
        assert!(read(vec![field(201, 1)]).is_err());
        assert!(read(vec![field(1, 33)]).is_err());
    }

    #[test]
    fn truncated_forward_backward_messages_do_not_panic() {
        let (request, output) = (request().to_protobuf().unwrap(), output().to_protobuf());
        for len in 0..request.len() {
            let _ = PassRequest::from_protobuf(request.slice(..len));
        }
        for len in 0..output.len() {
            let _ = ForwardBackwardOutput::from_protobuf(output.slice(..len));
        }
    }
}
