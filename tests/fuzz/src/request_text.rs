//! A lenient parser of HTTP/1.1 requests. It accepts requests that hyper would refuse, so that
//! these requests reach the parsers of the embedded server.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use memchr::memmem;
use tinkers_local::Request;

/// The maximum number of requests that are parsed from one input. The rest of the input is ignored.
const MAX_REQUESTS: usize = 8;

/// Parses the requests that an input contains one after another. The `content-length` header of a
/// request gives the length of its body. Without this header, the body is the rest of the input.
pub(crate) fn parse(mut bytes: &[u8]) -> Vec<Request> {
    let mut all = Vec::new();
    while !bytes.is_empty() && all.len() < MAX_REQUESTS {
        let (head, rest) = split_head(bytes);
        let (method, path, headers) = self::head(head);
        let length = headers.get("content-length");
        let length = length.and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
        let (body, rest) =
            rest.split_at(length.map_or(rest.len(), |length| length.min(rest.len())));
        all.push(Request {
            method,
            path,
            headers,
            body: Bytes::copy_from_slice(body),
        });
        bytes = rest;
    }
    all
}

/// Splits the input at the end of the head (request line and headers) of the first request.
fn split_head(bytes: &[u8]) -> (&[u8], &[u8]) {
    let end = b"\r\n\r\n";
    let at = memmem::find(bytes, end);
    at.map_or((bytes, &[]), |at| (&bytes[..at], &bytes[at + end.len()..]))
}

/// Parses the head (request line and headers) of a request, and ignores its invalid parts.
fn head(bytes: &[u8]) -> (Method, String, HeaderMap) {
    let mut lines = bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let first = lines.next().unwrap_or_default();
    let first = first.strip_suffix(b" HTTP/1.1").unwrap_or(first);
    let at = first.iter().position(|byte| *byte == b' ');
    let (method, path) = first.split_at(at.unwrap_or(first.len()));
    let path = String::from_utf8_lossy(path.trim_ascii_start()).into_owned();
    let headers = lines.filter_map(|line| {
        let at = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(line[..at].trim_ascii()).ok()?;
        let value = HeaderValue::from_bytes(line[at + 1..].trim_ascii()).ok()?;
        Some((name, value))
    });
    let mut all = HeaderMap::new();
    for (name, value) in headers {
        // The header map refuses more than 32,768 headers.
        let _ = all.try_append(name, value);
    }
    (Method::from_bytes(method).unwrap_or(Method::GET), path, all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consecutive_requests_in_a_fuzz_input_are_parsed_separately() {
        let bytes = b"POST /a?b HTTP/1.1\r\nX-A: 1\r\nno header\r\ncontent-length: 2\r\n\r\nabBREW /c d HTTP/1.1\r\ncontent-length: 9\r\n\r\nxyz";
        let all = parse(bytes);
        assert_eq!(all.len(), 2);
        assert_eq!(
            (all[0].method.as_str(), all[0].path.as_str()),
            ("POST", "/a?b")
        );
        assert_eq!((all[0].headers.len(), &all[0].body[..]), (2, &b"ab"[..]));
        assert_eq!(
            (all[1].method.as_str(), all[1].path.as_str()),
            ("BREW", "/c d")
        );
        assert_eq!(&all[1].body[..], b"xyz");
        assert_eq!(parse(b"\xff\xff").len(), 1);
        assert!(parse(b"").is_empty());
    }
}
