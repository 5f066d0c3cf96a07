//! Masking of secrets that servers echo, before responses and errors are shown or logged.

use std::error::Error as StdError;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use memchr::memmem::Finder;
use tinkers_core::{Error, HttpResponse, TransportError};

/// A redactor that replaces secrets, such as the API key, by asterisks in responses and errors. It finds the secrets in all encodings in
/// which servers echo them.
pub(crate) struct Redactor {
    /// The secrets without an encoding. In successful responses, only these forms are replaced by asterisks.
    plain: Vec<Finder<'static>>,
    /// The secrets in all encodings in which servers echo them, such as base64. In errors and failed responses, all of these forms are
    /// replaced by asterisks.
    encoded: Vec<Finder<'static>>,
}

/// The minimum length in bytes of a secret that is masked. A shorter secret is a placeholder, and may occur in any text by chance.
const MIN_LEN: usize = 6;
/// The minimum length in bytes of a secret that is masked in successful responses. A shorter secret might occur in a result by chance, and
/// masking would change the result.
const MIN_LEN_IN_RESULTS: usize = 16;

impl Redactor {
    pub(crate) fn new<'a>(secrets: impl Iterator<Item = &'a HeaderValue>) -> Self {
        let plain: Vec<Vec<u8>> = secrets
            .map(|secret| without_scheme(secret.as_bytes()).to_vec())
            .filter(|secret| secret.len() >= MIN_LEN)
            .collect();
        let mut encoded: Vec<Vec<u8>> = plain.iter().flat_map(|secret| encodings(secret)).collect();
        // The longest first, so that masking a shorter one leaves no part of a longer one visible.
        encoded.sort_by_key(|pattern| std::cmp::Reverse(pattern.len()));
        encoded.dedup();
        // Prepared here, since every response is searched.
        let finders = |encodings: &[Vec<u8>]| {
            let encodings = encodings.iter();
            encodings
                .map(|pattern| Finder::new(pattern).into_owned())
                .collect()
        };
        Self {
            plain: finders(&plain),
            encoded: finders(&encoded),
        }
    }

    /// Replaces the secrets in a response or an error by asterisks.
    pub(crate) fn redact(&self, outcome: &mut Result<HttpResponse, TransportError>) {
        if self.plain.is_empty() {
            return;
        }
        match outcome {
            Ok(response) if response.status.is_success() => {
                // An error about an invalid result shows at most this part of it.
                self.redact_body(&mut response.body, Error::MAX_BODY, Self::mask_result);
                self.redact_headers(&mut response.headers, Self::mask_result);
            }
            Ok(response) => {
                self.redact_body(&mut response.body, usize::MAX, Self::mask);
                self.redact_headers(&mut response.headers, Self::mask);
            }
            Err(error) => self.redact_error(error),
        }
    }

    /// Returns `text` with the secrets replaced by asterisks.
    pub(crate) fn text(&self, text: &str) -> String {
        match self.mask(text.as_bytes()) {
            Some(masked) => String::from_utf8_lossy(&masked).into_owned(),
            None => text.to_owned(),
        }
    }

    fn redact_body(
        &self,
        body: &mut Bytes,
        limit: usize,
        mask: impl Fn(&Self, &[u8]) -> Option<Vec<u8>>,
    ) {
        // A secret that starts within the limit is masked completely.
        let longest = self.plain.iter().map(length).max().unwrap_or(0);
        let (shown, rest) = body.split_at(body.len().min(limit.saturating_add(longest)));
        if let Some(mut masked) = mask(self, shown) {
            masked.extend_from_slice(rest);
            *body = masked.into();
        }
    }

    fn redact_headers(
        &self,
        headers: &mut HeaderMap,
        mask: impl Fn(&Self, &[u8]) -> Option<Vec<u8>>,
    ) {
        for value in headers.values_mut() {
            if let Some(masked) = mask(self, value.as_bytes())
                && let Ok(masked) = HeaderValue::from_bytes(&masked)
            {
                *value = masked;
            }
        }
    }

    fn redact_error(&self, error: &mut TransportError) {
        error.message = self.text(&error.message);
        let mut source = error
            .source
            .as_deref()
            .map(|e| e as &(dyn StdError + 'static));
        while let Some(cause) = source {
            if self.mask(format!("{cause} {cause:?}").as_bytes()).is_some() {
                // The source cannot be changed, so it is removed.
                error.source = None;
                return;
            }
            source = cause.source();
        }
    }

    fn mask(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        masked(bytes, self.encoded.iter())
    }

    fn mask_result(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let long = |secret: &&Finder<'_>| length(secret) >= MIN_LEN_IN_RESULTS;
        masked(bytes, self.plain.iter().filter(long))
    }
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redactor").finish_non_exhaustive()
    }
}

