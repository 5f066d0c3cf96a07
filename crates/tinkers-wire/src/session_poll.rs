//! `retrieve_futures`: one poll for everything that a sampling session has under way.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::answer::read_json;
use crate::nulls::null_is_default;
use crate::{DecodeError, lenient};

/// `POST /retrieve_futures`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RetrieveFutures {
    /// Whose operations are asked for.
    pub target: PollTarget,
    /// The cursor of the last answer, 0 at first. What came with it or before counts as seen, and the server may forget it.
    #[serde(default, deserialize_with = "null_is_default")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<i64>"))]
    pub prev_cursor: i64,
    /// How long the server may hold the poll, in seconds: 0 for an answer at once, the server's own long poll when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<f64>,
    /// Operations that are of no more interest, in order: their results were fetched, or nobody wants them.
    #[serde(default, deserialize_with = "null_is_default")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<Vec<String>>"))]
    pub retrieved_request_ids: Vec<String>,
}

/// Whose operations are asked for: the samples of one client of a sampling session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PollTarget {
    /// The only kind of target that there is.
    #[serde(rename = "type", default, deserialize_with = "null_is_default")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<PollTargetKind>"))]
    pub kind: PollTargetKind,
    /// The sampling session.
    pub sampling_session_id: String,
    /// The client, see [`PollTarget::client_of`]; 0 is the first one.
    #[serde(default, deserialize_with = "null_is_default")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<u64>"))]
    pub cloned_sampler_id: u64,
}

/// The kinds of [`PollTarget`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PollTargetKind {
    /// Samples.
    #[default]
    SamplingSession,
}

impl PollTarget {
    /// The samples of a client of a sampling session.
    pub fn samples(sampling_session_id: impl Into<String>, cloned_sampler_id: u64) -> Self {
        Self {
            kind: PollTargetKind::SamplingSession,
            sampling_session_id: sampling_session_id.into(),
            cloned_sampler_id,
        }
    }

    /// So many numbers belong to each client of a sampling session.
    pub const NUMBERS: u64 = 1_000_000_000;

    /// The client that a sample's `seq_id` belongs to.
    pub const fn client_of(seq_id: u64) -> u64 {
        seq_id / Self::NUMBERS
    }
}

/// The answer to [`RetrieveFutures`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Completions {
    /// What has ended.
    #[serde(deserialize_with = "readable")]
    pub completions: Vec<Completion>,
    /// To be sent with the next poll. It means something to the server alone, but it only grows.
    #[serde(default = "no_cursor", deserialize_with = "cursor")]
    pub cursor: i64,
}

impl Completions {
    /// The cursor of an answer without one that can be read: below any other.
    pub const NO_CURSOR: i64 = i64::MIN;

    /// Reads an answer. A completion that cannot be read is left out, with a line in the log; see also [`Completions::NO_CURSOR`].
    ///
    /// # Errors
    /// When the body is none: no JSON object, or without its completions.
    pub fn read(body: &[u8]) -> Result<Self, DecodeError> {
        read_json(body).map_err(|error| error.quoting(body))
    }
}

fn no_cursor() -> i64 {
    Completions::NO_CURSOR
}

fn cursor<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    let value = Value::deserialize(deserializer)?;
    Ok(lenient::whole(&value).unwrap_or(Completions::NO_CURSOR))
}

fn readable<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Completion>, D::Error> {
    let all = Option::<Vec<Value>>::deserialize(deserializer)?.unwrap_or_default();
    let read = |one: &Value| {
        let completion = Completion::deserialize(one);
        completion
            .inspect_err(
                |error| tracing::debug!(%error, "left out a completion that cannot be read"),
            )
            .ok()
    };
    Ok(all.iter().filter_map(read).collect())
}

/// An operation that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Completion {
    /// How.
    #[serde(default)]
    pub state: CompletionState,
    /// Which.
    #[serde(deserialize_with = "lenient::id")]
    pub request_id: String,
    /// The size of its result in bytes, where the server knows it.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "lenient::optional_count"
    )]
    pub response_payload_uncompressed_size: Option<u64>,
}

/// How an operation ended. A server may know more ways than this version: then it is fetched like any other, and its answer
/// tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum CompletionState {
    /// Its result is there.
    Finished,
    /// It failed; what is fetched for it says why.
    Failed,
    /// In a way that this version does not know.
    #[default]
    #[serde(other)]
    Other,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_bodies_are_those_of_the_protocol() {
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
    fn a_newer_servers_answer_is_read_and_what_is_none_is_not() {
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
    fn an_unreadable_cursor_or_completion_does_not_lose_the_others() {
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
