//! The findings about a server, as a JSON object or as text.

use std::io;
use std::time::Duration;

use serde::Serialize;
use tinkers::wire::ClientConfig;
use tinkers::{BodyFormat, Capabilities, Deduplication, Document, ServerProfile};

use crate::layout::{labelled, normalise_whitespace};
use crate::output::Screen;

/// The results of `tinkers doctor`: what the examination of a server has shown.
#[derive(Debug, Serialize)]
pub(crate) struct Findings {
    pub(crate) server: String,
    /// The name and the version of the server software.
    pub(crate) software: Option<String>,
    /// The encoding of the bodies of forward and backward passes: `protobuf` or `json`.
    pub(crate) pass_bodies: &'static str,
    /// Whether the server has accepted the body of a forward-backward pass in the encoding that `pass_bodies` names.
    pub(crate) pass_bodies_confirmed: bool,
    /// Which operations the server applies only once if a client repeats their requests: `everything`, `passes and steps`, or
    /// `unknown`.
    pub(crate) repeats_applied_once: &'static str,
    /// Whether the server rejects requests with unknown fields. `None` if this is unknown.
    pub(crate) is_strict: Option<bool>,
    /// What was found out about the OpenAPI document of the server: `read`, `absent`, or `not asked`.
    pub(crate) openapi_document: &'static str,
    /// The routes of the API that are missing in the OpenAPI document of the server.
    pub(crate) unlisted_routes: Vec<&'static str>,
    /// The names of the base models that the server offers.
    pub(crate) models: Vec<String>,
    /// The error of the request for the base models, if it failed.
    pub(crate) models_error: Option<String>,
    /// The error of the test pass (a forward-backward pass), if it failed.
    pub(crate) pass_error: Option<String>,
    /// The median round trip time to the server in milliseconds.
    pub(crate) latency_ms: f64,
    /// How far the clock of the server is ahead of the local clock, in seconds. `None` if this is unknown.
    pub(crate) clock_ahead_seconds: Option<f64>,
    pub(crate) limits: Limits,
    /// Advice for the user, one text for each problem.
    pub(crate) advice: Vec<String>,
}

/// The limits that the server sends in its client configuration, or their defaults.
#[derive(Debug, Serialize)]
pub(crate) struct Limits {
    /// The maximum number of training examples in one request. Larger forward-backward passes are split into several requests.
    pub(crate) chunk_data: usize,
    /// The maximum estimated size of one request in bytes. Larger forward-backward passes are split into several requests.
    pub(crate) chunk_bytes: u64,
    /// Whether the client sends the requests of a split forward-backward pass concurrently.
    pub(crate) parallel_chunks: bool,
    /// Whether the client compresses forward-backward requests with zstd.
    pub(crate) zstd: bool,
    /// The maximum number of samples that the client has in flight. `None` if the client polls for all samples with a single
    /// request; then their number is not limited.
    pub(crate) samples_in_flight: Option<u32>,
    /// The time after which a session without heartbeats expires, in seconds. `None` if the server does not state it.
    pub(crate) session_expiry_seconds: Option<u64>,
}

impl Findings {
    /// Creates the findings without any advice, which is added later.
    pub(crate) fn new(
        server: String,
        profile: &ServerProfile,
        config: &ClientConfig,
        offered: anyhow::Result<Capabilities>,
        pass: Option<anyhow::Result<()>>,
        latency: Duration,
        skew: Option<f64>,
    ) -> Self {
        let (models, models_error) = match offered {
            Ok(offered) => {
                let models = offered.supported_models.into_iter();
                (models.filter_map(|model| model.model_name).collect(), None)
            }
            Err(error) => (Vec::new(), Some(error.to_string())),
        };
        Self {
            server,
            software: profile.software.clone(),
            pass_bodies: match profile.body_format {
                BodyFormat::Json => "json",
                _ => "protobuf",
            },
            pass_bodies_confirmed: profile.body_format_confirmed,
            repeats_applied_once: match profile.deduplicates {
                Deduplication::Everything => "everything",
                Deduplication::PassesAndSteps => "passes and steps",
                _ => "unknown",
            },
            is_strict: profile.is_strict,
            openapi_document: match profile.document {
                Document::Read => "read",
                Document::Absent => "absent",
                _ => "not asked",
            },
            unlisted_routes: profile.unlisted_routes(),
            models,
            models_error,
            pass_error: pass.and_then(Result::err).map(|error| error.to_string()),
            latency_ms: latency.as_secs_f64() * 1e3,
            clock_ahead_seconds: skew,
            limits: Limits {
                chunk_data: config.fwdbwd_max_chunk_len,
                chunk_bytes: config.fwdbwd_max_chunk_bytes_count,
                parallel_chunks: config.parallel_fwdbwd_chunks,
                zstd: profile.zstd_bodies,
                samples_in_flight: (!config.sample_use_retrieve_futures)
                    .then_some(config.sample_max_concurrent_requests),
                session_expiry_seconds: config.session_expiry_sec,
            },
            advice: Vec::new(),
        }
    }

