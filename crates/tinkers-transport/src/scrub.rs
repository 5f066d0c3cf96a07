//! Takes secrets out of what servers echo, before anybody can show or log it.

use std::error::Error as StdError;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use memchr::memmem::Finder;
use tinkers_core::{Error, HttpResponse, TransportError};

/// Knows the secrets that are sent, in the forms in which servers repeat them, and puts asterisks in their place.
pub(crate) struct Scrubber {
    /// Each secret as it is: what is looked for in results.
    plain: Vec<Finder<'static>>,
    /// The other forms: looked for as well in what may become part of an error.
    disguised: Vec<Finder<'static>>,
}

/// A shorter one is a placeholder, and its letters are everywhere.
const SHORTEST: usize = 6;
/// In a result nothing may be touched by chance, a number that is somebody's placeholder least of all.
const SHORTEST_IN_RESULTS: usize = 16;

impl Scrubber {
    pub(crate) fn new<'a>(secrets: impl Iterator<Item = &'a HeaderValue>) -> Self {
        let plain: Vec<Vec<u8>> = secrets
            .map(|secret| secret.as_bytes().to_vec())
            .filter(|secret| secret.len() >= SHORTEST)
            .collect();
        let mut disguised: Vec<Vec<u8>> = plain.iter().flat_map(|secret| forms(secret)).collect();
        // The longest first, so that no part of one is left beside the asterisks of a shorter one.
        disguised.sort_by_key(|form| std::cmp::Reverse(form.len()));
        disguised.dedup();
        // Made once: they are looked for in every answer.
        let finders = |forms: &[Vec<u8>]| {
            let forms = forms.iter();
            forms.map(|form| Finder::new(form).into_owned()).collect()
        };
        Self {
            plain: finders(&plain),
            disguised: finders(&disguised),
        }
    }

    /// Cleans an answer or a failure.
    pub(crate) fn clean(&self, outcome: &mut Result<HttpResponse, TransportError>) {
        if self.plain.is_empty() {
            return;
        }
        match outcome {
            Ok(answer) if answer.status.is_success() => {
                // An error about a result that cannot be read shows no more than this of it.
                self.clean_body(&mut answer.body, Error::MAX_BODY, Self::mask_result);
                self.clean_headers(&mut answer.headers, Self::mask_result);
            }
            Ok(answer) => {
                self.clean_body(&mut answer.body, usize::MAX, Self::mask);
                self.clean_headers(&mut answer.headers, Self::mask);
            }
            Err(error) => self.clean_error(error),
        }
    }

    /// `text` without secrets.
    pub(crate) fn text(&self, text: &str) -> String {
        match self.mask(text.as_bytes()) {
            Some(masked) => String::from_utf8_lossy(&masked).into_owned(),
            None => text.to_owned(),
        }
    }

    fn clean_body(
        &self,
        body: &mut Bytes,
        limit: usize,
        mask: impl Fn(&Self, &[u8]) -> Option<Vec<u8>>,
    ) {
        // A secret that begins within the limit is hidden whole.
        let longest = self.plain.iter().map(length).max().unwrap_or(0);
        let (shown, rest) = body.split_at(body.len().min(limit.saturating_add(longest)));
        if let Some(mut masked) = mask(self, shown) {
            masked.extend_from_slice(rest);
            *body = masked.into();
        }
    }

    fn clean_headers(
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

    fn clean_error(&self, error: &mut TransportError) {
        error.message = self.text(&error.message);
        let mut below = error
            .source
            .as_deref()
            .map(|e| e as &(dyn StdError + 'static));
        while let Some(cause) = below {
            if self.mask(format!("{cause} {cause:?}").as_bytes()).is_some() {
                // It cannot be changed, so it goes.
                error.source = None;
                return;
            }
            below = cause.source();
        }
    }

    fn mask(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        masked(bytes, self.disguised.iter())
    }

    fn mask_result(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let long = |secret: &&Finder<'_>| length(secret) >= SHORTEST_IN_RESULTS;
        masked(bytes, self.plain.iter().filter(long))
    }
}

impl fmt::Debug for Scrubber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scrubber").finish_non_exhaustive()
    }
}

/// `bytes` with asterisks over each of `forms`, as many as there were bytes, so that lengths around it stay true; `None` when
/// there is none.
fn masked<'a>(bytes: &[u8], forms: impl Iterator<Item = &'a Finder<'static>>) -> Option<Vec<u8>> {
    let mut found: Option<Vec<u8>> = None;
    for form in forms {
        // Most headers are shorter than any secret.
        if bytes.len() < length(form) {
            continue;
        }
        let mut from = 0;
        while let Some(at) = form.find(&found.as_deref().unwrap_or(bytes)[from..]) {
            let masked = found.get_or_insert_with(|| bytes.to_vec());
            masked[from + at..from + at + length(form)].fill(b'*');
            from += at + length(form);
        }
    }
    found
}

fn length(form: &Finder<'_>) -> usize {
    form.needle().len()
}

