//! Makes a failing run smaller, as long as the same promise is broken.

use crate::control::Control;
use crate::fault::Kind;
use crate::plan::{Cut, Plan};
use crate::trace::Keep;
use crate::watch::Rule;
use crate::world::{self, Ran};

/// The smallest cut found that still breaks `rule`, and its run.
pub fn shrink(seed: u64, cut: &Cut, control: Option<Control>, rule: Rule) -> (Cut, Ran) {
    let again = |cut: &Cut| {
        let ran = world::run(&Plan::new(seed, cut), control, Keep::Last);
        let is_broken = ran.violations.iter().any(|found| found.rule == rule);
        is_broken.then_some(ran)
    };
    let mut best = cut.clone();
    let mut ran = world::run(&Plan::new(seed, cut), control, Keep::Last);
    let plan = Plan::new(seed, cut);
    // What is there, so that the first steps down are no leaps in the dark.
    best.clients = best.clients.min(plan.clients.len());
    best.tasks = best.tasks.min(plan.tasks.len());
    best.steps = best.steps.min(
        plan.tasks
            .iter()
            .map(|task| task.steps.len())
            .max()
            .unwrap_or(1),
    );
    loop {
        let smaller = candidates(&best, &plan);
        let found = smaller
            .into_iter()
            .find_map(|cut| again(&cut).map(|ran| (cut, ran)));
        match found {
            Some((cut, smaller)) => (best, ran) = (cut, smaller),
            None => return (best, ran),
        }
    }
}

/// Smaller runs, the much smaller ones first.
fn candidates(cut: &Cut, plan: &Plan) -> Vec<Cut> {
    let mut all = Vec::new();
    let mut less = |change: &dyn Fn(&mut Cut)| {
        let mut smaller = cut.clone();
        change(&mut smaller);
        if smaller != *cut {
            all.push(smaller);
        }
    };
    less(&|cut| cut.clients = (cut.clients / 2).max(1));
    less(&|cut| cut.tasks = (cut.tasks / 2).max(1));
    less(&|cut| cut.steps = (cut.steps / 2).max(1));
    less(&|cut| cut.tasks = (cut.tasks - 1).max(1));
    less(&|cut| cut.steps = (cut.steps - 1).max(1));
    for kind in Kind::ALL {
        let is_there = plan.mix.0.iter().any(|(there, _)| *there == kind)
            || plan.spells.iter().any(|spell| spell.kind == kind);
        if is_there && !cut.without.contains(&kind) {
            less(&|cut| cut.without.push(kind));
        }
    }
    all
}
