//! Refusals of requests and their responses.

use http::StatusCode;
use http::header::{HeaderValue, WWW_AUTHENTICATE};
use serde_json::{Value, json};
use tinkers_wire::InvalidInput;

use crate::faults::Hint;
use crate::http::LazyResponse;

/// A refusal of a request: the status, the reason and further properties of the error response.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    status: StatusCode,
    detail: Value,
    form: Form,
    /// The `retry-after` hints of the error response, which say when the client may retry. Empty if it contains none.
    hints: Vec<Hint>,
    /// The value of the header `WWW-Authenticate` of the error response, if it has one.
    challenge: Option<&'static str>,
}

/// The format of the response body of a refusal.
#[derive(Debug, Clone, Copy)]
enum Form {
    /// A JSON object with the field `detail`.
    Json,
    /// Plain text, as web frameworks send it for unhandled errors.
    Text,
}

/// The `retry-after` hint of the 429 response to a request for which a queue has no room, in seconds. It is an estimate.
const FULL_QUEUE_RETRY_S: u64 = 1;

impl Refusal {
    /// Creates a refusal with this status and this reason, which the response body states.
    pub(crate) fn new(status: StatusCode, reason: impl Into<String>) -> Self {
        Self {
            status,
            detail: Value::String(reason.into()),
            form: Form::Json,
            hints: Vec::new(),
            challenge: None,
        }
    }

    /// Creates a 401 refusal of a token that has expired, was revoked or was never issued. Clients then exchange their API key for another
    /// token.
    pub(crate) fn invalid_token(reason: &str) -> Self {
        Self {
            challenge: Some("Bearer error=\"invalid_token\""),
            ..Self::new(StatusCode::UNAUTHORIZED, reason)
        }
    }

    /// Creates a 404 refusal, for a path or an id that does not exist.
    pub(crate) fn not_found(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, reason)
    }

    /// Creates a 409 refusal, for example of a sequence number that a different request has used.
    pub(crate) fn conflict(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, reason)
    }

    /// Creates a 410 refusal, for something that has ended or expired.
    pub(crate) fn gone(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, reason)
    }

    /// Creates a 429 refusal for a full queue. Its `retry-after` hint is one second, in the headers `Retry-After` and
    /// `retry-after-ms`.
    pub(crate) fn busy(reason: impl Into<String>) -> Self {
        let hints = vec![
            Hint::Seconds(FULL_QUEUE_RETRY_S),
            Hint::Milliseconds(FULL_QUEUE_RETRY_S * 1000),
        ];
        Self {
            hints,
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, reason)
        }
    }

    /// Creates a 429 refusal with this reason and this `retry-after` hint.
    pub(crate) fn limited(reason: impl Into<String>, hint: Hint) -> Self {
        Self {
            hints: vec![hint],
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, reason)
        }
    }

    /// Creates a 422 refusal of a field of the request body. `path` is the path of the field, such as `data[3].model_input`.
    pub(crate) fn field(path: &str, reason: impl Into<String>) -> Self {
        Self::at("body", path, reason)
    }

    /// Creates a 422 refusal of a query parameter.
    pub(crate) fn query(name: &str, reason: impl Into<String>) -> Self {
        Self::at("query", name, reason)
    }

    fn at(root: &str, path: &str, reason: impl Into<String>) -> Self {
        let mut loc = vec![Value::from(root)];
        loc.extend(path.split('.').flat_map(segments));
        Self {
            status: StatusCode::UNPROCESSABLE_ENTITY,
            detail: json!([{ "loc": loc, "msg": reason.into(), "type": "value_error" }]),
            form: Form::Json,
            hints: Vec::new(),
            challenge: None,
        }
    }

    /// Creates a 422 refusal whose `detail` is the list `findings`, with one entry for each invalid field. Other servers of this
    /// API use this format.
    pub(crate) fn findings(findings: Vec<Value>) -> Self {
        Self {
            detail: Value::Array(findings),
            ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, "")
        }
    }

    /// Creates a refusal whose response body is plain text instead of JSON.
    pub(crate) fn text(status: StatusCode, reason: &'static str) -> Self {
        Self {
            form: Form::Text,
            ..Self::new(status, reason)
        }
    }

    /// Creates a 422 refusal from the error of a check in the crate `tinkers-wire`. `prefix` is the path of the checked value in
    /// the request body. It is empty or ends in a dot.
    pub(crate) fn invalid(prefix: &str, error: &InvalidInput) -> Self {
        let path = format!("{prefix}{}", error.field());
        Self::field(&path, format!("expected {}", error.expected()))
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    pub(crate) fn into_response(self) -> LazyResponse {
        if let (Form::Text, Some(text)) = (self.form, self.detail.as_str()) {
            return LazyResponse::text(self.status, text);
        }
        let mut body = json!({ "detail": self.detail });
        for hint in &self.hints {
            hint.add_to_body(&mut body);
        }
        let challenge = self.challenge.map(HeaderValue::from_static);
        let challenge = challenge.map(|value| (WWW_AUTHENTICATE, value));
        let headers = self.hints.iter().filter_map(Hint::header);
        headers.chain(challenge).fold(
            LazyResponse::json(self.status, &body),
            |response, (name, value)| response.with_header(name, value),
        )
    }
}

/// Splits a part of a field path into its name and its indices. For example, `data[3]` becomes `data` and 3.
fn segments(part: &str) -> Vec<Value> {
    let mut pieces = part.split('[');
    let mut found: Vec<Value> = pieces.next().map(Value::from).into_iter().collect();
    for piece in pieces {
        let index = piece.trim_end_matches(']');
        found.push(
            index
                .parse::<u64>()
                .map_or_else(|_| Value::from(index), Value::from),
        );
    }
    found.retain(|segment| segment != "");
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_field_path_is_split_into_names_and_indices() {
        let refusal = Refusal::field("data[3].loss_fn_inputs.weights", "no");
        assert_eq!(
            refusal.detail[0]["loc"],
            json!(["body", "data", 3, "loss_fn_inputs", "weights"])
        );
        let body = refusal.into_response().encode().body;
        assert_eq!(
            tinkers_wire::error_text(&body).unwrap(),
            "data.3.loss_fn_inputs.weights: no"
        );
    }
}
