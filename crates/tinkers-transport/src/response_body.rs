//! Response bodies: bounded in size, and decompressed as they arrive.

use std::io::{self, Write};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use tinkers_core::{Sent, TransportError, TransportErrorKind};
#[cfg(feature = "zstd")]
use zstd::stream::raw::{DParameter, Operation};

/// The value of the `accept-encoding` request header: the compression formats that the transport can decode.
pub(crate) const ACCEPT_ENCODING: &str = if cfg!(feature = "zstd") {
    "gzip, zstd"
} else {
    "gzip"
};

/// The maximum number of bytes of memory that are reserved at once because of a `Content-Length` header. For a longer body, more memory is
/// allocated while the body arrives.
const MAX_RESERVED: usize = 1 << 20;

/// A collector of the chunks of one response body, which it decompresses.
pub(crate) struct BodyCollector {
    inner: Inner,
    limit: usize,
    has_data: bool,
}

enum Inner {
    Plain {
        first: Bytes,
        more: BytesMut,
        /// The number of bytes to reserve for the buffer when a second chunk arrives. A body of one chunk needs no buffer.
        room: usize,
    },
    Gzip(Box<flate2::write::MultiGzDecoder<BoundedBuffer>>),
    #[cfg(feature = "zstd")]
    Zstd(Box<ZstdStream>),
}

impl BodyCollector {
    /// Creates a collector for the body of a response with `headers`. The body may have at most `limit` bytes after decompression. Removes
    /// the headers that apply only to the compressed body from `headers`.
    ///
    /// # Errors
    /// `Decode` for an unknown encoding, and `TooLarge` for a `Content-Length` above the limit.
    pub(crate) fn new(headers: &mut HeaderMap, limit: usize) -> Result<Self, TransportError> {
        let encoding = headers
            .get(CONTENT_ENCODING)
            .map(|value| value.to_str().unwrap_or("?").trim().to_ascii_lowercase())
            .unwrap_or_default();
        let announced = headers
            .get(CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
        let bounded = || BoundedBuffer {
            bytes: Vec::new(),
            limit,
        };
        let inner = match encoding.as_str() {
            "" | "identity" => {
                if announced.is_some_and(|length| length > limit) {
                    return Err(too_large(limit));
                }
                let room = announced.unwrap_or(0).min(MAX_RESERVED);
                return Ok(Self {
                    inner: Inner::Plain {
                        first: Bytes::new(),
                        more: BytesMut::new(),
                        room,
                    },
                    limit,
                    has_data: false,
                });
            }
            "gzip" | "x-gzip" => {
                Inner::Gzip(Box::new(flate2::write::MultiGzDecoder::new(bounded())))
            }
            #[cfg(feature = "zstd")]
            "zstd" => {
                let stream = ZstdStream::new(bounded());
                Inner::Zstd(Box::new(
                    stream.map_err(|error| corrupt("zstd").with_source(error))?,
                ))
            }
            other => {
                let shown: String = other.chars().take(40).collect();
                return Err(response_error(
                    TransportErrorKind::Decode,
                    format!("the response has the unsupported encoding {shown:?}"),
                ));
            }
        };
        headers.remove(CONTENT_ENCODING);
        headers.remove(CONTENT_LENGTH);
        Ok(Self {
            inner,
            limit,
            has_data: false,
        })
    }

    /// Appends the next chunk of the body, and decompresses it.
    pub(crate) fn push(&mut self, chunk: Bytes) -> Result<(), TransportError> {
        self.has_data |= !chunk.is_empty();
        match &mut self.inner {
            Inner::Plain { first, more, room } => {
                if first.len() + more.len() + chunk.len() > self.limit {
                    return Err(too_large(self.limit));
                }
                // A body of one chunk is not copied.
                if first.is_empty() && more.is_empty() {
                    *first = chunk;
                    return Ok(());
                }
                if more.is_empty() {
                    more.reserve(*room);
                    more.extend_from_slice(&std::mem::take(first));
                }
                more.extend_from_slice(&chunk);
                Ok(())
            }
            Inner::Gzip(decoder) => decoder
                .write_all(&chunk)
                .map_err(|error| classify("gzip", error, self.limit)),
            #[cfg(feature = "zstd")]
            Inner::Zstd(stream) => stream
                .push(&chunk)
                .map_err(|error| classify("zstd", error, self.limit)),
        }
    }

    /// Returns the whole decompressed body after its last chunk.
    ///
    /// # Errors
    /// `Decode` if a compressed body is incomplete.
    pub(crate) fn finish(self) -> Result<Bytes, TransportError> {
        let limit = self.limit;
        if !self.has_data {
            // A response without a body (HEAD, 204, 304) may name the encoding of the omitted body.
            return Ok(Bytes::new());
        }
        match self.inner {
            Inner::Plain { first, more, .. } => Ok(if more.is_empty() {
                first
            } else {
                more.freeze()
            }),
            Inner::Gzip(decoder) => match decoder.finish() {
                Ok(bounded) => Ok(bounded.bytes.into()),
                Err(error) => Err(classify("gzip", error, limit)),
            },
            #[cfg(feature = "zstd")]
            Inner::Zstd(stream) => stream
                .finish()
                .map_err(|error| classify("zstd", error, limit)),
        }
    }
}

/// Decompresses a body that arrives in two chunks, for fuzz tests. `limit` is the maximum number of bytes after decompression.
///
/// # Errors
/// `Decode` for a body that cannot be decoded, and `TooLarge` for a body of more than `limit` bytes.
#[cfg(feature = "fuzz")]
pub fn decode_body(encoding: &str, body: &[u8], limit: usize) -> Result<Bytes, TransportError> {
    let mut headers = HeaderMap::new();
    if let Ok(encoding) = http::HeaderValue::from_str(encoding) {
        headers.insert(CONTENT_ENCODING, encoding);
    }
    let mut collector = BodyCollector::new(&mut headers, limit)?;
    let (first, second) = body.split_at(body.len() / 2);
    collector.push(Bytes::copy_from_slice(first))?;
    collector.push(Bytes::copy_from_slice(second))?;
    collector.finish()
}

/// A streaming zstd decoder. It detects a truncated body, which ends within a zstd frame.
#[cfg(feature = "zstd")]
struct ZstdStream {
    decoder: zstd::stream::raw::Decoder<'static>,
    output: BoundedBuffer,
    scratch: Vec<u8>,
    /// The decoder's estimate of the number of bytes that are missing from the current zstd frame; 0 at the end of a frame.
    remaining: usize,
}

#[cfg(feature = "zstd")]
impl ZstdStream {
    fn new(output: BoundedBuffer) -> io::Result<Self> {
        let mut decoder = zstd::stream::raw::Decoder::new()?;
        decoder.set_parameter(DParameter::WindowLogMax(MAX_WINDOW_LOG))?;
        Ok(Self {
            decoder,
            output,
            scratch: vec![0; ZSTD_SCRATCH],
            remaining: 1,
        })
    }

