//! The findings about a server, as one JSON object for programs or as lines of text.

use std::io;
use std::time::Duration;

use serde::Serialize;
use tinkers::wire::ClientConfig;
use tinkers::{BodyFormat, Capabilities, Deduplication, Document, ServerProfile};

use crate::layout::{flow, labelled};
use crate::output::Screen;

/// The findings about a server.
#[derive(Debug, Serialize)]
pub(crate) struct Findings {
    pub(crate) server: String,
    /// The name and version that it reports.
    pub(crate) software: Option<String>,
    /// `protobuf` or `json`.
    pub(crate) pass_bodies: &'static str,
    /// Whether a pass was accepted in that form.
    pub(crate) pass_bodies_confirmed: bool,
    /// `everything`, `passes and steps`, or `unknown`.
    pub(crate) repeats_applied_once: &'static str,
    /// Whether it refuses unknown fields, if it says so.
    pub(crate) is_strict: Option<bool>,
    /// `read`, `absent`, or `not asked`.
    pub(crate) openapi_document: &'static str,
    /// Routes of the API that its document does not list.
    pub(crate) unlisted_routes: Vec<&'static str>,
    /// The models that it offers.
    pub(crate) models: Vec<String>,
    /// Why it does not list its models.
    pub(crate) models_error: Option<String>,
    /// The error of the pass that was tried.
    pub(crate) pass_error: Option<String>,
    /// The median of some round trips.
    pub(crate) latency_ms: f64,
    /// How far its clock is ahead of this one.
    pub(crate) clock_ahead_seconds: Option<f64>,
    pub(crate) limits: Limits,
    /// What the user can do.
    pub(crate) advice: Vec<String>,
}

/// The limits in the server's configuration, or their defaults.
#[derive(Debug, Serialize)]
pub(crate) struct Limits {
    /// Data in one request of a pass.
    pub(crate) chunk_data: usize,
    /// Estimated bytes in one.
    pub(crate) chunk_bytes: u64,
    /// Whether the requests of one pass go at once.
    pub(crate) parallel_chunks: bool,
    /// Whether they are compressed with zstd.
    pub(crate) zstd: bool,
    /// The most samples in flight; none where one poll serves all.
    pub(crate) samples_in_flight: Option<u32>,
    /// How long a session lives without a heartbeat, where the server says so.
    pub(crate) session_expiry_seconds: Option<u64>,
}

impl Findings {
    /// Findings without advice.
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
            pass_bodies: match profile.bodies {
                BodyFormat::Json => "json",
                _ => "protobuf",
            },
            pass_bodies_confirmed: profile.bodies_confirmed,
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
        screen.heading("What to do about it")?;
        if self.advice.is_empty() {
            return screen.line("  nothing");
        }
        let rows: Vec<(&str, String)> =
            self.advice.iter().map(|text| ("-", text.clone())).collect();
        screen.line(labelled(&rows, 2, screen.width()))
    }

    fn rows(&self) -> Vec<(&'static str, String)> {
        let confirmed = if self.pass_bodies_confirmed {
            "a pass was accepted"
        } else {
            "to begin with; the other where this is refused"
        };
        let strict = match self.is_strict {
            Some(true) => "refused",
            _ => "dropped, or it does not say that it refuses them",
        };
        let models = match &self.models_error {
            Some(error) => format!("it does not say: {error}"),
            None if self.models.is_empty() => "none".to_owned(),
            None => self.models.join(", "),
        };
        let limits = &self.limits;
        let samples = match limits.samples_in_flight {
            None => "one poll for all samples of a client".to_owned(),
            Some(most) => format!("at most {most} samples in flight, a poll for each"),
        };
        let chunks = if limits.parallel_chunks {
            "at once"
        } else {
            "one by one"
        };
        let clock = match self.clock_ahead_seconds {
            None => "tells no date".to_owned(),
            // The server's dates have no fractions.
            Some(ahead) if ahead.abs() < 1.0 => "as this machine's, to the second".to_owned(),
            Some(ahead) => format!("{ahead:+.0} s against this machine's"),
        };
        let expiry = limits.session_expiry_seconds;
        let expiry = expiry.map_or_else(
            || "it does not say; taken as 120 s".to_owned(),
            |s| format!("{s} s"),
        );
        let rows = vec![
            ("address", self.server.clone()),
            (
                "software",
                self.software
                    .clone()
                    .unwrap_or_else(|| "does not say".to_owned()),
            ),
            ("models", flow(&models)),
            (
                "bodies of passes",
                format!("{}, {confirmed}", self.pass_bodies),
            ),
            (
                "repeats",
                format!("applied once: {}", self.repeats_applied_once),
            ),
            ("unknown fields", strict.to_owned()),
            ("OpenAPI document", self.openapi_document.to_owned()),
            ("not in it", self.unlisted_routes.join(" ")),
            (
                "round trip",
                format!("{} (median)", round_trip(self.latency_ms)),
            ),
            ("clock", clock),
            (
                "a request of a pass",
                format!(
                    "{} data, {} bytes; those of one pass go {chunks}",
                    limits.chunk_data, limits.chunk_bytes
                ),
            ),
            ("sampling", samples),
            ("session expiry", expiry),
        ];
        let is_told = |row: &(&str, String)| !row.1.is_empty();
        rows.into_iter().filter(is_told).collect()
    }
}

/// In the unit that shows it.
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
    fn no_row_is_empty_and_no_number_a_zero_of_no_meaning() {
        let rows = findings().rows();
        assert!(rows.iter().all(|(_, text)| !text.is_empty()), "{rows:?}");
        let row = |name: &str| {
            rows.iter()
                .find(|(label, _)| *label == name)
                .map(|row| row.1.as_str())
        };
        assert_eq!(row("not in it"), None);
        assert_eq!(row("clock"), Some("as this machine's, to the second"));
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
}