/// Returns `bytes` with all occurrences of the patterns replaced by the same number of asterisks, or `None` if no pattern occurs.
fn masked<'a>(
    bytes: &[u8],
    encodings: impl Iterator<Item = &'a Finder<'static>>,
) -> Option<Vec<u8>> {
    let mut found: Option<Vec<u8>> = None;
    for pattern in encodings {
        // Most header values are shorter than the secrets.
        if bytes.len() < length(pattern) {
            continue;
        }
        let mut from = 0;
        while let Some(at) = pattern.find(&found.as_deref().unwrap_or(bytes)[from..]) {
            let masked = found.get_or_insert_with(|| bytes.to_vec());
            masked[from + at..from + at + length(pattern)].fill(b'*');
            from += at + length(pattern);
        }
    }
    found
}

/// Returns the value of a header without the authentication scheme `Bearer` or `Basic`, since servers echo a token without it.
fn without_scheme(value: &[u8]) -> &[u8] {
    for scheme in [&b"bearer "[..], b"basic "] {
        if let Some((start, secret)) = value.split_at_checked(scheme.len())
            && start.eq_ignore_ascii_case(scheme)
        {
            return secret.trim_ascii();
        }
    }
    value
}

fn length(pattern: &Finder<'_>) -> usize {
    pattern.needle().len()
}

