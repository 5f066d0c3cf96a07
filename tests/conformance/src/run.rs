//! Sequential execution of the checks.

use std::time::Duration;

use tinkers_core::Clock;

use crate::checks::{Check, Profile, checks};
use crate::context::Context;
use crate::report::{Report, Row};
use crate::verdict::{CheckError, Verdict};

/// The time limits of a conformance run.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The time limit of each check. A check that takes longer fails.
    pub check: Duration,
}

/// The time limit for unloading the models that a check has created, and for deleting its
/// checkpoints and closing its sessions.
const CLEAN_UP_TIMEOUT: Duration = Duration::from_secs(10);

impl Default for Limits {
    /// Returns a limit of three minutes per check, because a server may compile its model at the
    /// first request of each shape.
    fn default() -> Self {
        Self {
            check: Duration::from_secs(180),
        }
    }
}

/// Runs the checks of `profile` in order, and calls `on_row` with the result of each check when it
/// has ended. If `only` is not empty, runs only the checks whose names contain at least one of the
/// strings in `only`.
pub async fn run(
    context: &Context,
    time: &dyn Clock,
    profile: Profile,
    only: &[String],
    limits: Limits,
    mut on_row: impl FnMut(&Row),
) -> Report {
    let wanted = |check: &&Check| {
        let named = |part: &String| check.name.contains(part.as_str());
        profile.includes(check.profile) && (only.is_empty() || only.iter().any(named))
    };
    let mut rows = Vec::new();
    for check in checks().iter().filter(wanted) {
        let began = time.now();
        context.recorder.take();
        let work = time.deadline(began.after(limits.check), (check.run)(context));
        let findings = work.await.unwrap_or_else(|| {
            let seconds = limits.check.as_secs();
            Err(CheckError::failed(format!(
                "did not end within {seconds} s"
            )))
        });
        let mut verdict = Verdict::from(findings);
        let took = time.now().since(began);
        let exchanges = context.recorder.take();
        let until = time.now().after(CLEAN_UP_TIMEOUT);
        match time.deadline(until, context.clean_up()).await {
            Some(None) => {}
            Some(Some(left)) => verdict.add_note(&left),
            None => verdict.add_note("the checkpoints are not deleted in time"),
        }
        let row = Row {
            check: check.name,
            about: check.about,
            took,
            exchanges: match verdict {
                Verdict::Failed(_) => exchanges,
                _ => Vec::new(),
            },
            verdict,
        };
        on_row(&row);
        let unloading = context.unload_models();
        // If the server does not respond, the models stay loaded.
        time.deadline(time.now().after(CLEAN_UP_TIMEOUT), unloading)
            .await;
        rows.push(row);
    }
    let profile = context
        .service()
        .await
        .map(|service| service.server_profile());
    Report {
        rows,
        profile: profile.ok(),
    }
}
