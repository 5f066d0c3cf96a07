//! Bodies of answers: decompressed as they arrive, and never longer than allowed.

use std::io::{self, Write};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use tinkers_core::{Sent, TransportError, TransportErrorKind};
use zstd::stream::raw::{DParameter, Operation};

/// What is offered to servers.
pub(crate) const ACCEPT_ENCODING: &str = "gzip, zstd";

/// Room set aside on the word of a `Content-Length` alone; beyond it, room grows with what really comes.
const TRUSTED_LENGTH: usize = 1 << 20;

/// Collects one body.
pub(crate) struct Collector {
    inner: Inner,
    limit: usize,
    seen: bool,
}

enum Inner {
    Plain {
        first: Bytes,
        more: BytesMut,
        /// To be set aside when there is a second piece.
        room: usize,
    },
    Gzip(Box<flate2::write::MultiGzDecoder<Bounded>>),
    Zstd(Box<ZstdStream>),
}

impl Collector {
    /// For an answer with these headers, of at most `limit` bytes after decompression. Takes the headers that no longer hold
    /// out of them. Fails with `Decode` for an encoding that was not asked for, with `TooLarge` when the length is announced
    /// and beyond the limit.
    pub(crate) fn new(headers: &mut HeaderMap, limit: usize) -> Result<Self, TransportError> {
        let encoding = headers
            .get(CONTENT_ENCODING)
            .map(|value| value.to_str().unwrap_or("?").trim().to_ascii_lowercase())
            .unwrap_or_default();
        let announced = headers
            .get(CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
        let bounded = || Bounded {
            bytes: Vec::new(),
            limit,
        };
        let inner = match encoding.as_str() {
            "" | "identity" => {
                if announced.is_some_and(|length| length > limit) {
                    return Err(too_large(limit));
                }
                let room = announced.unwrap_or(0).min(TRUSTED_LENGTH);
                return Ok(Self {
                    inner: Inner::Plain {
                        first: Bytes::new(),
                        more: BytesMut::new(),
                        room,
                    },
                    limit,
                    seen: false,
                });
            }
            "gzip" | "x-gzip" => {
                Inner::Gzip(Box::new(flate2::write::MultiGzDecoder::new(bounded())))
            }
            "zstd" => {
                let stream = ZstdStream::new(bounded());
                Inner::Zstd(Box::new(
                    stream.map_err(|error| broken("zstd").with_source(error))?,
                ))
            }
            other => {
                let shown: String = other.chars().take(40).collect();
                return Err(answered(
                    TransportErrorKind::Decode,
                    format!("the answer is encoded as {shown:?}, which was not asked for"),
                ));
            }
        };
        headers.remove(CONTENT_ENCODING);
        headers.remove(CONTENT_LENGTH);
        Ok(Self {
            inner,
            limit,
            seen: false,
        })
    }

    /// Takes the next piece.
    pub(crate) fn push(&mut self, piece: Bytes) -> Result<(), TransportError> {
        self.seen |= !piece.is_empty();
        match &mut self.inner {
            Inner::Plain { first, more, room } => {
                if first.len() + more.len() + piece.len() > self.limit {
                    return Err(too_large(self.limit));
                }
                // An answer in one piece is passed on without a copy.
                if first.is_empty() && more.is_empty() {
                    *first = piece;
                    return Ok(());
                }
                if more.is_empty() {
                    more.reserve(*room);
                    more.extend_from_slice(&std::mem::take(first));
                }
                more.extend_from_slice(&piece);
                Ok(())
            }
            Inner::Gzip(decoder) => decoder
                .write_all(&piece)
                .map_err(|error| classify("gzip", error, self.limit)),
            Inner::Zstd(stream) => stream
                .push(&piece)
                .map_err(|error| classify("zstd", error, self.limit)),
        }
    }

    /// The whole body, when all pieces are in. A compressed body that stops in the middle is a `Decode` failure.
    pub(crate) fn finish(self) -> Result<Bytes, TransportError> {
        let limit = self.limit;
        if !self.seen {
            // An answer without a body (HEAD, 204, 304) may name the encoding that it would have had.
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
            Inner::Zstd(stream) => stream
                .finish()
                .map_err(|error| classify("zstd", error, limit)),
        }
    }
}

/// Reads a body that comes in two pieces, for the tests that give foreign bytes to every reader.
///
/// # Errors
/// As answers do.
#[cfg(feature = "fuzz")]
pub fn decode_body(encoding: &str, body: &[u8], limit: usize) -> Result<Bytes, TransportError> {
    let mut headers = HeaderMap::new();
    if let Ok(encoding) = http::HeaderValue::from_str(encoding) {
        headers.insert(CONTENT_ENCODING, encoding);
    }
    let mut collector = Collector::new(&mut headers, limit)?;
    let (first, second) = body.split_at(body.len() / 2);
    collector.push(Bytes::copy_from_slice(first))?;
    collector.push(Bytes::copy_from_slice(second))?;
    collector.finish()
}

/// A zstd decoder that is fed, and that knows whether it stands at the end of a frame.
struct ZstdStream {
    decoder: zstd::stream::raw::Decoder<'static>,
    output: Bounded,
    scratch: Vec<u8>,
    /// Zero at the end of a frame.
    remaining: usize,
}

impl ZstdStream {
    fn new(output: Bounded) -> io::Result<Self> {
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
            // Output that filled the scratch may have more behind it, also when all input is taken, but not behind the end of
            // a frame.
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

/// A decoder takes as much memory as a frame's window asks for; RFC 9659 bounds that to 8 MB for HTTP.
const MAX_WINDOW_LOG: u32 = 23;

/// One zstd block at most.
const ZSTD_SCRATCH: usize = 128 * 1024;

/// A buffer that refuses to grow beyond its limit, so that a small body cannot fill the memory.
struct Bounded {
    bytes: Vec<u8>,
    limit: usize,
}

impl Write for Bounded {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + piece.len() > self.limit {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "beyond the limit",
            ));
        }
        self.bytes.extend_from_slice(piece);
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn classify(encoding: &str, error: io::Error, limit: usize) -> TransportError {
    if error.kind() == io::ErrorKind::FileTooLarge {
        too_large(limit)
    } else {
        broken(encoding).with_source(error)
    }
}

fn too_large(limit: usize) -> TransportError {
    answered(
        TransportErrorKind::TooLarge,
        format!("the answer's body is longer than {limit} bytes"),
    )
}

fn broken(encoding: &str) -> TransportError {
    answered(
        TransportErrorKind::Decode,
        format!("the answer's {encoding} body is damaged"),
    )
}

fn answered(kind: TransportErrorKind, message: String) -> TransportError {
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
        piece: usize,
        limit: usize,
    ) -> Result<Bytes, TransportErrorKind> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        let mut collect = || {
            let mut collector = Collector::new(&mut headers, limit)?;
            for piece in body.chunks(piece) {
                collector.push(Bytes::copy_from_slice(piece))?;
            }
            collector.finish()
        };
        collect().map_err(|error| {
            assert_eq!(error.sent, Sent::Answered);
            error.kind
        })
    }