/// Returns the forms of a secret that are masked: as it is, in JSON, percent-encoded, and in base64 at each of the three alignments.
fn encodings(secret: &[u8]) -> Vec<Vec<u8>> {
    let mut encodings = vec![secret.to_vec()];
    for escaped in [&b"\"\\"[..], b"\"\\/"] {
        let json = secret.iter().flat_map(|byte| {
            let slash = escaped.contains(byte).then_some(b'\\');
            slash.into_iter().chain([*byte])
        });
        encodings.push(json.collect());
    }
    for upper in [true, false] {
        let url = secret.iter().flat_map(|&byte| {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                vec![byte]
            } else if upper {
                format!("%{byte:02X}").into_bytes()
            } else {
                format!("%{byte:02x}").into_bytes()
            }
        });
        encodings.push(url.collect());
    }
    for before in 0..3 {
        let padded: Vec<u8> = std::iter::repeat_n(0, before)
            .chain(secret.iter().copied())
            .collect();
        // Only the characters that depend on nothing but the secret.
        let (first, last) = ((before * 8).div_ceil(6), padded.len() * 8 / 6);
        for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
            encodings.push(engine.encode(&padded).as_bytes()[first..last].to_vec());
        }
    }
    encodings
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use tinkers_core::{Sent, TransportErrorKind};

    use super::*;

    const KEY: &str = "tml-hush/Key+\"1\\2";

    fn redactor(secrets: &[&'static str]) -> Redactor {
        let values: Vec<HeaderValue> = secrets
            .iter()
            .map(|secret| HeaderValue::from_static(secret))
            .collect();
        Redactor::new(values.iter())
    }

    fn response(status: u16, body: impl Into<Bytes>) -> Result<HttpResponse, TransportError> {
        Ok(HttpResponse {
            status: StatusCode::from_u16(status).expect("valid"),
            headers: HeaderMap::new(),
            body: body.into(),
        })
    }

    fn body(outcome: Result<HttpResponse, TransportError>) -> String {
        let body = outcome.expect("a response").body;
        String::from_utf8(body.to_vec()).expect("text")
    }

    #[test]
    fn every_encoding_of_a_secret_is_masked() {
        let redactor = redactor(&[KEY]);
        let basic = base64::engine::general_purpose::STANDARD.encode(format!("user:{KEY}:x"));
        for (pattern, hidden) in [
            (KEY.to_owned(), KEY.len()),
            (r#"tml-hush/Key+\"1\\2"#.to_owned(), 19),
            (r#"tml-hush\/Key+\"1\\2"#.to_owned(), 20),
            ("tml-hush%2FKey%2B%221%5C2".to_owned(), 25),
            ("tml-hush%2fKey%2b%221%5c2".to_owned(), 25),
            ("dG1sLWh1c2gvS2V5KyIxXDI=".to_owned(), 22),
            (URL_SAFE_NO_PAD.encode(KEY), 22),
            (basic, 22),
        ] {
            let text = format!("invalid key {pattern}, and again {pattern}; bye");
            let mut outcome = response(401, text.clone());
            redactor.redact(&mut outcome);
            let shown = body(outcome);
            assert_eq!(shown.matches('*').count(), 2 * hidden, "{pattern}: {shown}");
            assert_eq!(shown.len(), text.len(), "{pattern}");
            assert!(shown.starts_with("invalid key "), "{shown}");
            assert!(shown.ends_with("; bye"), "{shown}");
        }
    }

    #[test]
    fn secrets_in_headers_and_errors_are_masked() {
        let redactor = redactor(&[KEY]);
        let mut outcome = response(403, "");
        let note = HeaderValue::from_str(&format!("the key {KEY} is old")).expect("a value");
        if let Ok(response) = &mut outcome {
            response.headers.insert("x-note", note);
        }
        redactor.redact(&mut outcome);
        let response = outcome.expect("a response");
        let note = response.headers["x-note"].to_str().expect("text");
        assert!(
            note.starts_with("the key ***") && !note.contains("hush"),
            "{note}"
        );

        let error = TransportError::new(TransportErrorKind::Redirect, Sent::Answered, "to nowhere");
        let mut outcome = Err(error.with_source(format!("not {KEY}")));
        redactor.redact(&mut outcome);
        let error = outcome.expect_err("still");
        assert!(error.source.is_none());
        let mut outcome = Err(TransportError::new(
            TransportErrorKind::Redirect,
            Sent::Answered,
            format!("to https://{KEY}/"),
        )
        .with_source("harmless"));
        redactor.redact(&mut outcome);
        let error = outcome.expect_err("still");
        assert!(
            !error.message.contains("hush") && error.source.is_some(),
            "{error}"
        );
    }

    #[test]
    fn short_secret_is_not_masked_in_successful_responses() {
        let numbers = r#"[0.12345678, 12345678, "dummy"]"#;
        for status in [200, 400] {
            let mut outcome = response(status, numbers);
            redactor(&["dummy", "k"]).redact(&mut outcome);
            assert_eq!(body(outcome), numbers, "{status}");
        }
        let mut outcome = response(200, numbers);
        redactor(&["12345678"]).redact(&mut outcome);
        assert_eq!(body(outcome), numbers);
        let mut outcome = response(200, format!("hello {KEY}"));
        redactor(&[KEY]).redact(&mut outcome);
        assert_eq!(body(outcome), format!("hello {}", "*".repeat(KEY.len())));
        // A secret that crosses the limit of the body in an error is masked completely.
        let long = format!("{}{KEY}{}", "x".repeat(Error::MAX_BODY - 3), "y".repeat(99));
        let mut outcome = response(200, long.clone());
        redactor(&[KEY]).redact(&mut outcome);
        let shown = body(outcome);
        assert!(!shown.contains("tml") && shown.len() == long.len());
    }
}
