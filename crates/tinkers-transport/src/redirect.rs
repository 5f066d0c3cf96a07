//! The redirect policy.

use http::header::LOCATION;
use http::{Method, StatusCode};
use tinkers_core::{HttpResponse, Scheme, Sent, TransportError, TransportErrorKind};

use crate::exchange::OutgoingRequest;
use crate::target::Target;

/// The maximum number of redirects that the transport follows for one request.
pub(crate) const MAX_HOPS: usize = 5;

/// Returns the target to which a response redirects, or `None` if the response is not a redirect.
///
/// `GET` and `HEAD` requests follow every redirect except one from https to http. Requests with other methods follow only redirects with
/// status 307 or 308 to the same origin, and send their body again. Following other redirects could apply a request twice, or turn it into
/// a `GET`.
///
/// # Errors
/// `Redirect` if the redirect is not followed.
pub(crate) fn next(
    outgoing: &OutgoingRequest<'_>,
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
    let here = &outgoing.target;
    let status = response.status.as_u16();
    let target = location
        .to_str()
        .ok()
        .and_then(|location| here.follow(location))
        .ok_or_else(|| {
            refused(format!(
                "a {status} redirect of {} has no valid `location`",
                here.origin().address()
            ))
        })?;
    let step = || {
        format!(
            "a {status} redirect of {} from {} to {}",
            outgoing.method,
            here.origin(),
            target.origin()
        )
    };
    if here.origin().scheme() == Scheme::Https && target.origin().scheme() == Scheme::Http {
        return Err(refused(format!(
            "{} is not followed, since it would give up TLS; use a base URL that is not redirected",
            step()
        )));
    }
    let reads = *outgoing.method == Method::GET || *outgoing.method == Method::HEAD;
    if reads || (keeps_method && target.origin() == here.origin()) {
        return Ok(Some(target));
    }
    Err(refused(format!(
        "{} is not followed; use its target as the base URL",
        step()
    )))
}

pub(crate) fn too_many(outgoing: &OutgoingRequest<'_>) -> TransportError {
    refused(format!(
        "more than {MAX_HOPS} redirects, the last to {}",
        outgoing.target.origin()
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
    use crate::target::OriginParts;
    use tinkers_core::{BaseUrl, DepartureCheck};

    fn decide(
        method: Method,
        base: &str,
        status: u16,
        location: &str,
    ) -> Result<Option<String>, ()> {
        let base = BaseUrl::parse(base).expect("valid");
        let origin_parts = OriginParts::new(base.origin().clone()).expect("valid");
        let outgoing = OutgoingRequest {
            target: Target::below(&origin_parts, base.prefix(), "/a/b".into()).expect("joins"),
            method: &method,
            headers: &HeaderMap::new(),
            is_trusted: true,
            body: &Bytes::new(),
            departure: &DepartureCheck::default(),
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
        match next(&outgoing, &response) {
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
    fn method_and_origin_decide_whether_a_redirect_is_followed() {
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
            let expected = if status > 303 {
                Ok(Some("http://h:1/x".to_owned()))
            } else {
                Err(())
            };
            assert_eq!(
                decide(Method::POST, http, status, "/x"),
                expected,
                "{status}"
            );
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
