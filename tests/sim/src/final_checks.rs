//! Checks invariants at the end of a run: outcomes of calls, order of operations, weights, and log
//! lines.

use std::collections::{BTreeMap, BTreeSet};

use tinkers::{RecoveredErrorCounts, Sent};

use crate::call_log::{CallId, CallOutcome, CallRecord};
use crate::invariant::{Invariant, Violation};
use crate::log_recorder::LogSummary;
use crate::monitor::Monitor;
use crate::plan::CallKind;
use crate::real_engine::RealEngine;
use crate::recording_engine::{ModelOp, ModelRecord, RecordingEngine, Weights};

/// Checks the outcomes of all calls, and the final state of the models, against the operations that
/// the engine has applied.
pub fn calls_and_models(
    calls: &[(CallId, CallRecord)],
    engine: &RecordingEngine,
) -> Vec<Violation> {
    let models = engine.models_by_id();
    let mut violations = Vec::new();
    check_completion(calls, &mut violations);
    check_outcomes(calls, &models, &mut violations);
    check_order(calls, &models, &mut violations);
    check_weights(&models, &mut violations);
    if let Some(real) = engine.real() {
        check_tensors(real, &mut violations);
    }
    violations
}

/// Checks that no log line contains the API key, and that the number of log lines about each
/// request is bounded.
pub fn log_lines(log: &LogSummary, monitor: &Monitor) -> Vec<Violation> {
    let mut violations = Vec::new();
    for line in &log.lines_with_key {
        let text = format!("logged: {line}");
        violations.push(Violation::new(Invariant::KeySecrecy, text));
    }
    for (id, lines) in &log.lines_by_request {
        let polls = monitor.polls_of(id);
        let max = 6 + 2 * u64::from((1 + polls).ilog2());
        if *lines > max {
            let text = format!("{lines} lines about {id} for {polls} polls");
            violations.push(Violation::new(Invariant::LogVolume, text));
        }
    }
    violations
}

/// Checks that each error from which a client has recovered was both logged and counted exactly
/// once. The message of every other log line of a client must be in the list of messages that
/// report no such error.
pub fn error_counters(log: &LogSummary, counts: &RecoveredErrorCounts) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (kind, counted) in counts.iter() {
        let name = kind.name();
        let logged = log.recovered_errors.get(name).copied().unwrap_or(0);
        if logged != counted {
            let text =
                format!("{logged} errors of the kind {name} were logged and {counted} counted");
            violations.push(Violation::new(Invariant::ErrorCounters, text));
        }
    }
    for line in &log.uncounted_lines {
        let text = format!("logged without a counter: {line}");
        violations.push(Violation::new(Invariant::ErrorCounters, text));
    }
    violations
}

/// Checks that each call completed exactly once, before its deadline, and with the result of its
/// own request.
fn check_completion(calls: &[(CallId, CallRecord)], violations: &mut Vec<Violation>) {
    for (call, record) in calls {
        if record.completions > 1 {
            let text = format!("call {call} completed {} times", record.completions);
            violations.push(Violation::new(Invariant::Completion, text));
        }
        if let (Some(deadline), Some((at, _))) = (record.deadline, &record.outcome)
            && *at > deadline
        {
            let (kind, delay) = (record.kind, at.since(deadline));
            let text = format!("call {call} ({kind:?}) completed {delay:?} after its deadline");
            violations.push(Violation::new(Invariant::Completion, text));
        }
        if let Some((_, CallOutcome::WrongResult(result))) = &record.outcome {
            let text = format!("call {call}: {result}");
            violations.push(Violation::new(Invariant::Outcome, text));
        }
    }
}

