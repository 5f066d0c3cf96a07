//! `retrieve_futures`: one poll for all pending operations of a sampling session.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::names::display_name;
use crate::nulls::null_is_default;
use crate::response::read_json;
use crate::{DecodeError, lenient};

/// `POST /retrieve_futures`: asks which operations of a sampling client have completed since the previous poll.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RetrieveFutures {
    /// The sampling client whose operations the poll asks for.
    pub target: PollTarget,
    /// The value `cursor` of the previous response, initially 0. It acknowledges all completions that the server has reported up to this cursor.
    /// The server may then discard these completions.
    #[serde(default, deserialize_with = "null_is_default")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<i64>"))]
    pub prev_cursor: i64,
    /// The maximum time in seconds for which the server waits for a completion before it responds. 0 means no wait, and `None` means the
    /// server's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<f64>,
    /// The request ids of the completed operations whose results the client has fetched or no longer needs, in the order in which the operations
    /// completed.
    #[serde(default, deserialize_with = "null_is_default")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<Vec<String>>"))]
    pub retrieved_request_ids: Vec<String>,
}

/// The operations that a poll asks for: the samples of one client of a sampling session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PollTarget {
    /// The kind of operations that the poll asks for. Only one kind exists.
    #[serde(rename = "type", default, deserialize_with = "null_is_default")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<PollTargetKind>"))]
    pub kind: PollTargetKind,
    /// The id of the sampling session.
    pub sampling_session_id: String,
    /// The index of the sampling client among the clients of the sampling session, from 0. See [`PollTarget::client_of`].
    #[serde(default, deserialize_with = "null_is_default")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<u64>"))]
    pub cloned_sampler_id: u64,
}

/// The kind of a [`PollTarget`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PollTargetKind {
    /// The samples of a sampling session.
    #[default]
    SamplingSession,
}

impl PollTargetKind {
    /// Returns the name used in JSON, `sampling_session`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SamplingSession => "sampling_session",
        }
    }
}

impl PollTarget {
    /// Creates the poll target for the samples of one client of a sampling session.
    pub fn samples(sampling_session_id: impl Into<String>, cloned_sampler_id: u64) -> Self {
        Self {
            kind: PollTargetKind::SamplingSession,
            sampling_session_id: sampling_session_id.into(),
            cloned_sampler_id,
        }
    }

    /// The number of sequence numbers that each sampling client of a sampling session may use. Client 0 uses the sequence numbers below this
    /// constant, client 1 the same number of following sequence numbers, and so on.
    pub const SEQ_IDS_PER_CLIENT: u64 = 1_000_000_000;

    /// Returns the index of the sampling client to which the request with the sequence number `seq_id` belongs.
    pub const fn client_of(seq_id: u64) -> u64 {
        seq_id / Self::SEQ_IDS_PER_CLIENT
    }
}

/// The response to [`RetrieveFutures`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Completions {
    /// The operations that have finished or failed since the cursor in the request.
    #[serde(deserialize_with = "valid_completions")]
    pub completions: Vec<Completion>,
    /// The cursor to send with the next poll. The value of the cursor has no meaning to the client, except that it never decreases.
    #[serde(default = "no_cursor", deserialize_with = "cursor")]
    pub cursor: i64,
}

impl Completions {
    /// The value of `cursor` for a response without a valid cursor. This value is lower than every valid cursor.
    pub const NO_CURSOR: i64 = i64::MIN;

    /// Decodes a response. Invalid completions are skipped and logged; an invalid cursor becomes [`Completions::NO_CURSOR`].
    ///
    /// # Errors
    /// Fails if the body is not a JSON object with a list of completions.
    pub fn read(body: &[u8]) -> Result<Self, DecodeError> {
        read_json(body).map_err(|error| error.quoting(body))
    }
}

fn no_cursor() -> i64 {
    Completions::NO_CURSOR
}

fn cursor<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    let value = Value::deserialize(deserializer)?;
    Ok(lenient::as_i64(&value).unwrap_or(Completions::NO_CURSOR))
}

fn valid_completions<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<Completion>, D::Error> {
    let values = Option::<Vec<Value>>::deserialize(deserializer)?.unwrap_or_default();
    let decode = |value: &Value| {
        let completion = Completion::deserialize(value);
        completion
            .inspect_err(|error| tracing::debug!(%error, "skipped an invalid completion"))
            .ok()
    };
    Ok(values.iter().filter_map(decode).collect())
}

