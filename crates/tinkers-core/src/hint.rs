//! Parsing of the server's retry delay.

use std::time::{Duration, SystemTime};

use http::HeaderMap;

use crate::response::HttpResponse;

/// Returns the server's retry delay, from the first of these that the response contains: the header `retry-after-ms`, the header
/// `Retry-After` in seconds or as a date, or the field `retry_after_ms` of a JSON body. Invalid, negative and infinite values are ignored.
///
/// The delay up to a date is counted from the `Date` header of the response, so that a wrong local clock does not shorten it. If that
/// header is missing, the delay is counted from `wall`, the local time.
pub fn retry_after(answer: &HttpResponse, wall: SystemTime) -> Option<Duration> {
    retry_after_header(&answer.headers, wall)
        .or_else(|| positive(body_milliseconds(&answer.body)? / 1e3))
}

/// Returns the server's retry delay like [`retry_after`], but only from the headers of a response.
pub(crate) fn retry_after_header(headers: &HeaderMap, wall: SystemTime) -> Option<Duration> {
    let text = |name| headers.get(name)?.to_str().ok().map(str::trim);
    text("retry-after-ms")
        .and_then(|text| positive(text.parse::<f64>().ok()? / 1e3))
        .or_else(|| {
            let date = text("date").and_then(http_date);
            header_wait(text("retry-after")?, date.unwrap_or(wall))
        })
}

fn header_wait(text: &str, now: SystemTime) -> Option<Duration> {
    match text.parse::<f64>() {
        Ok(seconds) => positive(seconds),
        // A date in the past is ignored.
        Err(_) => http_date(text)?
            .duration_since(now)
            .ok()
            .filter(|wait| !wait.is_zero()),
    }
}

fn positive(seconds: f64) -> Option<Duration> {
    if !(seconds.is_finite() && seconds > 0.0) {
        return None;
    }
    // A value above the range of `Duration` still means a long delay.
    Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
}

fn body_milliseconds(body: &[u8]) -> Option<f64> {
    // Bodies of 429 responses are small. A large body is not worth parsing.
    if body.len() > 64 * 1024 || !body.starts_with(b"{") {
        return None;
    }
    tinkers_wire::retry_after_ms(body)
}

/// Parses an HTTP date in any of the three formats of RFC 9110.
fn http_date(text: &str) -> Option<SystemTime> {
    httpdate::parse_http_date(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

    fn answer(headers: &[(&str, &str)], body: &'static str) -> HttpResponse {
        let headers: HeaderMap = headers
            .iter()
            .map(|(k, v)| {
                (
                    k.parse::<HeaderName>().unwrap(),
                    v.parse::<HeaderValue>().unwrap(),
                )
            })
            .collect();
        HttpResponse {
            status: StatusCode::TOO_MANY_REQUESTS,
            headers,
            body: Bytes::from_static(body.as_bytes()),
        }
    }

    #[test]
    fn retry_after_is_parsed_in_each_format_and_ignored_if_invalid() {
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let ms = Duration::from_millis;
        type Row = (
            &'static [(&'static str, &'static str)],
            &'static str,
            Option<Duration>,
        );
        let rows: &[Row] = &[
            (&[("retry-after-ms", "1500")], "", Some(ms(1500))),
            (
                &[("retry-after-ms", "1500"), ("retry-after", "9")],
                "",
                Some(ms(1500)),
            ),
            (
                &[("retry-after-ms", "soon"), ("retry-after", "9")],
                "",
                Some(ms(9000)),
            ),
            (&[("retry-after", "0.25")], "", Some(ms(250))),
            (
                &[("retry-after", "Sun, 06 Nov 1994 08:49:47 GMT")],
                "",
                Some(ms(10_000)),
            ),
            (
                &[("retry-after", "Sun, 06 Nov 1994 08:49:07 GMT")],
                "",
                None,
            ),
            // The server's clock is an hour off. Only the difference to the `Date` of the response counts.
            (
                &[
                    ("retry-after", "Sun, 06 Nov 1994 07:49:47 GMT"),
                    ("date", "Sun, 06 Nov 1994 07:49:37 GMT"),
                ],
                "",
                Some(ms(10_000)),
            ),
            (
                &[
                    ("retry-after", "Sun, 06 Nov 1994 09:49:47 GMT"),
                    ("date", "Sun, 06 Nov 1994 09:49:37 GMT"),
                ],
                "",
                Some(ms(10_000)),
            ),
            (
                &[
                    ("retry-after", "Sun, 06 Nov 1994 08:49:47 GMT"),
                    ("date", "yesterday"),
                ],
                "",
                Some(ms(10_000)),
            ),
            (&[("retry-after", "-3")], "", None),
            (&[("retry-after", "NaN")], "", None),
            (&[("retry-after", "inf")], "", None),
            (&[("retry-after", "1e300")], "", Some(Duration::MAX)),
            (&[("retry-after-ms", "1e300")], "", Some(Duration::MAX)),
            (&[], r#"{"retry_after_ms": 1e300}"#, Some(Duration::MAX)),
            (
                &[("retry-after", "Sun, 32 Nov 1994 08:49:07 GMT")],
                "",
                None,
            ),
            (&[], r#"{"retry_after_ms": 750}"#, Some(ms(750))),
            (&[], r#"{"detail": {"retry_after_ms": 75}}"#, Some(ms(75))),
            (&[], r#"{"retry_after_ms": -1}"#, None),
            (&[], "{not json", None),
            (&[], "", None),
        ];
        for (headers, body, expected) in rows {
            assert_eq!(
                retry_after(&answer(headers, body), wall),
                *expected,
                "{headers:?} {body}"
            );
        }
    }

    #[test]
    fn http_dates_in_all_three_formats_are_parsed() {
        for (text, seconds) in [
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_777),
            ("Sunday, 06-Nov-94 08:49:37 GMT", 784_111_777),
            ("Sun Nov  6 08:49:37 1994", 784_111_777),
            ("Thu, 29 Feb 2024 12:00:00 GMT", 1_709_208_000),
            ("Mon, 23 Nov 2026 09:01:12 GMT", 1_795_424_472),
        ] {
            assert_eq!(
                http_date(text),
                Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)),
                "{text}"
            );
        }
    }
}