    pub(crate) fn show(&self, screen: &Screen) -> io::Result<()> {
        screen.heading("Server")?;
        screen.line(labelled(&self.rows(), 2, screen.width()))?;
        screen.heading("Advice")?;
        if self.advice.is_empty() {
            return screen.line("  none");
        }
        let rows: Vec<(&str, String)> =
            self.advice.iter().map(|text| ("-", text.clone())).collect();
        screen.line(labelled(&rows, 2, screen.width()))
    }

    fn rows(&self) -> Vec<(&'static str, String)> {
        let confirmed = if self.pass_bodies_confirmed {
            "a pass was accepted"
        } else {
            "not tested; the client falls back to the other format"
        };
        let strict = match self.is_strict {
            Some(true) => "rejected",
            _ => "ignored, as far as known",
        };
        let models = match &self.models_error {
            Some(error) => format!("not known: {error}"),
            None if self.models.is_empty() => "none".to_owned(),
            None => self.models.join(", "),
        };
        let limits = &self.limits;
        let samples = match limits.samples_in_flight {
            None => "one poll for all samples of a client".to_owned(),
            Some(limit) => format!("at most {limit} samples in flight, with a poll each"),
        };
        let chunks = if limits.parallel_chunks {
            "concurrently"
        } else {
            "one after the other"
        };
        let clock = match self.clock_ahead_seconds {
            None => "not known: no date in the responses".to_owned(),
            // Dates have a resolution of one second.
            Some(ahead) if ahead.abs() < 1.0 => "same as this machine's, to the second".to_owned(),
            Some(ahead) => format!("{ahead:+.0} s relative to this machine's"),
        };
        let expiry = limits.session_expiry_seconds;
        let expiry = expiry.map_or_else(
            || "not known; the client assumes 120 s".to_owned(),
            |s| format!("{s} s"),
        );
        let rows = vec![
            ("address", self.server.clone()),
            (
                "software",
                self.software
                    .clone()
                    .unwrap_or_else(|| "not known".to_owned()),
            ),
            ("models", normalise_whitespace(&models)),
            (
                "bodies of passes",
                format!("{}, {confirmed}", self.pass_bodies),
            ),
            ("deduplication", self.repeats_applied_once.to_owned()),
            ("unknown fields", strict.to_owned()),
            ("OpenAPI document", self.openapi_document.to_owned()),
            ("unlisted routes", self.unlisted_routes.join(" ")),
            (
                "round trip",
                format!("{} (median)", round_trip(self.latency_ms)),
            ),
            ("clock", clock),
            (
                "passes",
                format!(
                    "at most {} data and {} bytes per request, sent {chunks}",
                    limits.chunk_data, limits.chunk_bytes
                ),
            ),
            ("sampling", samples),
            ("session expiry", expiry),
        ];
        let is_set = |row: &(&str, String)| !row.1.is_empty();
        rows.into_iter().filter(is_set).collect()
    }
}

/// Formats a round trip time in a suitable unit.
fn round_trip(milliseconds: f64) -> String {
    if milliseconds < 1.0 {
        return format!("{:.0} us", (milliseconds * 1e3).max(1.0));
    }
    format!("{milliseconds:.1} ms")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings() -> Findings {
        Findings {
            server: "http://h".to_owned(),
            software: None,
            pass_bodies: "json",
            pass_bodies_confirmed: false,
            repeats_applied_once: "everything",
            is_strict: None,
            openapi_document: "read",
            unlisted_routes: Vec::new(),
            models: Vec::new(),
            models_error: None,
            pass_error: None,
            latency_ms: 0.04,
            clock_ahead_seconds: Some(-0.4),
            limits: Limits {
                chunk_data: 1,
                chunk_bytes: 1,
                parallel_chunks: true,
                zstd: false,
                samples_in_flight: None,
                session_expiry_seconds: None,
            },
            advice: Vec::new(),
        }
    }

    #[test]
    fn doctor_omits_empty_rows_and_rounds_numbers() {
        let rows = findings().rows();
        assert!(rows.iter().all(|(_, text)| !text.is_empty()), "{rows:?}");
        let row = |name: &str| {
            rows.iter()
                .find(|(label, _)| *label == name)
                .map(|row| row.1.as_str())
        };
        assert_eq!(row("unlisted routes"), None);
        assert_eq!(row("clock"), Some("same as this machine's, to the second"));
        assert_eq!(row("round trip"), Some("40 us (median)"));
        assert_eq!(round_trip(12.34), "12.3 ms");
        let mut late = findings();
        late.clock_ahead_seconds = Some(-61.7);
        assert!(
            late.rows()
                .iter()
                .any(|(_, text)| text.starts_with("-62 s"))
        );
    }

    #[test]
    fn doctor_advises_to_ask_the_operator_if_listing_models_fails() {
        let mut unlisted = findings();
        unlisted.models_error = Some("no such route".to_owned());
        let [advice] = &super::super::advice::advice(&unlisted)[..] else {
            panic!("expected one advice");
        };
        assert!(
            advice.contains("(no such route). Ask its operator"),
            "{advice}"
        );
    }
}
