//! Simplifies the plan of a failing run while the run still violates the same invariant.

use crate::control::Control;
use crate::fault::Fault;
use crate::invariant::Invariant;
use crate::plan::{Plan, PlanOptions};
use crate::simulation::{self, RunReport};
use crate::trace::KeptLines;

/// Shrinks a failing run: looks for more restrictive options with which the seed still violates
/// `invariant`. Returns the most restrictive options that it finds, and the report of their run.
pub fn shrink(
    seed: u64,
    options: &PlanOptions,
    control: Option<Control>,
    invariant: Invariant,
) -> (PlanOptions, RunReport) {
    let run = |options: &PlanOptions| {
        simulation::run(&Plan::new(seed, options), control, KeptLines::Last)
    };
    let plan = Plan::new(seed, options);
    let mut smallest = options.clone();
    let mut smallest_report = run(options);
    // Starts with the actual numbers of the plan, so that halving a number has an effect.
    smallest.clients = smallest.clients.min(plan.clients.len());
    smallest.tasks = smallest.tasks.min(plan.tasks.len());
    let steps = plan.tasks.iter().map(|task| task.steps.len());
    smallest.steps = smallest.steps.min(steps.max().unwrap_or(1));
    loop {
        let smaller = candidates(&smallest, &plan)
            .into_iter()
            .find_map(|options| {
                let report = run(&options);
                let mut violations = report.violations.iter();
                let is_violated = violations.any(|violation| violation.invariant == invariant);
                is_violated.then_some((options, report))
            });
        match smaller {
            Some(smaller) => (smallest, smallest_report) = smaller,
            None => return (smallest, smallest_report),
        }
    }
}

/// Returns options that restrict the run further than `options`. The most restrictive ones come
/// first.
fn candidates(options: &PlanOptions, plan: &Plan) -> Vec<PlanOptions> {
    let mut candidates = Vec::new();
    let mut add = |restrict: &dyn Fn(&mut PlanOptions)| {
        let mut smaller = options.clone();
        restrict(&mut smaller);
        if smaller != *options {
            candidates.push(smaller);
        }
    };
    add(&|options| options.clients = (options.clients / 2).max(1));
    add(&|options| options.tasks = (options.tasks / 2).max(1));
    add(&|options| options.steps = (options.steps / 2).max(1));
    add(&|options| options.tasks = (options.tasks - 1).max(1));
    add(&|options| options.steps = (options.steps - 1).max(1));
    for fault in Fault::ALL {
        let is_planned = plan.rates.of(fault).is_some() || plan.has_timed(fault);
        if is_planned && !options.without.contains(&fault) {
            add(&|options| options.without.push(fault));
        }
    }
    candidates
}