/// Returns the operations that the engine must apply for a call, in order.
fn requested_ops(call: CallId, record: &CallRecord) -> Vec<ModelOp> {
    let indices = |count: u8| 0..u32::from(count);
    match record.kind {
        CallKind::Forward(count) => indices(count)
            .map(|index| ModelOp::Forward(call, index))
            .collect(),
        CallKind::ForwardBackward(count) => indices(count)
            .map(|index| ModelOp::ForwardBackward(call, index))
            .collect(),
        CallKind::OptimStep => vec![ModelOp::OptimStep(call)],
        CallKind::SaveState => vec![ModelOp::SaveState(call)],
        CallKind::SaveForSampler => vec![ModelOp::SaveForSampler(call)],
        CallKind::Load => record.loaded_save.map(ModelOp::Load).into_iter().collect(),
        _ => Vec::new(),
    }
}

/// Checks that all operations of each successful call were applied. Checks that no operation was
/// applied for a call whose error says that nothing was sent.
fn check_outcomes(
    calls: &[(CallId, CallRecord)],
    models: &BTreeMap<String, ModelRecord>,
    violations: &mut Vec<Violation>,
) {
    for (call, record) in calls {
        let Some(model) = record.model.as_ref().and_then(|model| models.get(model)) else {
            continue;
        };
        // Several loads of one checkpoint look the same to the engine, so only their order is
        // checked.
        if record.kind == CallKind::Load {
            continue;
        }
        let requested = requested_ops(*call, record);
        let is_applied = |op: &&ModelOp| model.ops.contains(op);
        let (applied, all) = (requested.iter().filter(is_applied).count(), requested.len());
        match &record.outcome {
            Some((_, CallOutcome::Ok)) if applied < all => {
                let text = format!(
                    "call {call} succeeded, but {applied} of {all} operations were applied"
                );
                violations.push(Violation::new(Invariant::Outcome, text));
            }
            Some((
                _,
                CallOutcome::Failed {
                    sent: Sent::NotSent,
                    kind,
                    text,
                    ..
                },
            )) if applied > 0 => {
                let text = format!(
                    "call {call} failed with {kind:?}, not sent, but {applied} operations were applied: {text}"
                );
                violations.push(Violation::new(Invariant::Outcome, text));
            }
            _ => {}
        }
    }
}

/// Checks that the engine has applied the operations of each model in the order in which they were
/// called, and no operation more than once.
fn check_order(
    calls: &[(CallId, CallRecord)],
    models: &BTreeMap<String, ModelRecord>,
    violations: &mut Vec<Violation>,
) {
    for (id, model) in models {
        let calls_of_model = calls
            .iter()
            .filter(|(_, record)| record.model.as_ref() == Some(id));
        let mut requested = calls_of_model.flat_map(|(call, record)| requested_ops(*call, record));
        for op in &model.ops {
            if !requested.any(|requested| requested == *op) {
                let ops = &model.ops;
                let text = format!("{id} applied {op:?} twice or out of order: {ops:?}");
                violations.push(Violation::new(Invariant::Order, text));
                break;
            }
        }
    }
}

/// Checks that the simulated weights of each model (hashes) equal the weights that result if each
/// recorded operation is applied once.
fn check_weights(models: &BTreeMap<String, ModelRecord>, violations: &mut Vec<Violation>) {
    let mut saved: BTreeMap<CallId, u64> = BTreeMap::new();
    let mut remaining: Vec<(&String, &ModelRecord)> = models.iter().collect();
    // A model may load checkpoints of other models, so the loop repeats until all models have been
    // replayed.
    while !remaining.is_empty() {
        let before = remaining.len();
        remaining.retain(|(id, model)| match replay(model, &mut saved) {
            None => true,
            Some(weights) => {
                if weights != model.weights {
                    let text = format!("the weights of {id} differ from those of its operations");
                    violations.push(Violation::new(Invariant::Weights, text));
                }
                false
            }
        });
        if remaining.len() == before {
            let ids: Vec<&str> = remaining.iter().map(|(id, _)| id.as_str()).collect();
            let text = format!("{ids:?} load checkpoints that were never saved");
            violations.push(Violation::new(Invariant::Weights, text));
            return;
        }
    }
}