/// The notification that an operation has finished or failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Completion {
    /// The state in which the operation ended.
    #[serde(default)]
    pub state: CompletionState,
    /// The request id of the operation.
    #[serde(deserialize_with = "lenient::id")]
    pub request_id: String,
    /// The size of the result in bytes, if the server reports it.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "lenient::optional_count"
    )]
    pub response_payload_uncompressed_size: Option<u64>,
}

/// The state in which an operation ended. The client fetches the result in any state, since the result also contains the reason of a
/// failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum CompletionState {
    /// The result is available.
    Finished,
    /// The operation failed. Fetching the result returns the reason.
    Failed,
    /// A state that this version does not know.
    #[default]
    #[serde(other)]
    Other,
}

impl CompletionState {
    /// Returns the name used in JSON: `finished`, `failed`, or `other` for a state that this version does not know.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Failed => "failed",
            Self::Other => "other",
        }
    }
}

display_name!(CompletionState, PollTargetKind);

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn body_of_retrieve_futures_matches_the_protocol() {
        let mut poll = RetrieveFutures {
            target: PollTarget::samples("s:sample:0", 3),
            prev_cursor: 7,
            timeout: None,
            retrieved_request_ids: vec!["a".into(), "b".into()],
        };
        let target = json!({ "type": "sampling_session", "sampling_session_id": "s:sample:0", "cloned_sampler_id": 3 });
        assert_eq!(
            serde_json::to_value(&poll).unwrap(),
            json!({ "target": target, "prev_cursor": 7, "retrieved_request_ids": ["a", "b"] })
        );
        poll.timeout = Some(0.0);
        assert_eq!(serde_json::to_value(&poll).unwrap()["timeout"], 0.0);
        let read: RetrieveFutures =
            serde_json::from_value(json!({ "target": target, "prev_cursor": 7, "timeout": 0, "retrieved_request_ids": ["a", "b"] }))
                .unwrap();
        assert_eq!(read, poll);
        assert_eq!(PollTarget::client_of(3_000_000_001), 3);
    }

    #[test]
    fn completions_are_decoded_despite_unknown_fields_and_states() {
        let body = br#"{"completions": [
            {"state": "finished", "request_id": "a", "response_payload_uncompressed_size": 12, "colour": "red"},
            {"state": "failed", "request_id": "b"},
            {"state": "postponed", "request_id": "c", "response_payload_uncompressed_size": null},
            {"state": "finished", "request_id": "d", "response_payload_uncompressed_size": "large"}
        ], "cursor": 4, "more": true}"#;
        let read = Completions::read(body).unwrap();
        let seen: Vec<_> = read
            .completions
            .iter()
            .map(|one| (one.state, one.response_payload_uncompressed_size))
            .collect();
        use CompletionState as S;
        assert_eq!(
            seen,
            [
                (S::Finished, Some(12)),
                (S::Failed, None),
                (S::Other, None),
                (S::Finished, None)
            ]
        );
        assert_eq!(read.cursor, 4);
        for none in ["", "[]", "<html>", r#"{"cursor": 1}"#] {
            assert!(Completions::read(none.as_bytes()).is_err(), "{none}");
        }
    }

    #[test]
    fn invalid_completions_and_cursors_in_a_response_are_ignored() {
        let body = br#"{"completions": [{"state": "finished", "request_id": 7}, {"state": "finished"}, null,
            {"request_id": "b"}], "cursor": "later"}"#;
        let read = Completions::read(body).unwrap();
        let ids: Vec<_> = read
            .completions
            .iter()
            .map(|one| one.request_id.as_str())
            .collect();
        assert_eq!(
            (&ids[..], read.cursor),
            (&["7", "b"][..], Completions::NO_CURSOR)
        );
        for (cursor, expected) in [
            ("", Completions::NO_CURSOR),
            (r#", "cursor": null"#, Completions::NO_CURSOR),
            (r#", "cursor": 1.5"#, Completions::NO_CURSOR),
            (r#", "cursor": "12""#, 12),
            (r#", "cursor": 12.0"#, 12),
        ] {
            let body = format!(r#"{{"completions": null{cursor}}}"#);
            let read = Completions::read(body.as_bytes()).unwrap();
            assert_eq!(read.cursor, expected, "{body}");
        }
    }
}
