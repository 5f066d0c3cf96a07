//! Request bodies: their content type, decompression and size limit.

use std::io::Read;

use bytes::Bytes;
use http::StatusCode;

use super::Refusal;
use crate::http::Request;

/// The binary logarithm of the maximum window size of zstd, in bytes. A zstd decoder allocates as much memory as the compressed
/// data asks for, so it needs a limit. RFC 9659 sets it to 8 MB for HTTP.
const MAX_WINDOW_LOG: u32 = 23;

/// Returns the body of `request`, decompressed if it is zstd.
///
/// # Errors
///
/// If the request body exceeds `limit` bytes, is not valid zstd, or has another content coding.
pub(crate) fn decompressed(request: &Request, limit: usize) -> Result<Bytes, Refusal> {
    let coding = request.header("content-encoding").unwrap_or("identity");
    let coding = coding.trim().to_ascii_lowercase();
    let body = match coding.as_str() {
        "" | "identity" => request.body.clone(),
        "zstd" => decompress(&request.body, limit)?,
        other => {
            let reason = format!("content-encoding {other:?} is not taken; send zstd or nothing");
            return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, reason));
        }
    };
    if body.len() > limit {
        return Err(too_large(limit));
    }
    Ok(body)
}

/// Returns the 413 refusal of a request body of more than `limit` bytes.
pub(crate) fn too_large(limit: usize) -> Refusal {
    let reason = format!("the body is longer than {limit} bytes; send fewer data in one request");
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, reason)
}

/// Returns whether a request body of this content type is protobuf.
pub(crate) fn is_protobuf(content_type: Option<&str>) -> bool {
    content_type.is_some_and(|content_type| content_type.contains("protobuf"))
}

fn decompress(compressed: &[u8], limit: usize) -> Result<Bytes, Refusal> {
    let unreadable = |error: std::io::Error| {
        let reason = format!("the body is not zstd: {error}");
        Refusal::new(StatusCode::BAD_REQUEST, reason)
    };
    let mut decoder = zstd::stream::read::Decoder::with_buffer(compressed).map_err(unreadable)?;
    decoder.window_log_max(MAX_WINDOW_LOG).map_err(unreadable)?;
    let mut decompressed = Vec::new();
    // Reads one byte more than the limit, because the size that a frame declares may be false.
    decoder
        .take(limit as u64 + 1)
        .read_to_end(&mut decompressed)
        .map_err(unreadable)?;
    if decompressed.len() > limit {
        return Err(too_large(limit));
    }
    Ok(Bytes::from(decompressed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, HeaderValue, Method};

    fn status_of(coding: &'static str, body: Vec<u8>) -> u16 {
        let mut headers = HeaderMap::new();
        headers.insert("content-encoding", HeaderValue::from_static(coding));
        let request = Request {
            method: Method::POST,
            path: "/".into(),
            headers,
            body: body.into(),
        };
        match decompressed(&request, 1000) {
            Ok(_) => 200,
            Err(refusal) => refusal.into_response().status().as_u16(),
        }
    }

    #[test]
    fn decompressed_body_size_is_bounded_and_invalid_zstd_refused() {
        let bomb = zstd::encode_all(&vec![0u8; 1 << 20][..], 3).unwrap();
        assert!(bomb.len() < 1000);
        assert_eq!(status_of("zstd", bomb), 413);
        assert_eq!(
            status_of("zstd", zstd::encode_all(&[7u8; 1000][..], 3).unwrap()),
            200
        );
        assert_eq!(status_of("zstd", vec![1, 2, 3]), 400);
        // One empty frame declares a window of 128 MB, the other a window of 8 MB.
        let frame = |window| vec![0x28, 0xb5, 0x2f, 0xfd, 0, window, 1, 0, 0];
        assert_eq!(status_of("zstd", frame(17 << 3)), 400);
        assert_eq!(status_of("zstd", frame(13 << 3)), 200);
        assert_eq!(status_of("gzip", vec![1]), 415);
        assert_eq!(status_of("identity", vec![0; 1001]), 413);
    }
}
