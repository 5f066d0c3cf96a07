//! The matrix of what passed, for people and for programs.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use tinkers::ServerProfile;

use crate::recorder::Exchange;
use crate::verdict::Verdict;

/// What came of one check.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The check.
    pub check: &'static str,
    /// What it is about.
    pub about: &'static str,
    /// What came of it.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// How long it took.
    pub took: Duration,
    /// The last exchanges of one that failed.
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

/// What came of all.
#[derive(Debug)]
pub struct Report {
    /// One for each check, in order.
    pub rows: Vec<Row>,
    /// What the client found out about the server.
    pub profile: Option<Arc<ServerProfile>>,
}

impl Report {
    /// Whether nothing failed, and something ran.
    pub fn holds(&self) -> bool {
        !self.rows.is_empty() && self.count("FAILED") == 0
    }

    /// One line: how many passed, are not offered, failed.
    pub fn summary(&self) -> String {
        format!(
            "{} passed, {} not offered, {} failed",
            self.count("passed"),
            self.count("not offered"),
            self.count("FAILED")
        )
    }

    /// For programs.
    pub fn to_json(&self) -> Value {
        let profile = self.profile.as_ref().map(|profile| format!("{profile:?}"));
        json!({ "checks": self.rows, "server_profile": profile, "holds": self.holds() })
    }

    /// Rows of a Markdown table, `| check | verdict | why |`.
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
