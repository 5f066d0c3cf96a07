//! Why a request is refused, and the JSON that says so.

use http::StatusCode;
use serde_json::{Value, json};
use tinkers_wire::InvalidInput;

use crate::faults::Hint;
use crate::http::Answer;

/// A refusal with its status and reason.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    status: StatusCode,
    detail: Value,
    form: Form,
    /// When to come back.
    hints: Vec<Hint>,
}

/// How a refusal is written down.
#[derive(Debug, Clone, Copy)]
enum Form {
    /// As `detail` of a JSON body.
    Json,
    /// In plain text, as a server's outermost layer does.
    Text,
}

/// A queue that is full may have room again after so many seconds; there is no better guess without a clock.
const ROOM: u64 = 1;

impl Refusal {
    /// A refusal in words.
    pub(crate) fn new(status: StatusCode, reason: impl Into<String>) -> Self {
        Self {
            status,
            detail: Value::String(reason.into()),
            form: Form::Json,
            hints: Vec::new(),
        }
    }

    /// 404.
    pub(crate) fn not_found(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, reason)
    }

    /// 409.
    pub(crate) fn conflict(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, reason)
    }

    /// 410.
    pub(crate) fn gone(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, reason)
    }

    /// 429, with a time to come back after.
    pub(crate) fn busy(reason: impl Into<String>) -> Self {
        let hints = vec![Hint::Seconds(ROOM), Hint::Milliseconds(ROOM * 1000)];
        Self {
            hints,
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, reason)
        }
    }

    /// 429, with this hint.
    pub(crate) fn limited(reason: impl Into<String>, hint: Hint) -> Self {
        Self {
            hints: vec![hint],
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, reason)
        }
    }

    /// 422 on a field of the body, named by its way from the top such as `data[3].model_input`.
    pub(crate) fn field(way: &str, reason: impl Into<String>) -> Self {
        Self::at("body", way, reason)
    }

    /// 422 on a parameter of the query.
    pub(crate) fn query(name: &str, reason: impl Into<String>) -> Self {
        Self::at("query", name, reason)
    }

    fn at(place: &str, way: &str, reason: impl Into<String>) -> Self {
        let mut loc = vec![Value::from(place)];
        loc.extend(way.split('.').flat_map(segments));
        Self {
            status: StatusCode::UNPROCESSABLE_ENTITY,
            detail: json!([{ "loc": loc, "msg": reason.into(), "type": "value_error" }]),
            form: Form::Json,
            hints: Vec::new(),
        }
    }

    /// 422 with these findings, in the words of another server.
    pub(crate) fn findings(findings: Vec<Value>) -> Self {
        Self {
            detail: Value::Array(findings),
            ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, "")
        }
    }

    /// A refusal in plain text.
    pub(crate) fn text(status: StatusCode, reason: &'static str) -> Self {
        Self {
            form: Form::Text,
            ..Self::new(status, reason)
        }
    }

    /// 422 on what a check of the wire found, below `prefix` (which ends in a dot or is empty).
    pub(crate) fn invalid(prefix: &str, error: &InvalidInput) -> Self {
        let way = format!("{prefix}{}", error.field());
        Self::field(&way, format!("expected {}", error.expected()))
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    pub(crate) fn into_answer(self) -> Answer {
        if let (Form::Text, Some(text)) = (self.form, self.detail.as_str()) {
            return Answer::text(self.status, text);
        }
        let mut body = json!({ "detail": self.detail });
        for hint in &self.hints {
            hint.add_to_body(&mut body);
        }
        let headers = self.hints.iter().filter_map(Hint::header);
        headers.fold(Answer::json(self.status, &body), |answer, (name, value)| {
            answer.with_header(name, value)
        })
    }
}

/// `data[3]` is the name `data` and the index 3.
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
    fn the_way_to_a_field_is_taken_apart() {
        let refusal = Refusal::field("data[3].loss_fn_inputs.weights", "no");
        assert_eq!(
            refusal.detail[0]["loc"],
            json!(["body", "data", 3, "loss_fn_inputs", "weights"])
        );
        let body = refusal.into_answer().into_response().body;
        assert_eq!(
            tinkers_wire::error_text(&body).unwrap(),
            "data.3.loss_fn_inputs.weights: no"
        );
    }
}
