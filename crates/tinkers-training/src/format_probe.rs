//! The detection of the body format that a server accepts: by its rejections, and by a probe before the first gradients are sent.

use std::time::Duration;

use tinkers_core::{
    BodyFormat, CallPolicy, ClientId, Error, ProfileUpdate, RecoveredError, Result, ServerProfile,
    SessionContext,
};
use tinkers_wire::{Datum, Loss, LossFn, PassMode};

use crate::requests::{Pass, Request};

/// Parts of the messages with which servers reject a body that they cannot decode, in lower case.
const UNREADABLE: [&str; 14] = [
    "parsing the body",
    "parse the body",
    "json",
    "utf-8",
    "unicodedecodeerror",
    "codec can't decode",
    "valid dictionary",
    "model_attributes_type",
    "validationerror",
    "validation error",
    "media type",
    "content type",
    "content-type",
    "protobuf",
];

/// The number of bytes of a response body in which the message is looked for.
const SEARCHED: usize = 4096;

/// Returns whether the body of an error response says that the server cannot decode the request body.
pub(crate) fn says_unreadable_body(body: &[u8]) -> bool {
    let start = &body[..body.len().min(SEARCHED)];
    let text = String::from_utf8_lossy(start).to_ascii_lowercase();
    UNREADABLE.iter().any(|part| text.contains(part))
}

/// The id of a model that does not exist. A forward pass of this model has no effect, and takes no sequence number of an existing model.
const NO_MODEL: &str = "tinkers-body-format-probe";

/// The time limit of one probe.
const LIMIT: Duration = Duration::from_secs(10);

/// The client on whose behalf a probe is sent.
#[derive(Debug)]
pub(crate) struct Sender<'a> {
    pub(crate) session: &'a dyn SessionContext,
    pub(crate) client: ClientId,
    pub(crate) operation: &'static str,
}

/// What the response to a probe shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finding {
    /// The server has decoded the body.
    Decoded,
    /// The server cannot decode the body.
    Undecoded,
    /// The server has failed for an unknown reason, or was not reached.
    Unclear,
}

/// Finds out which body format the server accepts, with forward passes of a model that does not exist. Adds the format to the server profile.
/// If the responses do not show the format, adds nothing.
pub(crate) async fn probe(sender: &Sender<'_>) {
    let first = find(sender, BodyFormat::Protobuf).await;
    let format = if first == Finding::Decoded {
        BodyFormat::Protobuf
    } else {
        // The text of a failure may resemble a rejection of the format, so a server that rejects JSON keeps protobuf.
        match (first, find(sender, BodyFormat::Json).await) {
            (_, Finding::Decoded) | (Finding::Undecoded, Finding::Unclear) => BodyFormat::Json,
            _ => return,
        }
    };
    sender.session.learn(ProfileUpdate::BodyFormat(format));
}

async fn find(sender: &Sender<'_>, format: BodyFormat) -> Finding {
    match send(sender, format).await {
        Ok(()) => Finding::Decoded,
        Err(error) => {
            let caller = sender.session.caller();
            let recovered_errors = &caller.recovered_errors;
            recovered_errors.record(RecoveredError::Fallback, &error);
            of_error(&error)
        }
    }
}

fn of_error(error: &Error) -> Finding {
    match error.status() {
        Some(415) => Finding::Undecoded,
        Some(400 | 422 | 500) if says_unreadable_body(error.body()) => Finding::Undecoded,
        Some(400 | 404 | 409 | 410 | 422) => {
            let words = tinkers_wire::error_text(error.body()).unwrap_or_default();
            match words.contains(NO_MODEL) || words.to_ascii_lowercase().contains("model") {
                true => Finding::Decoded,
                false => Finding::Unclear,
            }
        }
        _ => Finding::Unclear,
    }
}

async fn send(sender: &Sender<'_>, format: BodyFormat) -> Result<()> {
    let pass = Pass {
        model_id: NO_MODEL.into(),
        mode: PassMode::Forward,
        data: vec![Datum::next_token(&[1, 2], vec![1.0])?],
        loss: Loss::from(LossFn::CrossEntropy),
    };
    let profile = ServerProfile::default().with_body_format(format);
    let mut call = pass.call(1, &profile)?;
    call.policy = CallPolicy::ONCE;
    call.attempt_limit = Some(LIMIT);
    call.operation = Some(sender.operation);
    call.client = sender.client;
    sender.session.caller().call(call).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use tinkers_core::{ErrorKind, Sent};

    #[test]
    fn response_to_a_probe_shows_whether_the_body_was_decoded() {
        for (status, body, expected) in [
            (415, "", Finding::Undecoded),
            (
                400,
                r#"{"detail": "There was an error parsing the body"}"#,
                Finding::Undecoded,
            ),
            (
                422,
                r#"{"detail": [{"loc": ["body"], "msg": "Input should be a valid dictionary"}]}"#,
                Finding::Undecoded,
            ),
            (
                500,
                "Traceback: UnicodeDecodeError: 'utf-8' codec can't decode byte 0x92",
                Finding::Undecoded,
            ),
            (404, r#"{"detail": "Model not found"}"#, Finding::Decoded),
            (404, r#"{"detail": "Not Found"}"#, Finding::Unclear),
            (500, "Internal Server Error", Finding::Unclear),
            (503, r#"{"detail": "no model worker"}"#, Finding::Unclear),
        ] {
            let error = Error::new(ErrorKind::Server, Sent::Answered, "refused");
            let error = error.with_response(status, &Bytes::from_static(body.as_bytes()));
            assert_eq!(of_error(&error), expected, "{status} {body}");
        }
    }
}
