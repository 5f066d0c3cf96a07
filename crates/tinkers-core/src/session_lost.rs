//! Detection of responses about a lost session.

use http::StatusCode;

/// Words for the objects of a session, such as models and samplers. An error message about a lost session contains at least one of these
/// words.
const NOUNS: [&str; 9] = [
    "session",
    "session_id",
    "sessions",
    "model",
    "model_id",
    "sampler",
    "sampler_id",
    "sampling_session_id",
    "sampling",
];
/// Words for other objects that may be missing: checkpoints, base models and results. An error message with one of these words is not about
/// a lost session, even if it also contains a word for an object of the session.
const OTHERS: [&str; 9] = [
    "checkpoint",
    "weights",
    "base_model",
    "base model",
    "tinker://",
    "future",
    "promise",
    "result",
    "request",
];

/// Returns whether an error response means that the session, or a model or sampler of the session, is lost: expired, unloaded, or forgotten
/// in a restart of the server. `words` is the error message of the response, which distinguishes a lost session from a missing route,
/// checkpoint or result.
pub fn says_session_lost(status: StatusCode, words: &str) -> bool {
    if !matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE) {
        return false;
    }
    let words = words.to_ascii_lowercase();
    if OTHERS.iter().any(|other| words.contains(other)) {
        return false;
    }
    // The message about a missing route contains the path, which may contain these words.
    let terms = words.split_whitespace().filter(|term| !term.contains('/'));
    let mut words = terms.flat_map(|term| term.split(|c: char| !c.is_alphanumeric() && c != '_'));
    words.any(|word| NOUNS.contains(&word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_session_is_distinguished_from_other_missing_objects() {
        let lost = [
            (404, "no session \"s\" on this server"),
            (404, "no model \"s:train:0\" on this server"),
            (404, "no sampling session \"s\" on this server"),
            (404, "Session session-1 not found"),
            (404, "Model not found"),
            (404, "Sampler not found"),
            (404, "unknown session_id"),
            (
                410,
                "session s has ended: it went too long without a heartbeat; create a new one",
            ),
            (410, "model m was unloaded"),
        ];
        for (status, words) in lost {
            let status = StatusCode::from_u16(status).unwrap();
            assert!(says_session_lost(status, words), "{words}");
        }
        let others = [
            (404, ""),
            (404, "Not Found"),
            (404, "404 page not found"),
            (404, "no route for POST /api/v1/session_heartbeat"),
            (404, "Cannot POST /api/v1/create_model"),
            (404, "Checkpoint not found: model_4d6308dd/nope"),
            (
                404,
                "no checkpoint tinker://m/weights/x; it was never saved for this model",
            ),
            (404, "no base_model \"x\" on this server; it has a model"),
            (404, "Future not found"),
            (404, "no request 7 was made to this server"),
            (
                410,
                "the result of request 7 is no longer kept; submit it again",
            ),
            (410, "the promise of this session has expired"),
            (400, "session not found"),
            (409, "model 3 was used by another session"),
        ];
        for (status, words) in others {
            let status = StatusCode::from_u16(status).unwrap();
            assert!(!says_session_lost(status, words), "{words}");
        }
    }
}