/// What `secret` looks like as it is, in JSON, in a URL, and in base64 behind any number of other bytes.
fn forms(secret: &[u8]) -> Vec<Vec<u8>> {
    let mut forms = vec![secret.to_vec()];
    for escaped in [&b"\"\\"[..], b"\"\\/"] {
        let json = secret.iter().flat_map(|byte| {
            let slash = escaped.contains(byte).then_some(b'\\');
            slash.into_iter().chain([*byte])
        });
        forms.push(json.collect());
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
        forms.push(url.collect());
    }
    for before in 0..3 {
        let padded: Vec<u8> = std::iter::repeat_n(0, before)
            .chain(secret.iter().copied())
            .collect();
        // Only the characters that hold bits of the secret alone.
        let (first, last) = ((before * 8).div_ceil(6), padded.len() * 8 / 6);
        for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
            forms.push(engine.encode(&padded).as_bytes()[first..last].to_vec());
        }
    }
    forms
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use tinkers_core::{Sent, TransportErrorKind};

    use super::*;

    const KEY: &str = "tml-hush/Key+\"1\\2";

    fn scrubber(secrets: &[&'static str]) -> Scrubber {
        let values: Vec<HeaderValue> = secrets
            .iter()
            .map(|secret| HeaderValue::from_static(secret))
            .collect();
        Scrubber::new(values.iter())
    }

    fn answer(status: u16, body: impl Into<Bytes>) -> Result<HttpResponse, TransportError> {
        Ok(HttpResponse {
            status: StatusCode::from_u16(status).expect("valid"),
            headers: HeaderMap::new(),
            body: body.into(),
        })
    }

    fn body(outcome: Result<HttpResponse, TransportError>) -> String {
        let body = outcome.expect("an answer").body;
        String::from_utf8(body.to_vec()).expect("text")
    }

    #[test]
    fn each_form_of_a_secret_goes_and_what_is_around_it_stays() {
        let scrubber = scrubber(&[KEY]);
        let basic = base64::engine::general_purpose::STANDARD.encode(format!("user:{KEY}:x"));
        for (form, hidden) in [
            (KEY.to_owned(), KEY.len()),
            (r#"tml-hush/Key+\"1\\2"#.to_owned(), 19),
            (r#"tml-hush\/Key+\"1\\2"#.to_owned(), 20),
            ("tml-hush%2FKey%2B%221%5C2".to_owned(), 25),
            ("tml-hush%2fKey%2b%221%5c2".to_owned(), 25),
            ("dG1sLWh1c2gvS2V5KyIxXDI=".to_owned(), 22),
            (URL_SAFE_NO_PAD.encode(KEY), 22),
            (basic, 22),
        ] {
            let text = format!("invalid key {form}, and again {form}; bye");
            let mut outcome = answer(401, text.clone());
            scrubber.clean(&mut outcome);
            let shown = body(outcome);
            assert_eq!(shown.matches('*').count(), 2 * hidden, "{form}: {shown}");
            assert_eq!(shown.len(), text.len(), "{form}");
            assert!(shown.starts_with("invalid key "), "{shown}");
            assert!(shown.ends_with("; bye"), "{shown}");
        }
    }

    #[test]
    fn headers_messages_and_causes_are_cleaned() {
        let scrubber = scrubber(&[KEY]);
        let mut outcome = answer(403, "");
        let note = HeaderValue::from_str(&format!("the key {KEY} is old")).expect("a value");
        if let Ok(answer) = &mut outcome {
            answer.headers.insert("x-note", note);
        }
        scrubber.clean(&mut outcome);
        let answer = outcome.expect("an answer");
        let note = answer.headers["x-note"].to_str().expect("text");
        assert!(
            note.starts_with("the key ***") && !note.contains("hush"),
            "{note}"
        );

        let error = TransportError::new(TransportErrorKind::Redirect, Sent::Answered, "to nowhere");
        let mut outcome = Err(error.with_source(format!("not {KEY}")));
        scrubber.clean(&mut outcome);
        let error = outcome.expect_err("still");
        assert!(error.source.is_none());
        let mut outcome = Err(TransportError::new(
            TransportErrorKind::Redirect,
            Sent::Answered,
            format!("to https://{KEY}/"),
        )
        .with_source("harmless"));
        scrubber.clean(&mut outcome);
        let error = outcome.expect_err("still");
        assert!(
            !error.message.contains("hush") && error.source.is_some(),
            "{error}"
        );
    }

    #[test]
    fn a_result_is_touched_for_a_real_secret_only_and_a_placeholder_never_matters() {
        let numbers = r#"[0.12345678, 12345678, "dummy"]"#;
        for status in [200, 400] {
            let mut outcome = answer(status, numbers);
            scrubber(&["dummy", "k"]).clean(&mut outcome);
            assert_eq!(body(outcome), numbers, "{status}");
        }
        let mut outcome = answer(200, numbers);
        scrubber(&["12345678"]).clean(&mut outcome);
        assert_eq!(body(outcome), numbers);
        let mut outcome = answer(200, format!("hello {KEY}"));
        scrubber(&[KEY]).clean(&mut outcome);
        assert_eq!(body(outcome), format!("hello {}", "*".repeat(KEY.len())));
        // At the end of what an error would keep, where the cut must not leave a part of it.
        let long = format!("{}{KEY}{}", "x".repeat(Error::MAX_BODY - 3), "y".repeat(99));
        let mut outcome = answer(200, long.clone());
        scrubber(&[KEY]).clean(&mut outcome);
        let shown = body(outcome);
        assert!(!shown.contains("tml") && shown.len() == long.len());
    }
}