    #[test]
    fn a_frame_that_wants_a_large_window_is_refused_whatever_it_holds() {
        // Empty frames, with windows of 128 MB and of 8 MB.
        let frame = |window: u8| [0x28, 0xb5, 0x2f, 0xfd, 0, window, 1, 0, 0];
        let read = |window| decode("zstd", &frame(window), usize::MAX, 1000);
        assert_eq!(read(17 << 3), Err(TransportErrorKind::Decode));
        assert_eq!(read(13 << 3), Ok(Bytes::new()));
    }

    #[test]
    fn each_encoding_gives_back_what_went_in_however_it_is_cut() {
        let body: Vec<u8> = (0..100_000u32)
            .flat_map(|n| (n / 7).to_le_bytes())
            .collect();
        let zstd = zstd::bulk::compress(&body, 3).expect("compresses");
        let packed = gzip(&body);
        for piece in [1, 1000, usize::MAX] {
            for (encoding, bytes) in [
                ("gzip", &packed[..]),
                ("zstd", &zstd),
                ("identity", &body),
                ("", &body),
            ] {
                let got = decode(encoding, bytes, piece, body.len());
                assert_eq!(
                    got.expect(encoding),
                    body,
                    "{encoding} in pieces of {piece}"
                );
            }
        }
    }

    #[test]
    fn the_limit_is_exact_for_each_encoding() {
        let body = vec![b'a'; 1 << 20];
        let zstd = zstd::bulk::compress(&body, 3).expect("compresses");
        let packed = gzip(&body);
        for (encoding, bytes) in [("gzip", &packed[..]), ("zstd", &zstd), ("", &body)] {
            assert!(
                decode(encoding, bytes, 4096, body.len()).is_ok(),
                "{encoding}"
            );
            let short = decode(encoding, bytes, 4096, body.len() - 1);
            assert_eq!(short.expect_err(encoding), TransportErrorKind::TooLarge);
        }
    }

    #[test]
    fn damaged_cut_and_unknown_encodings_are_decode_failures() {
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
}