    fn push(&mut self, mut input: &[u8]) -> io::Result<()> {
        loop {
            let status = self.decoder.run_on_buffers(input, &mut self.scratch)?;
            self.remaining = status.remaining;
            input = &input[status.bytes_read..];
            self.output
                .write_all(&self.scratch[..status.bytes_written])?;
            // If the output fills the scratch buffer, more may follow without further input, except at the end of a frame.
            let drained = self.remaining == 0 || status.bytes_written < self.scratch.len();
            if input.is_empty() && drained {
                return Ok(());
            }
            if status.bytes_read == 0 && status.bytes_written == 0 {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
    }

    fn finish(self) -> io::Result<Bytes> {
        if self.remaining != 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(self.output.bytes.into())
    }
}

/// The binary logarithm of the maximum zstd window that a body may use: 8 MB, the limit for HTTP (RFC 9659). A limit is needed because a
/// decoder allocates the whole window.
#[cfg(feature = "zstd")]
const MAX_WINDOW_LOG: u32 = 23;

/// The size in bytes of the decoder's output buffer: the maximum size of a zstd block.
#[cfg(feature = "zstd")]
const ZSTD_SCRATCH: usize = 128 * 1024;

/// A buffer for the decompressed body with a maximum size, since a small compressed body may expand to any size.
struct BoundedBuffer {
    bytes: Vec<u8>,
    limit: usize,
}

impl Write for BoundedBuffer {
    fn write(&mut self, chunk: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + chunk.len() > self.limit {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "the size limit is exceeded",
            ));
        }
        self.bytes.extend_from_slice(chunk);
        Ok(chunk.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn classify(encoding: &str, error: io::Error, limit: usize) -> TransportError {
    if error.kind() == io::ErrorKind::FileTooLarge {
        too_large(limit)
    } else {
        corrupt(encoding).with_source(error)
    }
}

fn too_large(limit: usize) -> TransportError {
    response_error(
        TransportErrorKind::TooLarge,
        format!("the response body is longer than {limit} bytes"),
    )
}

fn corrupt(encoding: &str) -> TransportError {
    response_error(
        TransportErrorKind::Decode,
        format!("cannot decompress the {encoding} response body"),
    )
}

fn response_error(kind: TransportErrorKind, message: String) -> TransportError {
    TransportError::new(kind, Sent::Answered, message)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).expect("in memory");
        encoder.finish().expect("in memory")
    }

    fn decode(
        encoding: &'static str,
        body: &[u8],
        chunk: usize,
        limit: usize,
    ) -> Result<Bytes, TransportErrorKind> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        let mut collect = || {
            let mut collector = BodyCollector::new(&mut headers, limit)?;
            for chunk in body.chunks(chunk) {
                collector.push(Bytes::copy_from_slice(chunk))?;
            }
            collector.finish()
        };
        collect().map_err(|error| {
            assert_eq!(error.sent, Sent::Answered);
            error.kind
        })
    }

