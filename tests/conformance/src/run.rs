//! Running the checks, one after the other.

use std::time::Duration;

use tinkers_core::Time;

use crate::checks::{Check, Profile, checks};
use crate::context::Context;
use crate::report::{Report, Row};
use crate::verdict::{Stop, Verdict};

/// How long checks may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// One check; a check that takes longer hangs.
    pub check: Duration,
}

/// How long the models of a check may take to be freed.
const FREEING: Duration = Duration::from_secs(10);

impl Default for Limits {
    /// Three minutes: a server may compile its model at the first request of a shape.
    fn default() -> Self {
        Self {
            check: Duration::from_secs(180),
        }
    }
}

/// Runs the checks of `profile`, and those alone whose name has one of `only` in it when there are some. `told` hears of each row
/// as it comes.
pub async fn run(
    context: &Context,
    time: &dyn Time,
    profile: Profile,
    only: &[String],
    limits: Limits,
    mut told: impl FnMut(&Row),
) -> Report {
    let wanted = |check: &&Check| {
        let named = |part: &String| check.name.contains(part.as_str());
        profile.has(check.profile) && (only.is_empty() || only.iter().any(named))
    };
    let mut rows = Vec::new();
    for check in checks().iter().filter(wanted) {
        let began = time.now();
        context.recorder.take();
        let work = time.deadline(began.after(limits.check), (check.run)(context));
        let findings = work.await.unwrap_or_else(|| {
            let seconds = limits.check.as_secs();
            Err(Stop::failed(format!("hangs: no end after {seconds} s")))
        });
        let verdict = Verdict::from(findings);
        let exchanges = context.recorder.take();
        let row = Row {
            check: check.name,
            about: check.about,
            took: time.now().since(began),
            exchanges: match verdict {
                Verdict::Failed(_) => exchanges,
                _ => Vec::new(),
            },
            verdict,
        };
        told(&row);
        let freeing = context.free_models();
        // One that does not answer keeps its models.
        time.deadline(time.now().after(FREEING), freeing).await;
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
