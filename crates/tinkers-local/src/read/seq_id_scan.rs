//! Finds the model and the `seq_id` in request bodies that are refused before they are decoded: bodies that are too long, malformed,
//! or have an invalid field.
//!
//! The scanner takes a body in pieces and ignores errors, since any part of the body may be invalid. In JSON, it looks for two
//! top-level fields; in protobuf, for the fields 1 and 2.

use std::io::Read;

use http::StatusCode;

use super::{Route, is_protobuf};
use crate::http::Request;

/// The id of a model, and the `seq_id` of one of its requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Numbered {
    pub(crate) model: String,
    pub(crate) number: u64,
}

/// Returns whether a client will not send a request again with the same sequence number after a response with this error status.
/// Clients retry after 408, 425 and 429. After 401 and 403, they may retry with another API key.
pub(crate) fn gives_up_number(status: StatusCode) -> bool {
    status.is_client_error() && !matches!(status.as_u16(), 401 | 403 | 408 | 425 | 429)
}

/// A scanner that finds the model id and the sequence number in a request body that is too large or cannot be decoded.
#[derive(Debug)]
pub(crate) enum NumberScan {
    Json(JsonScan),
    Protobuf(ProtobufScan),
    /// A scanner that finds nothing: requests of this route have no sequence number, or the request body is compressed.
    None,
}

impl NumberScan {
    /// Creates a scanner for the body of `request`. The scanner finds nothing if the body is compressed.
    pub(crate) fn of(request: &Request) -> Self {
        let is_uncompressed = matches!(
            request.header("content-encoding"),
            None | Some("" | "identity")
        );
        match is_uncompressed {
            true => Self::of_decoded(request),
            false => Self::None,
        }
    }

    fn of_decoded(request: &Request) -> Self {
        let numbered = [
            Route::Forward,
            Route::ForwardBackward,
            Route::OptimStep,
            Route::SaveWeights,
            Route::SaveWeightsForSampler,
            Route::LoadWeights,
        ];
        if !numbered.iter().any(|route| route.path() == request.route()) {
            return Self::None;
        }
        match is_protobuf(request.header("content-type")) {
            true => Self::Protobuf(ProtobufScan::default()),
            false => Self::Json(JsonScan::default()),
        }
    }

    /// Scans the next bytes of the request body.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        match self {
            Self::Json(scan) => bytes.iter().for_each(|byte| scan.push(*byte)),
            Self::Protobuf(scan) => scan.push(bytes),
            Self::None => {}
        }
    }

    /// Returns the model id and the sequence number that were found in the scanned bytes. Returns `None` if either is missing or
    /// the sequence number is 0.
    pub(crate) fn found(self) -> Option<Numbered> {
        let (model, number) = match self {
            Self::Json(mut scan) => {
                scan.end_scalar();
                (scan.model, scan.number)
            }
            Self::Protobuf(scan) => (scan.model, scan.number),
            Self::None => (None, None),
        };
        let (model, number) = (model?, number.filter(|number| *number > 0)?);
        Some(Numbered { model, number })
    }

    /// Scans the complete body of a request and returns its model id and sequence number, if it contains both. Of a compressed
    /// body, scans at most `limit` decompressed bytes.
    pub(crate) fn whole(request: &Request, limit: usize) -> Option<Numbered> {
        let mut scan = Self::of_decoded(request);
        match (&scan, request.header("content-encoding")) {
            (Self::None, _) => return None,
            (_, Some(coding)) if coding.trim().eq_ignore_ascii_case("zstd") => {
                let decoder = zstd::stream::read::Decoder::with_buffer(&request.body[..]).ok()?;
                let mut decoder = decoder.take(limit as u64);
                let mut piece = [0; 8192];
                while let Ok(read @ 1..) = decoder.read(&mut piece) {
                    scan.push(&piece[..read]);
                }
            }
            _ => scan.push(&request.body),
        }
        scan.found()
    }
}

/// The maximum length in bytes of a field name or value that a scanner stores. Longer ones are truncated or skipped.
const MAX_TEXT: usize = 512;

/// A scanner that finds the fields `model_id` and `seq_id` of the outermost JSON object.
#[derive(Debug, Default)]
pub(crate) struct JsonScan {
    depth: usize,
    in_text: bool,
    is_escaped: bool,
    /// The bytes, so far, of the current string or scalar of the outermost JSON object.
    text: Vec<u8>,
    /// The name of the field whose value is being scanned.
    name: Option<Vec<u8>>,
    /// Whether the current string or scalar is a field value and not a field name.
    in_value: bool,
    model: Option<String>,
    number: Option<u64>,
}

