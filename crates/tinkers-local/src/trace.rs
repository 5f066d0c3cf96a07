//! The operations of a session in a trace, and the format of traces.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Value, json};
use tinkers_core::Timestamp;

/// The path of traces, followed by the secret part of the address.
pub(crate) const PATH: &str = "/traces/";

/// An operation that has ended, in a trace.
#[derive(Debug, Clone)]
pub(crate) struct Span {
    pub(crate) session: String,
    /// The id of the model or sampler.
    pub(crate) of: String,
    /// The kind of the operation, such as `forward_backward`.
    pub(crate) name: &'static str,
    pub(crate) accepted: Timestamp,
    /// The time at which the engine started the operation. `None` if it did not.
    pub(crate) started: Option<Timestamp>,
    pub(crate) ended: Timestamp,
    pub(crate) has_failed: bool,
}

/// Encodes a trace in the JSON trace event format, which Perfetto and Chrome read. Each operation is an asynchronous event that contains
/// its time in the queue and its time on the engine.
pub(crate) fn encode(spans: &[Span]) -> Bytes {
    let mut threads: BTreeMap<&str, usize> = BTreeMap::new();
    let mut events = Vec::new();
    for (number, span) in spans.iter().enumerate() {
        let next = threads.len() + 1;
        let thread = *threads.entry(&span.of).or_insert(next);
        let mut add = |phase: &str, name: &str, time: Timestamp, arguments: Value| {
            events.push(json!({
                "ph": phase,
                "cat": "operation",
                "name": name,
                "id": number,
                "pid": 1,
                "tid": thread,
                "ts": time.since_origin().as_secs_f64() * 1e6,
                "args": arguments,
            }));
        };
        let started = span.started.unwrap_or(span.ended);
        add(
            "b",
            span.name,
            span.accepted,
            json!({ "of": span.of, "failed": span.has_failed }),
        );
        add("b", "queued", span.accepted, json!({}));
        add("e", "queued", started, json!({}));
        if span.started.is_some() {
            add("b", "running", started, json!({}));
            add("e", "running", span.ended, json!({}));
        }
        add("e", span.name, span.ended, json!({}));
    }
    for (of, thread) in threads {
        events.push(json!({
            "ph": "M", "name": "thread_name", "pid": 1, "tid": thread, "args": { "name": of },
        }));
    }
    if let Some(span) = spans.first() {
        events.push(json!({
            "ph": "M", "name": "process_name", "pid": 1, "args": { "name": span.session },
        }));
    }
    tinkers_wire::to_json(&json!({ "traceEvents": events, "displayTimeUnit": "ms" }))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use super::*;

    /// Returns the time `seconds` after the origin, for tests.
    pub(crate) fn at(seconds: u64) -> Timestamp {
        Timestamp::ORIGIN.after(Duration::from_secs(seconds))
    }

    /// Returns an operation of a session that was accepted after 1 s, started after 2 s and ended after 3 s, for tests.
    pub(crate) fn span(session: &str) -> Span {
        Span {
            session: session.to_owned(),
            of: format!("{session}:train:0"),
            name: "optim_step",
            accepted: at(1),
            started: Some(at(2)),
            ended: at(3),
            has_failed: false,
        }
    }

    #[test]
    fn trace_has_the_times_of_each_operation_in_microseconds() {
        let trace: Value = serde_json::from_slice(&encode(&[span("a")])).unwrap();
        let times: Vec<(&str, &str, f64)> = trace["traceEvents"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|event| event["ph"] != "M")
            .map(|event| {
                let text = |name: &str| event[name].as_str().unwrap();
                (text("ph"), text("name"), event["ts"].as_f64().unwrap())
            })
            .collect();
        let expected = [
            ("b", "optim_step", 1e6),
            ("b", "queued", 1e6),
            ("e", "queued", 2e6),
            ("b", "running", 2e6),
            ("e", "running", 3e6),
            ("e", "optim_step", 3e6),
        ];
        assert_eq!(times, expected);
    }
}
