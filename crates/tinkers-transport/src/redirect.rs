//! Which redirects are followed, and with what.

use http::header::LOCATION;
use http::{Method, StatusCode};
use tinkers_core::{HttpResponse, Scheme, Sent, TransportError, TransportErrorKind};

use crate::exchange::Message;
use crate::target::Target;

/// Redirects followed for one request.
pub(crate) const MAX_HOPS: usize = 5;

/// Where an answer to `message` leads; `None` when it is the answer itself.
///
/// `GET` and `HEAD` follow anywhere but from https to http. Any other method follows 307 and 308 within its origin, with its
/// body; all else would repeat, or silently turn into a `GET`, what may have been done.
pub(crate) fn next(
    message: &Message<'_>,
    response: &HttpResponse,
) -> Result<Option<Target>, TransportError> {
    let keeps_method = match response.status {
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => true,
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND | StatusCode::SEE_OTHER => false,
        _ => return Ok(None),
    };
    let Some(location) = response.headers.get(LOCATION) else {
        return Ok(None);
    };
    let here = &message.target;
    let status = response.status.as_u16();
    let target = location
        .to_str()
        .ok()
        .and_then(|location| here.follow(location))
        .ok_or_else(|| {
            refused(format!(
                "a {status} redirect of {} to no address of http",
                here.origin().address()
            ))
        })?;
    let step = || {
        format!(
            "a {status} redirect of {} from {} to {}",
            message.method,
            here.origin(),
            target.origin()
        )
    };
    if here.origin().scheme() == Scheme::Https && target.origin().scheme() == Scheme::Http {
        return Err(refused(format!(
            "{} would give up TLS and is not followed",
            step()
        )));
    }
    let reads = *message.method == Method::GET || *message.method == Method::HEAD;
    if reads || (keeps_method && target.origin() == here.origin()) {
        return Ok(Some(target));
    }
    Err(refused(format!(
        "{} is not followed; give the address it leads to as `base_url`",
        step()
    )))
}

pub(crate) fn too_many(message: &Message<'_>) -> TransportError {
    refused(format!(
        "more than {MAX_HOPS} redirects, the last to {}",
        message.target.origin()
    ))
}

fn refused(message: String) -> TransportError {
    TransportError::new(TransportErrorKind::Redirect, Sent::Answered, message)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, HeaderValue};

    use super::*;
    use crate::target::Place;
    use tinkers_core::{BaseUrl, Departure};

    fn decide(
        method: Method,
        base: &str,
        status: u16,
        location: &str,
    ) -> Result<Option<String>, ()> {
        let base = BaseUrl::parse(base).expect("valid");
        let place = Place::new(base.origin().clone()).expect("valid");
        let message = Message {
            target: Target::below(&place, base.prefix(), "/a/b".into()).expect("joins"),
            method: &method,
            given: &HeaderMap::new(),
            trusted: true,
            body: &Bytes::new(),
            departure: &Departure::default(),
        };
        let mut headers = HeaderMap::new();
        if !location.is_empty() {
            headers.insert(LOCATION, HeaderValue::from_str(location).expect("a value"));
        }
        let status = StatusCode::from_u16(status).expect("a status");
        let response = HttpResponse {
            status,
            headers,
            body: Bytes::new(),
        };
        match next(&message, &response) {
            Ok(target) => Ok(target.map(|target| target.absolute().expect("a URI").to_string())),
            Err(error) => {
                assert_eq!(
                    (error.kind, error.sent),
                    (TransportErrorKind::Redirect, Sent::Answered)
                );
                Err(())
            }
        }
    }

    #[test]
    fn the_table_of_redirects() {
        let (http, https) = ("http://h:1", "https://h");
        for status in [301, 302, 303, 307, 308] {
            let get = decide(Method::GET, https, status, "https://other/x");
            assert_eq!(get, Ok(Some("https://other/x".to_owned())), "{status}");
            assert_eq!(
                decide(Method::GET, https, status, "http://h/x"),
                Err(()),
                "{status} gives up TLS"
            );
            assert_eq!(
                decide(Method::GET, http, status, ""),
                Ok(None),
                "{status} without a location"
            );
            assert_eq!(
                decide(Method::GET, http, status, "ftp://h"),
                Err(()),
                "{status}"
            );
            assert_eq!(
                decide(Method::POST, http, status, "http://h:2/x"),
                Err(()),
                "{status} of another port"
            );
            let kept = if status > 303 {
                Ok(Some("http://h:1/x".to_owned()))
            } else {
                Err(())
            };
            assert_eq!(decide(Method::POST, http, status, "/x"), kept, "{status}");
        }
        for status in [200, 300, 304, 404] {
            assert_eq!(
                decide(Method::POST, http, status, "/x"),
                Ok(None),
                "{status}"
            );
        }
    }
}