impl JsonScan {
    fn push(&mut self, byte: u8) {
        if self.in_text {
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' => self.is_escaped = true,
                b'"' => {
                    self.in_text = false;
                    return self.end_text();
                }
                _ => {}
            }
            return self.keep(byte);
        }
        match byte {
            b'"' => {
                self.in_text = true;
                self.text.clear();
            }
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.end_scalar();
                self.depth = self.depth.saturating_sub(1);
            }
            b':' if self.depth == 1 => {
                self.name = Some(std::mem::take(&mut self.text));
                self.in_value = true;
            }
            b',' if self.depth == 1 => {
                self.end_scalar();
                self.in_value = false;
                self.text.clear();
            }
            _ if self.in_value && !byte.is_ascii_whitespace() => self.keep(byte),
            _ => {}
        }
    }

    fn keep(&mut self, byte: u8) {
        if self.depth == 1 && self.text.len() < MAX_TEXT {
            self.text.push(byte);
        }
    }

    fn end_text(&mut self) {
        if self.depth == 1 && self.in_value && self.name.as_deref() == Some(b"model_id") {
            let text = std::mem::take(&mut self.text);
            self.model = String::from_utf8(text).ok();
        }
    }

    fn end_scalar(&mut self) {
        if self.depth == 1 && self.in_value && self.name.as_deref() == Some(b"seq_id") {
            let text = std::str::from_utf8(&self.text).ok();
            self.number = text.and_then(|text| text.parse().ok()).or(self.number);
        }
    }
}

/// A scanner that finds the model id (field 1) and the sequence number (field 2) of the outermost protobuf message.
#[derive(Debug, Default)]
pub(crate) struct ProtobufScan {
    part: Part,
    varint: u64,
    shift: u32,
    text: Vec<u8>,
    model: Option<String>,
    number: Option<u64>,
}

/// The part of a protobuf message that is scanned next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Part {
    #[default]
    Key,
    /// The value of the field with this number, as a varint.
    Varint(u64),
    /// The length of the value of the field with this number. The value follows.
    Length(u64),
    /// The rest of the model id, which has this many bytes.
    Model(u64),
    /// This many bytes of other fields, which are skipped.
    Skip(u64),
    /// No further part, because the request body is not protobuf.
    Invalid,
}

