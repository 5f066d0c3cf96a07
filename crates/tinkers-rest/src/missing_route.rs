//! Tells servers that lack a route from servers that lack an object.

use bytes::Bytes;
use http::Method;
use tinkers_core::{Error, ErrorKind};
use tinkers_wire::error_text;

/// Returns the error of a request. If the server lacks the route of the request, the kind of the error is `Unsupported`, and its message
/// names the route. A session or run that the server does not know is the object of the request, and not the session of the client, so the
/// kind is then `NotFound` instead of `SessionLost`.
pub(crate) fn classify(error: Error, method: &Method, route: &str) -> Error {
    let Some(status) = error.status() else {
        return error;
    };
    let reason = || error_text(error.body());
    if let (ErrorKind::SessionLost, Some(reason)) = (error.kind(), reason()) {
        return rewritten(&error, ErrorKind::NotFound, status, reason);
    }
    if !lacks_route(status, error.body()) {
        return error;
    }
    let message =
        format!("the server does not support this call: it has no route {method} {route}");
    rewritten(&error, ErrorKind::Unsupported, status, message)
}

/// Returns `error` with another kind and message.
fn rewritten(error: &Error, kind: ErrorKind, status: u16, message: String) -> Error {
    let body = Bytes::copy_from_slice(error.body());
    let rewritten = Error::new(kind, error.sent(), message).with_response(status, &body);
    match error.operation() {
        Some(operation) => rewritten.with_operation(operation),
        None => rewritten,
    }
}

/// Returns whether an error response means that the server lacks the route, and not that an object does not exist.
///
/// A server that knows a route explains a 404 response in the format of the API. Without the route, web frameworks respond with a fixed text
/// in this format, such as `Not Found`, or with another format.
fn lacks_route(status: u16, body: &[u8]) -> bool {
    match status {
        405 | 501 => true,
        404 => {
            let is_json = body.trim_ascii_start().starts_with(b"{");
            let Some(reason) = error_text(body).filter(|_| is_json) else {
                return true;
            };
            let reason = reason.trim().trim_end_matches('.').to_ascii_lowercase();
            reason == "not found"
                || reason == "404 page not found"
                || [
                    "no route ",
                    "no such route",
                    "unknown route",
                    "route not found",
                    "cannot get ",
                    "cannot post ",
                    "cannot put ",
                    "cannot delete ",
                ]
                .iter()
                .any(|start| reason.starts_with(start))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use tinkers_core::Sent;

    use super::*;

    #[test]
    fn missing_object_is_told_from_a_missing_route() {
        for (status, body, lacks) in [
            (
                404,
                r#"{"detail": "no training run \"a\" on this server"}"#,
                false,
            ),
            (404, r#"{"detail": "Checkpoint not found"}"#, false),
            (
                404,
                r#"{"error": {"message": "session s was not found"}}"#,
                false,
            ),
            (404, r#"{"detail": "Not Found"}"#, true),
            (404, r#"{"detail": "no route /api/v1/audit"}"#, true),
            (404, "404 page not found\n", true),
            (404, "<html>Not Found</html>", true),
            (404, "", true),
            (405, r#"{"detail": "Method Not Allowed"}"#, true),
            (501, "", true),
            (400, "", false),
            (422, r#"{"detail": "no route "}"#, false),
            (500, "", false),
        ] {
            assert_eq!(
                lacks_route(status, body.as_bytes()),
                lacks,
                "{status} {body}"
            );
        }
    }

    #[test]
    fn missing_session_is_the_object_of_the_request() {
        let body = Bytes::from_static(br#"{"detail": "no session \"s\" on this server"}"#);
        let error = Error::new(
            ErrorKind::SessionLost,
            Sent::Answered,
            "connect a new client",
        )
        .with_response(404, &body);
        let error = classify(error, &Method::GET, "/api/v1/sessions/{session_id}");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("no session \"s\""), "{error}");
        // The session of the client itself has ended.
        let lost = Error::new(
            ErrorKind::SessionLost,
            Sent::NotSent,
            "the session has ended",
        );
        assert_eq!(
            classify(lost, &Method::GET, "/").kind(),
            ErrorKind::SessionLost
        );
    }

    #[test]
    fn unsupported_error_names_the_route_and_the_method() {
        let error = Error::new(ErrorKind::NotFound, Sent::Answered, "nothing")
            .with_response(405, &Bytes::new())
            .with_operation("RestClient.f");
        let error = classify(error, &Method::PUT, "/api/v1/x/{id}");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("PUT /api/v1/x/{id}"), "{error}");
        assert_eq!(
            (error.status(), error.operation()),
            (Some(405), Some("RestClient.f"))
        );
    }
}