    #[cfg(feature = "zstd")]
    #[test]
    fn zstd_frame_with_a_large_window_is_rejected() {
        // Empty frames, with windows of 128 MB and of 8 MB.
        let frame = |window: u8| [0x28, 0xb5, 0x2f, 0xfd, 0, window, 1, 0, 0];
        let read = |window| decode("zstd", &frame(window), usize::MAX, 1000);
        assert_eq!(read(17 << 3), Err(TransportErrorKind::Decode));
        assert_eq!(read(13 << 3), Ok(Bytes::new()));
    }

    #[test]
    fn response_body_of_each_encoding_is_decoded_from_chunks_of_any_size() {
        let body: Vec<u8> = (0..100_000u32)
            .flat_map(|n| (n / 7).to_le_bytes())
            .collect();
        #[cfg(feature = "zstd")]
        let zstd = zstd::bulk::compress(&body, 3).expect("compresses");
        let packed = gzip(&body);
        for chunk in [1, 1000, usize::MAX] {
            for (encoding, bytes) in [
                ("gzip", &packed[..]),
                #[cfg(feature = "zstd")]
                ("zstd", &zstd),
                ("identity", &body),
                ("", &body),
            ] {
                let got = decode(encoding, bytes, chunk, body.len());
                assert_eq!(
                    got.expect(encoding),
                    body,
                    "{encoding} in chunks of {chunk}"
                );
            }
        }
    }

    #[test]
    fn response_size_limit_is_exact_for_each_encoding() {
        let body = vec![b'a'; 1 << 20];
        #[cfg(feature = "zstd")]
        let zstd = zstd::bulk::compress(&body, 3).expect("compresses");
        let packed = gzip(&body);
        for (encoding, bytes) in [
            ("gzip", &packed[..]),
            #[cfg(feature = "zstd")]
            ("zstd", &zstd),
            ("", &body),
        ] {
            assert!(
                decode(encoding, bytes, 4096, body.len()).is_ok(),
                "{encoding}"
            );
            let short = decode(encoding, bytes, 4096, body.len() - 1);
            assert_eq!(short.expect_err(encoding), TransportErrorKind::TooLarge);
        }
    }

    #[test]
    fn corrupt_truncated_and_unknown_content_encodings_are_errors() {
        let packed = gzip(b"some text that is long enough to be cut in the middle");
        let zstd =
            zstd::bulk::compress(b"some text that is long enough to be cut in the middle", 3)
                .expect("compresses");
        let cut = |bytes: &[u8]| bytes[..bytes.len() - 9].to_vec();
        for (encoding, bytes) in [
            ("gzip", cut(&packed)),
            ("zstd", cut(&zstd)),
            ("gzip", b"plain text after all".to_vec()),
            ("zstd", b"plain text after all".to_vec()),
            ("br", packed.clone()),
            ("gzip, gzip", packed.clone()),
        ] {
            assert_eq!(
                decode(encoding, &bytes, 7, 1000).expect_err(encoding),
                TransportErrorKind::Decode
            );
        }
    }

    #[test]
    fn accept_encoding_header_lists_only_supported_encodings() {
        let mut headers = HeaderMap::new();
        for encoding in ACCEPT_ENCODING.split(", ") {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
            assert!(BodyCollector::new(&mut headers, 9).is_ok(), "{encoding}");
        }
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("zstd"));
        let is_decoded = BodyCollector::new(&mut headers, 9).is_ok();
        assert_eq!(is_decoded, ACCEPT_ENCODING.contains("zstd"));
    }
}
