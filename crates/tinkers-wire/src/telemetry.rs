//! Telemetry: events that a client reports to the server.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::nulls::null_is_default;

/// `POST /telemetry`: reports events to the server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Telemetry {
    /// The events to report, each a [`TelemetryEvent`] as a JSON object. At most 100.
    #[serde(default, deserialize_with = "null_is_default")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<Vec<Value>>"))]
    pub events: Vec<Value>,
    /// The name of the operating system: `Linux`, `Darwin` or `Windows`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// The client's SDK version, see [`SDK_VERSION`](crate::SDK_VERSION).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sdk_version: Option<String>,
    /// The id of the session that the events belong to, or `sessionless-<uuid>` for events outside of a session.
    #[serde(default, deserialize_with = "null_is_default")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
    pub session_id: String,
    /// A random UUID of the process that sends the events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process_uuid: Option<String>,
}

/// The response to [`Telemetry`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TelemetryAccepted {
    /// The status of the request, always `accepted`.
    pub status: String,
}

/// One event of a session in [`Telemetry`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TelemetryEvent {
    /// The type of the event, with the fields of this type.
    #[serde(flatten)]
    pub kind: TelemetryEventKind,
    /// A random UUID of the event.
    pub event_id: String,
    /// The number of the event in its session, counted from 0.
    pub event_session_index: u64,
    /// How serious the event is.
    pub severity: TelemetrySeverity,
    /// The date of the event in UTC, in the format of RFC 3339.
    pub timestamp: String,
}

/// The type of a [`TelemetryEvent`], with its fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "SCREAMING_SNAKE_CASE")]
#[non_exhaustive]
pub enum TelemetryEventKind {
    /// A session was opened.
    SessionStart,
    /// The client has closed its session.
    SessionEnd {
        /// The time for which the session was open, in the format of Python's `timedelta`, such as `0:01:02.345678`.
        duration: String,
    },
    /// An event with a name and data of any form.
    GenericEvent {
        /// The name of the event, such as `operation_failed`.
        event_name: String,
        /// The data of the event.
        event_data: Map<String, Value>,
    },
}

/// How serious a [`TelemetryEvent`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[non_exhaustive]
pub enum TelemetrySeverity {
    /// An expected event.
    Info,
    /// An event that the user should know of.
    Warning,
    /// A failure.
    Error,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn telemetry_event_has_the_form_of_the_python_sdk() {
        let event = TelemetryEvent {
            kind: TelemetryEventKind::SessionEnd {
                duration: "0:01:02.345678".to_owned(),
            },
            event_id: "e".to_owned(),
            event_session_index: 3,
            severity: TelemetrySeverity::Info,
            timestamp: "2026-11-23T08:52:27.925306Z".to_owned(),
        };
        let expected = serde_json::json!({
            "event": "SESSION_END", "duration": "0:01:02.345678", "event_id": "e", "event_session_index": 3,
            "severity": "INFO", "timestamp": "2026-11-23T08:52:27.925306Z",
        });
        assert_eq!(serde_json::to_value(&event).unwrap(), expected);
        assert_eq!(
            serde_json::from_value::<TelemetryEvent>(expected).unwrap(),
            event
        );
    }
}