impl ProtobufScan {
    fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match self.part {
                Part::Invalid => return,
                Part::Skip(left) | Part::Model(left) => {
                    let len = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    let is_model = matches!(self.part, Part::Model(_));
                    if is_model {
                        self.text.extend_from_slice(&bytes[..len]);
                    }
                    bytes = &bytes[len..];
                    let left = left - len as u64;
                    self.part = match (left, is_model) {
                        (0, false) => Part::Key,
                        (0, true) => {
                            self.model = String::from_utf8(std::mem::take(&mut self.text)).ok();
                            Part::Key
                        }
                        (_, false) => Part::Skip(left),
                        (_, true) => Part::Model(left),
                    };
                }
                Part::Key | Part::Varint(_) | Part::Length(_) => {
                    let byte = bytes[0];
                    bytes = &bytes[1..];
                    self.varint |= u64::from(byte & 0x7f).checked_shl(self.shift).unwrap_or(0);
                    self.shift += 7;
                    if byte & 0x80 == 0 {
                        let value = std::mem::take(&mut self.varint);
                        (self.shift, self.part) = (0, self.after(value));
                    } else if self.shift > 63 {
                        self.part = Part::Invalid;
                    }
                }
            }
        }
    }

    /// Returns the part of the message that follows the current part, which was a varint with this value.
    fn after(&mut self, value: u64) -> Part {
        match self.part {
            Part::Key => match value & 7 {
                0 => Part::Varint(value >> 3),
                1 => Part::Skip(8),
                2 => Part::Length(value >> 3),
                5 => Part::Skip(4),
                _ => Part::Invalid,
            },
            Part::Varint(2) => {
                self.number = Some(value);
                Part::Key
            }
            Part::Length(_) if value == 0 => Part::Key,
            Part::Length(1) if value <= MAX_TEXT as u64 => Part::Model(value),
            Part::Length(_) => Part::Skip(value),
            _ => Part::Key,
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, HeaderValue, Method};
    use tinkers_wire::{Datum, LossFn, PassMode, PassRequest};

    use super::*;

    const KINDS: [&str; 2] = ["application/json", "application/x-protobuf"];

    fn request(kind: usize, body: impl Into<Bytes>) -> Request {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static(KINDS[kind]));
        Request {
            method: Method::POST,
            path: Route::ForwardBackward.path().into(),
            headers,
            body: body.into(),
        }
    }

    fn found(body: &str) -> Option<(String, u64)> {
        let found = NumberScan::whole(&request(0, body.to_owned()), 1000)?;
        Some((found.model, found.number))
    }

    fn pass() -> PassRequest {
        PassRequest {
            model_id: "s:train:0".into(),
            seq_id: 300,
            mode: PassMode::ForwardBackward,
            data: vec![Datum::next_token(&[1, 2, 3], vec![1.0, 1.0]).unwrap(); 9],
            loss: LossFn::CrossEntropy.into(),
        }
    }

    #[test]
    fn seq_id_is_found_in_malformed_json() {
        let wanted = Some(("m".to_owned(), 7));
        for body in [
            r#"{"model_id": "m", "seq_id": 7}"#,
            r#"{"input": {"seq_id": 9, "model_id": "x", "a": [NaN, {"b": "]}"}]}, "model_id":"m","seq_id":7}"#,
            r#"{"a": "\"}, \\", "seq_id": 7 , "model_id": "m", "data": [1, 2"#,
            r#"{"model_id": "m", "seq_id": 7"#,
            r#"{"model_id": "m", "n": Infinity, "seq_id": 7, "seq_id_": "x", "b": "seq_id"}"#,
        ] {
            assert_eq!(found(body), wanted, "{body}");
        }
        for none in [
            "",
            "[",
            r#"{"seq_id": 7}"#,
            r#"{"model_id": "m"}"#,
            r#"{"model_id": "m", "seq_id": 0}"#,
            r#"{"model_id": "m", "seq_id": -1}"#,
            r#"{"model_id": 7, "seq_id": "m"}"#,
            r#"{"a": {"model_id": "m", "seq_id": 7}}"#,
            r#"["model_id", "m", "seq_id", 7]"#,
        ] {
            assert_eq!(found(none), None, "{none}");
        }
    }

    #[test]
    fn seq_id_is_found_in_body_pieces_of_any_size() {
        for (kind, body) in [pass().to_json(), pass().to_protobuf().unwrap()]
            .into_iter()
            .enumerate()
        {
            let request = request(kind, body);
            for size in [1, 2, 7, 100_000] {
                let mut scan = NumberScan::of(&request);
                request.body.chunks(size).for_each(|piece| scan.push(piece));
                let found = scan.found().unwrap();
                assert_eq!((found.model.as_str(), found.number), ("s:train:0", 300));
            }
        }
    }

    #[test]
    fn compressed_body_is_searched_for_seq_id_up_to_the_limit() {
        for (kind, body) in [pass().to_json(), pass().to_protobuf().unwrap()]
            .into_iter()
            .enumerate()
        {
            let mut request = request(kind, zstd::encode_all(&body[..], 3).unwrap());
            let coding = HeaderValue::from_static("zstd");
            request.headers.insert("content-encoding", coding);
            assert_eq!(NumberScan::of(&request).found(), None);
            assert_eq!(NumberScan::whole(&request, body.len()).unwrap().number, 300);
            assert_eq!(NumberScan::whole(&request, 3), None);
        }
    }

    #[test]
    fn no_seq_id_is_found_in_invalid_protobuf_or_on_other_routes() {
        for bytes in [&[0xff; 40][..], &[0x0a, 0x7f], &[0x07, 1, 2], &[0x10]] {
            assert_eq!(NumberScan::whole(&request(1, bytes.to_vec()), 1000), None);
        }
        let mut other = request(0, r#"{"model_id": "m", "seq_id": 7}"#);
        other.path = Route::Sample.path().into();
        assert_eq!(NumberScan::whole(&other, 1000), None);
    }

    #[test]
    fn client_gives_up_a_seq_id_only_after_a_non_retryable_status() {
        for (status, gives_up) in [
            (400, true),
            (404, true),
            (409, true),
            (410, true),
            (413, true),
            (415, true),
            (422, true),
            (401, false),
            (403, false),
            (408, false),
            (429, false),
            (200, false),
            (500, false),
            (503, false),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(gives_up_number(status), gives_up, "{status}");
        }
    }
}