/// Checks the tensors of each model: weights, optimizer state and accumulated gradients. They must
/// be bitwise equal to the tensors after a replay of the applied calls without injected faults.
fn check_tensors(real: &RealEngine, violations: &mut Vec<Violation>) {
    for rejected in real.rejected() {
        let text = format!("the engine rejected {rejected}");
        violations.push(Violation::new(Invariant::Outcome, text));
    }
    let (actual, expected) = match (real.final_states(), real.replayed_states()) {
        (Ok(actual), Ok(expected)) => (actual, expected),
        (Err(error), _) | (_, Err(error)) => {
            return violations.push(Violation::new(Invariant::Weights, error));
        }
    };
    if !actual.keys().eq(expected.keys()) {
        let text = "the same calls result in different models";
        violations.push(Violation::new(Invariant::Weights, text));
    }
    for (id, state) in &actual {
        if expected.get(id) != Some(state) {
            let text = format!("the tensors of {id} differ from those of its calls");
            violations.push(Violation::new(Invariant::Weights, text));
        }
    }
}

/// Returns the simulated weights that result from the recorded operations of a model, each applied
/// once. `saved` contains the weights of checkpoints by the call that saved them, and receives the
/// checkpoints that the model saves. Returns `None` if the model loads a checkpoint that is not in
/// `saved` yet.
fn replay(model: &ModelRecord, saved: &mut BTreeMap<CallId, u64>) -> Option<Weights> {
    let mut weights = Weights::INITIAL;
    let mut saved_here = saved.clone();
    if let Some(call) = model.loaded_from {
        saved_here.get(&call)?;
        weights.apply(&ModelOp::Load(call), &saved_here);
    }
    let mut applied = BTreeSet::new();
    for op in &model.ops {
        match op {
            ModelOp::Load(call) => {
                saved_here.get(call)?;
            }
            ModelOp::SaveState(call) | ModelOp::SaveForSampler(call) => {
                saved_here.insert(*call, weights.weights);
            }
            _ if !applied.insert(op) => continue,
            _ => {}
        }
        weights.apply(op, &saved_here);
    }
    *saved = saved_here;
    Some(weights)
}

#[cfg(test)]
mod tests {
    use tinkers_core::Timestamp;

    use super::*;

    fn call(kind: CallKind) -> CallRecord {
        CallRecord {
            client: 0,
            kind,
            model: Some("m".to_owned()),
            loaded_save: None,
            called_at: Timestamp::ORIGIN,
            deadline: None,
            outcome: None,
            completions: 0,
            is_abandoned: false,
            is_awaited_late: false,
        }
    }

    fn models(ops: Vec<ModelOp>) -> BTreeMap<String, ModelRecord> {
        let mut weights = Weights::INITIAL;
        for op in &ops {
            weights.apply(op, &BTreeMap::new());
        }
        let model = ModelRecord {
            loaded_from: None,
            ops,
            weights,
        };
        BTreeMap::from([("m".to_owned(), model)])
    }

    /// Returns the invariants that the final checks find violated if the engine has applied `ops`
    /// to a model. The program has requested one forward-backward pass with two data and one
    /// optimizer step.
    fn violated(ops: Vec<ModelOp>) -> Vec<Invariant> {
        let calls = [
            (1, call(CallKind::ForwardBackward(2))),
            (2, call(CallKind::OptimStep)),
        ];
        let models = models(ops);
        let mut violations = Vec::new();
        check_order(&calls, &models, &mut violations);
        check_weights(&models, &mut violations);
        violations.iter().map(|found| found.invariant).collect()
    }

    #[test]
    fn final_checks_find_reordered_and_repeated_operations() {
        let first = ModelOp::ForwardBackward(1, 0);
        let second = ModelOp::ForwardBackward(1, 1);
        let step = ModelOp::OptimStep(2);
        assert_eq!(
            violated(vec![first.clone(), second.clone(), step.clone()]),
            []
        );
        assert_eq!(violated(vec![step.clone()]), []);
        assert_eq!(
            violated(vec![step.clone(), first.clone()]),
            [Invariant::Order]
        );
        assert_eq!(violated(vec![second, first.clone()]), [Invariant::Order]);
        assert_eq!(
            violated(vec![first, step.clone(), step]),
            [Invariant::Order, Invariant::Weights]
        );
    }
}
