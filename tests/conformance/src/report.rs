//! The report of a run, as text, JSON and Markdown.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use tinkers::ServerProfile;

use crate::recorder::Exchange;
use crate::verdict::Verdict;

/// The result of one check, as a row of the report.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The name of the check.
    pub check: &'static str,
    /// The behaviour that the check expects.
    pub about: &'static str,
    /// The verdict of the check.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// The duration of the check.
    pub took: Duration,
    /// The last requests of the check and their responses. Empty unless the check failed.
    pub exchanges: Vec<Exchange>,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.took.as_secs_f64();
        let (name, check) = (self.verdict.name(), self.check);
        write!(
            f,
            "{name:<12} {check:<18} {seconds:>6.1} s  {}",
            self.verdict.why()
        )?;
        for exchange in &self.exchanges {
            write!(
                f,
                "\n    {}\n      sent      {}",
                exchange.request, exchange.sent
            )?;
            write!(
                f,
                "\n      answered  {} {}",
                exchange.answer, exchange.received
            )?;
        }
        Ok(())
    }
}

/// The report of a conformance run: the results of all checks, and the properties of the server.
#[derive(Debug)]
pub struct Report {
    /// The results of the checks in the order in which they ran.
    pub rows: Vec<Row>,
    /// The properties of the server that the client detected; `None` if no session was opened.
    pub profile: Option<Arc<ServerProfile>>,
}

impl Report {
    /// Returns whether at least one check ran and none failed.
    pub fn passed(&self) -> bool {
        !self.rows.is_empty() && self.count("FAILED") == 0
    }

    /// Returns one line with the numbers of checks that passed, were not offered, and failed.
    pub fn summary(&self) -> String {
        format!(
            "{} passed, {} not offered, {} failed",
            self.count("passed"),
            self.count("not offered"),
            self.count("FAILED")
        )
    }

    /// Returns the report as JSON.
    pub fn to_json(&self) -> Value {
        let profile = self.profile.as_ref().map(|profile| format!("{profile:?}"));
        json!({ "checks": self.rows, "server_profile": profile, "holds": self.passed() })
    }

    /// Returns a Markdown table with the columns check, verdict and reason.
    pub fn to_markdown(&self) -> String {
        let line = |row: &Row| {
            let why = row.verdict.why().replace('|', "\\|");
            format!("| {} | {} | {why} |\n", row.check, row.verdict.name())
        };
        let rows: String = self.rows.iter().map(line).collect();
        format!("| check | verdict | |\n|---|---|---|\n{rows}")
    }

    fn count(&self, verdict: &str) -> usize {
        let counted = self.rows.iter().filter(|row| row.verdict.name() == verdict);
        counted.count()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for row in &self.rows {
            writeln!(f, "{row}")?;
        }
        f.write_str(&self.summary())
    }
}
